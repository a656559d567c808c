//! Older images, made for a root where `/lib` was not a part of `/usr`.
//!
//! In: the children of `rootfs`. Out: the same, its `lib` in `usr/lib` and so
//! on. Invariant: no real directory is left where a merged-usr base has a
//! symlink, since it would hide all that is behind that symlink.

use super::violation::{Rule, Violations};
use crate::layer::tar::path::{components, join};
use crate::layer::tree::{Attributes, Content, Directory, Node};

/// Where Talos' base has them; what is allowed there, the rules say.
const MOVED: [(&str, &str); 4] =
    [("lib", "usr/lib"), ("lib64", "usr/lib"), ("bin", "usr/bin"), ("sbin", "usr/bin")];

pub(super) fn relocate(rootfs: &mut Directory, found: &mut Violations) {
    for (from, to) in MOVED {
        // A symlink or a file is left for the rules to refuse.
        let Some(old) = rootfs.get_mut(from.as_bytes()) else { continue };
        let changeset = old.changeset;
        let Some(children) = old.children_mut().map(std::mem::take) else { continue };
        // Where a parent is no directory, the walk finds that, and all below.
        match make_directory(rootfs, to, changeset) {
            Some(target) => {
                merge(target, children, (to.as_bytes(), from.as_bytes()), found);
                rootfs.remove(from.as_bytes());
            }
            None => {
                if let Some(old) = rootfs.get_mut(from.as_bytes()).and_then(Node::children_mut) {
                    *old = children;
                }
            }
        }
    }
}

/// The children of a directory, made first if it is missing. `None` if it,
/// or a parent, is something else.
fn make_directory<'a>(
    root: &'a mut Directory,
    path: &str,
    changeset: Option<u16>,
) -> Option<&'a mut Directory> {
    components(path.as_bytes()).try_fold(root, |directory, name| {
        if directory.get(name).is_none() {
            let content = Content::Directory(Directory::new());
            let attributes = Attributes::IMPLIED_DIRECTORY;
            directory.insert(name, Node { attributes, changeset, xattrs: None, content });
        }
        directory.get_mut(name)?.children_mut()
    })
}

/// Adds `old` to `target`. Directories are merged, those of `target` keep
/// their attributes. `(new, old)` are the paths of the two.
fn merge(target: &mut Directory, old: Directory, paths: (&[u8], &[u8]), found: &mut Violations) {
    target.absorb(old, |name, held, other| {
        let (new, old) = (join(paths.0, name), join(paths.1, name));
        match (&mut held.content, &mut other.content) {
            (Content::Directory(target), Content::Directory(children)) => {
                merge(target, std::mem::take(children), (&new, &old), found);
            }
            (held, other) if held == other => {}
            _ => found.add(&join(b"rootfs", &new), Rule::Conflict { other: old }, other.changeset),
        }
    });
}
