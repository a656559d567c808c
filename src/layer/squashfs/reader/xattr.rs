//! Extended attributes as they are stored (for their layout see the writer's
//! `xattr`). A value may also lie elsewhere: then the pair has its place.
//!
//! In: the index of a set. Out: the set. Invariant: a pair is counted before
//! memory is taken for it, with what it costs besides its bytes.

use std::os::unix::fs::FileExt;

use super::Reader;
use super::error::ReadError;
use super::metadata::Place;
use crate::layer::tree::Xattrs;
use crate::limits::{Bound, Budget};

/// In the namespace of a pair: its value is elsewhere.
const ELSEWHERE: u16 = 0x100;
/// What a pair takes in memory besides its name and value, in bytes.
const OVERHEAD: usize = 64;
/// Bytes of a set's record.
const RECORD: usize = 16;

/// The table of sets: where the pairs start, and how many sets there are.
#[derive(Clone, Copy)]
pub(super) struct Table {
    start: u64,
    pairs: u64,
    count: u32,
}

impl<F: FileExt> Reader<F> {
    pub(super) fn xattr_table(&self, start: u64) -> Result<Table, ReadError> {
        let count = self.metadata.window.u64(start.saturating_add(8))? as u32;
        Ok(Table { start, pairs: self.metadata.window.u64(start)?, count })
    }

    pub(super) fn xattrs(&mut self, index: u32, budget: &mut Budget) -> Result<Xattrs, ReadError> {
        let missing = ReadError::Index { what: "set of xattrs", index, count: 0 };
        let Table { start, pairs, count } = self.xattr_table.ok_or(missing)?;
        if index >= count {
            return Err(ReadError::Index { what: "set of xattrs", index, count });
        }
        let mut record = self.metadata.record(start.saturating_add(16), index, RECORD)?;
        let mut at = Place::new(pairs, self.metadata.u64(&mut record)?)?;
        let count = self.metadata.u32(&mut record)?;
        let mut set = Xattrs::new();
        for _ in 0..count {
            budget.spend(Bound::Names, OVERHEAD as u64)?;
            let (name, value) = self.pair(&mut at, pairs, budget)?;
            if set.insert(name, value).is_some() {
                return Err(ReadError::Xattrs("have a name twice"));
            }
        }
        Ok(set)
    }

    fn pair(
        &mut self,
        at: &mut Place,
        pairs: u64,
        budget: &mut Budget,
    ) -> Result<(Vec<u8>, Vec<u8>), ReadError> {
        let (namespace, length) = (self.metadata.u16(at)?, usize::from(self.metadata.u16(at)?));
        let prefix: &[u8] = match namespace & !ELSEWHERE {
            0 => b"user.",
            1 => b"trusted.",
            2 => b"security.",
            _ => return Err(ReadError::Xattrs("have an unknown namespace")),
        };
        if length == 0 {
            return Err(ReadError::Xattrs("have a name that is empty"));
        }
        self.limits.check(Bound::XattrName, (prefix.len() + length) as u64)?;
        budget.spend(Bound::Names, length as u64)?;
        let name = [prefix, &self.metadata.bytes(at, length)?].concat();
        if name.iter().any(u8::is_ascii_control) {
            return Err(ReadError::Xattrs("have a name with control characters"));
        }
        let value = if namespace & ELSEWHERE == 0 {
            self.value(at, budget)?
        } else {
            // The length of the reference takes the place of the value's.
            self.metadata.u32(at)?;
            let mut elsewhere = Place::new(pairs, self.metadata.u64(at)?)?;
            self.value(&mut elsewhere, budget)?
        };
        Ok((name, value))
    }

    fn value(&mut self, at: &mut Place, budget: &mut Budget) -> Result<Vec<u8>, ReadError> {
        let length = self.metadata.u32(at)?;
        self.limits.check(Bound::XattrValue, length.into())?;
        budget.spend(Bound::Names, length.into())?;
        self.metadata.bytes(at, length as usize)
    }
}
