//! A raw image, a squashfs in one file, into the tree of an extension.
//!
//! In: a blob that is a squashfs, or a partitioned image of one, with
//! `manifest.yaml` and `rootfs/` in it or, as a systemd sysext, the root
//! itself. Out: the same [`ImageTree`] as changesets come to, for the same
//! rules. Invariant: the image is read in user space, within limits; nothing
//! of it is used before its digest was checked.

mod disk;
mod sysext;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

pub use disk::DiskError;
pub use sysext::SysextError;

use super::changeset::{ElfMachine, ImageTree, StoreFile, store_content};
use super::rules::Permission;
use super::squashfs::FileId;
use super::squashfs::reader::{ReadError, Reader, Tree};
use super::tar::EntryPath;
use super::tar::path::{PathProblem, join};
use super::tree::{Attributes, Content, Directory, Node};
use crate::limits::{Bound, Exceeded, Limits};
use crate::store::Blob;
use crate::text::Escaped;
use disk::{Hierarchy, Squashfs};

const MANIFEST: &[u8] = b"manifest.yaml";
const ROOTFS: &[u8] = b"rootfs";

/// What a raw image is read for.
pub struct Terms {
    pub limits: Limits,
    pub hard_links: Permission,
    pub machine: Option<ElfMachine>,
}

/// What was in a raw image.
pub struct Extension {
    pub tree: ImageTree,
    pub form: Form,
}

/// The forms of extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `manifest.yaml` and `rootfs/`.
    Talos,
    /// A root with an `extension-release`; its manifest was made from that.
    Sysext,
}

/// Why a raw image is no extension.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    #[error("cannot read its file, or it is not what its digest says")]
    Open(#[source] io::Error),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("its squashfs is of no use")]
    Squashfs(#[from] ReadError),
    #[error(transparent)]
    Sysext(#[from] SysextError),
    #[error("cannot read or store the content of `{}`", Escaped::new(.path))]
    Content { path: Vec<u8>, source: io::Error },
    #[error("its extension-release, which becomes its manifest, is too large")]
    Release(#[source] Exceeded),
    #[error("the name of `{}` {problem}", Escaped::new(.path))]
    Name { path: Vec<u8>, problem: PathProblem },
}

/// Reads a raw image; contents go to `store`, as those of changesets do.
pub fn read(blob: &Blob, terms: &Terms, store: &mut StoreFile<'_>) -> Result<Extension, RawError> {
    let (file, range) = blob.open_checked().map_err(RawError::Open)?;
    let Squashfs { range, hierarchy } = disk::find(&file, range, terms.machine)?;
    let mut reader = Reader::open(file, range, terms.limits)?;
    let mut tree = reader.tree(terms.hard_links)?;
    let mut root = std::mem::replace(&mut tree.root, directory(Directory::new()));
    let talos = hierarchy == Hierarchy::Root
        && root.children().is_some_and(|children| children.get(MANIFEST).is_some());
    let (stored, modules) = (BTreeMap::new(), BTreeMap::new());
    let mut contents = Contents { reader, tree, store, limits: terms.limits, stored, modules };
    if talos {
        contents.store_below(b"", &mut root)?;
        let Content::Directory(root) = root.content else { return Err(SysextError::NoRelease.into()) };
        return Ok(Extension { tree: ImageTree { root, modules: contents.modules }, form: Form::Talos });
    }
    let rootfs = match hierarchy {
        Hierarchy::Root => root,
        Hierarchy::Usr => directory(Directory::from([((*b"usr").into(), root)])),
    };
    contents.sysext(rootfs, terms.machine)
}

fn directory(children: Directory) -> Node {
    let content = Content::Directory(children);
    Node { attributes: Attributes::IMPLIED_DIRECTORY, changeset: None, xattrs: None, content }
}

/// The contents of a squashfs on their way.
struct Contents<'a, 's> {
    reader: Reader<File>,
    tree: Tree,
    store: &'a mut StoreFile<'s>,
    limits: Limits,
    /// The reader's numbers, and the store's.
    stored: BTreeMap<FileId, FileId>,
    modules: BTreeMap<FileId, ElfMachine>,
}

impl Contents<'_, '_> {
    fn sysext(mut self, mut rootfs: Node, machine: Option<ElfMachine>) -> Result<Extension, RawError> {
        let empty = Directory::new();
        let (name, id) = sysext::release(rootfs.children().unwrap_or(&empty))?;
        let release = self.release(id)?;
        let text = sysext::manifest(&name, &release, machine)?;
        let manifest = Content::File(self.store(MANIFEST, text.len() as u64, &mut text.as_bytes())?);
        self.store_below(ROOTFS, &mut rootfs)?;
        let manifest = Node {
            attributes: Attributes { mode: 0o644, ..Attributes::IMPLIED_DIRECTORY },
            content: manifest,
            changeset: None,
            xattrs: None,
        };
        let root = Directory::from([(MANIFEST.into(), manifest), (ROOTFS.into(), rootfs)]);
        Ok(Extension { tree: ImageTree { root, modules: self.modules }, form: Form::Sysext })
    }

    /// The whole of a file that may be as large as a manifest.
    fn release(&mut self, id: FileId) -> Result<Vec<u8>, RawError> {
        let mut bytes = Vec::new();
        if let Some(content) = self.reader.content(&self.tree, id)? {
            let failed = |source| RawError::Content { path: b"extension-release".to_vec(), source };
            self.limits.check(Bound::ManifestYaml, content.size()).map_err(RawError::Release)?;
            content.take(self.limits.get(Bound::ManifestYaml)).read_to_end(&mut bytes).map_err(failed)?;
        }
        Ok(bytes)
    }

    /// Stores every content below `node`, which is at `path` in the extension.
    /// The reader has bounded the depth.
    fn store_below(&mut self, path: &[u8], node: &mut Node) -> Result<(), RawError> {
        let Some(children) = node.children_mut() else { return Ok(()) };
        for (name, child) in children.iter_mut() {
            let path = join(path, name);
            match &mut child.content {
                Content::File(id) => *id = self.store_file(&path, *id)?,
                Content::Directory(_) => self.store_below(&path, child)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn store_file(&mut self, path: &[u8], id: FileId) -> Result<FileId, RawError> {
        if let Some(stored) = self.stored.get(&id) {
            return Ok(*stored);
        }
        let parsed = self.parse(path)?;
        let failed = |source| RawError::Content { path: path.into(), source };
        let content = self.reader.content(&self.tree, id)?;
        let mut content = content.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let size = content.size();
        let (stored, machine) = store_content(&parsed, size, &mut content, self.store).map_err(failed)?;
        self.modules.extend(machine.map(|machine| (stored, machine)));
        self.stored.insert(id, stored);
        Ok(stored)
    }

    fn parse(&self, path: &[u8]) -> Result<EntryPath, RawError> {
        EntryPath::within(path, &self.limits).map_err(|problem| RawError::Name { path: path.into(), problem })
    }

    fn store(&mut self, path: &[u8], size: u64, content: &mut dyn Read) -> Result<FileId, RawError> {
        let failed = |source| RawError::Content { path: path.into(), source };
        let parsed = self.parse(path)?;
        (self.store)(&parsed, size, content).map_err(failed)
    }
}
