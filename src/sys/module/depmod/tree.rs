//! The modules of one kernel in a root that is not merged yet.
//!
//! In: open directories, the highest layer first and the base last, each the
//! root of a tree. Out: names and contents as the merged root will have them.
//! Invariant: every path is resolved inside the tree that it is from.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::super::insert;
use crate::sys::directory::{self, Symlinks};
use crate::text::Escaped;

/// Longest index or configuration file, in bytes.
const MAX_TEXT: u64 = 64 << 20;

/// Why the files of a root cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", Escaped::new(.path))]
pub struct TreeError {
    path: Vec<u8>,
    source: io::Error,
}

/// The roots, and where the modules are below each.
pub struct Tree<'a> {
    roots: &'a [BorrowedFd<'a>],
    /// `usr/lib/modules/RELEASE`.
    directory: PathBuf,
}

/// A file below the directory of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to that directory.
    pub path: Vec<u8>,
    /// Which of the roots it is from.
    pub root: usize,
}

impl<'a> Tree<'a> {
    pub fn new(roots: &'a [BorrowedFd<'a>], directory: PathBuf) -> Self {
        Self { roots, directory }
    }

    /// The number of the root that all others lie over.
    pub fn base(&self) -> usize {
        self.roots.len().saturating_sub(1)
    }

    /// All files but those below names that are passed over, by path. What is
    /// higher hides what is lower unless both are directories.
    pub fn files(&self, passed_over: impl Fn(&[u8]) -> bool) -> Result<Vec<Entry>, TreeError> {
        let mut files = BTreeMap::new();
        let mut left = vec![(Vec::new(), (0..self.roots.len()).collect::<Vec<_>>())];
        while let Some((path, roots)) = left.pop() {
            let mut directories: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
            let mut closed = BTreeSet::new();
            for root in roots {
                for (name, kind) in self.list(root, &self.below(&path))? {
                    if passed_over(&name) || closed.contains(&name) {
                        continue;
                    }
                    if kind.is_dir() {
                        directories.entry(name).or_default().push(root);
                    } else {
                        let path = join(&path, &name);
                        if !directories.contains_key(&name) {
                            files.insert(path, root);
                        }
                        closed.insert(name);
                    }
                }
            }
            left.extend(directories.into_iter().map(|(name, roots)| (join(&path, &name), roots)));
        }
        Ok(files.into_iter().map(|(path, root)| Entry { path, root }).collect())
    }

    /// A module's bytes, decompressed. A symlink may lead to what only a lower
    /// root has.
    pub fn module(&self, entry: &Entry) -> Result<Vec<u8>, TreeError> {
        let path = self.below(&entry.path);
        let failed = |source| failed(&path, source);
        let mut file = None;
        for root in entry.root..self.roots.len() {
            file = self.open(root, &path).map_err(failed)?;
            if file.is_some() {
                break;
            }
        }
        let file = file.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        insert::read(Path::new(OsStr::from_bytes(&entry.path)), file).map_err(failed)
    }

    /// A file beside the modules, of one root.
    pub fn read(&self, root: usize, name: &str) -> Result<Option<Vec<u8>>, TreeError> {
        self.read_at(root, &self.directory.join(name))
    }

    /// A file of the merged root.
    pub fn read_below_root(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
        for root in 0..self.roots.len() {
            if let Some(text) = self.read_at(root, Path::new(path))? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Names in a directory of the merged root; none if there is no such.
    pub fn names(&self, directory: &str) -> Result<BTreeSet<Vec<u8>>, TreeError> {
        let mut names = BTreeSet::new();
        for root in 0..self.roots.len() {
            names.extend(self.list(root, Path::new(directory))?.into_iter().map(|(name, _)| name));
        }
        Ok(names)
    }

    /// Names in a directory of all roots but the base, and what the highest of
    /// them has there.
    pub fn names_in_layers(&self, directory: &str) -> Result<BTreeMap<Vec<u8>, fs::FileType>, TreeError> {
        let mut names = BTreeMap::new();
        for root in 0..self.base() {
            for (name, kind) in self.list(root, Path::new(directory))? {
                names.entry(name).or_insert(kind);
            }
        }
        Ok(names)
    }

    /// Opens a regular file of the merged root.
    pub fn file(&self, path: &str) -> Result<Option<File>, TreeError> {
        for root in 0..self.roots.len() {
            let file = self.open(root, Path::new(path)).map_err(|error| failed(Path::new(path), error))?;
            if file.is_some() {
                return Ok(file);
            }
        }
        Ok(None)
    }

    fn below(&self, path: &[u8]) -> PathBuf {
        self.directory.join(OsStr::from_bytes(path))
    }

    fn read_at(&self, root: usize, path: &Path) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(file) = self.open(root, path).map_err(|error| failed(path, error))? else {
            return Ok(None);
        };
        let mut text = Vec::new();
        let read = file.take(MAX_TEXT + 1).read_to_end(&mut text);
        read.map_err(|error| failed(path, error))?;
        if text.len() as u64 > MAX_TEXT {
            return Err(failed(path, io::ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(text))
    }

    /// Opens a regular file. `None` if it is not there.
    fn open(&self, root: usize, path: &Path) -> io::Result<Option<File>> {
        // Not to wait for a writer should it be a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match directory::resolve(self.roots[root], path, flags, Symlinks::Follow) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match file.metadata()?.is_file() {
            true => Ok(Some(file)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    fn list(&self, root: usize, path: &Path) -> Result<Vec<(Vec<u8>, fs::FileType)>, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = match directory::resolve(self.roots[root], path, flags, Symlinks::Follow) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(error) => return Err(failed(path, error.into())),
        };
        let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let named = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name().into_vec(), entry.file_type()?))
        };
        entries.and_then(|entries| entries.map(named).collect()).map_err(|error| failed(path, error))
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        _ => [directory, b"/", name].concat(),
    }
}

fn failed(path: &Path, source: io::Error) -> TreeError {
    TreeError { path: path.as_os_str().as_bytes().into(), source }
}
