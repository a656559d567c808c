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

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Layer, LayerKey, Lock, Store, read_json, sync_parent};
use crate::oci::Digest;
use crate::text::Escaped;

/// Version of [`GenerationRecord`]; a newer one is refused.
const RECORD_FORMAT: u32 = 1;

/// Who asked for a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A configuration found while booting.
    Boot,
    /// `plywood apply` on the running machine.
    Apply,
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
    pub format: u32,
    pub number: u32,
    pub origin: Origin,
    /// Seconds since 1970.
    pub created: u64,
    /// Digest of `config.yaml`.
    pub config: Digest,
    pub layers: Vec<LayerEntry>,
    pub skipped: Vec<Skipped>,
}

/// What a new generation is made of.
#[derive(Debug)]
pub struct Draft {
    pub origin: Origin,
    /// Seconds since 1970.
    pub created: u64,
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
        self.read("config.yaml")
    }

    /// What the merged root shows as `/etc/extensions.yaml`.
    pub fn extensions(&self) -> Result<String, GenerationError> {
        self.read("extensions.yaml")
    }

    fn read(&self, name: &str) -> Result<String, GenerationError> {
        let path = self.path.join(name);
        fs::read_to_string(&path).map_err(|source| GenerationError::Read { path, source })
    }
}

impl Store {
    /// The generation that the symlink `current` names, if there is one.
    pub fn current(&self) -> Result<Option<Generation>, GenerationError> {
        self.linked("current")
    }

    /// The generation that was current before.
    pub fn previous(&self) -> Result<Option<Generation>, GenerationError> {
        self.linked("previous")
    }

    /// The configuration that was applied last and its generation's number, if
    /// the current generation is that one. It needs none of the layers, so it
    /// outlives them.
    pub fn applied_config(&self) -> Option<(u32, String)> {
        let target = fs::read_link(self.path.join("current")).ok()?;
        let number = target.strip_prefix("generations").ok()?.to_str()?.parse().ok()?;
        let path = self.generation_path(number);
        let record: GenerationRecord = read_json(&path.join("record.json")).ok()?;
        let config = fs::read_to_string(path.join("config.yaml")).ok()?;
        let is_whole = record.format <= RECORD_FORMAT && Digest::sha256(config.as_bytes()) == record.config;
        (is_whole && record.origin == Origin::Apply).then_some((number, config))
    }

    fn linked(&self, link: &str) -> Result<Option<Generation>, GenerationError> {
        let path = self.path.join(link);
        let target = match fs::read_link(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(GenerationError::Read { path, source }),
            Ok(target) => target,
        };
        let number = target.strip_prefix("generations").ok().and_then(Path::to_str);
        match number.and_then(|number| number.parse().ok()) {
            Some(number) => self.generation(number).map(Some),
            None => {
                let what = io::Error::other("it does not name a generation");
                Err(GenerationError::Read { path, source: what })
            }
        }
    }

    /// Opens generation `number`; fails unless it is whole and all its layers
    /// are in the store.
    pub fn generation(&self, number: u32) -> Result<Generation, GenerationError> {
        let path = self.generation_path(number);
        let damaged = |what: String| GenerationError::Damaged { number, what };
        let record: GenerationRecord = read_json(&path.join("record.json"))
            .map_err(|source| GenerationError::Io { action: "read", number, source })?;
        if record.format > RECORD_FORMAT {
            return Err(GenerationError::Newer { number, format: record.format });
        }
        if record.number != number {
            return Err(damaged(format!("its record is that of generation {}", record.number)));
        }
        let layers = record
            .layers
            .iter()
            .map(|entry| match self.layer(&entry.key) {
                Some(layer) => Ok((entry.clone(), layer)),
                None => Err(damaged(format!("layer {} is missing", entry.key))),
            })
            .collect::<Result<_, _>>()?;
        let generation = Generation { path, record, layers };
        if Digest::sha256(generation.config()?.as_bytes()) != generation.record.config {
            return Err(damaged("its config.yaml was changed".into()));
        }
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

    /// Commits `draft` as the current generation. After a crash either it or
    /// the one before is current.
    pub fn commit_generation(&self, _lock: &Lock, draft: Draft) -> Result<Generation, GenerationError> {
        let number = self.generations()?.last().map_or(1, |last| last + 1);
        let io = |action| move |source| GenerationError::Io { action, number, source };
        let record = GenerationRecord {
            format: RECORD_FORMAT,
            number,
            origin: draft.origin,
            created: draft.created,
            config: Digest::sha256(draft.config.as_bytes()),
            layers: draft.layers.iter().map(|(entry, _)| entry.clone()).collect(),
            skipped: draft.skipped,
        };
        let staged = self.path.join(format!("staging/generation-{number}"));
        fs::create_dir(&staged).map_err(io("write"))?;
        let json = serde_json::to_vec_pretty(&record).map_err(io::Error::from).map_err(io("write"))?;
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
        self.make_current(number).map_err(io("activate"))?;
        Ok(Generation { path, record, layers: draft.layers })
    }

    fn make_current(&self, number: u32) -> io::Result<()> {
        if let Ok(target) = fs::read_link(self.path.join("current")) {
            self.replace_link("previous", &target)?;
        }
        self.replace_link("current", &Path::new("generations").join(number.to_string()))
    }

    fn replace_link(&self, name: &str, target: &Path) -> io::Result<()> {
        let staged = self.path.join("staging").join(name);
        std::os::unix::fs::symlink(target, &staged)?;
        let path = self.path.join(name);
        fs::rename(&staged, &path)?;
        sync_parent(&path)
    }

    fn generation_path(&self, number: u32) -> PathBuf {
        self.path.join("generations").join(number.to_string())
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
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
        };
        Draft {
            origin: Origin::Boot,
            created: 1_700_000_000,
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
        assert_eq!(store.current().unwrap().as_ref(), Some(&first));
        let second = store.commit_generation(&lock, draft(&store, "two")).unwrap();
        assert_eq!(store.current().unwrap().as_ref(), Some(&second));
        assert_eq!(store.previous().unwrap().as_ref(), Some(&first));
        assert_eq!((first.number(), second.number()), (1, 2));
        assert_eq!(second.config().unwrap(), "two");
        assert_eq!(fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
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
        assert!(store.current().is_err());
        assert_eq!(store.applied_config(), Some((2, "two".into())));
        fs::write(directory.path().join("generations/2/config.yaml"), "three").unwrap();
        assert_eq!(store.applied_config(), None);
    }

    #[test]
    fn a_generation_with_something_missing_or_changed_does_not_open() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 5] = [
            ("layer gone", |state| fs::remove_dir_all(state.join("layers")).unwrap()),
            ("record cut", |state| {
                fs::write(state.join("generations/1/record.json"), "{\"format\":1").unwrap()
            }),
            ("config changed", |state| fs::write(state.join("generations/1/config.yaml"), "x").unwrap()),
            ("generation gone", |state| fs::remove_dir_all(state.join("generations/1")).unwrap()),
            ("pointer garbage", |state| {
                fs::remove_file(state.join("current")).unwrap();
                std::os::unix::fs::symlink("../../etc", state.join("current")).unwrap();
            }),
        ];
        for (name, damage) in damages {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path()).unwrap();
            let lock = store.lock().unwrap();
            store.commit_generation(&lock, draft(&store, "one")).unwrap();
            damage(directory.path());
            assert!(store.current().is_err(), "{name}");
        }
    }

    #[test]
    fn a_generation_of_a_newer_format_is_refused_by_that_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lock = store.lock().unwrap();
        store.commit_generation(&lock, draft(&store, "one")).unwrap();
        let path = directory.path().join("generations/1/record.json");
        let newer = fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 2");
        fs::write(&path, newer).unwrap();
        assert!(matches!(store.current(), Err(GenerationError::Newer { number: 1, format: 2 })));
    }
}
