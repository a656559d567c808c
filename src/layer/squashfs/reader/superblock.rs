//! The superblock, and what it says checked against itself.
//!
//! In: the first 96 bytes (for their layout see the writer's `format`). Out:
//! its [`Layout`], and the [`Decoder`] for its blocks. Invariant: every table
//! starts inside the image.

use std::os::unix::fs::FileExt;

use super::decoder::Decoder;
use super::error::ReadError;
use super::window::{Window, array};
use crate::layer::squashfs::format::{
    MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, NO_TABLE, RAW_METADATA, Superblock, flags,
};

/// What the reader needs of a superblock.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) inodes: u32,
    pub(super) block_size: u32,
    pub(super) fragments: u32,
    pub(super) ids: u16,
    /// Place of the root's inode, as [`Self::inode_table`] counts.
    pub(super) root: u64,
    pub(super) id_table: u64,
    pub(super) xattr_table: Option<u64>,
    pub(super) inode_table: u64,
    pub(super) directory_table: u64,
    pub(super) fragment_table: u64,
}

/// Reads and checks the superblock; the window is cut to the image.
pub(super) fn read<F: FileExt>(window: &mut Window<F>) -> Result<(Layout, Decoder), ReadError> {
    if window.size() < Superblock::SIZE as u64 {
        return Err(ReadError::NotSquashfs);
    }
    let head = window.read(0, Superblock::SIZE)?;
    let field = |at: usize| head.get(at..).unwrap_or_default();
    let u16 = |at| u16::from_le_bytes(array(field(at)));
    let u32 = |at| u32::from_le_bytes(array(field(at)));
    let u64 = |at| u64::from_le_bytes(array(field(at)));
    if !head.starts_with(b"hsqs") || (u16(28), u16(30)) != (4, 0) {
        return Err(ReadError::NotSquashfs);
    }
    let decoder = Decoder::new(u16(20))?;
    let bytes_used = u64(40);
    if bytes_used > window.size() {
        return Err(ReadError::Superblock("announces more bytes than there are"));
    }
    window.cut(bytes_used);
    let layout = Layout {
        inodes: u32(4),
        block_size: u32(12),
        fragments: u32(16),
        ids: u16(26),
        root: u64(32),
        id_table: u64(48),
        xattr_table: Some(u64(56)).filter(|table| *table != NO_TABLE),
        inode_table: u64(64),
        directory_table: u64(72),
        fragment_table: u64(80),
    };
    layout.check(u16(22), bytes_used)?;
    let options = match u16(24) & flags::COMPRESSOR_OPTIONS {
        0 => None,
        _ => Some(read_options(window, &decoder)?),
    };
    decoder.check_options(options.as_deref())?;
    Ok((layout, decoder))
}

impl Layout {
    fn check(&self, block_log: u16, bytes_used: u64) -> Result<(), ReadError> {
        let size = self.block_size;
        let tables = [self.inode_table, self.directory_table, self.id_table];
        let optional = [self.xattr_table, Some(self.fragment_table).filter(|_| self.fragments > 0)];
        let inside = |table: u64| (Superblock::SIZE as u64..bytes_used).contains(&table);
        for (holds, problem) in [
            (size.is_power_of_two(), "has a block size that is no power of two"),
            ((MIN_BLOCK_SIZE..=MAX_BLOCK_SIZE).contains(&size), "has a block size that is not allowed"),
            (size.checked_ilog2() == Some(block_log.into()), "has two different block sizes"),
            (self.inodes > 0, "announces no inodes"),
            (self.ids > 0, "announces no owners"),
            (
                tables.into_iter().chain(optional.into_iter().flatten()).all(inside),
                "has a table outside the image",
            ),
            (self.inode_table < self.directory_table, "has the directories before the inodes"),
        ] {
            if !holds {
                return Err(ReadError::Superblock(problem));
            }
        }
        Ok(())
    }
}

/// Most options are for those who write; what a reader needs, the decoder checks.
fn read_options<F: FileExt>(window: &Window<F>, decoder: &Decoder) -> Result<Vec<u8>, ReadError> {
    let header = window.u16(Superblock::SIZE as u64)?;
    let length = decoder.options();
    if header != RAW_METADATA | length as u16 {
        return Err(ReadError::Superblock("has options that its compressor does not have"));
    }
    window.read(Superblock::SIZE as u64 + 2, length)
}
