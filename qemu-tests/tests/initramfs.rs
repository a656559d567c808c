//! `initramfs/build`: the same inputs give the same bytes, and what would
//! make an initramfs that cannot boot is refused by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BUSYBOX: &str = "/bin/busybox";

fn source_tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the source tree")
}

fn scratch(name: &str) -> PathBuf {
    let dir = source_tree().join("build/qemu").join(name);
    fs::create_dir_all(&dir).expect("a directory below build");
    dir
}

/// Runs it with a static program in the place of plywood.
fn build(plywood: &str, out: &Path, options: &[&str]) -> Output {
    Command::new(source_tree().join("initramfs/build"))
        .args(["--plywood", plywood, "--output"])
        .arg(out)
        .args(options)
        .output()
        .expect("initramfs/build can be run")
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let dir = scratch("reproducible");
    let config = dir.join("config.yaml");
    fs::write(&config, "version: v1alpha1\n").expect("config.yaml");
    let images = ["a", "b"].map(|name| {
        let out = dir.join(name);
        let options = ["--no-modules", "--shell", BUSYBOX, "--config", config.to_str().expect("UTF-8")];
        let built = build(BUSYBOX, &out, &options);
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        // Directories get a new time, which must not show.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        fs::read(&out).expect("the initramfs")
    });
    assert!(images[0] == images[1], "the two differ; see {}", dir.display());
}

#[test]
fn what_cannot_boot_is_refused() {
    let out = scratch("refused").join("out");
    for (plywood, options, expected) in [
        ("/bin/sh", &["--no-modules"][..], "/bin/sh is not a static program"),
        ("/nowhere", &["--no-modules"], "no such file: /nowhere"),
        (BUSYBOX, &[], "--kernel-release is missing"),
        (BUSYBOX, &["--kernel-release", "1.0-none"], "no kernel 1.0-none there"),
        (BUSYBOX, &["--no-modules", "--compress", "rar"], "not rar"),
        (BUSYBOX, &["--no-modules", "--add", "/etc/passwd"], "--add wants SRC:DEST"),
        (BUSYBOX, &["--no-modules", "--add", "/nowhere:/x"], "no such file: /nowhere"),
        (BUSYBOX, &["--frobnicate", "x"], "unknown option --frobnicate"),
    ] {
        let refused = build(plywood, &out, options);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{options:?} was accepted");
        assert!(stderr.contains(expected), "{options:?}: {stderr}");
        assert!(!out.exists(), "{options:?} left a file");
    }
}
