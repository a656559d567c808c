//! The hooks for mkinitcpio, which no Debian has: run by the shells that it
//! runs them with, on functions that say what they were asked for as its manual
//! page describes them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use qemu_tests::program::{run, scratch, source_tree};

/// mkinitcpio's functions for install hooks: each says its name and arguments.
const BUILD: &str =
    "for name in add_module add_binary add_file add_runscript add_systemd_unit add_symlink; do
    eval \"$name() { echo $name \\\"\\$@\\\"; }\"
done
. \"$0\"
build
help | head -n 1";

/// Those for hooks that run.
const RUN: &str = "err() { echo \"err: $*\"; }
launch_interactive_shell() { echo shell; }
. \"$0\"
run_latehook
echo goes on";

fn hook(path: &str, replaced: &[(&str, &Path)]) -> String {
    let file = source_tree().join("initramfs/mkinitcpio").join(path);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    replaced.iter().fold(text, |text, (place, other)| {
        assert!(text.contains(place), "{path} does not use {place}");
        text.replace(place, &other.display().to_string())
    })
}

#[test]
fn each_flavour_is_built_with_what_it_needs() {
    let directory = scratch("mkinitcpio-build");
    let etc = directory.join("etc");
    fs::create_dir_all(etc.join("images/hello")).expect("a directory");
    fs::write(directory.join("elsewhere.yaml"), "version: v1alpha1\n").expect("a file");
    symlink("../elsewhere.yaml", etc.join("config.yaml")).expect("a symlink");
    fs::write(etc.join("images/hello/.hidden file"), "x").expect("a file");
    let files = format!(
        "add_file {0}/elsewhere.yaml {0}/etc/config.yaml\nadd_file {0}/etc/images/hello/.hidden file {0}/etc/images/hello/.hidden file\n",
        directory.display()
    );
    let unit = "add_systemd_unit plywood-initramfs.service\n\
        add_symlink /usr/lib/systemd/system/initrd-root-fs.target.requires/plywood-initramfs.service \
        /usr/lib/systemd/system/plywood-initramfs.service\n";
    for (name, last) in [("plywood", "add_runscript\n"), ("sd-plywood", unit)] {
        let script = directory.join(name);
        fs::write(&script, hook(&format!("install/{name}"), &[("/etc/plywood", &etc)])).expect("a file");
        let said = run(Command::new("bash").args(["-euc", BUILD]).arg(&script));
        let (modules, rest) = said.split_at(said.find("add_binary").expect("a binary"));
        assert_eq!(modules, "add_module overlay\nadd_module squashfs\nadd_module loop\n", "{name}");
        let mut lines: Vec<_> = rest.lines().collect();
        assert_eq!(lines.pop().map(|line| line.starts_with("Assembles")), Some(true), "{name}: {said}");
        lines[1..3].sort_unstable();
        assert_eq!(lines.join("\n") + "\n", format!("add_binary /usr/bin/plywood\n{files}{last}"), "{name}");
    }
}

#[test]
fn a_failure_opens_the_shell_and_a_success_does_not() {
    let directory = scratch("mkinitcpio-run");
    let (program, script) = (directory.join("plywood"), directory.join("hook"));
    fs::write(&script, hook("hooks/plywood", &[("/usr/bin/plywood", &program)])).expect("a file");
    for (code, expected) in [
        (0, "boot --root /new_root\ngoes on\n"),
        (
            1,
            "boot --root /new_root\nerr: plywood: the root cannot be assembled; the reason is above\nshell\ngoes on\n",
        ),
    ] {
        fs::write(&program, format!("#!/bin/sh\necho \"$*\"\nexit {code}\n")).expect("a file");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        let said = run(Command::new("busybox").args(["ash", "-c", RUN]).arg(&script));
        assert_eq!(said, expected, "exit code {code}");
    }
}
