//! Image → one squashfs → Layer.
//!
//! In: an [`Image`](crate::fetch::Image), whose changesets are read once each
//! and whose squashfs is checked, then read, and a staging file from the store.
//! Out: a numbered, immutable squashfs with the extension's manifest beside it.
//! Invariant: what is in a layer has passed every rule, and the same image with
//! the same options gives the same bytes on any machine.

mod build;
pub mod changeset;
pub mod decompress;
pub mod manifest;
mod meter;
mod places;
pub mod raw;
mod room;
pub mod rules;
pub mod service;
pub mod squashfs;
pub mod tar;
pub mod tree;
mod unpack;
mod verity;
pub mod version;

pub use build::{BuildError, Builder, Cause, Recipe, Unfit, Verity, check_fits, manifest_of};
pub use verity::write_hash_tree;
