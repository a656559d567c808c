//! A disk that lost power at any of its flushes, or lost any of the writes
//! after the last one: the file system is whole, the store is in one of the
//! states that it went through, in their order, and can be used.
//!
//! The guest's writes are logged and replayed over a copy; the host mounts
//! what comes of it, so this test needs root and ext4 in the host's kernel.
//! `SEED` decides which writes are lost, and is printed.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use qemu_tests::blocklog::{self, Write};
use qemu_tests::random::{self, Random};
use qemu_tests::{Disk, Machine, Root};

/// Disks that lost other writes, for each flush.
const LOSSES: usize = 2;
/// The configurations that are current one after the other: none, the boot's,
/// that of `apply`, the boot's by `rollback`, that of the second `apply`.
const STATES: [u32; 5] = [0, 1, 2, 1, 3];

/// What is done with each disk on the host, in a mount namespace of its own.
const CHECK: &str = "set -e; mount -o loop,noatime \"$1\" \"$2\"; cd \"$2\"; export TMPDIR=$2
    if [ -d generations ]; then \"$3\" verify --state .; fi
    echo \"NUMBER: $(sed -n 's/^# //p' current/config.yaml 2>/dev/null)\"
    cd commands; \"$3\" apply -f after.yaml --state ..; \"$3\" gc --state ..; \"$3\" verify --state ..
    cd /; umount \"$2\"; exec e2fsck -fn \"$1\"";

struct Replay {
    /// In memory; removed in the end.
    directory: PathBuf,
    /// The last of [`STATES`] that was seen.
    reached: usize,
    checked: usize,
}

impl Replay {
    fn new() -> Self {
        let directory = PathBuf::from(format!("/dev/shm/plywood-replay-{}", std::process::id()));
        fs::create_dir_all(directory.join("mounted")).unwrap();
        Self { directory, reached: 0, checked: 0 }
    }

    fn run(&self, disk: &[u8]) -> Output {
        let file = self.directory.join("disk");
        fs::write(&file, disk).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "sh", "-c", CHECK, "sh"]);
        unshare.args([file, self.directory.join("mounted"), qemu_tests::plywood()]).output().unwrap()
    }

    /// Checks a disk and tells which of [`STATES`] it is in.
    fn check(&mut self, disk: &[u8], what: &str) -> usize {
        let output = self.run(disk);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{what}: {said}");
        let number = said.lines().find_map(|line| line.strip_prefix("NUMBER: ")).unwrap();
        let number = if number.is_empty() { 0 } else { number.parse().unwrap() };
        self.checked += 1;
        let later = STATES.iter().skip(self.reached).position(|state| *state == number);
        self.reached + later.unwrap_or_else(|| panic!("{what}: {number} after state {}", self.reached))
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

fn configuration(number: u32, source: &str) -> Vec<u8> {
    format!(
        "# {number}\nversion: v1alpha1\nmachine:\n  install:\n    extensions:\n      - image: dir:{source}\n\
         plywood: {{keepGenerations: 1}}\n"
    )
    .into_bytes()
}

/// The disk before, and what the guest wrote to it.
fn record() -> (Vec<u8>, Vec<Write>) {
    let manifest = |name: &str| format!("version: v1alpha1\nmetadata: {{name: {name}, version: \"1\"}}\n");
    let [one, two] = ["one", "two"].map(|name| manifest(name).into_bytes());
    let disk = Disk::with(
        "replay",
        "PLYWOOD",
        &[
            ("commands/go", include_bytes!("guest")),
            ("commands/2.yaml", &configuration(2, "two")),
            ("commands/3.yaml", &configuration(3, "one")),
            ("commands/after.yaml", &configuration(4, "two")),
            ("commands/one/manifest.yaml", &one),
            ("commands/one/rootfs/usr/local/share/one", &[1; 50_000]),
            ("commands/two/manifest.yaml", &two),
            ("commands/two/rootfs/usr/local/share/two", &[2; 50_000]),
        ],
    );
    let before = fs::read(disk.path()).unwrap();
    let (logged, log) = disk.logged();
    let said = Machine::new("replay")
        .config(&String::from_utf8_lossy(&configuration(1, "/run/plywood/state/commands/one")))
        .root(Root::BusyboxSquashfs)
        .disk(logged)
        .append("plywood.state=LABEL=PLYWOOD init=/bin/sh -- /run/plywood/state/commands/go")
        .boot()
        .powered_off();
    said.expect("REPLAY: done").expect_never("REPLAY: plywood*failed");
    (before, blocklog::read(&fs::read(log).unwrap()))
}

#[test]
fn the_store_is_whole_at_every_flush() {
    let seed = random::seed();
    println!("SEED={seed}");
    let (mut disk, writes) = record();
    let mut replay = Replay::new();
    let mut random = Random::new(seed);
    let mut flushes = 0;
    for epoch in writes.chunk_by(|_, next| !next.flushed_before) {
        for loss in 0..LOSSES {
            let mut lossy = disk.clone();
            epoch.iter().filter(|_| random.coin()).for_each(|write| write.apply(&mut lossy));
            replay.check(&lossy, &format!("SEED={seed}: after flush {flushes}, loss {loss}"));
        }
        epoch.iter().for_each(|write| write.apply(&mut disk));
        flushes += 1;
        replay.reached = replay.check(&disk, &format!("SEED={seed}: flush {flushes}"));
    }
    assert_eq!(replay.reached, STATES.len() - 1, "the last command was not on the disk when the power went");
    println!("{} writes, {flushes} flushes, {} disks checked", writes.len(), replay.checked);
}
