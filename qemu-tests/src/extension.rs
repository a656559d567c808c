//! Extensions for tests, good and bad. In: a name and files. Out: an OCI
//! image layout written by umoci, that is, by code that is not ours.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::program::{UMOCI, run};

/// The tag of every extension's image.
pub const TAG: &str = "1.0";

/// What every extension brings, so that the configuration has to say which one
/// is to have the last word.
const WINNER: &str = "usr/local/share/guest/winner";

/// The entry of a configuration for `image`, any extension's.
pub fn entry(image: &str) -> String {
    format!("      - image: \"{image}\"\n        overrides: [/{WINNER}]\n")
}

/// A description of an extension; nothing is written before it is packed.
#[derive(Clone)]
pub struct Extension {
    name: String,
    manifest: String,
    files: Vec<File>,
    /// Paths and targets.
    symlinks: Vec<(String, String)>,
    architecture: Option<&'static str>,
    blobs: Blobs,
}

#[derive(Clone)]
struct File {
    path: String,
    mode: u32,
    content: Vec<u8>,
}

/// Whether the changeset's bytes are those that its digest names.
#[derive(Clone, Copy)]
enum Blobs {
    Right,
    Altered,
}

impl Extension {
    /// An extension `name` that brings `/usr/local/bin/NAME`, which greets,
    /// and claims a file that every other one claims, too.
    pub fn new(name: &str) -> Self {
        let manifest = format!(
            "version: v1alpha1\nmetadata:\n  name: {name}\n  version: 1.0.0\n  author: Plywood contributors\n  \
             description: Made by a test.\n"
        );
        let extension = Self {
            name: name.into(),
            manifest,
            files: Vec::new(),
            symlinks: Vec::new(),
            architecture: None,
            blobs: Blobs::Right,
        };
        extension
            .file(&format!("usr/local/bin/{name}"), 0o755, format!("#!/bin/sh\necho greetings from {name}\n"))
            .file(WINNER, 0o644, format!("{name}\n"))
    }

    /// The entry of a configuration for this extension in the initramfs.
    pub fn entry(&self) -> String {
        entry(&format!("oci:/extensions/{}", self.name))
    }

    /// Adds a file below `rootfs/`.
    pub fn file(mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.files.push(File { path: path.into(), mode, content: content.as_ref().into() });
        self
    }

    /// Adds a symlink below `rootfs/`.
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.symlinks.push((path.into(), target.into()));
        self
    }

    /// Adds lines to `metadata` in the manifest, indented as they must be.
    pub fn metadata(mut self, lines: &str) -> Self {
        self.manifest.push_str(lines);
        self
    }

    /// What its image is for, if not for the processor of this host: `arm64`.
    pub fn architecture(mut self, name: &'static str) -> Self {
        self.architecture = Some(name);
        self
    }

    /// Changes the changesets after their digests were taken. For layouts
    /// only, as no honest client uploads such an image.
    pub fn with_altered_blobs(mut self) -> Self {
        self.blobs = Blobs::Altered;
        self
    }

    /// The name in the manifest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes the image layout `dir/NAME` and returns its path.
    pub fn pack(&self, dir: &Path) -> PathBuf {
        let source = dir.join(format!("{}.source", self.name));
        for file in &self.files {
            write(&source.join("rootfs").join(&file.path), file.mode, &file.content);
        }
        for (path, target) in &self.symlinks {
            link(&source.join("rootfs").join(path), target);
        }
        write(&source.join("manifest.yaml"), 0o644, self.manifest.as_bytes());

        let layout = dir.join(&self.name);
        // Packed before: umoci only makes new layouts.
        if layout.exists() {
            fs::remove_dir_all(&layout).unwrap_or_else(|error| panic!("{}: {error}", layout.display()));
        }
        let image = format!("{}:{TAG}", layout.display());
        run(UMOCI.command().arg("init").arg("--layout").arg(&layout));
        run(UMOCI.command().args(["new", "--image", &image]));
        if let Some(name) = self.architecture {
            run(UMOCI.command().args(["config", "--image", &image, "--architecture", name]));
        }
        for part in ["manifest.yaml", "rootfs"] {
            run(UMOCI.command().args(["insert", "--image", &image]).arg(source.join(part)).arg(part));
        }
        if let Blobs::Altered = self.blobs {
            alter_changesets(&layout);
        }
        layout
    }
}

/// Writes a file with its directories. The mode is set apart from opening, as
/// the caller's umask must not make a bad file good.
fn write(path: &Path, mode: u32, content: &[u8]) {
    let written = fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| fs::write(path, content))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// Makes a symlink with its directories, in place of one of an earlier run.
fn link(path: &Path, target: &str) {
    let _ = fs::remove_file(path);
    let made = fs::create_dir_all(path.parent().unwrap_or(path)).and_then(|()| symlink(target, path));
    made.unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
}

/// Flips a bit in the middle of each changeset. Configuration and manifests
/// stay whole; they are the blobs that no gzip header begins.
fn alter_changesets(layout: &Path) {
    let blobs = layout.join("blobs/sha256");
    let entries =
        fs::read_dir(&blobs).unwrap_or_else(|error| panic!("cannot list {}: {error}", blobs.display()));
    for path in entries.flatten().map(|entry| entry.path()) {
        let mut bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}
