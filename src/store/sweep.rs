//! Garbage: what no generation that is kept needs.
//!
//! In: how many generations to keep, and which besides. Out: what was removed.
//! Invariant: everything is read before anything is removed, and if anything
//! cannot be read, nothing is removed: it might be what names the rest.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::generation::is_number;
use super::{
    BlobError, GenerationError, GenerationRecord, LayerKey, Lock, RecordError, Store, StoreError, sync_parent,
};
use crate::oci::Digest;
use crate::text::Escaped;

/// Largest manifest or index that is followed to other blobs, in bytes.
const MAX_MANIFEST: u64 = 4 * 1024 * 1024;

/// What has to stay.
#[derive(Debug)]
pub struct Roots {
    /// How many of the newest generations.
    pub newest: usize,
    /// Other generations, such as the one that runs.
    pub also: Vec<u32>,
    pub blobs: Blobs,
}

/// What becomes of blobs that no kept generation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blobs {
    /// They were perhaps fetched ahead.
    Keep,
    Sweep,
}

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub generations: Vec<u32>,
    pub layers: usize,
    pub blobs: usize,
    /// Length of the layers and blobs.
    pub bytes: u64,
}

/// Why nothing, or not all, was removed.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("nothing is removed: {} is not known here", Escaped::path(.path))]
    Unknown { path: PathBuf },
    #[error("nothing is removed")]
    Generation(#[source] GenerationError),
    #[error("nothing is removed")]
    Blob(#[source] BlobError),
    #[error("nothing is removed")]
    Trials(#[source] RecordError),
    #[error("nothing is removed: cannot read {}", Escaped::path(.path))]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot remove {}", Escaped::path(.path))]
    Remove { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(StoreError),
}

/// A file that may go, and its length.
struct Garbage {
    path: PathBuf,
    size: u64,
}

impl Store {
    /// Removes every generation that is not among `roots`, the current one or
    /// the last good one, and every layer that no kept generation names.
    pub fn sweep(&self, lock: &Lock, roots: &Roots) -> Result<Swept, SweepError> {
        let mut trials = self.trials().map_err(SweepError::Trials)?;
        let records = self.all_records()?;
        let current = self.current().map_err(SweepError::Generation)?;
        let previous = self.previous().map_err(SweepError::Generation)?;
        let newest = records.iter().rev().take(roots.newest).map(|record| record.number);
        let mut kept: BTreeSet<u32> = newest.chain(roots.also.iter().copied()).collect();
        kept.extend(current.into_iter().chain(trials.last_good));
        let (keep, go): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| kept.contains(&record.number));
        let layers = self.unnamed_layers(&keep)?;
        let blobs = match roots.blobs {
            Blobs::Keep => Vec::new(),
            Blobs::Sweep => self.unnamed_blobs(&keep)?,
        };

        // A pointer may not name what goes. Alone, it tells that the other is lost.
        let is_kept = |number| keep.iter().any(|record| record.number == number);
        if current.is_some() && previous.is_some_and(|number| !is_kept(number)) {
            remove(&self.path.join("previous"))?;
        }
        // The generations first: nothing that is left names what goes.
        let mut swept = Swept::default();
        for record in &go {
            self.remove_generation(record.number)?;
            swept.generations.push(record.number);
        }
        let last = trials.marks.keys().next_back().copied();
        let before = trials.marks.len();
        // The highest number stays known, so that it is not given again.
        trials.marks.retain(|number, _| kept.contains(number) || Some(*number) == last);
        if trials.marks.len() != before {
            self.put_trials(lock, &trials).map_err(SweepError::Write)?;
        }
        swept.layers = layers.iter().filter(|file| has_extension(&file.path, "sqsh")).count();
        swept.blobs = blobs.len();
        for file in layers.iter().chain(&blobs) {
            remove(&file.path)?;
            swept.bytes = swept.bytes.saturating_add(file.size);
        }
        Ok(swept)
    }

    /// The records of all generations, oldest first.
    fn all_records(&self) -> Result<Vec<GenerationRecord>, SweepError> {
        for path in names(&self.path.join("generations"))? {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_number) {
                return Err(SweepError::Unknown { path });
            }
        }
        let numbers = self.generations().map_err(SweepError::Generation)?;
        numbers
            .into_iter()
            .map(|number| self.generation_record(number).map_err(SweepError::Generation))
            .collect()
    }

    /// Files of layers that none of `kept` names, images before what
    /// describes them.
    fn unnamed_layers(&self, kept: &[GenerationRecord]) -> Result<Vec<Garbage>, SweepError> {
        let named: BTreeSet<String> =
            kept.iter().flat_map(|record| &record.layers).map(|entry| entry.key.to_string()).collect();
        let mut garbage = Vec::new();
        for path in names(&self.path.join("layers"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(key) = LayerKey::of_file(name) else { return Err(SweepError::Unknown { path }) };
            if !named.contains(key) {
                garbage.push(Garbage { size: size_of_file(&path)?, path });
            }
        }
        garbage.sort_by_key(|file| !has_extension(&file.path, "sqsh"));
        Ok(garbage)
    }

    /// Blobs that cannot be reached from the images of `kept`.
    fn unnamed_blobs(&self, kept: &[GenerationRecord]) -> Result<Vec<Garbage>, SweepError> {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<Digest> =
            kept.iter().flat_map(|record| &record.layers).map(|entry| entry.image).collect();
        while let Some(digest) = waiting.pop() {
            if !reached.insert(digest.to_string()) {
                continue;
            }
            if let Some(blob) = self.blob(&digest).filter(|blob| blob.size() <= MAX_MANIFEST) {
                let bytes = blob.read().map_err(SweepError::Blob)?;
                // A small changeset is no JSON, and names nothing.
                if let Ok(document) = serde_json::from_slice(&bytes) {
                    collect_digests(&document, &mut waiting);
                }
            }
        }
        let mut garbage = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            for path in names(&self.path.join("blobs").join(algorithm))? {
                let hex = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let Ok(digest) = format!("{algorithm}:{hex}").parse::<Digest>() else {
                    return Err(SweepError::Unknown { path });
                };
                if !reached.contains(&digest.to_string()) {
                    garbage.push(Garbage { size: size_of_file(&path)?, path });
                }
            }
        }
        Ok(garbage)
    }

    /// Takes a generation out of sight whole before it is taken apart.
    fn remove_generation(&self, number: u32) -> Result<(), SweepError> {
        let path = self.generation_path(number);
        let staged = self.path.join(format!("staging/swept-{number}"));
        fs::rename(&path, &staged)
            .and_then(|()| sync_parent(&path))
            .and_then(|()| fs::remove_dir_all(&staged))
            .map_err(|source| SweepError::Remove { path, source })
    }
}

/// The digests in a manifest or an index, wherever they stand in it.
fn collect_digests(value: &serde_json::Value, found: &mut Vec<Digest>) {
    match value {
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_digests(value, found)),
        serde_json::Value::Object(fields) => {
            found.extend(fields.get("digest").and_then(|digest| digest.as_str()?.parse::<Digest>().ok()));
            fields.values().for_each(|value| collect_digests(value, found));
        }
        _ => {}
    }
}

fn names(directory: &Path) -> Result<Vec<PathBuf>, SweepError> {
    let failed = |source| SweepError::Read { path: directory.into(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

fn size_of_file(path: &Path) -> Result<u64, SweepError> {
    let metadata = fs::symlink_metadata(path);
    metadata.map(|metadata| metadata.len()).map_err(|source| SweepError::Read { path: path.into(), source })
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn remove(path: &Path) -> Result<(), SweepError> {
    fs::remove_file(path)
        .and_then(|()| sync_parent(path))
        .map_err(|source| SweepError::Remove { path: path.into(), source })
}
