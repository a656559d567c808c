//! The tree of files that an image's changesets add up to, in memory.
//!
//! Names are bytes. File contents are not here: a [`File`] names data that
//! the squashfs writer already holds. The tree never touches a file system.

use std::collections::BTreeMap;

use super::squashfs::FileId;

/// What an inode carries besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, set-ID and sticky bits: at most 0o7777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
}

impl Attributes {
    /// A directory that no changeset described.
    pub const IMPLIED_DIRECTORY: Self = Self { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
}

/// Extended attributes, name to value.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// One name's inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub attributes: Attributes,
    /// The changeset it came from, 0 for the lowest.
    pub changeset: u16,
    /// `None` is the common case and costs a pointer.
    pub xattrs: Option<Box<Xattrs>>,
    pub content: Content,
}

/// The kinds of inode. The last three are read so that they can be reported;
/// the rules refuse them, and the squashfs writer does not take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Directory(Directory),
    File(FileId),
    Symlink(Box<[u8]>),
    HardLink(Box<[u8]>),
    /// Character or block device.
    Device,
    Fifo,
}

/// Children by name. Byte order is also squashfs' order.
pub type Directory = BTreeMap<Box<[u8]>, Node>;
