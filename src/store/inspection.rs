//! Whether everything in the store is as it was written.
//!
//! In: the store, and how a layer's hash tree is checked. Out: an
//! [`Inspection`]: how much was read, and what is wrong. Every byte of what
//! generations name, and of every blob, is hashed through the descriptor that
//! is read. Changes nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::generation::is_number;
use super::{GenerationError, Layer, LayerKey, Store};
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
    /// A layer's dm-verity tree.
    HashTree(LayerKey),
    Blob(Digest),
    /// A file that is none of these.
    File(String),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Generation(number) => write!(f, "generation {number}"),
            Self::Layer(key) => write!(f, "layer {key}"),
            Self::HashTree(key) => write!(f, "hash tree of layer {key}"),
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

/// Says whether a layer's hash tree is that of its squashfs, which is open and
/// was checked.
pub type CheckTree<'a> = dyn Fn(&Layer, &File) -> io::Result<()> + 'a;

impl Inspection {
    fn find(&mut self, subject: Subject, problem: &dyn std::error::Error) {
        self.note(subject, crate::sys::kmsg::chain(problem));
    }

    fn note(&mut self, subject: Subject, problem: impl Into<String>) {
        self.findings.push(Finding { subject, problem: problem.into() });
    }
}

impl Store {
    /// Reads and hashes everything.
    pub fn inspect(&self, check_tree: &CheckTree) -> Result<Inspection, GenerationError> {
        let mut inspection = Inspection::default();
        let mut keys = BTreeSet::new();
        let numbers = self.generations()?;
        for number in numbers.iter().copied() {
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
        self.inspect_pointers(&numbers, &mut inspection);
        self.inspect_names("generations", is_number, &mut inspection);
        self.inspect_names("layers", |name| LayerKey::of_file(name).is_some(), &mut inspection);
        for key in keys {
            self.inspect_layer(&key, check_tree, &mut inspection);
        }
        for algorithm in ["sha256", "sha512"] {
            self.inspect_blobs(algorithm, &mut inspection);
        }
        Ok(inspection)
    }

    fn inspect_pointers(&self, numbers: &[u32], inspection: &mut Inspection) {
        for (name, pointer) in [("current", self.current()), ("previous", self.previous())] {
            let subject = Subject::File(name.into());
            match pointer {
                Ok(Some(number)) if !numbers.contains(&number) => {
                    inspection.note(subject, format!("it names generation {number}, which is not there"));
                }
                Ok(_) => {}
                Err(error) => inspection.find(subject, &error),
            }
        }
        if let Err(error) = self.trials() {
            inspection.find(Subject::File("attempts".into()), &error);
        }
    }

    fn inspect_layer(&self, key: &LayerKey, check_tree: &CheckTree, inspection: &mut Inspection) {
        inspection.layers += 1;
        let Some(layer) = self.layer(key) else {
            return inspection.note(Subject::Layer(*key), "it is missing, or its record does not fit");
        };
        inspection.bytes = inspection.bytes.saturating_add(layer.record().size);
        match layer.open() {
            Ok(squashfs) => {
                if let Err(error) = check_tree(&layer, &squashfs) {
                    inspection.find(Subject::HashTree(*key), &error);
                }
            }
            Err(error) => inspection.find(Subject::Layer(*key), &error),
        }
    }

    /// Reports what has a name that nothing there has.
    fn inspect_names(&self, directory: &str, is_known: fn(&str) -> bool, inspection: &mut Inspection) {
        let directory = self.path.join(directory);
        for path in entries(&directory, inspection) {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_known) {
                inspection.note(Subject::File(shown(&path)), "it is not known here");
            }
        }
    }

    fn inspect_blobs(&self, algorithm: &str, inspection: &mut Inspection) {
        let directory = self.path.join("blobs").join(algorithm);
        for path in entries(&directory, inspection) {
            self.inspect_blob(algorithm, &path, inspection);
        }
    }

    fn inspect_blob(&self, algorithm: &str, path: &Path, inspection: &mut Inspection) {
        let hex = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(digest) = format!("{algorithm}:{hex}").parse() else {
            return inspection.note(Subject::File(shown(path)), "it is no blob");
        };
        let Some(blob) = self.blob(&digest) else {
            return inspection.note(Subject::Blob(digest), "it is not a regular file");
        };
        inspection.blobs += 1;
        inspection.bytes = inspection.bytes.saturating_add(blob.size());
        if let Err(error) = blob.open_checked() {
            inspection.find(Subject::Blob(*blob.digest()), &error);
        }
    }
}

/// What is in a directory, as far as it can be read.
fn entries(directory: &Path, inspection: &mut Inspection) -> Vec<PathBuf> {
    let mut failed = |error| inspection.find(Subject::File(shown(directory)), &error);
    match fs::read_dir(directory) {
        Ok(entries) => {
            entries.filter_map(|entry| entry.map(|entry| entry.path()).map_err(&mut failed).ok()).collect()
        }
        Err(error) => {
            failed(error);
            Vec::new()
        }
    }
}

fn shown(path: &Path) -> String {
    Escaped::path(path).to_string()
}
