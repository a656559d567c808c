//! Lookup tables: fixed records found by their number.
//!
//! ```text
//! metadata blocks with the records · u64 position of each metadata block
//! ```
//!
//! The superblock has the place of the second part.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::codec::Compression;
use super::data::FragmentBlock;
use super::error::WriteError;
use super::format::Record;
use super::metadata::MetadataWriter;
use super::output::Output;

/// Appends records as metadata blocks; returns the positions of these, as
/// they are to be stored.
pub(super) fn append_records(
    output: &mut Output,
    compression: Compression,
    records: &[u8],
) -> Result<Vec<u8>, WriteError> {
    let mut writer = MetadataWriter::new(compression)?;
    writer.write(records)?;
    let table = writer.finish()?;
    let start = output.append(&table.bytes)?;
    Ok(table.starts.iter().flat_map(|block| (start + block).to_le_bytes()).collect())
}

/// Appends a lookup table; returns its place for the superblock.
pub(super) fn append(
    output: &mut Output,
    compression: Compression,
    records: &[u8],
) -> Result<u64, WriteError> {
    let positions = append_records(output, compression, records)?;
    output.append(&positions)
}

/// u64 start, u32 stored size, u32 unused.
pub(super) fn fragment_records(fragments: &[FragmentBlock]) -> Vec<u8> {
    let append = |record: Record, block: &FragmentBlock| record.u64(block.start).u32(block.size_word).u32(0);
    fragments.iter().fold(Record::default(), append).finish()
}

/// u64 place of each inode, in the order of inode numbers.
pub(super) fn export_records(inodes: &[u64]) -> Vec<u8> {
    inodes.iter().flat_map(|inode| inode.to_le_bytes()).collect()
}

/// User and group IDs, of which inodes have the index: u32 each.
#[derive(Default)]
pub(super) struct Ids {
    ids: Vec<u32>,
    known: HashMap<u32, u16>,
}

impl Ids {
    /// The index of `id`, which is added if it is new.
    pub(super) fn index(&mut self, id: u32) -> Result<u16, WriteError> {
        match self.known.entry(id) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(new) => {
                // The superblock counts them in 16 bits, too.
                let index = u16::try_from(self.ids.len()).ok().filter(|&index| index < u16::MAX);
                let index = index.ok_or(WriteError::TooMany("user and group IDs"))?;
                self.ids.push(id);
                Ok(*new.insert(index))
            }
        }
    }

    pub(super) fn count(&self) -> u16 {
        self.ids.len() as u16
    }

    pub(super) fn records(&self) -> Vec<u8> {
        self.ids.iter().flat_map(|id| id.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbered_as_they_come() {
        let mut ids = Ids::default();
        for (id, index) in [(0, 0), (1000, 1), (0, 0), (u32::MAX, 2), (1000, 1)] {
            assert_eq!(ids.index(id).unwrap(), index);
        }
        assert_eq!(ids.records(), [0, 0, 0, 0, 0xe8, 3, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn there_are_at_most_65535_ids() {
        let mut ids = Ids::default();
        for id in 0..65_535 {
            ids.index(id).unwrap();
        }
        assert!(matches!(ids.index(65_535), Err(WriteError::TooMany(_))));
        assert_eq!((ids.count(), ids.index(0).unwrap()), (65_535, 0));
    }

    #[test]
    fn a_lookup_table_ends_with_the_positions_of_its_blocks() {
        let mut output = Output::new(tempfile::tempfile().unwrap(), None);
        output.append(&[0; 50]).unwrap();
        let positions = append_records(&mut output, Compression::None, &[7; 8192 + 16]).unwrap();
        assert_eq!(positions, [50_u64.to_le_bytes(), (50 + 8194_u64).to_le_bytes()].concat());
        let end = 50 + 8194 + 18;
        assert_eq!(output.position(), end);
        assert_eq!(append(&mut output, Compression::None, &[]).unwrap(), end);
    }
}
