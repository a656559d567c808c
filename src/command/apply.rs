//! `plywood apply`: on the running machine, the next generation.
//!
//! In: a configuration and the store. Out: a committed generation, or nothing
//! changed. What can fail without a change fails first: configuration,
//! versions, space and mode before anything is fetched, collisions before the
//! commit; and a failure gives its space back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::Outcome;
use super::assemble::{self, Assembly};
use super::bless;
use super::credentials::add_auth_files;
use super::generations;
use super::images::Scratch;
use super::list;
use super::machine::{self, Machine};
use crate::cli::{self, Mode};
use crate::config::units::parse_duration;
use crate::config::{Config, Source};
use crate::error::Error;
use crate::fetch::Network;
use crate::layer::Recipe;
use crate::oci::{Digest, Registries};
use crate::plan::{Changes, Plan};
use crate::store::{GenerationRecord, LayerKey, Lock, Origin, Proof, Store};

/// What a configuration means for this machine.
struct Job<'a> {
    arguments: &'a cli::Apply,
    config: Config,
    sources: Vec<Source>,
    machine: Machine,
    recipe: Recipe,
    network: Network,
    registries: Registries,
    /// Of `--mode=try`.
    time_limit: Duration,
}

/// What came, or would come, of it.
struct Change {
    /// None in a dry run.
    generation: Option<u32>,
    changes: Changes,
    reboot: Reboot,
}

/// Whether the running system is what was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reboot {
    Needed,
    NotNeeded,
}

/// Prepares the generation that `arguments` ask for; the next boot mounts it.
pub fn run(arguments: &cli::Apply) -> Result<Outcome, Error> {
    let (config, sources) = machine::load_config(&arguments.files)?;
    let machine = Machine::running(&machine::base(), &config)?;
    let recipe = machine::recipe(&config, &machine)?;
    let network = machine::network_by_hand(&config)?;
    let time_limit = parse_time_limit(&arguments.timeout)?;
    let mut registries = config.registries().clone();
    if let Some(file) = &arguments.auth_file {
        add_auth_files(&mut registries, Some(file))?;
    }
    let job = Job { arguments, config, sources, machine, recipe, network, registries, time_limit };
    let directory = machine::state_directory(&arguments.state);
    refuse_foreign_reboot(arguments, &directory)?;
    if arguments.dry_run {
        return job.show(&directory);
    }
    let (store, lock) = generations::open_to_change(&directory)?;
    let before = Content::of(&store)?;
    let change = job.perform(&store, &lock).inspect_err(|_| {
        if let Err(error) = before.restore(&store, &lock) {
            log::warn!("what was fetched and built stays: {}", error.chain());
        }
    })?;
    let outcome = job.report(&change)?;
    drop(lock);
    if job.is_to_reboot(&change) {
        bless::reboot()?;
    }
    Ok(outcome)
}

/// What a store has, for a failure to leave it at that.
struct Content {
    current: Option<u32>,
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<LayerKey>,
}

impl Content {
    fn of(store: &Store) -> Result<Self, Error> {
        let current = store.current_if_readable();
        Ok(Self { current, blobs: store.blobs()?, layers: store.layers()? })
    }

    /// Removes what came since. Where blobs that were fetched ahead have become
    /// layers, these stay: there may be no other copy.
    fn restore(&self, store: &Store, lock: &Lock) -> Result<(), Error> {
        let has_all = self.blobs.is_subset(&store.blobs()?);
        store.keep_blobs(lock, &self.blobs)?;
        // The last step of a commit may fail when it is done already.
        if has_all && store.current_if_readable() == self.current {
            store.keep_layers(lock, &self.layers)?;
        }
        Ok(())
    }
}

fn parse_time_limit(text: &str) -> Result<Duration, Error> {
    match parse_duration(text) {
        Ok(limit) if limit.as_secs() > 0 => Ok(limit),
        Ok(_) => Err(Error::Usage("--timeout: a time limit is at least a second".into())),
        Err(error) => Err(Error::Usage(format!("--timeout: {error}"))),
    }
}

/// Only the machine that runs from this store can be rebooted into it.
fn refuse_foreign_reboot(arguments: &cli::Apply, directory: &Path) -> Result<(), Error> {
    let may_reboot = matches!(arguments.mode, Mode::Reboot | Mode::Auto) && !arguments.dry_run;
    let is_booted = list::report().is_ok() && directory == Path::new(super::boot::STATE);
    match may_reboot && !is_booted {
        false => Ok(()),
        true => Err(Error::Usage(
            "plywood did not boot this machine from this state directory and does not reboot it: use --mode=staged".into(),
        )),
    }
}

impl Job<'_> {
    fn assembly<'b>(&'b self, store: &'b Store, notes: &'b Store, base: &'b Path) -> Assembly<'b> {
        let proof = match self.arguments.mode {
            Mode::Try => Proof { attempts: 1, time_limit: Some(self.time_limit.as_secs()) },
            _ => machine::proof(&self.config),
        };
        Assembly {
            recipe: &self.recipe,
            store,
            config: &self.config,
            sources: &self.sources,
            machine: &self.machine,
            registries: &self.registries,
            network: &self.network,
            base,
            notes,
            origin: Origin::Apply,
            proof,
            now: machine::now(),
        }
    }

    /// The dry run. It makes no store and leaves the one that is there alone.
    fn show(&self, directory: &Path) -> Result<Outcome, Error> {
        let scratch = Scratch::temporary()?;
        let elsewhere = Store::open(scratch.path())?;
        let base = machine::base();
        let existing = Store::open_existing(directory)?;
        let store = existing.as_ref().unwrap_or(&elsewhere);
        store.check_formats()?;
        let assembly = self.assembly(store, &elsewhere, &base);
        let before = current(store);
        let known = assembly.plan(before.as_ref(), BTreeMap::new());
        let downloads = self.assembly(&elsewhere, &elsewhere, &base).downloads(&known)?;
        let plan = assembly.plan(before.as_ref(), downloads);
        let reboot = self.reboot(store, plan.changes());
        self.refuse_mode(reboot)?;
        if self.arguments.json {
            let change = Change { generation: None, changes: plan.changes().clone(), reboot };
            super::print(format_args!("{:#}", self.json(&change, Some(plan.download()))))?;
        } else {
            super::print(self.text(&plan, reboot).trim_end())?;
        }
        let config = Digest::sha256(assemble::joined(&self.sources).as_bytes());
        let is_it = |record: &GenerationRecord| record.config == config && assembly.stays(record.number);
        let is_there = plan.changes().is_empty() && before.is_some_and(|record| is_it(&record));
        Ok(if is_there { Outcome::NothingToDo } else { Outcome::Done })
    }

    fn text(&self, plan: &Plan, reboot: Reboot) -> String {
        let mut text = plan.to_string();
        if plan.download() > 0 {
            text += &format!("to download: {}\n", list::size(plan.download()));
        }
        text + match reboot {
            Reboot::Needed => "a reboot is needed\n",
            Reboot::NotNeeded => "no reboot is needed\n",
        }
    }

    fn perform(&self, store: &Store, lock: &Lock) -> Result<Change, Error> {
        let base = machine::base();
        let assembly = self.assembly(store, store, &base);
        let before = current(store);
        let plan = assembly.plan(before.as_ref(), BTreeMap::new());
        self.refuse_mode(self.reboot(store, plan.changes()))?;
        let generation = assembly.perform(&plan, lock, &mut || Ok(()))?;
        let number = generation.number();
        let is_new = before.as_ref().is_none_or(|before| before.number != number);
        if is_new {
            generations::sweep_behind(store, lock);
        }
        let versions = |record: &GenerationRecord| assembly.versions(record);
        let old = before.as_ref().map(versions).unwrap_or_default();
        let changes = Changes::between(&old, &versions(generation.record()));
        let reboot = self.reboot_into(store, Some(generation.record()));
        Ok(Change { generation: is_new.then_some(number), changes, reboot })
    }

    /// Whether a plan needs a reboot; where something has to be fetched it is
    /// not known to be the same.
    fn reboot(&self, store: &Store, changes: &Changes) -> Reboot {
        match (changes.is_empty(), current(store)) {
            (true, current) => self.reboot_into(store, current.as_ref()),
            _ => Reboot::Needed,
        }
    }

    /// Whether a generation shows another root than the running one, which is
    /// the current one where plywood did not boot the machine.
    fn reboot_into(&self, store: &Store, wanted: Option<&GenerationRecord>) -> Reboot {
        let running = match list::report() {
            Ok(report) => report.generation.and_then(|number| store.generation_record(number).ok()),
            Err(_) => None,
        };
        let layers = |record: Option<&GenerationRecord>| -> Vec<_> {
            record.iter().flat_map(|record| &record.layers).map(|entry| (entry.number, entry.key)).collect()
        };
        let is_same = match &running {
            None => layers(wanted).is_empty(),
            Some(running) => {
                let config = generations::config_of(store, running.number);
                layers(Some(running)) == layers(wanted)
                    && config.is_ok_and(|config| {
                        config.overlay() == self.config.overlay() && config.modules() == self.config.modules()
                    })
            }
        };
        if is_same { Reboot::NotNeeded } else { Reboot::Needed }
    }

    fn refuse_mode(&self, reboot: Reboot) -> Result<(), Error> {
        match (self.arguments.mode, reboot) {
            (Mode::NoReboot, Reboot::Needed) => Err(Error::NotBootable(
                "this changes what the next boot mounts, which --mode=no-reboot does not allow".into(),
            )),
            _ => Ok(()),
        }
    }

    fn is_to_reboot(&self, change: &Change) -> bool {
        match self.arguments.mode {
            Mode::Reboot => change.generation.is_some(),
            // What was staged before is pending, too.
            Mode::Auto => change.reboot == Reboot::Needed,
            Mode::NoReboot | Mode::Staged | Mode::Try => false,
        }
    }

    fn report(&self, change: &Change) -> Result<Outcome, Error> {
        let outcome = if change.generation.is_some() { Outcome::Done } else { Outcome::NothingToDo };
        if self.arguments.json {
            super::print(format_args!("{:#}", self.json(change, None)))?;
            return Ok(outcome);
        }
        let text = match (change.generation, change.reboot) {
            (None, _) => "nothing to do: the current generation is what the configuration asks for".into(),
            (Some(number), Reboot::Needed) => {
                format!("{}generation {number} is ready; it runs after the next boot", change.changes)
            }
            (Some(number), Reboot::NotNeeded) => {
                format!("generation {number} is ready; the running system is like it")
            }
        };
        super::print(text)?;
        Ok(outcome)
    }

    fn json(&self, change: &Change, download: Option<u64>) -> serde_json::Value {
        let result = match (self.arguments.dry_run, change.generation, change.reboot) {
            (true, ..) => "planned",
            (false, None, _) => "nothing-to-do",
            (false, Some(_), Reboot::Needed) => "reboot-needed",
            (false, Some(_), Reboot::NotNeeded) => "done",
        };
        json!({
            "result": result,
            "generation": change.generation,
            "rebootNeeded": change.reboot == Reboot::Needed,
            "mode": self.arguments.mode,
            "changes": change.changes,
            "downloadBytes": download,
        })
    }
}

/// The record of the current generation; none if it is damaged or there is
/// none.
fn current(store: &Store) -> Option<GenerationRecord> {
    store.generation_record(store.current_if_readable()?).ok()
}
