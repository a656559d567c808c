//! squashfs 4.0 on disk (Linux, fs/squashfs/squashfs_fs.h).
//!
//! ```text
//! superblock · compressor options · data and fragment blocks · inodes ·
//! directories · fragment table · export table · id table · xattr table
//! ```
//!
//! All numbers are little-endian and unaligned. Everything after the data
//! consists of *metadata blocks*: a u16 with the stored size, then at most
//! 8 KiB before compression. The kernel checks that each table ends exactly
//! where the next one starts, so the order above is part of the format.

pub(super) const MIN_BLOCK_SIZE: u32 = 4 << 10;
pub(super) const MAX_BLOCK_SIZE: u32 = 1 << 20;

/// Uncompressed size of every metadata block but a table's last.
pub(super) const METADATA_SIZE: usize = 8 << 10;

/// In the size of a data or fragment block: stored as it is.
pub(super) const RAW_BLOCK: u32 = 1 << 24;

/// In the header of a metadata block: stored as it is.
pub(super) const RAW_METADATA: u16 = 1 << 15;

/// In the block list of a file: a block of zeros, which is not stored.
pub(super) const HOLE: u32 = 0;

/// In the options of lz4: a block is one lz4 block without a frame.
pub(super) const LZ4_VERSION: u32 = 1;

/// A file whose tail is in no fragment block.
pub(super) const NO_FRAGMENT: u32 = u32::MAX;

/// An inode without extended attributes.
pub(super) const NO_XATTR: u32 = u32::MAX;

/// In the superblock: a table that is not there.
pub(super) const NO_TABLE: u64 = u64::MAX;

/// Entries that one directory header may stand for.
pub(super) const DIRECTORY_RUN: usize = 256;

/// The image is padded to this, so that any block device can carry it.
pub(super) const PADDING: u64 = 4096;

/// Appends numbers as they are on disk.
#[derive(Default)]
pub(super) struct Record(Vec<u8>);

impl Record {
    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A place in a table of metadata blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reference {
    /// Where the metadata block starts, from the start of the table.
    pub(super) block: u32,
    /// Byte within the uncompressed metadata block.
    pub(super) offset: u16,
}

impl Reference {
    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }
}

/// The superblock's bits.
pub(super) mod flags {
    pub const RAW_INODES: u16 = 0x0001;
    pub const RAW_DATA: u16 = 0x0002;
    pub const RAW_FRAGMENTS: u16 = 0x0008;
    /// The tail of every file is in a fragment block, not of small ones only.
    pub const ALWAYS_FRAGMENTS: u16 = 0x0020;
    pub const DUPLICATES: u16 = 0x0040;
    pub const EXPORTABLE: u16 = 0x0080;
    pub const RAW_XATTRS: u16 = 0x0100;
    pub const NO_XATTRS: u16 = 0x0200;
    pub const COMPRESSOR_OPTIONS: u16 = 0x0400;
    pub const RAW_IDS: u16 = 0x0800;
}

/// The first 96 bytes of an image. Table fields are absolute positions.
pub(super) struct Superblock {
    pub(super) inodes: u32,
    pub(super) block_size: u32,
    pub(super) fragments: u32,
    pub(super) compressor: u16,
    pub(super) flags: u16,
    pub(super) ids: u16,
    pub(super) root: Reference,
    /// Length of the image without padding.
    pub(super) bytes_used: u64,
    pub(super) id_table: u64,
    pub(super) xattr_table: u64,
    pub(super) inode_table: u64,
    pub(super) directory_table: u64,
    pub(super) fragment_table: u64,
    pub(super) export_table: u64,
}

impl Superblock {
    pub(super) const SIZE: usize = 96;
    const MAGIC: u32 = u32::from_le_bytes(*b"hsqs");
    const VERSION: (u16, u16) = (4, 0);
    /// The time of creation: always the same, or no two images would be.
    const TIME: u32 = 0;

    pub(super) fn encode(&self) -> Vec<u8> {
        Record::default()
            .u32(Self::MAGIC)
            .u32(self.inodes)
            .u32(Self::TIME)
            .u32(self.block_size)
            .u32(self.fragments)
            .u16(self.compressor)
            .u16(self.block_size.ilog2() as u16)
            .u16(self.flags)
            .u16(self.ids)
            .u16(Self::VERSION.0)
            .u16(Self::VERSION.1)
            .u64(self.root.to_u64())
            .u64(self.bytes_used)
            .u64(self.id_table)
            .u64(self.xattr_table)
            .u64(self.inode_table)
            .u64(self.directory_table)
            .u64(self.fragment_table)
            .u64(self.export_table)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_has_its_fields_where_the_kernel_reads_them() {
        let bytes = Superblock {
            inodes: 1,
            block_size: 131_072,
            fragments: 2,
            compressor: 6,
            flags: 0x02e0,
            ids: 3,
            root: Reference { block: 4, offset: 5 },
            bytes_used: 6,
            id_table: 7,
            xattr_table: NO_TABLE,
            inode_table: 8,
            directory_table: 9,
            fragment_table: 10,
            export_table: 11,
        }
        .encode();
        assert_eq!(bytes.len(), Superblock::SIZE);
        for (field, place, value) in [
            ("magic", 0..4, 0x7371_7368),
            ("inodes", 4..8, 1),
            ("mkfs_time", 8..12, 0),
            ("block_size", 12..16, 131_072),
            ("fragments", 16..20, 2),
            ("compression", 20..22, 6),
            ("block_log", 22..24, 17),
            ("flags", 24..26, 0x02e0),
            ("no_ids", 26..28, 3),
            ("s_major", 28..30, 4),
            ("s_minor", 30..32, 0),
            ("root_inode", 32..40, 0x4_0005),
            ("bytes_used", 40..48, 6),
            ("id_table_start", 48..56, 7),
            ("xattr_id_table_start", 56..64, NO_TABLE),
            ("inode_table_start", 64..72, 8),
            ("directory_table_start", 72..80, 9),
            ("fragment_table_start", 80..88, 10),
            ("lookup_table_start", 88..96, 11),
        ] {
            let found = bytes[place].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            assert_eq!(found, value, "{field}");
        }
    }
}
