//! Whether everything in the store is as it was written.
//!
//! In: the store. Out: an [`Inspection`]: how much was read, and what is
//! wrong. Every byte is hashed, through the descriptor that is read. Changes
//! nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{GenerationError, LayerKey, Store};
use crate::oci::Digest;
use crate::text::Escaped;

/// What is wrong with one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    #[serde(flatten)]
    pub subject: Subject,
    pub problem: String,
}

/// What something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    Generation(u32),
    Layer(LayerKey),
    Blob(Digest),
    /// A file that is none of these.
    File(String),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Generation(number) => write!(f, "generation {number}"),
            Self::Layer(key) => write!(f, "layer {key}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::File(name) => write!(f, "{name}"),
        }
    }
}

/// What was read, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    pub generations: usize,
    pub layers: usize,
    pub blobs: usize,
    /// Bytes of layers and blobs.
    pub bytes: u64,
    pub findings: Vec<Finding>,
}

impl Inspection {
    fn find(&mut self, subject: Subject, problem: &dyn std::error::Error) {
        let problem = crate::sys::kmsg::chain(problem);
        self.findings.push(Finding { subject, problem });
    }
}

impl Store {
    /// Reads and hashes everything.
    pub fn inspect(&self) -> Result<Inspection, GenerationError> {
        let mut inspection = Inspection::default();
        let mut keys = BTreeSet::new();
        for number in self.generations()? {
            inspection.generations += 1;
            match self.generation_record(number) {
                Ok(record) => keys.extend(record.layers.iter().map(|entry| entry.key)),
                Err(error) => {
                    inspection.find(Subject::Generation(number), &error);
                    continue;
                }
            }
            if let Err(error) = self.generation(number) {
                inspection.find(Subject::Generation(number), &error);
            }
        }
        self.inspect_pointers(&mut inspection);
        for key in keys {
            self.inspect_layer(&key, &mut inspection);
        }
        for algorithm in ["sha256", "sha512"] {
            self.inspect_blobs(algorithm, &mut inspection);
        }
        Ok(inspection)
    }

    fn inspect_pointers(&self, inspection: &mut Inspection) {
        for (name, pointer) in [("current", self.current()), ("previous", self.previous())] {
            if let Err(error) = pointer {
                inspection.find(Subject::File(name.into()), &error);
            }
        }
        if let Err(error) = self.trials() {
            inspection.find(Subject::File("attempts".into()), &error);
        }
    }

    fn inspect_layer(&self, key: &LayerKey, inspection: &mut Inspection) {
        inspection.layers += 1;
        let Some(layer) = self.layer(key) else {
            let problem = "it is missing, or its record does not fit".to_owned();
            return inspection.findings.push(Finding { subject: Subject::Layer(*key), problem });
        };
        inspection.bytes = inspection.bytes.saturating_add(layer.record().size);
        if let Err(error) = layer.open() {
            inspection.find(Subject::Layer(*key), &error);
        }
    }

    fn inspect_blobs(&self, algorithm: &str, inspection: &mut Inspection) {
        let directory = self.path.join("blobs").join(algorithm);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => return inspection.find(Subject::File(shown(&directory)), &error),
        };
        for entry in entries {
            match entry {
                Ok(entry) => self.inspect_blob(algorithm, &entry.path(), inspection),
                Err(error) => inspection.find(Subject::File(shown(&directory)), &error),
            }
        }
    }

    fn inspect_blob(&self, algorithm: &str, path: &Path, inspection: &mut Inspection) {
        let hex = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let blob = format!("{algorithm}:{hex}").parse().ok().and_then(|digest| self.blob(&digest));
        let Some(blob) = blob else {
            let problem = "it is no blob".to_owned();
            return inspection.findings.push(Finding { subject: Subject::File(shown(path)), problem });
        };
        inspection.blobs += 1;
        inspection.bytes = inspection.bytes.saturating_add(blob.size());
        if let Err(error) = blob.open_checked() {
            inspection.find(Subject::Blob(*blob.digest()), &error);
        }
    }
}

fn shown(path: &Path) -> String {
    Escaped::path(path).to_string()
}
