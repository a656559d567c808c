//! `plywood verify`: whether the store is as it was written, and with
//! `--repair`, how to make it so again.
//!
//! In: the store; for a repair, the images that its layers were made from.
//! Out: what is wrong. Invariant: a layer is only replaced by one with the
//! same key and the same bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, memfd_create};

use super::generations;
use super::list;
use super::machine::{self, Machine};
use super::obtain::Obtain;
use super::progress::Console;
use crate::cli;
use crate::error::Error;
use crate::fetch::{self, Fetcher};
use crate::layer::{Builder, write_hash_tree};
use crate::oci::ImageSource;
use crate::store::{
    GenerationRecord, Inspection, Layer, LayerEntry, LayerKey, Lock, Store, Subject, Verdict, digest_of,
};
use crate::text::Escaped;

/// Checks everything; repairs it if `arguments` say so. Fails if something is
/// wrong when it ends.
pub fn run(arguments: &cli::Verify) -> Result<(), Error> {
    let store = generations::open_existing(&arguments.state)?;
    let mut inspection = store.inspect(&check_tree)?;
    if arguments.repair && !inspection.findings.is_empty() {
        store.check_formats()?;
        let lock = store.lock()?;
        repair(&store, &lock, &inspection)?;
        absolve(&store, &lock)?;
        inspection = store.inspect(&check_tree)?;
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

/// Compares a layer's hash tree with the one that its content has.
fn check_tree(layer: &Layer, squashfs: &File) -> io::Result<()> {
    let Some(root) = &layer.record().verity_root else { return Ok(()) };
    let expected = File::from(memfd_create("verity", MemfdFlags::CLOEXEC)?);
    if write_hash_tree(squashfs, expected.try_clone()?)? != *root {
        return Err(io::Error::other("the layer's record names another root hash"));
    }
    let stored = layer.open_verity()?;
    let is_as_long = stored.metadata()?.len() == expected.metadata()?.len();
    match is_as_long && digest_of(stored)? == digest_of(expected)? {
        true => Ok(()),
        false => Err(io::Error::other("it is not that of the layer")),
    }
}

fn table(inspection: &Inspection) -> String {
    let Inspection { generations, layers, blobs, bytes, findings, .. } = inspection;
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
            Subject::HashTree(key) => remake_tree(store, lock, key)?,
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

/// Computes the hash tree of a layer that is whole again.
fn remake_tree(store: &Store, lock: &Lock, key: &LayerKey) -> Result<(), Error> {
    let Some(layer) = store.layer(key) else { return Ok(()) };
    let squashfs = layer.open()?;
    store.replace_verity(lock, &layer, |tree| write_hash_tree(&squashfs, tree).map(drop))?;
    log::warn!("the hash tree of layer {key} is repaired");
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
    let console = Console::by_hand();
    let fetcher = Fetcher::new(fetch::Machine {
        store,
        registries: config.registries(),
        selection: machine::selection(&config, &machine),
        network: machine::network_by_hand(&config)?,
        progress: &console,
    });
    let resolved = fetcher.resolve(&pinned(entry)?)?;
    let key = recipe.key(resolved.chain_id());
    if key != entry.key {
        return Err(other_layer(&key));
    }
    store.remove_layer(lock, &key)?;
    let layer = Obtain::new(&fetcher, Builder::new(&recipe, store), &console, []).layer(resolved)?;
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
