//! Every system call with which a command changes something fails, or is the
//! one at which the process dies. Whatever the call, the store is then as
//! before or as after the command, the command can be repeated, and nothing is
//! left over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use plywood::store::Store;

use super::machine::{CASES, Case, Home, Machine, Summary, summary, text};

/// The calls that change files or mounts. `openat` counts where it may make a
/// file.
const CALLS: [&str; 31] = [
    "openat",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
    "fallocate",
    "symlink",
    "symlinkat",
    "chmod",
    "fchmod",
    "fchmodat",
    "link",
    "linkat",
    "copy_file_range",
    "flock",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "move_mount",
    "umount2",
    "ioctl",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Error(&'static str),
}

const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Error("EIO"), Fault::Error("ENOSPC")];

/// One run: the call, which of its kind it is, and what becomes of it.
#[derive(Clone, Copy, Debug)]
struct Site {
    call: &'static str,
    ordinal: usize,
    fault: Fault,
}

/// A case with all that its runs are compared with.
struct Prepared<'a> {
    case: &'static Case,
    before: Machine<'a>,
    old: Summary,
    new: Summary,
    /// The names after `clean_up`.
    names: BTreeMap<PathBuf, usize>,
    sites: Vec<Site>,
}

/// What is done after each run, and shows whether anything was left over.
const CLEAN_UP: [&[&str]; 2] = [&["apply", "-f", "a.yaml"], &["gc"]];

impl<'a> Prepared<'a> {
    fn new(home: &'a Home, case: &'static Case) -> Self {
        let before = Machine::prepared(home, case);
        let machine = Machine::like(&before);
        let log = home.path(&format!("{}.log", case.name));
        let mut tracer = tracer(&log);
        tracer.push(format!("trace={}", CALLS.join(",")));
        let output = machine.run(&tracer, case.command);
        assert!(output.status.success(), "{}: {}", case.name, text(&output));
        let new = summary(&machine.state());
        for command in CLEAN_UP {
            machine.succeed(command, case.name);
        }
        let sites = sites(&fs::read_to_string(log).unwrap());
        Self { case, old: summary(&before.state()), new, names: machine.names(), before, sites }
    }

    /// Runs the command with one fault and checks all that was promised.
    /// Tells whether the fault came about.
    fn check(&self, site: Site) -> Reached {
        let context = format!("{}: {site:?}", self.case.name);
        let machine = Machine::like(&self.before);
        let log = machine.root.path().join("log");
        let mut tracer = tracer(&log);
        tracer.push(format!("inject={}:{}:when={}", site.call, fault(site.fault), site.ordinal));
        let output = machine.run(&tracer, self.case.command);
        let found = summary(&machine.state());
        if output.status.success() && self.case.command != ["boot"] {
            assert_eq!(found, self.new, "{context}: it says it is done");
        }
        assert!(found == self.old || found == self.new, "{context}: {found:?}");
        if let Fault::Error(_) = site.fault {
            // A panic is 101.
            let codes: &[i32] = if self.case.command == ["boot"] { &[0] } else { &[0, 1] };
            assert!(
                output.status.code().is_some_and(|code| codes.contains(&code)),
                "{context}: {}",
                text(&output)
            );
        }
        if Store::open_existing(&machine.state()).unwrap().is_some() {
            machine.succeed(&["verify"], &context);
        }
        machine.succeed(self.case.command, &context);
        assert_eq!(summary(&machine.state()), self.new, "{context}: done again");
        for command in CLEAN_UP {
            machine.succeed(command, &context);
        }
        assert_eq!(machine.names(), self.names, "{context}: left over");
        let is_reached = match site.fault {
            Fault::Kill => output.status.signal() == Some(libc::SIGKILL),
            Fault::Error(_) => fs::read_to_string(log).unwrap().contains("(INJECTED)"),
        };
        if is_reached { Reached::Yes } else { Reached::No }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Yes,
    No,
}

fn tracer(log: &Path) -> Vec<String> {
    ["strace", "--seccomp-bpf", "-f", "-qq", "-o", log.to_str().unwrap(), "-e"].map(String::from).into()
}

fn fault(fault: Fault) -> String {
    match fault {
        Fault::Kill => "signal=KILL".into(),
        Fault::Error(name) => format!("error={name}"),
    }
}

/// The calls of a trace that change something. strace counts the calls of a
/// kind in each thread by itself.
fn sites(log: &str) -> Vec<Site> {
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    let mut found = BTreeSet::new();
    for line in log.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let Some((name, arguments)) = rest.trim_start().split_once('(') else { continue };
        let Some(call) = CALLS.iter().find(|call| **call == name) else { continue };
        let count = counts.entry((thread, *call)).or_default();
        *count += 1;
        if *call != "openat" || arguments.contains("O_CREAT") {
            found.insert((*call, *count));
        }
    }
    let with_faults = |(call, ordinal)| FAULTS.map(|fault| Site { call, ordinal, fault });
    found.into_iter().flat_map(with_faults).collect()
}

#[test]
fn any_call_may_fail_or_be_the_last() {
    assert!(rustix::process::geteuid().is_root(), "boots mount filesystems: run this test as root");
    let home = Home::new();
    let prepared: Vec<_> = CASES.iter().map(|case| Prepared::new(&home, case)).collect();
    let all: Vec<_> =
        prepared.iter().flat_map(|case| case.sites.iter().map(move |site| (case, *site))).collect();
    let queue = Mutex::new(all);
    let counts = Mutex::new(BTreeMap::<_, usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((case, site)) = { queue.lock().unwrap().pop() } {
                    let reached = case.check(site);
                    *counts.lock().unwrap().entry((case.case.name, reached)).or_default() += 1;
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    for ((name, reached), count) in &counts {
        println!("{name}: reached {reached:?}: {count}");
    }
    // Which thread takes which call may differ from run to run, rarely.
    let of = |wanted| {
        counts.iter().filter(|((_, reached), _)| *reached == wanted).map(|(_, count)| count).sum::<usize>()
    };
    assert!(of(Reached::No) * 20 <= of(Reached::Yes), "{counts:?}");
}
