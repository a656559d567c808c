//! The tree of files that an image's changesets add up to, in memory.
//!
//! Names are bytes. File contents are not here: a [`Content::File`] names data
//! that the squashfs writer already holds. The tree never touches a file
//! system. Invariant: a [`Directory`] is sorted by name and names are unique.

use std::collections::BTreeMap;

use super::squashfs::FileId;

/// What an inode carries besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, set-ID and sticky bits: at most 0o7777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
}

impl Attributes {
    /// A directory that no changeset described.
    pub const IMPLIED_DIRECTORY: Self = Self { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
}

/// Extended attributes, name to value.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// One name's inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub attributes: Attributes,
    /// The changeset it came from, 0 for the lowest. A squashfs has none.
    pub changeset: Option<u16>,
    /// `None` is the common case and costs a pointer.
    pub xattrs: Option<Box<Xattrs>>,
    pub content: Content,
}

/// The kinds of inode. The last three are read so that they can be reported;
/// the rules refuse them, and the squashfs writer does not take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Directory(Directory),
    File(FileId),
    Symlink(Box<[u8]>),
    HardLink(Box<[u8]>),
    /// Character or block device.
    Device,
    Fifo,
}

/// Children by name. Byte order is also squashfs' order.
///
/// Sorted in one piece of memory of the right size, because images may have
/// very many very small directories, and the nodes of a map are not small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory(Vec<(Box<[u8]>, Node)>);

impl Directory {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut Node> {
        self.find(name).ok().map(|at| &mut self.0[at].1)
    }

    /// Puts `node` in place of what has the name so far, which is returned.
    /// Cheap in order of names only: what comes behind is moved.
    pub fn insert(&mut self, name: impl Into<Box<[u8]>>, node: Node) -> Option<Node> {
        let name = name.into();
        match self.find(&name) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, node)),
            Err(at) => {
                self.0.insert(at, (name, node));
                None
            }
        }
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Node> {
        self.find(name).ok().map(|at| self.0.remove(at).1)
    }

    /// Removes the children that `keep` says no to.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &Node) -> bool) {
        self.0.retain(|(name, node)| keep(name, node));
    }

    /// Adds the children of another directory. Of two that have one name,
    /// `both` is given the name, the one held and the other, which is dropped.
    pub fn absorb(&mut self, mut other: Self, mut both: impl FnMut(&[u8], &mut Node, &mut Node)) {
        if self.is_empty() {
            std::mem::swap(self, &mut other);
        }
        self.0.append(&mut other.0);
        self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.0.dedup_by(|(name, later), (held_name, held)| {
            let repeated = name == held_name;
            if repeated {
                both(name, held, later);
            }
            repeated
        });
        self.0.shrink_to_fit();
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Box<[u8]>, &Node)> + ExactSizeIterator {
        self.0.iter().map(|(name, node)| (name, node))
    }

    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&[u8], &mut Node)> + ExactSizeIterator {
        self.0.iter_mut().map(|(name, node)| (&**name, node))
    }

    /// The inode at a path of components.
    pub fn walk<'a>(&self, components: impl IntoIterator<Item = &'a [u8]>) -> Option<&Node> {
        let mut components = components.into_iter();
        let mut node = self.get(components.next()?)?;
        for name in components {
            node = node.children()?.get(name)?;
        }
        Some(node)
    }

    /// As [`walk`](Self::walk), to change the inode.
    pub fn walk_mut<'a>(&mut self, components: impl IntoIterator<Item = &'a [u8]>) -> Option<&mut Node> {
        let mut components = components.into_iter();
        let mut node = self.get_mut(components.next()?)?;
        for name in components {
            node = node.children_mut()?.get_mut(name)?;
        }
        Some(node)
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if **last < *name => Err(self.0.len()),
            _ => self.0.binary_search_by(|(held, _)| (**held).cmp(name)),
        }
    }
}

impl Node {
    /// The children, if this is a directory.
    pub fn children(&self) -> Option<&Directory> {
        match &self.content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// As [`children`](Self::children), to change them.
    pub fn children_mut(&mut self) -> Option<&mut Directory> {
        match &mut self.content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }
}

/// Of several children with one name the last stays.
impl FromIterator<(Box<[u8]>, Node)> for Directory {
    fn from_iter<I: IntoIterator<Item = (Box<[u8]>, Node)>>(children: I) -> Self {
        let mut directory = Self::new();
        directory.absorb(Self(children.into_iter().collect()), |_, held, later| std::mem::swap(held, later));
        directory
    }
}

impl<const N: usize> From<[(Box<[u8]>, Node); N]> for Directory {
    fn from(children: [(Box<[u8]>, Node); N]) -> Self {
        children.into_iter().collect()
    }
}

impl IntoIterator for Directory {
    type Item = (Box<[u8]>, Node);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Directory {
    type Item = (&'a Box<[u8]>, &'a Node);
    type IntoIter =
        std::iter::Map<std::slice::Iter<'a, (Box<[u8]>, Node)>, fn(&'a (Box<[u8]>, Node)) -> Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(name, node)| (name, node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(mtime: u32) -> Node {
        let attributes = Attributes { mtime, ..Attributes::IMPLIED_DIRECTORY };
        Node { attributes, changeset: None, xattrs: None, content: Content::Fifo }
    }

    fn listing(directory: &Directory) -> Vec<(&[u8], u32)> {
        directory.iter().map(|(name, node)| (&**name, node.attributes.mtime)).collect()
    }

    #[test]
    fn a_directory_is_sorted_and_the_last_of_a_name_stays() {
        let children = [("b", 1), ("a", 2), ("c", 3), ("b", 4), ("b", 5)];
        let expected = [(&b"a"[..], 2), (b"b", 5), (b"c", 3)];
        let collected: Directory =
            children.map(|(name, mtime)| (name.as_bytes().into(), node(mtime))).into_iter().collect();
        assert_eq!(listing(&collected), expected);
        let mut inserted = Directory::new();
        for (name, mtime) in children {
            inserted.insert(name.as_bytes(), node(mtime));
        }
        assert_eq!(listing(&inserted), expected);
        assert_eq!(inserted.remove(b"a"), Some(node(2)));
        assert_eq!(inserted.remove(b"a"), None);
        assert_eq!(inserted.get(b"c"), Some(&node(3)));
    }

    /// 200,000 inodes take 14 MB and their names.
    #[test]
    fn an_inode_stays_small() {
        assert!(size_of::<(Box<[u8]>, Node)>() <= 72);
    }
}
