//! The `squashfs:` transport: one file that is, or holds, a squashfs.
//!
//! In: a regular file. Out: an image without documents, whose digest is that
//! of the file. What is in the file is not looked at here. Invariant: the
//! digest is of all bytes, and whoever uses the file checks it once more.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::document::{Chosen, Parts};
use super::error::Cause;
use crate::oci::{Descriptor, HashingWriter};
use crate::store::{Blob, open_regular};

/// What the file is called where a media type is asked for.
const MEDIA_TYPE: &str = "application/vnd.squashfs";

/// Reads the file once, for its digest.
pub(super) fn resolve(path: &Path) -> Result<Chosen, Cause> {
    let failed = |source| Cause::Read { path: path.into(), source };
    let (digest, size) = hash(path).map_err(failed)?;
    let annotations = BTreeMap::new();
    let blob = Descriptor { media_type: MEDIA_TYPE.into(), digest, size, platform: None, annotations };
    Ok(Chosen { documents: Vec::new(), manifest: digest, parts: Parts::Squashfs(blob) })
}

/// The file that [`resolve`] has read.
pub(super) fn locate(path: &Path, wanted: &[&Descriptor]) -> Vec<Blob> {
    wanted.iter().map(|wanted| Blob::at(path, 0, wanted.size, wanted.digest)).collect()
}

fn hash(path: &Path) -> io::Result<(crate::oci::Digest, u64)> {
    let mut file = open_regular(path)?;
    let mut hashing = HashingWriter::new(io::sink());
    io::copy(&mut file, &mut hashing)?;
    let (_, digest, size) = hashing.finish();
    Ok((digest, size))
}
