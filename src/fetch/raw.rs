//! The `squashfs:` transport: one file that is, or holds, a squashfs.
//!
//! In: a regular file. Out: an image without documents, whose digest is that
//! of the file. What is in the file is not looked at here. Invariant: the
//! digest is of all bytes, and whoever uses the file checks it once more.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use super::document::{Chosen, Parts};
use super::error::Cause;
use crate::limits::{Bound, Limits};
use crate::oci::{Descriptor, Digest, HashingWriter};
use crate::store::{Blob, open_regular};

/// What the file is called where a media type is asked for.
const MEDIA_TYPE: &str = "application/vnd.squashfs";

/// Reads the file once, for its digest. One that is longer than an image may
/// be is refused before that: a sparse file of any length costs nothing.
pub(super) fn resolve(path: &Path, limits: &Limits) -> Result<Chosen, Cause> {
    let failed = |source| Cause::Read { path: path.into(), source };
    let file = open_regular(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    limits.check(Bound::PackedBytes, length).map_err(Cause::Limit)?;
    let (digest, size) = hash(file.take(length)).map_err(failed)?;
    let annotations = BTreeMap::new();
    let blob = Descriptor { media_type: MEDIA_TYPE.into(), digest, size, platform: None, annotations };
    Ok(Chosen { documents: Vec::new(), manifest: digest, parts: Parts::Squashfs(blob) })
}

/// The file that [`resolve`] has read.
pub(super) fn locate(path: &Path, wanted: &[&Descriptor]) -> Vec<Blob> {
    wanted.iter().map(|wanted| Blob::at(path, 0, wanted.size, wanted.digest)).collect()
}

fn hash(mut file: impl Read) -> io::Result<(Digest, u64)> {
    let mut hashing = HashingWriter::new(io::sink());
    io::copy(&mut file, &mut hashing)?;
    let (_, digest, size) = hashing.finish();
    Ok((digest, size))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.raw");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let refused = resolve(&path, &Limits::default());
        assert!(matches!(refused, Err(Cause::Limit(exceeded)) if exceeded.bound == Bound::PackedBytes));
        File::create(&path).unwrap().set_len(1 << 10).unwrap();
        assert!(resolve(&path, &Limits::default().with(Bound::PackedBytes, 1 << 10)).is_ok());
    }
}
