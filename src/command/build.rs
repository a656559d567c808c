//! `plywood build`: the author's side, a directory into an OCI image.
//!
//! In: a directory that holds `manifest.yaml` and `rootfs/`. Out: an image
//! layout with one gzip changeset, whose bytes depend only on the directory's
//! names, contents and permission bits. `index.json` is replaced last, so the
//! layout is whole before and after.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use crate::fetch::directory::{self, DirectoryError};
use crate::oci::{Digest, HashingWriter, Platform, manifest};
use crate::sys::leftover::Leftover;
use crate::text::Escaped;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteImageError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("cannot write {}", Escaped::path(.path))]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}", Escaped::path(.path))]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not the index of an image layout", Escaped::path(.path))]
    Index { path: PathBuf },
}

/// What [`write_image`] is told besides the directory.
#[derive(Debug)]
pub struct ImageOptions<'a> {
    pub platform: &'a Platform,
    /// Seconds since 1970, given to every file.
    pub mtime: u32,
    /// The name of the image inside the layout.
    pub tag: &'a str,
    /// Annotations of the manifest.
    pub annotations: Vec<(&'static str, String)>,
}

/// Writes the image of `source` into the layout `layout`, which is made if it
/// is missing. Returns the manifest's digest.
pub fn write_image(source: &Path, layout: &Path, options: &ImageOptions) -> Result<Digest, WriteImageError> {
    let index_path = layout.join("index.json");
    // First, so that nothing is written beside what is no layout.
    let index = read_index(&index_path)?;
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)
        .map_err(|error| WriteImageError::Write { path: blobs.clone(), source: error })?;
    let changeset = write_changeset(source, &blobs, options.mtime)?;
    let config = config_json(options.platform, &changeset.diff_id);
    let config = put(&blobs, &config)?;
    let annotations: serde_json::Map<_, _> =
        options.annotations.iter().map(|(key, value)| ((*key).into(), json!(value))).collect();
    let document = put(
        &blobs,
        &json!({
            "schemaVersion": 2,
            "mediaType": manifest::MANIFEST,
            "config": descriptor(manifest::CONFIG, &config),
            "layers": [descriptor(manifest::LAYER_GZIP, &changeset.stored)],
            "annotations": annotations,
        }),
    )?;
    replace(&layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut entry = descriptor(manifest::MANIFEST, &document);
    entry["platform"] = json!(options.platform);
    entry["annotations"] = json!({ manifest::ANNOTATION_REF_NAME: options.tag });
    replace(&index_path, with_entry(index, entry).to_string().as_bytes())?;
    Ok(document.digest)
}

/// An `index.json` with an array `manifests`.
type Index = serde_json::Map<String, Value>;

/// A blob of the layout.
struct Stored {
    digest: Digest,
    size: u64,
}

struct StoredChangeset {
    stored: Stored,
    diff_id: Digest,
}

fn write_changeset(source: &Path, blobs: &Path, mtime: u32) -> Result<StoredChangeset, WriteImageError> {
    let path = blobs.join(format!(".changeset-{}", std::process::id()));
    let staged = Leftover::new(path);
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| WriteImageError::Write { path, source }
    };
    let file = File::create(staged.path()).map_err(failed(staged.path()))?;
    let changeset = pack_changeset(source, file, mtime)?;
    let named = blobs.join(changeset.stored.digest.hex());
    fs::rename(staged.path(), &named).map_err(failed(&named))?;
    Ok(changeset)
}

fn pack_changeset(source: &Path, file: File, mtime: u32) -> Result<StoredChangeset, WriteImageError> {
    let failed = |error| WriteImageError::Write { path: source.into(), source: error };
    let packed = HashingWriter::new(BufWriter::new(file));
    // A gzip header without name and time: the same tar, the same bytes.
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(packed, Compression::default());
    let mut plain = HashingWriter::new(gzip);
    directory::write_tar(source, mtime, &mut plain)?;
    let (gzip, diff_id, _) = plain.finish();
    let (mut buffered, digest, size) = gzip.finish().map_err(failed)?.finish();
    buffered.flush().and_then(|()| buffered.get_ref().sync_all()).map_err(failed)?;
    Ok(StoredChangeset { stored: Stored { digest, size }, diff_id })
}

fn config_json(platform: &Platform, diff_id: &Digest) -> Value {
    let mut config = json!(platform);
    config["config"] = json!({});
    config["rootfs"] = json!({ "type": "layers", "diff_ids": [diff_id] });
    config
}

fn descriptor(media_type: &str, stored: &Stored) -> Value {
    json!({ "mediaType": media_type, "digest": stored.digest, "size": stored.size })
}

fn put(blobs: &Path, document: &Value) -> Result<Stored, WriteImageError> {
    let bytes = document.to_string().into_bytes();
    let stored = Stored { digest: Digest::sha256(&bytes), size: bytes.len() as u64 };
    replace(&blobs.join(stored.digest.hex()), &bytes)?;
    Ok(stored)
}

/// The entries of the layout's index, none if there is none yet.
fn read_index(path: &Path) -> Result<Index, WriteImageError> {
    let index = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            json!({ "schemaVersion": 2, "mediaType": manifest::INDEX, "manifests": [] })
        }
        Err(source) => return Err(WriteImageError::Read { path: path.into(), source }),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| WriteImageError::Read { path: path.into(), source: error.into() })?,
    };
    match index {
        Value::Object(index) if index.get("manifests").is_some_and(Value::is_array) => Ok(index),
        _ => Err(WriteImageError::Index { path: path.into() }),
    }
}

/// Adds `entry` to the index, in place of an entry with the same name and
/// platform.
fn with_entry(mut index: Index, entry: Value) -> Value {
    let same = |other: &Value| {
        other["annotations"][manifest::ANNOTATION_REF_NAME]
            == entry["annotations"][manifest::ANNOTATION_REF_NAME]
            && other["platform"] == entry["platform"]
    };
    if let Some(manifests) = index.get_mut("manifests").and_then(Value::as_array_mut) {
        manifests.retain(|other| !same(other));
        manifests.push(entry);
    }
    Value::Object(index)
}

/// After a crash the old or the new file is there, never a part.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), WriteImageError> {
    let staged = Leftover::new(path.with_extension(format!("new-{}", std::process::id())));
    File::create(staged.path())
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(staged.path(), path))
        .map_err(|source| WriteImageError::Write { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("rootfs/usr/local/bin")).unwrap();
        fs::write(directory.path().join("rootfs/usr/local/bin/tool"), "#!/bin/sh\n").unwrap();
        fs::write(directory.path().join("manifest.yaml"), "version: v1alpha1\n").unwrap();
        directory
    }

    fn write(layout: &Path, tag: &str) -> Digest {
        let platform = Platform::linux("amd64");
        let options = ImageOptions { platform: &platform, mtime: 0, tag, annotations: vec![] };
        write_image(extension().path(), layout, &options).unwrap()
    }

    #[test]
    fn the_same_directory_gives_the_same_image() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(write(one.path(), "latest"), write(two.path(), "latest"));
    }

    #[test]
    fn an_index_keeps_one_entry_a_name() {
        let layout = tempfile::tempdir().unwrap();
        for tag in ["v1", "v2", "v1"] {
            write(layout.path(), tag);
        }
        let index: Value =
            serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
        let names: Vec<_> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["annotations"][manifest::ANNOTATION_REF_NAME])
            .collect();
        assert_eq!(names, ["v2", "v1"]);
    }

    #[test]
    fn what_is_no_index_is_left_alone() {
        for (text, expected) in [
            ("[]", "is not the index of an image layout"),
            ("{}", "is not the index of an image layout"),
            ("{\"manifests\": [", "cannot read"),
            ("", "cannot read"),
        ] {
            let other = tempfile::tempdir().unwrap();
            fs::write(other.path().join("index.json"), text).unwrap();
            let platform = Platform::linux("amd64");
            let options = ImageOptions { platform: &platform, mtime: 0, tag: "v3", annotations: vec![] };
            let refused = write_image(extension().path(), other.path(), &options).unwrap_err().to_string();
            assert!(refused.contains(expected), "{text}: {refused}");
            assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
            assert_eq!(fs::read(other.path().join("index.json")).unwrap(), text.as_bytes());
        }
    }
}
