//! Changesets → one tree (image-spec, layer.md, "Applying Changesets").
//!
//! In: indexed changesets, lowest first. Out: the tree as every unpacker
//! should see it. For each changeset, first what it hides is removed, then
//! what it has is added; so whiteouts and opaque markers act on lower
//! changesets only, wherever they stand in their own. Invariant: no symlink
//! is ever followed.
//!
//! containerd resolves a symlink that stands where an entry needs a
//! directory, inside the root; here such an entry is refused, because no
//! ordinary builder emits it and everything that escapes from a root needs it.
//! So is a whiteout or opaque marker, which containerd and umoci let act on
//! what the symlink names and an overlay would not, unless its own changeset
//! puts a directory in the symlink's place.

use std::collections::{BTreeMap, BTreeSet};

use super::elf::ElfMachine;
use super::index::Index;
use super::record::{Record, Recorded};
use super::{FlattenError, ImageTree};
use crate::layer::rules::Permission;
use crate::layer::squashfs::FileId;
use crate::layer::tar::path::{components, join, split};
use crate::layer::tree::{Content, Directory, Node};

/// Adds the changesets up.
pub(super) fn flatten(
    changesets: impl Iterator<Item = Index>,
    hard_links: Permission,
) -> Result<ImageTree, FlattenError> {
    let (mut root, mut modules) = (Directory::new(), BTreeMap::new());
    for (number, index) in changesets.enumerate() {
        let mut changeset = Changeset { index, number: u16::try_from(number).unwrap_or(u16::MAX) };
        changeset.erase(&mut root)?;
        root = changeset.merge(root, b"")?;
        modules.extend(changeset.modules());
        if hard_links == Permission::Allow {
            changeset.resolve_links(&mut root);
        }
    }
    Ok(ImageTree { root, modules })
}

struct Changeset {
    index: Index,
    number: u16,
}

impl Changeset {
    /// Removes what whiteouts and opaque markers hide. One that runs through
    /// a file hides nothing.
    fn erase(&self, root: &mut Directory) -> Result<(), FlattenError> {
        let records = &self.index.records;
        let mut hidden: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
        for &whiteout in &records.whiteouts {
            if let Some((directory, name)) = split(records.get(whiteout)) {
                hidden.entry(directory).or_default().insert(name);
            }
        }
        for (directory, names) in hidden {
            self.check_marker(root, directory)?;
            if let Some(children) = directory_at(root, directory) {
                children.retain(|name, _| !names.contains(name));
            }
        }
        for &opaque in &records.opaque {
            self.check_marker(root, records.get(opaque))?;
            if let Some(directory) = directory_at(root, records.get(opaque)) {
                *directory = Directory::new();
            }
        }
        Ok(())
    }

    /// Refuses a marker in `directory` if that runs through a symlink that this
    /// changeset leaves there.
    fn check_marker(&self, root: &Directory, directory: &[u8]) -> Result<(), FlattenError> {
        let (mut children, mut end) = (root, 0);
        for name in components(directory) {
            end += name.len();
            let Some(node) = children.get(name) else { return Ok(()) };
            match &node.content {
                Content::Directory(below) => children = below,
                Content::Symlink(_) if !self.has_directory(&directory[..end]) => {
                    let (path, lower) = (directory[..end].to_vec(), node.changeset.unwrap_or_default());
                    return Err(FlattenError::Parent { path, lower, upper: self.number });
                }
                _ => return Ok(()),
            }
            end += 1;
        }
        Ok(())
    }

    fn has_directory(&self, path: &[u8]) -> bool {
        split(path)
            .and_then(|(directory, name)| self.index.find(directory, name))
            .is_some_and(|(_, record)| record.content.is_directory())
    }

    /// Puts this changeset's children of `path` over those in `lower`. Both
    /// are sorted. As deep as paths are, which is bounded.
    fn merge(&mut self, lower: Directory, path: &[u8]) -> Result<Directory, FlattenError> {
        let upper = self.index.children(path);
        if upper.is_empty() {
            return Ok(lower);
        }
        let mut merged = Vec::with_capacity(lower.len() + upper.len());
        let mut lower = lower.into_iter().peekable();
        for rank in upper {
            let record = self.index.ranked(rank);
            let name: Box<[u8]> = self.index.records.get(record.name).into();
            while let Some(below) = lower.next_if(|(below, _)| *below < name) {
                merged.push(below);
            }
            let below = lower.next_if(|(below, _)| *below == name).map(|(_, node)| node);
            let node = match record.content.is_directory() {
                true => self.directory(record, below, &join(path, &name))?,
                false => self.node(record),
            };
            merged.push((name, node));
        }
        merged.extend(lower);
        Ok(merged.into_iter().collect())
    }

    /// A directory keeps what is below it in lower changesets. One that has
    /// an entry of its own gets the entry's attributes.
    fn directory(&mut self, record: Record, below: Option<Node>, path: &[u8]) -> Result<Node, FlattenError> {
        let mut node = self.node(record);
        let mut children = Directory::new();
        if let Some(mut below) = below {
            match &mut below.content {
                Content::Directory(held) => {
                    children = std::mem::take(held);
                    if record.content == Recorded::Implied {
                        node = below;
                    }
                }
                _ if record.content == Recorded::Implied => {
                    let (path, upper) = (path.to_vec(), self.number);
                    let lower = below.changeset.unwrap_or_default();
                    return Err(FlattenError::Parent { path, lower, upper });
                }
                _ => {}
            }
        }
        node.content = Content::Directory(self.merge(children, path)?);
        Ok(node)
    }

    fn node(&mut self, record: Record) -> Node {
        let text = |text| self.index.records.get(text).into();
        let content = match record.content {
            Recorded::Directory | Recorded::Implied => Content::Directory(Directory::new()),
            Recorded::File(id) | Recorded::Module(id, _) => Content::File(id),
            Recorded::Symlink(target) => Content::Symlink(text(target)),
            Recorded::HardLink(target) => Content::HardLink(text(target)),
            Recorded::Device => Content::Device,
            Recorded::Fifo => Content::Fifo,
        };
        let xattrs = self.index.records.take_xattrs(record);
        Node { attributes: record.attributes, changeset: Some(self.number), xattrs, content }
    }

    fn modules(&self) -> impl Iterator<Item = (FileId, ElfMachine)> {
        self.index.records.records.iter().filter_map(|record| match record.content {
            Recorded::Module(id, machine) => Some((id, machine)),
            _ => None,
        })
    }

    /// Turns hard links into second names of the files they link to, in the
    /// tar's order: what a link names must stand before it, or be lower. One
    /// that names anything else stays what it is, for the rules to refuse.
    fn resolve_links(&self, root: &mut Directory) {
        let records = &self.index.records;
        for (at, &record) in records.records.iter().enumerate() {
            let Recorded::HardLink(target) = record.content else { continue };
            let target = records.get(target);
            let is_behind = |(directory, name)| {
                self.index.find(directory, name).is_some_and(|(found, _)| found as usize >= at)
            };
            if split(target).is_none_or(is_behind) {
                continue;
            }
            let Some(file) =
                root.walk(components(target)).filter(|node| matches!(node.content, Content::File(_)))
            else {
                continue;
            };
            let file = Node { changeset: Some(self.number), ..file.clone() };
            if let Some(link) = root.walk_mut(components(&records.path(record))) {
                *link = file;
            }
        }
    }
}

/// The children of a directory at a joined path; the root's for the empty one.
fn directory_at<'a>(root: &'a mut Directory, path: &[u8]) -> Option<&'a mut Directory> {
    if path.is_empty() { Some(root) } else { root.walk_mut(components(path))?.children_mut() }
}
