//! Inodes as they are stored (for their layout see the writer's `inode`; those
//! of devices and the like are a link count, for devices a number, and in the
//! extended form the xattrs).
//!
//! In: the place of an inode. Out: an [`Inode`]. Invariant: every field that
//! says how much follows was checked before anything was read by it.

use std::os::unix::fs::FileExt;

use super::Reader;
use super::error::ReadError;
use super::metadata::Place;
use crate::layer::squashfs::format::{NO_FRAGMENT, NO_XATTR};
use crate::layer::tree::Attributes;
use crate::limits::Bound;

pub(super) struct Inode {
    pub(super) number: u32,
    /// The basic type, which directory entries have too.
    pub(super) basic: u16,
    pub(super) attributes: Attributes,
    pub(super) links: u32,
    /// Index of its xattrs.
    pub(super) xattr: Option<u32>,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    /// Where the listing is, and its bytes.
    Directory {
        listing: Place,
        length: u32,
    },
    File(File),
    Symlink(Vec<u8>),
    Device,
    /// A FIFO or a socket.
    Fifo,
}

#[derive(Clone, Copy)]
pub(super) struct File {
    /// Where the first block is, from the start of the image.
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) fragment: Option<Fragment>,
    /// The sizes of the blocks.
    pub(super) blocks: Place,
}

/// Where the tail of a file is.
#[derive(Clone, Copy)]
pub(super) struct Fragment {
    pub(super) index: u32,
    pub(super) offset: u32,
}

/// What follows the fields that all inodes have.
struct Rest {
    links: u32,
    xattr: u32,
    kind: Kind,
}

impl<F: FileExt> Reader<F> {
    pub(super) fn inode(&mut self, mut place: Place) -> Result<Inode, ReadError> {
        let at = &mut place;
        let kind = self.metadata.u16(at)?;
        let mode = self.metadata.u16(at)?;
        let (uid, gid) = (self.metadata.u16(at)?, self.metadata.u16(at)?);
        let (mtime, number) = (self.metadata.u32(at)?, self.metadata.u32(at)?);
        let refuse = |problem| ReadError::Inode { number, problem };
        if number == 0 || number > self.layout.inodes {
            return Err(refuse("has a number that the superblock does not allow"));
        }
        if mode > 0o7777 {
            return Err(refuse("has a mode of more than permission bits"));
        }
        let Rest { links, xattr, kind: content } = match kind {
            1 | 8 => self.directory(at, kind == 8)?,
            2 | 9 => self.file(at, kind == 9)?,
            3 | 10 => self.symlink(at, kind == 10, number)?,
            4 | 5 | 11 | 12 => self.special(at, kind > 7, Kind::Device)?,
            6 | 7 | 13 | 14 => self.special(at, kind > 7, Kind::Fifo)?,
            _ => return Err(refuse("is of an unknown type")),
        };
        let attributes = Attributes { mode, uid: self.id(uid)?, gid: self.id(gid)?, mtime };
        let basic = if kind > 7 { kind.saturating_sub(7) } else { kind };
        let xattr = Some(xattr).filter(|index| *index != NO_XATTR);
        Ok(Inode { number, basic, attributes, links, xattr, kind: content })
    }

    fn id(&self, index: u16) -> Result<u32, ReadError> {
        let (what, count) = ("owner", self.ids.len() as u32);
        self.ids.get(usize::from(index)).copied().ok_or(ReadError::Index { what, index: index.into(), count })
    }

    fn directory(&mut self, at: &mut Place, extended: bool) -> Result<Rest, ReadError> {
        let metadata = &mut self.metadata;
        let (block, links, length, offset, xattr);
        if extended {
            (links, length, block) = (metadata.u32(at)?, metadata.u32(at)?, metadata.u32(at)?);
            // The parent, and how many entries the index has, which is not read.
            metadata.u32(at)?;
            metadata.u16(at)?;
            (offset, xattr) = (metadata.u16(at)?, metadata.u32(at)?);
        } else {
            (block, links) = (metadata.u32(at)?, metadata.u32(at)?);
            (length, offset) = (u32::from(metadata.u16(at)?), metadata.u16(at)?);
            xattr = NO_XATTR;
        }
        // Three bytes stand for `.` and `..`, which are not stored.
        let length = length.saturating_sub(3);
        let listing = match length {
            0 => *at,
            _ => Place::new(self.layout.directory_table, u64::from(block) << 16 | u64::from(offset))?,
        };
        Ok(Rest { links, xattr, kind: Kind::Directory { listing, length } })
    }

    fn file(&mut self, at: &mut Place, extended: bool) -> Result<Rest, ReadError> {
        let metadata = &mut self.metadata;
        let (start, size, links, index, offset, xattr);
        if extended {
            (start, size) = (metadata.u64(at)?, metadata.u64(at)?);
            // How much of it is holes: for statfs only.
            metadata.u64(at)?;
            links = metadata.u32(at)?;
            (index, offset, xattr) = (metadata.u32(at)?, metadata.u32(at)?, metadata.u32(at)?);
        } else {
            start = metadata.u32(at)?.into();
            (index, offset, size) = (metadata.u32(at)?, metadata.u32(at)?, metadata.u32(at)?.into());
            (links, xattr) = (1, NO_XATTR);
        }
        let count = self.layout.fragments;
        if index != NO_FRAGMENT && index >= count {
            return Err(ReadError::Index { what: "fragment", index, count });
        }
        let fragment = (index != NO_FRAGMENT).then_some(Fragment { index, offset });
        Ok(Rest { links, xattr, kind: Kind::File(File { start, size, fragment, blocks: *at }) })
    }

    fn symlink(&mut self, at: &mut Place, extended: bool, number: u32) -> Result<Rest, ReadError> {
        let (links, length) = (self.metadata.u32(at)?, self.metadata.u32(at)?);
        if length == 0 {
            return Err(ReadError::Inode { number, problem: "has a target that is empty" });
        }
        self.limits.check(Bound::SymlinkTarget, length.into())?;
        let target = self.metadata.bytes(at, length as usize)?;
        if target.iter().any(u8::is_ascii_control) {
            return Err(ReadError::Inode { number, problem: "has a target with control characters" });
        }
        let xattr = if extended { self.metadata.u32(at)? } else { NO_XATTR };
        Ok(Rest { links, xattr, kind: Kind::Symlink(target) })
    }

    fn special(&mut self, at: &mut Place, extended: bool, kind: Kind) -> Result<Rest, ReadError> {
        let links = self.metadata.u32(at)?;
        if matches!(kind, Kind::Device) {
            // Its number does not matter: it is refused.
            self.metadata.u32(at)?;
        }
        let xattr = if extended { self.metadata.u32(at)? } else { NO_XATTR };
        Ok(Rest { links, xattr, kind })
    }
}
