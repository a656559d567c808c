//! Image → Layer, for whatever command needs one.
//!
//! In: a resolved image. Out: its layer, from the store or built now, while it
//! downloads where that is possible. Invariant: blobs that have become layers
//! leave the store, but not while another image needs them: several that have
//! some in common may be obtained at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::progress::Console;
use crate::error::Error;
use crate::fetch::{Fetcher, Resolved};
use crate::layer::{self, Builder};
use crate::oci::{Digest, ImageSource};
use crate::store::{Layer, Store};
use crate::sys::{kmsg, process};

/// Files of a layer whose tree takes so little that it may as well be kept.
const FEW: u64 = 10_000;

/// Obtains layers; any number at a time.
pub struct Obtain<'a> {
    fetcher: &'a Fetcher<'a>,
    builder: Builder<'a>,
    console: &'a Console,
    /// For how many images blobs are needed.
    needed: Mutex<BTreeMap<Digest, usize>>,
}

impl<'a> Obtain<'a> {
    /// For `images`, and perhaps others.
    pub fn new<'i>(
        fetcher: &'a Fetcher<'a>,
        builder: Builder<'a>,
        console: &'a Console,
        images: impl IntoIterator<Item = &'i Resolved>,
    ) -> Self {
        let mut needed = BTreeMap::new();
        for image in images {
            blobs_of(image).into_iter().for_each(|digest| *needed.entry(digest).or_default() += 1);
        }
        Self { fetcher, builder, console, needed: Mutex::new(needed) }
    }

    /// The layer for a resolved image: the stored one, or one that is fetched
    /// and built now.
    pub fn layer(&self, resolved: Resolved) -> Result<Layer, Error> {
        let blobs = blobs_of(&resolved);
        // What was fetched is kept for another try; a directory is packed anew for that.
        let is_copy = matches!(resolved.source(), ImageSource::Directory(_));
        let layer = self.find_or_build(resolved);
        if layer.is_ok() || is_copy {
            self.release(blobs);
        }
        layer
    }

    fn find_or_build(&self, resolved: Resolved) -> Result<Layer, Error> {
        let recipe = self.builder.recipe();
        if let Some(layer) = self.builder.store().layer(&recipe.key(resolved.chain_id())) {
            let image = resolved.source().to_string();
            return match layer::check_fits(&layer, recipe) {
                Ok(()) => Ok(layer),
                Err(source) => Err(Error::Unfit { image, source }),
            };
        }
        let layer = self.build(resolved);
        // The next one is another thread's, which would not find what this one had.
        if layer.as_ref().map_or(true, |layer| layer.record().inodes > FEW) {
            process::give_memory_back();
        }
        let layer = layer?;
        if layer::manifest_of(&layer).is_ok_and(|manifest| manifest.metadata().compatibility.is_empty()) {
            let name = &layer.record().name;
            self.console.say(|| log::info!("extension {name} does not say what it is compatible with"));
        }
        Ok(layer)
    }

    /// Builds while the image downloads. Where that turns out not to be the
    /// image, each endpoint is tried by itself, and the layer is built from
    /// what is verified then.
    fn build(&self, resolved: Resolved) -> Result<Layer, Error> {
        let image = self.fetcher.stream(resolved.clone())?;
        let error = match self.builder.build(&image) {
            Ok(layer) => return Ok(layer),
            Err(error) => error,
        };
        match image.interrupted() {
            Some(interrupted) if interrupted.elsewhere => {
                let error = kmsg::chain(&interrupted.error);
                self.console.say(|| log::warn!("{error}; trying again from the start"));
                Ok(self.builder.build(&self.fetcher.fetch(resolved)?)?)
            }
            Some(interrupted) => Err(interrupted.error.into()),
            None => Err(error.into()),
        }
    }

    /// Removes blobs that no other image needs: a layer takes their place.
    fn release(&self, blobs: BTreeSet<Digest>) {
        let mut needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in blobs {
            let others = needed.get(&digest).map_or(0, |count| count.saturating_sub(1));
            match others {
                0 => remove_blob(self.builder.store(), &digest),
                _ => drop(needed.insert(digest, others)),
            }
        }
    }
}

fn blobs_of(image: &Resolved) -> BTreeSet<Digest> {
    image.blobs().copied().collect()
}

/// Removes a blob from the store, if it is there.
pub fn remove_blob(store: &Store, digest: &Digest) {
    if let Err(error) = store.remove_blob(digest) {
        log::warn!("cannot remove blob {digest}, ignored: {error}");
    }
}
