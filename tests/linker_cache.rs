//! The linker's cache with libraries of layers, compared with what ldconfig(8)
//! makes of the same merged tree, and used by a program. Needs root for
//! chroot, gcc and glibc's ldconfig, and fails without them.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::sys::linker_cache;
use tempfile::TempDir;

const LIBC: [&str; 3] = ["libc.so.6", "libm.so.6", "libz.so.1"];

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A library with this name of its own, if any.
fn library(path: PathBuf, soname: Option<&str>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let source = path.with_extension("c");
    fs::write(&source, "int answer(void) { return 42; }\n").unwrap();
    let mut command = Command::new("gcc");
    command.args(["-shared", "-fPIC", "-o"]).arg(&path).arg(&source);
    command.args(soname.map(|soname| format!("-Wl,-soname,{soname}")));
    output(&mut command);
    fs::remove_file(source).unwrap();
}

/// A Debian in small, with the libraries of the host's glibc and its cache.
fn base(root: &Path) {
    for directory in ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/local/lib", "etc/ld.so.conf.d"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for directory in ["lib", "lib64"] {
        symlink(format!("usr/{directory}"), root.join(directory)).unwrap();
    }
    for name in LIBC {
        let library = Path::new("usr/lib/x86_64-linux-gnu").join(name);
        fs::copy(Path::new("/").join(&library), root.join(library)).unwrap();
    }
    fs::copy("/lib64/ld-linux-x86-64.so.2", root.join("lib64/ld-linux-x86-64.so.2")).unwrap();
    fs::write(root.join("etc/ld.so.conf"), "include /etc/ld.so.conf.d/*.conf\n").unwrap();
    for (name, text) in [
        ("libc.conf", "# default\n/usr/local/lib\n"),
        (
            "x86_64-linux-gnu.conf",
            "/usr/local/lib/x86_64-linux-gnu\n/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n",
        ),
    ] {
        fs::write(root.join("etc/ld.so.conf.d").join(name), text).unwrap();
    }
    ldconfig(root);
}

fn ldconfig(root: &Path) {
    output(Command::new("/sbin/ldconfig").arg("-X").arg("-r").arg(root));
}

fn listing(root: &Path) -> String {
    output(Command::new("/sbin/ldconfig").arg("-p").arg("-r").arg(root))
}

fn extend(layer: &Path, base: &Path) -> Option<Vec<u8>> {
    let roots = [layer, base].map(|root| File::open(root).unwrap());
    linker_cache::extend(&roots.each_ref().map(AsFd::as_fd)).unwrap()
}

#[test]
fn the_cache_is_the_one_that_ldconfig_makes() {
    let directory = TempDir::new().unwrap();
    let [base_root, layer, merged] = ["base", "layer", "merged"].map(|name| directory.path().join(name));
    base(&base_root);
    fs::create_dir_all(&layer).unwrap();
    assert_eq!(extend(&layer, &base_root), None);

    let at = |name: &str| layer.join("usr/local/lib").join(name);
    library(at("libanswer.so.10.2"), Some("libanswer.so.10"));
    symlink("libanswer.so.10.2", at("libanswer.so.10")).unwrap();
    symlink("libanswer.so.10", at("libanswer.so")).unwrap();
    library(at("libanswer.so.9"), Some("libanswer.so.9"));
    library(at("libz.so.1"), Some("libz.so.1"));
    library(at("libplain.so"), None);
    library(at("x86_64-linux-gnu/libz.so.1"), Some("libz.so.1"));
    library(at("elsewhere/libother.so.1"), Some("libother.so.1"));
    library(at("plugin.so"), None);
    symlink("libplain.so", at("libalias.so")).unwrap();
    symlink("nowhere.so", at("libdangling.so")).unwrap();
    symlink("libloop.so", at("libloop.so")).unwrap();
    fs::create_dir(at("libdirectory.so.d")).unwrap();
    symlink("libdirectory.so.d", at("libdirectory.so")).unwrap();
    let beside = |name: &str| layer.join("usr/lib/x86_64-linux-gnu").join(name);
    library(beside("libz.so.1"), Some("libz.so.1"));
    library(beside("libbeside.so.1"), Some("libbeside.so.1"));
    fs::write(at("libtext.so"), "/* GNU ld script */\n").unwrap();
    fs::write(at("libshort.so"), b"\x7fELF").unwrap();

    for root in [&base_root, &layer] {
        output(Command::new("cp").arg("-a").arg(root.join(".")).arg(&merged).env("LC_ALL", "C"));
    }
    ldconfig(&merged);
    let expected = listing(&merged);
    fs::write(merged.join("etc/ld.so.cache"), extend(&layer, &base_root).unwrap()).unwrap();
    assert_eq!(listing(&merged), expected);

    // The linker itself finds a library there, and the extension's before the base's.
    let source = directory.path().join("program.c");
    fs::write(&source, "int answer(void);\nint main(void) { return answer() == 42 ? 0 : 1; }\n").unwrap();
    output(
        Command::new("gcc").arg("-o").arg(merged.join("program")).arg(&source).arg(at("libanswer.so.10.2")),
    );
    output(Command::new("chroot").arg(&merged).arg("/program"));
    fs::remove_file(base_root.join("etc/ld.so.cache")).unwrap();
    assert_eq!(extend(&layer, &base_root), None);
}
