//! Where in a root a layer has files.
//!
//! In: a checked tree. Out: what the mounting of a layer depends on besides
//! its bytes: the directories it adds to, and the kernel its modules are for.

use std::collections::BTreeSet;

use super::tree::{Content, Directory};
use crate::text::Escaped;

/// Hierarchies that belong to the system's vendor as wholes; it does not
/// matter where inside them files are.
const WHOLE: [&[u8]; 2] = [b"usr", b"opt"];

/// The directories that `rootfs` has anything but directories in, as absolute
/// paths; none is inside another.
pub fn used(rootfs: &Directory) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (name, node) in rootfs {
        match &node.content {
            Content::Directory(_) if WHOLE.contains(&&**name) => {
                found.insert(format!("/{}", Escaped::new(name)));
            }
            Content::Directory(children) => {
                collect(&format!("/{}", Escaped::new(name)), children, &mut found);
            }
            _ => {
                found.insert("/".into());
            }
        }
    }
    found.into_iter().collect()
}

fn collect(path: &str, directory: &Directory, found: &mut BTreeSet<String>) {
    let is_directory = |content: &Content| matches!(content, Content::Directory(_));
    if directory.is_empty() || directory.into_iter().any(|(_, node)| !is_directory(&node.content)) {
        found.insert(path.into());
        return;
    }
    for (name, node) in directory {
        if let Content::Directory(children) = &node.content {
            collect(&format!("{path}/{}", Escaped::new(name)), children, found);
        }
    }
}

/// The name of the directory below `/usr/lib/modules`; the rules allow one.
pub fn kernel_release(rootfs: &Directory) -> Option<String> {
    let mut directory = rootfs;
    for name in [&b"usr"[..], b"lib", b"modules"] {
        directory = match &directory.get(name)?.content {
            Content::Directory(children) => children,
            _ => return None,
        };
    }
    let (name, _) = directory.into_iter().next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tree::{Attributes, Node};

    fn node(content: Content) -> Node {
        Node { attributes: Attributes::IMPLIED_DIRECTORY, changeset: None, xattrs: None, content }
    }

    /// A tree with a symlink at each path, or a directory where a path ends
    /// with a slash.
    fn tree(paths: &[&str]) -> Directory {
        let mut root = Directory::new();
        for path in paths {
            let mut directory = &mut root;
            let mut names: Vec<_> = path.split('/').collect();
            let last = names.pop().unwrap();
            for name in names {
                let name = name.as_bytes();
                if directory.get(name).is_none() {
                    directory.insert(name, node(Content::Directory(Directory::new())));
                }
                let Content::Directory(children) = &mut directory.get_mut(name).unwrap().content else {
                    panic!("{path}")
                };
                directory = children;
            }
            if !last.is_empty() {
                directory.insert(last.as_bytes(), node(Content::Symlink(b"x"[..].into())));
            }
        }
        root
    }

    #[test]
    fn places_are_the_directories_that_hold_files() {
        for (paths, places) in [
            (&["usr/local/bin/a", "usr/lib/b"][..], &["/usr"][..]),
            (&["etc/cri/conf.d/a.part", "usr/bin/x"], &["/etc/cri/conf.d", "/usr"]),
            (&["etc/ld.so.conf", "etc/cri/conf.d/a"], &["/etc"]),
            (&["opt/"], &["/opt"]),
            (&["etc/vulkan/"], &["/etc/vulkan"]),
            (&[], &[]),
        ] {
            assert_eq!(used(&tree(paths)), places, "{paths:?}");
        }
    }

    #[test]
    fn modules_name_their_kernel() {
        assert_eq!(kernel_release(&tree(&["usr/lib/modules/6.1.0/a.ko"])).as_deref(), Some("6.1.0"));
        assert_eq!(kernel_release(&tree(&["usr/lib/firmware/a"])), None);
    }
}
