//! The OCI specifications' formats as types, without I/O.
//!
//! In: bytes and text as a registry, a layout or a user gives them. Out: types
//! that hold only what the specs allow. Whatever names a file or a URL part is
//! made from these types, never from foreign text.

mod digest;
mod image_config;
pub mod manifest;
mod platform;
mod reference;
pub mod referrers;
pub mod registries;
mod spelling;

pub use digest::{Algorithm, Digest, DigestError, Hasher, HashingWriter, Mismatch, VerifyingReader};
pub use image_config::{ImageConfig, ImageConfigError, chain_id};
pub use manifest::{Compression, Descriptor, Document, DocumentError, Index, Manifest};
pub use platform::Platform;
pub use reference::{ImageSource, Reference, ReferenceError};
pub use registries::Registries;
