//! Tree → inode table, directory table and what they refer to.
//!
//! In: the tree, and where contents are. Out: the tables as stored. Inodes
//! are numbered breadth first, so the children of a directory have numbers
//! that follow one another. Directories are written in the reverse order,
//! because a directory's inode says where its listing is. No recursion: how
//! deep a tree is was not decided by us.

use super::super::tree::{self, Attributes, Directory, Node};
use super::codec::Compression;
use super::data::Contents;
use super::directory::{self, Entry, Listing};
use super::error::WriteError;
use super::format::Reference;
use super::inode::{Inode, Kind};
use super::metadata::{Metadata, MetadataWriter};
use super::table::Ids;
use super::xattr::XattrTable;

/// Longest name, Linux' `NAME_MAX`.
const MAX_NAME: usize = 255;
/// Longest target of a symlink: Linux' `PATH_MAX` counts a NUL.
const MAX_TARGET: usize = 4095;
const ROOT_NUMBER: u32 = 1;

/// What the tree became.
pub(super) struct Tables<'a> {
    pub(super) inodes: Metadata,
    pub(super) directories: Metadata,
    pub(super) root: Reference,
    /// The place of each inode, in the order of inode numbers.
    pub(super) places: Vec<u64>,
    pub(super) ids: Ids,
    pub(super) xattrs: XattrTable<'a>,
}

/// A directory with its inode number and those of its children.
#[derive(Clone, Copy)]
struct Numbered<'a> {
    name: &'a [u8],
    /// Index of the parent; the root is its own.
    parent: usize,
    children: &'a Directory,
    number: u32,
    /// Number of the first child; the others follow.
    first_child: u32,
    /// Index of the first subdirectory; the others follow.
    first_subdirectory: usize,
}

/// All directories, breadth first.
struct Numbering<'a> {
    directories: Vec<Numbered<'a>>,
    inodes: u32,
}

impl<'a> Numbering<'a> {
    fn new(root: &'a Directory) -> Result<Self, WriteError> {
        let new = |name, parent, children, number| Numbered {
            name,
            parent,
            children,
            number,
            first_child: 0,
            first_subdirectory: 0,
        };
        let mut directories = vec![new(&[][..], 0, root, ROOT_NUMBER)];
        let mut inodes = ROOT_NUMBER;
        let mut at = 0;
        while let Some(directory) = directories.get_mut(at) {
            directory.first_child = inodes.saturating_add(1);
            let children = directory.children;
            let first_subdirectory = directories.len();
            directories[at].first_subdirectory = first_subdirectory;
            for (name, node) in children {
                inodes = inodes.checked_add(1).ok_or(WriteError::TooMany("inodes"))?;
                if let tree::Content::Directory(children) = &node.content {
                    directories.push(new(name, at, children, inodes));
                }
            }
            at += 1;
        }
        Ok(Self { directories, inodes })
    }

    /// The path of `name` in a directory, from the root.
    fn path(&self, mut directory: usize, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        while directory != 0 {
            let parent = &self.directories[directory];
            names.push(parent.name);
            directory = parent.parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// Tables in the making.
struct Walk<'a> {
    numbering: Numbering<'a>,
    contents: &'a Contents,
    /// By index of the directory; empty until it was written.
    listings: Vec<Listing>,
    inodes: MetadataWriter,
    directories: MetadataWriter,
    places: Vec<u64>,
    ids: Ids,
    xattrs: XattrTable<'a>,
}

/// Writes the tables for `root`, whose files have their data in `contents`.
pub(super) fn walk<'a>(
    root: &'a Directory,
    root_attributes: Attributes,
    contents: &'a Contents,
    compression: Compression,
) -> Result<Tables<'a>, WriteError> {
    let numbering = Numbering::new(root)?;
    let mut walk = Walk {
        listings: numbering.directories.iter().map(|_| Listing::default()).collect(),
        places: vec![0; numbering.inodes as usize],
        numbering,
        contents,
        inodes: MetadataWriter::new(compression)?,
        directories: MetadataWriter::new(compression)?,
        ids: Ids::default(),
        xattrs: XattrTable::new(compression)?,
    };
    for directory in (0..walk.listings.len()).rev() {
        walk.listings[directory] = walk.write_directory(directory)?;
    }
    let listing = std::mem::take(&mut walk.listings[0]);
    let kind = Kind::Directory { listing: &listing, parent: ROOT_NUMBER };
    let root = walk.write_inode(root_attributes, None, ROOT_NUMBER, kind)?;
    Ok(Tables {
        inodes: walk.inodes.finish()?,
        directories: walk.directories.finish()?,
        root,
        places: walk.places,
        ids: walk.ids,
        xattrs: walk.xattrs,
    })
}

impl<'a> Walk<'a> {
    /// Writes the inodes of a directory's children, then its listing.
    fn write_directory(&mut self, at: usize) -> Result<Listing, WriteError> {
        let directory = self.numbering.directories[at];
        let mut subdirectory = directory.first_subdirectory;
        let mut entries = Vec::with_capacity(directory.children.len());
        for ((name, node), number) in directory.children.iter().zip(directory.first_child..) {
            let path = |walk: &Self| walk.numbering.path(at, name);
            if !is_name(name) {
                return Err(WriteError::Name { path: path(self) });
            }
            let listing;
            let kind = match &node.content {
                tree::Content::Directory(_) => {
                    listing = std::mem::take(&mut self.listings[subdirectory]);
                    subdirectory += 1;
                    Kind::Directory { listing: &listing, parent: directory.number }
                }
                tree::Content::File(id) => match self.contents.get(*id) {
                    Some((content, blocks)) => Kind::File(content, blocks),
                    None => return Err(WriteError::Content { path: path(self) }),
                },
                tree::Content::Symlink(target) if is_target(target) => Kind::Symlink(target),
                tree::Content::Symlink(_) => return Err(WriteError::Target { path: path(self) }),
                tree::Content::HardLink(_) | tree::Content::Device | tree::Content::Fifo => {
                    return Err(WriteError::Kind { path: path(self) });
                }
            };
            let file_type = kind.file_type();
            let xattr = self.xattr(node, at, name)?;
            let inode = self.write_inode(node.attributes, xattr, number, kind)?;
            entries.push(Entry { name, inode, number, file_type });
        }
        directory::append(&mut self.directories, &entries)
    }

    /// The index of a node's set of extended attributes.
    fn xattr(&mut self, node: &'a Node, directory: usize, name: &[u8]) -> Result<Option<u32>, WriteError> {
        let Some(xattrs) = node.xattrs.as_deref().filter(|xattrs| !xattrs.is_empty()) else {
            return Ok(None);
        };
        self.xattrs.index(xattrs, || self.numbering.path(directory, name)).map(Some)
    }

    fn write_inode(
        &mut self,
        attributes: Attributes,
        xattr: Option<u32>,
        number: u32,
        kind: Kind,
    ) -> Result<Reference, WriteError> {
        let (uid, gid) = (self.ids.index(attributes.uid)?, self.ids.index(attributes.gid)?);
        let place = self.inodes.position()?;
        self.inodes.write(&Inode { attributes, uid, gid, number, xattr, kind }.encode()?)?;
        self.places[number as usize - 1] = place.to_u64();
        Ok(place)
    }
}

fn is_name(name: &[u8]) -> bool {
    let special = matches!(name, b"" | b"." | b"..");
    !special && name.len() <= MAX_NAME && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() <= MAX_TARGET && !target.contains(&0)
}
