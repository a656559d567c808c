//! A reader of squashfs 4.0 images that strangers made.
//!
//! In: a file, where the image is in it, and limits. Out: the tree, in
//! memory, and the content of each of its files. The kernel never sees the
//! image. Invariants: every place, count, size and total is checked before it
//! is used; work and memory are bounded by the limits, whatever the image
//! says; what the format leaves open, such as the order of tables, does not
//! matter, and what it does not allow is refused.

mod content;
mod decoder;
mod error;
mod inode;
mod listing;
mod metadata;
mod superblock;
mod walk;
mod window;
mod xattr;

use std::ops::Range;
use std::os::unix::fs::FileExt;

pub use content::Content;
pub use error::ReadError;

use super::FileId;
use crate::layer::rules::Permission;
use crate::layer::tree::Node;
use crate::limits::{Bound, Limits};
use content::Fragments;
use inode::Kind;
use metadata::{Metadata, Place};
use superblock::Layout;
use walk::Walk;
use window::Window;

/// An opened image.
pub struct Reader<F> {
    metadata: Metadata<F>,
    layout: Layout,
    limits: Limits,
    ids: Vec<u32>,
    xattr_table: Option<xattr::Table>,
    fragments: Fragments,
}

/// What an image holds.
pub struct Tree {
    /// The root directory. A [`FileId`] in it stands for the content that
    /// [`Reader::content`] gives; they count from 0, depth first and in the
    /// order of names.
    pub root: Node,
    files: Vec<Stored>,
}

/// Where a file's inode is, and its size when the tree was read.
#[derive(Clone, Copy)]
struct Stored {
    place: Place,
    size: u64,
}

impl<F: FileExt> Reader<F> {
    /// Opens the image that takes up `range` of `file`; behind its end there
    /// may be padding.
    pub fn open(file: F, range: Range<u64>, limits: Limits) -> Result<Self, ReadError> {
        let mut window = Window::new(file, range);
        let (layout, decoder) = superblock::read(&mut window)?;
        // The root is no entry of a directory.
        limits.check(Bound::Entries, u64::from(layout.inodes).saturating_sub(1))?;
        let metadata = Metadata::new(window, decoder);
        let fragments = Fragments { left: limits.get(Bound::ImageBytes), kept: Vec::new() };
        let mut reader = Self { metadata, layout, limits, ids: Vec::new(), xattr_table: None, fragments };
        for index in 0..u32::from(layout.ids) {
            let mut at = reader.metadata.record(layout.id_table, index, size_of::<u32>())?;
            let id = reader.metadata.u32(&mut at)?;
            reader.ids.push(id);
        }
        reader.xattr_table = layout.xattr_table.map(|table| reader.xattr_table(table)).transpose()?;
        Ok(reader)
    }

    /// Reads the tree. Of an inode with several names the first is the file
    /// and the others are hard links to it, or, where these are allowed, the
    /// same file.
    pub fn tree(&mut self, hard_links: Permission) -> Result<Tree, ReadError> {
        Walk::new(self, hard_links).run()
    }

    /// The content of a file in `tree`; `None` if it is not from there.
    pub fn content(&mut self, tree: &Tree, id: FileId) -> Result<Option<Content<'_, F>>, ReadError> {
        let Some(stored) = tree.files.get(id.0 as usize) else { return Ok(None) };
        let inode = self.inode(stored.place)?;
        match inode.kind {
            Kind::File(file) if file.size == stored.size => Ok(Some(Content::new(self, file))),
            _ => Err(ReadError::Inode { number: inode.number, problem: "changed while it was read" }),
        }
    }
}

#[cfg(test)]
mod tests;
