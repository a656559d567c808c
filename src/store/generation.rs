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

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{self, RecordError};
use super::{Layer, LayerKey, Lock, PRIVATE, Store, sync_parent};
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
    /// The number that the symlink `current` names, if there is one.
    pub fn current(&self) -> Result<Option<u32>, GenerationError> {
        self.linked("current")
    }

    /// The number of the generation that was current before.
    pub fn previous(&self) -> Result<Option<u32>, GenerationError> {
        self.linked("previous")
    }

    /// The current generation's number and configuration, if the running
    /// machine chose it, by `apply` or `rollback`. It needs none of the
    /// layers, so it outlives them.
    pub fn applied_config(&self) -> Option<(u32, String)> {
        let number = self.current().ok()??;
        let record = self.generation_record(number).ok()?;
        let was_chosen = || self.trials().is_ok_and(|trials| trials.chosen == Some(number));
        if record.origin != Origin::Apply && !was_chosen() {
            return None;
        }
        self.config_text(number).ok().map(|config| (number, config))
    }

    /// The configuration of generation `number`, which outlives its layers.
    pub fn config_text(&self, number: u32) -> Result<String, GenerationError> {
        let record = self.generation_record(number)?;
        text(&self.generation_path(number).join("config.yaml"), &record.config, number)
    }

    fn linked(&self, link: &str) -> Result<Option<u32>, GenerationError> {
        let path = self.path.join(link);
        let target = match fs::read_link(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(GenerationError::Read { path, source }),
            Ok(target) => target,
        };
        let number = target.strip_prefix("generations").ok().and_then(Path::to_str);
        match number.and_then(|number| number.parse().ok()) {
            Some(number) => Ok(Some(number)),
            None => {
                let what = io::Error::other("it does not name a generation");
                Err(GenerationError::Read { path, source: what })
            }
        }
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
            numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
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
        let io = |action| move |source| GenerationError::Io { action, number, source };
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
        let staged = self.path.join(format!("staging/generation-{number}"));
        fs::create_dir(&staged).map_err(io("write"))?;
        let json = record::encode(RECORD_FORMAT, &record).map_err(io("write"))?;
        for (name, bytes) in [
            ("config.yaml", draft.config.as_bytes()),
            ("extensions.yaml", draft.extensions.as_bytes()),
            ("record.json", &json),
        ] {
            write_synced(&staged.join(name), bytes).map_err(io("write"))?;
        }
        File::open(&staged).and_then(|directory| directory.sync_all()).map_err(io("write"))?;
        let path = self.generation_path(number);
        fs::rename(&staged, &path).and_then(|()| sync_parent(&path)).map_err(io("name"))?;
        self.activate(lock, number)?;
        Ok(Generation { path, record, layers: draft.layers })
    }

    /// Makes generation `number` the one to boot.
    pub fn activate(&self, _lock: &Lock, number: u32) -> Result<(), GenerationError> {
        let target = |number: u32| Path::new("generations").join(number.to_string());
        let replaced = match self.current() {
            Ok(Some(current)) if current == number => return Ok(()),
            Ok(Some(current)) if self.generation_path(current).is_dir() => {
                self.replace_link("previous", &target(current))
            }
            // There is nothing that could be gone back to.
            Ok(_) | Err(_) => Ok(()),
        };
        replaced
            .and_then(|()| self.replace_link("current", &target(number)))
            .map_err(|source| GenerationError::Io { action: "activate", number, source })
    }

    /// One more than any number that was ever given, as far as is known.
    fn next_number(&self) -> Result<u32, GenerationError> {
        let named = [self.current(), self.previous()].into_iter().filter_map(|number| number.ok().flatten());
        let marked = self.trials().map(|trials| trials.marks.into_keys().next_back()).ok().flatten();
        let last = self.generations()?.into_iter().chain(named).chain(marked).max().unwrap_or_default();
        last.checked_add(1).ok_or_else(|| {
            let source = io::Error::other("there is no higher number");
            GenerationError::Io { action: "number a generation after", number: last, source }
        })
    }

    fn replace_link(&self, name: &str, target: &Path) -> io::Result<()> {
        let staged = self.path.join("staging").join(name);
        std::os::unix::fs::symlink(target, &staged)?;
        let path = self.path.join(name);
        fs::rename(&staged, &path)?;
        sync_parent(&path)
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
mod tests {
    use super::*;
    use crate::store::LayerRecord;

    fn draft(store: &Store, config: &str) -> Draft {
        let staged = store.stage_layer().unwrap();
        let record = LayerRecord {
            digest: Digest::sha256(b""),
            size: 0,
            inodes: 1,
            verity_root: None,
            name: "tools".into(),
            version: "1".into(),
            manifest: String::new(),
            places: vec![],
            kernel_release: None,
        };
        let layer = store.commit_layer(staged, LayerKey::of("chain"), record).unwrap();
        let entry = LayerEntry {
            number: 0,
            source: "ghcr.io/a/tools:1".into(),
            image: Digest::sha256(b"manifest"),
            key: *layer.key(),
            digest: layer.record().digest,
        };
        Draft {
            origin: Origin::Boot,
            created: 1_700_000_000,
            proof: Proof { attempts: 3, time_limit: None },
            config: config.into(),
            extensions: "layers: []\n".into(),
            layers: vec![(entry, layer)],
            skipped: vec![],
        }
    }

    #[test]
    fn a_committed_generation_is_current_and_the_last_one_previous() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.current().unwrap(), None);
        let lock = store.lock().unwrap();
        let first = store.commit_generation(&lock, draft(&store, "one")).unwrap();
        assert_eq!((store.current().unwrap(), store.generation(1).unwrap()), (Some(1), first));
        let second = store.commit_generation(&lock, draft(&store, "two")).unwrap();
        assert_eq!((store.current().unwrap(), store.previous().unwrap()), (Some(2), Some(1)));
        assert_eq!(second.config().unwrap(), "two");
        store.activate(&lock, 1).unwrap();
        assert_eq!((store.current().unwrap(), store.previous().unwrap()), (Some(1), Some(2)));
        assert_eq!(fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn a_number_is_not_given_twice() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lock = store.lock().unwrap();
        let mut trials = crate::store::Trials::default();
        trials.condemn(6, "hung".into(), false);
        store.put_trials(&lock, &trials).unwrap();
        assert_eq!(store.commit_generation(&lock, draft(&store, "one")).unwrap().number(), 7);
        fs::remove_dir_all(directory.path().join("generations/7")).unwrap();
        assert_eq!(store.commit_generation(&lock, draft(&store, "one")).unwrap().number(), 8);
    }

    #[test]
    fn an_applied_configuration_outlives_its_layers() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lock = store.lock().unwrap();
        store.commit_generation(&lock, draft(&store, "one")).unwrap();
        assert_eq!(store.applied_config(), None);
        let applied = Draft { origin: Origin::Apply, ..draft(&store, "two") };
        store.commit_generation(&lock, applied).unwrap();
        fs::remove_dir_all(directory.path().join("layers")).unwrap();
        assert!(store.generation(2).is_err());
        assert_eq!(store.applied_config(), Some((2, "two".into())));
        fs::write(directory.path().join("generations/2/config.yaml"), "three").unwrap();
        assert_eq!(store.applied_config(), None);
        let trials = crate::store::Trials { chosen: Some(1), ..Default::default() };
        store.put_trials(&lock, &trials).unwrap();
        store.activate(&lock, 1).unwrap();
        assert_eq!(store.applied_config(), Some((1, "one".into())));
    }

    #[test]
    fn a_choice_that_cannot_be_read_is_lost() {
        type Damage = fn(&Path);
        let rows: [(&str, Damage, bool); 4] = [
            ("none", |_| {}, false),
            ("pointer gone", |state| fs::remove_file(state.join("current")).unwrap(), true),
            ("pointed to gone", |state| fs::remove_dir_all(state.join("generations/2")).unwrap(), true),
            ("record cut", |state| fs::write(state.join("generations/2/record.json"), "{").unwrap(), true),
        ];
        for (name, damage, expected) in rows {
            for origin in [Origin::Boot, Origin::Apply] {
                let directory = tempfile::tempdir().unwrap();
                let store = Store::open(directory.path()).unwrap();
                let lock = store.lock().unwrap();
                for config in ["one", "two"] {
                    store.commit_generation(&lock, Draft { origin, ..draft(&store, config) }).unwrap();
                }
                damage(directory.path());
                assert_eq!(store.has_lost_choice(), expected && origin == Origin::Apply, "{name} {origin:?}");
            }
        }
    }

    #[test]
    fn a_generation_with_something_missing_or_changed_does_not_open() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 6] = [
            ("layer gone", |state| fs::remove_dir_all(state.join("layers")).unwrap()),
            ("record cut", |state| {
                fs::write(state.join("generations/1/record.json"), "{\"format\":1").unwrap();
            }),
            ("config changed", |state| fs::write(state.join("generations/1/config.yaml"), "x").unwrap()),
            ("list changed", |state| fs::write(state.join("generations/1/extensions.yaml"), "x").unwrap()),
            ("generation gone", |state| fs::remove_dir_all(state.join("generations/1")).unwrap()),
            ("a symlink in its place", |state| {
                fs::rename(state.join("generations/1"), state.join("elsewhere")).unwrap();
                std::os::unix::fs::symlink("../elsewhere", state.join("generations/1")).unwrap();
            }),
        ];
        for (name, damage) in damages {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path()).unwrap();
            let lock = store.lock().unwrap();
            store.commit_generation(&lock, draft(&store, "one")).unwrap();
            damage(directory.path());
            assert!(store.generation(1).unwrap_err().is_damage(), "{name}");
        }
    }

    #[test]
    fn a_pointer_that_is_no_pointer_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let current = directory.path().join("current");
        std::os::unix::fs::symlink("../../etc", &current).unwrap();
        store.current().unwrap_err();
        fs::remove_file(&current).unwrap();
        fs::write(&current, [0; 4096]).unwrap();
        store.current().unwrap_err();
        let lock = store.lock().unwrap();
        store.commit_generation(&lock, draft(&store, "one")).unwrap();
        assert_eq!(store.current().unwrap(), Some(1));
    }

    #[test]
    fn a_generation_of_a_newer_format_is_refused_by_that_name_and_nothing_is_committed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lock = store.lock().unwrap();
        store.commit_generation(&lock, draft(&store, "one")).unwrap();
        let path = directory.path().join("generations/1/record.json");
        fs::write(&path, record::encode(2, &"of a later kind").unwrap()).unwrap();
        let expected = "generation 1 was written by a newer plywood (format 2)";
        assert_eq!(store.generation(1).unwrap_err().to_string(), expected);
        let error = store.commit_generation(&lock, draft(&store, "two")).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
