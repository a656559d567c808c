//! The headers of one changeset, remembered in little memory.
//!
//! In: entries in the order of the tar. Out: [`Records`], in that order.
//! Invariant: a record takes 36 bytes, its directory's path is kept once for
//! all that follow one another, and texts lie behind one another in one arena,
//! so 200,000 entries take about 12 MB.

use super::ChangesetError;
use super::elf::ElfMachine;
use crate::layer::squashfs::FileId;
use crate::layer::tar::path::{join, split};
use crate::layer::tree::{Attributes, Xattrs};
use crate::limits::{Bound, Budget, Exceeded};

/// A text's place in the arena.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Text(u32);

/// Texts, each behind its length.
#[derive(Default)]
struct Arena(Vec<u8>);

impl Arena {
    fn push(&mut self, text: &[u8]) -> Result<Text, ChangesetError> {
        let (Ok(at), Ok(length)) = (u32::try_from(self.0.len()), u16::try_from(text.len())) else {
            return Err(Exceeded { bound: Bound::Names, limit: u32::MAX.into() }.into());
        };
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text);
        Ok(Text(at))
    }

    fn get(&self, text: Text) -> &[u8] {
        let at = text.0 as usize;
        let length = u16::from_le_bytes([self.0[at], self.0[at + 1]]);
        &self.0[at + 2..][..length.into()]
    }
}

/// What is known of one path's inode.
#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) directory: Text,
    pub(super) name: Text,
    pub(super) attributes: Attributes,
    /// One more than the index into the changeset's xattrs; 0 for none.
    xattrs: u32,
    pub(super) content: Recorded,
}

/// An inode to be remembered.
pub(super) struct Inode {
    pub(super) attributes: Attributes,
    pub(super) xattrs: Option<Box<Xattrs>>,
    pub(super) content: Recorded,
}

impl Inode {
    pub(super) const IMPLIED: Self =
        Self { attributes: Attributes::IMPLIED_DIRECTORY, xattrs: None, content: Recorded::Implied };
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    Directory,
    /// A directory that other paths run through, with no entry of its own.
    Implied,
    File(FileId),
    /// A kernel module and the machine it is for.
    Module(FileId, ElfMachine),
    Symlink(Text),
    HardLink(Text),
    Device,
    Fifo,
}

impl Recorded {
    pub(super) fn is_directory(self) -> bool {
        matches!(self, Self::Directory | Self::Implied)
    }
}

/// What one changeset asks for.
#[derive(Default)]
pub(super) struct Records {
    arena: Arena,
    pub(super) records: Vec<Record>,
    xattrs: Vec<Option<Box<Xattrs>>>,
    pub(super) whiteouts: Vec<Text>,
    pub(super) opaque: Vec<Text>,
}

impl Records {
    pub(super) fn whiteout(&mut self, path: &[u8], budget: &mut Budget) -> Result<(), ChangesetError> {
        let text = self.text(path, budget)?;
        self.whiteouts.push(text);
        Ok(())
    }

    pub(super) fn opaque(&mut self, path: &[u8], budget: &mut Budget) -> Result<(), ChangesetError> {
        let text = self.text(path, budget)?;
        self.opaque.push(text);
        Ok(())
    }

    pub(super) fn text(&mut self, text: &[u8], budget: &mut Budget) -> Result<Text, ChangesetError> {
        budget.spend(Bound::Names, text.len() as u64)?;
        self.arena.push(text)
    }

    /// Remembers the inode at a joined path. The root has no name and is none.
    pub(super) fn push(
        &mut self,
        path: &[u8],
        inode: Inode,
        budget: &mut Budget,
    ) -> Result<(), ChangesetError> {
        let Some((directory, name)) = split(path) else { return Ok(()) };
        let xattrs = match inode.xattrs {
            None => 0,
            Some(xattrs) => {
                let bytes = xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum();
                budget.spend(Bound::Names, bytes)?;
                self.xattrs.push(Some(xattrs));
                self.xattrs.len() as u32
            }
        };
        let (directory, name) = (self.directory(directory, budget)?, self.text(name, budget)?);
        let Inode { attributes, content, .. } = inode;
        self.records.push(Record { directory, name, attributes, xattrs, content });
        Ok(())
    }

    /// Entries of one directory mostly follow one another.
    fn directory(&mut self, path: &[u8], budget: &mut Budget) -> Result<Text, ChangesetError> {
        match self.records.last() {
            Some(last) if self.arena.get(last.directory) == path => Ok(last.directory),
            _ => self.text(path, budget),
        }
    }

    pub(super) fn get(&self, text: Text) -> &[u8] {
        self.arena.get(text)
    }

    pub(super) fn path(&self, record: Record) -> Vec<u8> {
        join(self.get(record.directory), self.get(record.name))
    }

    pub(super) fn take_xattrs(&mut self, record: Record) -> Option<Box<Xattrs>> {
        let index = record.xattrs.checked_sub(1)?;
        self.xattrs.get_mut(index as usize)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_small() {
        assert_eq!(size_of::<Record>(), 36);
    }
}
