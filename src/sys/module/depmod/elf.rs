//! What depmod(8) takes from one module: an ELF object file of either class
//! and byte order (System V ABI, "Object Files").
//!
//! In: the bytes of a `.ko`, not compressed, from anyone. Out: [`Facts`].
//! Invariant: nothing outside the bytes is read, and the names of a table are
//! together no longer than they are, however many entries share one.
//!
//! | section | holds |
//! |---|---|
//! | `.modinfo` | `key=value` strings, each ended by a zero byte |
//! | `.symtab`, `.strtab` | symbols; the undefined ones are needed, `__crc_NAME` stands for an exported NAME |
//! | `__ksymtab_strings` | names of what is exported, where there is no `__crc_` |
//! | `__versions` | 64 bytes each: checksum of 4 or 8 bytes by class, name of a needed symbol |

use std::collections::HashSet;

/// What depmod takes from one module.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Symbols that it exports, in the order in which depmod meets them.
    pub exports: Vec<Vec<u8>>,
    /// Symbols that it needs, in the same order.
    pub needs: Vec<Vec<u8>>,
    /// Key and value of every entry in `.modinfo`.
    pub info: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether it comes with the versions of the symbols that it needs.
    pub has_versions: bool,
}

/// Why a file is no module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    #[error("not an ELF file")]
    NotElf,
    #[error("an ELF file of an unknown class or byte order")]
    UnknownForm,
    #[error("its ELF header is cut short")]
    Header,
    #[error("its table of sections is not inside the file")]
    Sections,
    #[error("the names of its sections are not inside the file")]
    Names,
}

/// Bytes of one entry of `__versions`.
const VERSION: usize = 64;

/// Longest name of a symbol, in bytes; the kernel knows none of 512.
const MAX_NAME: usize = 1024;

impl Facts {
    /// Reads a module. Only sections that are whole are taken; a module
    /// without one of them has nothing to say about it.
    pub fn read(bytes: &[u8]) -> Result<Self, ElfError> {
        let elf = Elf::open(bytes)?;
        let versions = elf.versions();
        Ok(Self {
            exports: elf.exports(),
            needs: elf.needs(&versions),
            info: elf.info(),
            has_versions: !versions.is_empty(),
        })
    }

    /// Values of the entries of `.modinfo` with this key, in their order.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.info.iter().filter(move |(name, _)| name == key.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// The `vermagic` of a module that the kernel `release` refuses for it.
    /// Versions of its symbols, where the kernel asks for them, stand for the
    /// release that it was built for.
    pub fn misfit(&self, release: &str) -> Option<&[u8]> {
        let vermagic = self.values("vermagic").next()?;
        let mut words = vermagic.split(|&byte| byte == b' ');
        let fits = words.next() == Some(release.as_bytes())
            || self.has_versions && words.any(|word| word == b"modversions");
        (!fits).then_some(vermagic)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Bits32,
    Bits64,
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

struct Elf<'a> {
    bytes: &'a [u8],
    class: Class,
    order: ByteOrder,
    /// The table of sections.
    sections: &'a [u8],
    names: &'a [u8],
}

/// One entry of `.symtab`.
struct Symbol<'a> {
    /// None if it is not inside `.strtab`.
    name: Option<&'a [u8]>,
    is_defined: bool,
}

impl<'a> Elf<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, ElfError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let (class, order) = match bytes.get(4..6) {
            Some([1, order]) => (Class::Bits32, *order),
            Some([2, order]) => (Class::Bits64, *order),
            _ => return Err(ElfError::UnknownForm),
        };
        let order = match order {
            1 => ByteOrder::Little,
            2 => ByteOrder::Big,
            _ => return Err(ElfError::UnknownForm),
        };
        let mut elf = Self { bytes, class, order, sections: &[], names: &[] };
        let (table, counts) = match class {
            Class::Bits32 => (elf.number(bytes, 0x20, 4), 0x2e),
            Class::Bits64 => (elf.number(bytes, 0x28, 8), 0x3a),
        };
        let half = |at| elf.number(bytes, at, 2);
        let (Some(table), Some(size), Some(count), Some(names)) =
            (table, half(counts), half(counts + 2), half(counts + 4))
        else {
            return Err(ElfError::Header);
        };
        if size != elf.section_size() as u64 {
            return Err(ElfError::Sections);
        }
        elf.sections = slice(bytes, table, size * count).ok_or(ElfError::Sections)?;
        elf.names = elf.content(names).ok_or(ElfError::Names)?;
        Ok(elf)
    }

    fn section_size(&self) -> usize {
        match self.class {
            Class::Bits32 => 40,
            Class::Bits64 => 64,
        }
    }

    /// An unsigned number of `size` bytes.
    fn number(&self, bytes: &[u8], at: usize, size: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(size)?)?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(match self.order {
            ByteOrder::Little => bytes.iter().rev().fold(0, add),
            ByteOrder::Big => bytes.iter().fold(0, add),
        })
    }

    /// The content of the section with this number.
    fn content(&self, number: u64) -> Option<&'a [u8]> {
        let at = usize::try_from(number).ok()?.checked_mul(self.section_size())?;
        let header = self.sections.get(at..)?;
        let (offset, size) = match self.class {
            Class::Bits32 => (self.number(header, 16, 4)?, self.number(header, 20, 4)?),
            Class::Bits64 => (self.number(header, 24, 8)?, self.number(header, 32, 8)?),
        };
        slice(self.bytes, offset, size)
    }

    /// The first section with this name; the one with number 0 is none.
    fn section(&self, name: &str) -> Option<&'a [u8]> {
        let headers = self.sections.chunks_exact(self.section_size());
        let found = headers.enumerate().skip(1).find(|(_, header)| {
            let at = self.number(header, 0, 4).and_then(|at| usize::try_from(at).ok());
            at.and_then(|at| string(self.names, at)) == Some(name.as_bytes())
        });
        self.content(found?.0 as u64)
    }

    /// The names of those entries of `.symtab` that are wanted. `None` if there
    /// is no whole table, or one that names more than the file can hold.
    fn names(&self, wanted: impl Fn(&Symbol<'a>) -> bool) -> Option<Vec<&'a [u8]>> {
        let mut left = self.bytes.len();
        let mut names = Vec::new();
        for symbol in self.symbols()?.filter(wanted) {
            let name = symbol.name?;
            left = left.checked_sub(name.len())?;
            names.push(name);
        }
        Some(names)
    }

    fn symbols(&self) -> Option<impl Iterator<Item = Symbol<'a>>> {
        let (strings, table) = (self.section(".strtab")?, self.section(".symtab")?);
        let (size, defined_in) = match self.class {
            Class::Bits32 => (16, 14),
            Class::Bits64 => (24, 6),
        };
        if !table.len().is_multiple_of(size) {
            return None;
        }
        Some(table.chunks_exact(size).skip(1).map(move |entry| Symbol {
            name: self.number(entry, 0, 4).and_then(|at| string(strings, usize::try_from(at).ok()?)),
            is_defined: self.number(entry, defined_in, 2) != Some(0),
        }))
    }

    fn exports(&self) -> Vec<Vec<u8>> {
        let named = self.names(|_| true).unwrap_or_default();
        let exported: Vec<_> = named.into_iter().filter_map(|name| name.strip_prefix(b"__crc_")).collect();
        let exported = match exported.is_empty() {
            true => strings(self.section("__ksymtab_strings").unwrap_or_default()).collect(),
            false => exported,
        };
        exported.into_iter().map(<[u8]>::to_vec).collect()
    }

    /// Names in `__versions`.
    fn versions(&self) -> Vec<&'a [u8]> {
        let checksum = match self.class {
            Class::Bits32 => 4,
            Class::Bits64 => 8,
        };
        let section = self.section("__versions").unwrap_or_default();
        if !section.len().is_multiple_of(VERSION) {
            return Vec::new();
        }
        section.chunks_exact(VERSION).filter_map(|entry| string(entry, checksum)).collect()
    }

    /// Undefined symbols, and then those that only `__versions` names.
    fn needs(&self, versions: &[&'a [u8]]) -> Vec<Vec<u8>> {
        let Some(mut needs) = self.names(|symbol| !symbol.is_defined) else { return Vec::new() };
        needs.retain(|name| !name.is_empty());
        let named: HashSet<&[u8]> = needs.iter().copied().collect();
        needs.extend(versions.iter().filter(|name| !named.contains(*name)));
        needs.into_iter().map(<[u8]>::to_vec).collect()
    }

    fn info(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = strings(self.section(".modinfo").unwrap_or_default());
        let split = |entry: &[u8]| match entry.iter().position(|&byte| byte == b'=') {
            Some(at) => (entry[..at].to_vec(), entry[at + 1..].to_vec()),
            None => (entry.to_vec(), Vec::new()),
        };
        entries.map(split).collect()
    }
}

fn slice(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let end = usize::try_from(offset.checked_add(size)?).ok()?;
    bytes.get(usize::try_from(offset).ok()?..end)
}

/// The name at `at`, up to its zero byte or the end.
fn string(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
    let window = &rest[..rest.len().min(MAX_NAME)];
    let end = window.iter().position(|&byte| byte == 0);
    match end {
        None if window.len() < rest.len() => None,
        end => Some(&window[..end.unwrap_or(window.len())]),
    }
}

/// The strings of a section, which may have padding between them.
fn strings(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&byte| byte == 0).filter(|string| !string.is_empty())
}
