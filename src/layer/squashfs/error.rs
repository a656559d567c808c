//! What can go wrong while an image is written.

use std::io;

use crate::text::Escaped;

/// Why an image could not be written. What concerns a name in the tree gives
/// its path from the image's root; errors of one content are to be completed
/// by whoever knows its name.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot write the image's hash tree")]
    Verity { source: io::Error },
    #[error("block size {0} is not a power of two from 4096 to 1048576")]
    BlockSize(u32),
    #[error("{compressor} has no compression level {level}")]
    Level { compressor: &'static str, level: i64 },
    #[error("cannot start a compression thread")]
    Spawn { source: io::Error },
    #[error("cannot compress a block")]
    Compress { source: io::Error },
    #[error("cannot write the image at byte {offset}")]
    Write { offset: u64, source: io::Error },
    #[error("cannot read the image back at byte {offset}")]
    ReadBack { offset: u64, source: io::Error },
    #[error("cannot read content at byte {offset}")]
    Read { offset: u64, source: io::Error },
    #[error("content ends after {actual} of {expected} bytes")]
    Short { expected: u64, actual: u64 },
    #[error("content is longer than its {expected} bytes")]
    Long { expected: u64 },
    #[error("`{}` has a name that is empty, `.`, `..`, longer than 255 bytes or contains `/` or NUL", Escaped::new(.path))]
    Name { path: Vec<u8> },
    #[error("symlink `{}` has a target that is empty, longer than 4095 bytes or contains NUL", Escaped::new(.path))]
    Target { path: Vec<u8> },
    #[error("`{}` is not a directory, file or symlink", Escaped::new(.path))]
    Kind { path: Vec<u8> },
    #[error("content of `{}` was not added to this image", Escaped::new(.path))]
    Content { path: Vec<u8> },
    /// squashfs stores the namespaces `user`, `trusted` and `security` only.
    #[error("extended attribute `{}` of `{}` cannot be stored in squashfs", Escaped::new(.name), Escaped::new(.path))]
    Xattr { path: Vec<u8>, name: Vec<u8> },
    #[error("the image has too many {0} for squashfs")]
    TooMany(&'static str),
}
