//! OCI image layouts (image-spec, image-layout.md), as a directory or inside
//! a tar.
//!
//! In: [`Files`], which reads a layout's files by name. Out: the one image
//! that was asked for, or an error that lists what there is. Invariant:
//! nothing outside the layout is opened, whatever symlinks lie in it, and a
//! blob's name is made from a parsed digest.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::Selection;
use super::document::{self, Chosen, Documents};
use super::error::Cause;
use crate::limits::{Bound, Limits};
use crate::oci::manifest::{INDEX, Kind};
use crate::oci::{Descriptor, Digest, Document, DocumentError, Index, Platform};
use crate::store::Blob;
use crate::text::Escaped;

/// The annotation that names an image of a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The index that everything in a layout hangs on.
const TOP: &str = "index.json";
/// `openat2` returns EAGAIN when anything on the system is renamed meanwhile;
/// a few tries suffice.
const RESOLVE_ATTEMPTS: u32 = 16;

/// The files of a layout.
pub(super) trait Files {
    /// A whole file that is no larger than a document may be.
    fn read(&self, name: &str) -> Result<Vec<u8>, Cause>;
    /// A file as a blob, not verified yet.
    fn blob(&self, name: &str, digest: Digest) -> Result<Blob, Cause>;
}

/// Resolves the image called `name`, or the only one.
pub(super) fn resolve(files: &dyn Files, name: Option<&str>, selection: &Selection) -> Result<Chosen, Cause> {
    check_version(&files.read("oci-layout")?)?;
    let failed = |source| Cause::LayoutDocument { file: TOP.into(), source };
    let index = match Document::parse(&files.read(TOP)?, INDEX, &selection.limits).map_err(failed)? {
        Document::Index(index) => index,
        Document::Manifest(_) => return Err(broken(TOP, "is not an index")),
    };
    let top = candidate(&index, name, &selection.platform)?;
    document::choose(&Layout(files), selection, top)
}

/// Finds changesets that [`resolve`] has found before.
pub(super) fn locate(files: &dyn Files, wanted: &[&Descriptor]) -> Result<Vec<Blob>, Cause> {
    wanted.iter().map(|descriptor| Layout(files).blob(descriptor)).collect()
}

fn check_version(bytes: &[u8]) -> Result<(), Cause> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        image_layout_version: String,
    }
    let version: Version =
        serde_json::from_slice(bytes).map_err(|_| broken("oci-layout", "names no layout version"))?;
    if version.image_layout_version != "1.0.0" {
        return Err(broken("oci-layout", "names a layout version other than 1.0.0"));
    }
    Ok(())
}

fn broken(file: &str, problem: &'static str) -> Cause {
    Cause::Layout { file: file.into(), problem }
}

/// The entry of `index.json` that is meant. Entries for other platforms do
/// not count where some are for ours.
fn candidate(index: &Index, name: Option<&str>, platform: &Platform) -> Result<Descriptor, Cause> {
    let named = |entry: &&Descriptor| match name {
        Some(name) => entry.annotations.get(REF_NAME).is_some_and(|has| has == name),
        None => matches!(entry.kind(), Kind::Manifest | Kind::Index),
    };
    let mut candidates: Vec<&Descriptor> = index.manifests.iter().filter(named).collect();
    let runs = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|has| has.runs_on(platform));
    if candidates.iter().any(runs) {
        candidates.retain(runs);
    }
    candidates.dedup_by_key(|entry| entry.digest);
    match (candidates.as_slice(), name) {
        ([only], _) => match &only.platform {
            Some(has) if !has.runs_on(platform) => {
                let source = DocumentError::Platform { wanted: platform.clone(), has: has.to_string() };
                Err(Cause::LayoutDocument { file: TOP.into(), source })
            }
            _ => Ok((*only).clone()),
        },
        ([], Some(name)) => Err(Cause::NoSuchName { name: name.into(), has: names(index) }),
        ([], None) => Err(broken(TOP, "lists no images")),
        _ => Err(Cause::Ambiguous { has: names(index) }),
    }
}

fn names(index: &Index) -> String {
    let entries = index.manifests.iter();
    listed(entries.map(|entry| entry.annotations.get(REF_NAME).map_or("(unnamed)", String::as_str)))
}

/// Names for an error text, escaped, sorted, and not too many of them.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 20;
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    let left_off = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    let mut text: Vec<_> = names.iter().map(|name| Escaped::new(*name).to_string()).collect();
    if text.is_empty() {
        text.push("no names at all".into());
    }
    if left_off > 0 {
        text.push(format!("and {left_off} more"));
    }
    text.join(", ")
}

struct Layout<'a>(&'a dyn Files);

impl Layout<'_> {
    fn blob(&self, wanted: &Descriptor) -> Result<Blob, Cause> {
        let digest = wanted.digest;
        let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        let blob = self.0.blob(&name, digest)?;
        if blob.size() != wanted.size {
            return Err(Cause::BlobSize { digest, expected: wanted.size, actual: blob.size() });
        }
        Ok(blob)
    }
}

impl Documents for Layout<'_> {
    fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause> {
        let digest = wanted.digest;
        let bytes = self.0.read(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()))?;
        document::check(&bytes, wanted).map_err(|source| Cause::Content { digest, source })?;
        Ok(bytes)
    }
}

/// A layout in a directory.
pub(super) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
    limits: Limits,
}

impl Directory {
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self, Cause> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, path, flags, Mode::empty());
        match opened {
            Ok(fd) => Ok(Self { path: path.into(), fd, limits: *limits }),
            Err(errno) => Err(Cause::Read { path: path.into(), source: errno.into() }),
        }
    }

    /// Opens a regular file below the directory and tells its size.
    fn file(&self, name: &str) -> Result<(File, u64), Cause> {
        let failed = |source: io::Error| Cause::Read { path: self.path.join(name), source };
        let file = File::from(self.beneath(name).map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(broken(name, "is not a regular file"));
        }
        Ok((file, metadata.len()))
    }

    fn beneath(&self, name: &str) -> io::Result<OwnedFd> {
        // A FIFO in the file's place must not make us wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match openat2(&self.fd, name, flags, Mode::empty(), resolve) {
                Err(rustix::io::Errno::AGAIN) if attempts < RESOLVE_ATTEMPTS => {}
                result => return Ok(result?),
            }
        }
    }
}

impl Files for Directory {
    fn read(&self, name: &str) -> Result<Vec<u8>, Cause> {
        let (file, size) = self.file(name)?;
        let too_large = |source| Cause::LayoutSize { file: name.into(), size, source };
        self.limits.check(Bound::Document, size).map_err(too_large)?;
        let mut bytes = Vec::new();
        match file.take(size).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(Cause::Read { path: self.path.join(name), source }),
        }
    }

    fn blob(&self, name: &str, digest: Digest) -> Result<Blob, Cause> {
        let (_, size) = self.file(name)?;
        Ok(Blob::at(&self.path.join(name), 0, size, digest))
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
