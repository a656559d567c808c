//! Directory listings (for their layout see the writer's `directory`).
//!
//! In: where a listing is and its length. Out: its [`Entry`]s. Invariants: an
//! entry is counted before memory is taken for it; names are sorted, so none
//! is there twice.

use std::os::unix::fs::FileExt;

use super::Reader;
use super::error::ReadError;
use super::metadata::Place;
use crate::layer::squashfs::format::DIRECTORY_RUN;
use crate::limits::{Bound, Budget};

/// Bytes of a header, and of an entry without its name.
const HEADER: u32 = 12;
const ENTRY: u32 = 8;

/// One name in a directory.
pub(super) struct Entry {
    pub(super) name: Box<[u8]>,
    pub(super) inode: Place,
    pub(super) number: u32,
    /// The inode's basic type.
    pub(super) basic: u16,
}

/// What a header says of the entries behind it.
struct Run {
    block: u32,
    number: u32,
}

impl<F: FileExt> Reader<F> {
    pub(super) fn listing(
        &mut self,
        mut at: Place,
        length: u32,
        budget: &mut Budget,
    ) -> Result<Vec<Entry>, ReadError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut left = length;
        while left > 0 {
            take(&mut left, HEADER)?;
            let count = self.metadata.u32(&mut at)?;
            let run = Run { block: self.metadata.u32(&mut at)?, number: self.metadata.u32(&mut at)? };
            // Stored is one less than there are.
            if count as usize >= DIRECTORY_RUN {
                return Err(ReadError::Listing("has a header for more than 256 entries"));
            }
            for _ in 0..=count {
                budget.spend(Bound::Entries, 1)?;
                let entry = self.entry(&mut at, &run, &mut left)?;
                budget.spend(Bound::Names, entry.name.len() as u64)?;
                if entries.last().is_some_and(|last| last.name >= entry.name) {
                    return Err(ReadError::Listing("is not sorted or has a name twice"));
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn entry(&mut self, at: &mut Place, run: &Run, left: &mut u32) -> Result<Entry, ReadError> {
        take(left, ENTRY)?;
        let offset = self.metadata.u16(at)?;
        let delta = self.metadata.u16(at)?.cast_signed();
        let (basic, length) = (self.metadata.u16(at)?, self.metadata.u16(at)?);
        let length = u32::from(length).saturating_add(1);
        take(left, length)?;
        if length > 255 {
            return Err(ReadError::Listing("has a name longer than 255 bytes"));
        }
        let name = self.metadata.bytes(at, length as usize)?;
        if matches!(&*name, b"." | b"..") || name.contains(&b'/') {
            return Err(ReadError::Listing("has a name that is `.`, `..` or has a slash in it"));
        }
        let number = run.number.checked_add_signed(delta.into());
        Ok(Entry {
            name: name.into(),
            inode: Place::new(self.layout.inode_table, u64::from(run.block) << 16 | u64::from(offset))?,
            number: number.ok_or(ReadError::Listing("has an inode number that is out of range"))?,
            basic,
        })
    }
}

fn take(left: &mut u32, bytes: u32) -> Result<(), ReadError> {
    *left = left.checked_sub(bytes).ok_or(ReadError::Listing("is longer than its directory says"))?;
    Ok(())
}
