//! Everything plywood keeps on disk; the only writer of the state directory.
//!
//! In: verified readers and finished layers. Out: [`Blob`], [`Layer`] and
//! [`Generation`], which exist only for what is whole on disk. Invariant:
//! every change is written beside its place, synced and then renamed, so a
//! crash at any moment leaves the old state or the new one.

mod blob;
mod generation;
mod inspection;
mod layer;
mod record;
mod sweep;
mod time;
mod trials;

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::text::Escaped;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

pub use blob::{Blob, BlobError, open_regular};
pub use generation::{
    Draft, Generation, GenerationError, GenerationRecord, LayerEntry, Origin, Proof, Skipped,
};
pub use layer::{Layer, LayerError, LayerKey, LayerRecord, StagedLayer, digest_of, open_layers};
pub use record::RecordError;
pub use sweep::{Blobs, Roots, SweepError, Swept};
pub use trials::{Mark, Trials, Verdict};

pub use inspection::{CheckTree, Finding, Inspection, Subject};

/// Version of the record `last-boot`.
const LAST_BOOT_FORMAT: u32 = 1;
/// Mode of every file that is not a layer, whatever the umask.
const PRIVATE: u32 = 0o600;

/// The state directory, open for use.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} {}", Escaped::path(.path))]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("there is no store in {}", Escaped::path(.path))]
    Absent { path: PathBuf },
    #[error("the state directory {} is locked by {}", Escaped::path(.path), holder(*.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
}

/// The right to change what the store points at. Released when dropped, or
/// when the process ends however it does.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Store {
    /// Opens a state directory to read it; none if there is no store in it.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        let generations = path.join("generations");
        match fs::read_dir(&generations) {
            Ok(_) => Ok(Some(Self { path: path.into() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { action: "read", path: generations, source }),
        }
    }

    /// Opens the state directory and makes what is missing in it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::Io { action, path, source }
        };
        for directory in ["", "blobs/sha256", "blobs/sha512", "layers", "generations", "staging"] {
            let path = path.join(directory);
            make_directory(&path).map_err(failed("create", &path))?;
        }
        // Layers hold what the registry's credentials protect.
        let is_private = |mode: u32| mode & 0o077 == 0;
        let mode = fs::metadata(path).map_err(failed("read", path))?.permissions().mode();
        if !is_private(mode) {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("protect", path))?;
        }
        Ok(Self { path: path.into() })
    }

    /// The state directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that may still be written to the state directory's volume.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let status = rustix::fs::statvfs(&self.path).map_err(|errno| StoreError::Io {
            action: "ask for the free space of",
            path: self.path.clone(),
            source: errno.into(),
        })?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// Makes this process the only one that changes the store, and removes
    /// what a process that died left half-written.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        let path = self.path.join("lock");
        let failed = |source| StoreError::Io { action: "lock", path: path.clone(), source };
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true).mode(PRIVATE);
        let mut file = options.custom_flags(libc::O_NOFOLLOW).open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked { path: self.path.clone(), pid: locked_by(&file) });
            }
            Err(errno) => return Err(failed(errno.into())),
            Ok(()) => {}
        }
        // Who holds the lock is for messages only, so a full disk is no matter.
        let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            log::debug!("{} does not say who holds it: {error}", path.display());
        }
        self.sweep_staging().map_err(failed)?;
        Ok(Lock { _file: file })
    }

    fn sweep_staging(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.path.join("staging"))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// A new file that has no name in the store yet.
    fn stage(&self) -> io::Result<Staged> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("staging/{}-{number}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).mode(PRIVATE).open(&path)?;
        Ok(Staged { path, file, kept: false })
    }

    fn replace_record(&self, path: &Path, format: u32, value: &impl Serialize) -> io::Result<()> {
        self.replace_file(path, &record::encode(format, value)?)
    }

    fn replace_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut staged = self.stage()?;
        staged.file.write_all(bytes)?;
        staged.persist(path)
    }
}

impl Store {
    /// Keeps what a boot came to, for who asks after the next one. Written
    /// only if it is another than before.
    pub fn put_last_boot(&self, _lock: &Lock, report: &impl Serialize) -> Result<(), StoreError> {
        let path = self.path.join("last-boot");
        let failed = |source| StoreError::Io { action: "write", path: path.clone(), source };
        let bytes = record::encode(LAST_BOOT_FORMAT, report).map_err(failed)?;
        if fs::read(&path).is_ok_and(|before| before == bytes) {
            return Ok(());
        }
        self.replace_file(&path, &bytes).map_err(failed)
    }

    /// What the last boot came to.
    pub fn last_boot<T: serde::de::DeserializeOwned>(&self) -> Result<T, RecordError> {
        record::read(&self.path.join("last-boot"), LAST_BOOT_FORMAT)
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or("another plywood".into(), |pid| format!("pid {pid}"))
}

/// The process that a lock's file names.
fn locked_by(mut file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read(&mut text).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok()
}

/// A file on its way to its name. Removed when dropped before that.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Staged {
    /// Syncs the file, gives it its name and syncs the directory.
    fn persist(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        replace(&self.path, path)?;
        self.kept = true;
        sync_parent(path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.kept {
            give_back(&self.path);
        }
    }
}

/// Makes a directory and those above it, with names that survive a crash:
/// what is committed below one later would go with it.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directory(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result.and_then(|()| sync_parent(path)),
    }
}

/// Removes what is at `path`, whatever it is, if it is anything.
fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives `staged` the name `path`, in the place of whatever has it: a
/// directory there is none of ours, and would stay in the way for ever.
fn replace(staged: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(staged, path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            fs::remove_dir_all(path)?;
            fs::rename(staged, path)
        }
        result => result,
    }
}

/// Removes what a change that failed has left. What stays is swept by the
/// next one that writes.
fn give_back(path: &Path) {
    if let Err(error) = remove_any(path) {
        log::warn!("cannot remove {}, ignored: {error}", Escaped::path(path));
    }
}

/// Makes a name just given in `path`'s directory survive a crash.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_at_a_time_and_leftovers_are_swept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        fs::write(directory.path().join("staging/99-0"), "half").unwrap();
        let lock = store.lock().unwrap();
        assert_eq!(fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
        let error = store.lock().unwrap_err().to_string();
        assert!(error.ends_with(&format!("is locked by pid {}", std::process::id())), "{error}");
        drop(lock);
        store.lock().unwrap();
    }

    #[test]
    fn the_state_directory_is_private() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        Store::open(directory.path()).unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
