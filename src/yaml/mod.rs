//! YAML with places, and all problems of a file at once.
//!
//! In: the bytes of a [`Source`]. Out: [`Node`]s that know their line and
//! column and keep scalars as written, a [`Cursor`] to read them by key, and a
//! [`Report`] of everything that was wrong on the way. Invariant: what a file
//! costs is bounded before it is spent, whatever its aliases say. Only the
//! event parser is foreign; types, duplicates and budgets are decided here.

mod cursor;
mod node;
mod parse;
mod problem;
#[cfg(test)]
mod tests;

pub use cursor::{Cursor, Fields};
pub use node::{Entry, Node, Scalar, ScalarKind, Value};
pub use parse::parse;
pub use problem::{Place, Problem, Problems, Report};

/// A file to read, and the name it has in messages.
#[derive(Clone)]
pub struct Source {
    /// A path or whatever else tells the user which text is meant.
    pub name: String,
    pub text: Vec<u8>,
}
