//! From a descriptor to one platform's manifest and image config, whatever
//! the transport.
//!
//! In: a [`Documents`] that hands out documents by descriptor. Out: [`Chosen`].
//! Invariant: every document was compared with the digest that led to it, the
//! depth of indexes is bounded, and no digest is looked at twice.

use std::collections::HashSet;

use super::Selection;
use super::error::Cause;
use crate::limits::{Bound, Limits};
use crate::oci::manifest::{INDEX, Kind, MANIFEST};
use crate::oci::{
    Compression, Descriptor, Digest, Document, DocumentError, ImageConfig, Index, Manifest, Mismatch,
    chain_id,
};
use crate::store::Store;

/// The configs of artifacts that have none: that of the image-spec (manifest.md,
/// "Guidance for an Empty Descriptor"), and that of ORAS before there was one.
const EMPTY: [&str; 2] = ["application/vnd.oci.empty.v1+json", "application/vnd.unknown.config.v1+json"];

/// What a file's name says of a tar in it.
const TARS: [(&str, Compression); 4] = [
    (".tar", Compression::None),
    (".tar.gz", Compression::Gzip),
    (".tgz", Compression::Gzip),
    (".tar.zst", Compression::Zstd),
];

/// Where manifests, indexes and image configs come from.
pub(super) trait Documents {
    /// The whole document, verified against `wanted`.
    fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause>;
}

/// A changeset as its manifest and image config describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub blob: Descriptor,
    /// Not known of a tar that is an artifact.
    pub diff_id: Option<Digest>,
    pub compression: Compression,
}

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// Lowest first; never empty.
    Changesets(Vec<Described>),
    /// One blob that is, or holds, a squashfs.
    Squashfs(Descriptor),
}

/// One platform's image.
pub(super) struct Chosen {
    /// Every index on the way, the manifest and the image config, in the
    /// order in which they were read.
    pub documents: Vec<(Descriptor, Vec<u8>)>,
    pub manifest: Digest,
    pub parts: Parts,
}

/// Follows `top` down to the image that is wanted.
pub(super) fn choose(
    documents: &dyn Documents,
    selection: &Selection,
    top: Descriptor,
) -> Result<Chosen, Cause> {
    let mut search = Search { documents, selection, visited: HashSet::new(), read: Vec::new() };
    let (digest, manifest) = search.visit(top, 0)?;
    let parts = search.describe(digest, &manifest)?;
    Ok(Chosen { documents: search.read, manifest: digest, parts })
}

struct Search<'a> {
    documents: &'a dyn Documents,
    selection: &'a Selection,
    visited: HashSet<Digest>,
    /// All that was read. Where an index led nowhere it is kept too, because
    /// the same search comes by it again.
    read: Vec<(Descriptor, Vec<u8>)>,
}

impl Search<'_> {
    /// Looks at a document below `depth` indexes.
    fn visit(&mut self, wanted: Descriptor, depth: usize) -> Result<(Digest, Manifest), Cause> {
        let digest = wanted.digest;
        self.visited.insert(digest);
        self.check(Bound::Documents, self.visited.len())?;
        let bytes = self.document(&wanted)?;
        let document = Document::parse(&bytes, &wanted.media_type, &self.selection.limits)
            .map_err(|source| Cause::Document { digest, source })?;
        self.read.push((wanted, bytes));
        match document {
            Document::Manifest(manifest) => Ok((digest, manifest)),
            Document::Index(index) => {
                self.check(Bound::IndexDepth, depth + 1)?;
                self.visit_index(&index, digest, depth + 1)
            }
        }
    }

    /// Takes the first entry that leads to an image. An index inside may turn
    /// out to have none for this platform; then the next entry counts.
    fn visit_index(
        &mut self,
        index: &Index,
        digest: Digest,
        depth: usize,
    ) -> Result<(Digest, Manifest), Cause> {
        let select = index.select(&self.selection.platform);
        let entries = select.map_err(|source| Cause::Document { digest, source })?;
        let mut none_fits = None;
        for entry in entries {
            if self.visited.contains(&entry.digest) {
                continue;
            }
            match self.visit(entry.clone(), depth) {
                Err(cause @ Cause::Document { source: DocumentError::Platform { .. }, .. }) => {
                    none_fits = Some(cause);
                }
                result => return result,
            }
        }
        let source = DocumentError::Shape("only entries that were looked at before");
        Err(none_fits.unwrap_or(Cause::Document { digest, source }))
    }

    /// Reads the image config and pairs each changeset with its diff ID. An
    /// artifact has no image config: there one blob is all there may be.
    fn describe(&mut self, digest: Digest, manifest: &Manifest) -> Result<Parts, Cause> {
        self.check_size(manifest)?;
        if let Some(blob) = squashfs_artifact(manifest) {
            return Ok(Parts::Squashfs(blob.clone()));
        }
        if let Some(tar) = tar_artifact(manifest) {
            return Ok(Parts::Changesets(vec![tar]));
        }
        let compressions = manifest.compressions().map_err(|source| Cause::Document { digest, source })?;
        let wanted = &manifest.config;
        if wanted.kind() != Kind::Config {
            return Err(Cause::NotAnImage { media_type: wanted.media_type.clone() });
        }
        let bytes = self.document(wanted)?;
        let config = ImageConfig::parse(&bytes)
            .and_then(|config| config.check(manifest.layers.len(), &self.selection.platform).map(|()| config))
            .map_err(|source| Cause::ImageConfig { digest: wanted.digest, source })?;
        self.read.push((wanted.clone(), bytes));
        let parts = manifest.layers.iter().zip(config.diff_ids).zip(compressions);
        let described = parts.map(|((blob, diff_id), compression)| Described {
            blob: blob.clone(),
            diff_id: Some(diff_id),
            compression,
        });
        Ok(Parts::Changesets(described.collect()))
    }

    /// A document whose size was checked before it is read.
    fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause> {
        check_size(&wanted.digest, wanted.size, &self.selection.limits)?;
        self.documents.document(wanted)
    }

    fn check_size(&self, manifest: &Manifest) -> Result<(), Cause> {
        self.check(Bound::Changesets, manifest.layers.len())?;
        let bytes = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        self.selection.limits.check(Bound::PackedBytes, bytes).map_err(Cause::Limit)
    }

    fn check(&self, bound: Bound, count: usize) -> Result<(), Cause> {
        self.selection.limits.check(bound, count as u64).map_err(Cause::Limit)
    }
}

impl Described {
    /// A tar that no image config tells of. Where it is not compressed, its
    /// digest is its diff ID.
    fn artifact(blob: &Descriptor, compression: Compression) -> Self {
        let diff_id = (compression == Compression::None).then_some(blob.digest);
        Self { blob: blob.clone(), diff_id, compression }
    }
}

impl Parts {
    /// The packed changesets, lowest first, or the squashfs.
    pub(super) fn blobs(&self) -> Vec<&Descriptor> {
        match self {
            Self::Changesets(changesets) => changesets.iter().map(|changeset| &changeset.blob).collect(),
            Self::Squashfs(blob) => vec![blob],
        }
    }

    /// The chain ID. Where diff IDs do not make it, it is that of the blob
    /// together with what the blob is taken for: bytes that are a tar to one
    /// and a squashfs to another must not be one image.
    pub(super) fn chain_id(&self) -> Option<Digest> {
        let taken_for =
            |what: &str, blob: &Descriptor| Digest::sha256(format!("{what} {}", blob.digest).as_bytes());
        match self {
            Self::Squashfs(blob) => Some(taken_for("squashfs", blob)),
            Self::Changesets(changesets) => match changesets.as_slice() {
                [Described { blob, diff_id: None, compression }] => Some(taken_for(compression.name(), blob)),
                _ => {
                    let diff_ids = changesets.iter().map(|changeset| changeset.diff_id);
                    chain_id(&diff_ids.collect::<Option<Vec<_>>>()?)
                }
            },
        }
    }
}

/// A manifest's only blob if that is a squashfs, as pushed by general artifact
/// tools: by its type, or by the file name it was given where the type says
/// nothing. To ORAS every file without a type is a tar.
fn squashfs_artifact(manifest: &Manifest) -> Option<&Descriptor> {
    let [blob] = manifest.layers.as_slice() else { return None };
    let named = [".raw", ".squashfs", ".sqfs", ".sqsh"].iter().any(|suffix| title(blob).ends_with(suffix));
    let typed = ["squashfs", "sysext"].iter().any(|word| blob.media_type.contains(word));
    let plain_tar = blob.kind() == Kind::Changeset(Compression::None);
    let untyped = plain_tar && manifest.config.kind() != Kind::Config;
    let is_squashfs = (blob.kind() == Kind::Other && (named || typed)) || (untyped && named);
    is_squashfs.then_some(blob)
}

/// An artifact's only blob if that is a tar: by its type, or by the file name
/// it was given where the type says less.
fn tar_artifact(manifest: &Manifest) -> Option<Described> {
    let [blob] = manifest.layers.as_slice() else { return None };
    if !EMPTY.contains(&manifest.config.media_type.as_str()) {
        return None;
    }
    let named =
        TARS.iter().find(|(suffix, _)| title(blob).ends_with(suffix)).map(|(_, compression)| *compression);
    let compression = match blob.kind() {
        Kind::Changeset(Compression::None) => named.unwrap_or(Compression::None),
        Kind::Changeset(compression) => compression,
        Kind::Other => named?,
        _ => return None,
    };
    Some(Described::artifact(blob, compression))
}

/// The name of the file that a blob was pushed from.
fn title(blob: &Descriptor) -> &str {
    blob.annotations.get("org.opencontainers.image.title").map_or("", String::as_str)
}

/// The media type of a document that arrived without one: its own word, else
/// what its shape allows.
pub(super) fn announced_by(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Outline {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice(bytes) {
        Ok(Outline { media_type: Some(media_type), .. }) => media_type,
        Ok(Outline { manifests: Some(_), .. }) => INDEX.into(),
        _ => MANIFEST.into(),
    }
}

/// A descriptor for bytes at hand.
pub(super) fn describe(bytes: &[u8], media_type: &str) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: Digest::sha256(bytes),
        size: bytes.len() as u64,
        platform: None,
        annotations: Default::default(),
    }
}

fn check_size(digest: &Digest, size: u64, limits: &Limits) -> Result<(), Cause> {
    let too_large = |source| Cause::DocumentSize { digest: *digest, size, source };
    limits.check(Bound::Document, size).map_err(too_large)
}

/// Compares a document with its descriptor.
pub(super) fn check(bytes: &[u8], wanted: &Descriptor) -> Result<(), Mismatch> {
    let (digest, expected, actual) = (wanted.digest, wanted.size, bytes.len() as u64);
    if actual < expected {
        return Err(Mismatch::Short { digest, expected, actual });
    }
    if actual > expected {
        return Err(Mismatch::Long { digest, expected });
    }
    check_digest(bytes, &digest)
}

pub(super) fn check_digest(bytes: &[u8], expected: &Digest) -> Result<(), Mismatch> {
    let mut hasher = crate::oci::Hasher::new(expected.algorithm());
    hasher.update(bytes);
    let actual = hasher.finish();
    if actual != *expected {
        return Err(Mismatch::Digest { expected: *expected, actual });
    }
    Ok(())
}

/// The mismatch that a verifying reader put somewhere into an error's chain.
pub(super) fn mismatch(error: &(dyn std::error::Error + 'static)) -> Option<Mismatch> {
    match error.downcast_ref() {
        Some(&Mismatch::Digest { expected, actual }) => return Some(Mismatch::Digest { expected, actual }),
        Some(&Mismatch::Short { digest, expected, actual }) => {
            return Some(Mismatch::Short { digest, expected, actual });
        }
        Some(&Mismatch::Long { digest, expected }) => return Some(Mismatch::Long { digest, expected }),
        None => {}
    }
    // An I/O error's `source` passes over the error that it wraps.
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match inner {
        Some(inner) => mismatch(inner),
        None => error.source().and_then(mismatch),
    }
}

/// Keeps documents, so that the image is known later without its transport.
pub(super) fn keep(store: &Store, documents: &[(Descriptor, Vec<u8>)], limits: &Limits) -> Result<(), Cause> {
    for (descriptor, bytes) in documents {
        if stored(store, &descriptor.digest, limits)?.is_none() {
            store.put_blob(descriptor, bytes.as_slice()).map_err(Cause::Store)?;
        }
    }
    Ok(())
}

/// The stored document with this digest, its size bounded and its content
/// verified once more. A damaged one counts as missing, so that it is fetched
/// again.
pub(super) fn stored(store: &Store, digest: &Digest, limits: &Limits) -> Result<Option<Vec<u8>>, Cause> {
    let Some(blob) = store.blob(digest) else { return Ok(None) };
    check_size(digest, blob.size(), limits)?;
    match blob.read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if mismatch(&error).is_some() => Ok(None),
        Err(error) => Err(Cause::Store(error)),
    }
}

/// The documents that are stored.
pub(super) struct Stored<'a> {
    pub store: &'a Store,
    pub limits: &'a Limits,
}

impl Documents for Stored<'_> {
    fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause> {
        stored(self.store, &wanted.digest, self.limits)?.ok_or(Cause::NotStored { digest: wanted.digest })
    }
}
