//! What an extension may contain (system extension images as Talos defines
//! them, with every promise kept).
//!
//! In: the flattened image, `manifest.yaml` and `rootfs/`. Out: the same tree,
//! normalised, or every violation in it. Invariant: a tree that passed adds to
//! a root, but replaces nothing that others own: all is owned by root, and
//! directories that it shares with the base are root:root 0755 whatever its
//! tars said, since the upper directory of an overlay gives the merged one its
//! attributes.
//!
//! Each rule is a variant of [`Rule`] and is looked for in one place.

mod allow;
mod relocate;
mod violation;
mod walk;

use std::collections::BTreeSet;
use std::fmt;

use allow::AllowList;
pub use violation::{Rule, Violation, Violations};

use super::changeset::{ElfMachine, ImageTree};
use super::tar::EntryPath;
use super::tree::{Content, Node};
use crate::text::Escaped;
use relocate::relocate;
use walk::Walk;

/// Whether something dangerous may be in an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Refuse,
    Allow,
}

/// The rules of one machine: the defaults and what its configuration adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    allowed: AllowList,
    xattrs: BTreeSet<Vec<u8>>,
    /// Hard links to regular files; they become further names of them.
    pub hard_links: Permission,
    /// Set-user-ID and set-group-ID bits.
    pub set_id: Permission,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            allowed: AllowList::default(),
            xattrs: BTreeSet::new(),
            hard_links: Permission::Refuse,
            set_id: Permission::Refuse,
        }
    }
}

/// Why something cannot be allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RulesError {
    #[error("`{}` is not an absolute path below the root", Escaped::new(.0))]
    Path(String),
    #[error("the xattr `{}` cannot be in a layer", Escaped::new(.0))]
    Xattr(String),
}

impl Rules {
    /// Allows a directory with all below it, or a file.
    pub fn allow(&mut self, path: &str) -> Result<(), RulesError> {
        let refused = || RulesError::Path(path.into());
        if !path.starts_with('/') {
            return Err(refused());
        }
        let parsed = EntryPath::parse(path.as_bytes()).map_err(|_| refused())?;
        if parsed.is_root() {
            return Err(refused());
        }
        self.allowed.add(parsed);
        Ok(())
    }

    /// These rules, and what makes a sysext one is allowed.
    pub(super) fn for_sysext(&self) -> Self {
        let mut rules = self.clone();
        rules.allowed.add_shared(b"usr/lib/extension-release.d");
        rules
    }

    /// Allows an xattr on any file or directory. Those of overlayfs never
    /// are: they would change what other layers show.
    pub fn allow_xattr(&mut self, name: &str) -> Result<(), RulesError> {
        let storable = ["user.", "trusted.", "security."]
            .iter()
            .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()));
        if !storable || ["trusted.overlay.", "user.overlay."].iter().any(|prefix| name.starts_with(prefix)) {
            return Err(RulesError::Xattr(name.into()));
        }
        self.xattrs.insert(name.into());
        Ok(())
    }
}

/// All that may change a layer's bytes, in a fixed order, for the layer's key.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.allowed)?;
        for name in &self.xattrs {
            writeln!(f, "xattr {}", Escaped::new(name))?;
        }
        writeln!(f, "hard links {:?}", self.hard_links)?;
        writeln!(f, "set-ID {:?}", self.set_id)
    }
}

/// The machine that kernel modules must be made for. What is not known is
/// not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesHost {
    /// As `uname -r` says.
    pub kernel_release: Option<String>,
    pub machine: Option<ElfMachine>,
}

/// Checks an image against every rule, and normalises it: `/lib` and the like
/// become parts of `/usr`, all is owned by root, shared directories get the
/// attributes they should have in the base. Unless all rules hold, the tree
/// is not to be used.
pub fn check(image: &mut ImageTree, rules: &Rules, host: &RulesHost) -> Result<(), Violations> {
    let mut found = Violations::default();
    check_top_level(image, &mut found);
    if let Some(rootfs) = image.root.get_mut(b"rootfs") {
        if let Content::Directory(children) = &mut rootfs.content {
            relocate(children, &mut found);
        }
        check_release(rootfs, host, &mut found);
        Walk { rules, machine: host.machine, modules: &image.modules, found: &mut found }.rootfs(rootfs);
    }
    found.into_result()
}

/// Exactly a regular file `manifest.yaml`, and `rootfs`.
fn check_top_level(image: &ImageTree, found: &mut Violations) {
    for (name, node) in &image.root {
        let rule = match (&**name, &node.content) {
            (b"manifest.yaml", Content::File(_)) => continue,
            (b"manifest.yaml", _) => Rule::NotFile,
            // What it may be, the walk says.
            (b"rootfs", _) => continue,
            _ => Rule::Unexpected,
        };
        found.add(name, rule, node.changeset);
    }
    for name in ["manifest.yaml", "rootfs"] {
        if image.root.get(name.as_bytes()).is_none() {
            found.add(name.as_bytes(), Rule::Missing, None);
        }
    }
}

fn check_release(rootfs: &Node, host: &RulesHost, found: &mut Violations) {
    let modules: [&[u8]; 3] = [b"usr", b"lib", b"modules"];
    let releases = rootfs.children().and_then(|children| children.walk(modules)).and_then(Node::children);
    let (Some(expected), Some(releases)) = (&host.kernel_release, releases) else { return };
    for (name, node) in releases {
        if node.children().is_some() && **name != *expected.as_bytes() {
            let path = [b"rootfs/usr/lib/modules/", &**name].concat();
            found.add(&path, Rule::ModuleRelease { expected: expected.clone() }, node.changeset);
        }
    }
}

#[cfg(test)]
mod tests;
