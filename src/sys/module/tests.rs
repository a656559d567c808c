//! Rules of loading over trees that the tests make, and the same answers from
//! modprobe(8). What the kernel does with the files is for the boot tests.

use std::io::Write;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;

const RELEASE: &str = "6.12.0-test";

/// A root with these files below it.
fn root(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path.replace("MODULES", &format!("lib/modules/{RELEASE}")));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn open(root: &TempDir, parameters: &[(&str, &str)]) -> Modules {
    Modules::open(root.path(), RELEASE, parameters).unwrap()
}

/// The files that would be inserted for `name`, `?` behind those that may fail.
fn plan(modules: &Modules, name: &str) -> String {
    let index = modules.index.as_ref().unwrap();
    let found = match modules.find(index, name) {
        Found::Modules(found) => found,
        other => return format!("{other:?}"),
    };
    let steps = found.iter().flat_map(|module| modules.plan(index, module)).map(|step| {
        let mark = if step.need == Need::Optional { "?" } else { "" };
        format!("{}{mark}", step.path.file_name().unwrap().to_str().unwrap())
    });
    steps.collect::<Vec<_>>().join(" ")
}

#[test]
fn dependencies_come_first_and_each_once() {
    for (dep, softdep, name, expected) in [
        ("k/a.ko: k/b.ko k/c.ko\nk/b.ko: k/c.ko\nk/c.ko:", "", "a", "c.ko b.ko a.ko"),
        ("a.ko: b.ko\nb.ko: c.ko\nc.ko:", "", "a", "c.ko b.ko a.ko"),
        ("a.ko: b.ko", "", "a", "b.ko a.ko"),
        ("a-b.ko.xz: c.ko.zst\nc.ko.zst:", "", "a_b", "c.ko.zst a-b.ko.xz"),
        ("a-b.ko.xz:", "", "a-b", "a-b.ko.xz"),
        ("a.ko: b.ko\nb.ko: a.ko", "", "a", "b.ko a.ko"),
        ("a.ko: a.ko", "", "a", "a.ko"),
        ("a.ko:\nb.ko:\nc.ko:", "softdep a pre: b post: c", "a", "b.ko? a.ko c.ko?"),
        ("a.ko: d.ko\nb.ko: d.ko\nd.ko:", "softdep a pre: b", "a", "d.ko b.ko? a.ko"),
        ("a.ko: d.ko\nb.ko: d.ko\nd.ko:", "softdep d post: b", "a", "d.ko b.ko? a.ko"),
        ("a.ko:\nb.ko:", "softdep a pre: b\nsoftdep b pre: a", "a", "b.ko? a.ko"),
        ("a.ko:", "softdep a pre: missing post: missing", "a", "a.ko"),
        ("a.ko:\nb.ko:", "softdep a pre: fancy-hash", "a", "b.ko? a.ko"),
        ("a.ko:", "", "missing", "Nothing"),
    ] {
        let root = root(&[
            ("MODULES/modules.dep", dep),
            ("MODULES/modules.softdep", softdep),
            ("MODULES/modules.alias", "alias fancy_hash b\n"),
        ]);
        assert_eq!(plan(&open(&root, &[]), name), expected, "{dep} {softdep}");
    }
}

#[test]
fn names_aliases_and_blacklists_are_resolved_as_modprobe_does() {
    let root = root(&[
        ("MODULES/modules.dep", "net.ko:\nfast.ko:\nslow.ko:\nbad.ko:\nneeds-bad.ko: bad.ko\n"),
        (
            "MODULES/modules.alias",
            "# comment\nalias virtio:d1v* net\nalias hash-x fast\nalias hash-x slow\nalias pci:1* bad\nalias gone g\n",
        ),
        ("MODULES/modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/lib/crc-t10.ko\n"),
        ("MODULES/modules.builtin.modinfo", "ext4.alias=fs-ext4\0ext4.license=GPL\0crc_t10.alias=crct10\0"),
        (
            "etc/modprobe.d/local.conf",
            "alias eth0 net\nalias slow fast\nalias myfs ext4\nblacklist bad\nalias dud nowhere\n",
        ),
    ]);
    for (name, expected) in [
        ("net", "net.ko"),
        ("eth0", "net.ko"),
        ("virtio:d1v2", "net.ko"),
        ("virtio:d2v2", "Nothing"),
        ("hash-x", "fast.ko slow.ko"),
        ("hash_x", "fast.ko slow.ko"),
        // An alias of the configuration comes before a module's own name.
        ("slow", "fast.ko"),
        // `blacklist` forbids the way through an alias only.
        ("pci:123", "Blacklisted"),
        ("bad", "bad.ko"),
        ("needs-bad", "bad.ko needs-bad.ko"),
        ("ext4", "Builtin"),
        ("fs-ext4", "Builtin"),
        ("crc_t10", "Builtin"),
        ("myfs", "Builtin"),
        ("dud", "Nothing"),
        ("gone", "Nothing"),
        ("", "Nothing"),
    ] {
        assert_eq!(plan(&open(&root, &[]), name), expected, "{name}");
    }
}

#[test]
fn what_is_forbidden_or_there_is_not_given_to_the_kernel() {
    // The files do not exist: whatever were opened would be an error.
    let root = root(&[
        ("MODULES/modules.dep", "a.ko: dep.ko\ndep.ko:\nsoft.ko: \nlive.ko:\nb.ko:\n"),
        ("MODULES/modules.alias", "alias x:* a\nalias y:* live\n"),
        ("MODULES/modules.builtin", "ext4.ko\n"),
        ("MODULES/modules.softdep", "softdep live pre: soft\n"),
        ("sys/module/live/initstate", "live\n"),
        ("sys/module/b/initstate", "coming\n"),
    ]);
    for (blacklist, list, name, expected) in [
        ("module_blacklist", "a", "a", Some(Loaded::Blacklisted)),
        ("module_blacklist", "a", "x:1", Some(Loaded::Blacklisted)),
        ("module_blacklist", "dep", "a", Some(Loaded::Blacklisted)),
        ("module_blacklist", "soft", "live", Some(Loaded::AlreadyLoaded)),
        ("modprobe.blacklist", "a", "x:1", Some(Loaded::Blacklisted)),
        ("modprobe.blacklist", "a", "a", None),
        ("modprobe.blacklist", "live", "y:1", Some(Loaded::Blacklisted)),
        ("quiet", "", "y:1", Some(Loaded::AlreadyLoaded)),
        // Its softdep cannot be loaded, which does not matter.
        ("quiet", "", "live", Some(Loaded::AlreadyLoaded)),
        ("quiet", "", "ext4", Some(Loaded::Builtin)),
        ("quiet", "", "b", None),
        ("quiet", "", "nothing", None),
    ] {
        let result = open(&root, &[(blacklist, list)]).load(name, "");
        assert_eq!(result.ok(), expected, "{blacklist}={list} {name}");
    }
}

#[test]
fn errors_name_what_is_missing() {
    let root = root(&[("MODULES/modules.dep", "a.ko: dep.ko\ndep.ko:\n")]);
    let directory = root.path().join("lib/modules").join(RELEASE);
    let mut modules = open(&root, &[]);
    assert_eq!(modules.directory(), Some(directory.as_path()));
    for (name, expected) in [
        ("no\x1bne", format!("no kernel module is named `no\\x1bne` in {}", directory.display())),
        ("a", format!("cannot read {}/dep.ko", directory.display())),
    ] {
        assert_eq!(modules.load(name, "").unwrap_err().to_string(), expected);
    }
    assert_eq!(modules.load_alias("pci:nothing").unwrap(), Loaded::NoModule);
    fs::remove_file(directory.join("modules.dep")).unwrap();
    let error = Modules::open(root.path(), RELEASE, &[]).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {}/modules.dep", directory.display()));
}

#[test]
fn a_kernel_without_modules_has_everything_built_in() {
    let root = root(&[("sys/devices/a/modalias", "pci:1\n")]);
    let mut modules = open(&root, &[("rd.driver.pre", "a")]);
    assert_eq!(modules.directory(), None);
    assert_eq!(modules.load("anything", "").unwrap(), Loaded::Builtin);
    assert_eq!(modules.load_alias("pci:1").unwrap(), Loaded::NoModule);
    assert!(modules.load_early().is_empty());
    assert_eq!(modules.coldplug(), 0);
}

#[test]
fn coldplug_finds_every_device_and_survives_those_without_driver() {
    let root = root(&[
        ("MODULES/modules.dep", "net.ko:\n"),
        ("MODULES/modules.alias", "alias virtio:* net\n"),
        ("sys/devices/pci0/0000:00:02/modalias", "pci:2\n"),
        ("sys/devices/pci0/0000:00:01/modalias", "pci:1\n"),
        ("sys/devices/pci0/0000:00:02/virtio0/modalias", "virtio:1\n"),
        ("sys/devices/pci0/0000:00:01/virtio1/modalias", "virtio:3\n"),
        ("sys/devices/pci0/empty/modalias", "\n"),
    ]);
    std::os::unix::fs::symlink("..", root.path().join("sys/devices/pci0/subsystem")).unwrap();
    let found = modaliases(&root.path().join("sys/devices"));
    assert_eq!(found, ["pci:1", "virtio:3", "pci:2", "virtio:1"]);
    assert_eq!(open(&root, &[]).coldplug(), 0);
    let early = open(&root, &[("rd.driver.pre", "missing,net")]).load_early();
    assert_eq!(early.len(), 2);
}

/// What a module made by [`compile`] declares: exported symbols, symbols that
/// it needs, and its `.modinfo`.
struct Source {
    name: &'static str,
    exports: &'static [&'static str],
    needs: &'static [&'static str],
    modinfo: &'static str,
}

/// Makes an object file that depmod takes for a kernel module.
fn compile(source: &Source, path: &Path) {
    let mut text = String::new();
    for symbol in source.exports {
        let section = r#"__attribute__((section("__ksymtab_strings"), used))"#;
        text += &format!(
            "{section} static const char name_{symbol}[] = \"{symbol}\";\nvoid {symbol}(void) {{}}\n"
        );
    }
    for symbol in source.needs {
        text += &format!("void {symbol}(void);\nvoid use_{symbol}(void) {{ {symbol}(); }}\n");
    }
    text += &format!(
        "__attribute__((section(\".modinfo\"), used)) static const char modinfo[] = \"{}\";\n",
        source.modinfo
    );
    let mut compiler = Command::new("cc")
        .args(["-x", "c", "-c", "-fno-pic", "-", "-o"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("this test needs a C compiler, as the build of plywood does");
    compiler.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success(), "cc: {text}");
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("this test needs {program} of kmod: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn first_of_each<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    names.into_iter().filter(|name| seen.insert(*name)).collect()
}

#[test]
fn the_order_is_modprobes() {
    let root = root(&[
        ("MODULES/modules.builtin", "kernel/fs/ext4.ko\n"),
        ("MODULES/modules.order", ""),
        ("etc/modprobe.d/x.conf", "alias local-name top\nblacklist net-b\nsoftdep top pre: late\n"),
    ]);
    let modules = root.path().join("lib/modules").join(RELEASE);
    for source in [
        Source { name: "base", exports: &["base_f"], needs: &[], modinfo: "license=GPL" },
        Source { name: "mid-a", exports: &["a_f"], needs: &["base_f"], modinfo: "alias=hash-x" },
        Source { name: "mid-b", exports: &["b_f"], needs: &["base_f", "a_f"], modinfo: "alias=hash-x" },
        Source { name: "top", exports: &[], needs: &["a_f", "b_f", "base_f"], modinfo: "license=GPL" },
        Source { name: "late", exports: &[], needs: &["base_f"], modinfo: "softdep=pre: hash-y post: net-a" },
        Source { name: "algo", exports: &[], needs: &[], modinfo: "alias=hash-y" },
        Source { name: "net-a", exports: &[], needs: &["b_f"], modinfo: "alias=pci:v0001d*sv*" },
        Source { name: "net-b", exports: &[], needs: &["b_f"], modinfo: "alias=pci:v000[12]d*sv*" },
    ] {
        fs::create_dir_all(modules.join("kernel")).unwrap();
        compile(&source, &modules.join("kernel").join(format!("{}.ko", source.name)));
    }
    let base = root.path().to_str().unwrap();
    run("depmod", &["-b", base, RELEASE]);
    let config = root.path().join("etc/modprobe.d");
    let ours = open(&root, &[]);
    for name in [
        "base",
        "mid_a",
        "mid-b",
        "top",
        "local-name",
        "late",
        "net-a",
        "net-b",
        "hash-x",
        "hash-y",
        "pci:v0001d1sv1",
        "ext4",
    ] {
        let theirs = run(
            "modprobe",
            &["--show-depends", "-d", base, "-S", RELEASE, "-C", config.to_str().unwrap(), name],
        );
        let mut files = Vec::new();
        for line in theirs.lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["insmod", path, ..] => files.push(path.rsplit('/').next().unwrap()),
                ["builtin", _] => files.push("Builtin"),
                _ => panic!("modprobe says {line}"),
            }
        }
        // modprobe names a module again where a softdep or a second module needs it.
        let plan = plan(&ours, name).replace('?', "");
        assert_eq!(first_of_each(plan.split(' ')), first_of_each(files), "{name}");
    }
}
