//! Where an extension may put something.
//!
//! In: a path below `rootfs`. Out: its [`Place`]. Invariant: paths are
//! compared by whole components, so `/usr/local-evil` is not `/usr/local`.

use std::collections::BTreeMap;
use std::fmt;

use crate::layer::tar::EntryPath;
use crate::text::Escaped;

/// What has to be at an allowed path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A directory that the base has too, and so do other extensions.
    Shared,
    /// A regular file or a symlink.
    File,
    /// A directory or a regular file, as the configuration asks for it. No
    /// symlink: it could hide a directory of the base.
    Any,
}

/// The paths of published extensions.
const DEFAULT: [(&str, Shape); 21] = [
    ("etc/cri/conf.d", Shape::Shared),
    ("etc/ld.so.cache", Shape::File),
    ("etc/ld.so.conf", Shape::File),
    // The published nvme-cli has it, empty.
    ("etc/nvme", Shape::Shared),
    ("etc/vulkan", Shape::Shared),
    ("usr/bin/ldconfig", Shape::File),
    ("usr/bin/nvidia-cdi-hook", Shape::File),
    ("usr/bin/nvidia-ctk", Shape::File),
    ("usr/bin/nvidia-modprobe", Shape::File),
    ("usr/bin/nvidia-pcc", Shape::File),
    ("usr/bin/nvidia-smi", Shape::File),
    ("usr/bin/nvme", Shape::File),
    ("usr/etc/udev/rules.d", Shape::Shared),
    ("usr/lib/firmware", Shape::Shared),
    ("usr/lib/ld-linux-aarch64.so.1", Shape::File),
    ("usr/lib/ld-linux-x86-64.so.2", Shape::File),
    ("usr/lib/modules", Shape::Shared),
    ("usr/lib/udev/rules.d", Shape::Shared),
    ("usr/local", Shape::Shared),
    ("usr/share/egl", Shape::Shared),
    ("usr/share/glvnd", Shape::Shared),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AllowList(BTreeMap<Vec<u8>, Shape>);

impl Default for AllowList {
    fn default() -> Self {
        Self(DEFAULT.iter().map(|(path, shape)| (path.as_bytes().to_vec(), *shape)).collect())
    }
}

/// How a path stands to the allowed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A directory above an allowed path.
    Parent,
    Allowed(Shape),
    /// Below an allowed directory.
    Inside,
    Outside,
}

impl AllowList {
    pub(super) fn add(&mut self, path: EntryPath) {
        self.0.entry(path.as_bytes().to_vec()).or_insert(Shape::Any);
    }

    /// `path` is joined by slashes, without one at its start.
    pub(super) fn add_shared(&mut self, path: &[u8]) {
        self.0.insert(path.into(), Shape::Shared);
    }

    /// `path` is joined by slashes, without one at its start.
    pub(super) fn place(&self, path: &[u8]) -> Place {
        let below =
            |long: &[u8], short: &[u8]| long.strip_prefix(short).is_some_and(|rest| rest.starts_with(b"/"));
        if let Some(shape) = self.0.get(path) {
            // What has allowed paths below it is a directory of the base too.
            let is_parent = self.0.keys().any(|allowed| below(allowed, path));
            return Place::Allowed(if is_parent { Shape::Shared } else { *shape });
        }
        if self.0.iter().any(|(allowed, shape)| *shape != Shape::File && below(path, allowed)) {
            Place::Inside
        } else if self.0.keys().any(|allowed| below(allowed, path)) {
            Place::Parent
        } else {
            Place::Outside
        }
    }
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(path, shape)| writeln!(f, "{shape:?} /{}", Escaped::new(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_by_whole_components() {
        let mut allowed = AllowList::default();
        allowed.add(EntryPath::parse(b"/opt/cni/bin").unwrap());
        allowed.add(EntryPath::parse(b"/usr/local").unwrap());
        for (path, place) in [
            ("usr", Place::Parent),
            ("usr/lib", Place::Parent),
            ("usr/local", Place::Allowed(Shape::Shared)),
            ("usr/local/bin", Place::Inside),
            ("usr/local-evil", Place::Outside),
            ("usr/loca", Place::Outside),
            ("usr/lib/firmware-evil/x", Place::Outside),
            ("usr/bin", Place::Parent),
            ("usr/bin/nvme", Place::Allowed(Shape::File)),
            ("usr/bin/nvmeXYZ", Place::Outside),
            ("usr/bin/nvme/x", Place::Outside),
            ("usr/lib64/a.so", Place::Outside),
            ("etc/ld.so.conf.d", Place::Outside),
            ("opt", Place::Parent),
            ("opt/cni/bin", Place::Allowed(Shape::Any)),
            ("opt/cni/bin/tool", Place::Inside),
            ("boot", Place::Outside),
        ] {
            assert_eq!(allowed.place(path.as_bytes()), place, "{path}");
        }
    }

    #[test]
    fn the_documentation_has_every_path() {
        let page = include_str!("../../../docs/authoring.md");
        for (path, _) in DEFAULT {
            assert!(page.contains(&format!("`/{path}`")), "docs/authoring.md does not name /{path}");
        }
    }

    #[test]
    fn what_has_allowed_paths_below_it_stays_a_shared_directory() {
        let mut allowed = AllowList::default();
        for path in ["/usr/lib", "/opt/cni", "/opt/cni/bin"] {
            allowed.add(EntryPath::parse(path.as_bytes()).unwrap());
        }
        for (path, place) in [
            ("usr/lib", Place::Allowed(Shape::Shared)),
            ("usr/lib/systemd", Place::Inside),
            ("opt/cni", Place::Allowed(Shape::Shared)),
            ("opt/cni/bin", Place::Allowed(Shape::Any)),
        ] {
            assert_eq!(allowed.place(path.as_bytes()), place, "{path}");
        }
    }
}
