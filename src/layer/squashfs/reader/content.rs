//! The content of one file, block by block.
//!
//! In: a file's inode. Out: a [`Read`] of exactly its size. Invariants: one
//! block is held at a time, besides a few fragment blocks that files share; a
//! block is never stored in more bytes than it has, so a read costs in
//! proportion to what it yields, and what fragment blocks cost is counted.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::Reader;
use super::error::ReadError;
use super::inode::{File, Fragment};
use crate::layer::squashfs::format::{HOLE, RAW_BLOCK, Superblock};
use crate::limits::{Bound, Exceeded};

/// Fragment blocks that are kept, of at most 1 MiB each.
const KEPT: usize = 4;
/// Bytes of a fragment's record.
const RECORD: usize = 16;

/// Fragment blocks: what they may still cost, and those that are kept.
pub(super) struct Fragments {
    pub(super) left: u64,
    pub(super) kept: Vec<(u32, Rc<[u8]>)>,
}

/// Reads the content of one file.
pub struct Content<'r, F> {
    reader: &'r mut Reader<F>,
    file: File,
    /// Bytes that no block was read for yet.
    left: u64,
    block: Vec<u8>,
    /// Bytes of the block that were handed out.
    given: usize,
}

impl<'r, F: FileExt> Content<'r, F> {
    pub(super) fn new(reader: &'r mut Reader<F>, file: File) -> Self {
        Self { reader, left: file.size, file, block: Vec::new(), given: 0 }
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.file.size
    }

    fn next_block(&mut self) -> Result<(), ReadError> {
        let full = u64::from(self.reader.layout.block_size);
        let length = self.left.min(full) as usize;
        self.block = match self.file.fragment {
            Some(fragment) if self.left < full => self.reader.tail(fragment, length)?,
            _ => {
                let stored = self.reader.metadata.u32(&mut self.file.blocks)?;
                let block = self.reader.data_block(self.file.start, stored, length)?;
                self.file.start = self.file.start.saturating_add(u64::from(stored & !RAW_BLOCK));
                block
            }
        };
        self.given = 0;
        self.left = self.left.saturating_sub(length as u64);
        Ok(())
    }
}

impl<F: FileExt> Read for Content<'_, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.block.len() && self.left > 0 {
            self.next_block().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let held = self.block.get(self.given..).unwrap_or_default();
        let count = held.len().min(into.len());
        into.iter_mut().zip(held).for_each(|(to, from)| *to = *from);
        self.given = self.given.saturating_add(count);
        Ok(count)
    }
}

impl<F: FileExt> Reader<F> {
    /// The block of a file that comes to exactly `length` bytes.
    fn data_block(&mut self, at: u64, stored: u32, length: usize) -> Result<Vec<u8>, ReadError> {
        if stored == HOLE {
            return Ok(vec![0; length]);
        }
        let block = self.block(at, stored, length)?;
        if block.len() != length {
            return Err(ReadError::Data { at, problem: "is shorter than its file says" });
        }
        Ok(block)
    }

    /// A block of at most `limit` bytes.
    fn block(&mut self, at: u64, stored: u32, limit: usize) -> Result<Vec<u8>, ReadError> {
        let length = (stored & !RAW_BLOCK) as usize;
        // Whoever compresses stores what does not become smaller as it is.
        if length == 0 || length > limit {
            return Err(ReadError::Data { at, problem: "is empty or stored in more bytes than it has" });
        }
        if at < Superblock::SIZE as u64 {
            return Err(ReadError::Data { at, problem: "is in the superblock" });
        }
        let bytes = self.metadata.window.read(at, length)?;
        if stored & RAW_BLOCK != 0 {
            return Ok(bytes);
        }
        self.metadata.decoder.decode(&bytes, limit).map_err(|source| ReadError::Decompress { at, source })
    }

    fn tail(&mut self, fragment: Fragment, length: usize) -> Result<Vec<u8>, ReadError> {
        let block = self.fragment(fragment.index)?;
        let start = fragment.offset as usize;
        let tail = start.checked_add(length).and_then(|end| block.get(start..end));
        let (what, index, count) = ("byte of a fragment block", fragment.offset, block.len() as u32);
        tail.map(<[u8]>::to_vec).ok_or(ReadError::Index { what, index, count })
    }

    fn fragment(&mut self, index: u32) -> Result<Rc<[u8]>, ReadError> {
        if let Some((_, block)) = self.fragments.kept.iter().find(|(kept, _)| *kept == index) {
            return Ok(block.clone());
        }
        let mut record = self.metadata.record(self.layout.fragment_table, index, RECORD)?;
        let (at, stored) = (self.metadata.u64(&mut record)?, self.metadata.u32(&mut record)?);
        let block: Rc<[u8]> = self.block(at, stored, self.layout.block_size as usize)?.into();
        let bound = Bound::ImageBytes;
        let too_long = Exceeded { bound, limit: self.limits.get(bound) };
        self.fragments.left = self.fragments.left.checked_sub(block.len() as u64).ok_or(too_long)?;
        if self.fragments.kept.len() >= KEPT {
            self.fragments.kept.remove(0);
        }
        self.fragments.kept.push((index, block.clone()));
        Ok(block)
    }
}
