//! `plywood unpack`: what would be in a layer, as files.
//!
//! In: a layer and an empty directory. Out: the same tree below the
//! directory. Invariants: every name is made relative to a descriptor of its
//! directory and must not be there yet, so no symlink is followed and nothing
//! outside is touched, whatever the tree holds; owners and xattrs are kept
//! only by root, modes and times always.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, futimens, mkdirat, openat, openat2, symlinkat, utimensat,
};

use crate::layer::rules::Permission;
use crate::layer::squashfs::reader::{ReadError, Reader, Tree};
use crate::layer::tree::{Attributes, Content, Node};
use crate::limits::{Bound, Limits};
use crate::store::Layer;
use crate::text::Escaped;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("cannot read back the layer")]
    Read(#[from] ReadError),
    #[error("cannot write `{}`", Escaped::new(.path))]
    Write { path: Vec<u8>, source: io::Error },
}

/// Writes the tree of `layer`, opened as `squashfs`, into `directory`, which
/// is there and empty.
pub fn unpack(layer: &Layer, squashfs: File, directory: &Path) -> Result<(), UnpackError> {
    let failed = |source: io::Error| UnpackError::Write { path: b".".to_vec(), source };
    // Its size was checked, and so was what made it.
    let size = layer.record().size;
    let mut reader = Reader::open(squashfs, 0..size, limits_of_a_layer())?;
    let tree = reader.tree(Permission::Refuse)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, directory, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let owners = if rustix::process::geteuid().is_root() { Owners::Kept } else { Owners::LeftOut };
    Unpack { reader, tree: &tree, owners }.fill(top.as_fd(), b"", &tree.root)?;
    finish(top.as_fd(), &tree.root, owners).map_err(failed)
}

/// As much as any layer may hold: what made it has kept its own limits.
pub fn limits_of_a_layer() -> Limits {
    [Bound::Entries, Bound::Names, Bound::ImageBytes, Bound::Depth]
        .into_iter()
        .fold(Limits::default(), |limits, bound| limits.with(bound, bound.most()))
}

struct Unpack<'t> {
    reader: Reader<File>,
    tree: &'t Tree,
    owners: Owners,
}

/// What becomes of owners and xattrs, which only root can give.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owners {
    Kept,
    LeftOut,
}

impl Unpack<'_> {
    /// Writes the children of `node`, whose directory is open. Recursion is
    /// as deep as paths are, which the reader has bounded.
    fn fill(&mut self, directory: BorrowedFd<'_>, path: &[u8], node: &Node) -> Result<(), UnpackError> {
        for (name, child) in node.children().into_iter().flatten() {
            let path = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            let failed = |source: io::Error| UnpackError::Write { path: path.clone(), source };
            match &child.content {
                Content::Directory(_) => {
                    let made = make_directory(directory, name).map_err(failed)?;
                    self.fill(made.as_fd(), &path, child)?;
                    finish(made.as_fd(), child, self.owners).map_err(failed)?;
                }
                Content::Symlink(target) => {
                    symlinkat(&**target, directory, &**name).map_err(|error| failed(error.into()))?;
                    finish_symlink(directory, name, child.attributes, self.owners).map_err(failed)?;
                }
                Content::File(id) => {
                    let content = self.reader.content(self.tree, *id)?;
                    let mut content = content.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
                    let mut file = make_file(directory, name).map_err(failed)?;
                    io::copy(&mut content, &mut file).map_err(failed)?;
                    finish(file.as_fd(), child, self.owners).map_err(failed)?;
                }
                Content::HardLink(_) | Content::Device | Content::Fifo => {
                    return Err(failed(io::Error::other("a layer has no such inode")));
                }
            }
        }
        Ok(())
    }
}

/// Nothing of a name may be resolved but the name itself.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

fn make_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    mkdirat(parent, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat2(parent, name, flags, Mode::empty(), RESOLVE)?)
}

fn make_file(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat2(parent, name, flags, Mode::RUSR | Mode::WUSR, RESOLVE)?.into())
}

fn finish_symlink(
    parent: BorrowedFd<'_>,
    name: &[u8],
    attributes: Attributes,
    owners: Owners,
) -> io::Result<()> {
    if owners == Owners::Kept {
        let (uid, gid) = owner(attributes);
        chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(utimensat(parent, name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner, xattrs, mode and time, in this order: a change of the owner clears
/// set-ID bits and file capabilities.
fn finish(made: BorrowedFd<'_>, node: &Node, owners: Owners) -> io::Result<()> {
    if owners == Owners::Kept {
        let (uid, gid) = owner(node.attributes);
        fchown(made, uid, gid)?;
        for (name, value) in node.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
            fsetxattr(made, name.as_slice(), value, XattrFlags::CREATE)?;
        }
    }
    fchmod(made, Mode::from_raw_mode(node.attributes.mode.into()))?;
    Ok(futimens(made, &times(node.attributes))?)
}

fn owner(attributes: Attributes) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}

fn times(attributes: Attributes) -> Timestamps {
    let time = Timespec { tv_sec: attributes.mtime.into(), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
