//! Every system call with which a command changes something fails, or is the
//! one at which the process dies. Whatever the call, the store is then as
//! before or as after the command, the command can be repeated, and nothing is
//! left over. Needs root, strace, unshare and a static busybox (`make deps`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use plywood::store::Store;
use tempfile::TempDir;

const PLYWOOD: &str = env!("CARGO_BIN_EXE_plywood");
/// Memory, where syncing costs nothing: a run is the calls that it makes.
const MEMORY: &str = "/dev/shm";
/// A program that starts without another one's help.
const INIT: &str = "/bin/busybox";
/// Where the root of a booting machine has its store.
const ON_ROOT: &str = "var/lib/plywood";

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

/// What runs under faults, and on what.
struct Case {
    name: &'static str,
    /// Commands that make the state before.
    before: &'static [&'static [&'static str]],
    command: &'static [&'static str],
}

const GOOD_THEN_ANOTHER: &[&[&str]] =
    &[&["apply", "-f", "a.yaml"], &["bless", "1"], &["apply", "-f", "ab.yaml"]];

const CASES: [Case; 6] = [
    Case { name: "first apply", before: &[], command: &["apply", "-f", "a.yaml"] },
    Case { name: "apply", before: GOOD_THEN_ANOTHER, command: &["apply", "-f", "c.yaml"] },
    Case { name: "rollback", before: GOOD_THEN_ANOTHER, command: &["rollback", "1"] },
    Case { name: "bless", before: &[&["apply", "-f", "a.yaml"]], command: &["bless", "1"] },
    Case {
        name: "gc",
        before: &[
            &["apply", "-f", "a.yaml"],
            &["apply", "-f", "many-b.yaml"],
            &["apply", "-f", "many-c.yaml"],
            &["rollback", "1"],
        ],
        command: &["gc"],
    },
    Case { name: "boot", before: GOOD_THEN_ANOTHER, command: &["boot"] },
];

/// Extensions, configurations and a root, that all runs read.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir_in(MEMORY).unwrap());
        for name in ["a", "b", "c"] {
            home.file(&format!("{name}/rootfs/usr/local/share/{name}"), name);
            let manifest = format!("version: v1alpha1\nmetadata: {{name: {name}, version: \"1\"}}\n");
            home.file(&format!("{name}/manifest.yaml"), &manifest);
        }
        for (file, extensions, keep) in [
            ("a", &["a"][..], 1),
            ("ab", &["a", "b"], 1),
            ("c", &["c"], 1),
            ("many-b", &["b"], 9),
            ("many-c", &["c"], 9),
        ] {
            let images = extensions
                .iter()
                .map(|name| format!("      - image: \"dir:{}\"\n", home.path(name).display()));
            let images: String = images.collect();
            let yaml = format!(
                "version: v1alpha1\nmachine:\n  install:\n    extensions:\n{images}plywood: {{keepGenerations: {keep}}}\n"
            );
            home.file(&format!("{file}.yaml"), &yaml);
        }
        let line = format!("plywood.state=/{ON_ROOT} plywood.config={}", home.path("c.yaml").display());
        home.file("cmdline", &line);
        fs::copy(INIT, home.path("init")).unwrap_or_else(|error| panic!("{INIT}: {error} (make deps)"));
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// A root with a store on it, and what commands do to that.
struct Machine<'a> {
    home: &'a Home,
    root: TempDir,
}

impl<'a> Machine<'a> {
    fn new(home: &'a Home) -> Self {
        let root = tempfile::tempdir_in(MEMORY).unwrap();
        for directory in ["etc", "usr/local", "opt", "sbin", "var/lib"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("etc/os-release"), "ID=test\nVERSION_ID=1\n").unwrap();
        fs::hard_link(home.path("init"), root.path().join("sbin/init")).unwrap();
        Self { home, root }
    }

    fn like(other: &Machine<'a>) -> Self {
        let machine = Self::new(other.home);
        if other.state().exists() {
            copy(&other.state(), &machine.state());
        }
        machine
    }

    fn state(&self) -> PathBuf {
        self.root.path().join(ON_ROOT)
    }

    /// `command` with `tracer` in front of it.
    fn run(&self, tracer: &[String], command: &[&str]) -> Output {
        let mut words: Vec<String> = tracer.to_vec();
        words.push(PLYWOOD.into());
        words.extend(command.iter().map(ToString::to_string));
        let mut run = match command {
            ["boot"] => {
                words.extend(["--root".into(), self.root.path().display().to_string()]);
                let mut unshare = Command::new("unshare");
                let script = "mount --bind cmdline /proc/cmdline && mount -t tmpfs run /run && \
                              mount --bind \"$ROOT\" \"$ROOT\" && exec \"$@\"";
                unshare.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).args(&words);
                unshare
            }
            _ => {
                let mut direct = Command::new(&words[0]);
                direct.args(&words[1..]).arg("--state").arg(self.state());
                direct
            }
        };
        run.current_dir(self.home.0.path()).env("ROOT", self.root.path());
        run.output().unwrap_or_else(|error| panic!("cannot start {run:?}: {error} (make deps)"))
    }

    /// Runs a command that has to succeed.
    fn succeed(&self, command: &[&str], context: &str) {
        let output = self.run(&[], command);
        // 3 is `apply` with nothing to do.
        let is_done = matches!(output.status.code(), Some(0 | 3));
        assert!(is_done, "{context}: {command:?}: {}", text(&output));
    }

    /// What boots next: the extensions of the current generation, opened
    /// whole, and the generation that is known to be good.
    fn summary(&self) -> (Option<Vec<String>>, Option<u32>) {
        let Some(store) = Store::open_existing(&self.state()) else { return (None, None) };
        let current = store.current().unwrap().map(|number| {
            let generation = store.generation(number).unwrap();
            generation.layers().iter().for_each(|(_, layer)| drop(layer.open().unwrap()));
            generation.record().layers.iter().map(|entry| entry.source.clone()).collect()
        });
        (current, store.trials().unwrap().last_good)
    }

    /// The names in the state directory, generations without their numbers.
    fn names(&self) -> BTreeMap<PathBuf, usize> {
        let mut names = BTreeMap::new();
        walk(&self.state(), &mut |path| {
            let path = path.strip_prefix(self.state()).unwrap();
            let is_numbered =
                |part: &&std::ffi::OsStr| part.to_str().is_some_and(|part| part.parse::<u32>().is_ok());
            let plain: PathBuf = path.iter().filter(|part| !is_numbered(part)).collect();
            *names.entry(plain).or_default() += 1;
        });
        names
    }
}

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
    old: (Option<Vec<String>>, Option<u32>),
    new: (Option<Vec<String>>, Option<u32>),
    /// The names after `clean_up`.
    names: BTreeMap<PathBuf, usize>,
    sites: Vec<Site>,
}

/// What is done after each run, and shows whether anything was left over.
const CLEAN_UP: [&[&str]; 2] = [&["apply", "-f", "a.yaml"], &["gc"]];

impl<'a> Prepared<'a> {
    fn new(home: &'a Home, case: &'static Case) -> Self {
        let before = Machine::new(home);
        for command in case.before {
            before.succeed(command, case.name);
        }
        let machine = Machine::like(&before);
        let log = home.path(&format!("{}.log", case.name));
        let mut tracer = tracer(&log);
        tracer.push(format!("trace={}", CALLS.join(",")));
        let output = machine.run(&tracer, case.command);
        assert!(output.status.success(), "{}: {}", case.name, text(&output));
        let new = machine.summary();
        for command in CLEAN_UP {
            machine.succeed(command, case.name);
        }
        let sites = sites(&fs::read_to_string(log).unwrap());
        Self { case, old: before.summary(), new, names: machine.names(), before, sites }
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
        let summary = machine.summary();
        if output.status.success() && self.case.command != ["boot"] {
            assert_eq!(summary, self.new, "{context}: it says it is done");
        }
        assert!(summary == self.old || summary == self.new, "{context}: {summary:?}");
        if let Fault::Error(_) = site.fault {
            // A panic is 101.
            let codes: &[i32] = if self.case.command == ["boot"] { &[0] } else { &[0, 1] };
            assert!(
                output.status.code().is_some_and(|code| codes.contains(&code)),
                "{context}: {}",
                text(&output)
            );
        }
        if Store::open_existing(&machine.state()).is_some() {
            machine.succeed(&["verify"], &context);
        }
        machine.succeed(self.case.command, &context);
        assert_eq!(machine.summary(), self.new, "{context}: done again");
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

fn text(output: &Output) -> String {
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    format!("{}: {}", output.status, String::from_utf8_lossy(&text))
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            walk(&path, visit);
        }
        visit(&path);
    }
}

/// Copies a directory with symlinks and modes.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_symlink() {
            symlink(fs::read_link(&path).unwrap(), to).unwrap();
        } else if kind.is_dir() {
            copy(&path, &to);
        } else {
            std::io::copy(&mut File::open(&path).unwrap(), &mut File::create(&to).unwrap()).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(kind.permissions().mode())).unwrap();
        }
    }
}
