//! From a reference to verified content: registries, image layouts, archives.
//!
//! In: an [`ImageSource`] and a [`Machine`]. Out: [`Resolved`], which knows
//! the image from its small documents, and [`Image`], whose blobs can be read:
//! in the store, in place in a layout or archive, or while they are downloaded.
//! Invariants: from [`Resolved`] on only digests count; registry content has a
//! name in the store only after its size and digest matched; everything else
//! is verified by whoever reads it to its end.

mod archive;
pub mod directory;
mod docker_archive;
mod document;
mod error;
mod layout;
mod packed;
mod progress;
mod raw;
mod registry;
mod synthetic;

use std::num::NonZeroU32;
use std::time::Duration;

pub use archive::ArchiveError;
pub use error::{Attempt, Cause, FetchError, FileError};
pub use packed::{Interrupted, Packed, Reader};
pub use progress::{Event, Progress, Silent};
pub use registry::{
    CertificateProblem, Detail, EndpointError, RealmRefusal, RedirectRefusal, Roots, TlsProblem,
};

use crate::limits::{Bound, Limits};
use crate::oci::referrers::Referrer;
use crate::oci::registries::{Authorities, Proxies};
use crate::oci::{Compression, Descriptor, Digest, ImageSource, Platform, Reference, Registries};
use crate::store::{Blob, Store};
use document::{Chosen, Parts, Stored};

/// What fetching needs to know of the machine it runs on.
pub struct Machine<'a> {
    pub store: &'a Store,
    pub registries: &'a Registries,
    pub selection: Selection,
    pub network: Network,
    pub progress: &'a dyn Progress,
}

/// Which image of several is wanted, and how large it may be.
#[derive(Clone, Debug)]
pub struct Selection {
    pub platform: Platform,
    pub limits: Limits,
}

impl Selection {
    /// Within the built-in limits.
    pub fn of(platform: Platform) -> Self {
        Self { platform, limits: Limits::default() }
    }
}

/// How to reach registries.
#[derive(Clone, Debug)]
pub struct Network {
    pub timeouts: Timeouts,
    /// Whom to trust where the configuration names no CA for a host.
    pub roots: Roots,
    pub proxies: Proxies,
    pub downloads: Downloads,
    /// Images that are fetched at a time. They share the downloads, and the
    /// line: each may take so many times as long as if it was alone.
    pub images: NonZeroU32,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            roots: Roots::new(Authorities::compiled_in),
            proxies: Proxies::default(),
            downloads: Downloads::default(),
            images: NonZeroU32::MIN,
        }
    }
}

impl Network {
    /// Blobs of one image at a time.
    fn blobs_at_a_time(&self) -> usize {
        usize::try_from(self.downloads.parallel.get() / self.images).unwrap_or(usize::MAX).max(1)
    }

    /// Least bytes a second of a body over twice [`Timeouts::idle`].
    fn minimum_rate(&self) -> u64 {
        self.downloads.minimum_rate / u64::from(self.images.get())
    }
}

/// How long to wait for what.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// For a name to resolve, and then for a connection with TLS.
    pub connect: Duration,
    /// From a request to the end of the answer's headers.
    pub first_byte: Duration,
    /// For the next byte of a body.
    pub idle: Duration,
    /// For all of one `resolve` or one `fetch`.
    pub total: Duration,
    /// Before the second attempt; doubles with each further one.
    pub backoff: Duration,
    /// Longest pause, and the longest `Retry-After` that is waited for.
    pub longest_pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(20 * 60),
            backoff: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// How blobs are downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downloads {
    /// Blobs at a time.
    pub parallel: NonZeroU32,
    /// Least bytes a second of a body over twice [`Timeouts::idle`]. One that
    /// is slower counts as idle.
    pub minimum_rate: u64,
}

impl Default for Downloads {
    fn default() -> Self {
        const PARALLEL: NonZeroU32 = NonZeroU32::new(3).unwrap();
        Self { parallel: PARALLEL, minimum_rate: 1024 }
    }
}

/// Fetches images. Keeps connections and tokens between calls.
pub struct Fetcher<'a> {
    store: &'a Store,
    selection: Selection,
    client: registry::Client<'a>,
}

/// An image of which all documents are known and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    source: ImageSource,
    digest: Digest,
    chain_id: Digest,
    documents: Vec<Digest>,
    parts: Parts,
}

/// An image of which every blob can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'f> {
    source: ImageSource,
    digest: Digest,
    chain_id: Digest,
    content: Content<'f>,
}

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'f> {
    /// Lowest first; never empty.
    Changesets(Vec<Changeset<'f>>),
    /// What is, or holds, a squashfs.
    Squashfs(Blob),
}

/// One of the tars that an image is a stack of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changeset<'f> {
    blob: Packed<'f>,
    diff_id: Option<Digest>,
    compression: Compression,
}

impl<'a> Fetcher<'a> {
    pub fn new(machine: Machine<'a>) -> Self {
        let Machine { store, registries, selection, network, progress } = machine;
        let client = registry::Client::new(registries, network, selection.limits, progress);
        Self { store, selection, client }
    }

    /// Finds out which image this is, from small documents only, and stores
    /// these. A tag is resolved once; from then on only digests count. A
    /// digest whose documents are stored is resolved without network.
    pub fn resolve(&self, source: &ImageSource) -> Result<Resolved, FetchError> {
        let failed = FetchError::of(source);
        if let ImageSource::Registry(reference) = source
            && let Some(digest) = reference.digest()
            && let Some(resolved) = resolve_stored(self.store, &self.selection, source, digest)?
        {
            return Ok(resolved);
        }
        let chosen = self.choose(source).map_err(failed)?;
        document::keep(self.store, &chosen.documents, &self.selection.limits).map_err(failed)?;
        Resolved::new(source, chosen).map_err(failed)
    }

    /// What refers to a manifest of a registry's image, as the registry says.
    /// Nothing refers to images that are kept elsewhere.
    pub fn referrers(&self, source: &ImageSource, subject: &Digest) -> Result<Vec<Referrer>, FetchError> {
        match source {
            ImageSource::Registry(reference) => {
                self.client.pull(reference).referrers(subject).map_err(FetchError::of(source))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn choose(&self, source: &ImageSource) -> Result<Chosen, Cause> {
        let limits = &self.selection.limits;
        match source {
            ImageSource::Registry(reference) => {
                self.client.pull(reference).resolve(self.store, &self.selection)
            }
            ImageSource::OciLayout { directory, name } => layout::resolve(
                &layout::Directory::open(directory, limits)?,
                name.as_deref(),
                &self.selection,
            ),
            ImageSource::OciArchive { file, name } => {
                layout::resolve(&archive::Archive::open(file, limits)?, name.as_deref(), &self.selection)
            }
            ImageSource::DockerArchive { file, name } => {
                docker_archive::resolve(file, name.as_deref(), &self.selection)
            }
            ImageSource::Squashfs(file) => raw::resolve(file, limits),
            ImageSource::Directory(directory) => directory::resolve(self.store, directory, &self.selection),
        }
    }

    /// Makes every blob available: downloads what the store lacks of a
    /// registry's image, finds those of a layout, archive or file in place.
    pub fn fetch(&self, resolved: Resolved) -> Result<Image<'static>, FetchError> {
        let source = resolved.source.clone();
        let blobs = self.locate(&resolved).map(|blobs| blobs.into_iter().map(Packed::from).collect());
        blobs.and_then(|blobs| resolved.into_image(blobs)).map_err(FetchError::of(&source))
    }

    /// As [`fetch`](Self::fetch), but changesets that a registry has and the
    /// store lacks are downloaded when they are read, and are not kept.
    pub fn stream(&self, resolved: Resolved) -> Result<Image<'_>, FetchError> {
        match (&resolved.source, &resolved.parts) {
            (ImageSource::Registry(reference), Parts::Changesets(_)) => {
                let source = resolved.source.clone();
                let blobs = self.stream_from(reference, &resolved);
                blobs.and_then(|blobs| resolved.into_image(blobs)).map_err(FetchError::of(&source))
            }
            // A squashfs is not read from its start to its end.
            _ => self.fetch(resolved),
        }
    }

    fn stream_from(&self, reference: &Reference, resolved: &Resolved) -> Result<Vec<Packed<'_>>, Cause> {
        let wanted = resolved.parts.blobs();
        let is_repeated =
            |blob: &&Descriptor| wanted.iter().filter(|other| other.digest == blob.digest).count() > 1;
        // What is read more than once is asked for once.
        let repeated: Vec<_> = wanted.iter().copied().filter(is_repeated).collect();
        self.client.pull_blobs(reference).download(self.store, &resolved.source, &repeated)?;
        let missing = |blob: &&Descriptor| self.store.blob(&blob.digest).is_none();
        let missing: Vec<_> = wanted.iter().copied().filter(missing).collect();
        let mut remote =
            self.client.pull_blobs(reference).remote(&resolved.source, &missing).into_iter().peekable();
        let packed = |blob: &Descriptor| match remote.next_if(|remote| remote.wanted().digest == blob.digest)
        {
            Some(remote) => Ok(Packed::remote(remote)),
            None => registry::stored_blob(self.store, blob).map(Packed::from),
        };
        wanted.into_iter().map(packed).collect()
    }

    /// One blob for each that is wanted, in order.
    fn locate(&self, resolved: &Resolved) -> Result<Vec<Blob>, Cause> {
        let wanted = resolved.parts.blobs();
        let limits = &self.selection.limits;
        match &resolved.source {
            ImageSource::Registry(reference) => {
                self.client.pull_blobs(reference).download(self.store, &resolved.source, &wanted)
            }
            ImageSource::OciLayout { directory, .. } => {
                layout::locate(&layout::Directory::open(directory, limits)?, &wanted)
            }
            ImageSource::OciArchive { file, .. } => {
                layout::locate(&archive::Archive::open(file, limits)?, &wanted)
            }
            ImageSource::DockerArchive { file, name } => {
                docker_archive::locate(&archive::Archive::open(file, limits)?, name.as_deref(), &wanted)
            }
            ImageSource::Squashfs(file) => Ok(raw::locate(file, &wanted)),
            ImageSource::Directory(_) => directory::locate(self.store, &wanted),
        }
    }
}

/// Gets one file, which `bound` is for, by its `http` or `https` URL. Nobody
/// has verified what comes back.
pub fn file(
    url: &str,
    bound: Bound,
    network: Network,
    progress: &dyn Progress,
) -> Result<Vec<u8>, FileError> {
    let registries = Registries::default();
    let client = registry::Client::new(&registries, network, Limits::default(), progress);
    // A query may hold what is not for everybody, and so does userinfo, which
    // is refused.
    let shown = url.split('?').next().and_then(|url| url.rsplit('@').next()).unwrap_or_default();
    client.file(url, bound).map_err(|source| FileError { url: shown.into(), source })
}

/// The image whose manifest, or index, has this digest, if its documents are
/// stored. Touches nothing but the store; `source` is where its changesets
/// would be fetched from.
pub fn resolve_stored(
    store: &Store,
    selection: &Selection,
    source: &ImageSource,
    digest: &Digest,
) -> Result<Option<Resolved>, FetchError> {
    let failed = FetchError::of(source);
    let Some(bytes) = document::stored(store, digest, &selection.limits).map_err(failed)? else {
        return Ok(None);
    };
    let mut top = document::describe(&bytes, &document::announced_by(&bytes));
    top.digest = *digest;
    match document::choose(&Stored { store, limits: &selection.limits }, selection, top) {
        Ok(chosen) => Resolved::new(source, chosen).map(Some).map_err(failed),
        Err(Cause::NotStored { .. }) => Ok(None),
        Err(cause) => Err(failed(cause)),
    }
}

impl Resolved {
    fn new(source: &ImageSource, chosen: Chosen) -> Result<Self, Cause> {
        let Chosen { documents, manifest, parts } = chosen;
        let empty = || crate::oci::DocumentError::Shape("no changesets");
        let chain_id =
            parts.chain_id().ok_or_else(|| Cause::Document { digest: manifest, source: empty() })?;
        let documents = documents.iter().map(|(descriptor, _)| descriptor.digest).collect();
        Ok(Self { source: source.clone(), digest: manifest, chain_id, documents, parts })
    }

    fn into_image(self, mut blobs: Vec<Packed<'_>>) -> Result<Image<'_>, Cause> {
        let content = match (self.parts, blobs.pop()) {
            (Parts::Squashfs(wanted), blob) => match blob.and_then(Packed::into_file) {
                Some(blob) => Content::Squashfs(blob),
                None => return Err(Cause::NotStored { digest: wanted.digest }),
            },
            (Parts::Changesets(changesets), last) => {
                let changeset = |(described, blob): (document::Described, _)| Changeset {
                    blob,
                    diff_id: described.diff_id,
                    compression: described.compression,
                };
                Content::Changesets(
                    changesets.into_iter().zip(blobs.into_iter().chain(last)).map(changeset).collect(),
                )
            }
        };
        Ok(Image { source: self.source, digest: self.digest, chain_id: self.chain_id, content })
    }

    pub fn source(&self) -> &ImageSource {
        &self.source
    }

    /// The digest of the manifest, or of the file of `squashfs:`. A Docker
    /// archive has none of its own; its digest is that of an OCI manifest made from its image config and
    /// changesets, the same for the same content.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The digest of the whole stack of plain tars (image-spec, config.md,
    /// "Layer ChainID"), or one that stands for the only blob.
    pub fn chain_id(&self) -> &Digest {
        &self.chain_id
    }

    /// Bytes of the image's content as it is packed.
    pub fn packed_bytes(&self) -> u64 {
        self.parts.blobs().iter().map(|blob| blob.size).fold(0, u64::saturating_add)
    }

    /// The stored documents that make the image known: what the reference
    /// named comes first, then indexes and the manifest, then the image
    /// config. Garbage collection has to keep them all.
    pub fn documents(&self) -> &[Digest] {
        &self.documents
    }

    /// The digests of the packed changesets, lowest first, or of the squashfs.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        self.parts.blobs().into_iter().map(|blob| &blob.digest)
    }
}

impl<'f> Image<'f> {
    pub fn source(&self) -> &ImageSource {
        &self.source
    }

    /// The digest of the manifest, as [`Resolved::digest`].
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub fn chain_id(&self) -> &Digest {
        &self.chain_id
    }

    /// Reads every blob once: those of a layout or archive lie where others
    /// write, and nobody has looked into them yet.
    pub fn verify(&self) -> Result<(), FetchError> {
        let failed = FetchError::of(&self.source);
        self.blobs().iter().enumerate().try_for_each(|(number, blob)| {
            let drained = blob.open().and_then(|mut reader| reader.drain());
            drained.map_err(|source| failed(Cause::Changeset { number, source }))
        })
    }

    /// How many of the blobs may be read at a time.
    pub fn blobs_at_a_time(&self) -> usize {
        self.blobs().iter().map(Packed::at_a_time).min().unwrap_or(1)
    }

    /// Why a blob did not come while it was read, if one did not: that
    /// explains what its reader ran into.
    pub fn interrupted(&self) -> Option<Interrupted> {
        self.blobs().iter().find_map(|blob| blob.take_failure(&self.source))
    }

    pub fn content(&self) -> &Content<'f> {
        &self.content
    }

    /// Lowest first; none if the image is a squashfs.
    pub fn changesets(&self) -> &[Changeset<'f>] {
        match &self.content {
            Content::Changesets(changesets) => changesets,
            Content::Squashfs(_) => &[],
        }
    }

    /// The packed changesets, lowest first, or the squashfs.
    pub fn blobs(&self) -> Vec<Packed<'f>> {
        match &self.content {
            Content::Changesets(changesets) => {
                changesets.iter().map(|changeset| changeset.blob().clone()).collect()
            }
            Content::Squashfs(blob) => vec![blob.clone().into()],
        }
    }
}

impl<'f> Changeset<'f> {
    /// The packed tar.
    pub fn blob(&self) -> &Packed<'f> {
        &self.blob
    }

    /// The digest of the plain tar. An artifact that is a compressed tar has
    /// none: that of the blob has to do.
    pub fn diff_id(&self) -> Option<&Digest> {
        self.diff_id.as_ref()
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }
}
