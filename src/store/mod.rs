//! Everything plywood keeps on disk; the only writer of the state directory.
//!
//! In: verified readers and finished layers. Out: [`Blob`], [`Layer`] and
//! [`Generation`], which exist only for what is whole on disk. Invariant:
//! every change is written beside its place, synced and then renamed, so a
//! crash at any moment leaves the old state or the new one.

mod blob;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub use blob::{Blob, BlobError};

/// The state directory, open for use.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl Store {
    /// Opens the state directory and makes what is missing in it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        for directory in ["", "blobs/sha256", "blobs/sha512", "layers", "generations", "staging"] {
            let path = path.join(directory);
            fs::create_dir_all(&path).map_err(|source| StoreError::Io { action: "create", path, source })?;
        }
        Ok(Self { path: path.into() })
    }

    /// The state directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new file that has no name in the store yet.
    fn stage(&self) -> io::Result<Staged> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("staging/{}-{number}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(Staged { path, file, kept: false })
    }
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
        fs::rename(&self.path, path)?;
        self.kept = true;
        sync_parent(path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}, ignored: {error}", self.path.display());
        }
    }
}

/// Makes a name just given in `path`'s directory survive a crash.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(parent)?.sync_all()
}
