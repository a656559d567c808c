//! The index of a tar that holds an image layout or a Docker archive.
//!
//! In: an uncompressed tar on disk, ustar, pax or GNU. Out: where each regular
//! file's bytes lie, to be read in place. Invariant: whatever two readers
//! could understand differently (duplicate names, stacked or dangling
//! extension headers, sizes that disagree) is refused, and no size is
//! believed beyond the end of the file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::Cause;
use super::layout::Files;
use crate::limits::{Bound, Budget, Exceeded, Limits};
use crate::oci::Digest;
use crate::store::{Blob, open_regular};
use crate::text::Escaped;

const BLOCK: u64 = 512;

/// Why a tar cannot be indexed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("it is compressed with {0}; unpack it first, its parts are read in place")]
    Compressed(&'static str),
    #[error("the tar header at byte {offset} {problem}")]
    Header { offset: u64, problem: &'static str },
    #[error("the tar has bytes other than zero after its end, at byte {offset}")]
    AfterEnd { offset: u64 },
    #[error("the tar lists `{}` twice", Escaped::new(.0))]
    Duplicate(Vec<u8>),
    #[error("the tar header at byte {offset} is of an extension of {size} bytes, {exceeded}")]
    Extension { offset: u64, size: u64, exceeded: Exceeded },
    #[error("the tar has {0}")]
    TooMany(Exceeded),
    #[error("the tar has no regular file `{}`", Escaped::new(.0))]
    Missing(String),
    #[error("`{}` has {size} bytes, {exceeded}", Escaped::new(.name))]
    TooLarge { name: String, size: u64, exceeded: Exceeded },
    #[error("reading failed")]
    Read(#[source] io::Error),
}

/// What a name in the archive stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    File { offset: u64, size: u64 },
    Symlink(Vec<u8>),
}

impl Entry {
    /// What it keeps of the archive, in bytes.
    fn kept(&self, name: &[u8]) -> u64 {
        let target = match self {
            Self::File { .. } => 0,
            Self::Symlink(target) => target.len(),
        };
        (name.len() + target) as u64
    }
}

/// An indexed archive.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: File,
    entries: HashMap<Vec<u8>, Entry>,
    limits: Limits,
}

impl Archive {
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self, Cause> {
        let failed = |source| Cause::Read { path: path.into(), source };
        let file = open_regular(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let reader = Reader { file: &file, size: metadata.len(), position: 0, limits };
        match reader.index() {
            Ok(entries) => Ok(Self { path: path.into(), file, entries, limits: *limits }),
            Err(source) => Err(Cause::Archive { path: path.into(), source }),
        }
    }

    /// Offset and size of a regular file. Follows one symlink, which Docker
    /// writes for a changeset that another image of the archive has too.
    pub(super) fn find(&self, name: &str) -> Result<(u64, u64), Cause> {
        let mut entry = self.entries.get(name.as_bytes());
        if let Some(Entry::Symlink(target)) = entry {
            entry = beside(name.as_bytes(), target).and_then(|target| self.entries.get(&target));
        }
        match entry {
            Some(Entry::File { offset, size }) => Ok((*offset, *size)),
            _ => Err(self.failed(ArchiveError::Missing(name.into()))),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, source: ArchiveError) -> Cause {
        Cause::Archive { path: self.path.clone(), source }
    }
}

impl Files for Archive {
    fn read(&self, name: &str) -> Result<Vec<u8>, Cause> {
        let (offset, size) = self.find(name)?;
        let too_large = |exceeded| ArchiveError::TooLarge { name: name.into(), size, exceeded };
        self.limits.check(Bound::Document, size).map_err(too_large).map_err(|error| self.failed(error))?;
        let mut bytes = vec![0; size as usize];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(self.failed(ArchiveError::Read(error))),
        }
    }

    fn blob(&self, name: &str, digest: Digest) -> Result<Blob, Cause> {
        let (offset, size) = self.find(name)?;
        Ok(Blob::at(&self.path, offset, size, digest))
    }
}

/// The name that symlink `target` means in the directory of `name`; nothing
/// if it leaves the archive.
fn beside(name: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b".." => drop(parts.pop()?),
            b"." => {}
            b"" => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

struct Reader<'a> {
    file: &'a File,
    size: u64,
    /// Where the next header is.
    position: u64,
    limits: &'a Limits,
}

/// What extension headers say about the entry after them.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    pax: bool,
    gnu: bool,
}

impl Extensions {
    fn pending(&self) -> bool {
        self.pax || self.gnu
    }
}

impl Reader<'_> {
    fn index(mut self) -> Result<HashMap<Vec<u8>, Entry>, ArchiveError> {
        self.refuse_compressed()?;
        let mut entries = HashMap::new();
        let mut extensions = Extensions::default();
        let mut budget = Budget::new(*self.limits);
        while let Some(header) = self.header()? {
            match header.kind() {
                b'x' | b'g' | b'L' | b'K' => self.extend(&header, &mut extensions)?,
                _ => {
                    let entry = self.entry(&header, std::mem::take(&mut extensions))?;
                    let Some((name, entry)) = entry else { continue };
                    budget.spend(Bound::ArchiveEntries, 1).map_err(ArchiveError::TooMany)?;
                    budget.spend(Bound::Names, entry.kept(&name)).map_err(ArchiveError::TooMany)?;
                    if entries.insert(name.clone(), entry).is_some() {
                        return Err(ArchiveError::Duplicate(name));
                    }
                }
            }
        }
        if extensions.pending() {
            return Err(self.refuse("extends an entry that does not follow"));
        }
        Ok(entries)
    }

    fn refuse_compressed(&self) -> Result<(), ArchiveError> {
        let start = self.bytes(0, self.size.min(6))?;
        for (magic, name) in [
            (&b"\x1f\x8b"[..], "gzip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\xfd7zXZ\0", "xz"),
            (b"BZh", "bzip2"),
        ] {
            if start.starts_with(magic) {
                return Err(ArchiveError::Compressed(name));
            }
        }
        Ok(())
    }

    /// The next header; nothing at the end of the archive, behind which only
    /// zeros may be.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        if self.position >= self.size {
            return Ok(None);
        }
        let header = Header { bytes: self.bytes(self.position, BLOCK)?, offset: self.position };
        if header.bytes.iter().all(|byte| *byte == 0) {
            return self.zeros().map(|()| None);
        }
        header.check()?;
        Ok(Some(header))
    }

    /// Reads to the end of the file. A sparse file may have any number of zeros.
    fn zeros(&mut self) -> Result<(), ArchiveError> {
        let left = self.size.saturating_sub(self.position);
        self.limits.check(Bound::Padding, left).map_err(ArchiveError::TooMany)?;
        let mut chunk = [0; 16 * 1024];
        while self.position < self.size {
            let count = self.file.read_at(&mut chunk, self.position).map_err(ArchiveError::Read)?;
            if let Some(offset) = chunk[..count].iter().position(|byte| *byte != 0) {
                return Err(ArchiveError::AfterEnd { offset: self.position + offset as u64 });
            }
            if count == 0 {
                return Err(self.refuse("is cut off"));
            }
            self.position += count as u64;
        }
        Ok(())
    }

    /// Reads an extension header and moves on to what follows it.
    fn extend(&mut self, header: &Header, extensions: &mut Extensions) -> Result<(), ArchiveError> {
        let (kind, size) = (header.kind(), header.size()?);
        let bound = if matches!(kind, b'x' | b'g') { Bound::PaxHeader } else { Bound::LongName };
        let offset = self.position;
        let too_long = |exceeded| ArchiveError::Extension { offset, size, exceeded };
        self.limits.check(bound, size).map_err(too_long)?;
        let data = self.bytes(self.position + BLOCK, size)?;
        match kind {
            b'g' => self.pax(&data, &mut Extensions::default(), Scope::Global)?,
            b'x' if extensions.pending() => return Err(self.refuse("is a second extension of one entry")),
            b'x' => {
                extensions.pax = true;
                self.pax(&data, extensions, Scope::Entry)?;
            }
            _ if extensions.pax => return Err(self.refuse("is a second extension of one entry")),
            _ => {
                extensions.gnu = true;
                let field = if kind == b'L' { &mut extensions.name } else { &mut extensions.link };
                if field.replace(until_nul(&data).to_vec()).is_some() {
                    return Err(self.refuse("is a second extension of one entry"));
                }
            }
        }
        self.skip(size)
    }

    /// Parses pax records, each `length key=value\n` (POSIX, pax, "pax
    /// Extended Header").
    fn pax(&self, mut data: &[u8], into: &mut Extensions, scope: Scope) -> Result<(), ArchiveError> {
        let malformed = || self.refuse("has a malformed pax record");
        while !data.is_empty() {
            let space = data.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = decimal(&data[..space]).ok_or_else(malformed)?;
            let length = usize::try_from(length).map_err(|_| malformed())?;
            let record = data.get(space + 1..length).ok_or_else(malformed)?;
            let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key.starts_with(b"GNU.sparse.") {
                return Err(self.refuse("is of a sparse file"));
            }
            if matches!(key, b"path" | b"linkpath" | b"size") {
                if scope == Scope::Global || value.is_empty() || value.contains(&0) {
                    return Err(malformed());
                }
                let twice = match key {
                    b"path" => into.name.replace(value.to_vec()).is_some(),
                    b"linkpath" => into.link.replace(value.to_vec()).is_some(),
                    _ => into.size.replace(decimal(value).ok_or_else(malformed)?).is_some(),
                };
                if twice {
                    return Err(malformed());
                }
            }
            data = &data[length..];
        }
        Ok(())
    }

    /// Takes one entry; nothing for kinds that hold no content of ours.
    fn entry(
        &mut self,
        header: &Header,
        extensions: Extensions,
    ) -> Result<Option<(Vec<u8>, Entry)>, ArchiveError> {
        let offset = self.position + BLOCK;
        let name = extensions.name.unwrap_or_else(|| header.name());
        let name = normal(&name).filter(|name| self.limits.check(Bound::Path, name.len() as u64).is_ok());
        let size = match extensions.size {
            Some(size) => size,
            None => header.size()?,
        };
        match header.kind() {
            b'0' | 0 | b'7' => {
                self.skip(size)?;
                let name = name.ok_or_else(|| self.refuse("has an unusable name"))?;
                Ok(Some((name, Entry::File { offset, size })))
            }
            b'2' => {
                self.skip(0)?;
                let link = extensions.link.unwrap_or_else(|| header.link());
                Ok(name.map(|name| (name, Entry::Symlink(link))))
            }
            b'1' | b'5' => self.skip(0).map(|()| None),
            _ => Err(self.refuse("is of a kind that no image archive has")),
        }
    }

    /// Moves behind a header and `size` bytes of data.
    fn skip(&mut self, size: u64) -> Result<(), ArchiveError> {
        let end = self.position.checked_add(BLOCK).and_then(|start| start.checked_add(size));
        match end.filter(|end| *end <= self.size) {
            Some(end) => {
                // The last block may lack its padding.
                self.position = end.next_multiple_of(BLOCK);
                Ok(())
            }
            None => Err(self.refuse("announces more than the file holds")),
        }
    }

    fn bytes(&self, offset: u64, count: u64) -> Result<Vec<u8>, ArchiveError> {
        if offset.checked_add(count).is_none_or(|end| end > self.size) {
            return Err(self.refuse("is cut off"));
        }
        let mut bytes = vec![0; count as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    fn refuse(&self, problem: &'static str) -> ArchiveError {
        ArchiveError::Header { offset: self.position, problem }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Global,
    Entry,
}

/// One tar header block.
struct Header {
    bytes: Vec<u8>,
    offset: u64,
}

impl Header {
    /// Checks checksum and magic.
    fn check(&self) -> Result<(), ArchiveError> {
        let refuse = |problem| ArchiveError::Header { offset: self.offset, problem };
        let sum =
            |range: std::ops::Range<usize>| self.field(range).iter().map(|b| u64::from(*b)).sum::<u64>();
        let expected = octal(self.field(148..156)).ok_or_else(|| refuse("has no checksum"))?;
        if sum(0..148) + 8 * u64::from(b' ') + sum(156..512) != expected {
            return Err(refuse("has a wrong checksum"));
        }
        // Magic and version: POSIX, GNU, or the format before both.
        match self.field(257..265) {
            b"ustar\x0000" | b"ustar  \0" => Ok(()),
            field if field.iter().all(|byte| *byte == 0) => Ok(()),
            _ => Err(refuse("is of an unknown tar format")),
        }
    }

    fn field(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    fn kind(&self) -> u8 {
        self.field(156..157).first().copied().unwrap_or_default()
    }

    fn size(&self) -> Result<u64, ArchiveError> {
        number(self.field(124..136))
            .ok_or(ArchiveError::Header { offset: self.offset, problem: "has an unreadable size" })
    }

    fn name(&self) -> Vec<u8> {
        let name = until_nul(self.field(0..100));
        let prefix = until_nul(self.field(345..500));
        if prefix.is_empty() || self.field(257..265) != b"ustar\x0000" {
            return name.to_vec();
        }
        [prefix, name].join(&b'/')
    }

    fn link(&self) -> Vec<u8> {
        until_nul(self.field(157..257)).to_vec()
    }
}

/// A size: octal, or GNU's base 256 where the highest bit is set.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    if *first != 0x80 {
        return None;
    }
    rest.iter().try_fold(0u64, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)))
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| u64::from_str_radix(text, 8).ok()).flatten()
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A name without leading `./`; nothing if it is empty or leaves the archive.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    let bad = |part: &[u8]| part.is_empty() || part == b"." || part == b"..";
    if name.split(|byte| *byte == b'/').any(bad) {
        return None;
    }
    Some(name.to_vec())
}

#[cfg(test)]
#[path = "archive_tests.rs"]
pub(in crate::fetch) mod tests;
