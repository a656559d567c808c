//! Docker archives, as `docker save` and `podman save` write them: a tar with
//! a `manifest.json` that names an image config and changesets.
//!
//! In: an indexed archive. Out: an image with an OCI manifest of our making,
//! because the format has no digests of blobs. Invariant: that manifest
//! depends on the image config and the changesets' bytes alone, so the same
//! content always has the same digest.

use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use super::Selection;
use super::archive::Archive;
use super::document::Chosen;
use super::error::Cause;
use super::layout::{Files, listed};
use super::synthetic;
use crate::limits::{Bound, Budget, Limits};
use crate::oci::manifest::LAYER_GZIP;
use crate::oci::{Algorithm, Descriptor, Hasher};
use crate::store::{Blob, open_regular};

/// A plain tar.
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const FILE: &str = "manifest.json";

/// One entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    /// `null` where the image has no name.
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Resolves the image that `RepoTags` calls `name`, or the only one. Reads
/// every changeset once, to compute its digest.
pub(super) fn resolve(file: &Path, name: Option<&str>, selection: &Selection) -> Result<Chosen, Cause> {
    let archive = Archive::open(file, &selection.limits)?;
    let saved = saved(&archive, name)?;
    saved.check(&archive, &selection.limits)?;
    let config = archive.read(&saved.config)?;
    let layers: Vec<_> =
        saved.layers.iter().map(|layer| describe(&archive, layer)).collect::<Result<_, _>>()?;
    synthetic::image(config, &layers, selection)
}

/// Finds changesets that [`resolve`] has found before, in the same order.
pub(super) fn locate(
    archive: &Archive,
    name: Option<&str>,
    wanted: &[&Descriptor],
) -> Result<Vec<Blob>, Cause> {
    let saved = saved(archive, name)?;
    if saved.layers.len() != wanted.len() {
        return Err(Cause::Layout { file: FILE.into(), problem: "has changed since it was resolved" });
    }
    let mut blobs = Vec::with_capacity(wanted.len());
    for (layer, descriptor) in saved.layers.iter().zip(wanted) {
        let (offset, actual) = archive.find(layer)?;
        let (digest, expected) = (descriptor.digest, descriptor.size);
        if actual != expected {
            return Err(Cause::Changed { digest, expected, actual });
        }
        blobs.push(Blob::at(archive.path(), offset, actual, digest));
    }
    Ok(blobs)
}

fn saved(archive: &Archive, name: Option<&str>) -> Result<Saved, Cause> {
    let problem = |problem| Cause::Layout { file: FILE.into(), problem };
    let mut images: Vec<Saved> = serde_json::from_slice(&archive.read(FILE)?)
        .map_err(|_| problem("is not that of a Docker archive"))?;
    let has = listed(images.iter().flat_map(|image| image.tags()));
    if let Some(name) = name {
        images.retain(|image| image.tags().any(|tag| tag == name));
    }
    match (images.pop(), name) {
        (Some(image), _) if images.is_empty() => Ok(image),
        (Some(_), _) => Err(Cause::Ambiguous { has }),
        (None, Some(name)) => Err(Cause::NoSuchName { name: name.into(), has }),
        (None, None) => Err(problem("lists no images")),
    }
}

impl Saved {
    /// Checks what reading the changesets will cost: one may be listed often.
    fn check(&self, archive: &Archive, limits: &Limits) -> Result<(), Cause> {
        let mut budget = Budget::new(*limits);
        for layer in &self.layers {
            let (_, size) = archive.find(layer)?;
            budget.spend(Bound::Changesets, 1).map_err(Cause::Limit)?;
            budget.spend(Bound::PackedBytes, size).map_err(Cause::Limit)?;
        }
        Ok(())
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.repo_tags.iter().flatten().map(String::as_str)
    }
}

/// Reads a changeset once: its digest, and its compression from its first
/// bytes, because the format names neither.
fn describe(archive: &Archive, name: &str) -> Result<Descriptor, Cause> {
    let (offset, size) = archive.find(name)?;
    let failed = |source| Cause::Read { path: archive.path().into(), source };
    let mut file = open_regular(archive.path()).map_err(failed)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset)).map_err(failed)?;
    let mut content = file.take(size);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 64 * 1024];
    let mut media_type = None;
    loop {
        let count = content.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        media_type.get_or_insert_with(|| match &buffer[..count] {
            [0x1f, 0x8b, ..] => LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => LAYER_ZSTD,
            _ => LAYER,
        });
    }
    let media_type = media_type.unwrap_or(LAYER).into();
    Ok(Descriptor {
        media_type,
        digest: hasher.finish(),
        size,
        platform: None,
        annotations: Default::default(),
    })
}

#[cfg(test)]
#[path = "docker_archive_tests.rs"]
mod tests;
