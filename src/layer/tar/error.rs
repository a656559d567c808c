//! What can be wrong with an archive.

use std::io;

use super::number::NumberProblem;
use super::path::PathProblem;
use crate::limits::Exceeded;
use crate::text::Escaped;

/// Why an archive is refused. `at` is the byte in the archive where the
/// header in question starts, or where the reader was.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("cannot read the tar at byte {at}")]
    Read { at: u64, source: io::Error },
    #[error("tar: {problem} at byte {at}")]
    Archive { at: u64, problem: Problem },
    #[error("tar entry `{}` at byte {at}: {problem}", Escaped::new(.name))]
    Entry { at: u64, name: Vec<u8>, problem: Problem },
}

/// What is wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Problem {
    #[error("truncated")]
    Truncated,
    #[error("bytes other than zero after the end of the archive")]
    AfterEnd,
    #[error("{0},")]
    Limit(Exceeded),
    #[error("header checksum mismatch")]
    Checksum,
    #[error("unknown header format")]
    Magic,
    #[error("name prefix in a header of a format without one")]
    Prefix,
    #[error("name prefix that runs into the times of a header as star writes it")]
    StarPrefix,
    #[error("{field} {problem}")]
    Number { field: &'static str, problem: NumberProblem },
    #[error("unsupported entry type `{}`", Escaped::new(&[*.0]))]
    Type(u8),
    #[error("an extended name for an entry of the old type NUL")]
    OldType,
    #[error("sparse files are not supported")]
    Sparse,
    #[error("the name {0}")]
    Name(PathProblem),
    #[error("the hard link's target {0}")]
    LinkTarget(PathProblem),
    #[error("the symlink's target is empty or has control characters")]
    SymlinkTarget,
    #[error("the symlink's target takes {0}")]
    LongSymlinkTarget(Exceeded),
    #[error("only a directory may be the root")]
    Root,
    #[error("the name of something other than a directory ends in a slash")]
    TrailingSlash,
    #[error("only a file may have data, this has {0} bytes")]
    UnexpectedData(u64),
    #[error("extension header of {size} bytes, {exceeded}")]
    ExtensionTooLong { size: u64, exceeded: Exceeded },
    #[error("extension header of type `{}` in a header of another format", Escaped::new(&[*.0]))]
    ExtensionFormat(u8),
    #[error("bytes other than zero in the padding of an extension header")]
    ExtensionPadding,
    #[error("long name without a NUL at its end")]
    Unterminated,
    #[error("extension headers that conflict or repeat")]
    ExtensionConflict,
    #[error("extension header without an entry")]
    DanglingExtension,
    #[error("link name extension for something that is not a link")]
    DanglingLink,
    #[error("pax header: {0}")]
    Pax(PaxProblem),
}

/// What is wrong with a pax header.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PaxProblem {
    #[error("malformed record")]
    Record,
    #[error("malformed value of `{}`", Escaped::new(.0))]
    Value(Vec<u8>),
    #[error("`{}` takes {exceeded},", Escaped::new(.key))]
    Limit { key: Vec<u8>, exceeded: Exceeded },
    #[error("two values of `{}`", Escaped::new(.0))]
    Repeated(Vec<u8>),
    #[error("`{}` may not be set for all entries", Escaped::new(.0))]
    Global(Vec<u8>),
    #[error("sparse files are not supported (`{}`)", Escaped::new(.0))]
    Sparse(Vec<u8>),
}
