//! The harness itself: that it sees what a guest says, and that no way to
//! fail passes for success.

use std::time::Duration;

use qemu_tests::{Disk, Initramfs, Kernel, Machine, Network, Root};

const HELLO: &str = "#!/bin/busybox sh
echo hello from the guest
/bin/busybox poweroff -f
";

const ECHO: &str = "#!/bin/busybox sh
echo ready
read -r line
echo the host typed: $line
/bin/busybox poweroff -f
";

const WAIT: &str = "#!/bin/busybox sh
echo ready
/bin/busybox sleep 100000
";

const EXIT: &str = "#!/bin/busybox sh
echo PID 1 ends
";

const RESTART: &str = "#!/bin/busybox sh
/bin/busybox reboot -f
";

fn machine(name: &str, script: &'static str) -> Machine {
    Machine::new(name).initramfs(Initramfs::Script(script))
}

#[test]
fn both_kernels_boot_and_power_off() {
    for (name, kernel) in [("boots-6.1", Kernel::V6_1), ("boots-6.12", Kernel::V6_12)] {
        let mut console = machine(name, HELLO).kernel(kernel).boot();
        console.expect("Linux version 6.*cloud-amd64");
        console.expect("hello from the guest");
        console.powered_off().expect("hello*guest").expect_never("farewell");
    }
}

#[test]
fn the_console_takes_what_is_typed() {
    let mut console = machine("types", ECHO).boot();
    console.expect("ready");
    console.send("open sesame");
    console.expect("the host typed: open sesame");
    console.powered_off();
}

#[test]
fn disks_and_the_network_are_there() {
    let script = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t sysfs sys /sys
for device in /sys/bus/pci/devices/*; do /bin/busybox cat $device/vendor $device/class; done
/bin/busybox poweroff -f
";
    let console = machine("devices", script)
        .file("/dev/.keep", 0o644, b"")
        .file("/sys/.keep", 0o644, b"")
        .disk(Disk::empty("devices", "STATE"))
        .root(Root::BusyboxSquashfs)
        .network(Network::User)
        .boot();
    // PCI classes: mass storage twice, ethernet once.
    console.powered_off().expect("root=/dev/vdb").expect("0x010000").expect("0x020000");
}

#[test]
#[should_panic(expected = "waited for \"never said\", but the machine ended")]
fn a_line_that_never_comes_fails() {
    machine("never-said", HELLO).boot().expect("never said");
}

#[test]
#[should_panic(expected = "is on the console")]
fn a_line_that_must_not_come_fails() {
    machine("must-not", HELLO).boot().powered_off().expect_never("hello from the guest");
}

#[test]
#[should_panic(expected = "the kernel panicked")]
fn a_kernel_panic_is_no_success() {
    machine("panics", EXIT).boot().powered_off();
}

#[test]
#[should_panic(expected = "waited for \"reboot: Power down\", but the machine ended")]
fn a_restart_is_no_power_off() {
    machine("restarts", RESTART).boot().powered_off();
}

#[test]
fn a_restart_is_seen() {
    machine("restarts-well", RESTART).boot().restarted();
}

#[test]
#[should_panic(expected = "the time is over")]
fn a_machine_that_hangs_fails_at_its_deadline() {
    machine("hangs", WAIT).time(Duration::from_secs(12)).boot().powered_off();
}

#[test]
fn a_power_cut_ends_the_machine_at_once() {
    let mut console = machine("power-cut", WAIT).boot();
    console.expect("ready");
    console.power_cut().expect_never("reboot:");
}
