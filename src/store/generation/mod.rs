//! Generations on disk: which layers, in which order, and why.
//!
//! ```text
//! generations/<n>/config.yaml       the configuration as it was applied
//! generations/<n>/extensions.yaml   what the merged root shows as /etc/extensions.yaml
//! generations/<n>/record.json       GenerationRecord
//! current, previous                 symlinks to generations/<n>
//! ```
//! A generation's directory is renamed to its number when it is whole, and
//! becomes current when the symlink `current` is replaced: the commit point.
//! A number is never given twice.

mod pointer;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{self, RecordError};
use super::{Layer, LayerKey, Lock, PRIVATE, Store, give_back, sync_parent};
use crate::oci::Digest;
use crate::text::Escaped;

/// Version of [`GenerationRecord`]; a newer one is refused.
const RECORD_FORMAT: u32 = 1;
/// Longest `config.yaml` and `extensions.yaml` that are read, in bytes: many
/// configuration files, or 500 manifests, of the largest allowed size.
const MAX_TEXT: u64 = 64 * 1024 * 1024;

/// Who asked for a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A configuration found while booting.
    Boot,
    /// `plywood apply` on the running machine.
    Apply,
}

/// How a generation has to prove itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Boots that may be tried until one is blessed; 0 if none has to be.
    pub attempts: u32,
    /// Seconds after which a boot that was not blessed by hand is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<u64>,
}

/// One layer of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerEntry {
    /// Position in mount order; a higher number hides a lower one.
    pub number: u16,
    /// The extension's image as the configuration names it.
    pub source: String,
    /// What that name resolved to.
    pub image: Digest,
    pub key: LayerKey,
    /// The squashfs file's digest.
    pub digest: Digest,
}

/// An extension that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub source: String,
    pub reason: String,
}

/// `record.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GenerationRecord {
    pub number: u32,
    pub origin: Origin,
    /// Seconds since 1970.
    pub created: u64,
    pub proof: Proof,
    /// Digest of `config.yaml`.
    pub config: Digest,
    /// Digest of `extensions.yaml`.
    pub extensions: Digest,
    pub layers: Vec<LayerEntry>,
    pub skipped: Vec<Skipped>,
}

/// What a new generation is made of.
#[derive(Debug)]
pub struct Draft {
    pub origin: Origin,
    /// Seconds since 1970.
    pub created: u64,
    pub proof: Proof,
    pub config: String,
    pub extensions: String,
    /// In mount order, lowest first.
    pub layers: Vec<(LayerEntry, Layer)>,
    pub skipped: Vec<Skipped>,
}

/// A committed generation whose layers are all in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    path: PathBuf,
    record: GenerationRecord,
    layers: Vec<(LayerEntry, Layer)>,
}

/// Why a generation could not be read or committed.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    #[error("cannot {action} generation {number}")]
    Io { action: &'static str, number: u32, source: io::Error },
    #[error("cannot read {}", Escaped::path(.path))]
    Read { path: PathBuf, source: io::Error },
    #[error("generation {number} was written by a newer plywood (format {format})")]
    Newer { number: u32, format: u32 },
    #[error("generation {number} is damaged: {what}")]
    Damaged { number: u32, what: String },
    #[error("generation {number} is damaged")]
    Record { number: u32, source: RecordError },
    #[error(transparent)]
    Trials(RecordError),
}

impl GenerationError {
    /// Whether the generation is not as it was committed, and will not be.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Record { .. })
    }
}

impl Generation {
    pub fn number(&self) -> u32 {
        self.record.number
    }

    pub fn record(&self) -> &GenerationRecord {
        &self.record
    }

    /// The layers in mount order, lowest first.
    pub fn layers(&self) -> &[(LayerEntry, Layer)] {
        &self.layers
    }

    /// The configuration that asked for this generation.
    pub fn config(&self) -> Result<String, GenerationError> {
        text(&self.path.join("config.yaml"), &self.record.config, self.number())
    }

    /// What the merged root shows as `/etc/extensions.yaml`.
    pub fn extensions(&self) -> Result<String, GenerationError> {
        text(&self.path.join("extensions.yaml"), &self.record.extensions, self.number())
    }
}

/// A file of generation `number`, which has to have the digest that the
/// record names.
fn text(path: &Path, digest: &Digest, number: u32) -> Result<String, GenerationError> {
    let name = || path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let damaged = |what: String| GenerationError::Damaged { number, what };
    let bytes =
        record::read_trusted(path, MAX_TEXT).map_err(|error| damaged(format!("{}: {error}", name())))?;
    if Digest::sha256(&bytes) != *digest {
        return Err(damaged(format!("its {} was changed", name())));
    }
    String::from_utf8(bytes).map_err(|_| damaged(format!("its {} is not text", name())))
}

impl Store {
    /// The configuration of generation `number`, which outlives its layers.
    pub fn config_text(&self, number: u32) -> Result<String, GenerationError> {
        let record = self.generation_record(number)?;
        text(&self.generation_path(number).join("config.yaml"), &record.config, number)
    }

    /// The record of generation `number`, whatever has become of its layers.
    pub fn generation_record(&self, number: u32) -> Result<GenerationRecord, GenerationError> {
        let path = self.generation_path(number).join("record.json");
        let record: GenerationRecord = record::read(&path, RECORD_FORMAT).map_err(|source| match source {
            RecordError::Newer { format, .. } => GenerationError::Newer { number, format },
            source => GenerationError::Record { number, source },
        })?;
        match record.number == number {
            true => Ok(record),
            false => {
                let what = format!("its record is that of generation {}", record.number);
                Err(GenerationError::Damaged { number, what })
            }
        }
    }

    /// Opens generation `number`; fails unless it is whole and all its layers
    /// are in the store.
    pub fn generation(&self, number: u32) -> Result<Generation, GenerationError> {
        let record = self.generation_record(number)?;
        let damaged = |what: String| GenerationError::Damaged { number, what };
        let layer_of = |entry: &LayerEntry| match self.layer(&entry.key) {
            Some(layer) if layer.record().digest == entry.digest => Ok((entry.clone(), layer)),
            Some(_) => Err(damaged(format!("layer {} is another one", entry.key))),
            None => Err(damaged(format!("layer {} is missing or has another length", entry.key))),
        };
        let layers = record.layers.iter().map(layer_of).collect::<Result<_, _>>()?;
        let generation = Generation { path: self.generation_path(number), record, layers };
        generation.config()?;
        generation.extensions()?;
        Ok(generation)
    }

    /// Numbers of all generations, oldest first, whole or not.
    pub fn generations(&self) -> Result<Vec<u32>, GenerationError> {
        let path = self.path.join("generations");
        let failed = |source| GenerationError::Read { path: path.clone(), source };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_str().filter(|name| is_number(name));
            numbers.extend(name.and_then(|name| name.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Fails if a newer plywood wrote any of the generations: then this one
    /// does not know what the store means, and must not change it.
    pub fn check_formats(&self) -> Result<(), GenerationError> {
        for number in self.generations()? {
            if let Err(error @ GenerationError::Newer { .. }) = self.generation_record(number) {
                return Err(error);
            }
        }
        match self.trials() {
            Err(error @ RecordError::Newer { .. }) => Err(GenerationError::Trials(error)),
            _ => Ok(()),
        }
    }

    /// Commits `draft` as the current generation. After a crash either it or
    /// the one before is current.
    pub fn commit_generation(&self, lock: &Lock, draft: Draft) -> Result<Generation, GenerationError> {
        self.check_formats()?;
        let number = self.next_number()?;
        let record = GenerationRecord {
            number,
            origin: draft.origin,
            created: draft.created,
            proof: draft.proof,
            config: Digest::sha256(draft.config.as_bytes()),
            extensions: Digest::sha256(draft.extensions.as_bytes()),
            layers: draft.layers.iter().map(|(entry, _)| entry.clone()).collect(),
            skipped: draft.skipped,
        };
        let path = self.generation_path(number);
        let json = record::encode(RECORD_FORMAT, &record);
        json.and_then(|json| {
            self.write_generation(
                &path,
                &[
                    ("config.yaml", draft.config.as_bytes()),
                    ("extensions.yaml", draft.extensions.as_bytes()),
                    ("record.json", &json),
                ],
            )
        })
        .map_err(|source| GenerationError::Io { action: "write", number, source })?;
        self.activate(lock, number).inspect_err(|_| {
            // Nobody names it, so nobody would miss it; what is current may not go.
            if self.current_if_readable() != Some(number) {
                give_back(&path);
            }
        })?;
        Ok(Generation { path, record, layers: draft.layers })
    }

    /// Makes the directory of a generation, whole or not at all.
    fn write_generation(&self, path: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
        let staged = self.path.join("staging/generation");
        let write = || {
            fs::create_dir(&staged)?;
            for (name, bytes) in files {
                write_synced(&staged.join(name), bytes)?;
            }
            File::open(&staged)?.sync_all()?;
            fs::rename(&staged, path)?;
            sync_parent(path)
        };
        // Its number is new: whatever has it by now is this one.
        write().inspect_err(|_| [staged.as_path(), path].into_iter().for_each(give_back))
    }

    /// One more than any number that was ever given, as far as is known.
    fn next_number(&self) -> Result<u32, GenerationError> {
        let named = self.current_if_readable().into_iter().chain(self.previous_if_readable());
        let marked = self.trials().map(|trials| trials.marks.into_keys().next_back()).ok().flatten();
        let last = self.generations()?.into_iter().chain(named).chain(marked).max().unwrap_or_default();
        last.checked_add(1).ok_or_else(|| {
            let source = io::Error::other("there is no higher number");
            GenerationError::Io { action: "number a generation after", number: last, source }
        })
    }

    pub(super) fn generation_path(&self, number: u32) -> PathBuf {
        self.path.join("generations").join(number.to_string())
    }
}

/// Whether `name` is a generation's, as it is written.
pub(super) fn is_number(name: &str) -> bool {
    name.parse::<u32>().is_ok_and(|number| number.to_string() == name)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(PRIVATE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
