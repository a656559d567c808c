//! Extended attributes.
//!
//! ```text
//! pairs, metadata blocks, for each attribute of each set:
//!     u16 namespace · u16 length · name without namespace · u32 length · value
//! sets, metadata blocks: u64 place of first pair · u32 count · u32 size
//! u64 position of pairs · u32 number of sets · u32 unused · u64 position of each block of sets
//! ```
//!
//! Inodes have the index of their set. Invariant: sets that are the same are
//! stored once.

use std::collections::HashMap;

use super::super::tree::Xattrs;
use super::codec::Compression;
use super::error::WriteError;
use super::format::{NO_TABLE, Record, Reference};
use super::metadata::MetadataWriter;
use super::output::Output;
use super::table;

/// The namespaces that squashfs knows, and their numbers.
const NAMESPACES: [(&[u8], u16); 3] = [(b"user.", 0), (b"trusted.", 1), (b"security.", 2)];

/// Linux' limits, `XATTR_NAME_MAX` and `XATTR_SIZE_MAX`.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 64 << 10;

pub(super) struct XattrTable<'a> {
    pairs: MetadataWriter,
    sets: Vec<Set>,
    known: HashMap<&'a Xattrs, u32>,
}

struct Set {
    first: Reference,
    count: u32,
    /// Of all its pairs, in bytes.
    size: u32,
}

impl<'a> XattrTable<'a> {
    pub(super) fn new(compression: Compression) -> Result<Self, WriteError> {
        let pairs = MetadataWriter::new(compression)?;
        Ok(Self { pairs, sets: Vec::new(), known: HashMap::new() })
    }

    /// The index of the set `xattrs`, which is added if it is new. `path`
    /// tells whose it is.
    pub(super) fn index(
        &mut self,
        xattrs: &'a Xattrs,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<u32, WriteError> {
        if let Some(&index) = self.known.get(xattrs) {
            return Ok(index);
        }
        let mut pairs = Record::default();
        for (name, value) in xattrs {
            let refused = || WriteError::Xattr { path: path(), name: name.clone() };
            pairs = pair(pairs, name, value).ok_or_else(refused)?;
        }
        let pairs = pairs.finish();
        let too_many = |_| WriteError::TooMany("extended attributes");
        let index = u32::try_from(self.sets.len()).map_err(too_many)?;
        let count = u32::try_from(xattrs.len()).map_err(too_many)?;
        let size = u32::try_from(pairs.len()).map_err(too_many)?;
        self.sets.push(Set { first: self.pairs.position()?, count, size });
        self.pairs.write(&pairs)?;
        self.known.insert(xattrs, index);
        Ok(index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Appends the table; returns its place for the superblock.
    pub(super) fn append(self, output: &mut Output, compression: Compression) -> Result<u64, WriteError> {
        if self.is_empty() {
            return Ok(NO_TABLE);
        }
        let pairs = output.append(&self.pairs.finish()?.bytes)?;
        let record = |record: Record, set: &Set| record.u64(set.first.to_u64()).u32(set.count).u32(set.size);
        let sets = self.sets.iter().fold(Record::default(), record).finish();
        let positions = table::append_records(output, compression, &sets)?;
        let head = Record::default().u64(pairs).u32(self.sets.len() as u32).u32(0);
        output.append(&head.bytes(&positions).finish())
    }
}

/// Appends one pair, unless squashfs or Linux has no such attribute.
fn pair(record: Record, name: &[u8], value: &[u8]) -> Option<Record> {
    let known = |(prefix, number)| Some((number, name.strip_prefix(prefix)?));
    let (namespace, rest) = NAMESPACES.into_iter().find_map(known)?;
    if rest.is_empty() || rest.contains(&0) || name.len() > MAX_NAME || value.len() > MAX_VALUE {
        return None;
    }
    let record = record.u16(namespace).u16(rest.len() as u16).bytes(rest);
    Some(record.u32(value.len() as u32).bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_stored_without_their_namespaces_name() {
        for (name, value, stored) in [
            (&b"user.a"[..], &b"xy"[..], Some(&b"\0\0\x01\0a\x02\0\0\0xy"[..])),
            (b"trusted.bc", b"", Some(b"\x01\0\x02\0bc\0\0\0\0")),
            (b"security.d", b"z", Some(b"\x02\0\x01\0d\x01\0\0\0z")),
            (b"system.posix_acl_access", b"", None),
            (b"user", b"", None),
            (b"user.", b"", None),
            (b"user.a\0b", b"", None),
            (b"users.a", b"", None),
            (&[&b"user."[..], &[b'n'; 251]].concat(), b"", None),
            (b"user.a", &[0; MAX_VALUE + 1], None),
        ] {
            let record = pair(Record::default(), name, value).map(Record::finish);
            assert_eq!(record.as_deref(), stored, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn sets_that_are_the_same_are_stored_once() {
        let set = |value: &[u8]| Xattrs::from([(b"user.a".to_vec(), value.to_vec())]);
        let sets = [set(b"1"), set(b"2"), set(b"1")];
        let mut table = XattrTable::new(Compression::None).unwrap();
        let indices: Vec<_> = sets.iter().map(|set| table.index(set, Vec::new).unwrap()).collect();
        assert_eq!(indices, [0, 1, 0]);
        assert_eq!(table.sets.len(), 2);
    }
}
