//! Tables made of metadata blocks.
//!
//! In: records of any size. Out: the table as stored, with the places of its
//! blocks. Invariant: every block but the last holds 8 KiB, so a record's
//! place follows from how much was written before it.

use std::io;

use super::codec::{Codec, Compression, Stored};
use super::error::WriteError;
use super::format::{METADATA_SIZE, RAW_METADATA, Reference};

/// A table in the making, in memory.
pub(super) struct MetadataWriter {
    codec: Codec,
    block: Vec<u8>,
    compressed: Vec<u8>,
    table: Metadata,
}

/// A table as it is stored.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) bytes: Vec<u8>,
    /// Where its metadata blocks start, from the start of the table.
    pub(super) starts: Vec<u64>,
}

impl MetadataWriter {
    pub(super) fn new(compression: Compression) -> Result<Self, WriteError> {
        let codec = Codec::new(compression).map_err(failed)?;
        Ok(Self { codec, block: Vec::new(), compressed: Vec::new(), table: Metadata::default() })
    }

    /// Where the next record goes.
    pub(super) fn position(&self) -> Result<Reference, WriteError> {
        let block =
            u32::try_from(self.table.bytes.len()).map_err(|_| WriteError::TooMany("inodes or names"))?;
        Ok(Reference { block, offset: self.block.len() as u16 })
    }

    pub(super) fn write(&mut self, mut record: &[u8]) -> Result<(), WriteError> {
        while !record.is_empty() {
            let room = METADATA_SIZE - self.block.len();
            let (now, later) = record.split_at(room.min(record.len()));
            self.block.extend_from_slice(now);
            record = later;
            if self.block.len() == METADATA_SIZE {
                self.flush()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Metadata, WriteError> {
        if !self.block.is_empty() {
            self.flush()?;
        }
        Ok(self.table)
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        let stored = self.codec.compress(&self.block, &mut self.compressed).map_err(failed)?;
        self.table.starts.push(self.table.bytes.len() as u64);
        self.table.bytes.extend(match stored {
            Stored::Compressed => encode(&self.compressed, 0),
            Stored::Raw => encode(&self.block, RAW_METADATA),
        });
        self.block.clear();
        Ok(())
    }
}

/// One metadata block that is never compressed.
pub(super) fn raw_block(bytes: &[u8]) -> Vec<u8> {
    encode(bytes, RAW_METADATA)
}

fn encode(bytes: &[u8], flag: u16) -> Vec<u8> {
    // At most 8 KiB, so the flag's bit is free.
    let header = bytes.len() as u16 | flag;
    [&header.to_le_bytes(), bytes].concat()
}

fn failed(source: io::Error) -> WriteError {
    WriteError::Compress { source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(table: &Metadata, block: usize) -> u16 {
        let start = table.starts[block] as usize;
        u16::from_le_bytes([table.bytes[start], table.bytes[start + 1]])
    }

    #[test]
    fn records_run_on_from_block_to_block() {
        let mut writer = MetadataWriter::new(Compression::None).unwrap();
        for (length, next) in [
            (0, Reference { block: 0, offset: 0 }),
            (100, Reference { block: 0, offset: 100 }),
            (8091, Reference { block: 0, offset: 8191 }),
            (1, Reference { block: 8194, offset: 0 }),
            (8192 * 2 + 5, Reference { block: 3 * 8194, offset: 5 }),
        ] {
            writer.write(&vec![1; length]).unwrap();
            assert_eq!(writer.position().unwrap(), next, "after {length} bytes");
        }
        let table = writer.finish().unwrap();
        assert_eq!(table.starts, [0, 8194, 2 * 8194, 3 * 8194]);
        assert_eq!(table.bytes.len(), 3 * 8194 + 7);
        assert_eq!(header(&table, 0), 0x8000 | 8192);
        assert_eq!(header(&table, 3), 0x8005);
    }

    #[test]
    fn a_metadata_block_is_compressed_only_if_that_makes_it_smaller() {
        let mut writer = MetadataWriter::new(Compression::default()).unwrap();
        writer.write(&[0; METADATA_SIZE]).unwrap();
        writer.write(b"abc").unwrap();
        let table = writer.finish().unwrap();
        assert!(header(&table, 0) < 100);
        assert_eq!(header(&table, 1), 0x8003);
    }

    #[test]
    fn an_empty_table_has_no_block() {
        let table = MetadataWriter::new(Compression::default()).unwrap().finish().unwrap();
        assert!(table.bytes.is_empty() && table.starts.is_empty());
    }
}
