//! The power is cut at random times while a machine boots and applies: the
//! next boot runs what was applied last, whole. What was said to be applied is
//! never lost, what was being applied is there whole or not at all.
//!
//! `CUTS` is how many, `SEED` makes them the same again; both are printed.
//! `FILESYSTEM` is that of the state volume: ext4, xfs or btrfs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use qemu_tests::random::{self, Random};
use qemu_tests::{Console, Disk, Filesystem, Machine, Root, Transcript};

/// Cuts where nobody asks for another number: about two minutes.
const CUTS: u64 = 30;
/// Files in the store after `gc`: of the good generation and the current one,
/// three each; of their three extensions together a layer of three files and
/// two blobs each.
const MOST_FILES: u32 = 2 * 3 + 3 * 3 + 3 * 2;
/// Machines that run side by side.
const MACHINES: usize = 2;

const IS_INIT: &str = "plywood: plywood * is init";
const BOOTED: &str = "CUT: booted ";

const GUEST: &[u8] = include_bytes!("guest");
/// Every other configuration has the second extension.
const CONFIGURATION: &str = "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      \
    - image: dir:/run/new\n      \
    - image: dir:/run/plywood/state/cuts/other # IF-0\n\
    plywood: {bootAttempts: 100, keepGenerations: 1}\n";
/// What is asked for at boot, by the command line, now and then.
const AT_BOOT: &str = "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      \
    - image: dir:/etc/cut\n\
    plywood: {bootAttempts: 100, keepGenerations: 1}\n";

/// Numbers of the configurations that may be current: the last one that is
/// known to be there, and the last one that was begun.
#[derive(Clone, Copy, Debug)]
struct Expected {
    least: u32,
    most: u32,
}

/// When the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cut {
    /// While plywood boots what is in the store.
    Booting,
    /// While plywood boots another configuration, and commits it.
    Committing,
    /// While configurations are applied.
    Applying,
}

/// How long a machine takes here and now.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    boot: Duration,
    /// Two configurations.
    apply: Duration,
}

/// One machine from cut to cut.
struct Subject {
    name: String,
    disk: Disk,
    expected: Expected,
    pace: Pace,
    random: Random,
}

impl Subject {
    fn new(number: usize, seed: u64) -> Self {
        let name = format!("powercut-{number}");
        let files: [(&str, &[u8]); 5] = [
            ("cuts/go", GUEST),
            ("cuts/machine.yaml", CONFIGURATION.as_bytes()),
            ("cuts/new/manifest.yaml", &manifest("new")),
            ("cuts/other/manifest.yaml", &manifest("other")),
            ("cuts/other/rootfs/usr/local/share/other", &[7; 100_000]),
        ];
        let disk = match std::env::var("FILESYSTEM") {
            Ok(filesystem) => Disk::formatted(&name, "PLYWOOD", &files, Filesystem::named(&filesystem)),
            Err(_) => Disk::with(&name, "PLYWOOD", &files),
        };
        let random = Random::new(seed.wrapping_mul(2).wrapping_add(number as u64 * 2 + 1));
        Self { name, disk, expected: Expected { least: 0, most: 0 }, pace: Pace::default(), random }
    }

    /// A machine whose command line asks for configuration `at_boot`.
    fn machine(&self, at_boot: Option<u32>) -> Machine {
        let mut machine = Machine::new(&self.name).root(Root::BusyboxSquashfs).disk(self.disk.clone());
        if let Some(number) = at_boot {
            machine = machine
                .append("plywood.config=/etc/cut.yaml")
                .file("/etc/cut.yaml", 0o600, format!("# {number}\n{AT_BOOT}").as_bytes())
                .file("/etc/cut/manifest.yaml", 0o644, &manifest("boot"))
                .file("/etc/cut/rootfs/usr/local/share/cut/boot", 0o644, format!("{number}\n").as_bytes());
        }
        machine.append("plywood.state=LABEL=PLYWOOD init=/bin/sh -- /run/plywood/state/cuts/go")
    }

    /// Learns how long things take here.
    fn calibrate(&mut self) {
        let mut console = self.machine(None).boot();
        self.pace.boot = time(&mut console, IS_INIT, BOOTED);
        self.pace.apply = time(&mut console, "", "CUT: applied 2");
        self.learn(&console.power_cut());
    }

    /// Boots and cuts the power. Tells when, and what was found before.
    fn cut(&mut self) -> (Cut, Option<Found>) {
        let cut =
            [Cut::Booting, Cut::Committing, Cut::Applying, Cut::Applying][self.random.number() as usize % 4];
        let at_boot = (cut == Cut::Committing).then_some(self.expected.most + 1);
        let mut console = self.machine(at_boot).boot();
        let (sign, bound) = match cut {
            Cut::Booting | Cut::Committing => (IS_INIT, self.pace.boot),
            Cut::Applying => (BOOTED, self.pace.apply),
        };
        console.expect(sign);
        self.expected.most = at_boot.unwrap_or(self.expected.most);
        thread::sleep(self.random.below(bound));
        (cut, self.learn(&console.power_cut()))
    }

    /// Boots once more and applies.
    fn last_boot(&mut self) {
        let mut console = self.machine(None).boot();
        console.expect("CUT: kept");
        self.learn(&console.power_cut());
    }

    /// Checks what a machine said before its power was cut.
    fn learn(&mut self, said: &Transcript) -> Option<Found> {
        said.expect_never("CUT: FAILED").expect_never("Kernel panic").expect_never("the plain root, without");
        let before = self.expected;
        let found = said.after(BOOTED).first().map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let [running, "of", current, "with", number] = words[..] else { panic!("{line}") };
            let number: u32 = number.parse().unwrap();
            assert!((before.least..=before.most).contains(&number), "{}: {number} of {before:?}", self.name);
            assert!(running == current || number == 0, "{}: {line}", self.name);
            // Nothing tells whether the next one was begun meanwhile.
            self.expected = Expected { least: number, most: number + 1 };
            match number == before.least {
                true => Found::Old,
                false => Found::New,
            }
        });
        let kept = kept(said);
        assert!(kept <= MOST_FILES, "{}: {kept} files are kept", self.name);
        if let Some(number) = last(said, "CUT: applied ") {
            self.expected = Expected { least: number, most: number + 1 };
        }
        if let Some(number) = last(said, "CUT: applying ") {
            self.expected.most = self.expected.most.max(number + 1);
        }
        found
    }
}

/// What a boot found after the cut before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// The configuration that was surely applied before that cut.
    Old,
    /// One that was being applied.
    New,
}

/// The last whole number after `prefix`.
fn last(said: &Transcript, prefix: &str) -> Option<u32> {
    said.after(prefix).iter().rev().find_map(|rest| rest.parse().ok())
}

/// The most files that were kept after a `gc`.
fn kept(said: &Transcript) -> u32 {
    let rests = said.after("CUT: kept ");
    rests.iter().filter_map(|rest| rest.strip_suffix(" files")?.parse().ok()).max().unwrap_or(0)
}

/// How long it takes from one line to another.
fn time(console: &mut Console, from: &str, to: &str) -> Duration {
    console.expect(from);
    let begun = Instant::now();
    console.expect(to);
    begun.elapsed()
}

fn manifest(name: &str) -> Vec<u8> {
    format!("version: v1alpha1\nmetadata: {{name: {name}, version: \"1\"}}\n").into_bytes()
}

#[test]
fn every_cut_leaves_what_was_applied() {
    let seed = random::seed();
    let cuts = random::from_environment("CUTS").unwrap_or(CUTS);
    println!("CUTS={cuts} SEED={seed}");
    let left = AtomicU64::new(cuts);
    let tally = Mutex::new(BTreeMap::<_, usize>::new());
    thread::scope(|scope| {
        for number in 0..MACHINES {
            let (left, tally) = (&left, &tally);
            scope.spawn(move || {
                let mut subject = Subject::new(number, seed);
                subject.calibrate();
                let is_one_left = |left: u64| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_one_left).is_ok() {
                    *tally.lock().unwrap().entry(subject.cut()).or_default() += 1;
                }
                subject.last_boot();
            });
        }
    });
    for ((cut, found), count) in tally.into_inner().unwrap() {
        println!("{count} cuts while {cut:?}; found at the boot: {found:?}");
    }
}
