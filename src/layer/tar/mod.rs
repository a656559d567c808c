//! A strict reader of tar archives (image-spec, layer.md; POSIX pax; GNU tar).
//!
//! In: the bytes of one changeset. Out: one [`Entry`] after another, its data
//! through [`Archive::data`]. Invariant: whatever tar parsers are known to
//! read in different ways is an error here, so this reader sees what every
//! other one saw, or nothing; and no memory is taken because a header claims
//! a size.
//!
//! What is read:
//!
//! | | |
//! |---|---|
//! | headers | ustar, GNU, and V7 (no magic); unsigned checksum; octal or positive base-256 numbers |
//! | entries | `0` and NUL (file; NUL with a trailing slash: directory), `1`, `2`, `3`, `4`, `5`, `6` |
//! | extensions | one pax `x`, or one GNU `L` and one `K`, directly before their entry; `g` with keys that change nothing |
//! | end | zero blocks to the end of the file, or that end itself, on a block boundary or right after the last data |
//!
//! What is refused: every other type (`7`, `S` and the other sparse forms,
//! `D`, `M`, `N`, `V`, `X` …), a size other than 0 on anything but a file
//! (archives differ in whether data follows then), extensions that conflict,
//! repeat or belong to nothing, and bytes other than zero after the end.

mod archive;
mod blocks;
mod entry;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod header;
mod number;
pub(in crate::layer) mod path;
mod pax;

pub use archive::{Archive, Data};
pub use entry::{Entry, Kind};
pub use error::{PaxProblem, Problem, TarError};
pub use number::NumberProblem;
pub use path::{EntryPath, PathProblem};

#[cfg(test)]
mod tests;
