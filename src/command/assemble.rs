//! Config → Plan → Image → Layer → Generation: the part of the flow that
//! `boot` and `apply` share.
//!
//! In: a configuration, the store, the machine. Out: a committed generation.
//! Invariants: the network is brought up only when something is missing that
//! a registry has; nothing is committed before every extension is a layer or
//! was left out as the configuration allows.

use std::collections::BTreeMap;
use std::path::Path;

use super::collisions::{self, Claim, Collision, Collisions};
use super::extensions_yaml;
use super::kernel_modules;
use super::machine::{self, Machine};
use super::progress::Console;
use crate::config::{Config, OnFailure, Source};
use crate::error::Error;
use crate::fetch::{self, Fetcher, Network, Resolved};
use crate::layer::{self, Recipe, Unfit};
use crate::oci::{Digest, ImageSource, Registries};
use crate::plan::{Action, Download, Inventory, Plan, Step, Version};
use crate::store::{
    Draft, Generation, GenerationRecord, Layer, LayerEntry, Lock, Origin, Proof, Skipped, Store,
};
use crate::sys::kmsg;

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
        for step in plan.steps().iter().filter(|step| step.action == Action::Obtain) {
            match self.fetcher(&Console::default()).resolve(&step.source) {
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
        let resolved = self.fetcher_into(self.notes, &console).resolve(source).ok()?;
        remove_blobs(self.notes, &resolved.blobs().copied().collect::<Vec<_>>());
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
        let mut assembled = Assembled::default();
        let mut network = Some(bring_up_network);
        let console = match self.origin {
            Origin::Apply => Console::by_hand(),
            Origin::Boot => Console::default(),
        };
        // One for all, because it keeps connections and tokens.
        let fetcher = self.fetcher(&console);
        let mut found = Vec::new();
        for step in plan.steps() {
            match self.find(step, &fetcher, &mut network) {
                Ok(it) => found.push((step, it)),
                Err(error) => assembled.leave_out(step, error)?,
            }
        }
        self.check_space(&found)?;
        for (step, it) in found {
            match self.obtain(step, &fetcher, lock, it) {
                Ok((image, layer)) => assembled.layers.push((self.entry(step, image, &layer), layer)),
                Err(error) => assembled.leave_out(step, error)?,
            }
        }
        self.commit(plan, lock, assembled)
    }

    fn entry(&self, step: &Step, image: Digest, layer: &Layer) -> LayerEntry {
        LayerEntry {
            number: step.number,
            source: step.source.to_string(),
            image,
            key: *layer.key(),
            digest: layer.record().digest,
        }
    }

    /// The stored layer, or the image that it is to be built from.
    fn find(
        &self,
        step: &Step,
        fetcher: &Fetcher,
        network: &mut Option<&mut BringUpNetwork>,
    ) -> Result<Found, Error> {
        if let Action::Reuse { image, layer } = &step.action {
            log::info!("{:03} {}: using stored layer {}", step.number, step.source, layer.key());
            return Ok(Found::Layer(*image, layer.clone()));
        }
        if matches!(step.source, ImageSource::Registry(_))
            && let Some(bring_up) = network.take()
            && let Err(error) = bring_up()
        {
            log::warn!("no network: {}", error.chain());
        }
        log::info!("{:03} {}: resolving", step.number, step.source);
        let resolved = fetcher.resolve(&step.source)?;
        Ok(Found::Image(Box::new(resolved)))
    }

    /// Fails if the store cannot hold what is to be fetched: a layer is about
    /// as long as its image is packed.
    fn check_space(&self, found: &[(&Step, Found)]) -> Result<(), Error> {
        let bytes = |(step, found): &(&Step, Found)| match (&step.source, found) {
            (ImageSource::Registry(_), Found::Image(resolved)) => resolved.packed_bytes(),
            _ => 0,
        };
        let needed = found.iter().map(bytes).fold(0, u64::saturating_add);
        let free = self.store.free_bytes()?;
        match needed <= free {
            true => Ok(()),
            false => Err(Error::NoSpace { path: self.store.path().into(), needed, free }),
        }
    }

    fn obtain(
        &self,
        step: &Step,
        fetcher: &Fetcher,
        lock: &Lock,
        found: Found,
    ) -> Result<(Digest, Layer), Error> {
        let resolved = match found {
            Found::Layer(image, layer) => return Ok((image, layer)),
            Found::Image(resolved) => *resolved,
        };
        let image = *resolved.digest();
        let layer = obtain_layer(fetcher, resolved, self.store, self.recipe)?;
        self.check_modules(&layer, lock)?;
        log::info!(
            "{:03} {}: layer {} of {} bytes, {}",
            step.number,
            step.source,
            layer.key(),
            layer.record().size,
            layer.record().title(),
        );
        Ok((image, layer))
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
                let current = self.store.current().ok()??;
                let is_bad = self.store.trials().is_ok_and(|trials| trials.why_bad(current).is_some());
                Some(current).filter(|current| !is_bad && is_it(current) && self.lasts(*current))
            }
        }
    }

    /// Whether generation `number` stays as long as what is wanted now: one on
    /// trial for a limited time does not.
    fn lasts(&self, number: u32) -> bool {
        let is_limited = self.store.generation_record(number).is_ok_and(|it| it.proof.time_limit.is_some());
        let is_good = || self.store.trials().is_ok_and(|trials| trials.is_good(number));
        !is_limited || self.proof.time_limit.is_some() || is_good()
    }

    fn fetcher<'b>(&'b self, progress: &'b Console) -> Fetcher<'b> {
        self.fetcher_into(self.store, progress)
    }

    fn fetcher_into<'b>(&'b self, store: &'b Store, progress: &'b Console) -> Fetcher<'b> {
        Fetcher::new(fetch::Machine {
            store,
            registries: self.registries,
            selection: machine::selection(self.config, self.machine),
            network: self.network.clone(),
            progress,
        })
    }
}

/// The layer for a resolved image: the stored one, or one that is fetched and
/// built now. Blobs of changesets are dropped once they are a layer.
pub fn obtain_layer(
    fetcher: &Fetcher,
    resolved: Resolved,
    store: &Store,
    recipe: &Recipe,
) -> Result<Layer, Error> {
    if let Some(layer) = store.layer(&recipe.key(resolved.chain_id())) {
        let image = resolved.source().to_string();
        return match layer::check_fits(&layer, recipe) {
            Ok(()) => Ok(layer),
            Err(source) => Err(Error::Unfit { image, source }),
        };
    }
    let blobs: Vec<_> = resolved.blobs().copied().collect();
    let layer = build_layer(fetcher, resolved, store, recipe)?;
    note_compatibility(&layer);
    remove_blobs(store, &blobs);
    Ok(layer)
}

/// Builds while the image downloads. Where that turns out not to be the image,
/// each endpoint is tried by itself, and the layer is built from what is
/// verified then.
fn build_layer(
    fetcher: &Fetcher,
    resolved: Resolved,
    store: &Store,
    recipe: &Recipe,
) -> Result<Layer, Error> {
    let image = fetcher.stream(resolved.clone())?;
    let error = match layer::build(&image, recipe, store) {
        Ok(layer) => return Ok(layer),
        Err(error) => error,
    };
    match image.interrupted() {
        Some(interrupted) if interrupted.elsewhere => {
            log::warn!("{}; trying again from the start", kmsg::chain(&interrupted.error));
            Ok(layer::build(&fetcher.fetch(resolved)?, recipe, store)?)
        }
        Some(interrupted) => Err(interrupted.error.into()),
        None => Err(error.into()),
    }
}

/// Removes changesets from the store: layers take their place.
fn remove_blobs(store: &Store, blobs: &[Digest]) {
    for digest in blobs {
        if let Err(error) = store.remove_blob(digest) {
            log::warn!("cannot remove blob {digest}, ignored: {error}");
        }
    }
}

fn note_compatibility(layer: &Layer) {
    if layer::manifest_of(layer).is_ok_and(|manifest| manifest.metadata().compatibility.is_empty()) {
        log::info!("extension {} does not say what it is compatible with", layer.record().name);
    }
}

fn recorded<'a>(generation: &'a GenerationRecord, source: &ImageSource) -> Option<&'a LayerEntry> {
    let name = source.to_string();
    generation.layers.iter().find(|entry| entry.source == name)
}

/// Where an extension's layer comes from.
enum Found {
    Layer(Digest, Layer),
    Image(Box<Resolved>),
}

/// The layers of a generation to be, in mount order, and what is left out.
#[derive(Default)]
struct Assembled {
    layers: Vec<(LayerEntry, Layer)>,
    skipped: Vec<Skipped>,
}

impl Assembled {
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
