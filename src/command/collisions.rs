//! Which extensions get in each other's way, or in the base's.
//!
//! In: layers in mount order, what each may override, and the base. Out: every
//! path that has two meanings. The same file with the same content in two
//! places is no collision, nor is a directory that several have. Invariant: a
//! directory over a symlink of the base, which would hide all that the
//! symlink leads to, is a collision whatever may be overridden.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::unpack::limits_of_a_layer;
use crate::layer::rules::Permission;
use crate::layer::squashfs::FileId;
use crate::layer::squashfs::reader::{ReadError, Reader, Tree};
use crate::layer::tree::{Content, Directory, Node};
use crate::oci::{Digest, HashingWriter};
use crate::store::{Layer, LayerError};
use crate::sys::directory;
use crate::text::Escaped;

/// Collisions that a message lists.
const LISTED: usize = 20;

/// A layer, and what it may replace.
pub struct Claim<'a> {
    pub number: u16,
    /// The extension's image as the configuration names it.
    pub source: &'a str,
    pub layer: &'a Layer,
    pub overrides: &'a [PathBuf],
}

/// One path with two meanings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    pub path: Vec<u8>,
    /// The layer whose file it would be.
    pub number: u16,
    upper: String,
    /// The extension that has it too; none for the base.
    lower: Option<String>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Content,
    Type,
    OverSymlink,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, upper) = (Escaped::new(&self.path), Escaped::new(&self.upper));
        let lower = match &self.lower {
            Some(lower) => Escaped::new(lower).to_string(),
            None => "the base".into(),
        };
        match self.kind {
            Kind::Content => write!(f, "/{path}: {upper} and {lower} have different content"),
            Kind::Type => write!(f, "/{path}: {upper} and {lower} have different types of file"),
            Kind::OverSymlink => {
                write!(
                    f,
                    "/{path}: a directory of {upper} would hide a symlink of the base and all it leads to"
                )
            }
        }
    }
}

/// All that was found.
#[derive(Debug)]
pub struct Collisions(pub Vec<Collision>);

impl fmt::Display for Collisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for collision in self.0.iter().take(LISTED) {
            write!(f, "\n  {collision}")?;
        }
        let more = self.0.len().saturating_sub(LISTED);
        if more > 0 {
            write!(f, "\n  and {more} more")?;
        }
        match self.0.iter().any(|collision| collision.kind != Kind::OverSymlink) {
            true => write!(f, "\n  (`overrides` of the extension named first may allow it)"),
            false => Ok(()),
        }
    }
}

/// Why it cannot be said whether there are collisions.
#[derive(Debug, thiserror::Error)]
pub enum CollisionError {
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("cannot read back layer {number:03}")]
    Read { number: u16, source: ReadError },
    #[error("cannot read the content of /{} in layer {number:03}", Escaped::new(.path))]
    Content { number: u16, path: Vec<u8>, source: io::Error },
    #[error("cannot look at /{} of the base", Escaped::new(.path))]
    Base { path: Vec<u8>, source: io::Error },
}

/// Finds all collisions of `claims`, which are in mount order, over `base`.
pub fn find(claims: &[Claim<'_>], base: &Path) -> Result<Vec<Collision>, CollisionError> {
    let mut trees = Vec::new();
    let mut readers = Vec::new();
    for claim in claims {
        let (reader, tree) = open(claim)?;
        readers.push(reader);
        trees.push(tree);
    }
    let root =
        directory::open(base).map_err(|error| CollisionError::Base { path: vec![], source: error.into() })?;
    let mut search = Search { claims, trees: &trees, readers, found: Vec::new() };
    let empty = Directory::new();
    for upper in 0..claims.len() {
        let at = |index: usize| trees.get(index).and_then(|tree| tree.root.children());
        let lower = (0..upper).filter_map(|index| Some((index, at(index)?))).collect();
        let place = Place { path: Vec::new(), lower, base: Some(&root) };
        search.compare(upper, at(upper).unwrap_or(&empty), &place)?;
    }
    Ok(search.found)
}

fn open(claim: &Claim<'_>) -> Result<(Reader<File>, Tree), CollisionError> {
    let record = claim.layer.record();
    let failed = |source| CollisionError::Read { number: claim.number, source };
    let mut reader =
        Reader::open(claim.layer.open()?, 0..record.size, limits_of_a_layer()).map_err(failed)?;
    // Hard links are files with several names here.
    let tree = reader.tree(Permission::Allow).map_err(failed)?;
    Ok((reader, tree))
}

/// Whether this is an index of kernel modules. Extensions bring copies of
/// their own, which count for nothing once the merged ones lie above them.
fn is_module_index(path: &[u8]) -> bool {
    let rest = path.strip_prefix(b"usr/lib/modules/").unwrap_or_default();
    let mut names = rest.split(|&byte| byte == b'/').skip(1);
    matches!((names.next(), names.next()), (Some(name), None) if name.starts_with(b"modules."))
}

struct Search<'a> {
    claims: &'a [Claim<'a>],
    trees: &'a [Tree],
    readers: Vec<Reader<File>>,
    found: Vec<Collision>,
}

/// Something in an open directory of the base.
type OnBase<'a> = (&'a OwnedFd, &'a Stat);

/// One directory, as all have it that are below a layer.
struct Place<'a> {
    path: Vec<u8>,
    /// Layers that have it, by index, lowest first.
    lower: Vec<(usize, &'a Directory)>,
    base: Option<&'a OwnedFd>,
}

impl Search<'_> {
    fn compare(&mut self, upper: usize, children: &Directory, at: &Place<'_>) -> Result<(), CollisionError> {
        for (name, node) in children.iter() {
            let path = match at.path.is_empty() {
                true => name.to_vec(),
                false => [&at.path, &b"/"[..], name].concat(),
            };
            let lower: Vec<_> = at
                .lower
                .iter()
                .filter_map(|(index, directory)| Some((*index, directory.get(name)?)))
                .collect();
            let status = at.base.map(|base| status(base, name, &path)).transpose()?.flatten();
            match &node.content {
                Content::Directory(below) => {
                    self.directory(upper, &path, &lower, status.as_ref());
                    let base = match (at.base, &status) {
                        (Some(base), Some(status)) if is(status, FileType::Directory) => {
                            Some(subdirectory(base, name, &path)?)
                        }
                        _ => None,
                    };
                    let lower =
                        lower.iter().filter_map(|(index, node)| Some((*index, node.children()?))).collect();
                    self.compare(upper, below, &Place { path, lower, base: base.as_ref() })?;
                }
                _ => self.file(upper, node, &path, (&lower, at.base.zip(status.as_ref())))?,
            }
        }
        Ok(())
    }

    /// A directory over whatever is there.
    fn directory(&mut self, upper: usize, path: &[u8], lower: &[(usize, &Node)], base: Option<&Stat>) {
        let is_directory = |node: &Node| matches!(node.content, Content::Directory(_));
        match (base, lower.last()) {
            (Some(status), _) if is(status, FileType::Symlink) => {
                self.found(upper, None, path, Kind::OverSymlink);
            }
            (_, Some((index, node))) if !is_directory(node) => {
                self.found(upper, Some(*index), path, Kind::Type);
            }
            (Some(status), None) if !is(status, FileType::Directory) => {
                self.found(upper, None, path, Kind::Type);
            }
            _ => {}
        }
    }

    /// Anything else over what the highest of the others has there.
    fn file(
        &mut self,
        upper: usize,
        node: &Node,
        path: &[u8],
        (lower, base): (&[(usize, &Node)], Option<OnBase<'_>>),
    ) -> Result<(), CollisionError> {
        if is_module_index(path) {
            return Ok(());
        }
        if let Some((index, other)) = lower.last() {
            if let Some(kind) = self.difference((upper, node), (*index, other), path)? {
                self.found(upper, Some(*index), path, kind);
            }
        } else if let Some((directory, status)) = base
            && let Some(kind) = self.difference_to_base((upper, node), (directory, status), path)?
        {
            self.found(upper, None, path, kind);
        }
        Ok(())
    }

    fn difference(
        &mut self,
        (upper, node): (usize, &Node),
        (lower, other): (usize, &Node),
        path: &[u8],
    ) -> Result<Option<Kind>, CollisionError> {
        Ok(match (&node.content, &other.content) {
            (Content::Symlink(target), Content::Symlink(theirs)) => {
                (target != theirs).then_some(Kind::Content)
            }
            (Content::File(id), Content::File(theirs)) => {
                let (ours, theirs) = (self.digest(upper, *id, path)?, self.digest(lower, *theirs, path)?);
                (ours != theirs).then_some(Kind::Content)
            }
            _ => Some(Kind::Type),
        })
    }

    fn difference_to_base(
        &mut self,
        (upper, node): (usize, &Node),
        (directory, status): OnBase<'_>,
        path: &[u8],
    ) -> Result<Option<Kind>, CollisionError> {
        let failed = |source: Errno| CollisionError::Base { path: path.into(), source: source.into() };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        Ok(match &node.content {
            Content::Symlink(target) if is(status, FileType::Symlink) => {
                let theirs = readlinkat(directory, name, Vec::new()).map_err(failed)?;
                (theirs.as_bytes() != &**target).then_some(Kind::Content)
            }
            Content::File(id) if is(status, FileType::RegularFile) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = File::from(openat(directory, name, flags, Mode::empty()).map_err(failed)?);
                let ours = self.digest(upper, *id, path)?;
                // A file of the base may be of any length; one byte more tells.
                let theirs = hash(file.take(ours.1.saturating_add(1)))
                    .map_err(|source| CollisionError::Base { path: path.into(), source })?;
                (ours != theirs).then_some(Kind::Content)
            }
            _ => Some(Kind::Type),
        })
    }

    /// The digest of a file in a layer, and its length.
    fn digest(&mut self, index: usize, id: FileId, path: &[u8]) -> Result<(Digest, u64), CollisionError> {
        let number = self.claims.get(index).map_or(0, |claim| claim.number);
        let failed = |source| CollisionError::Content { number, path: path.into(), source };
        let (Some(reader), Some(tree)) = (self.readers.get_mut(index), self.trees.get(index)) else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        let content = reader.content(tree, id).map_err(|source| CollisionError::Read { number, source })?;
        hash(content.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?).map_err(failed)
    }

    fn found(&mut self, upper: usize, lower: Option<usize>, path: &[u8], kind: Kind) {
        let Some(claim) = self.claims.get(upper) else { return };
        let absolute = Path::new("/").join(Path::new(&*String::from_utf8_lossy(path)));
        let may_be = claim.overrides.iter().any(|allowed| absolute.starts_with(allowed));
        if may_be && kind != Kind::OverSymlink {
            return;
        }
        self.found.push(Collision {
            path: path.into(),
            number: claim.number,
            upper: claim.source.into(),
            lower: lower.and_then(|index| self.claims.get(index)).map(|claim| claim.source.into()),
            kind,
        });
    }
}

/// The digest and the length of all of `content`.
fn hash(mut content: impl Read) -> io::Result<(Digest, u64)> {
    let mut hashed = HashingWriter::new(io::sink());
    io::copy(&mut content, &mut hashed)?;
    let (_, digest, length) = hashed.finish();
    Ok((digest, length))
}

fn is(status: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(status.st_mode) == kind
}

/// What the base has under a name, symlinks not followed.
fn status(base: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<Stat>, CollisionError> {
    match statat(base, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(CollisionError::Base { path: path.into(), source: errno.into() }),
    }
}

fn subdirectory(base: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, CollisionError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(base, name, flags, Mode::empty())
        .map_err(|errno| CollisionError::Base { path: path.into(), source: errno.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_of_modules_are_told_by_their_place() {
        for (path, expected) in [
            ("usr/lib/modules/6.1/modules.dep", true),
            ("usr/lib/modules/6.1/modules.builtin.modinfo", true),
            ("usr/lib/modules/6.1/kernel/modules.ko", false),
            ("usr/lib/modules/modules.dep", false),
            ("usr/local/modules.dep", false),
        ] {
            assert_eq!(is_module_index(path.as_bytes()), expected, "{path}");
        }
    }
}
