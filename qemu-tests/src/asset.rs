//! Assets: kernels, roots, certificates, the initramfs under test. Made by
//! `qemu-tests/assets/make`, which keeps what is still right; asked for by
//! name, once a process. Refuses a plywood that is older than its sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

use crate::architecture::Architecture;
use crate::program::{run, source_tree};

static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// The directory of the asset `name`, which is made first if it must be.
pub fn asset(name: &str) -> PathBuf {
    // A test that failed to make an asset says so itself; the map is whole.
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(dir) = made.get(name) {
        return dir.clone();
    }
    let maker = source_tree().join("qemu-tests/assets/make");
    let dir = PathBuf::from(run(Command::new(maker).arg(name)).trim_end());
    made.insert(name.to_owned(), dir.clone());
    dir
}

/// The binary under test.
pub fn plywood() -> PathBuf {
    Architecture::Amd64.plywood()
}

/// The path of `binary` in the source tree. Panics if it was built, by `make`,
/// before a source file last changed: the test would say nothing about the
/// tree that it stands in.
pub(crate) fn current(binary: &str, make: &str) -> PathBuf {
    let path = source_tree().join(binary);
    let built = modified(&path).unwrap_or_else(|| panic!("{binary} is missing: run {make}"));
    let newest = newest_below(&source_tree().join("src"));
    assert!(newest <= built, "{binary} is older than its sources: run {make}");
    path
}

fn newest_below(dir: &Path) -> SystemTime {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("cannot list {}: {error}", dir.display()));
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter_map(|path| if path.is_dir() { Some(newest_below(&path)) } else { modified(&path) })
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
