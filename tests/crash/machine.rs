//! A machine whose store is in memory, and the commands whose crashes are
//! looked at.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plywood::store::Store;
use tempfile::TempDir;

pub const PLYWOOD: &str = env!("CARGO_BIN_EXE_plywood");
/// Memory, where syncing costs nothing: a run is the calls that it makes.
pub const MEMORY: &str = "/dev/shm";
/// A program that starts without another one's help.
const INIT: &str = "/bin/busybox";
/// Where the root of a booting machine has its store.
const ON_ROOT: &str = "var/lib/plywood";

/// What runs under faults, and on what.
pub struct Case {
    pub name: &'static str,
    /// Commands that make the state before.
    pub before: &'static [&'static [&'static str]],
    pub command: &'static [&'static str],
}

/// A good generation, and after it one that was only applied.
pub const AFTER_ANOTHER: &[&[&str]] =
    &[&["apply", "-f", "a.yaml"], &["bless", "1"], &["apply", "-f", "ab.yaml"]];

pub const CASES: [Case; 6] = [
    Case { name: "first apply", before: &[], command: &["apply", "-f", "a.yaml"] },
    Case { name: "apply", before: AFTER_ANOTHER, command: &["apply", "-f", "c.yaml"] },
    Case { name: "rollback", before: AFTER_ANOTHER, command: &["rollback", "1"] },
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
    Case { name: "boot", before: AFTER_ANOTHER, command: &["boot"] },
];

/// Extensions, configurations and a root, that all runs read.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        let home = Self(tempfile::tempdir_in(MEMORY).unwrap());
        for name in ["a", "b", "c"] {
            home.file(&format!("{name}/rootfs/usr/local/share/{name}"), name);
            let manifest = format!("version: v1alpha1\nmetadata: {{name: {name}, version: \"1\"}}\n");
            home.file(&format!("{name}/manifest.yaml"), &manifest);
        }
        // What does not compress, and is the same each time.
        let digests = (0..6000_u32).map(|number| plywood::oci::Digest::sha256(&number.to_le_bytes()).hex());
        home.file("large/rootfs/usr/local/share/large", digests.collect::<String>());
        home.file("large/manifest.yaml", "version: v1alpha1\nmetadata: {name: large, version: \"1\"}\n");
        for (file, extensions, keep) in [
            ("large", &["large"][..], 1),
            ("a", &["a"], 1),
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// A root with a store on it, and what commands do to that.
pub struct Machine<'a> {
    home: &'a Home,
    pub root: TempDir,
}

impl<'a> Machine<'a> {
    pub fn new(home: &'a Home) -> Self {
        let root = tempfile::tempdir_in(MEMORY).unwrap();
        for directory in ["etc", "usr/local", "opt", "sbin", "var/lib"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("etc/os-release"), "ID=test\nVERSION_ID=1\n").unwrap();
        fs::hard_link(home.path("init"), root.path().join("sbin/init")).unwrap();
        Self { home, root }
    }

    /// One with the state that is before `case`.
    pub fn prepared(home: &'a Home, case: &Case) -> Self {
        let machine = Self::new(home);
        for command in case.before {
            machine.succeed(command, case.name);
        }
        machine
    }

    /// Another one with the same state.
    pub fn like(other: &Machine<'a>) -> Self {
        let machine = Self::new(other.home);
        if other.state().exists() {
            copy(&other.state(), &machine.state());
        }
        machine
    }

    pub fn state(&self) -> PathBuf {
        self.root.path().join(ON_ROOT)
    }

    /// `command` with `tracer` in front of it.
    pub fn run(&self, tracer: &[String], command: &[&str]) -> Output {
        if command == ["boot"] {
            return self.boot(tracer, "exec \"$@\"");
        }
        let mut words: Vec<String> = tracer.to_vec();
        words.push(PLYWOOD.into());
        words.extend(command.iter().map(ToString::to_string));
        let mut run = Command::new(&words[0]);
        self.output(run.args(&words[1..]).arg("--state").arg(self.state()))
    }

    /// Runs `script` with the boot as its arguments, where the machine is all
    /// that there is.
    pub fn boot(&self, tracer: &[String], script: &str) -> Output {
        let script = format!(
            "mount --bind cmdline /proc/cmdline && mount -t tmpfs run /run && \
             mount --bind \"$ROOT\" \"$ROOT\" || exit 99; {script}"
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).args(tracer);
        self.output(unshare.args([PLYWOOD, "boot", "--root"]).arg(self.root.path()))
    }

    fn output(&self, run: &mut Command) -> Output {
        run.current_dir(self.home.0.path()).env("ROOT", self.root.path());
        run.output().unwrap_or_else(|error| panic!("cannot start {run:?}: {error} (make deps)"))
    }

    /// Runs a command that has to succeed.
    pub fn succeed(&self, command: &[&str], context: &str) {
        self.succeed_traced(&[], command, context);
    }

    /// As [`succeed`](Self::succeed), with `tracer` in front.
    pub fn succeed_traced(&self, tracer: &[String], command: &[&str], context: &str) {
        let output = self.run(tracer, command);
        // 3 is `apply` with nothing to do.
        let is_done = matches!(output.status.code(), Some(0 | 3));
        assert!(is_done, "{context}: {command:?}: {}", text(&output));
    }

    /// The names in the state directory, generations without their numbers.
    pub fn names(&self) -> BTreeMap<PathBuf, usize> {
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

/// What boots next: the extensions of the current generation, opened whole,
/// and the generation that is known to be good.
pub type Summary = (Option<Vec<String>>, Option<u32>);

/// Panics if what should be whole is not.
pub fn summary(state: &Path) -> Summary {
    let Some(store) = Store::open_existing(state).unwrap() else { return (None, None) };
    let current = store.current().unwrap().map(|number| {
        let generation = store.generation(number).unwrap();
        generation.layers().iter().for_each(|(_, layer)| drop(layer.open().unwrap()));
        generation.record().layers.iter().map(|entry| entry.source.clone()).collect()
    });
    (current, store.trials().unwrap().last_good)
}

pub fn text(output: &Output) -> String {
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
