//! Layers on disk: an immutable squashfs and a record beside it.
//!
//! `layers/<key>.sqsh` is the image, `layers/<key>.json` the [`LayerRecord`],
//! `layers/<key>.verity` the image's dm-verity tree. The image gets its name
//! last, so whatever lies there without one was never finished.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Lock, Staged, Store, record, remove_any, sync_parent};
use crate::oci::{Digest, VerifyingReader};
use crate::sys::threads;
use crate::text::Escaped;

/// Version of [`LayerRecord`]; a newer one is not read.
const RECORD_FORMAT: u32 = 1;

/// What a layer was made from and how, as one digest. The same key stands for
/// the same bytes, so a layer whose key is in the store is not built again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerKey(Digest);

impl LayerKey {
    /// The key for everything that decides a layer's bytes, as one text.
    pub fn of(ingredients: &str) -> Self {
        Self(Digest::sha256(ingredients.as_bytes()))
    }
}

impl LayerKey {
    /// The key, as text, of the layer that a file of this name belongs to.
    pub(super) fn of_file(name: &str) -> Option<&str> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match name.split_once('.')? {
            (key, "sqsh" | "verity" | "json") if key.len() == 64 && key.bytes().all(is_hex) => Some(key),
            _ => None,
        }
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

/// What is known of a layer besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerRecord {
    /// The squashfs file's digest.
    pub digest: Digest,
    /// The squashfs file's length in bytes.
    pub size: u64,
    /// Files, directories and symlinks in it.
    pub inodes: u64,
    /// The root hash of its dm-verity tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity_root: Option<Digest>,
    /// The extension's name, from its manifest.
    pub name: String,
    /// The extension's version, from its manifest.
    pub version: String,
    /// The extension's `manifest.yaml` as it stands in the image.
    pub manifest: String,
    /// The allowed paths that it has files in, such as `/usr/local`.
    pub places: Vec<String>,
    /// The kernel that its modules are for, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
}

impl LayerRecord {
    /// Name and version, as messages show them. A sysext may have no version.
    pub fn title(&self) -> String {
        match self.version.as_str() {
            "" => self.name.clone(),
            version => format!("{} {}", self.name, Escaped::new(version)),
        }
    }
}

/// A finished layer in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    key: LayerKey,
    path: PathBuf,
    record: Box<LayerRecord>,
}

/// Why a layer could not be stored or opened.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("cannot {action} layer {key}")]
    Io { action: &'static str, key: LayerKey, source: io::Error },
    #[error("cannot list the layers")]
    List { source: io::Error },
    #[error("cannot prepare a new layer in the state directory")]
    Stage { source: io::Error },
    #[error("layer {key} is damaged")]
    Damaged { key: LayerKey, source: io::Error },
    #[error("layer {key} is not a file of {size} bytes")]
    NotALayer { key: LayerKey, size: u64 },
}

/// A layer being built. Nothing of it is left if it is dropped.
#[derive(Debug)]
pub struct StagedLayer {
    squashfs: Staged,
    verity: Staged,
}

impl StagedLayer {
    /// The file to build the squashfs in, empty.
    pub fn file(&self) -> io::Result<File> {
        self.squashfs.file.try_clone()
    }

    /// The file for the squashfs' dm-verity tree, empty.
    pub fn verity_file(&self) -> io::Result<File> {
        self.verity.file.try_clone()
    }
}

impl Layer {
    pub fn key(&self) -> &LayerKey {
        &self.key
    }

    pub fn record(&self) -> &LayerRecord {
        &self.record
    }

    /// Opens the squashfs and checks all of it through the descriptor that is
    /// returned, so what was checked is what can be mounted.
    pub fn open(&self) -> Result<File, LayerError> {
        let key = self.key;
        let io = |source| LayerError::Io { action: "open", key, source };
        let file = record::open_trusted(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => io(source),
            _ => LayerError::Damaged { key, source },
        })?;
        if file.metadata().map_err(io)?.len() != self.record.size {
            return Err(LayerError::NotALayer { key, size: self.record.size });
        }
        let mut checked = VerifyingReader::new(&file, self.record.digest, Some(self.record.size));
        checked.drain().map_err(|source| LayerError::Damaged { key, source })?;
        Ok(file)
    }
}

impl Layer {
    /// Opens the dm-verity tree. Nothing of it has been checked yet.
    pub fn open_verity(&self) -> io::Result<File> {
        record::open_trusted(&verity_path(&self.path))
    }

    /// Moves the squashfs out of the store, to `path` on the same file system.
    /// The layer is no longer in the store then.
    pub fn export(&self, path: &Path) -> Result<(), LayerError> {
        let io = |source| LayerError::Io { action: "export", key: self.key, source };
        move_out(&self.path, path).map_err(io)
    }

    /// As [`export`](Self::export), the dm-verity tree of the squashfs.
    pub fn export_verity(&self, path: &Path) -> Result<(), LayerError> {
        let io = |source| LayerError::Io { action: "export the hash tree of", key: self.key, source };
        move_out(&verity_path(&self.path), path).map_err(io)
    }
}

/// Moves a file of the store to where everybody may read it.
fn move_out(from: &Path, to: &Path) -> io::Result<()> {
    fs::set_permissions(from, Permissions::from_mode(0o644))?;
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Opens and checks `layers` as [`Layer::open`] does, on all cores: nothing at
/// boot takes as long as reading and hashing them. Of several that are bad the
/// first is reported.
pub fn open_layers(layers: &[&Layer]) -> Result<Vec<File>, LayerError> {
    threads::for_all(layers.to_vec(), threads::cores(), Layer::open).into_iter().collect()
}

impl LayerError {
    /// The layer whose content is not what it was when it was built.
    pub fn damaged(&self) -> Option<&LayerKey> {
        match self {
            Self::Damaged { key, .. } | Self::NotALayer { key, .. } => Some(key),
            _ => None,
        }
    }
}

impl Store {
    /// The keys of all layers, whole or not.
    pub fn layers(&self) -> Result<BTreeSet<LayerKey>, LayerError> {
        let failed = |source| LayerError::List { source };
        let mut keys = BTreeSet::new();
        for entry in fs::read_dir(self.path.join("layers")).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let key = name.to_str().and_then(LayerKey::of_file);
            keys.extend(key.and_then(|key| format!("sha256:{key}").parse().ok()).map(LayerKey));
        }
        Ok(keys)
    }

    /// Removes all layers but `kept`.
    pub fn keep_layers(&self, lock: &Lock, kept: &BTreeSet<LayerKey>) -> Result<(), LayerError> {
        self.layers()?.difference(kept).try_for_each(|key| self.remove_layer(lock, key))
    }

    /// Removes a layer that is of no use, or whatever is in its place; what names it is damaged until it is
    /// built again.
    pub fn remove_layer(&self, _lock: &Lock, key: &LayerKey) -> Result<(), LayerError> {
        let path = self.layer_path(key);
        // The image first: without it there is no layer.
        let places = [&path, &verity_path(&path), &self.record_path(key)];
        let removed = places.into_iter().try_for_each(|place| remove_any(place));
        let removed = removed.and_then(|()| sync_parent(&path));
        removed.map_err(|source| LayerError::Io { action: "remove", key: *key, source })
    }

    /// Puts the hash tree that `write` makes in the place of a layer's.
    pub fn replace_verity(
        &self,
        _lock: &Lock,
        layer: &Layer,
        write: impl FnOnce(File) -> io::Result<()>,
    ) -> Result<(), LayerError> {
        let path = verity_path(&layer.path);
        let replaced = self.stage().and_then(|staged| {
            write(staged.file.try_clone()?)?;
            staged.file.set_permissions(Permissions::from_mode(0o400))?;
            staged.persist(&path)
        });
        let key = layer.key;
        replaced.map_err(|source| LayerError::Io { action: "replace the hash tree of", key, source })
    }

    /// A place to build a layer in.
    pub fn stage_layer(&self) -> Result<StagedLayer, LayerError> {
        let staged = self.stage().and_then(|squashfs| Ok(StagedLayer { squashfs, verity: self.stage()? }));
        staged.map_err(|source| LayerError::Stage { source })
    }

    /// Gives a built layer its name, and its dm-verity tree if it has one.
    pub fn commit_layer(
        &self,
        staged: StagedLayer,
        key: LayerKey,
        record: LayerRecord,
    ) -> Result<Layer, LayerError> {
        let io = |action| move |source| LayerError::Io { action, key, source };
        self.replace_record(&self.record_path(&key), RECORD_FORMAT, &record)
            .map_err(io("write the record of"))?;
        let path = self.layer_path(&key);
        let tree = record.verity_root.map(|_| (staged.verity, verity_path(&path)));
        for (staged, path) in tree.into_iter().chain([(staged.squashfs, path.clone())]) {
            staged.file.set_permissions(Permissions::from_mode(0o400)).map_err(io("protect"))?;
            staged.persist(&path).map_err(io("name"))?;
        }
        Ok(Layer { key, path, record: Box::new(record) })
    }

    /// The stored layer with this key, if it is whole as far as its record
    /// and length tell; [`Layer::open`] checks the rest.
    pub fn layer(&self, key: &LayerKey) -> Option<Layer> {
        let record: Box<LayerRecord> = record::read(&self.record_path(key), RECORD_FORMAT).ok()?;
        let path = self.layer_path(key);
        let metadata = fs::symlink_metadata(&path).ok()?;
        (metadata.is_file() && metadata.len() == record.size).then_some(Layer { key: *key, path, record })
    }

    fn layer_path(&self, key: &LayerKey) -> PathBuf {
        self.path.join(format!("layers/{key}.sqsh"))
    }

    fn record_path(&self, key: &LayerKey) -> PathBuf {
        self.path.join(format!("layers/{key}.json"))
    }
}

/// Where a squashfs' hash tree is.
fn verity_path(squashfs: &Path) -> PathBuf {
    squashfs.with_extension("verity")
}

/// The digest of a whole file from its start.
pub fn digest_of(mut file: File) -> io::Result<Digest> {
    io::Seek::rewind(&mut file)?;
    let mut hasher = crate::oci::Hasher::new(crate::oci::Algorithm::Sha256);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn store_with_layer() -> (tempfile::TempDir, Store, Layer) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let staged = store.stage_layer().unwrap();
        staged.file().unwrap().write_all(b"squashfs").unwrap();
        let record = LayerRecord {
            digest: Digest::sha256(b"squashfs"),
            size: 8,
            inodes: 1,
            verity_root: None,
            name: "tools".into(),
            version: "1".into(),
            manifest: "version: v1alpha1\n".into(),
            places: vec!["/usr/local".into()],
            kernel_release: None,
        };
        let layer = store.commit_layer(staged, LayerKey::of("chain"), record).unwrap();
        (directory, store, layer)
    }

    #[test]
    fn a_committed_layer_is_found_again_and_opens() {
        let (_directory, store, layer) = store_with_layer();
        assert_eq!(store.layer(layer.key()).as_ref(), Some(&layer));
        assert_eq!(store.layer(&LayerKey::of("other")), None);
        layer.open().unwrap();
    }

    #[test]
    fn a_damaged_layer_does_not_open() {
        type Damage = fn(&std::path::Path);
        let damages: [(&str, Damage); 4] = [
            ("flipped", |path| fs::write(path, b"squashfz").unwrap()),
            ("short", |path| fs::write(path, b"squash").unwrap()),
            ("symlink", |path| {
                fs::rename(path, path.with_extension("moved")).unwrap();
                std::os::unix::fs::symlink(path.with_extension("moved"), path).unwrap();
            }),
            ("writable", |path| fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap()),
        ];
        for (name, damage) in damages {
            let (_directory, _store, layer) = store_with_layer();
            fs::set_permissions(&layer.path, Permissions::from_mode(0o600)).unwrap();
            damage(&layer.path);
            assert!(layer.open().is_err(), "{name}");
        }
    }

    #[test]
    fn of_many_layers_the_first_damaged_one_is_reported() {
        let stores: Vec<_> = (0..20).map(|_| store_with_layer()).collect();
        let mut layers: Vec<_> = stores.iter().map(|(_, _, layer)| layer.clone()).collect();
        let opened = open_layers(&layers.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(opened.len(), layers.len());
        for number in [7, 13] {
            let layer = &mut layers[number];
            layer.key = LayerKey::of(&number.to_string());
            fs::set_permissions(&layer.path, Permissions::from_mode(0o600)).unwrap();
            fs::write(&layer.path, b"squashfz").unwrap();
        }
        let error = open_layers(&layers.iter().collect::<Vec<_>>()).unwrap_err();
        assert_eq!(error.damaged(), Some(&LayerKey::of("7")));
    }

    #[test]
    fn a_damaged_layer_can_be_removed() {
        let (_directory, store, layer) = store_with_layer();
        fs::set_permissions(&layer.path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&layer.path, b"squashfz").unwrap();
        assert_eq!(layer.open().unwrap_err().damaged(), Some(layer.key()));
        store.remove_layer(&store.lock().unwrap(), layer.key()).unwrap();
        assert_eq!(store.layer(layer.key()), None);
    }

    #[test]
    fn a_dropped_layer_leaves_nothing() {
        let (directory, store, _layer) = store_with_layer();
        drop(store.stage_layer().unwrap());
        assert_eq!(fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
    }
}
