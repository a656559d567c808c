//! `/etc/ld.so.cache` of glibc with the libraries that layers add.
//!
//! In: the roots of the layers and of the base, not yet merged. Out: the
//! base's cache with more entries, in the order in which ldconfig(8) has
//! them. Invariant: entries of the base stay as they are, and a cache that is
//! not understood is not replaced.
//!
//! ```text
//! cache      "glibc-ld.so.cache1.1" 20 | entries 4 | bytes of strings 4 | order 1 | 0 3 | extension 4 | 0 12
//! entry      flags 4 | name 4 | path 4 | 0 4 | hwcap 8
//! extension  eaa42174 4 | sections 4 | section: tag 4 | flags 4 | offset 4 | size 4
//! ```
//! Numbers are little endian here; names, paths and offsets count from the
//! start of the file. A section with tag 1 is a list of names, too.

mod library;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use self::library::{Form, Library, Name};
use super::kmsg::chain;
use super::roots::{Roots, RootsError};

const CACHE: &str = "etc/ld.so.cache";
const CONFIGURATION: &str = "etc/ld.so.conf";
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
/// The tag of the section that names subdirectories for processors.
const HWCAPS: u32 = 1;
/// The library that every program of a form needs, so that its entry says
/// which flags libraries of that form have.
const LIBC: &[u8] = b"libc.so.6";

/// One library of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    flags: u32,
    name: Vec<u8>,
    path: Vec<u8>,
    hwcap: u64,
    /// Where the base's cache has the two strings; None for a new entry.
    strings: Option<(u32, u32)>,
}

/// The base's cache, for which the layers of `roots`, the highest first and
/// the base last, have more. `None` if they have not, or if there is none.
pub fn extend(roots: &[BorrowedFd]) -> Result<Option<Vec<u8>>, RootsError> {
    let roots = Roots::new(roots);
    let Some(cache) = roots.read_in(roots.base(), Path::new(CACHE))? else { return Ok(None) };
    let Some(old) = Cache::parse(&cache) else {
        log::warn!("the libraries of extensions are not in /{CACHE}: it is of an unknown format");
        return Ok(None);
    };
    let directories = directories(roots)?;
    let forms = forms(roots, &old);
    let mut entries = old.entries.clone();
    let known: HashSet<&[u8]> = old.entries.iter().map(|entry| entry.path.as_slice()).collect();
    for directory in &directories {
        for (name, library) in libraries(roots, &directory.real)? {
            let path = [b"/", directory.named.as_bytes(), b"/", &name].concat();
            let Some(&flags) = forms.get(&library.form) else { continue };
            if !known.contains(path.as_slice()) {
                entries.push(Entry { flags, name, path, hwcap: 0, strings: None });
            }
        }
    }
    if entries.len() == old.entries.len() {
        return Ok(None);
    }
    let rank = |entry: &Entry| {
        let is_in = |directory: &Directory| {
            let path = entry.path.strip_prefix(b"/");
            let rest = path.and_then(|path| path.strip_prefix(directory.named.as_bytes()));
            rest.is_some_and(|rest| rest.starts_with(b"/") && !rest[1..].contains(&b'/'))
        };
        directories.iter().position(is_in).unwrap_or(directories.len())
    };
    // Stable: what is equal stays in the order of the base, or of the search.
    entries.sort_by(|a, b| {
        let (a_hwcap, b_hwcap) = (a.hwcap, b.hwcap);
        compare(&b.name, &a.name).then(b.flags.cmp(&a.flags)).then_with(|| match (a_hwcap, b_hwcap) {
            (0, 0) => rank(a).cmp(&rank(b)),
            _ => (a_hwcap == 0).cmp(&(b_hwcap == 0)),
        })
    });
    Ok(old.with(entries))
}

struct Cache<'a> {
    bytes: &'a [u8],
    entries: Vec<Entry>,
}

impl<'a> Cache<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        // 2 says little endian; older ones leave it 0.
        if !bytes.starts_with(MAGIC) || !matches!(bytes.get(28)?, 0 | 2) {
            return None;
        }
        let count = usize::try_from(number(bytes, 20)?).ok()?;
        let table = bytes.get(HEADER..HEADER.checked_add(count.checked_mul(ENTRY)?)?)?;
        let entry = |entry: &[u8]| {
            let (name, path) = (number(entry, 4)?, number(entry, 8)?);
            let hwcap = u64::from(number(entry, 20)?) << 32 | u64::from(number(entry, 16)?);
            let (flags, strings) = (number(entry, 0)?, Some((name, path)));
            Some(Entry { flags, name: string(bytes, name)?, path: string(bytes, path)?, hwcap, strings })
        };
        let entries = table.chunks_exact(ENTRY).map(entry).collect::<Option<Vec<_>>>()?;
        Some(Self { bytes, entries })
    }

    /// The file with these entries. All that follows the old ones moves back as
    /// it is, behind the new strings, and what points there is moved along.
    fn with(&self, entries: Vec<Entry>) -> Option<Vec<u8>> {
        let old_start = HEADER + self.entries.len() * ENTRY;
        let new_start = HEADER + entries.len() * ENTRY;
        let mut strings = Vec::new();
        let mut table = Vec::new();
        let mut places = Vec::new();
        for entry in entries.iter().filter(|entry| entry.strings.is_none()) {
            let mut place = |text: &[u8]| {
                let at = new_start + strings.len();
                strings.extend([text, b"\0"].concat());
                u32::try_from(at).ok()
            };
            places.push((place(&entry.name)?, place(&entry.path)?));
        }
        strings.resize(strings.len().next_multiple_of(8), 0);
        let moved = u32::try_from(new_start + strings.len() - old_start).ok()?;
        let mut places = places.into_iter();
        for entry in &entries {
            let (name, path) = match entry.strings {
                Some((name, path)) => (name.checked_add(moved)?, path.checked_add(moved)?),
                None => places.next()?,
            };
            for value in [entry.flags, name, path, 0] {
                table.extend(value.to_le_bytes());
            }
            table.extend(entry.hwcap.to_le_bytes());
        }
        let mut rest = self.bytes.get(old_start..)?.to_vec();
        let extension = number(self.bytes, 32)?;
        if extension != 0 {
            move_extension(&mut rest, (extension as usize).checked_sub(old_start)?, old_start, moved)?;
        }
        let mut header = self.bytes.get(..HEADER)?.to_vec();
        let length = number(&header, 24)?.checked_add(u32::try_from(strings.len()).ok()?)?;
        put(&mut header, 20, u32::try_from(entries.len()).ok()?)?;
        put(&mut header, 24, length)?;
        put(&mut header, 32, if extension == 0 { 0 } else { extension.checked_add(moved)? })?;
        Some([header, table, strings, rest].concat())
    }
}

/// Moves what the extension at `at` of `rest` points to; `rest` began at
/// `start` of the file.
fn move_extension(rest: &mut [u8], at: usize, start: usize, moved: u32) -> Option<()> {
    if number(rest, at)? != EXTENSION_MAGIC {
        return None;
    }
    for section in 0..number(rest, at + 4)? as usize {
        let header = at.checked_add(8)?.checked_add(section.checked_mul(16)?)?;
        let (tag, offset, size) =
            (number(rest, header)?, number(rest, header + 8)?, number(rest, header + 12)?);
        put(rest, header + 8, offset.checked_add(moved)?)?;
        if tag == HWCAPS {
            let names = (offset as usize).checked_sub(start)?;
            for name in (names..names.checked_add(size as usize)?).step_by(4) {
                let place = number(rest, name)?.checked_add(moved)?;
                put(rest, name, place)?;
            }
        }
    }
    Some(())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn put(bytes: &mut [u8], at: usize, value: u32) -> Option<()> {
    bytes.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&value.to_le_bytes());
    Some(())
}

fn string(bytes: &[u8], at: u32) -> Option<Vec<u8>> {
    let rest = bytes.get(at as usize..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    Some(rest[..end].to_vec())
}

/// The flags that libraries of each form have, as the base's libc has them. A
/// libc that cannot be read says nothing; libraries of its form stay out then.
fn forms(roots: Roots, cache: &Cache) -> BTreeMap<Form, u32> {
    let libcs = cache.entries.iter().filter(|entry| entry.name == LIBC && entry.hwcap == 0);
    let form = |entry: &Entry| {
        let path = String::from_utf8(entry.path.strip_prefix(b"/")?.to_vec()).ok()?;
        let library = Library::read(&roots.open(roots.numbers(), Path::new(&path)).ok()??).ok()??;
        Some((library.form, entry.flags))
    };
    libcs.filter_map(form).collect()
}

/// Libraries that layers have in a directory, by the name that programs ask
/// for; of several of one name the first that the merged root shows.
fn libraries(roots: Roots, directory: &Path) -> Result<BTreeMap<Vec<u8>, Library>, RootsError> {
    let is_library = |name: &[u8]| {
        let starts = name.starts_with(b"lib") || name.starts_with(b"ld-");
        starts && name.windows(3).any(|part| part == b".so")
    };
    let mut found = BTreeMap::new();
    let named = roots.names_in_layers(directory)?.into_iter();
    for (name, kind) in named.filter(|(name, kind)| is_library(name) && !kind.is_dir()) {
        let Ok(text) = std::str::from_utf8(&name) else { continue };
        let path = directory.join(text);
        // One that cannot be read must not take the others out of the cache.
        match read_library(roots, &path) {
            Ok(Some(library)) if library.goes_by(&name, Name::of(kind)) => {
                found.insert(name, library);
            }
            Ok(_) => {}
            Err(error) => log::warn!("left out of /{CACHE}: {}", chain(&error)),
        }
    }
    Ok(found)
}

/// `None` if it is not there, or no library.
fn read_library(roots: Roots, path: &Path) -> Result<Option<Library>, RootsError> {
    let Some(file) = roots.open(roots.numbers(), path)? else { return Ok(None) };
    Library::read(&file).map_err(|error| RootsError::new(path, error))
}

/// Where libraries are looked for, without the slash at the start.
struct Directory {
    /// As it was first named, which is how the cache has it.
    named: String,
    /// Where its symlinks lead in the base, which is where layers have it.
    real: PathBuf,
}

/// The directories of `ld.so.conf`, and then those that are always looked into,
/// each once.
fn directories(roots: Roots) -> Result<Vec<Directory>, RootsError> {
    let mut found: Vec<String> = Vec::new();
    read_configuration(roots, CONFIGURATION, &mut found, 8)?;
    found.extend(["lib", "usr/lib"].map(str::to_owned));
    let found =
        found.into_iter().map(|named| Directory { real: roots.real_in_base(Path::new(&named)), named });
    let mut seen = BTreeSet::new();
    Ok(found.filter(|directory| seen.insert(directory.real.clone())).collect())
}

/// Reads one file of configuration and those that it includes, so many deep.
fn read_configuration(
    roots: Roots,
    path: &str,
    found: &mut Vec<String>,
    depth: usize,
) -> Result<(), RootsError> {
    let text = roots.read(Path::new(path))?.unwrap_or_default();
    for line in String::from_utf8_lossy(&text).lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.split_once(char::is_whitespace) {
            Some(("include", patterns)) if depth > 0 => {
                for pattern in patterns.split_whitespace() {
                    for file in matching(roots, pattern)? {
                        read_configuration(roots, &file, found, depth - 1)?;
                    }
                }
            }
            Some(("hwcap" | "include", _)) => {}
            _ => found.extend(
                line.split([' ', '\t', ',', ':'])
                    .map(|directory| directory.split('=').next().unwrap_or_default())
                    .filter_map(|directory| directory.strip_prefix('/'))
                    .map(|directory| directory.trim_end_matches('/').to_owned()),
            ),
        }
    }
    Ok(())
}

/// Files that a pattern of an `include` line stands for; only the last part
/// may be a pattern. A relative one starts from `/etc`.
fn matching(roots: Roots, pattern: &str) -> Result<Vec<String>, RootsError> {
    let pattern = pattern.strip_prefix('/').map_or_else(|| format!("etc/{pattern}"), str::to_owned);
    let Some((directory, name)) = pattern.rsplit_once('/') else { return Ok(Vec::new()) };
    let names = roots.names(Path::new(directory))?.into_iter();
    let fitting = names.filter(|other| super::module::matches(name.as_bytes(), other));
    Ok(fitting.map(|name| format!("{directory}/{}", String::from_utf8_lossy(&name))).collect())
}

/// The order of names in the cache: numbers in them count as numbers.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    use Ordering::{Equal, Greater, Less};
    loop {
        let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let order = match (digits(a), digits(b)) {
            (0, 0) => match (a.split_first(), b.split_first()) {
                (None, None) => return Equal,
                (x, y) => {
                    let order = x.map(|(byte, _)| byte).cmp(&y.map(|(byte, _)| byte));
                    (a, b) = (x.map_or(a, |(_, rest)| rest), y.map_or(b, |(_, rest)| rest));
                    order
                }
            },
            (0, _) => return Less,
            (_, 0) => return Greater,
            (x, y) => {
                let value = |digits: &[u8]| {
                    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
                    (digits.len() - zeros, digits[zeros..].to_vec())
                };
                let order = value(&a[..x]).cmp(&value(&b[..y]));
                (a, b) = (&a[x..], &b[y..]);
                order
            }
        };
        if order != Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ordering::{Equal, Greater, Less};

    #[test]
    fn numbers_in_names_count_as_numbers() {
        for (a, b, expected) in [
            ("libc.so.6", "libc.so.6", Equal),
            ("libc.so.10", "libc.so.6", Greater),
            ("libc.so.06", "libc.so.6", Equal),
            ("liba.so", "libb.so", Less),
            ("lib1.so", "liba.so", Greater),
            ("libx", "lib9", Less),
            ("libx.so", "libx.so.1", Less),
        ] {
            assert_eq!(compare(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_cache_of_another_format_is_left_alone() {
        let entry =
            [&3_u32.to_le_bytes()[..], &72_u32.to_le_bytes(), &72_u32.to_le_bytes(), &[0; 12]].concat();
        let good = [MAGIC, &1_u32.to_le_bytes(), &[2, 0, 0, 0, 2], &[0; 19], &entry, b"a\0"].concat();
        assert!(Cache::parse(&good).is_some());
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (name, bytes) in [
            ("empty", vec![]),
            ("old", with(0, b'l')),
            ("version", with(19, b'2')),
            ("big endian", with(28, 3)),
            ("more entries", with(21, 1)),
            ("a name behind the end", with(HEADER + 4, 99)),
            ("a string without an end", good[..good.len() - 1].to_vec()),
        ] {
            assert!(Cache::parse(&bytes).is_none(), "{name}");
        }
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                if let Some(cache) = Cache::parse(&with(at, byte)) {
                    let _ = cache.with(cache.entries.clone());
                }
            }
        }
    }
}
