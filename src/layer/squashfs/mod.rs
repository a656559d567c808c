//! A streaming writer of squashfs 4.0 images.
//!
//! In: the contents of files, one after another, then the tree that names
//! them. Out: a complete image in the file that was handed in. Contents are
//! cut into blocks, compressed by several threads and appended in the order
//! they came, so data is on disk before the tree is known. Invariant: the
//! bytes of an image depend on contents, tree, compression and block size
//! only, never on timing or the number of threads.

mod codec;
mod data;
mod directory;
mod error;
mod format;
mod fragment;
mod identity;
mod image;
mod inode;
mod metadata;
mod output;
mod pool;
pub mod reader;
mod table;
mod walk;
mod xattr;

use std::fs::File;
use std::io::Read;

use super::tree::{Attributes, Directory};
use super::verity::HashTree;
use crate::oci::Digest;
use data::Data;
use format::{MAX_BLOCK_SIZE, MIN_BLOCK_SIZE};
use output::Output;

pub use codec::Compression;
pub use error::WriteError;
pub use pool::Workers;

/// Names the content of one regular file inside the image being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u32);

impl FileId {
    /// Stands for content that was not stored, and is never written.
    pub const HIDDEN: Self = Self(u32::MAX);

    /// Names the file that was added as number `number`, counted from 0.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

/// How an image is to be written.
#[derive(Clone, Debug)]
pub struct Options {
    pub compression: Compression,
    /// Bytes of content that are compressed together: a power of two from
    /// 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Compress, for other writers too. Not one byte depends on them.
    pub workers: Workers,
}

impl Options {
    /// 128 KiB, as mksquashfs has it: larger blocks make small reads slow.
    pub const DEFAULT_BLOCK_SIZE: u32 = 128 << 10;

    fn check(&self) -> Result<(), WriteError> {
        let size = self.block_size;
        if !size.is_power_of_two() || !(MIN_BLOCK_SIZE..=MAX_BLOCK_SIZE).contains(&size) {
            return Err(WriteError::BlockSize(size));
        }
        self.compression.check()
    }
}

/// A finished image.
///
/// It comes without a digest: its first bytes are the last to be known, so a
/// digest takes a second reading, which the caller may need for more.
#[derive(Debug)]
pub struct Summary {
    /// The file that was handed to [`Writer::new`], not yet synced.
    pub file: File,
    /// Length of the file in bytes, a multiple of 4096.
    pub bytes: u64,
    /// Directories, files and symlinks, the root among them.
    pub inodes: u32,
    /// The root hash of the dm-verity tree, if one was written.
    pub verity_root: Option<Digest>,
}

/// An image in the making.
///
/// Contents may be added that no tree names later: they cost space only.
/// After an error it is to be given up.
pub struct Writer {
    options: Options,
    data: Data,
}

impl Writer {
    /// Starts an image in `file`, which is overwritten from its first byte on
    /// and read again where contents may be equal.
    pub fn new(file: File, options: Options) -> Result<Self, WriteError> {
        Self::start(Output::new(file, None), options)
    }

    /// As [`new`](Self::new), and writes a dm-verity tree of the image, with
    /// its superblock, to the file `tree`.
    pub fn with_hash_tree(file: File, tree: File, options: Options) -> Result<Self, WriteError> {
        Self::start(Output::new(file, Some(HashTree::new(tree))), options)
    }

    fn start(mut output: Output, options: Options) -> Result<Self, WriteError> {
        options.check()?;
        image::reserve_head(&mut output, options.compression)?;
        let data = Data::new(output, &options)?;
        Ok(Self { options, data })
    }

    /// Streams the content of one file of `size` bytes; returns its name for
    /// the tree. It is an error if `content` ends earlier or later.
    pub fn add_file(&mut self, size: u64, content: &mut dyn Read) -> Result<FileId, WriteError> {
        self.data.add_file(size, content)
    }

    /// Frees what only [`add_file`](Self::add_file) needs. Contents added
    /// after this are not compared with those before.
    pub fn end_contents(&mut self) -> Result<(), WriteError> {
        self.data.flush()
    }

    /// Writes inodes, directories and tables for `root`, and the superblock
    /// last. The file is complete then, but not synced.
    ///
    /// Inodes are numbered from 1, the root, breadth first; the children of a
    /// directory in the order of their names. Contents that are the same are
    /// stored once, but each name has its own inode.
    pub fn finish(self, root: &Directory, root_attributes: Attributes) -> Result<Summary, WriteError> {
        image::finish(self.data.finish()?, &self.options, root, root_attributes)
    }
}
