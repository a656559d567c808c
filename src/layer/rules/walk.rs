//! The rules about single inodes, and their normal form.
//!
//! In: `rootfs`. Out: violations, and the tree with the owners, modes and
//! xattrs that a layer gives to its base. Invariant: every inode is looked
//! at, also below a directory that should not be there.

use std::collections::BTreeMap;

use super::allow::{Place, Shape};
use super::violation::{Rule, Violations};
use super::{Permission, Rules};
use crate::layer::changeset::ElfMachine;
use crate::layer::squashfs::FileId;
use crate::layer::tar::path::join;
use crate::layer::tree::{Attributes, Content, Node};

const SET_ID: u16 = 0o6000;
const WORLD_WRITABLE: u16 = 0o002;

pub(super) struct Walk<'a> {
    pub(super) rules: &'a Rules,
    /// The host's.
    pub(super) machine: Option<ElfMachine>,
    pub(super) modules: &'a BTreeMap<FileId, ElfMachine>,
    pub(super) found: &'a mut Violations,
}

impl Walk<'_> {
    pub(super) fn rootfs(&mut self, rootfs: &mut Node) {
        self.visit(b"", Some(Place::Parent), rootfs);
    }

    /// `path` is below `rootfs`. There is no place below what is outside:
    /// one violation says it.
    fn visit(&mut self, path: &[u8], place: Option<Place>, node: &mut Node) {
        let mut broken = Vec::new();
        broken.extend(place.and_then(|place| check_place(place, &node.content)));
        broken.extend(check_name(path));
        broken.extend(check_kind(&node.content, self.rules.hard_links));
        broken.extend(check_mode(node, self.rules.set_id));
        broken.extend(check_xattrs(node, self.rules));
        broken.extend(self.check_machine(&node.content));
        for rule in broken {
            self.found.add(&join(b"rootfs", path), rule, node.changeset);
        }
        normalise(node, place);
        let Some(children) = node.children_mut() else { return };
        for (name, child) in children.iter_mut() {
            let path = join(path, name);
            let place = match place {
                Some(Place::Parent) => Some(self.rules.allowed.place(&path)),
                Some(Place::Allowed(_) | Place::Inside) => Some(Place::Inside),
                Some(Place::Outside) | None => None,
            };
            self.visit(&path, place, child);
        }
    }

    fn check_machine(&self, content: &Content) -> Option<Rule> {
        let Content::File(id) = content else { return None };
        let (expected, found) = (self.machine?, *self.modules.get(id)?);
        (found != expected).then_some(Rule::ModuleMachine { expected, found })
    }
}

/// What is put over a directory of the base must be one, and what is put
/// over a file must be none.
fn check_place(place: Place, content: &Content) -> Option<Rule> {
    match (place, content) {
        (Place::Outside, _) => Some(Rule::Outside),
        (Place::Inside, _) => None,
        (Place::Parent | Place::Allowed(Shape::Shared | Shape::Any), Content::Directory(_)) => None,
        (Place::Parent | Place::Allowed(Shape::Shared), _) => Some(Rule::NotDirectory),
        (Place::Allowed(Shape::File), Content::Directory(_)) => Some(Rule::NotFile),
        (Place::Allowed(Shape::Any), Content::Symlink(_)) => Some(Rule::NotEither),
        (Place::Allowed(Shape::File | Shape::Any), _) => None,
    }
}

/// overlayfs does not read such names, but the next tool to make an image of
/// the merged tree would.
fn check_name(path: &[u8]) -> Option<Rule> {
    let name = path.rsplit(|&byte| byte == b'/').next()?;
    name.starts_with(b".wh.").then_some(Rule::WhiteoutName)
}

fn check_kind(content: &Content, hard_links: Permission) -> Option<Rule> {
    match content {
        Content::HardLink(target) => {
            let target = target.to_vec();
            Some(match hard_links {
                Permission::Refuse => Rule::HardLink { target },
                Permission::Allow => Rule::DanglingHardLink { target },
            })
        }
        // A character device 0:0 would be a whiteout to overlayfs.
        Content::Device | Content::Fifo => Some(Rule::SpecialFile),
        Content::Directory(_) | Content::File(_) | Content::Symlink(_) => None,
    }
}

/// The mode of a symlink means nothing.
fn check_mode(node: &Node, set_id: Permission) -> impl Iterator<Item = Rule> + use<> {
    let mode = match node.content {
        Content::Symlink(_) => 0,
        _ => node.attributes.mode,
    };
    let is_refused = mode & SET_ID != 0 && set_id == Permission::Refuse;
    let world_writable = (mode & WORLD_WRITABLE != 0).then_some(Rule::WorldWritable { mode });
    world_writable.into_iter().chain(is_refused.then_some(Rule::SetId { mode }))
}

fn check_xattrs(node: &Node, rules: &Rules) -> impl Iterator<Item = Rule> {
    let names = node.xattrs.iter().flat_map(|xattrs| xattrs.keys());
    names.filter(|name| !rules.xattrs.contains(*name)).map(|name| Rule::Xattr { name: name.clone() })
}

fn normalise(node: &mut Node, place: Option<Place>) {
    (node.attributes.uid, node.attributes.gid) = (0, 0);
    if matches!(place, Some(Place::Parent | Place::Allowed(Shape::Shared))) {
        node.attributes = Attributes::IMPLIED_DIRECTORY;
        node.xattrs = None;
    }
}
