//! The Debian package: installed on a Debian whose next boot has it, and
//! purged.

use std::time::Duration;

use qemu_tests::{Disk, Extension, Initramfs, Kernel, Machine, asset, says};

/// Emulated, on a machine that boots others meanwhile.
const TIME: Duration = Duration::from_secs(1500);

#[test]
fn an_installed_package_has_the_next_boot() {
    let package = asset("deb-12");
    let state = Disk::empty("package", "PLYWOOD");
    let config = "version: v1alpha1\nmachine: {install: {extensions: [{image: oci:/extensions/hello}]}}\n";
    let machine = Machine::new("package")
        .kernel(Kernel::Debian12)
        .initramfs(Initramfs::File(package.join("initrd")))
        .disk(Disk::unchanged(package.join("root.ext4")))
        .append("root=LABEL=debian rw plywood.state=LABEL=PLYWOOD systemd.show_status=1")
        .config(config)
        .layout(&Extension::new("hello"))
        .disk(state)
        .time(TIME);
    let said = machine.boot().powered_off();
    said.expect(says::SYSTEM_RUNS).expect_never(says::A_FAILED_UNIT);
    // The program of the package says so, and its unit has marked the boot as good.
    said.expect(&says::listed(0, "hello")).expect(&says::greeting("hello")).expect(says::DISTRO_END);
}

#[test]
fn a_purged_package_leaves_nothing() {
    let left = std::fs::read_to_string(asset("deb-12").join("left")).expect("the list of what is left");
    assert_eq!(left, "", "left behind");
}
