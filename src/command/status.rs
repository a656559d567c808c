//! `plywood status`: what runs, what is next, and why.
//!
//! In: the store and `/run/plywood/boot.json`. Out: a table, or JSON as
//! `docs/status.schema.json` describes it. Changes nothing and needs no lock.

use std::path::Path;

use serde::Serialize;

use super::decision::Decision;
use super::generations;
use super::list::{self, Report};
use super::machine;
use crate::cli;
use crate::error::Error;
use crate::oci::Digest;
use crate::store::{LayerEntry, Skipped, Store, Trials, Verdict};
use crate::sys::kmsg;
use crate::text::Escaped;

/// What there is to say of a machine's generations.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    state: String,
    /// The generation that runs; none on the plain root or where plywood did
    /// not boot the machine.
    running: Option<u32>,
    /// The generation that boots next; none if that is the plain root.
    next: Option<u32>,
    current: Option<u32>,
    last_good: Option<u32>,
    /// How the running system, or else the last boot, came to be.
    boot: Option<Report>,
    generations: Vec<Row>,
}

/// One generation.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    number: u32,
    /// `good`, `untried`, `bad` or `damaged`.
    state: &'static str,
    /// Why it is bad or damaged.
    reason: Option<String>,
    attempts: u32,
    allowed_attempts: u32,
    /// Seconds since 1970.
    created: u64,
    origin: Option<crate::store::Origin>,
    /// Bytes of all its layers.
    size: u64,
    layers: Vec<LayerRow>,
    skipped: Vec<Skipped>,
}

/// One layer of a generation.
#[derive(Debug, Serialize)]
struct LayerRow {
    number: u16,
    name: Option<String>,
    version: Option<String>,
    size: Option<u64>,
    source: String,
    image: Digest,
    digest: Digest,
}

/// Prints the status.
pub fn run(arguments: &cli::Status) -> Result<(), Error> {
    let directory = machine::state_directory(&arguments.state);
    let status = match Store::open_existing(&directory)? {
        Some(store) => Status::of(&store)?,
        None => Status::without_store(&directory),
    };
    match arguments.json {
        true => super::print(format_args!("{:#}", serde_json::json!(status))),
        false => super::print(status.table().trim_end()),
    }
}

impl Status {
    /// Nothing was ever applied or booted here.
    fn without_store(directory: &Path) -> Self {
        let boot = list::report().ok();
        Self {
            state: Escaped::path(directory).to_string(),
            running: boot.as_ref().and_then(|report| report.generation),
            next: None,
            current: None,
            last_good: None,
            boot,
            generations: Vec::new(),
        }
    }

    fn of(store: &Store) -> Result<Self, Error> {
        let (Decision { choices, .. }, trials) = generations::next(store)?;
        let running = list::report().ok();
        let rows = store.generations()?.into_iter().map(|number| row(store, &trials, number)).collect();
        Ok(Self {
            state: Escaped::path(store.path()).to_string(),
            running: running.as_ref().and_then(|report| report.generation),
            next: choices.first().map(|choice| choice.number),
            current: store.current_if_readable(),
            last_good: trials.last_good,
            boot: running.or_else(|| store.last_boot().ok()),
            generations: rows,
        })
    }

    fn table(&self) -> String {
        let mut text = format!("state    {}\n", self.state);
        let shown = |number: Option<u32>| match number {
            Some(number) => format!("generation {number}"),
            None => "the plain root".into(),
        };
        if self.boot.is_some() {
            text += &format!("running  {}\n", shown(self.running));
        }
        text += &format!("next     {}\n", shown(self.next));
        let header = ["GENERATION", "STATE", "ATTEMPTS", "LAYERS", "SIZE", "EXTENSIONS"].map(String::from);
        if self.generations.is_empty() {
            text += "no generation\n";
        } else {
            text += &list::align(std::iter::once(header).chain(self.generations.iter().map(Row::cells)));
        }
        for row in &self.generations {
            if let Some(reason) = &row.reason {
                text += &format!("generation {}: {reason}\n", row.number);
            }
            for skipped in &row.skipped {
                let source = Escaped::new(&skipped.source);
                text += &format!("generation {} without {source}: {}\n", row.number, skipped.reason);
            }
        }
        for failure in self.boot.iter().flat_map(|report| &report.failures) {
            text += &format!("last boot: {failure}\n");
        }
        text
    }
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let names: Vec<_> = self.layers.iter().filter_map(|layer| layer.name.as_deref()).collect();
        [
            self.number.to_string(),
            self.state.into(),
            format!("{}/{}", self.attempts, self.allowed_attempts),
            self.layers.len().to_string(),
            list::size(self.size),
            Escaped::new(&names.join(" ")).to_string(),
        ]
    }
}

fn row(store: &Store, trials: &Trials, number: u32) -> Row {
    let record = match store.generation_record(number) {
        Ok(record) => record,
        Err(error) => {
            return Row { number, state: "damaged", reason: Some(kmsg::chain(&error)), ..Row::default() };
        }
    };
    let mark = trials.mark(number);
    let damage = store.generation(number).err().map(|error| kmsg::chain(&error));
    let (state, reason) = match (mark.verdict, damage) {
        (Verdict::Bad { reason, .. }, _) => ("bad", Some(reason)),
        (_, Some(damage)) => ("damaged", Some(damage)),
        (Verdict::Untried, None) => ("untried", None),
        (Verdict::Good, None) => ("good", None),
    };
    let layers: Vec<_> = record.layers.into_iter().map(|entry| layer_row(store, entry)).collect();
    Row {
        number,
        state,
        reason,
        attempts: mark.attempts,
        allowed_attempts: record.proof.attempts,
        created: record.created,
        origin: Some(record.origin),
        size: layers.iter().filter_map(|layer| layer.size).sum(),
        layers,
        skipped: record.skipped,
    }
}

fn layer_row(store: &Store, entry: LayerEntry) -> LayerRow {
    let layer = store.layer(&entry.key);
    let record = layer.as_ref().map(|layer| layer.record());
    LayerRow {
        number: entry.number,
        name: record.map(|record| record.name.clone()),
        version: record.map(|record| record.version.clone()),
        size: record.map(|record| record.size),
        source: entry.source,
        image: entry.image,
        digest: entry.digest,
    }
}
