//! An archive's bytes, counted.
//!
//! Owns the reader and the place in it. In: any reader. Out: blocks of 512
//! bytes and the bytes between them. Invariant: a reader that ends anywhere
//! but between blocks is [`Problem::Truncated`].

use std::io::{self, BufReader, Read};

use super::error::{Problem, TarError};
use crate::limits::{Bound, Limits};

/// Everything in an archive starts at a multiple of this.
pub(super) const BLOCK: usize = 512;

/// Headers are small, and each read below may cost a call of the kernel.
const BUFFER: usize = 64 * 1024;

pub(super) struct Blocks<R> {
    reader: BufReader<R>,
    position: u64,
}

impl<R: Read> Blocks<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER, reader), position: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.reader.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { at: self.position, source }),
            }
        }
    }

    /// The next block; `None` at the end.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(self.truncated()),
                count => filled += count,
            }
        }
        Ok(Some(block))
    }

    /// `size` bytes. Memory grows with what is there, not with `size`.
    pub(super) fn bytes(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut bytes = Vec::new();
        self.pass(size, |chunk| bytes.extend_from_slice(chunk))?;
        Ok(bytes)
    }

    pub(super) fn skip(&mut self, size: u64) -> Result<(), TarError> {
        self.pass(size, |_| ())
    }

    /// What fills the last block of an entry's data. It may be missing as a
    /// whole where the archive ends: `umoci insert` (0.4) writes no more, and
    /// nothing could follow that readers would see differently.
    pub(super) fn skip_padding(&mut self, size: u64) -> Result<(), TarError> {
        let mut chunk = [0; BLOCK];
        let wanted = size.min(BLOCK as u64) as usize;
        match self.read(&mut chunk[..wanted])? {
            0 => Ok(()),
            count => self.skip(size - count as u64),
        }
    }

    fn pass(&mut self, size: u64, mut take: impl FnMut(&[u8])) -> Result<(), TarError> {
        let mut chunk = [0; 16 * 1024];
        let mut left = size;
        while left > 0 {
            let wanted = left.min(chunk.len() as u64) as usize;
            match self.read(&mut chunk[..wanted])? {
                0 => return Err(self.truncated()),
                count => {
                    take(&chunk[..count]);
                    left -= count as u64;
                }
            }
        }
        Ok(())
    }

    /// Reads to the end of the reader; only zeros may be there, and not more
    /// than some program pads its archives with.
    pub(super) fn zeros(&mut self, limits: &Limits) -> Result<(), TarError> {
        let mut chunk = [0; 16 * 1024];
        let start = self.position;
        loop {
            let at = self.position;
            let count = self.read(&mut chunk)?;
            if count == 0 {
                return Ok(());
            }
            if let Some(offset) = chunk[..count].iter().position(|&byte| byte != 0) {
                return Err(TarError::Archive { at: at + offset as u64, problem: Problem::AfterEnd });
            }
            limits
                .check(Bound::Padding, self.position - start)
                .map_err(|exceeded| TarError::Archive { at, problem: Problem::Limit(exceeded) })?;
        }
    }

    pub(super) fn truncated(&self) -> TarError {
        TarError::Archive { at: self.position, problem: Problem::Truncated }
    }
}

/// What fills the last block of `size` bytes.
pub(super) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
