//! The whole tree, depth first.
//!
//! In: the root's inode. Out: the tree, its files numbered in the order in
//! which they are come by. Invariants: a directory has one name, so there is
//! no loop and none is read twice; an inode number stands for one inode; the
//! stack is a list, and paths are bounded as those of changesets are.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::vec::IntoIter;

use super::error::ReadError;
use super::inode::{Inode, Kind};
use super::listing::Entry;
use super::metadata::Place;
use super::{Reader, Stored, Tree};
use crate::layer::rules::Permission;
use crate::layer::squashfs::FileId;
use crate::layer::tar::EntryPath;
use crate::layer::tar::path::join;
use crate::layer::tree::{Content, Directory, Node};
use crate::limits::{Bound, Budget};

/// A directory whose children are being read.
struct Frame {
    path: Vec<u8>,
    name: Box<[u8]>,
    /// The directory, still empty.
    node: Node,
    entries: IntoIter<Entry>,
    children: Vec<(Box<[u8]>, Node)>,
}

/// The first name of an inode that has several.
struct First {
    path: Vec<u8>,
    place: Place,
    content: Content,
}

pub(super) struct Walk<'r, F> {
    reader: &'r mut Reader<F>,
    hard_links: Permission,
    budget: Budget,
    /// By number less one: whether an inode was come by.
    seen: Vec<bool>,
    several: HashMap<u32, First>,
    files: Vec<Stored>,
}

impl<'r, F: FileExt> Walk<'r, F> {
    pub(super) fn new(reader: &'r mut Reader<F>, hard_links: Permission) -> Self {
        let budget = Budget::new(reader.limits);
        let seen = vec![false; reader.layout.inodes as usize];
        Self { reader, hard_links, budget, seen, several: HashMap::new(), files: Vec::new() }
    }

    pub(super) fn run(mut self) -> Result<Tree, ReadError> {
        let place = Place::new(self.reader.layout.inode_table, self.reader.layout.root)?;
        let root = self.reader.inode(place)?;
        self.see(&root)?;
        let mut stack = vec![self.enter(b"", Box::default(), root)?];
        loop {
            let Some(frame) = stack.last_mut() else {
                return Err(ReadError::Superblock("has no root directory"));
            };
            if let Some(entry) = frame.entries.next() {
                let path = join(&frame.path, &entry.name);
                match self.visit(&path, &entry).map_err(ReadError::at(&path))? {
                    Visited::Node(node) => frame.children.push((entry.name, node)),
                    Visited::Directory(inode) => {
                        let below = self.enter(&path, entry.name, inode).map_err(ReadError::at(&path))?;
                        stack.push(below);
                    }
                }
                continue;
            }
            let Some(done) = stack.pop() else { continue };
            let node = Node { content: Content::Directory(Directory::from_iter(done.children)), ..done.node };
            match stack.last_mut() {
                Some(parent) => parent.children.push((done.name, node)),
                None => return Ok(Tree { root: node, files: self.files }),
            }
        }
    }

    /// Starts on a directory.
    fn enter(&mut self, path: &[u8], name: Box<[u8]>, inode: Inode) -> Result<Frame, ReadError> {
        let Kind::Directory { listing, length } = inode.kind else {
            let (number, problem) = (inode.number, "is the root and no directory");
            return Err(ReadError::Inode { number, problem });
        };
        let node = self.node(&inode, Content::Directory(Directory::new()))?;
        let entries = self.reader.listing(listing, length, &mut self.budget)?.into_iter();
        Ok(Frame { path: path.into(), name, node, entries, children: Vec::new() })
    }

    fn visit(&mut self, path: &[u8], entry: &Entry) -> Result<Visited, ReadError> {
        EntryPath::within(path, &self.reader.limits).map_err(ReadError::Name)?;
        let inode = self.reader.inode(entry.inode)?;
        let number = inode.number;
        if (inode.number, inode.basic) != (entry.number, entry.basic) {
            return Err(ReadError::Inode { number, problem: "is not what its directory says" });
        }
        if let Some(first) = self.several.get(&number).filter(|first| first.place == entry.inode) {
            let content = match (self.hard_links, &first.content) {
                (Permission::Refuse, _) => Content::HardLink(first.path.as_slice().into()),
                (Permission::Allow, content) => content.clone(),
            };
            self.budget.spend(Bound::Names, first.path.len() as u64)?;
            return self.node(&inode, content).map(Visited::Node);
        }
        self.see(&inode)?;
        if matches!(inode.kind, Kind::Directory { .. }) {
            return Ok(Visited::Directory(inode));
        }
        let content = self.content(&inode, entry.inode)?;
        if inode.links > 1 {
            self.budget.spend(Bound::Names, path.len() as u64)?;
            self.several
                .insert(number, First { path: path.into(), place: entry.inode, content: content.clone() });
        }
        self.node(&inode, content).map(Visited::Node)
    }

    /// Fails if another name, or another inode, had this number.
    fn see(&mut self, inode: &Inode) -> Result<(), ReadError> {
        let number = inode.number;
        let index = number.saturating_sub(1) as usize;
        match self.seen.get_mut(index) {
            Some(seen) if !*seen => {
                *seen = true;
                Ok(())
            }
            _ => Err(ReadError::Inode { number, problem: "has more names than it should" }),
        }
    }

    /// What is no directory.
    fn content(&mut self, inode: &Inode, place: Place) -> Result<Content, ReadError> {
        Ok(match &inode.kind {
            Kind::File(file) => {
                self.budget.spend(Bound::ImageBytes, file.size)?;
                let id = FileId::new(self.files.len() as u32);
                self.files.push(Stored { place, size: file.size });
                Content::File(id)
            }
            Kind::Symlink(target) => {
                self.budget.spend(Bound::Names, target.len() as u64)?;
                Content::Symlink(target.as_slice().into())
            }
            Kind::Device => Content::Device,
            Kind::Fifo | Kind::Directory { .. } => Content::Fifo,
        })
    }

    fn node(&mut self, inode: &Inode, content: Content) -> Result<Node, ReadError> {
        let xattrs = match inode.xattr {
            Some(index) => Some(Box::new(self.reader.xattrs(index, &mut self.budget)?)),
            None => None,
        };
        Ok(Node { attributes: inode.attributes, changeset: None, xattrs, content })
    }
}

/// What a name stands for.
enum Visited {
    Node(Node),
    Directory(Inode),
}
