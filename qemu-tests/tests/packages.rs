//! The Debian package: installed on a Debian whose next boot has it, and
//! purged.

use std::path::PathBuf;
use std::time::Duration;

use qemu_tests::program::{SYSTEMD_ANALYZE, scratch, source_tree};
use qemu_tests::{Disk, Extension, Initramfs, Kernel, Machine, asset, says};

/// Emulated, on a machine that boots others meanwhile.
const TIME: Duration = Duration::from_secs(1500);

/// Boots with one of the initramfs that the installed package made.
fn boot(name: &str, initramfs: &str) {
    let package = asset("deb-12");
    let state = Disk::empty(name, "PLYWOOD");
    let config = "version: v1alpha1\nmachine: {install: {extensions: [{image: oci:/extensions/hello}]}}\n";
    let machine = Machine::new(name)
        .kernel(Kernel::Debian12)
        .initramfs(Initramfs::File(package.join(initramfs)))
        .disk(Disk::unchanged(package.join("root.ext4")))
        .append("root=LABEL=debian rw plywood.state=LABEL=PLYWOOD systemd.show_status=1")
        .config(config)
        .layout(&Extension::new("hello"))
        .disk(state.clone())
        .time(TIME);
    let said = machine.boot().powered_off();
    said.expect(says::SYSTEM_RUNS).expect_never(says::A_FAILED_UNIT);
    // The program of the package says so, and its unit has marked the boot as good.
    said.expect(&says::listed(0, "hello"))
        .expect(&says::greeting("hello"))
        .expect("generation 1: attempt 1 of 3")
        .expect("GUEST: status: 1 *good *0/3 ");
    said.expect(says::DISTRO_END).expect(says::UNMOUNTED).expect(says::DETACHED);
    state.assert_clean();
}

#[test]
fn an_installed_package_has_the_next_boot() {
    boot("package", "initrd");
}

#[test]
#[ignore = "takes long; make matrix runs it"]
fn dracut_has_the_package_too() {
    boot("package-dracut", "dracut");
}

/// What systemd thinks of the units, with this program in the place of the
/// installed one.
#[test]
fn units_are_right() {
    let dir = scratch("units");
    let plywood = qemu_tests::plywood();
    for entry in std::fs::read_dir(source_tree().join("systemd")).expect("the units").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a unit");
        assert!(text.contains("/usr/bin/plywood "), "{} does not run plywood", entry.path().display());
        let text = text.replace("/usr/bin/plywood", &plywood.display().to_string());
        std::fs::write(dir.join(entry.file_name()), text).expect("a unit is written");
    }
    let units: Vec<_> =
        std::fs::read_dir(&dir).expect("the units").flatten().map(|unit| unit.path()).collect();
    assert_eq!(units.len(), 2);
    let verify = |units: &[PathBuf]| {
        let mut command = SYSTEMD_ANALYZE.command();
        command.args(["verify", "--man=no", "--recursive-errors=no"]).args(units);
        let output = command.output().expect("systemd-analyze can be run");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(verify(&units), (true, String::new()));
    // A mistake is found.
    let wrong = dir.join("wrong.service");
    std::fs::write(&wrong, "[Unit]\nAftr=local-fs.target\n[Service]\nExecStart=/nowhere\n").expect("a unit");
    assert_ne!(verify(&[wrong]), (true, String::new()));
}

#[test]
fn a_purged_package_leaves_nothing() {
    let left = std::fs::read_to_string(asset("deb-12").join("left")).expect("the list of what is left");
    assert_eq!(left, "", "left behind");
    let kept = std::fs::read_to_string(asset("deb-12").join("kept")).expect("the list of what is kept");
    assert!(kept.contains("/var/lib/plywood/lock"), "removed below the running root: {kept}");
}
