//! What can be wrong with an image that is read.

use std::io;

use crate::layer::tar::path::PathProblem;
use crate::limits::Exceeded;
use crate::text::Escaped;

/// Why an image cannot be read. Places are bytes from the image's start.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {length} bytes at byte {at}")]
    Read { at: u64, length: usize, source: io::Error },
    #[error("{length} bytes are wanted at byte {at}, but it has {size}")]
    Beyond { at: u64, length: u64, size: u64 },
    #[error("it is no squashfs 4.0 image")]
    NotSquashfs,
    #[error("it is compressed with {0}; gzip, lz4, xz and zstd can be read")]
    Compressor(&'static str),
    #[error("its superblock {0}")]
    Superblock(&'static str),
    #[error("the block at byte {at} cannot be decompressed")]
    Decompress { at: u64, source: io::Error },
    #[error("the metadata block at byte {at} {problem}")]
    Metadata { at: u64, problem: &'static str },
    #[error("the data block at byte {at} {problem}")]
    Data { at: u64, problem: &'static str },
    #[error("{what} {index} is wanted, but there are {count}")]
    Index { what: &'static str, index: u32, count: u32 },
    #[error("inode {number} {problem}")]
    Inode { number: u32, problem: &'static str },
    #[error("its extended attributes {0}")]
    Xattrs(&'static str),
    #[error("its listing {0}")]
    Listing(&'static str),
    #[error("its name {0}")]
    Name(PathProblem),
    #[error("`{}`", Escaped::new(.path))]
    At { path: Vec<u8>, source: Box<ReadError> },
    #[error(transparent)]
    Limit(#[from] Exceeded),
}

impl ReadError {
    /// For `map_err`: what is wrong at `path`.
    pub(super) fn at(path: &[u8]) -> impl Fn(Self) -> Self + '_ {
        |source| Self::At { path: path.into(), source: Box::new(source) }
    }
}
