//! An image layout with one changeset, written while it is made.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use plywood::oci::{Digest, HashingWriter, Platform, manifest};
use serde_json::json;

/// Writes a layout whose changeset is what `content` writes. It is its own
/// plain tar: for a packed one the diff ID is wrong.
pub fn write_layout(layout: &Path, media_type: &str, content: impl FnOnce(&mut dyn Write)) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let staged = blobs.join("staged");
    let mut writer = HashingWriter::new(BufWriter::new(File::create(&staged).unwrap()));
    content(&mut writer);
    let (mut file, digest, size) = writer.finish();
    file.flush().unwrap();
    fs::rename(staged, blobs.join(digest.hex())).unwrap();
    let put = |document: serde_json::Value, media_type: &str| {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::sha256(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let mut config = json!(Platform::host());
    config["rootfs"] = json!({"type": "layers", "diff_ids": [digest]});
    let config = put(config, manifest::CONFIG);
    let media_type = format!("application/vnd.oci.image.layer.v1.{media_type}");
    let layers = json!([{"mediaType": media_type, "digest": digest, "size": size}]);
    let document = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let document = put(document, manifest::MANIFEST);
    let index = json!({"schemaVersion": 2, "manifests": [document]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
