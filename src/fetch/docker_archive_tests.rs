use super::*;
use crate::fetch::archive::tests::entry;
use crate::fetch::document::Parts;
use crate::oci::Compression;
use crate::oci::{Digest, Platform};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

struct Written {
    directory: tempfile::TempDir,
}

impl Written {
    fn path(&self) -> PathBuf {
        self.directory.path().join("a.tar")
    }
}

/// An archive of one image with these changesets and this `manifest.json`.
fn write(contents: &[&[u8]], manifest: &Value) -> Written {
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": contents.iter().map(|c| Digest::sha256(c)).collect::<Vec<_>>()},
    });
    let mut tar = entry("config.json", b'0', config.to_string().as_bytes());
    for (number, content) in contents.iter().enumerate() {
        tar.extend(entry(&format!("{number}/layer.tar"), b'0', content));
    }
    tar.extend(entry("manifest.json", b'0', manifest.to_string().as_bytes()));
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.tar"), tar).unwrap();
    Written { directory }
}

fn image(tags: Value) -> Value {
    json!({"Config": "config.json", "RepoTags": tags, "Layers": ["0/layer.tar", "1/layer.tar"]})
}

const CONTENTS: [&[u8]; 2] = [b"plain", b"\x1f\x8bpacked"];

#[test]
fn the_same_content_has_the_same_digest() {
    let amd64 = Selection::of(Platform::linux("amd64"));
    let first = write(&CONTENTS, &json!([image(json!(["tools:1"]))]));
    let chosen = resolve(&first.path(), None, &amd64).unwrap();
    let Parts::Changesets(changesets) = &chosen.parts else { panic!("no changesets") };
    let compressions: Vec<_> = changesets.iter().map(|changeset| changeset.compression).collect();
    assert_eq!(compressions, [Compression::None, Compression::Gzip]);
    let renamed = write(&CONTENTS, &json!([image(json!(null))]));
    assert_eq!(resolve(&renamed.path(), None, &amd64).unwrap().manifest, chosen.manifest);
    let other = write(&[b"plain", b"other"], &json!([image(json!(["tools:1"]))]));
    assert_ne!(resolve(&other.path(), None, &amd64).unwrap().manifest, chosen.manifest);
    let wanted = chosen.parts.blobs();
    let open = |written: &Written| Archive::open(&written.path(), &amd64.limits).unwrap();
    let blobs = locate(&open(&first), None, &wanted).unwrap();
    let contents: Vec<_> = blobs.iter().map(|blob| blob.read().unwrap()).collect();
    assert_eq!(contents, CONTENTS);
    // `other` has a changeset of another size by now.
    assert!(matches!(locate(&open(&other), None, &wanted), Err(Cause::Changed { .. })));
}

#[test]
fn an_archive_must_hold_the_image_that_was_meant() {
    let both = json!([image(json!(["tools:1"])), image(json!(["tools:2", "tools:latest"]))]);
    let missing = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["2/layer.tar"]}]);
    let fewer = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["0/layer.tar"]}]);
    for (manifest, name, error) in [
        (both.clone(), Some("tools:2"), None),
        (both.clone(), None, Some("name one of tools:1, tools:2, tools:latest")),
        (both, Some("tools:3"), Some("it has no image `tools:3`")),
        (json!([]), None, Some("lists no images")),
        (json!({}), None, Some("not that of a Docker archive")),
        (missing, None, Some("is not a usable archive")),
        (fewer, None, Some("is of no use")),
    ] {
        let written = write(&CONTENTS, &manifest);
        match (resolve(&written.path(), name, &Selection::of(Platform::linux("amd64"))), error) {
            (Ok(_), None) => {}
            (Err(cause), Some(error)) => assert!(cause.to_string().contains(error), "{cause}"),
            (Ok(_), Some(error)) => panic!("{error}: resolved"),
            (Err(cause), None) => panic!("{cause}"),
        }
    }
}
