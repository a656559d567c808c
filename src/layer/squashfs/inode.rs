//! Inodes.
//!
//! ```text
//! u16 type · u16 mode · u16 index of uid · u16 index of gid · u32 mtime · u32 number, then
//! directory  u32 block · u32 nlink · u16 size + 3 · u16 offset · u32 parent
//!  extended  u32 nlink · u32 size + 3 · u32 block · u32 parent · u16 index entries · u16 offset · u32 xattr
//!            and for each index entry: u32 offset · u32 block · u32 length of name - 1 · name
//! file       u32 start · u32 fragment · u32 offset in it · u32 size · u32 for each block
//!  extended  u64 start · u64 size · u64 sparse · u32 nlink · u32 fragment · u32 offset · u32 xattr · u32 for each block
//! symlink    u32 nlink · u32 length · target
//!  extended  the same · u32 xattr
//! ```
//!
//! The size of a directory counts three bytes for `.` and `..`, which are not
//! stored. Invariant: an inode is extended only if the basic form cannot say
//! all of it.

use super::super::tree::Attributes;
use super::data::Content;
use super::directory::Listing;
use super::error::WriteError;
use super::format::{NO_FRAGMENT, NO_XATTR, Record};

/// The basic types; directory entries have only these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileType {
    Directory = 1,
    File = 2,
    Symlink = 3,
}

/// From a basic type to the extended one.
const EXTENDED: u16 = 7;

/// An inode before it is encoded.
pub(super) struct Inode<'a> {
    pub(super) attributes: Attributes,
    /// Indices of owner and group in the id table.
    pub(super) uid: u16,
    pub(super) gid: u16,
    pub(super) number: u32,
    /// Index of its set of extended attributes.
    pub(super) xattr: Option<u32>,
    pub(super) kind: Kind<'a>,
}

pub(super) enum Kind<'a> {
    Directory {
        listing: &'a Listing,
        /// Inode number of the parent; the root is its own.
        parent: u32,
    },
    /// Where its content is, and the stored sizes of its blocks.
    File(&'a Content, &'a [u32]),
    Symlink(&'a [u8]),
}

impl Kind<'_> {
    pub(super) fn file_type(&self) -> FileType {
        match self {
            Self::Directory { .. } => FileType::Directory,
            Self::File(..) => FileType::File,
            Self::Symlink(_) => FileType::Symlink,
        }
    }
}

impl Inode<'_> {
    pub(super) fn encode(&self) -> Result<Vec<u8>, WriteError> {
        let record = match self.kind {
            Kind::Directory { listing, parent } => self.directory(listing, parent)?,
            Kind::File(content, blocks) => self.file(content, blocks),
            Kind::Symlink(target) => self.symlink(target),
        };
        Ok(record.finish())
    }

    fn head(&self, extension: u16) -> Record {
        Record::default()
            .u16(self.kind.file_type() as u16 + extension)
            .u16(self.attributes.mode & 0o7777)
            .u16(self.uid)
            .u16(self.gid)
            .u32(self.attributes.mtime)
            .u32(self.number)
    }

    fn xattr(&self) -> u32 {
        self.xattr.unwrap_or(NO_XATTR)
    }

    fn directory(&self, listing: &Listing, parent: u32) -> Result<Record, WriteError> {
        let size = listing.size.checked_add(3).ok_or(WriteError::TooMany("entries in one directory"))?;
        // Itself and its entry in the parent; each subdirectory has a `..`.
        let nlink = listing.subdirectories.saturating_add(2);
        let start = listing.start;
        if let (Ok(size), None) = (u16::try_from(size), self.xattr) {
            let head = self.head(0).u32(start.block).u32(nlink);
            return Ok(head.u16(size).u16(start.offset).u32(parent));
        }
        let head = self.head(EXTENDED).u32(nlink).u32(size).u32(start.block).u32(parent);
        let head = head.u16(listing.index.len() as u16).u16(start.offset).u32(self.xattr());
        Ok(listing.index.iter().fold(head, |record, entry| {
            record.u32(entry.offset).u32(entry.block).u32(entry.name.len() as u32 - 1).bytes(&entry.name)
        }))
    }

    fn file(&self, content: &Content, blocks: &[u32]) -> Record {
        let (fragment, offset) =
            content.fragment.map_or((NO_FRAGMENT, 0), |fragment| (fragment.index, fragment.offset));
        let head = match (u32::try_from(content.start), u32::try_from(content.size), self.xattr) {
            (Ok(start), Ok(size), None) if content.sparse == 0 => {
                self.head(0).u32(start).u32(fragment).u32(offset).u32(size)
            }
            _ => {
                let head = self.head(EXTENDED).u64(content.start).u64(content.size).u64(content.sparse);
                head.u32(1).u32(fragment).u32(offset).u32(self.xattr())
            }
        };
        blocks.iter().fold(head, |record, &size_word| record.u32(size_word))
    }

    fn symlink(&self, target: &[u8]) -> Record {
        let extension = if self.xattr.is_some() { EXTENDED } else { 0 };
        let record = self.head(extension).u32(1).u32(target.len() as u32).bytes(target);
        match self.xattr {
            Some(xattr) => record.u32(xattr),
            None => record,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::IndexEntry;
    use super::super::format::Reference;
    use super::super::fragment::Fragment;
    use super::*;

    const ATTRIBUTES: Attributes = Attributes { mode: 0o4755, uid: 1000, gid: 100, mtime: 0x0102_0304 };

    fn encode(kind: Kind, xattr: Option<u32>) -> Vec<u8> {
        Inode { attributes: ATTRIBUTES, uid: 1, gid: 2, number: 77, xattr, kind }.encode().unwrap()
    }

    fn head(inode_type: u16) -> Record {
        Record::default().u16(inode_type).u16(0o4755).u16(1).u16(2).u32(0x0102_0304).u32(77)
    }

    #[test]
    fn a_file_is_extended_only_if_it_must() {
        let fragment = Some(Fragment { index: 5, offset: 6 });
        let content = |size, start, sparse| Content { size, start, sparse, fragment, blocks: 0..2 };
        let basic = |start, size| head(2).u32(start).u32(5).u32(6).u32(size).u32(9).u32(8).finish();
        let extended = |start, size, sparse, xattr| {
            let head = head(9).u64(start).u64(size).u64(sparse).u32(1).u32(5).u32(6);
            head.u32(xattr).u32(9).u32(8).finish()
        };
        let large = u64::from(u32::MAX) + 1;
        for (why, content, xattr, expected) in [
            ("small", content(7, 96, 0), None, basic(96, 7)),
            ("largest", content(large - 1, large - 1, 0), None, basic(u32::MAX, u32::MAX)),
            ("long", content(large, 96, 0), None, extended(96, large, 0, NO_XATTR)),
            ("far", content(7, large, 0), None, extended(large, 7, 0, NO_XATTR)),
            ("sparse", content(7, 96, 3), None, extended(96, 7, 3, NO_XATTR)),
            ("with xattrs", content(7, 96, 0), Some(4), extended(96, 7, 0, 4)),
        ] {
            assert_eq!(encode(Kind::File(&content, &[9, 8]), xattr), expected, "{why}");
        }
    }

    #[test]
    fn an_empty_file_is_in_no_fragment() {
        let expected = head(2).u32(0).u32(NO_FRAGMENT).u32(0).u32(0).finish();
        assert_eq!(encode(Kind::File(&Content::default(), &[]), None), expected);
    }

    #[test]
    fn a_directory_is_extended_only_if_it_must() {
        let listing = |size| Listing {
            start: Reference { block: 10, offset: 11 },
            size,
            subdirectories: 3,
            index: vec![IndexEntry { offset: 12, block: 13, name: (*b"ab").into() }],
        };
        let basic = |size| head(1).u32(10).u32(5).u16(size).u16(11).u32(6).finish();
        let extended = |size, xattr| {
            let head = head(8).u32(5).u32(size).u32(10).u32(6).u16(1).u16(11).u32(xattr);
            head.u32(12).u32(13).u32(1).bytes(b"ab").finish()
        };
        for (why, listing, xattr, expected) in [
            ("empty", listing(0), None, basic(3)),
            ("largest", listing(65_532), None, basic(65_535)),
            ("long", listing(65_533), None, extended(65_536, NO_XATTR)),
            ("with xattrs", listing(0), Some(4), extended(3, 4)),
        ] {
            assert_eq!(encode(Kind::Directory { listing: &listing, parent: 6 }, xattr), expected, "{why}");
        }
    }

    #[test]
    fn a_symlink_is_extended_only_if_it_must() {
        let basic = head(3).u32(1).u32(3).bytes(b"a/b").finish();
        let extended = head(10).u32(1).u32(3).bytes(b"a/b").u32(4).finish();
        assert_eq!(encode(Kind::Symlink(b"a/b"), None), basic);
        assert_eq!(encode(Kind::Symlink(b"a/b"), Some(4)), extended);
    }
}
