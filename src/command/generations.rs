//! `plywood rollback` and `plywood gc`: which generations there are.
//!
//! In: the store, and what runs. Out: another generation that boots next, or
//! a smaller store. Invariant: what runs, what is known to be good and what
//! boots next is never removed.

use std::path::Path;

use super::decision::{self, Decision, Situation};
use super::list;
use super::machine;
use crate::cli;
use crate::config::{Config, Source};
use crate::error::Error;
use crate::store::{Blobs, Lock, Roots, Store, StoreError, Swept, Trials};

/// What would be booted next: as a boot decides, which goes on to the next
/// choice where one turns out to be damaged.
pub fn next(store: &Store) -> Result<(Decision, Trials), Error> {
    let trials = store.trials_or_none()?;
    let numbers = store.generations()?;
    let known = numbers.into_iter().map(|number| (number, decision::proof_if_whole(store, number))).collect();
    let decision = decision::decide(&Situation {
        pinned: None,
        wanted: store.current_if_readable(),
        previous: store.previous_if_readable(),
        known: &known,
        trials: &trials,
    });
    Ok((decision, trials))
}

/// `plywood rollback [N]`: the generation that the next boot takes.
pub fn rollback(arguments: &cli::Rollback) -> Result<(), Error> {
    let (store, lock) = open_existing_to_change(&arguments.state)?;
    let mut trials = store.trials_or_none()?;
    let current = store.current_if_readable();
    let number = match arguments.generation {
        Some(number) => number,
        None => earlier(&store, current, &trials)?,
    };
    if let Some(reason) = trials.why_bad(number) {
        return Err(Error::NotBootable(format!(
            "generation {number} is marked bad ({reason}); apply its configuration anew to try it again"
        )));
    }
    let generation = store.generation(number)?;
    for (_, layer) in generation.layers() {
        layer.open()?;
    }
    if current == Some(number) && trials.chosen == Some(number) {
        return super::print(format_args!("nothing to do: generation {number} boots next"));
    }
    // It has no effect before the generation is current.
    trials.chosen = Some(number);
    if !trials.is_good(number) {
        trials.reset(number);
    }
    store.put_trials(&lock, &trials)?;
    store.activate(&lock, number)?;
    super::print(format_args!("generation {number} runs after the next boot"))
}

/// The generation to go back to: the last good one before the current, else
/// the previous one.
fn earlier(store: &Store, current: Option<u32>, trials: &Trials) -> Result<u32, Error> {
    let good = trials
        .last_good
        .into_iter()
        .chain(store.generations()?.into_iter().rev().filter(|number| trials.is_good(*number)));
    good.chain(store.previous_if_readable())
        .find(|number| Some(*number) != current)
        .ok_or_else(|| Error::NotBootable("there is no other generation to go back to".into()))
}

/// `plywood gc`: removes what no generation that is kept needs.
pub fn gc(arguments: &cli::Gc) -> Result<(), Error> {
    let (store, lock) = open_existing_to_change(&arguments.state)?;
    let swept = sweep(&store, &lock, Blobs::Sweep)?;
    if arguments.json {
        return super::print(format_args!(
            "{:#}",
            serde_json::json!({
                "generations": swept.generations,
                "layers": swept.layers,
                "blobs": swept.blobs,
                "bytes": swept.bytes,
            })
        ));
    }
    super::print(format_args!(
        "removed {} generations, {} layers and {} blobs, {}",
        swept.generations.len(),
        swept.layers,
        swept.blobs,
        list::size(swept.bytes)
    ))
}

/// Removes what the current generation's configuration does not keep.
pub fn sweep(store: &Store, lock: &Lock, blobs: Blobs) -> Result<Swept, Error> {
    let running = match list::report() {
        Ok(report) => report.generation,
        Err(Error::NotBooted { .. }) => None,
        // What runs is not known then, and must not go.
        Err(error) => return Err(error),
    };
    let (decision, _) = next(store)?;
    let next = decision.choices.first().map(|choice| choice.number);
    let newest = match store.current()? {
        Some(current) => keep_generations(&config_of(store, current)?),
        // Nothing says how many.
        None => usize::MAX,
    };
    let also = running.into_iter().chain(next).collect();
    Ok(store.sweep(lock, &Roots { newest, also, blobs })?)
}

fn keep_generations(config: &Config) -> usize {
    usize::try_from(config.keep_generations().get()).unwrap_or(usize::MAX)
}

/// The configuration of generation `number`, whatever became of its layers.
pub fn config_of(store: &Store, number: u32) -> Result<Config, Error> {
    let text = store.config_text(number)?;
    machine::parse_config(&[source_of(number, text)])
}

/// The configuration that the store has of generation `number`, to be parsed.
pub fn source_of(number: u32, config: String) -> Source {
    Source { name: format!("generation {number}"), text: config.into_bytes() }
}

/// Removes generations that are not kept any more, after something else has
/// been done well; what is in the way is told and changes nothing.
pub fn sweep_behind(store: &Store, lock: &Lock) {
    match sweep(store, lock, Blobs::Keep) {
        Ok(swept) if swept == Swept::default() => {}
        Ok(swept) => log::info!("removed {} generations, {} layers", swept.generations.len(), swept.layers),
        Err(error) => log::warn!("old generations stay: {}", error.chain()),
    }
}

/// As [`open_to_change`], where there has to be a store already: a slip in the
/// directory's name makes none.
fn open_existing_to_change(arguments: &cli::State) -> Result<(Store, Lock), Error> {
    open_existing(arguments)?;
    open_to_change(&machine::state_directory(arguments))
}

/// Opens the store and keeps others from changing it. One that a newer
/// plywood wrote is refused before anything in it is touched.
pub fn open_to_change(directory: &Path) -> Result<(Store, Lock), Error> {
    refuse_newer(directory)?;
    let store = Store::open(directory)?;
    let lock = store.lock()?;
    // Who held the lock until now may have been newer.
    store.check_formats()?;
    Ok((store, lock))
}

/// Fails if a newer plywood wrote what is in the state directory.
pub fn refuse_newer(directory: &Path) -> Result<(), Error> {
    match Store::open_existing(directory)? {
        Some(store) => Ok(store.check_formats()?),
        None => Ok(()),
    }
}

/// For commands that say what is in the store: it has to be there.
pub fn open_existing(arguments: &cli::State) -> Result<Store, Error> {
    let path = machine::state_directory(arguments);
    let store = Store::open_existing(&path)?;
    Ok(store.ok_or(StoreError::Absent { path })?)
}
