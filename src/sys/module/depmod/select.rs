//! Which of several modules of one name counts: depmod.d(5).
//!
//! In: `*.conf` of the merged root. Out: [`Preference`], which ranks paths.
//! Invariant: without a word from anyone, `updates` and the directories where
//! extensions bring their modules, `extras` and `extra`, come before what the
//! kernel was built with. `external` directories are not looked into.

use std::collections::BTreeMap;
use std::path::Path;

use crate::sys::roots::{Roots, RootsError};

/// Directories below the root, the most important first: a file hides those of
/// the same name in later ones.
const DIRECTORIES: [&str; 4] = ["etc/depmod.d", "usr/local/lib/depmod.d", "usr/lib/depmod.d", "lib/depmod.d"];

const DEFAULT_SEARCH: [&str; 3] = ["updates", "extras", "extra"];

/// The keyword for all that is in no other directory of a `search` line.
const BUILT_IN: &str = "built-in";

/// What the configuration prefers.
#[derive(Debug, Default)]
pub struct Preference {
    /// Directories below the one of the kernel, the best first.
    search: Vec<String>,
    /// Paths without extension, the best last.
    overrides: Vec<String>,
    excluded: Vec<String>,
}

/// How much a module's path is preferred; the greater one counts.
pub type Rank = (usize, usize);

impl Preference {
    /// Loads the configuration for the kernel `release`.
    pub fn load(roots: Roots, release: &str) -> Result<Self, RootsError> {
        let mut files = BTreeMap::new();
        for directory in DIRECTORIES {
            for name in roots.names(Path::new(directory))?.into_iter().filter(|name| name.ends_with(b".conf"))
            {
                files.entry(name).or_insert(directory);
            }
        }
        let mut preference = Self::default();
        for (name, directory) in files {
            let path = format!("{directory}/{}", String::from_utf8_lossy(&name));
            let text = roots.read(Path::new(&path))?.unwrap_or_default();
            preference.add(&String::from_utf8_lossy(&text), release);
        }
        Ok(preference.or_default())
    }

    fn or_default(mut self) -> Self {
        if self.search.is_empty() {
            self.search = DEFAULT_SEARCH.map(str::to_owned).to_vec();
        }
        self
    }

    fn add(&mut self, text: &str, release: &str) {
        for line in text.replace("\\\n", "").lines() {
            let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            match words[..] {
                ["search", ref paths @ ..] => self.search.extend(paths.iter().map(|&path| path.to_owned())),
                ["exclude", ref names @ ..] => {
                    self.excluded.extend(names.iter().map(|&name| name.to_owned()));
                }
                ["override", module, kernel, directory, ..] if matches_release(kernel, release) => {
                    self.overrides.push(format!("{directory}/{module}"));
                }
                ["external", ..] => log::warn!("depmod.d: external directories are not searched: {line}"),
                _ => {}
            }
        }
    }

    /// Whether a file or directory of this name is passed over wherever it is.
    pub fn excludes(&self, name: &[u8]) -> bool {
        ["build", "source"].iter().any(|known| known.as_bytes() == name)
            || self.excluded.iter().any(|known| known.as_bytes() == name)
    }

    /// The rank of a module's path, relative to the directory of the kernel.
    pub fn rank(&self, path: &[u8]) -> Rank {
        let name_at = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let length = path[name_at..].iter().position(|&byte| byte == b'.');
        let plain = &path[..length.map_or(path.len(), |length| name_at + length)];
        let overridden = self.overrides.iter().rposition(|other| other.as_bytes() == plain);
        let is_in = |directory: &&String| {
            path.strip_prefix(directory.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
        };
        let position = |wanted: &dyn Fn(&&String) -> bool| {
            // depmod takes the first of its list; a later mention counts for nothing.
            let at = self.search.iter().position(|directory| wanted(&directory))?;
            Some(self.search.len() - at)
        };
        let searched = position(&is_in).or_else(|| position(&|directory| *directory == BUILT_IN));
        (overridden.map_or(0, |at| at + 1), searched.unwrap_or(0))
    }
}

/// Whether the kernel is the one of an `override` line: `*`, or an extended
/// regular expression. Of these only plain text is known, as people write it.
fn matches_release(pattern: &str, release: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if pattern.contains(['*', '+', '?', '[', '(', '|', '{', '\\']) {
        log::warn!("depmod.d: override for kernel {pattern} is not understood and passed over");
        return false;
    }
    let (start, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (end, text) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
    let fits = |window: &[u8]| window.iter().zip(text.as_bytes()).all(|(a, b)| a == b || *b == b'.');
    let last = release.len().checked_sub(text.len());
    let mut places = last.into_iter().flat_map(|last| if end { last..=last } else { 0..=last });
    places.any(|at| (!start || at == 0) && fits(&release.as_bytes()[at..at + text.len()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preference(text: &str) -> Preference {
        let mut preference = Preference::default();
        preference.add(text, "6.1.0-1-amd64");
        preference.or_default()
    }

    #[test]
    fn the_preferred_of_two_paths_counts() {
        let (kernel, extra, updates) = ("kernel/net/m.ko", "extra/m.ko.xz", "updates/dkms/m.ko");
        for (text, better, worse) in [
            ("", updates, kernel),
            ("", extra, kernel),
            ("", updates, extra),
            ("search extra built-in", extra, kernel),
            ("search extra built-in", extra, updates),
            ("search built-in extra", kernel, extra),
            ("search updates\nsearch extra", updates, extra),
            ("search updates\\\n built-in extra", kernel, extra),
            ("override m * kernel/net", kernel, updates),
            ("override m 6.1.0-1 kernel/net", kernel, updates),
            ("override m ^6.1.0-1-amd64$ kernel/net", kernel, updates),
            ("override m 6.2 kernel/net", updates, kernel),
            ("override m ^1.0 kernel/net", updates, kernel),
            ("override m * kernel/net\noverride m * extra", extra, kernel),
            ("# search built-in updates", updates, kernel),
        ] {
            let preference = preference(text);
            let rank = |path: &str| preference.rank(path.as_bytes());
            assert!(rank(better) > rank(worse), "{text}: {better} {worse}");
        }
        // Whole names of directories, and what no line names is built in.
        let part = preference("search extr built-in");
        assert_eq!(part.rank(kernel.as_bytes()), part.rank(extra.as_bytes()));
        assert!(preference("exclude debug").excludes(b"debug"));
        assert!(preference("").excludes(b"build"));
    }
}
