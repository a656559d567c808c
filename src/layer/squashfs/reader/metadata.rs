//! Metadata blocks, read at any place.
//!
//! In: a [`Place`]. Out: the bytes there, which may run on from block to
//! block. Invariant: a block is decompressed to at most 8 KiB and holds that
//! much if anything follows in it, so what is read costs in proportion to its
//! length; a few blocks are kept, whatever is asked for.

use std::os::unix::fs::FileExt;

use super::decoder::Decoder;
use super::error::ReadError;
use super::window::Window;
use crate::layer::squashfs::format::{METADATA_SIZE, RAW_METADATA};

/// Blocks that are kept, as a power of two: 512 KiB.
const KEPT_BITS: u32 = 6;

/// Where something starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From the start of the image.
    pub(super) block: u64,
    /// In the block, before compression.
    pub(super) offset: usize,
}

impl Place {
    /// A place in a table as it is stored: 48 bits for the block, counted
    /// from the start of the table, 16 for the offset.
    pub(super) fn new(table: u64, reference: u64) -> Result<Self, ReadError> {
        let at = reference >> 16;
        let offset = (reference & 0xffff) as usize;
        let beyond = ReadError::Metadata { at, problem: "is referred to beyond its end" };
        match table.checked_add(at) {
            Some(block) if offset < METADATA_SIZE => Ok(Self { block, offset }),
            _ => Err(beyond),
        }
    }
}

/// One decompressed block.
struct Block {
    at: u64,
    bytes: Vec<u8>,
    next: u64,
}

pub(super) struct Metadata<F> {
    pub(super) window: Window<F>,
    pub(super) decoder: Decoder,
    kept: [Option<Block>; 1 << KEPT_BITS],
}

impl<F: FileExt> Metadata<F> {
    pub(super) fn new(window: Window<F>, decoder: Decoder) -> Self {
        Self { window, decoder, kept: [const { None }; 1 << KEPT_BITS] }
    }

    /// Reads all of `into` and moves `place` behind it.
    pub(super) fn read(&mut self, place: &mut Place, mut into: &mut [u8]) -> Result<(), ReadError> {
        while !into.is_empty() {
            let block = self.block(place.block)?;
            let held = block.bytes.get(place.offset..).unwrap_or_default();
            if held.is_empty() {
                if place.offset != METADATA_SIZE {
                    return Err(ReadError::Metadata { at: place.block, problem: "ends too early" });
                }
                *place = Place { block: block.next, offset: 0 };
                continue;
            }
            let count = held.len().min(into.len());
            let (now, later) = into.split_at_mut(count);
            now.iter_mut().zip(held).for_each(|(to, from)| *to = *from);
            place.offset = place.offset.saturating_add(count);
            into = later;
        }
        Ok(())
    }

    /// Reads `length` bytes, which the caller has bounded.
    pub(super) fn bytes(&mut self, place: &mut Place, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; length];
        self.read(place, &mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, place: &mut Place) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.read(place, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u16(&mut self, place: &mut Place) -> Result<u16, ReadError> {
        self.array(place).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, place: &mut Place) -> Result<u32, ReadError> {
        self.array(place).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, place: &mut Place) -> Result<u64, ReadError> {
        self.array(place).map(u64::from_le_bytes)
    }

    /// The record `index` of a table: positions of metadata blocks are listed
    /// from `table` on, and a block holds 8 KiB of records of `size` bytes.
    pub(super) fn record(&mut self, table: u64, index: u32, size: usize) -> Result<Place, ReadError> {
        let byte = u64::from(index).saturating_mul(size as u64);
        let (block, offset) = (byte / METADATA_SIZE as u64, byte % METADATA_SIZE as u64);
        let listed = table.saturating_add(block.saturating_mul(8));
        Ok(Place { block: self.window.u64(listed)?, offset: offset as usize })
    }

    fn block(&mut self, at: u64) -> Result<&Block, ReadError> {
        // Fibonacci hashing spreads places that are a regular distance apart.
        let slot = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - KEPT_BITS)) as usize;
        let block = match self.kept[slot].take() {
            Some(block) if block.at == at => block,
            _ => self.load(at)?,
        };
        Ok(self.kept[slot].insert(block))
    }

    fn load(&mut self, at: u64) -> Result<Block, ReadError> {
        let header = self.window.u16(at)?;
        let length = usize::from(header & !RAW_METADATA);
        if length == 0 || length > METADATA_SIZE {
            return Err(ReadError::Metadata { at, problem: "is empty or longer than 8 KiB" });
        }
        let start = at.saturating_add(2);
        let stored = self.window.read(start, length)?;
        let bytes = if header & RAW_METADATA != 0 {
            stored
        } else {
            self.decoder
                .decode(&stored, METADATA_SIZE)
                .map_err(|source| ReadError::Decompress { at, source })?
        };
        Ok(Block { at, bytes, next: start.saturating_add(length as u64) })
    }
}
