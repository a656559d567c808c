//! The walk through an archive: extensions, entries, data, end.
//!
//! In: a reader of the archive. Out: entries in order. Invariant: before the
//! next header is read, exactly the data and padding of the last entry are
//! behind the reader, whether anybody wanted them or not.

use std::io::{self, Read};

use super::blocks::{BLOCK, Blocks, padding};
use super::entry::{self, Entry, Extensions};
use super::error::{Problem, TarError};
use super::header::{Format, Header};
use super::pax::{self, Pax};
use crate::limits::{Bound, Limits};

/// An archive being read.
pub struct Archive<R> {
    blocks: Blocks<R>,
    /// Data of the current entry that was not read yet, and its padding.
    data: u64,
    padding: u64,
    limits: Limits,
}

impl<R: Read> Archive<R> {
    pub fn new(reader: R) -> Self {
        Self::with_limits(reader, &Limits::default())
    }

    pub fn with_limits(reader: R, limits: &Limits) -> Self {
        Self { blocks: Blocks::new(reader), data: 0, padding: 0, limits: *limits }
    }

    /// Goes to the next entry; data of the last one that was not read is
    /// skipped. `None` means that the archive is whole and that its reader
    /// was read to the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.blocks.skip(self.data)?;
        self.blocks.skip_padding(self.padding)?;
        (self.data, self.padding) = (0, 0);
        let mut extensions = Extensions::default();
        loop {
            let at = self.blocks.position();
            let refuse = |problem| TarError::Archive { at, problem };
            let Some(block) = self.blocks.block()?.filter(|block| *block != [0; BLOCK]) else {
                if !extensions.is_empty() {
                    return Err(refuse(Problem::DanglingExtension));
                }
                self.blocks.zeros(&self.limits)?;
                return Ok(None);
            };
            let header = Header::parse(&block).map_err(refuse)?;
            match header.typeflag {
                b'x' | b'g' | b'L' | b'K' => {
                    let bound = check_extension(&header, &extensions).map_err(refuse)?;
                    let data = self.extension(at, header.size, bound)?;
                    apply(header.typeflag, data, &mut extensions, &self.limits).map_err(refuse)?;
                }
                _ => return self.entry(at, header, extensions).map(Some),
            }
        }
    }

    fn extension(&mut self, at: u64, size: u64, bound: Bound) -> Result<Vec<u8>, TarError> {
        let refuse =
            |exceeded| TarError::Archive { at, problem: Problem::ExtensionTooLong { size, exceeded } };
        self.limits.check(bound, size).map_err(refuse)?;
        let data = self.blocks.bytes(size)?;
        // tarfile takes what stands here for further pax records.
        if self.blocks.bytes(padding(size))?.iter().any(|&byte| byte != 0) {
            return Err(TarError::Archive { at, problem: Problem::ExtensionPadding });
        }
        Ok(data)
    }

    fn entry(&mut self, at: u64, header: Header, extensions: Extensions) -> Result<Entry, TarError> {
        let name = entry::name(&header, &extensions);
        let entry = Entry::new(at, header, extensions, &self.limits).map_err(|problem| TarError::Entry {
            at,
            name,
            problem,
        })?;
        (self.data, self.padding) = (entry.size, padding(entry.size));
        Ok(entry)
    }

    /// The data of the entry last returned, as far as it was not read yet.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }
}

/// An extension fits its header's format and those before it: pax headers
/// stand alone, GNU names may come in a pair.
fn check_extension(header: &Header, before: &Extensions) -> Result<Bound, Problem> {
    let (format, bound) = match header.typeflag {
        b'x' | b'g' => (Format::Posix, Bound::PaxHeader),
        _ => (Format::Gnu, Bound::LongName),
    };
    let free = match header.typeflag {
        b'L' => before.pax.is_none() && before.name.is_none(),
        b'K' => before.pax.is_none() && before.link.is_none(),
        _ => before.is_empty(),
    };
    if header.format != format {
        Err(Problem::ExtensionFormat(header.typeflag))
    } else if !free {
        Err(Problem::ExtensionConflict)
    } else {
        Ok(bound)
    }
}

fn apply(
    typeflag: u8,
    mut data: Vec<u8>,
    extensions: &mut Extensions,
    limits: &Limits,
) -> Result<(), Problem> {
    match typeflag {
        b'g' => pax::check_global(&data).map_err(Problem::Pax)?,
        b'x' => extensions.pax = Some(Pax::parse(&data, limits).map_err(Problem::Pax)?),
        _ => {
            // The NUL at the end belongs to the format, any other to the name.
            // Without it tarfile reads on.
            if data.pop() != Some(0) {
                return Err(Problem::Unterminated);
            }
            match typeflag {
                b'L' => extensions.name = Some(data),
                _ => extensions.link = Some(data),
            }
        }
    }
    Ok(())
}

/// Reads one entry's data. An archive that ends within is an error of the
/// kind [`io::ErrorKind::UnexpectedEof`].
pub struct Data<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let archive = &mut *self.0;
        let wanted = archive.data.min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        match archive.blocks.read(&mut buffer[..wanted]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, archive.blocks.truncated())),
            Ok(count) => {
                archive.data -= count as u64;
                Ok(count)
            }
            Err(TarError::Read { source, .. }) => Err(source),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}
