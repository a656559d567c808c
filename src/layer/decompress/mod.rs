//! Changeset blobs decompressed while they are read.
//!
//! In: a reader of the blob and the compression that its media type names;
//! nothing is guessed from the bytes. Out: a reader of the tar. Invariant:
//! the end of the tar is reported only after every checksum matched and the
//! blob was read to its own end, so that a verifying reader below has seen
//! all of it. Each read costs bounded memory: 64 KiB of input, and the
//! window, which is 32 KiB in gzip and limited in zstd.

mod gzip;
mod input;
mod zstd;

use std::io::{self, Read};

use gzip::Gzip;
use input::Input;
use zstd::Zstd;

use crate::limits::{Exceeded, Limits};
use crate::oci::Compression;

/// Why a blob cannot be decompressed. Places are byte offsets in the blob.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecompressError {
    #[error("gzip: {problem} at byte {at}")]
    Gzip { at: u64, problem: GzipProblem },
    /// `at` is where the frame starts: the library does not say more.
    #[error("zstd: {problem} in the frame at byte {at}")]
    Zstd { at: u64, problem: ZstdProblem },
}

/// What is wrong with a gzip file (RFC 1952).
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum GzipProblem {
    #[error("truncated")]
    Truncated,
    #[error("no gzip member")]
    Magic,
    #[error("unknown compression method or reserved flag")]
    Header,
    #[error("header field of {0}")]
    HeaderTooLong(Exceeded),
    #[error("header checksum mismatch")]
    HeaderChecksum,
    #[error("corrupt deflate stream")]
    Deflate,
    #[error("checksum mismatch")]
    Checksum,
    #[error("length mismatch")]
    Length,
}

/// What is wrong with a zstd file (RFC 8878).
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ZstdProblem {
    #[error("truncated")]
    Truncated,
    #[error("no memory for the decoder")]
    Memory,
    #[error("window of {0}")]
    Window(Exceeded),
    #[error("dictionary required")]
    Dictionary,
    #[error("checksum mismatch")]
    Checksum,
    #[error("no zstd frame")]
    Magic,
    /// The library's own words.
    #[error("{0}")]
    Frame(&'static str),
}

impl From<DecompressError> for io::Error {
    fn from(error: DecompressError) -> Self {
        let kind = match error {
            DecompressError::Gzip { problem: GzipProblem::Truncated, .. }
            | DecompressError::Zstd { problem: ZstdProblem::Truncated, .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Reads what a blob decompresses to. Errors are [`DecompressError`]s inside
/// [`io::Error`]s, or the blob reader's own.
pub struct Decompressor<R>(Codec<R>);

enum Codec<R> {
    None(R),
    Gzip(Gzip<R>),
    Zstd(Zstd<R>),
}

impl<R: Read> Decompressor<R> {
    /// How much comes out is for the caller to bound; the limits here are those
    /// of the formats' own fields.
    pub fn new(compression: Compression, blob: R, limits: &Limits) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::None => Codec::None(blob),
            Compression::Gzip => Codec::Gzip(Gzip::new(Input::new(blob), limits)),
            Compression::Zstd => Codec::Zstd(Zstd::new(Input::new(blob), limits)?),
        }))
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match &mut self.0 {
            Codec::None(blob) => blob.read(buffer),
            Codec::Gzip(gzip) => gzip.read(buffer),
            Codec::Zstd(zstd) => zstd.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests;
