//! What the linker's cache says about a shared library: an ELF file with a
//! dynamic section (System V ABI, "Dynamic Linking").
//!
//! In: a file, from anyone. Out: [`Library`]. Invariant: little is read, at
//! places that are checked, however large the file is.

use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::FileExt;

/// Which programs a library is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    class: u8,
    machine: u16,
}

#[derive(Debug)]
pub struct Library {
    pub form: Form,
    soname: Option<Vec<u8>>,
}

/// Most program headers that are looked at, and longest dynamic section and
/// name, in bytes.
const MAX_HEADERS: u64 = 64;
const MAX_DYNAMIC: u64 = 64 << 10;
const MAX_NAME: usize = 256;

const LOAD: u64 = 1;
const DYNAMIC: u64 = 2;
const STRTAB: u64 = 5;
const SONAME: u64 = 14;

impl Library {
    /// Reads a library. `None` for what is none for this cache: another kind
    /// of file, or one with big endian numbers.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
        let mut head = vec![0; 64.min(usize::try_from(length).unwrap_or(64))];
        file.read_exact_at(&mut head, 0)?;
        let Some(layout) = Layout::of(&head) else { return Ok(None) };
        let number = |bytes: &[u8], at: usize, size: usize| number(bytes, at, size).unwrap_or_default();
        let word = layout.word;
        let (table, count) = if word == 8 {
            (number(&head, 32, 8), number(&head, 56, 2))
        } else {
            (number(&head, 28, 4), number(&head, 44, 2))
        };
        let size = if word == 8 { 56 } else { 32 };
        let headers = read(file, table, size * count.min(MAX_HEADERS))?;
        let mut loads = Vec::new();
        let mut dynamic = Vec::new();
        for header in headers.chunks_exact(size as usize) {
            let (offset, address, length) = match word {
                8 => (number(header, 8, 8), number(header, 16, 8), number(header, 32, 8)),
                _ => (number(header, 4, 4), number(header, 8, 4), number(header, 16, 4)),
            };
            match number(header, 0, 4) {
                LOAD => loads.push((offset, address, length)),
                DYNAMIC => dynamic = read(file, offset, length.min(MAX_DYNAMIC))?,
                _ => {}
            }
        }
        let value = |tag| {
            let mut entries = dynamic.chunks_exact(2 * word);
            entries.find(|entry| number(entry, 0, word) == tag).map(|entry| number(entry, word, word))
        };
        let soname = match (value(STRTAB), value(SONAME)) {
            (Some(strings), Some(name)) => {
                let address = strings.saturating_add(name);
                let load = loads
                    .iter()
                    .find(|(_, start, length)| address.checked_sub(*start).is_some_and(|at| at < *length));
                load.map(|(offset, start, _)| name_at(file, offset.saturating_add(address - start)))
                    .transpose()?
            }
            _ => None,
        };
        Ok(Some(Self { form: layout.form, soname }))
    }

    /// Whether ldconfig lists the library under this name: the one that
    /// programs ask for, or the link without a version that compilers want.
    pub fn goes_by(&self, name: &[u8], kind: Name) -> bool {
        let Some(soname) = self.soname.as_deref() else { return true };
        let is_bare = kind == Name::OfLink && name.ends_with(b".so") && soname.starts_with(name);
        soname == name || is_bare
    }
}

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    OfFile,
    OfLink,
}

impl Name {
    pub fn of(kind: FileType) -> Self {
        if kind.is_symlink() { Self::OfLink } else { Self::OfFile }
    }
}

struct Layout {
    form: Form,
    /// Bytes of an address.
    word: usize,
}

impl Layout {
    /// `None` for what is no shared object with little endian numbers.
    fn of(head: &[u8]) -> Option<Self> {
        let class = *head.get(4)?;
        let word = match class {
            1 => 4,
            2 => 8,
            _ => return None,
        };
        let is_shared = number(head, 16, 2)? == 3;
        let fits = head.starts_with(b"\x7fELF") && head.get(5) == Some(&1) && is_shared && head.len() >= 52;
        let machine = u16::try_from(number(head, 18, 2)?).ok()?;
        fits.then_some(Self { form: Form { class, machine }, word })
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + size)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn read(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn name_at(file: &File, at: u64) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(at);
    let name = read(file, at, left.min(MAX_NAME as u64))?;
    Ok(name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec())
}
