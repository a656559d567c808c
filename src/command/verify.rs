//! `plywood verify`: whether the store is as it was written, and with
//! `--repair`, how to make it so again.
//!
//! In: the store; for a repair, the images that its layers were made from.
//! Out: what is wrong. Invariant: a layer is only replaced by one with the
//! same key and the same bytes.

use std::collections::BTreeSet;

use super::assemble::obtain_layer;
use super::generations;
use super::list;
use super::machine::{self, Machine};
use super::progress::Console;
use crate::cli;
use crate::error::Error;
use crate::fetch::{self, Fetcher};
use crate::oci::ImageSource;
use crate::store::{GenerationRecord, Inspection, LayerEntry, LayerKey, Lock, Store, Subject, Verdict};
use crate::text::Escaped;

/// Checks everything; repairs it if `arguments` say so. Fails if something is
/// wrong when it ends.
pub fn run(arguments: &cli::Verify) -> Result<(), Error> {
    let store = generations::open_existing(&arguments.state)?;
    let mut inspection = store.inspect()?;
    if arguments.repair && !inspection.findings.is_empty() {
        store.check_formats()?;
        let lock = store.lock()?;
        repair(&store, &lock, &inspection)?;
        absolve(&store, &lock)?;
        inspection = store.inspect()?;
    }
    if arguments.json {
        super::print(format_args!("{:#}", serde_json::json!(inspection)))?;
    } else {
        super::print(table(&inspection))?;
    }
    match inspection.findings.len() {
        0 => Ok(()),
        count => Err(Error::Damaged { count }),
    }
}

fn table(inspection: &Inspection) -> String {
    let Inspection { generations, layers, blobs, bytes, findings } = inspection;
    let mut lines: Vec<_> =
        findings.iter().map(|finding| format!("{}: {}", finding.subject, finding.problem)).collect();
    let size = list::size(*bytes);
    lines.push(format!("checked {generations} generations, {layers} layers and {blobs} blobs, {size}"));
    lines.join("\n")
}

fn repair(store: &Store, lock: &Lock, inspection: &Inspection) -> Result<(), Error> {
    let mut layers = BTreeSet::new();
    for finding in &inspection.findings {
        match &finding.subject {
            Subject::Layer(key) => drop(layers.insert(*key)),
            // It is fetched again when it is needed.
            Subject::Blob(digest) => store
                .remove_blob(digest)
                .map_err(|source| Error::Write { path: format!("blob {digest}").into(), source })?,
            Subject::Generation(_) | Subject::File(_) => {}
        }
    }
    for number in store.generations()? {
        let Ok(record) = store.generation_record(number) else { continue };
        for entry in record.layers.iter().filter(|entry| layers.contains(&entry.key)) {
            match remake(store, lock, &record, entry) {
                Ok(()) => log::warn!("layer {} of {} is repaired", entry.key, Escaped::new(&entry.source)),
                Err(error) => log::warn!("layer {} is not repaired: {}", entry.key, error.chain()),
            }
        }
    }
    Ok(())
}

/// Builds the layer of `entry` again, from the very image that it came from.
fn remake(store: &Store, lock: &Lock, record: &GenerationRecord, entry: &LayerEntry) -> Result<(), Error> {
    // Another generation may have needed it too.
    if store.layer(&entry.key).is_some_and(|layer| layer.open().is_ok()) {
        return Ok(());
    }
    let config = generations::config_of(store, record.number)?;
    let machine = Machine::running(&machine::base(), &config)?;
    let recipe = machine::recipe(&config, &machine)?;
    let console = Console::default();
    let fetcher = Fetcher::new(fetch::Machine {
        store,
        registries: config.registries(),
        selection: machine::selection(&config, &machine),
        network: machine::network(&config),
        progress: &console,
    });
    let resolved = fetcher.resolve(&pinned(entry)?)?;
    let key = recipe.key(resolved.chain_id());
    if key != entry.key {
        return Err(other_layer(&key));
    }
    if store.has_layer_file(&key) {
        store.remove_layer(lock, &key)?;
    }
    let layer = obtain_layer(&fetcher, resolved, store, &recipe)?;
    if layer.record().digest == entry.digest { Ok(()) } else { Err(other_layer(&key)) }
}

fn other_layer(key: &LayerKey) -> Error {
    Error::NotBootable(format!("its image makes another layer now, {key}"))
}

/// The image with the digest that its name stood for.
fn pinned(entry: &LayerEntry) -> Result<ImageSource, Error> {
    let parse = |text: &str| {
        text.parse::<ImageSource>().map_err(|error| Error::Usage(crate::sys::kmsg::chain(&error)))
    };
    match parse(&entry.source)? {
        ImageSource::Registry(reference) if reference.digest().is_none() => {
            parse(&format!("{}@{}", entry.source, entry.image))
        }
        source => Ok(source),
    }
}

/// Gives generations that were bad for damage, which is repaired, a new trial,
/// and all of them one where the marks themselves were damaged.
fn absolve(store: &Store, lock: &Lock) -> Result<(), Error> {
    let before = store.trials();
    let mut trials = store.trials_or_none()?;
    for number in store.generations()? {
        let was_damaged = matches!(trials.mark(number).verdict, Verdict::Bad { damaged: true, .. });
        let is_whole = || {
            store
                .generation(number)
                .is_ok_and(|generation| generation.layers().iter().all(|(_, layer)| layer.open().is_ok()))
        };
        if was_damaged && is_whole() {
            trials.reset(number);
        }
    }
    if before.is_ok_and(|before| before == trials) {
        return Ok(());
    }
    Ok(store.put_trials(lock, &trials)?)
}
