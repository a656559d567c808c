//! The roots of several trees, as the one root that they are merged into.
//!
//! In: open directories, the highest layer first and the base last. Out: names
//! and contents as the merged root will have them. Invariant: every path is
//! resolved inside the tree that it is from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::directory::{self, Symlinks};
use crate::text::Escaped;

/// Longest file that is read whole, in bytes.
const MAX_TEXT: u64 = 64 << 20;

/// Why the files of a root cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", Escaped::new(.path))]
pub struct RootsError {
    path: Vec<u8>,
    source: io::Error,
}

impl RootsError {
    pub fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.as_os_str().as_bytes().into(), source }
    }
}

/// Roots are named by their number, 0 for the highest.
#[derive(Clone, Copy)]
pub struct Roots<'a>(&'a [BorrowedFd<'a>]);

impl<'a> Roots<'a> {
    pub fn new(roots: &'a [BorrowedFd<'a>]) -> Self {
        Self(roots)
    }

    pub fn numbers(&self) -> Range<usize> {
        0..self.0.len()
    }

    /// The number of the root that all others lie over.
    pub fn base(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// A file of the merged root.
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, RootsError> {
        self.open(self.numbers(), path)?.map(|file| read_whole(file, path)).transpose()
    }

    /// A file of one root.
    pub fn read_in(&self, root: usize, path: &Path) -> Result<Option<Vec<u8>>, RootsError> {
        self.open_in(root, path)?.map(|file| read_whole(file, path)).transpose()
    }

    /// Where a directory is when the base's symlinks to it are followed; where
    /// it says if the base has it not.
    pub fn real_in_base(&self, path: &Path) -> PathBuf {
        let base = self.0[self.base()];
        let real = || {
            let directory = directory::open_in_root(base, path, Symlinks::Follow).ok()??;
            let inside = directory::path_of(directory).ok()?;
            Some(inside.strip_prefix(directory::path_of(base).ok()?).ok()?.to_path_buf())
        };
        real().unwrap_or_else(|| path.into())
    }

    /// Opens the regular file that `roots` show at `path`, the highest first.
    /// A symlink may lead to what only a lower root has.
    pub fn open(&self, roots: Range<usize>, path: &Path) -> Result<Option<File>, RootsError> {
        for root in roots {
            let file = self.open_in(root, path)?;
            if file.is_some() {
                return Ok(file);
            }
        }
        Ok(None)
    }

    /// Names in a directory of the merged root; none if there is no such.
    pub fn names(&self, directory: &Path) -> Result<BTreeSet<Vec<u8>>, RootsError> {
        let mut names = BTreeSet::new();
        for root in self.numbers() {
            names.extend(self.list(root, directory)?.into_iter().map(|(name, _)| name));
        }
        Ok(names)
    }

    /// Names in a directory of all roots but the base, and what the highest of
    /// them has there.
    pub fn names_in_layers(&self, directory: &Path) -> Result<BTreeMap<Vec<u8>, fs::FileType>, RootsError> {
        let mut names = BTreeMap::new();
        for root in 0..self.base() {
            for (name, kind) in self.list(root, directory)? {
                names.entry(name).or_insert(kind);
            }
        }
        Ok(names)
    }

    /// A directory of one root; empty if it is not there.
    pub fn list(&self, root: usize, path: &Path) -> Result<Vec<(Vec<u8>, fs::FileType)>, RootsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = match directory::resolve(self.0[root], path, flags, Symlinks::Follow) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(error) => return Err(RootsError::new(path, error.into())),
        };
        let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let named = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name().into_vec(), entry.file_type()?))
        };
        entries.and_then(|entries| entries.map(named).collect()).map_err(|error| RootsError::new(path, error))
    }

    /// Opens a regular file. `None` if it is not there.
    fn open_in(&self, root: usize, path: &Path) -> Result<Option<File>, RootsError> {
        let failed = |error| RootsError::new(path, error);
        // Not to wait for a writer should it be a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match directory::resolve(self.0[root], path, flags, Symlinks::Follow) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        match file.metadata().map_err(failed)?.is_file() {
            true => Ok(Some(file)),
            false => Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))),
        }
    }
}

fn read_whole(file: File, path: &Path) -> Result<Vec<u8>, RootsError> {
    let failed = |error| RootsError::new(path, error);
    let mut text = Vec::new();
    file.take(MAX_TEXT + 1).read_to_end(&mut text).map_err(failed)?;
    match text.len() as u64 > MAX_TEXT {
        true => Err(failed(io::ErrorKind::FileTooLarge.into())),
        false => Ok(text),
    }
}
