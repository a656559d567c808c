//! State volumes in trouble, and reboots that `apply` asks for: the machine
//! boots what it can prove, says why it is not more, and leaves alone what it
//! does not understand.

use std::fs;
use std::sync::OnceLock;

use qemu_tests::program::scratch;
use qemu_tests::{Disk, Extension, Filesystem, Machine, Root, Transcript, says};

const BY_LABEL: &str = "plywood.state=LABEL=PLYWOOD";
const CONFIG: &str =
    "version: v1alpha1\nmachine: {install: {extensions: [{image: oci:/extensions/operator}]}}\n";

/// An init that reboots when it is asked to, as on Ctrl-Alt-Del.
const INIT: &str = "#!/bin/sh\n\
    trap 'echo GUEST: init reboots; reboot -f' INT\n\
    guest-report &\n\
    wait\n\
    poweroff -f\n";
const REBOOTING: &str = "init=/usr/local/share/operator/init";

fn machine(name: &str) -> Machine {
    let operator = Extension::new("operator")
        .file("usr/local/bin/operator", 0o755, include_bytes!("operator"))
        .file("usr/local/share/operator/init", 0o755, INIT);
    Machine::new(name).config(CONFIG).layout(&operator).root(Root::BusyboxSquashfs)
}

/// A state volume whose generation 1 is good; generation 2 was applied to be
/// tried for 20 s, and never booted.
fn prepared() -> &'static Disk {
    static DISK: OnceLock<Disk> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = Disk::small("storage-prepared", "PLYWOOD");
        let machine = machine("storage-prepared").append(BY_LABEL).disk(disk.clone());
        machine.append("do=prepare").boot().powered_off().expect("GUEST: operator: apply ended with 0");
        disk
    })
}

/// Boots `disk` by its label, with `arguments` on the command line.
fn boot(name: &str, disk: &Disk, arguments: &str) -> Transcript {
    machine(name).append(BY_LABEL).append(arguments).disk(disk.clone()).boot().powered_off()
}

/// Leaves neither a block nor an inode of the volume free.
fn fill(disk: &Disk, name: &str) {
    let free = |what: &str| -> usize {
        let said = disk.debug("show_super_stats -h\n");
        let line = said.lines().find_map(|line| line.strip_prefix(what)).expect(what);
        line.trim().parse().expect(what)
    };
    let directory = scratch(&format!("{name}-filler"));
    let [large, block] = ["large", "block"].map(|file| directory.join(file).display().to_string());
    fs::write(&large, vec![0xa5; 4096 * (free("Free blocks:") - 8)]).expect(&large);
    fs::write(&block, [0xa5; 4096]).expect(&block);
    disk.debug(&format!("write {large} large\n"));
    let blocks = (0..free("Free blocks:")).map(|number| format!("write {block} block-{number}\n"));
    disk.debug(&blocks.collect::<String>());
    let inodes = (0..free("Free inodes:")).map(|number| format!("symlink link-{number} nowhere\n"));
    disk.debug(&inodes.collect::<String>());
    assert_eq!((free("Free blocks:"), free("Free inodes:")), (0, 0));
}

#[test]
fn a_full_volume_boots_what_is_good_and_begins_nothing_new() {
    let disk = prepared().copied("storage-full");
    fill(&disk, "storage-full");
    let new = "version: v1alpha1\nmachine: {install: {extensions: [{image: oci:/extensions/hello}]}}\n";
    let machine =
        machine("storage-full").layout(&Extension::new("hello")).file("/etc/new.yaml", 0o600, new.as_bytes());
    let machine = machine.append(BY_LABEL).append("plywood.config=/etc/new.yaml do=bless").disk(disk);
    let said = machine.boot().powered_off();
    said.expect("plywood: the configured extensions: *No space left on device");
    said.expect("plywood: generation 2: *No space left on device").expect(says::GENERATION_1_RUNS);
    said.expect("GUEST: operator: *No space left on device").expect("GUEST: operator: bless ended with 1");
    said.expect(says::REPORTED);
}

#[test]
fn a_volume_that_cannot_be_written_to_counts_nothing_and_tries_nothing() {
    let disk = prepared().copied("storage-read-only");
    let said = boot("storage-read-only", &disk.read_only(), "do=bless");
    said.expect(says::STATE_READ_ONLY).expect("plywood: generation 2: *Read-only file system");
    said.expect(says::GENERATION_1_RUNS).expect_never(says::ATTEMPT);
    said.expect("GUEST: operator: *Read-only file system").expect("GUEST: operator: bless ended with 1");
    said.expect(says::REPORTED);
}

#[test]
fn a_volume_that_cannot_be_mounted_stays_as_it_is() {
    let disk = prepared().copied("storage-broken");
    // The group descriptors.
    disk.damage(1);
    let before = fs::read(disk.path()).expect("the disk");
    let said = boot("storage-broken", &disk, "");
    said.expect(
        "plywood: the configured extensions: cannot open plywood.state=LABEL=PLYWOOD: *ext4 on /dev/vdb",
    );
    said.expect(says::PLAIN_ROOT).expect(says::NO_EXTENSIONS).expect(says::REPORTED);
    assert!(fs::read(disk.path()).expect("the disk") == before, "something was written");
}

#[test]
fn a_volume_with_errors_does_not_panic_the_kernel() {
    let disk = prepared().copied("storage-errors");
    // As `tune2fs -e panic`, and a directory that fails its check sum.
    disk.debug("set_super_value errors 3\n");
    let said = disk.debug("blocks /generations\n");
    let block = said.lines().find_map(|line| line.trim().parse().ok()).expect("a block");
    disk.damage(block);
    let said = boot("storage-errors", &disk, "");
    said.expect("plywood: the state: cannot read /run/plywood/state/generations")
        .expect_never("Kernel panic");
    said.expect(says::PLAIN_ROOT).expect(says::NO_EXTENSIONS).expect(says::REPORTED);
}

#[test]
fn of_two_volumes_with_one_label_none_is_taken() {
    let disk = prepared().copied("storage-twins");
    let twin = Disk::small("storage-twin", "PLYWOOD");
    let machine = machine("storage-twins").append(BY_LABEL).disk(disk).disk(twin);
    let said = machine.boot().powered_off();
    said.expect("plywood: *more than one block device is LABEL=PLYWOOD: /dev/vdb *, /dev/vdc ");
    said.expect(says::PLAIN_ROOT).expect(says::NO_EXTENSIONS).expect(says::REPORTED);
}

#[test]
fn a_uuid_tells_two_volumes_apart_and_a_number_pins_a_generation() {
    let disk = prepared().copied("storage-uuid");
    let twin = Disk::small("storage-uuid-twin", "PLYWOOD");
    let machine =
        machine("storage-uuid").append(&format!("plywood.state=UUID={} plywood.generation=1", disk.uuid()));
    let said = machine.disk(twin).disk(disk).boot().powered_off();
    said.expect(says::GENERATION_1_RUNS).expect_never(says::ATTEMPT).expect_never(says::PLAIN_ROOT);
}

#[test]
fn what_is_tried_and_not_blessed_in_time_is_left_by_a_reboot() {
    let disk = prepared().copied("storage-try");
    let machine = machine("storage-try").append(BY_LABEL).append(REBOOTING).append("do=expire");
    let said = machine.disk(disk.clone()).boot().restarted();
    said.expect("plywood: generation 2: attempt 1 of 1")
        .expect("GUEST: operator: *was not blessed within 20 s");
    said.expect("GUEST: init reboots");
    let said = boot("storage-tried", &disk, "");
    said.expect(says::GENERATION_1_RUNS).expect(says::GENERATION_2_IS_BAD).expect_never(says::ATTEMPT);
}

#[test]
fn apply_reboots_into_what_is_new_and_only_then() {
    let disk = prepared().copied("storage-reboot");
    let start = |name: &str, arguments: &str| {
        let machine = machine(name).append(BY_LABEL).append(REBOOTING).append(arguments);
        machine.disk(disk.clone()).boot()
    };
    let said = start("storage-reboot-1", "plywood.generation=1 do=auto").restarted();
    said.expect("GUEST: operator: generation 3 is ready").expect("GUEST: init reboots");
    let said = start("storage-reboot-2", "do=again").restarted();
    said.expect("plywood: generation 3: attempt 1 of 3").expect("GUEST: operator: apply ended with 3");
    assert_eq!(said.after("GUEST: operator: apply ended with "), ["3", "3"]);
    said.expect("GUEST: operator: generation 4 is ready");
    let said = start("storage-reboot-3", "").powered_off();
    said.expect("plywood: generation 4: attempt 1 of 3").expect("GUEST: list: 001 *two ");
}

#[test]
fn a_store_is_kept_on_other_file_systems() {
    for (name, filesystem) in [("storage-xfs", Filesystem::Xfs), ("storage-btrfs", Filesystem::Btrfs)] {
        let disk = Disk::formatted(name, "PLYWOOD", &[], filesystem);
        let said = boot(name, &disk, "do=prepare");
        said.expect("GUEST: operator: generation 1 is good").expect("GUEST: operator: apply ended with 0");
        said.expect(says::GENERATION_1_RUNS).expect_never(says::A_FAILURE);
    }
}

#[test]
fn a_file_system_that_cannot_keep_a_store_is_refused_by_name() {
    let disk = Disk::formatted("storage-vfat", "PLYWOOD", &[], Filesystem::Vfat);
    let said = boot("storage-vfat", &disk, "");
    said.expect(
        "plywood: *plywood.state=LABEL=PLYWOOD: /dev/vdb is vfat, which has no owners and no symlinks",
    );
    said.expect(says::PLAIN_ROOT).expect(says::NO_EXTENSIONS);
}
