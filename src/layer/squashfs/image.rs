//! The image as a whole: what comes before the data, and what comes after.
//!
//! In: contents already written, and the tree. Out: the finished file.
//! Invariant: the superblock is written last, so an image that was given up
//! has no magic number.

use super::codec::Compression;
use super::data::Written;
use super::error::WriteError;
use super::format::{Superblock, flags};
use super::output::{Finished, Output};
use super::walk::{Tables, walk};
use super::{Options, Summary, metadata, table};
use crate::layer::tree::{Attributes, Directory};

/// Room for the superblock, then the compressor's options.
pub(super) fn reserve_head(output: &mut Output, compression: Compression) -> Result<(), WriteError> {
    output.append(&[0; Superblock::SIZE])?;
    if let Some(options) = compression.options() {
        output.append(&metadata::raw_block(&options))?;
    }
    Ok(())
}

/// Appends all tables for `root` and fills in the superblock.
pub(super) fn finish(
    written: Written,
    options: &Options,
    root: &Directory,
    root_attributes: Attributes,
) -> Result<Summary, WriteError> {
    let Written { mut output, contents, fragments } = written;
    let compression = options.compression;
    let tables = walk(root, root_attributes, &contents, compression)?;
    let Tables { inodes, directories, root, places, ids, xattrs } = tables;
    let mut flags = compression.flags() | flags::ALWAYS_FRAGMENTS | flags::DUPLICATES | flags::EXPORTABLE;
    if xattrs.is_empty() {
        flags |= flags::NO_XATTRS;
    }
    // Fields are evaluated as they stand here: in the order of the tables on disk.
    let superblock = Superblock {
        inodes: places.len() as u32,
        block_size: options.block_size,
        fragments: u32::try_from(fragments.len()).map_err(|_| WriteError::TooMany("fragments"))?,
        compressor: compression.number(),
        flags,
        ids: ids.count(),
        root,
        inode_table: output.append(&inodes.bytes)?,
        directory_table: output.append(&directories.bytes)?,
        fragment_table: table::append(&mut output, compression, &table::fragment_records(&fragments))?,
        export_table: table::append(&mut output, compression, &table::export_records(&places))?,
        id_table: table::append(&mut output, compression, &ids.records())?,
        xattr_table: xattrs.append(&mut output, compression)?,
        bytes_used: output.position(),
    };
    let Finished { file, bytes, verity_root } = output.finish(&superblock.encode())?;
    Ok(Summary { file, bytes, inodes: superblock.inodes, verity_root })
}
