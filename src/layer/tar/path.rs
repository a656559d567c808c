//! Names of entries, as lists of components.
//!
//! In: the bytes of a name. Out: an [`EntryPath`] below the image's root.
//! Invariant: a path has no `..`, no `.`, no empty component, no control
//! character, and is bounded; it is never resolved on a file system.

use std::fmt;

use crate::limits::{Bound, Exceeded, Limits};
use crate::text::Escaped;

/// A path below the image's root: components joined by single slashes, empty
/// for the root itself. Components are bytes, not text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Box<[u8]>);

/// Why a name is no path.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathProblem {
    #[error("is empty")]
    Empty,
    #[error("has an empty component")]
    EmptyComponent,
    #[error("contains `..`")]
    Parent,
    #[error("has control characters")]
    Control,
    #[error("takes {0}")]
    Limit(Exceeded),
}

impl EntryPath {
    /// Reads a name: one leading slash and `.` components do not count, one
    /// trailing slash is the mark of a directory. Doubled slashes are refused.
    /// It keeps to the built-in limits.
    pub fn parse(name: &[u8]) -> Result<Self, PathProblem> {
        Self::within(name, &Limits::default())
    }

    /// As [`parse`](Self::parse), with limits of one's own. No limit may be
    /// higher than trees can be walked by recursion.
    pub fn within(name: &[u8], limits: &Limits) -> Result<Self, PathProblem> {
        if name.is_empty() {
            return Err(PathProblem::Empty);
        }
        limits.check(Bound::Path, name.len() as u64).map_err(PathProblem::Limit)?;
        let relative = name.strip_prefix(b"/").unwrap_or(name);
        let bare = relative.strip_suffix(b"/").unwrap_or(relative);
        let mut joined = Vec::with_capacity(bare.len());
        let mut depth = 0;
        if !relative.is_empty() {
            for component in bare.split(|&byte| byte == b'/') {
                if check_component(component, limits)? == Component::Normal {
                    joined.extend_from_slice(if depth == 0 { b"" } else { b"/" });
                    joined.extend_from_slice(component);
                    depth += 1;
                }
            }
        }
        limits.check(Bound::Depth, depth).map_err(PathProblem::Limit)?;
        Ok(Self(joined.into()))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// From the top down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        components(&self.0)
    }

    /// The directory and the name in it; `None` for the root.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        split(&self.0)
    }
}

/// A joined path's directory and the name in it; `None` for the empty one.
pub(in crate::layer) fn split(joined: &[u8]) -> Option<(&[u8], &[u8])> {
    match joined.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Some((&joined[..slash], &joined[slash + 1..])),
        None if joined.is_empty() => None,
        None => Some((b"", joined)),
    }
}

/// The joined path of `path` below a directory. Either may be empty.
pub(in crate::layer) fn join(directory: &[u8], path: &[u8]) -> Vec<u8> {
    match (directory, path) {
        (b"", only) | (only, b"") => only.to_vec(),
        _ => [directory, b"/", path].concat(),
    }
}

/// The components of a joined path; none for the empty one.
pub(in crate::layer) fn components(joined: &[u8]) -> impl Iterator<Item = &[u8]> {
    joined.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
}

#[derive(PartialEq)]
enum Component {
    Normal,
    Current,
}

fn check_component(component: &[u8], limits: &Limits) -> Result<Component, PathProblem> {
    match component {
        b"" => Err(PathProblem::EmptyComponent),
        b"." => Ok(Component::Current),
        b".." => Err(PathProblem::Parent),
        _ if component.iter().any(u8::is_ascii_control) => Err(PathProblem::Control),
        _ => match limits.check(Bound::Component, component.len() as u64) {
            Ok(()) => Ok(Component::Normal),
            Err(exceeded) => Err(PathProblem::Limit(exceeded)),
        },
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped::new(&self.0).fmt(f)
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_components_or_are_refused() {
        use PathProblem::{Control, Empty, EmptyComponent, Limit, Parent};
        let over = |bound: Bound| Err(Limit(Exceeded { bound, limit: bound.default() }));
        let (longest, longer) = ("n".repeat(255), "n".repeat(256));
        let (deepest, deeper) = (["d"; 128].join("/"), ["d"; 129].join("/"));
        let too_long = "./".repeat(2048) + "x";
        for (name, expected) in [
            ("a", Ok("a")),
            ("a/b", Ok("a/b")),
            ("a/b/", Ok("a/b")),
            ("/a/b", Ok("a/b")),
            ("./a/./b/.", Ok("a/b")),
            ("/./a", Ok("a")),
            (".", Ok("")),
            ("./", Ok("")),
            ("/", Ok("")),
            ("/.", Ok("")),
            ("a b", Ok("a b")),
            ("a\\b", Ok("a\\b")),
            ("größe", Ok("größe")),
            ("...", Ok("...")),
            ("..a", Ok("..a")),
            (&longest, Ok(longest.as_str())),
            (&deepest, Ok(deepest.as_str())),
            ("", Err(Empty)),
            ("//", Err(EmptyComponent)),
            ("//a", Err(EmptyComponent)),
            ("a//b", Err(EmptyComponent)),
            ("a//", Err(EmptyComponent)),
            ("..", Err(Parent)),
            ("../a", Err(Parent)),
            ("/..", Err(Parent)),
            ("a/../b", Err(Parent)),
            ("a/..", Err(Parent)),
            ("a\0b", Err(Control)),
            ("a\nb", Err(Control)),
            ("a\x1b[31m", Err(Control)),
            ("a\x7f", Err(Control)),
            (&longer, over(Bound::Component)),
            (&deeper, over(Bound::Depth)),
            (&too_long, over(Bound::Path)),
        ] {
            let path = EntryPath::parse(name.as_bytes());
            assert_eq!(
                path.as_ref().map(EntryPath::as_bytes).map_err(|e| *e),
                expected.map(str::as_bytes),
                "{name}"
            );
        }
        let bytes = b"not/\xff\xfe/utf-8";
        assert_eq!(EntryPath::parse(bytes).unwrap().as_bytes(), bytes);
    }

    #[test]
    fn paths_split_into_directory_and_name() {
        for (name, expected) in
            [("a/b/c", Some((&b"a/b"[..], &b"c"[..]))), ("a", Some((b"", b"a"))), (".", None)]
        {
            assert_eq!(EntryPath::parse(name.as_bytes()).unwrap().split(), expected, "{name}");
        }
    }
}
