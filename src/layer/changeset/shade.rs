//! What upper changesets hide of the next lower one, a directory at a time.
//!
//! In: the indices of those above, and the paths of the one being read. Out:
//! whether anything of a path can still be seen. Entries of a directory mostly
//! follow one another, so what holds for a directory is found out once, from
//! what holds for the one above it. Invariant: the shades kept are those of
//! one directory and of all above it, so their number is bounded by its depth.

use std::ops::Range;

use super::index::Index;

/// What upper changesets make of one directory.
pub(super) struct Shade {
    directory: Vec<u8>,
    /// Whether nothing in it can be seen.
    is_total: bool,
    /// What each changeset has in it, by rank.
    children: Vec<Range<usize>>,
}

/// The shades of a directory and of those above it.
pub(super) struct Shades {
    root: Shade,
    /// From the top down.
    below: Vec<Shade>,
}

impl Shades {
    pub(super) fn new(uppers: &[Index]) -> Self {
        Self { root: Shade::of_root(uppers), below: Vec::new() }
    }

    /// The shade of `directory`, which is the one that is kept from now on.
    pub(super) fn of(&mut self, directory: &[u8], uppers: &[Index]) -> &Shade {
        let known = self.below.iter().take_while(|shade| shade.is_around(directory)).count();
        self.below.truncate(known);
        while self.lowest().directory.len() < directory.len() {
            let next = self.lowest().below(directory, uppers);
            self.below.push(next);
        }
        self.lowest()
    }

    fn lowest(&self) -> &Shade {
        self.below.last().unwrap_or(&self.root)
    }
}

impl Shade {
    fn of_root(uppers: &[Index]) -> Self {
        Self {
            directory: Vec::new(),
            is_total: uppers.iter().any(|upper| upper.is_opaque(b"")),
            children: uppers.iter().map(|upper| upper.children(b"")).collect(),
        }
    }

    /// Whether `directory` is this one or below it.
    fn is_around(&self, directory: &[u8]) -> bool {
        let rest = directory.strip_prefix(&self.directory[..]);
        rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }

    /// The shade of the next directory on the way to `directory`.
    fn below(&self, directory: &[u8], uppers: &[Index]) -> Self {
        let start = if self.directory.is_empty() { 0 } else { self.directory.len() + 1 };
        let length = directory[start..].iter().position(|&byte| byte == b'/');
        let path = &directory[..length.map_or(directory.len(), |length| start + length)];
        let name = &path[start..];
        let each = || uppers.iter().zip(&self.children);
        Self {
            directory: path.to_vec(),
            is_total: self.hides(path, name, uppers) || uppers.iter().any(|upper| upper.is_opaque(path)),
            children: each()
                .map(|(upper, siblings)| upper.children_of(path, name, siblings.clone()))
                .collect(),
        }
    }

    /// Whether nothing of what lower changesets have under this name in the
    /// directory can be seen.
    pub(super) fn hides(&self, path: &[u8], name: &[u8], uppers: &[Index]) -> bool {
        let mut each = uppers.iter().zip(&self.children);
        self.is_total || each.any(|(upper, siblings)| upper.replaces(path, name, siblings.clone()))
    }
}
