//! The modules of one kernel in a root that is not merged yet.
//!
//! In: the roots of the layers and of the base. Out: files below the kernel's
//! directory, as the merged root will have them. Invariant: what a root hides
//! is not listed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::insert;
use crate::sys::roots::{Roots, RootsError};

/// The roots, and where the modules are below each.
pub struct Tree<'a> {
    roots: Roots<'a>,
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
    pub fn new(roots: Roots<'a>, directory: PathBuf) -> Self {
        Self { roots, directory }
    }

    /// The number of the root that all others lie over.
    pub fn base(&self) -> usize {
        self.roots.base()
    }

    /// All files but those below names that are passed over, by path. What is
    /// higher hides what is lower unless both are directories.
    pub fn files(&self, passed_over: impl Fn(&[u8]) -> bool) -> Result<Vec<Entry>, RootsError> {
        let mut files = BTreeMap::new();
        let mut left = vec![(Vec::new(), self.roots.numbers().collect::<Vec<_>>())];
        while let Some((path, roots)) = left.pop() {
            let mut directories: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
            let mut closed = BTreeSet::new();
            for root in roots {
                for (name, kind) in self.roots.list(root, &self.below(&path))? {
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

    /// A module's bytes, decompressed.
    pub fn module(&self, entry: &Entry) -> Result<Vec<u8>, RootsError> {
        let path = self.below(&entry.path);
        let failed = |source| RootsError::new(&path, source);
        let file = self.roots.open(entry.root..self.roots.numbers().end, &path)?;
        let file = file.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        insert::read(Path::new(OsStr::from_bytes(&entry.path)), file).map_err(failed)
    }

    /// A file beside the modules, of one root.
    pub fn read(&self, root: usize, name: &str) -> Result<Option<Vec<u8>>, RootsError> {
        self.roots.read_in(root, &self.directory.join(name))
    }

    fn below(&self, path: &[u8]) -> PathBuf {
        self.directory.join(OsStr::from_bytes(path))
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        _ => [directory, b"/", name].concat(),
    }
}
