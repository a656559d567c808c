//! Why an image cannot be fetched.
//!
//! In: failures of registries, layouts, archives and the store. Out:
//! [`FetchError`], which names the image, around a [`Cause`], which names the
//! place. Invariant: no text here holds a secret, and all foreign text is
//! escaped.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::archive::ArchiveError;
use super::directory::DirectoryError;
use super::registry::EndpointError;
use crate::limits::Exceeded;
use crate::oci::{Digest, DocumentError, ImageConfigError, ImageSource, Mismatch};
use crate::store::BlobError;
use crate::text::Escaped;

/// An image that cannot be fetched.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch {}", Escaped::new(&.image.to_string()))]
pub struct FetchError {
    pub image: ImageSource,
    #[source]
    pub cause: Box<Cause>,
}

impl FetchError {
    /// For `map_err`: what stood in the way of `image`.
    pub(super) fn of(image: &ImageSource) -> impl Fn(Cause) -> Self + Copy + '_ {
        |cause| Self { image: image.clone(), cause: Box::new(cause) }
    }
}

/// A file that cannot be fetched by its URL.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch {}", Escaped::new(.url))]
pub struct FileError {
    /// Without its query.
    pub url: String,
    pub source: EndpointError,
}

/// What stood in the way. Most variants say what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("no endpoint delivered {what}: {}", Listed(.attempts))]
    Endpoints { what: String, attempts: Vec<Attempt> },
    #[error("no endpoint is configured for this registry: its mirror has none and skips the fallback")]
    NoEndpoint,
    #[error("every endpoint has already delivered something else for {what}")]
    Distrusted { what: String },
    #[error("document {digest} is of no use")]
    Document { digest: Digest, source: DocumentError },
    #[error("`{}` is of no use", Escaped::new(.file))]
    LayoutDocument { file: String, source: DocumentError },
    #[error("image config {digest} is of no use")]
    ImageConfig { digest: Digest, source: ImageConfigError },
    #[error("document {digest} is not what its descriptor says")]
    Content { digest: Digest, source: Mismatch },
    #[error("document {digest} has {size} bytes")]
    DocumentSize { digest: Digest, size: u64, source: Exceeded },
    #[error(transparent)]
    Limit(Exceeded),
    #[error("its config is of the type `{}`, not of that of a container image", Escaped::new(.media_type))]
    NotAnImage { media_type: String },
    #[error("document {digest} is not in the store")]
    NotStored { digest: Digest },
    #[error("cannot keep or read back a blob")]
    Store(#[source] BlobError),
    #[error("cannot read {}", Escaped::new(.path.as_os_str().as_encoded_bytes()))]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a usable archive", Escaped::new(.path.as_os_str().as_encoded_bytes()))]
    Archive { path: PathBuf, source: ArchiveError },
    #[error("`{}` has {size} bytes", Escaped::new(.file))]
    LayoutSize { file: String, size: u64, source: Exceeded },
    #[error("`{}` {problem}", Escaped::new(.file))]
    Layout { file: String, problem: &'static str },
    #[error("it has no image `{}`; it has {has}", Escaped::new(.name))]
    NoSuchName { name: String, has: String },
    #[error("it has several images, name one of {has}")]
    Ambiguous { has: String },
    #[error("blob {digest} has {actual} bytes, its descriptor says {expected}")]
    BlobSize { digest: Digest, expected: u64, actual: u64 },
    #[error("blob {digest} has {actual} bytes in place of the {expected} that were found before")]
    Changed { digest: Digest, expected: u64, actual: u64 },
    #[error("changeset {number} is not what its descriptor says")]
    Changeset { number: usize, source: io::Error },
    #[error("cannot pack the directory")]
    Directory(#[source] DirectoryError),
}

/// One endpoint that did not deliver.
#[derive(Debug)]
pub struct Attempt {
    /// URL without userinfo and query.
    pub endpoint: String,
    pub error: EndpointError,
}

/// Each endpoint with its own chain of causes, because one `source` could
/// tell of only one of them.
struct Listed<'a>(&'a [Attempt]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Attempt { endpoint, error }) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {error}", Escaped::new(endpoint))?;
            let mut error = error;
            // What is ours is escaped already.
            while let Some(below) = error.below() {
                write!(f, ": {below}")?;
                error = below;
            }
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                write!(f, ": {}", Escaped::new(&cause.to_string()))?;
                source = cause.source();
            }
        }
        Ok(())
    }
}
