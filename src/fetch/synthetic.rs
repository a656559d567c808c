//! Images for content that comes without a manifest.
//!
//! In: an image config and descriptors of changesets. Out: an image whose
//! manifest is made here. Invariant: the manifest depends on these alone, so
//! the same content always has the same digest.

use serde::Serialize;

use super::Selection;
use super::document::{self, Chosen, Documents};
use super::error::Cause;
use crate::oci::manifest::{CONFIG, MANIFEST};
use crate::oci::{Descriptor, Digest};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'static str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

/// The image that consists of `config` and `layers`, the lowest first.
pub(super) fn image(config: Vec<u8>, layers: &[Descriptor], selection: &Selection) -> Result<Chosen, Cause> {
    let config_descriptor = document::describe(&config, CONFIG);
    let manifest = Manifest { schema_version: 2, media_type: MANIFEST, config: &config_descriptor, layers };
    let manifest = serde_json::to_vec(&manifest)
        .map_err(|_| Cause::Layout { file: "manifest".into(), problem: "cannot be put as JSON" })?;
    let top = document::describe(&manifest, MANIFEST);
    document::choose(&Pair([(top.digest, manifest), (config_descriptor.digest, config)]), selection, top)
}

/// Manifest and image config, both in memory.
struct Pair([(Digest, Vec<u8>); 2]);

impl Documents for Pair {
    fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause> {
        let found = self.0.iter().find(|(digest, _)| *digest == wanted.digest);
        found.map(|(_, bytes)| bytes.clone()).ok_or(Cause::NotStored { digest: wanted.digest })
    }
}
