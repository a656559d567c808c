//! What POSIX alone promises, and no file system in particular: a call may be
//! on the disk or not, whatever came before or after it, until a sync of what
//! it changed has returned. The calls of each command are recorded, every
//! state that a crash may leave is made, and each of them has to be as before
//! or as after the command; once it has ended, as after.
//!
//! A rename is on the disk whole or not at all, and once either directory is
//! synced: every journal promises that. The content of a file that was not
//! synced may be what it was, zeros, or what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plywood::store::Store;

use super::machine::{CASES, Case, Home, MEMORY, Machine, summary};
use super::trace::{Call, TRACED, calls};

type Inode = usize;
/// A name in a directory.
type Entry = (Inode, OsString);

/// The directory that holds the state directory.
const TOP: Inode = 0;
/// More unsynced changes than these would be too many states.
const MOST_UNSYNCED: usize = 14;

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    Symlink(Vec<u8>),
    File,
}

/// A change, and what has to be synced for it to stay.
#[derive(Debug)]
enum Change {
    Link {
        entry: Entry,
        inode: Inode,
    },
    Unlink {
        entry: Entry,
    },
    Rename {
        from: Entry,
        to: Entry,
        inode: Inode,
    },
    /// The whole content of a file after a write.
    Content {
        inode: Inode,
        bytes: Vec<u8>,
    },
}

impl Change {
    /// A sync of any of these keeps it.
    fn kept_by(&self) -> Vec<Inode> {
        match self {
            Self::Link { entry, .. } | Self::Unlink { entry } => vec![entry.0],
            Self::Rename { from, to, .. } => vec![from.0, to.0],
            Self::Content { inode, .. } => vec![*inode],
        }
    }
}

#[derive(Debug)]
enum Step {
    Change(Change),
    Sync(Inode),
}

/// Names and contents.
#[derive(Clone, Debug, Default)]
struct Disk {
    entries: BTreeMap<Entry, Inode>,
    contents: BTreeMap<Inode, Vec<u8>>,
}

impl Disk {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { entry, inode } => drop(self.entries.insert(entry.clone(), *inode)),
            Change::Unlink { entry } => drop(self.entries.remove(entry)),
            Change::Rename { from, to, inode } => {
                self.entries.remove(from);
                self.entries.insert(to.clone(), *inode);
            }
            Change::Content { inode, bytes } => drop(self.contents.insert(*inode, bytes.clone())),
        }
    }

    fn find(&self, path: &Path) -> Option<Inode> {
        path.iter().try_fold(TOP, |directory, name| self.entries.get(&(directory, name.into())).copied())
    }
}

/// A command's steps over the files that were there before.
#[derive(Default)]
struct Recording {
    kinds: Vec<Kind>,
    before: Disk,
    /// As the command sees it.
    now: Disk,
    steps: Vec<Step>,
}

impl Recording {
    fn new(top: &Path) -> Self {
        let mut recording = Self { kinds: vec![Kind::Directory], ..Self::default() };
        recording.load(top, TOP);
        recording.now = recording.before.clone();
        recording
    }

    fn load(&mut self, path: &Path, directory: Inode) {
        for entry in fs::read_dir(path).unwrap() {
            let (path, name) = {
                let entry = entry.unwrap();
                (entry.path(), entry.file_name())
            };
            let kind = fs::symlink_metadata(&path).unwrap();
            let inode = self.kinds.len();
            self.before.entries.insert((directory, name), inode);
            if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                self.kinds.push(Kind::Symlink(target));
            } else if kind.is_dir() {
                self.kinds.push(Kind::Directory);
                self.load(&path, inode);
            } else {
                self.kinds.push(Kind::File);
                self.before.contents.insert(inode, fs::read(&path).unwrap());
            }
        }
    }

    fn entry(&self, path: &Path) -> Entry {
        let parent = self.now.find(path.parent().unwrap()).unwrap_or_else(|| panic!("{}", path.display()));
        (parent, path.file_name().unwrap().into())
    }

    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.steps.push(Step::Change(change));
    }

    fn make(&mut self, path: &Path, kind: Kind) {
        let inode = self.kinds.len();
        self.kinds.push(kind);
        self.change(Change::Link { entry: self.entry(path), inode });
    }

    fn write(&mut self, inode: Inode, offset: Option<usize>, new: &[u8]) {
        let mut bytes = self.now.contents.get(&inode).cloned().unwrap_or_default();
        let offset = offset.unwrap_or(bytes.len());
        bytes.resize(bytes.len().max(offset + new.len()), 0);
        bytes[offset..][..new.len()].copy_from_slice(new);
        self.change(Change::Content { inode, bytes });
    }

    fn record(&mut self, call: Call) {
        match call {
            Call::Create(path) if self.now.find(&path).is_some() => {}
            Call::Create(path) => self.make(&path, Kind::File),
            // Where a boot mounts the state directory.
            Call::MakeDirectory(path) if self.now.find(&path).is_some() => {}
            Call::MakeDirectory(path) => self.make(&path, Kind::Directory),
            Call::Symlink { target, path } => self.make(&path, Kind::Symlink(target)),
            Call::Rename { from, to } => {
                let inode = self.now.find(&from).unwrap();
                self.change(Change::Rename { from: self.entry(&from), to: self.entry(&to), inode });
            }
            Call::Remove(path) => self.change(Change::Unlink { entry: self.entry(&path) }),
            Call::Write { path, offset, bytes } => {
                let inode = self.now.find(&path).unwrap();
                self.write(inode, offset, &bytes);
            }
            Call::Truncate { path, length } => {
                let inode = self.now.find(&path).unwrap();
                let mut bytes = self.now.contents.get(&inode).cloned().unwrap_or_default();
                bytes.resize(length, 0);
                self.change(Change::Content { inode, bytes });
            }
            Call::Sync(path) => self.steps.push(Step::Sync(self.now.find(&path).unwrap())),
        }
    }

    /// Calls `visit` with every disk that a crash after `count` steps may
    /// leave.
    fn crashes(&self, count: usize, visit: &mut impl FnMut(&Disk)) {
        let steps = &self.steps[..count];
        let is_kept = |index: usize, change: &Change| {
            let keepers = change.kept_by();
            steps[index..].iter().any(|step| matches!(step, Step::Sync(inode) if keepers.contains(inode)))
        };
        let staging = self.staging();
        // What only ever was in the staging directory stays or goes together,
        // and so does all that was written to one file since its last sync.
        let is_staged = |change: &Change| change.kept_by().iter().all(|inode| staging.contains(inode));
        let (mut open, mut files) = (1, BTreeMap::new());
        let mut changes = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let Step::Change(change) = step else { continue };
            let bit = match change {
                _ if is_kept(index, change) => None,
                _ if is_staged(change) => Some(0),
                Change::Content { inode, .. } if files.contains_key(inode) => Some(files[inode]),
                _ => {
                    open += 1;
                    Some(open - 1)
                }
            };
            if let (Change::Content { inode, .. }, Some(bit)) = (change, bit) {
                files.insert(*inode, bit);
            }
            changes.push((change, bit));
        }
        assert!(open <= MOST_UNSYNCED, "{open} changes are not synced: {changes:?}");
        for mask in 0..1_u32 << open {
            let mut disk = self.before.clone();
            for (change, bit) in &changes {
                match change {
                    _ if bit.is_none_or(|bit| mask >> bit & 1 == 1) => disk.apply(change),
                    // Space that was given, and never written.
                    Change::Content { inode, bytes } if mask & 1 == 1 => {
                        disk.contents.insert(*inode, vec![0; bytes.len()]);
                    }
                    _ => {}
                }
            }
            visit(&disk);
        }
    }

    /// What is of no matter after a crash: the lock, the staging directory and
    /// all that was ever made in it and did not get a name elsewhere.
    fn staging(&self) -> BTreeSet<Inode> {
        let find = |path: &str| [&self.before, &self.now].map(|disk| disk.find(Path::new(path)));
        let [staging, lock] = ["plywood/staging", "plywood/lock"].map(find);
        let mut staging: BTreeSet<Inode> = staging.into_iter().chain(lock).flatten().collect();
        for step in &self.steps {
            if let Step::Change(Change::Link { entry, inode }) = step
                && staging.contains(&entry.0)
            {
                staging.insert(*inode);
            }
        }
        let named: BTreeSet<Inode> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Change(Change::Rename { to, inode, .. }) if !staging.contains(&to.0) => Some(*inode),
                _ => None,
            })
            .collect();
        staging.difference(&named).copied().collect()
    }

    /// The tree of a disk, as paths and what is there.
    fn tree(&self, disk: &Disk) -> BTreeMap<PathBuf, (u8, Vec<u8>)> {
        let mut tree = BTreeMap::new();
        let mut waiting = vec![(TOP, PathBuf::new())];
        while let Some((directory, path)) = waiting.pop() {
            for ((_, name), inode) in disk.entries.iter().filter(|((parent, _), _)| *parent == directory) {
                let path = path.join(name);
                let there = match &self.kinds[*inode] {
                    Kind::Directory => {
                        waiting.push((*inode, path.clone()));
                        (b'd', Vec::new())
                    }
                    Kind::Symlink(target) => (b'l', target.clone()),
                    Kind::File => (b'f', disk.contents.get(inode).cloned().unwrap_or_default()),
                };
                tree.insert(path, there);
            }
        }
        tree
    }
}

fn materialize(tree: &BTreeMap<PathBuf, (u8, Vec<u8>)>, top: &Path) {
    for (path, (kind, content)) in tree {
        let path = top.join(path);
        match kind {
            b'd' => fs::DirBuilder::new().mode(0o700).create(path).unwrap(),
            b'l' => symlink(String::from_utf8_lossy(content).as_ref(), path).unwrap(),
            _ => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
    }
}

fn record<'a>(home: &'a Home, case: &Case) -> (Recording, Machine<'a>, Machine<'a>) {
    let before = Machine::prepared(home, case);
    let after = Machine::like(&before);
    let log = home.path(&format!("{}.model", case.name));
    let mut tracer: Vec<String> =
        ["strace", "-f", "-qq", "-y", "-xx", "-s", "1000000", "-o"].map(String::from).into();
    tracer.extend([log.display().to_string(), "-e".into(), format!("trace={TRACED}")]);
    after.succeed_traced(&tracer, case.command, case.name);
    let mut recording = Recording::new(before.state().parent().unwrap());
    for call in calls(&fs::read_to_string(log).unwrap()) {
        if let Some(call) =
            call.below(&[(after.state().parent().unwrap(), ""), (Path::new("/run/plywood/state"), "plywood")])
        {
            recording.record(call);
        }
    }
    (recording, before, after)
}

#[test]
fn every_crash_state_is_before_or_after() {
    let home = Home::new();
    for case in &CASES {
        let (recording, before, after) = record(&home, case);
        let (old, new) = (summary(&before.state()), summary(&after.state()));
        let (mut seen, mut states) = (BTreeSet::new(), 0_usize);
        for count in 0..=recording.steps.len() {
            let is_over = count == recording.steps.len();
            recording.crashes(count, &mut |disk| {
                states += 1;
                let tree = recording.tree(disk);
                let mut hasher = DefaultHasher::new();
                (&tree, is_over).hash(&mut hasher);
                if !seen.insert(hasher.finish()) {
                    return;
                }
                let top = tempfile::tempdir_in(MEMORY).unwrap();
                materialize(&tree, top.path());
                let state = top.path().join("plywood");
                let found = summary(&state);
                let step = count.checked_sub(1).map(|last| &recording.steps[last]);
                let names =
                    || tree.keys().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n");
                let context = || {
                    format!("{}: step {count} of {}: {step:?}\n{}", case.name, recording.steps.len(), names())
                };
                assert!(found == new || (found == old && !is_over), "{}\nfound {found:?}", context());
                if let Some(store) = Store::open_existing(&state).unwrap() {
                    let findings = store
                        .inspect(&|_, _| Ok(()))
                        .unwrap_or_else(|error| panic!("{}\n{error}", context()))
                        .findings;
                    assert!(findings.is_empty(), "{}\n{findings:?}", context());
                }
                let store = Store::open(&state).unwrap();
                store.lock().unwrap_or_else(|error| panic!("{}\n{error}", context()));
            });
        }
        println!("{}: {} steps, {states} crashes, {} states", case.name, recording.steps.len(), seen.len());
    }
}
