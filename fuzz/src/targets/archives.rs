//! Image archives: a tar from outside with documents and changesets in it,
//! resolved and found as a boot does it.

use std::fs;
use std::path::Path;

use plywood::fetch::{FetchError, Fetcher, Machine, Network, Selection, Silent};
use plywood::oci::{Digest, ImageSource, Platform, Registries};
use plywood::store::Store;

use super::assert_chain_printable;
use super::image::with_checksums;

const BLOCK: usize = 512;
const BLOBS: &[u8] = b"blobs/sha256/";
/// Where a header has the size of what follows.
const SIZE: std::ops::Range<usize> = 124..135;

/// The archive as it is, and with checksums and digests put right, so that
/// changes get past them.
pub fn archives(data: &[u8]) {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(&scratch.path().join("store")).unwrap();
    for bytes in [data.to_vec(), with_checksums(with_digests(data.to_vec()))] {
        let file = scratch.path().join("archive.tar");
        fs::write(&file, bytes).unwrap();
        for source in [
            ImageSource::OciArchive { file: file.clone(), name: None },
            ImageSource::OciArchive { file: file.clone(), name: Some("v1".into()) },
            ImageSource::DockerArchive { file: file.clone(), name: None },
        ] {
            if let Err(error) = open(&store, &source) {
                assert_chain_printable(&error);
            }
        }
        assert!(only_holds(scratch.path(), &["archive.tar", "store"]), "something else was written");
    }
}

/// An image has as many blobs as it was resolved to, and none is outside the
/// archive.
fn open(store: &Store, source: &ImageSource) -> Result<(), FetchError> {
    let registries = Registries::default();
    let fetcher = Fetcher::new(Machine {
        store,
        registries: &registries,
        selection: Selection::of(Platform::linux("amd64")),
        network: Network::default(),
        progress: &Silent,
    });
    let resolved = fetcher.resolve(source)?;
    let wanted = resolved.blobs().count();
    let image = fetcher.fetch(resolved)?;
    assert_eq!(image.blobs().len(), wanted);
    image.verify()
}

fn only_holds(directory: &Path, names: &[&str]) -> bool {
    fs::read_dir(directory)
        .unwrap()
        .all(|entry| names.iter().any(|name| entry.as_ref().unwrap().file_name() == *name))
}

/// Gives each blob the name that its content has, everywhere.
fn with_digests(mut archive: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some((old, size)) = archive.get(at..at + BLOCK).map(blob_at) {
        let Some(content) = archive.get(at + BLOCK..).and_then(|rest| rest.get(..size)) else { break };
        let new = Digest::sha256(content).hex().to_string();
        if let Some(old) = old.filter(|old| old.iter().all(u8::is_ascii_hexdigit)) {
            replace(&mut archive, &old, new.as_bytes());
        }
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    archive
}

/// The digest in a header's name, and the size of what follows.
fn blob_at(header: &[u8]) -> (Option<Vec<u8>>, usize) {
    let name = header[..100].strip_prefix(BLOBS).map(|rest| rest[..64].to_vec());
    let size = str::from_utf8(&header[SIZE]).ok().and_then(|size| usize::from_str_radix(size, 8).ok());
    (name, size.unwrap_or(0))
}

fn replace(archive: &mut [u8], old: &[u8], new: &[u8]) {
    let mut at = 0;
    while at + old.len() <= archive.len() {
        // Comparisons of memory are what cost most under the fuzzer.
        if archive[at] == old[0] && archive[at..].starts_with(old) {
            archive[at..at + old.len()].copy_from_slice(new);
            at += old.len();
        } else {
            at += 1;
        }
    }
}
