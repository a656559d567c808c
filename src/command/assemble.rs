//! Config → Plan → Image → Layer → Generation: the part of the flow that
//! `boot` and `apply` share.
//!
//! In: a configuration, the store, the machine. Out: a committed generation.
//! Invariants: the network is brought up only when something is missing that
//! a registry has; nothing is committed before every extension is a layer or
//! was left out as the configuration allows.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use super::collisions::{self, Claim, Collision, Collisions};
use super::extensions_yaml;
use super::kernel_modules;
use super::machine::{self, Machine};
use super::obtain::{Obtain, remove_blob};
use super::progress::Console;
use crate::config::{Config, OnFailure, Source};
use crate::error::Error;
use crate::fetch::{self, Fetcher, Network, Resolved};
use crate::layer::{self, Builder, Recipe, Unfit};
use crate::oci::{Digest, ImageSource, Registries};
use crate::plan::{Action, Download, Inventory, Plan, Step, Version};
use crate::store::{
    Draft, Generation, GenerationRecord, Layer, LayerEntry, Lock, Origin, Proof, Skipped, Store,
};
use crate::sys::{kmsg, threads};

/// Images that are fetched and built at a time. Even where one keeps all cores
/// busy, the next one's requests need not wait for it.
const IMAGES_AT_ONCE: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// What a generation is assembled from.
pub struct Assembly<'a> {
    pub recipe: &'a Recipe,
    pub store: &'a Store,
    pub config: &'a Config,
    /// The files that `config` was read from, kept with the generation.
    pub sources: &'a [Source],
    pub machine: &'a Machine,
    pub registries: &'a Registries,
    pub network: &'a Network,
    /// The base system, which extensions must not collide with.
    pub base: &'a Path,
    /// Where documents are kept that only a plan needs.
    pub notes: &'a Store,
    pub origin: Origin,
    pub proof: Proof,
    /// Seconds since 1970.
    pub now: u64,
}

/// Called before the first use of the network.
pub type BringUpNetwork<'a> = dyn FnMut() -> Result<(), Error> + 'a;

impl Assembly<'_> {
    /// What would have to be done. Touches no network.
    pub fn plan(&self, current: Option<&GenerationRecord>, downloads: BTreeMap<String, Download>) -> Plan {
        let before = current.map(|record| self.versions(record)).unwrap_or_default();
        let mut inventory = Inventory { layers: BTreeMap::new(), downloads, current: before };
        for extension in self.config.extensions() {
            if let Some(found) = self.find_stored(&extension.image, current) {
                inventory.layers.insert(extension.image.to_string(), found);
            }
        }
        Plan::new(self.config, &inventory)
    }

    /// The extensions of a generation, as plans compare them.
    pub fn versions(&self, record: &GenerationRecord) -> Vec<Version> {
        let version = |entry: &LayerEntry| Version {
            source: entry.source.clone(),
            image: Some(entry.image),
            files: self.store.layer(&entry.key).map(|layer| layer.record().inodes),
        };
        record.layers.iter().map(version).collect()
    }

    /// What would have to be fetched for `plan`, asking registries for the
    /// documents of images only.
    pub fn downloads(&self, plan: &Plan) -> Result<BTreeMap<String, Download>, Error> {
        let mut downloads = BTreeMap::new();
        let console = Console::default();
        let fetcher = self.fetcher(self.store, &console, self.network.clone());
        for step in plan.steps().iter().filter(|step| step.action == Action::Obtain) {
            match fetcher.resolve(&step.source) {
                Ok(resolved) => {
                    let download = Download { image: *resolved.digest(), bytes: resolved.packed_bytes() };
                    downloads.insert(step.source.to_string(), download);
                }
                Err(error) if step.on_failure == OnFailure::Skip => {
                    log::warn!("{} would be skipped: {}", step.source, kmsg::chain(&error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(downloads)
    }

    /// The layer that `source` is known to stand for, if the store has it and
    /// it fits this machine. A tag stands for what it was when the current
    /// generation was made; what lies on this machine is looked at again.
    fn find_stored(
        &self,
        source: &ImageSource,
        current: Option<&GenerationRecord>,
    ) -> Option<(Digest, Layer)> {
        let resolved = match source {
            ImageSource::Registry(reference) => {
                let digest =
                    reference.digest().copied().or_else(|| Some(recorded(current?, source)?.image))?;
                let selection = machine::selection(self.config, self.machine);
                fetch::resolve_stored(self.store, &selection, source, &digest).ok().flatten()
            }
            _ => self.resolve_here(source),
        };
        let (image, layer) = match resolved {
            Some(resolved) => (*resolved.digest(), self.store.layer(&self.recipe.key(resolved.chain_id()))?),
            // The medium may be gone; the layer made from it is still good.
            None if !source.path().is_some_and(Path::exists) => self.recorded_layer(current?, source)?,
            None => return None,
        };
        match layer::check_fits(&layer, self.recipe) {
            Ok(()) => Some((image, layer)),
            Err(error) => {
                log::info!("{source}: its stored layer does not fit this machine: {error}");
                None
            }
        }
    }

    fn recorded_layer(&self, current: &GenerationRecord, source: &ImageSource) -> Option<(Digest, Layer)> {
        let entry = recorded(current, source)?;
        Some((entry.image, self.store.layer(&entry.key)?))
    }

    /// Looks at an image on this machine, without keeping its content.
    fn resolve_here(&self, source: &ImageSource) -> Option<Resolved> {
        let console = Console::default();
        let resolved = self.fetcher(self.notes, &console, self.network.clone()).resolve(source).ok()?;
        resolved.blobs().for_each(|digest| remove_blob(self.notes, digest));
        Some(resolved)
    }

    /// Follows `plan` and commits the result as the current generation; the
    /// current one is returned where nothing would change.
    pub fn perform(
        &self,
        plan: &Plan,
        lock: &Lock,
        bring_up_network: &mut BringUpNetwork,
    ) -> Result<Generation, Error> {
        let (mut assembled, mut missing) = (Assembled::default(), Vec::new());
        for step in plan.steps() {
            match &step.action {
                Action::Reuse { image, layer } => {
                    log::info!("{:03} {}: using stored layer {}", step.number, step.source, layer.key());
                    assembled.add(step, *image, layer.clone());
                }
                Action::Obtain => missing.push(step),
            }
        }
        if missing.iter().any(|step| matches!(step.source, ImageSource::Registry(_)))
            && let Err(error) = bring_up_network()
        {
            log::warn!("no network: {}", error.chain());
        }
        self.obtain_all(&missing, lock, &mut assembled)?;
        self.commit(plan, lock, assembled)
    }

    /// Obtains several layers at a time.
    fn obtain_all(&self, missing: &[&Step], lock: &Lock, assembled: &mut Assembled) -> Result<(), Error> {
        let console = match self.origin {
            Origin::Apply => Console::by_hand(),
            Origin::Boot => Console::default(),
        };
        let most = self.network.downloads.parallel.min(IMAGES_AT_ONCE);
        let wanted = u32::try_from(missing.len()).unwrap_or(u32::MAX);
        let at_once = NonZeroU32::new(wanted).map_or(NonZeroU32::MIN, |wanted| wanted.min(most));
        let network = Network { images: at_once, ..self.network.clone() };
        // One for all, because it keeps connections and tokens.
        let fetcher = self.fetcher(self.store, &console, network);
        let steps = missing.iter().map(|step| (*step, ())).collect();
        let resolved = assembled.work(at_once, steps, |step, ()| {
            log::info!("{:03} {}: resolving", step.number, step.source);
            Ok(fetcher.resolve(&step.source)?)
        })?;
        self.check_space(&resolved)?;
        let builder = Builder::new(self.recipe, self.store).at_a_time(at_once);
        let obtain = Obtain::new(&fetcher, builder, &console, resolved.iter().map(|(_, image)| image));
        // What is the same image is a stored layer after its first turn.
        let mut seen = BTreeSet::new();
        let (first, again) =
            resolved.into_iter().partition(|(_, image): &(_, Resolved)| seen.insert(*image.chain_id()));
        for images in [first, again] {
            let obtained = assembled.work(at_once, images, |step, image| {
                let digest = *image.digest();
                let layer = obtain.layer(image)?;
                self.check_modules(&layer, lock)?;
                console.say(|| {
                    let (number, source, key) = (step.number, &step.source, layer.key());
                    let (bytes, title) = (layer.record().size, layer.record().title());
                    log::info!("{number:03} {source}: layer {key} of {bytes} bytes, {title}");
                });
                Ok((digest, layer))
            })?;
            for (step, (image, layer)) in obtained {
                assembled.add(step, image, layer);
            }
        }
        Ok(())
    }

    /// Fails if the store cannot hold what is to be fetched: a layer is about
    /// as long as its image is packed. Each image counts once, and not at all
    /// if it is a layer already, by another name.
    fn check_space(&self, resolved: &[(&Step, Resolved)]) -> Result<(), Error> {
        let is_fetched = |step: &Step| matches!(step.source, ImageSource::Registry(_));
        let fetched = resolved.iter().filter(|(step, _)| is_fetched(step));
        let missing =
            fetched.filter(|(_, image)| self.store.layer(&self.recipe.key(image.chain_id())).is_none());
        let images: BTreeMap<_, _> =
            missing.map(|(_, image)| (image.chain_id(), image.packed_bytes())).collect();
        let needed = images.into_values().fold(0, u64::saturating_add);
        let free = self.store.free_bytes()?;
        match needed <= free {
            true => Ok(()),
            false => Err(Error::NoSpace { path: self.store.path().into(), needed, free }),
        }
    }

    /// Removes a layer whose kernel modules are for another kernel, so that it
    /// is not taken for one that passed.
    fn check_modules(&self, layer: &Layer, lock: &Lock) -> Result<(), Error> {
        let Some(release) = &self.recipe.kernel.kernel_release else { return Ok(()) };
        let checked = kernel_modules::check(layer, release);
        if checked.is_err() {
            self.store.remove_layer(lock, layer.key())?;
        }
        checked
    }

    /// Commits what was assembled, less what collides and may be left out.
    fn commit(&self, plan: &Plan, lock: &Lock, mut assembled: Assembled) -> Result<Generation, Error> {
        loop {
            if let Some(number) = self.find_committed(&assembled) {
                log::info!("generation {number} is what the configuration asks for");
                self.store.activate(lock, number)?;
                return Ok(self.store.generation(number)?);
            }
            let collisions = self.collisions(&assembled.layers)?;
            let Some(first) = collisions.first() else { break };
            let skippable = |step: &&Step| step.number == first.number && step.on_failure == OnFailure::Skip;
            match plan.steps().iter().find(skippable) {
                Some(step) => {
                    assembled.layers.retain(|(entry, _)| entry.number != step.number);
                    let theirs = collisions.into_iter().filter(|one| one.number == step.number).collect();
                    assembled.leave_out(step, Error::Collisions(Collisions(theirs)))?;
                }
                None => return Err(Error::Collisions(Collisions(collisions))),
            }
        }
        let Assembled { layers, skipped } = assembled;
        let config = joined(self.sources);
        let extensions = extensions_of(&layers)?;
        let draft = Draft {
            origin: self.origin,
            created: self.now,
            proof: self.proof,
            config,
            extensions,
            layers,
            skipped,
        };
        let generation = self.store.commit_generation(lock, draft)?;
        log::info!("committed generation {}", generation.number());
        Ok(generation)
    }

    /// Where the layers get in each other's way, or in the base's.
    fn collisions(&self, layers: &[(LayerEntry, Layer)]) -> Result<Vec<Collision>, Error> {
        let extensions = self.config.extensions();
        let claims: Vec<_> = layers
            .iter()
            .map(|(entry, layer)| Claim {
                number: entry.number,
                source: &entry.source,
                layer,
                overrides: extensions.get(usize::from(entry.number)).map_or(&[], |one| &one.overrides),
            })
            .collect();
        Ok(collisions::find(&claims, self.base)?)
    }

    /// The generation that is what is wanted already. Of a configuration that
    /// comes with every boot it may be any, so that what was found to be bad
    /// stays that; to apply anew is to want a new one.
    fn find_committed(&self, wanted: &Assembled) -> Option<u32> {
        let config = Digest::sha256(joined(self.sources).as_bytes());
        let is_it = |number: &u32| {
            self.store.generation_record(*number).is_ok_and(|record| {
                record.config == config && wanted.is(&record) && self.store.generation(*number).is_ok()
            })
        };
        match self.origin {
            Origin::Boot => self.store.generations().ok()?.into_iter().rev().find(is_it),
            Origin::Apply => {
                self.store.current_if_readable().filter(|current| is_it(current) && self.stays(*current))
            }
        }
    }

    /// Whether generation `number`, if it is what is applied, need not be made
    /// anew: what is bad gets another trial.
    pub fn stays(&self, number: u32) -> bool {
        let is_bad = self.store.trials().is_ok_and(|trials| trials.why_bad(number).is_some());
        !is_bad && self.lasts(number)
    }

    /// Whether generation `number` stays as long as what is wanted now: one on
    /// trial for a limited time does not.
    fn lasts(&self, number: u32) -> bool {
        let is_limited = self.store.generation_record(number).is_ok_and(|it| it.proof.time_limit.is_some());
        let is_good = || self.store.trials().is_ok_and(|trials| trials.is_good(number));
        !is_limited || self.proof.time_limit.is_some() || is_good()
    }

    fn fetcher<'b>(&'b self, store: &'b Store, progress: &'b Console, network: Network) -> Fetcher<'b> {
        Fetcher::new(fetch::Machine {
            store,
            registries: self.registries,
            selection: machine::selection(self.config, self.machine),
            network,
            progress,
        })
    }
}

fn recorded<'a>(generation: &'a GenerationRecord, source: &ImageSource) -> Option<&'a LayerEntry> {
    let name = source.to_string();
    generation.layers.iter().find(|entry| entry.source == name)
}

/// The layers of a generation to be, in mount order, and what is left out.
#[derive(Default)]
struct Assembled {
    layers: Vec<(LayerEntry, Layer)>,
    skipped: Vec<Skipped>,
}

impl Assembled {
    fn add(&mut self, step: &Step, image: Digest, layer: Layer) {
        let (key, digest) = (*layer.key(), layer.record().digest);
        let entry = LayerEntry { number: step.number, source: step.source.to_string(), image, key, digest };
        self.layers.push((entry, layer));
        self.layers.sort_by_key(|(entry, _)| entry.number);
    }

    /// Does `work` for so many steps at a time, and leaves out those for which
    /// it fails and that may be left out. Of other failures the one of the
    /// first step is reported, whichever came first.
    fn work<'s, T: Send, R: Send>(
        &mut self,
        at_once: NonZeroU32,
        steps: Vec<(&'s Step, T)>,
        work: impl Fn(&'s Step, T) -> Result<R, Error> + Sync,
    ) -> Result<Vec<(&'s Step, R)>, Error> {
        // The first that has failed so far: what comes after it is not begun.
        let failed = AtomicU16::new(u16::MAX);
        let results = threads::for_all(steps, at_once.get() as usize, |(step, item)| {
            if step.number > failed.load(Ordering::Relaxed) {
                return None;
            }
            let result = work(step, item);
            if result.is_err() && step.on_failure != OnFailure::Skip {
                failed.fetch_min(step.number, Ordering::Relaxed);
            }
            Some((step, result))
        });
        let mut done = Vec::new();
        for (step, result) in results.into_iter().flatten() {
            match result {
                Ok(it) => done.push((step, it)),
                Err(error) => self.leave_out(step, error)?,
            }
        }
        Ok(done)
    }

    /// Leaves an extension out, if its configuration allows that.
    fn leave_out(&mut self, step: &Step, error: Error) -> Result<(), Error> {
        if step.on_failure != OnFailure::Skip {
            return Err(error);
        }
        log::warn!("skipping {}: {}", step.source, error.chain());
        self.skipped.push(Skipped { source: step.source.to_string(), reason: error.chain() });
        Ok(())
    }

    fn is(&self, record: &GenerationRecord) -> bool {
        record.layers.iter().eq(self.layers.iter().map(|(entry, _)| entry))
            && sources_of(&record.skipped) == sources_of(&self.skipped)
    }
}

/// Reasons vary from try to try; what is left out is what matters.
fn sources_of(skipped: &[Skipped]) -> Vec<&str> {
    skipped.iter().map(|skipped| skipped.source.as_str()).collect()
}

/// The configuration as one text: the files one after another, as documents.
pub fn joined(sources: &[Source]) -> String {
    let texts: Vec<_> = sources.iter().map(|source| String::from_utf8_lossy(&source.text)).collect();
    texts.join("\n---\n")
}

/// `/etc/extensions.yaml` for these layers.
pub fn extensions_of<'a>(layers: impl IntoIterator<Item = &'a (LayerEntry, Layer)>) -> Result<String, Error> {
    let mut rendered = Vec::new();
    for (entry, layer) in layers {
        let unfit = |source| Error::Unfit { image: entry.source.clone(), source };
        let manifest = layer::manifest_of(layer).map_err(|problems| unfit(Unfit::Manifest(problems)))?;
        rendered
            .push((extensions_yaml::layer_name(entry.number, &entry.source), manifest.metadata().clone()));
    }
    Ok(extensions_yaml::render(rendered.iter().map(|(name, metadata)| (name.clone(), metadata))))
}
