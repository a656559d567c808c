use super::*;
use crate::fetch::archive::tests::entry as tar_entry;
use crate::fetch::{Fetcher, Machine, Network, Silent};
use crate::oci::manifest::{CONFIG, LAYER_GZIP, MANIFEST};
use crate::oci::{ImageSource, Registries};
use crate::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

/// A layout's files by name.
#[derive(Clone)]
struct Built {
    files: BTreeMap<String, Vec<u8>>,
    entries: Vec<Value>,
}

impl Built {
    fn new() -> Self {
        let version = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        Self { files: BTreeMap::from([("oci-layout".into(), version)]), entries: Vec::new() }
    }

    fn with(architecture: &str, name: Option<&str>) -> Self {
        let mut built = Self::new();
        built.add(architecture, name);
        built
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        self.files.insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds an image whose only changeset holds the architecture's name.
    fn add(&mut self, architecture: &str, name: Option<&str>) {
        let content = architecture.as_bytes();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(content)]},
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let layer = self.blob(LAYER_GZIP, content);
        self.manifest(json!({"schemaVersion": 2, "config": config, "layers": [layer]}), name);
    }

    fn manifest(&mut self, manifest: Value, name: Option<&str>) {
        let mut entry = self.blob(MANIFEST, manifest.to_string().as_bytes());
        if let Some(name) = name {
            entry["annotations"] = json!({REF_NAME: name});
        }
        self.entries.push(entry);
    }

    /// Puts the entries so far into an index of their own.
    fn nested(mut self) -> Self {
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        let entry = self.blob(INDEX, index.to_string().as_bytes());
        Self { entries: vec![entry], ..self }
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let index = json!({"schemaVersion": 2, "manifests": self.entries}).to_string();
        let mut files = self.files.clone();
        files.entry("index.json".into()).or_insert(index.into_bytes());
        files
    }

    fn write(&self, directory: &Path) {
        for (name, bytes) in self.files() {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn tar(&self) -> Vec<u8> {
        self.files().iter().flat_map(|(name, bytes)| tar_entry(name, b'0', bytes)).collect()
    }
}

/// Fetches and reads the only changeset; an error comes as its whole chain.
fn fetch(source: &ImageSource) -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let (store, registries) = (Store::open(directory.path()).unwrap(), Registries::default());
    let fetcher = Fetcher::new(Machine {
        store: &store,
        registries: &registries,
        selection: Selection::of(Platform::linux("amd64")),
        network: Network::default(),
        progress: &Silent,
    });
    let image = fetcher.resolve(source).and_then(|resolved| fetcher.fetch(resolved));
    let image = image.map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        text
    })?;
    assert_eq!(image.changesets().len(), 1);
    let bytes = image.changesets()[0].blob().read().map_err(|error| error.to_string())?;
    Ok(String::from_utf8(bytes).unwrap())
}

/// Fetches from a layout as a directory and as an archive.
fn fetch_both(built: &Built, name: Option<&str>) -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    built.write(&directory.path().join("layout"));
    let file = directory.path().join("layout.tar");
    fs::write(&file, built.tar()).unwrap();
    let name = name.map(str::to_string);
    let layout = ImageSource::OciLayout { directory: directory.path().join("layout"), name: name.clone() };
    let archive = ImageSource::OciArchive { file, name };
    let (layout, archive) = (fetch(&layout), fetch(&archive));
    assert_eq!(layout.is_ok(), archive.is_ok(), "{layout:?} {archive:?}");
    layout
}

#[test]
fn the_image_that_was_meant_is_taken() {
    let mut named = Built::with("amd64", Some("v1"));
    named.add("arm64", Some("v2"));
    let mut twice = Built::with("amd64", Some("v1"));
    twice.entries.push(twice.entries[0].clone());
    let mut platforms = Built::with("amd64", Some("v1"));
    platforms.add("arm64", Some("v1"));
    platforms.entries[0]["platform"] = json!({"os": "linux", "architecture": "amd64"});
    platforms.entries[1]["platform"] = json!({"os": "linux", "architecture": "arm64"});
    for (what, built, name) in [
        ("the only one", Built::with("amd64", None), None),
        ("the only one, named", Built::with("amd64", Some("v1")), None),
        ("one of several names", named, Some("v1")),
        ("the same image twice", twice, Some("v1")),
        ("one of several platforms", platforms.clone(), Some("v1")),
        ("one of several platforms, unnamed", platforms.clone(), None),
        ("in a nested index", platforms.nested(), None),
        ("in a doubly nested index", Built::with("amd64", None).nested().nested(), None),
    ] {
        assert_eq!(fetch_both(&built, name).as_deref(), Ok("amd64"), "{what}");
    }
}

#[test]
fn a_broken_layout_is_refused() {
    let good = || Built::with("amd64", Some("v1"));
    let file = |name: &str, bytes: &[u8]| {
        let mut built = good();
        built.files.insert(name.into(), bytes.to_vec());
        built
    };
    let corrupt = |change: fn(&mut Vec<u8>)| {
        let mut built = good();
        let digest: Digest = built.entries[0]["digest"].as_str().unwrap().parse().unwrap();
        change(built.files.get_mut(&format!("blobs/sha256/{}", digest.hex())).unwrap());
        built
    };
    let mut changeset = good();
    changeset.files.insert(format!("blobs/sha256/{}", Digest::sha256(b"amd64").hex()), b"amd46".to_vec());
    let mut longer = good();
    let layer = format!("blobs/sha256/{}", Digest::sha256(b"amd64").hex());
    longer.files.insert(layer, b"amd64x".to_vec());
    let mut two = good();
    two.add("arm64", Some("v2\x1b"));
    let mut foreign = good();
    foreign.entries[0]["platform"] = json!({"os": "linux", "architecture": "arm64"});
    let mut artifact = Built::new();
    let config = artifact.blob("application/vnd.oci.empty.v1+json", b"{}");
    let layers = [artifact.blob(LAYER_GZIP, b"x"), artifact.blob(LAYER_GZIP, b"y")];
    artifact.manifest(json!({"schemaVersion": 2, "config": config, "layers": layers}), None);
    let mut odd = Built::new();
    let config = odd.blob("application/x-odd", b"{}");
    let layer = odd.blob(LAYER_GZIP, b"x");
    odd.manifest(json!({"schemaVersion": 2, "config": config, "layers": [layer]}), None);
    let mut many = good();
    many.entries = vec![many.entries[0].clone(); 1001];
    let mut huge = good();
    huge.entries[0]["size"] = json!(5 << 20);
    let mut traversal = good();
    traversal.entries[0]["digest"] = json!("sha256:../../../../etc/passwd");
    for (built, name, error) in [
        (file("oci-layout", b"{}"), None, "`oci-layout` names no layout version"),
        (file("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#), None, "other than 1.0.0"),
        (file("index.json", b"<html>"), None, "`index.json` is of no use: it is not valid JSON"),
        (file("index.json", br#"{"schemaVersion":2,"manifests":[]}"#), None, "lists no images"),
        (
            many,
            Some("v1"),
            "`index.json` is of no use: it lists 1001 descriptors, more than the limit of 1000",
        ),
        (good(), Some("v3"), "it has no image `v3`; it has v1"),
        (two.clone(), None, r"it has several images, name one of v1, v2\x1b"),
        (Built::with("arm64", None), None, "it is for linux/arm64, this machine needs linux/amd64"),
        (foreign, None, "no image for linux/amd64; it has linux/arm64"),
        (corrupt(|bytes| bytes[0] = b' '), None, "has digest"),
        (corrupt(|bytes| bytes.push(b' ')), None, "is longer than"),
        (corrupt(|bytes| bytes.truncate(9)), None, "ends after"),
        (changeset, None, "cannot read blob"),
        (longer, None, "has 6 bytes, its descriptor says 5"),
        (artifact, None, "its config is of the type `application/vnd.oci.empty.v1+json`"),
        (odd, None, "its config is of the type `application/x-odd`"),
        (huge, None, "has 5242880 bytes: more than the limit of 4MiB for one manifest"),
        (traversal, None, "is not a digest"),
    ] {
        let result = fetch_both(&built, name).unwrap_err();
        assert!(result.contains(error), "{error}: {result}");
    }
}

#[test]
fn a_symlink_does_not_lead_out_of_the_layout() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    Built::with("amd64", None).write(&layout);
    let blobs = layout.join("blobs/sha256");
    let source = ImageSource::OciLayout { directory: layout.clone(), name: None };
    fetch(&source).unwrap();
    let layer = blobs.join(Digest::sha256(b"amd64").hex());
    let outside = directory.path().join("outside");
    fs::rename(&layer, &outside).unwrap();
    for (target, follows) in [
        (outside.as_path(), false),
        (Path::new("../../../outside"), false),
        (Path::new("../../inside"), true),
    ] {
        fs::copy(&outside, layout.join("inside")).unwrap();
        std::os::unix::fs::symlink(target, &layer).unwrap();
        assert_eq!(fetch(&source).is_ok(), follows, "{}", target.display());
        fs::remove_file(&layer).unwrap();
    }
}
