//! One image into one layer.
//!
//! In: an image, a recipe, a store. Out: a layer in the store. Each changeset
//! is read once, from the network's or a file's bytes to blocks of the
//! squashfs, verified on the way; a raw image is verified, then read. Nothing
//! is extracted, nor kept. Invariant: the layer gets its name only after every
//! digest matched and every rule held.

use std::io::{self, Read};
use std::num::{NonZeroU32, NonZeroUsize};

use super::changeset::{ChangesetError, FlattenError, ImageTree, Stack};
use super::manifest::{Host, Incompatible, Manifest};
use super::meter::Meter;
use super::places;
use super::raw::{self, Form, RawError, Terms};
use super::room::{Room, Share};
use super::rules::{self, Rules, RulesHost, Violations};
use super::squashfs::{self, Compression, FileId, Workers, WriteError, Writer};
use super::tar::EntryPath;
use super::tree::{Attributes, Content, Directory};
use super::unpack::{Unpacked, Unpacker};
use crate::fetch::{self, Changeset, Image};
use crate::limits::{Bound, Exceeded, Limits};
use crate::oci::{Digest, ImageSource, VerifyingReader};
use crate::store::{self, Blob, Layer, LayerKey, LayerRecord, StagedLayer, Store};
use crate::text::Escaped;
use crate::yaml::Problems;

/// Version of the layer format. It changes when the bytes that the same
/// image gives change, and only then; the CHANGELOG says so.
const FORMAT_VERSION: u32 = 1;

/// The manifest's name at the image's root.
const MANIFEST: &[u8] = b"manifest.yaml";

/// The directory of the image that becomes the layer.
const ROOTFS: &[u8] = b"rootfs";

/// Whether a layer gets a dm-verity tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verity {
    Write,
    /// Nobody asks for it.
    Omit,
}

/// How images become layers on a machine.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub rules: Rules,
    pub compression: squashfs::Compression,
    /// Bytes; see [`squashfs::Options`].
    pub block_size: u32,
    /// Of no consequence for the squashfs, nor for its key.
    pub verity: Verity,
    pub limits: Limits,
    /// What `compatibility` is matched against.
    pub host: Host,
    /// What kernel modules are matched against.
    pub kernel: RulesHost,
}

/// Why an image is not a layer. Every variant is about the image.
#[derive(Debug, thiserror::Error)]
#[error("{image}")]
pub struct BuildError {
    pub image: Box<ImageSource>,
    pub source: Cause,
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("cannot open changeset {number} ({digest})")]
    Open { number: usize, digest: Digest, source: io::Error },
    #[error("changeset {number} ({digest})")]
    Changeset { number: usize, digest: Digest, source: ChangesetError },
    #[error("changeset {number} is not what its digests say")]
    Verify { number: usize, source: io::Error },
    #[error("squashfs {digest}")]
    Raw { digest: Digest, source: RawError },
    #[error("the changesets do not add up")]
    Flatten(#[source] FlattenError),
    #[error("{0}")]
    Rules(Violations),
    #[error("its `manifest.yaml` is too large")]
    ManifestSize(#[source] Exceeded),
    #[error("its manifest is not usable:\n{0}")]
    Manifest(Problems),
    #[error("{0}\nits manifest is not usable:\n{1}")]
    RulesAndManifest(Violations, Problems),
    #[error("it does not fit this machine")]
    Incompatible(#[source] Incompatible),
    #[error("cannot write its layer")]
    Write(#[source] WriteError),
    #[error("cannot keep its layer")]
    Store(#[source] store::LayerError),
    #[error("cannot hash its layer")]
    Hash(#[source] io::Error),
}

impl Recipe {
    /// The key of the layer that an image with this chain ID gives.
    pub fn key(&self, chain_id: &Digest) -> LayerKey {
        let Self { rules, block_size, .. } = self;
        let compression = match self.compression {
            Compression::None => "none".into(),
            Compression::Gzip { level } => format!("gzip {level}"),
            Compression::Zstd { level } => format!("zstd {level}"),
            Compression::Lz4 => "lz4".into(),
            Compression::Xz => "xz".into(),
        };
        LayerKey::of(&format!(
            "format {FORMAT_VERSION}\nchain {chain_id}\ncompression {compression}\nblock {block_size}\n{rules}"
        ))
    }

    fn workers(&self) -> Workers {
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Workers::new(processors.min(most_workers(self.compression, self.block_size)))
    }
}

/// How many compression threads there is memory for: each has the blocks on
/// their way to and from it, and its tables. Zstd's grow with the block, and
/// from level 4 on fast.
fn most_workers(compression: Compression, block_size: u32) -> NonZeroUsize {
    const MEMORY: usize = 32 << 20;
    let tables = match compression {
        Compression::Xz => 6 << 20,
        Compression::Zstd { level: 4.. } => (1 << 20) + 17 * block_size as usize,
        _ => 1 << 20,
    };
    NonZeroUsize::new(MEMORY / (tables + 8 * block_size as usize)).unwrap_or(NonZeroUsize::MIN)
}

/// Builds layers, several at a time if need be: what compresses is there once
/// for all, and so is the room for images of many entries.
pub struct Builder<'a> {
    recipe: &'a Recipe,
    store: &'a Store,
    workers: Workers,
    room: Room,
    at_a_time: NonZeroU32,
}

impl<'a> Builder<'a> {
    /// Starts no thread before there is something to build.
    pub fn new(recipe: &'a Recipe, store: &'a Store) -> Self {
        let (workers, room) = (recipe.workers(), Room::default());
        Self { recipe, store, workers, room, at_a_time: NonZeroU32::MIN }
    }

    /// With threads that compress for others too, or for a machine with another
    /// number of cores.
    pub fn with_workers(self, workers: Workers) -> Self {
        Self { workers, ..self }
    }

    /// For so many images at a time, each of which may take so many times as
    /// long as if it was alone.
    pub fn at_a_time(self, images: NonZeroU32) -> Self {
        Self { at_a_time: images, ..self }
    }

    pub fn recipe(&self) -> &'a Recipe {
        self.recipe
    }

    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// Builds `image`'s layer and commits it to the store.
    pub fn build(&self, image: &Image) -> Result<Layer, BuildError> {
        let failed = |source| BuildError { image: Box::new(image.source().clone()), source };
        let staged = self.store.stage_layer().map_err(Cause::Store).map_err(failed)?;
        let built = Build::open(&staged, self).and_then(|build| build.build(image)).map_err(failed)?;
        let key = self.recipe.key(image.chain_id());
        self.store.commit_layer(staged, key, built).map_err(Cause::Store).map_err(failed)
    }
}

/// Why a layer in the store cannot be used on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("the manifest in its record is not usable:\n{0}")]
    Manifest(Problems),
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    #[error("its kernel modules are for {}, this machine runs {kernel}", Escaped::new(.modules))]
    Kernel { modules: String, kernel: String },
}

/// Whether a layer that is in the store may be used on this machine, whose
/// versions may have changed since it was built.
pub fn check_fits(layer: &Layer, recipe: &Recipe) -> Result<(), Unfit> {
    manifest_of(layer).map_err(Unfit::Manifest)?.check(&recipe.host)?;
    match (&layer.record().kernel_release, &recipe.kernel.kernel_release) {
        (Some(modules), Some(kernel)) if modules != kernel => {
            Err(Unfit::Kernel { modules: modules.clone(), kernel: kernel.clone() })
        }
        _ => Ok(()),
    }
}

/// The manifest of the extension that a layer was built from.
pub fn manifest_of(layer: &Layer) -> Result<Manifest, Problems> {
    Manifest::parse("manifest.yaml", layer.record().manifest.as_bytes())
}

/// One layer being built.
struct Build<'a> {
    share: Share<'a>,
    meter: Meter,
    contents: Contents<'a>,
}

/// What of the layer is written.
struct Contents<'a> {
    recipe: &'a Recipe,
    writer: Writer,
    /// That of the changeset being read: the last of that name. What has
    /// several is refused at its end.
    manifest: Option<(FileId, Vec<u8>)>,
    /// Contents of `manifest.yaml` at the root of each changeset that has one.
    manifests: Vec<(FileId, Vec<u8>)>,
}

impl<'a> Build<'a> {
    fn open(staged: &StagedLayer, builder: &'a Builder) -> Result<Self, Cause> {
        let Builder { recipe, workers, room, at_a_time, .. } = builder;
        let Recipe { compression, block_size, .. } = **recipe;
        let options = squashfs::Options { compression, block_size, workers: workers.clone() };
        let file = staged.file().map_err(Cause::Hash)?;
        let writer = match recipe.verity {
            Verity::Write => {
                let tree = staged.verity_file().map_err(Cause::Hash)?;
                Writer::with_hash_tree(file, tree, options)
            }
            Verity::Omit => Writer::new(file, options),
        };
        let writer = writer.map_err(Cause::Write)?;
        let contents = Contents { recipe, writer, manifest: None, manifests: Vec::new() };
        Ok(Self { share: room.share(), meter: Meter::start(recipe.limits, *at_a_time), contents })
    }

    fn build(self, image: &Image) -> Result<LayerRecord, Cause> {
        match image.content() {
            fetch::Content::Changesets(changesets) => self.add_up(changesets, image.blobs_at_a_time()),
            fetch::Content::Squashfs(blob) => self.repack(blob),
        }
    }

    fn add_up(self, changesets: &[Changeset], at_a_time: usize) -> Result<LayerRecord, Cause> {
        let Self { mut share, mut meter, mut contents } = self;
        let recipe = contents.recipe;
        let mut on_entry = || share.add_entry();
        let stack = Stack::new(recipe.limits, recipe.rules.hard_links);
        let mut stack = stack.announcing(&mut on_entry);
        std::thread::scope(|scope| {
            // From the top down, so that what an upper changeset hides is not stored.
            let unpacked = Unpacker::new(scope, recipe.limits, changesets.iter().rev());
            let unpacked = unpacked.at_most(at_a_time);
            for ((number, changeset), unpacked) in changesets.iter().enumerate().rev().zip(unpacked) {
                let digest = *changeset.blob().digest();
                let unpacked = unpacked.map_err(|source| Cause::Open { number, digest, source })?;
                contents.read((number, changeset), unpacked, &mut stack, &mut meter)?;
            }
            Ok(())
        })?;
        // The tree takes the memory that finding duplicates took.
        contents.writer.end_contents().map_err(Cause::Write)?;
        let tree = stack.flatten().map_err(Cause::Flatten)?;
        contents.finish(tree, &recipe.rules)
    }

    /// Reads a raw image. It is never mounted as it came.
    fn repack(self, blob: &Blob) -> Result<LayerRecord, Cause> {
        let Self { mut share, mut meter, mut contents } = self;
        let Recipe { limits, rules, kernel, .. } = contents.recipe;
        let terms = Terms { limits: *limits, hard_links: rules.hard_links, machine: kernel.machine };
        // Its tree is read at once.
        share.be_large();
        let read = raw::read(blob, &terms, &mut |path, size, content| {
            contents.store(path, (size, &mut meter.changeset(content)))
        });
        contents.end_manifest();
        let extension = read.map_err(|source| Cause::Raw { digest: *blob.digest(), source })?;
        match extension.form {
            Form::Talos => contents.finish(extension.tree, rules),
            Form::Sysext => contents.finish(extension.tree, &rules.for_sysext()),
        }
    }
}

impl Contents<'_> {
    /// Reads one changeset to its end: digest, diff ID and tar are all good
    /// when this returns.
    fn read(
        &mut self,
        (number, changeset): (usize, &Changeset),
        mut unpacked: Unpacked<'_>,
        stack: &mut Stack,
        meter: &mut Meter,
    ) -> Result<(), Cause> {
        let mut plain = meter.changeset(&mut unpacked);
        let (read, drained) = match changeset.diff_id() {
            Some(diff_id) => self.read_tar(&mut VerifyingReader::new(&mut plain, *diff_id, None), stack),
            // Of an artifact the blob's digest is all that is known.
            None => self.read_tar(&mut plain, stack),
        };
        let verify = |source| Cause::Verify { number, source };
        // Content that is not what was asked for explains every other error,
        // but there may be no time left to find out.
        if read.is_ok() || !meter.is_late() {
            unpacked.finish().map_err(verify)?;
        }
        let digest = *changeset.blob().digest();
        read.map_err(|source| Cause::Changeset { number, digest, source })?;
        drained.map_err(verify)
    }

    /// Reads a tar to its end: a consumer that stops early has verified
    /// nothing. The second result is whether the end was as it should be.
    fn read_tar(
        &mut self,
        tar: &mut dyn Read,
        stack: &mut Stack,
    ) -> (Result<(), ChangesetError>, io::Result<()>) {
        let read = stack.read(&mut *tar, &mut |path, size, content| self.store(path, (size, content)));
        self.end_manifest();
        let drained = if read.is_ok() { io::copy(tar, &mut io::sink()).map(drop) } else { Ok(()) };
        (read, drained)
    }

    /// Checks the whole, and writes what names the contents.
    fn finish(self, mut tree: ImageTree, rules: &Rules) -> Result<LayerRecord, Cause> {
        let manifest_bytes = self.manifest_in(&tree.root);
        let size = manifest_bytes.len() as u64;
        self.recipe.limits.check(Bound::ManifestYaml, size).map_err(Cause::ManifestSize)?;
        let has_manifest = tree.root.get(MANIFEST).is_some();
        let ruled = rules::check(&mut tree, rules, &self.recipe.kernel);
        // One report of all that is wrong, so that one more try is enough.
        let manifest = match (ruled, Manifest::parse("manifest.yaml", &manifest_bytes)) {
            (Ok(()), Ok(manifest)) => manifest,
            (Ok(()), Err(problems)) => return Err(Cause::Manifest(problems)),
            (Err(violations), Err(problems)) if has_manifest => {
                return Err(Cause::RulesAndManifest(violations, problems));
            }
            (Err(violations), _) => return Err(Cause::Rules(violations)),
        };
        manifest.check(&self.recipe.host).map_err(Cause::Incompatible)?;
        let empty = Directory::new();
        let rootfs = match tree.root.get(ROOTFS).map(|node| &node.content) {
            Some(Content::Directory(rootfs)) => rootfs,
            // The rules have refused everything else.
            _ => &empty,
        };
        let summary = self.writer.finish(rootfs, Attributes::IMPLIED_DIRECTORY).map_err(Cause::Write)?;
        let digest = store::digest_of(summary.file).map_err(Cause::Hash)?;
        Ok(LayerRecord {
            digest,
            size: summary.bytes,
            inodes: summary.inodes.into(),
            verity_root: summary.verity_root,
            name: manifest.name().into(),
            version: manifest.metadata().version.clone(),
            manifest: String::from_utf8_lossy(&manifest_bytes).into_owned(),
            places: places::used(rootfs),
            kernel_release: places::kernel_release(rootfs),
        })
    }

    fn manifest_in(&self, root: &Directory) -> Vec<u8> {
        let id = match root.get(MANIFEST).map(|node| &node.content) {
            Some(Content::File(id)) => Some(id),
            _ => None,
        };
        let bytes = self.manifests.iter().find(|(manifest, _)| Some(manifest) == id);
        bytes.map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }

    /// Takes note of the end of a changeset, or of a raw image.
    fn end_manifest(&mut self) {
        self.manifests.extend(self.manifest.take());
    }

    /// Stores one file's content. The manifest is kept in memory: it is not
    /// part of the layer.
    fn store(&mut self, path: &EntryPath, (size, content): (u64, &mut dyn Read)) -> io::Result<FileId> {
        if path.as_bytes() != MANIFEST {
            return self.writer.add_file(size, content).map_err(io::Error::other);
        }
        let mut bytes = Vec::new();
        // One byte more than is allowed, so that it is seen to be too much.
        content.take(self.recipe.limits.get(Bound::ManifestYaml) + 1).read_to_end(&mut bytes)?;
        let id = self.writer.add_file(0, &mut io::empty()).map_err(io::Error::other)?;
        self.manifest = Some((id, bytes));
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_changes_the_bytes_of_a_layer_changes_its_key() {
        let mut keys = Vec::new();
        for compression in [
            Compression::None,
            Compression::Gzip { level: 3 },
            Compression::Gzip { level: 9 },
            Compression::Zstd { level: 3 },
            Compression::Zstd { level: 19 },
            Compression::Lz4,
            Compression::Xz,
        ] {
            for (block_size, image) in [(4096, "one"), (4096, "two"), (1 << 20, "one")] {
                let recipe = Recipe {
                    rules: Rules::default(),
                    compression,
                    block_size,
                    verity: Verity::Omit,
                    limits: Limits::default(),
                    host: Host::default(),
                    kernel: RulesHost::default(),
                };
                keys.push(recipe.key(&Digest::sha256(image.as_bytes())).to_string());
            }
        }
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn memory_bounds_the_workers() {
        for (compression, block_size, workers) in [
            (Compression::default(), 4 << 10, 31),
            (Compression::default(), 128 << 10, 16),
            (Compression::default(), 1 << 20, 3),
            (Compression::Zstd { level: 4 }, 128 << 10, 7),
            (Compression::Zstd { level: 19 }, 128 << 10, 7),
            (Compression::Zstd { level: 19 }, 1 << 20, 1),
            (Compression::Xz, 128 << 10, 4),
            (Compression::Xz, 1 << 20, 2),
        ] {
            assert_eq!(most_workers(compression, block_size).get(), workers, "{compression:?} {block_size}");
        }
    }
}
