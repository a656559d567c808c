//! An image's changesets: read from the top down, added up from the bottom.
//!
//! In: the tars of one image, each once, the top one first, so that content
//! which an upper changeset certainly hides is never stored. Out: the
//! contents, one by one through a callback, and afterwards one [`ImageTree`].
//! Invariant: nothing is kept of a tar but headers, in bounded memory, and
//! what comes out depends on the tars alone.

mod elf;
mod flatten;
mod index;
mod module;
mod name;
mod record;
mod shade;

use std::collections::BTreeMap;
use std::io::{self, Read};

pub use elf::ElfMachine;
pub use name::{EmptyWhiteout, EntryName};

use super::rules::Permission;
use super::squashfs::FileId;
use super::tar::path::split;
use super::tar::{Archive, Entry, EntryPath, Kind, TarError};
use super::tree::Directory;
use crate::limits::{Bound, Budget, Exceeded, Limits};
use crate::text::Escaped;
use index::Index;
use module::Packing;
use record::{Inode, Recorded, Records};
use shade::Shades;

/// Why a changeset is refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangesetError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("cannot store the content of `{path}`")]
    Store { path: EntryPath, source: io::Error },
    #[error("`{path}` is a whiteout of nothing")]
    EmptyWhiteout { path: EntryPath },
    #[error("`{}` is in the changeset more than once", Escaped::new(.path))]
    Repeated { path: Vec<u8> },
    #[error("`{}` is below something that is not a directory in the same changeset", Escaped::new(.path))]
    Parent { path: Vec<u8> },
    #[error("the changeset has whiteouts below `{}`, which is not a directory in it", Escaped::new(.path))]
    Marker { path: Vec<u8> },
    #[error(transparent)]
    Limit(#[from] Exceeded),
    #[error("`{path}` has {size} bytes")]
    TooLarge { path: EntryPath, size: u64, source: Exceeded },
}

/// Why changesets do not add up. They are counted from 0, the lowest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlattenError {
    #[error(
        "changeset {upper} has entries below `{}`, which is not a directory in changeset {lower}",
        Escaped::new(.path)
    )]
    Parent { path: Vec<u8>, lower: u16, upper: u16 },
}

/// What an image comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct ImageTree {
    /// The children of the image's root. The root's own attributes never
    /// matter: the image's root is not what is mounted.
    pub root: Directory,
    /// For whom every kernel module below `lib/modules` in `rootfs` is, also
    /// those that are no longer in the tree.
    pub modules: BTreeMap<FileId, ElfMachine>,
}

/// Stores the content of a regular file: path, size in bytes, content. What
/// it does not read is skipped.
pub type StoreFile<'a> = dyn FnMut(&EntryPath, u64, &mut dyn Read) -> io::Result<FileId> + 'a;

/// The changesets of one image read so far.
pub struct Stack<'s> {
    /// The top one first.
    changesets: Vec<Index>,
    budget: Budget,
    hard_links: Permission,
    /// What the changesets read so far hide.
    shades: Shades,
    /// Hears of each entry before anything is remembered of it.
    on_entry: Option<&'s mut dyn FnMut()>,
}

impl<'s> Stack<'s> {
    /// Where hard links are allowed, hidden content is stored too: a link
    /// in another place may still name it.
    pub fn new(limits: Limits, hard_links: Permission) -> Self {
        Self {
            changesets: Vec::new(),
            budget: Budget::new(limits),
            hard_links,
            shades: Shades::new(&[]),
            on_entry: None,
        }
    }

    /// With a call of `on_entry`, which may wait, before each entry.
    pub fn announcing(self, on_entry: &'s mut dyn FnMut()) -> Self {
        Self { on_entry: Some(on_entry), ..self }
    }

    /// Reads the next lower changeset to the end of its tar. Of a file that
    /// those above certainly hide, all but the content counts: what is below a
    /// symlink is refused whether or not it can be seen.
    pub fn read(&mut self, tar: impl Read, store: &mut StoreFile<'_>) -> Result<(), ChangesetError> {
        let archive = Archive::with_limits(tar, self.budget.limits());
        let mut reading = Reading { archive, records: Records::default() };
        self.budget.restart(Bound::ChangesetBytes);
        while let Some(entry) = reading.archive.next_entry()? {
            self.admit(&entry)?;
            let (records, budget) = (&mut reading.records, &mut self.budget);
            match EntryName::classify(&entry.path) {
                Err(EmptyWhiteout) => return Err(ChangesetError::EmptyWhiteout { path: entry.path }),
                Ok(EntryName::Metadata) => {}
                Ok(EntryName::Opaque { directory }) => records.opaque(directory, budget)?,
                Ok(EntryName::Whiteout { target }) => records.whiteout(&target, budget)?,
                Ok(EntryName::Create) => {
                    let visible = !self.hides(entry.path.as_bytes());
                    reading.create(entry, &mut self.budget, visible.then_some(&mut *store))?;
                }
            }
        }
        self.changesets.push(Index::new(reading.records, &mut self.budget)?);
        self.shades = Shades::new(&self.changesets);
        Ok(())
    }

    /// A file that is too large is refused by its header, before its data is read.
    fn admit(&mut self, entry: &Entry) -> Result<(), ChangesetError> {
        self.budget.spend(Bound::Entries, 1)?;
        if let Some(on_entry) = &mut self.on_entry {
            on_entry();
        }
        for bound in [Bound::ChangesetBytes, Bound::ImageBytes] {
            self.budget.spend(bound, entry.size).map_err(|source| ChangesetError::TooLarge {
                path: entry.path.clone(),
                size: entry.size,
                source,
            })?;
        }
        Ok(())
    }

    /// Whether nothing of what lower changesets have at this path can be seen.
    fn hides(&mut self, path: &[u8]) -> bool {
        if self.hard_links == Permission::Allow || self.changesets.is_empty() {
            return false;
        }
        let (directory, name) = split(path).unwrap_or_default();
        self.shades.of(directory, &self.changesets).hides(path, name, &self.changesets)
    }

    /// Adds the changesets up, with exactly the semantics of the image-spec
    /// (layer.md), except that an entry below something that is not a
    /// directory by then is refused, and a whiteout below a symlink too.
    pub fn flatten(self) -> Result<ImageTree, FlattenError> {
        flatten::flatten(self.changesets.into_iter().rev(), self.hard_links)
    }
}

/// One changeset being read.
struct Reading<R> {
    archive: Archive<R>,
    records: Records,
}

impl<R: Read> Reading<R> {
    /// Without `store`, a file whose content nobody will see.
    fn create(
        &mut self,
        entry: Entry,
        budget: &mut Budget,
        store: Option<&mut StoreFile<'_>>,
    ) -> Result<(), ChangesetError> {
        let content = match (&entry.kind, store) {
            (Kind::Directory, _) => Recorded::Directory,
            (Kind::File, None) => Recorded::File(FileId::HIDDEN),
            (Kind::File, Some(store)) => self
                .store(&entry, store)
                .map_err(|source| ChangesetError::Store { path: entry.path.clone(), source })?,
            (Kind::Symlink(target), _) => Recorded::Symlink(self.records.text(target, budget)?),
            (Kind::HardLink(target), _) => Recorded::HardLink(self.records.text(target.as_bytes(), budget)?),
            (Kind::Device, _) => Recorded::Device,
            (Kind::Fifo, _) => Recorded::Fifo,
        };
        let inode = Inode { attributes: entry.attributes, xattrs: entry.xattrs, content };
        self.records.push(entry.path.as_bytes(), inode, budget)
    }

    fn store(&mut self, entry: &Entry, store: &mut StoreFile<'_>) -> io::Result<Recorded> {
        let (id, machine) = store_content(&entry.path, entry.size, &mut self.archive.data(), store)?;
        Ok(machine.map_or(Recorded::File(id), |machine| Recorded::Module(id, machine)))
    }
}

/// Stores a file's content, and tells for whom it is if it is a kernel module.
pub(super) fn store_content(
    path: &EntryPath,
    size: u64,
    content: &mut dyn Read,
    store: &mut StoreFile<'_>,
) -> io::Result<(FileId, Option<ElfMachine>)> {
    let Some(packing) = Packing::of(path) else {
        return store(path, size, content).map(|id| (id, None));
    };
    let mut head = Vec::new();
    content.take(packing.head()).read_to_end(&mut head)?;
    let machine = packing.machine(&head);
    let id = store(path, size, &mut head.chain(content))?;
    Ok((id, Some(machine)))
}

#[cfg(test)]
mod tests;
