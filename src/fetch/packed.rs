//! Where an image's blobs are read from.
//!
//! In: a blob in a file, or one that is still in its registry. Out: one kind
//! of reader for both. Invariant: the end of a reader is reported only if the
//! content has the blob's size and digest.

use std::fs::File;
use std::io::{self, Read, Take};

use super::FetchError;
use super::registry::{Failure, Hope, Remote, Stream};
use crate::oci::{Digest, ImageSource, VerifyingReader};
use crate::store::{Blob, BlobError};

/// A blob as its image's manifest names it, mostly a compressed tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed<'f>(Place<'f>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place<'f> {
    File(Blob),
    Registry(Remote<'f>),
}

/// Reads a blob. Nothing read from it may be used before its end was reached.
pub struct Reader<'p>(Source<'p>);

enum Source<'p> {
    File(VerifyingReader<Take<File>>),
    Registry(Box<Stream<'p>>),
}

/// Why a blob did not come while it was read, told by the registry client.
pub struct Interrupted {
    pub error: FetchError,
    /// What came was not the blob, and some endpoint may still have it: it may
    /// be [fetched](super::Fetcher::fetch) from one endpoint after the other.
    pub elsewhere: bool,
}

impl<'f> Packed<'f> {
    pub(super) fn remote(remote: Remote<'f>) -> Self {
        Self(Place::Registry(remote))
    }

    pub(super) fn into_file(self) -> Option<Blob> {
        match self.0 {
            Place::File(blob) => Some(blob),
            Place::Registry(_) => None,
        }
    }

    pub fn digest(&self) -> &Digest {
        match &self.0 {
            Place::File(blob) => blob.digest(),
            Place::Registry(remote) => &remote.wanted().digest,
        }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Place::File(blob) => blob.size(),
            Place::Registry(remote) => remote.wanted().size,
        }
    }

    /// Opens the content at its start. A registry is asked at the first read.
    pub fn open(&self) -> io::Result<Reader<'_>> {
        Ok(Reader(match &self.0 {
            Place::File(blob) => Source::File(blob.open()?),
            Place::Registry(remote) => Source::Registry(Box::new(remote.open())),
        }))
    }

    /// How many blobs like this one may be read at a time.
    pub(super) fn at_a_time(&self) -> usize {
        match &self.0 {
            Place::File(_) => usize::MAX,
            Place::Registry(remote) => remote.at_a_time(),
        }
    }

    /// The whole content, verified, in memory. For small ones.
    pub fn read(&self) -> Result<Vec<u8>, BlobError> {
        let mut bytes = Vec::new();
        match self.open().and_then(|mut reader| reader.read_to_end(&mut bytes)) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(BlobError::Read { digest: *self.digest(), source }),
        }
    }

    /// What the registry client has to say about the last reader's failure.
    pub(super) fn take_failure(&self, image: &ImageSource) -> Option<Interrupted> {
        let Place::Registry(remote) = &self.0 else { return None };
        let Failure { cause, hope } = remote.take_failure()?;
        Some(Interrupted { error: FetchError::of(image)(cause), elsewhere: hope == Hope::Elsewhere })
    }
}

impl From<Blob> for Packed<'_> {
    fn from(blob: Blob) -> Self {
        Self(Place::File(blob))
    }
}

impl Reader<'_> {
    /// Reads what the consumer left, so that the check at the end happens.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::File(reader) => reader.read(buffer),
            Source::Registry(stream) => stream.read(buffer),
        }
    }
}
