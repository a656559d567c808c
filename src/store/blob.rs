//! Blobs: content named by its digest.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Take, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Lock, Store, remove_any};
use crate::oci::{Descriptor, Digest, HashingWriter, VerifyingReader};

/// Content with a digest, somewhere in a file: in the store, in an image
/// layout or inside an archive of one. Whoever reads it to its end has
/// checked it; see [`Blob::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    path: PathBuf,
    offset: u64,
    size: u64,
    digest: Digest,
}

/// Why a blob could not be stored or read. Every variant names the blob.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("cannot write blob {digest}")]
    Write { digest: Digest, source: io::Error },
    #[error("cannot read blob {digest}")]
    Read { digest: Digest, source: io::Error },
    #[error("cannot list the blobs")]
    List { source: io::Error },
    #[error("cannot write a new blob")]
    Import { source: io::Error },
}

impl Blob {
    /// Content that lies outside the store, `size` bytes from `offset` on.
    /// Nothing of it has been checked yet.
    pub fn at(path: &Path, offset: u64, size: u64, digest: Digest) -> Self {
        Self { path: path.into(), offset, size, digest }
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens the content. The reader fails at its end if the content does not
    /// have the blob's size and digest, so nothing read from it may be used
    /// before the end was reached.
    pub fn open(&self) -> io::Result<VerifyingReader<Take<File>>> {
        let mut file = open_regular(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(VerifyingReader::new(file.take(self.size), self.digest, Some(self.size)))
    }

    /// Opens the content to read it at any place: the file, and where in it
    /// the content is. All of it was checked through this descriptor.
    pub fn open_checked(&self) -> io::Result<(File, Range<u64>)> {
        let mut file = open_regular(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        VerifyingReader::new((&file).take(self.size), self.digest, Some(self.size)).drain()?;
        Ok((file, self.offset..self.offset.saturating_add(self.size)))
    }

    /// Reads the whole content, verified, into memory. For documents, whose
    /// size the caller has bounded.
    pub fn read(&self) -> Result<Vec<u8>, BlobError> {
        let mut bytes = Vec::new();
        match self.open().and_then(|mut reader| reader.read_to_end(&mut bytes)) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(BlobError::Read { digest: self.digest, source }),
        }
    }
}

/// Opens a file that others have placed, for reading. A FIFO in its place
/// would have whoever opens it wait for a writer, for ever.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

impl Store {
    /// The stored blob with this digest. What is there was verified when it
    /// got its name.
    pub fn blob(&self, digest: &Digest) -> Option<Blob> {
        let path = self.blob_path(digest);
        let metadata = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        Some(Blob { path, offset: 0, size: metadata.len(), digest: *digest })
    }

    /// Copies `reader` into the store. The blob gets its name only after its
    /// size and digest match, so whatever lies in `blobs/` is verified.
    pub fn put_blob(&self, wanted: &Descriptor, reader: impl Read) -> Result<Blob, BlobError> {
        let digest = wanted.digest;
        let failed = |source| BlobError::Write { digest, source };
        let mut staged = self.stage().map_err(failed)?;
        let mut verified = VerifyingReader::new(reader, digest, Some(wanted.size));
        io::copy(&mut verified, &mut staged.file).map_err(failed)?;
        let path = self.blob_path(&digest);
        staged.persist(&path).map_err(failed)?;
        Ok(Blob { path, offset: 0, size: wanted.size, digest })
    }

    /// Stores what `write` produces and names it by the digest it turns out
    /// to have. For content that plywood itself makes.
    pub fn import_blob(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Blob, BlobError> {
        let failed = |source| BlobError::Import { source };
        let staged = self.stage().map_err(failed)?;
        let mut writer = HashingWriter::new(BufWriter::with_capacity(256 * 1024, &staged.file));
        write(&mut writer).and_then(|()| writer.flush()).map_err(failed)?;
        let (_, digest, size) = writer.finish();
        let path = self.blob_path(&digest);
        staged.persist(&path).map_err(failed)?;
        Ok(Blob { path, offset: 0, size, digest })
    }

    /// The digests of all blobs.
    pub fn blobs(&self) -> Result<BTreeSet<Digest>, BlobError> {
        let mut digests = BTreeSet::new();
        for algorithm in ["sha256", "sha512"] {
            let entries = fs::read_dir(self.path.join("blobs").join(algorithm))
                .map_err(|source| BlobError::List { source })?;
            for entry in entries {
                let name = entry.map_err(|source| BlobError::List { source })?.file_name();
                digests.extend(format!("{algorithm}:{}", name.to_string_lossy()).parse::<Digest>());
            }
        }
        Ok(digests)
    }

    /// Removes all blobs but `kept`.
    pub fn keep_blobs(&self, _lock: &Lock, kept: &BTreeSet<Digest>) -> Result<(), BlobError> {
        for digest in self.blobs()?.difference(kept) {
            self.remove_blob(digest).map_err(|source| BlobError::Write { digest: *digest, source })?;
        }
        Ok(())
    }

    /// Removes a blob that is no longer needed, or whatever is in its place.
    pub fn remove_blob(&self, digest: &Digest) -> io::Result<()> {
        remove_any(&self.blob_path(digest))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn descriptor(content: &[u8]) -> Descriptor {
        Descriptor {
            media_type: "text/plain".into(),
            digest: Digest::sha256(content),
            size: content.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn only_what_fits_its_descriptor_gets_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let wanted = descriptor(b"content");
        for wrong in [&b"contenu"[..], b"conten", b"contents", b""] {
            store.put_blob(&wanted, wrong).unwrap_err();
            assert_eq!(store.blob(&wanted.digest), None);
            assert_eq!(fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
        }
        let blob = store.put_blob(&wanted, &b"content"[..]).unwrap();
        assert_eq!(store.blob(&wanted.digest).as_ref(), Some(&blob));
        assert_eq!(blob.read().unwrap(), b"content");
    }

    #[test]
    fn an_imported_blob_is_named_by_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let blob = store.import_blob(|writer| writer.write_all(b"content")).unwrap();
        assert_eq!((*blob.digest(), blob.size()), (Digest::sha256(b"content"), 7));
        assert_eq!(store.blob(blob.digest()).unwrap().read().unwrap(), b"content");
        store.import_blob(|_| Err(io::ErrorKind::Other.into())).unwrap_err();
        assert_eq!(fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn a_blob_inside_an_archive_is_read_and_checked_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("archive");
        fs::write(&path, b"..content..").unwrap();
        let digest = Digest::sha256(b"content");
        assert_eq!(Blob::at(&path, 2, 7, digest).read().unwrap(), b"content");
        let (file, range) = Blob::at(&path, 2, 7, digest).open_checked().unwrap();
        assert_eq!((file.metadata().unwrap().len(), range), (11, 2..9));
        Blob::at(&path, 1, 7, digest).open_checked().unwrap_err();
        Blob::at(&path, 1, 7, digest).read().unwrap_err();
        Blob::at(&path, 6, 7, digest).read().unwrap_err();
    }
}
