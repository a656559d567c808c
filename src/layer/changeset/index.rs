//! One changeset's records, found by path and listed by directory.
//!
//! In: records in the order of the tar. Out: lookups, and whether a path of a
//! lower changeset is certainly hidden. Invariant: every path has one record,
//! and every directory that a path runs through has one too, an
//! implied one where no entry described it.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use super::ChangesetError;
use super::record::{Inode, Record, Recorded, Records, Text};
use crate::layer::tar::path::split;
use crate::limits::{Bound, Budget};

pub(super) struct Index {
    pub(super) records: Records,
    /// Indices of records, by directory and name.
    order: Vec<u32>,
}

impl Index {
    /// Fails on paths that have two records, of which one is no directory,
    /// and on paths and markers that run through something that is none.
    pub(super) fn new(mut records: Records, budget: &mut Budget) -> Result<Self, ChangesetError> {
        let (mut whiteouts, mut opaque) =
            (std::mem::take(&mut records.whiteouts), std::mem::take(&mut records.opaque));
        for paths in [&mut whiteouts, &mut opaque] {
            paths.sort_unstable_by(|a, b| records.get(*a).cmp(records.get(*b)));
        }
        (records.whiteouts, records.opaque) = (whiteouts, opaque);
        let order = (0..records.records.len() as u32).collect();
        let mut index = Self { records, order };
        index.sort();
        index.drop_repeated()?;
        for path in index.missing_directories(budget)? {
            index.order.push(index.records.records.len() as u32);
            index.records.push(&path, Inode::IMPLIED, budget)?;
        }
        index.sort();
        index.check_markers()?;
        Ok(index)
    }

    /// Fails on markers that stand below something that is no directory.
    fn check_markers(&self) -> Result<(), ChangesetError> {
        let records = &self.records;
        let whiteouts = records.whiteouts.iter().filter_map(|text| split(records.get(*text)));
        let opaque = records.opaque.iter().map(|text| records.get(*text));
        let mut last = None;
        for path in whiteouts.map(|(directory, _)| directory).chain(opaque) {
            if last.replace(path) == Some(path) {
                continue;
            }
            let mut at = path;
            while let Some((directory, name)) = split(at) {
                if self.find(directory, name).is_some_and(|(_, record)| !record.content.is_directory()) {
                    return Err(ChangesetError::Marker { path: at.to_vec() });
                }
                at = directory;
            }
        }
        Ok(())
    }

    fn sort(&mut self) {
        let Self { records, order } = self;
        order.sort_unstable_by(|&a, &b| {
            let (left, right) = (records.records[a as usize], records.records[b as usize]);
            // Most neighbours in a tar have one directory, of which the path is kept once.
            let by_directory = match left.directory == right.directory {
                true => Ordering::Equal,
                false => records.get(left.directory).cmp(records.get(right.directory)),
            };
            let by_name = || records.get(left.name).cmp(records.get(right.name));
            by_directory.then_with(by_name).then(a.cmp(&b))
        });
    }

    /// Of several entries for one directory the last counts. Parsers differ
    /// on anything else that is there twice.
    fn drop_repeated(&mut self) -> Result<(), ChangesetError> {
        let Self { records, order } = self;
        let mut repeated = None;
        order.dedup_by(|later, kept| {
            let (kept_record, record) = (records.records[*kept as usize], records.records[*later as usize]);
            let name = (records.get(record.directory), records.get(record.name));
            if compare(records, kept_record, name) != Ordering::Equal {
                return false;
            }
            if !kept_record.content.is_directory() || !record.content.is_directory() {
                repeated = Some(record);
            }
            if record.content != Recorded::Implied {
                std::mem::swap(later, kept);
            }
            true
        });
        match repeated {
            Some(record) => Err(ChangesetError::Repeated { path: records.path(record) }),
            None => Ok(()),
        }
    }

    /// The directories that paths run through without an entry for them.
    fn missing_directories(&self, budget: &mut Budget) -> Result<BTreeSet<Vec<u8>>, ChangesetError> {
        let mut missing = BTreeSet::new();
        // The set holds whole paths, long before the records that they become
        // are counted.
        let mut room = *budget;
        let mut last = None;
        for record in (0..self.order.len()).map(|rank| self.ranked(rank)) {
            let mut path = self.records.get(record.directory);
            if last.replace(path) == Some(path) {
                continue;
            }
            while let Some((directory, name)) = split(path)
                && !missing.contains(path)
            {
                match self.find(directory, name) {
                    Some((_, parent)) if parent.content.is_directory() => break,
                    Some(_) => return Err(ChangesetError::Parent { path: self.records.path(record) }),
                    None => {
                        budget.spend(Bound::Entries, 1)?;
                        room.spend(Bound::Names, path.len() as u64)?;
                        missing.insert(path.to_vec());
                        path = directory;
                    }
                }
            }
        }
        Ok(missing)
    }

    /// A record by its rank in the order of paths.
    pub(super) fn ranked(&self, rank: usize) -> Record {
        self.records.records[self.order[rank] as usize]
    }

    /// The ranks of what is in a directory, by name.
    pub(super) fn children(&self, directory: &[u8]) -> Range<usize> {
        let of = |at: u32| self.records.get(self.records.records[at as usize].directory);
        let start = self.order.partition_point(|&at| of(at) < directory);
        start..start + self.order[start..].partition_point(|&at| of(at) == directory)
    }

    /// A path's record and its place in the tar.
    pub(super) fn find(&self, directory: &[u8], name: &[u8]) -> Option<(u32, Record)> {
        let found = self.order.binary_search_by(|&at| {
            compare(&self.records, self.records.records[at as usize], (directory, name))
        });
        let at = self.order[found.ok()?];
        Some((at, self.records.records[at as usize]))
    }

    /// Whether nothing that lower changesets have in this directory can be seen
    /// through this one.
    pub(super) fn is_opaque(&self, directory: &[u8]) -> bool {
        self.has(&self.records.opaque, directory)
    }

    /// Whether what lower changesets have at this path itself is removed or
    /// replaced by this one. `siblings` are the children of its directory.
    pub(super) fn replaces(&self, path: &[u8], name: &[u8], siblings: Range<usize>) -> bool {
        let is_directory = |rank| self.ranked(rank).content.is_directory();
        self.among(siblings, name).is_some_and(|rank| !is_directory(rank))
            || self.has(&self.records.whiteouts, path)
    }

    /// As [`children`](Self::children), of a directory that is, if it is there,
    /// among its `siblings`.
    pub(super) fn children_of(&self, path: &[u8], name: &[u8], siblings: Range<usize>) -> Range<usize> {
        self.among(siblings, name).map_or(0..0, |_| self.children(path))
    }

    /// The rank of a name among those in one directory.
    fn among(&self, siblings: Range<usize>, name: &[u8]) -> Option<usize> {
        let start = siblings.start;
        let name_of = |at: u32| self.records.get(self.records.records[at as usize].name);
        self.order[siblings].binary_search_by(|&at| name_of(at).cmp(name)).ok().map(|at| start + at)
    }

    fn has(&self, sorted: &[Text], path: &[u8]) -> bool {
        sorted.binary_search_by(|text| self.records.get(*text).cmp(path)).is_ok()
    }
}

fn compare(records: &Records, record: Record, (directory, name): (&[u8], &[u8])) -> Ordering {
    records.get(record.directory).cmp(directory).then_with(|| records.get(record.name).cmp(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn paths_of_missing_directories_are_counted_while_they_are_collected() {
        let mut records = Records::default();
        records.push(&b"d/".repeat(100)[..199], Inode::IMPLIED, &mut Budget::new(Limits::default())).unwrap();
        let index = Index { records, order: vec![0] };
        for (names, fits) in [(20_000, true), (9_000, false)] {
            let mut budget = Budget::new(Limits::default().with(Bound::Names, names));
            assert_eq!(index.missing_directories(&mut budget).is_ok(), fits, "{names}");
        }
    }
}
