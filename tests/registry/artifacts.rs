//! Artifacts of one blob, pushed as ORAS pushes them, and packed by the binary
//! from the registry.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use plywood::oci::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::stage::{Access, Server};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const REPOSITORY: &str = "extensions/tool";

/// A registry of its own, and a client that pushes to it.
struct Registry {
    server: Server,
    _storage: TempDir,
}

impl Registry {
    fn start() -> Self {
        let storage = tempfile::tempdir().unwrap();
        Self { server: Server::start_on(storage.path(), &Access::Open), _storage: storage }
    }

    /// Sends one request; returns the answer's status and headers.
    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> (u16, String) {
        let authority = self.server.authority();
        let mut stream = TcpStream::connect(&authority).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
             Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("an HTTP answer"), answer.split("\r\n\r\n").next().unwrap().to_string())
    }

    /// Pushes a blob (distribution-spec, "POST then PUT"); returns its descriptor.
    fn push_blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let (status, headers) = self.send("POST", &format!("/v2/{REPOSITORY}/blobs/uploads/"), "-", b"");
        assert_eq!(status, 202, "{headers}");
        let location = headers.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
        let path = location.strip_prefix(&self.server.url("http")).unwrap_or(location);
        let digest = Digest::sha256(bytes);
        let path = format!("{path}&digest={digest}");
        let (status, headers) = self.send("PUT", &path, "application/octet-stream", bytes);
        assert_eq!(status, 201, "{headers}");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Pushes a manifest or an index; returns its descriptor.
    fn push_document(&self, tag: &str, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let (status, headers) =
            self.send("PUT", &format!("/v2/{REPOSITORY}/manifests/{tag}"), media_type, &bytes);
        assert_eq!(status, 201, "{headers}");
        json!({"mediaType": media_type, "digest": Digest::sha256(&bytes), "size": bytes.len()})
    }

    fn push_artifact(&self, tag: &str, artifact: &Artifact<'_>) -> Value {
        let config = self.push_blob(artifact.config, b"{}");
        let mut layer = self.push_blob(artifact.media_type, artifact.bytes);
        layer["annotations"] = json!({"org.opencontainers.image.title": artifact.title});
        let document = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            "artifactType": "application/vnd.example.extension",
        });
        self.push_document(tag, MANIFEST, &document)
    }
}

struct Artifact<'a> {
    config: &'a str,
    media_type: &'a str,
    title: &'a str,
    bytes: &'a [u8],
}

/// An extension called `name`, and where it is packed to.
struct Source {
    directory: TempDir,
}

impl Source {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("source");
        fs::create_dir_all(root.join("rootfs/usr/local/bin")).unwrap();
        let manifest = format!("version: v1alpha1\nmetadata: {{name: {name}, version: \"1\"}}\n");
        fs::write(root.join("manifest.yaml"), manifest).unwrap();
        fs::write(root.join("rootfs/usr/local/bin/tool"), name.repeat(10_000)).unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(program).args(arguments).current_dir(self.path()).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn tar(&self, compress: &str) -> Vec<u8> {
        let order = ["--sort=name", "--owner=0", "--group=0", "-C", "source", "-cf", "-"];
        self.run("tar", &[&[compress], &order[..], &["manifest.yaml", "rootfs"]].concat())
    }

    fn squashfs(&self, compression: &str) -> Vec<u8> {
        let quiet = ["-all-root", "-noappend", "-quiet", "-no-progress", "-comp", compression];
        self.run("mksquashfs", &[&["source", "image"], &quiet[..]].concat());
        fs::read(self.path().join("image")).unwrap()
    }

    /// Packs `tag` from `registry` for a machine of this architecture.
    fn pack(&self, registry: &Registry, tag: &str, architecture: &str) -> Output {
        let authority = registry.server.authority();
        let mirrors = json!({authority.as_str(): {"endpoints": [registry.server.url("http")]}});
        let config = json!({"version": "v1alpha1", "machine": {"registries": {"mirrors": mirrors}}});
        fs::write(self.path().join("machine.yaml"), config.to_string()).unwrap();
        let image = format!("{authority}/{REPOSITORY}:{tag}");
        Command::new(env!("CARGO_BIN_EXE_plywood"))
            .args(["pack", &image, "-o", "out.sqsh", "--config", "machine.yaml", "--arch", architecture])
            .current_dir(self.path())
            .output()
            .unwrap()
    }

    fn packed(&self, registry: &Registry, tag: &str, architecture: &str) -> Result<String, String> {
        let output = self.pack(registry, tag, architecture);
        let layer = self.path().join("out.sqsh");
        assert_eq!(layer.exists(), output.status.success());
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        fs::remove_file(layer).unwrap();
        Ok(String::from_utf8(output.stdout).unwrap())
    }
}

#[test]
fn artifacts_of_one_blob_come_from_a_registry() {
    let (registry, source) = (Registry::start(), Source::new("tool"));
    let (tar, gzip, zstd) = (source.tar("--no-auto-compress"), source.tar("--gzip"), source.tar("--zstd"));
    let (squashfs, lz4) = (source.squashfs("zstd"), source.squashfs("lz4"));
    let (gzip_type, zstd_type) = (format!("{TAR}+gzip"), format!("{TAR}+zstd"));
    let unknown = "application/vnd.unknown.config.v1+json";
    let any = "application/octet-stream";
    let mut digests = Vec::new();
    for (what, config, media_type, title, bytes) in [
        ("tar", EMPTY, TAR, "tool", &tar),
        ("tar+gzip", EMPTY, &gzip_type, "tool", &gzip),
        ("tar+zstd", EMPTY, &zstd_type, "tool", &zstd),
        ("gzip that is called a tar", EMPTY, TAR, "tool.tar.gz", &gzip),
        ("zstd that is called a tar", EMPTY, TAR, "tool.tar.zst", &zstd),
        ("tar by its name", EMPTY, any, "tool.tar", &tar),
        ("gzip by its name", EMPTY, any, "tool.tgz", &gzip),
        ("before there was an empty config", unknown, &gzip_type, "tool", &gzip),
        ("squashfs", EMPTY, "application/vnd.squashfs", "tool", &squashfs),
        ("squashfs that is called a tar", EMPTY, TAR, "tool.raw", &lz4),
        ("squashfs before there was an empty config", unknown, any, "tool.sqsh", &lz4),
    ] {
        registry.push_artifact("v1", &Artifact { config, media_type, title, bytes });
        let packed =
            source.packed(&registry, "v1", "amd64").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(packed.starts_with("out.sqsh: tool 1, "), "{what}: {packed}");
        digests.push(packed.rsplit(' ').next().unwrap().to_string());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "one layer, however the extension was packed: {digests:?}");
}

#[test]
fn blobs_that_are_not_what_they_are_called_are_refused() {
    let (registry, source) = (Registry::start(), Source::new("tool"));
    let (tar, gzip, squashfs) =
        (source.tar("--no-auto-compress"), source.tar("--gzip"), source.squashfs("gzip"));
    let gzip_type = format!("{TAR}+gzip");
    for (what, config, media_type, title, bytes, expected) in [
        ("gzip as a tar", EMPTY, TAR, "tool", &gzip, "changeset 0"),
        ("a tar as gzip", EMPTY, &gzip_type, "tool.tar", &tar, "changeset 0"),
        ("squashfs as a tar", EMPTY, TAR, "tool.tar", &squashfs, "changeset 0"),
        ("a tar as squashfs", EMPTY, "application/vnd.squashfs", "tool.tar", &tar, "neither a squashfs nor"),
        ("text", EMPTY, "text/plain", "tool.txt", &tar, "is of the type `text/plain`"),
        ("a chart", "application/vnd.cncf.helm.config.v1+json", TAR, "x", &tar, "helm.config"),
    ] {
        registry.push_artifact("v1", &Artifact { config, media_type, title, bytes });
        let error = source.packed(&registry, "v1", "amd64").expect_err(what);
        assert!(error.starts_with("error: ") && error.contains(expected), "{what}: {error}");
    }
}

#[test]
fn an_index_names_an_artifact_for_each_platform() {
    let registry = Registry::start();
    let (amd64, arm64) = (Source::new("for-amd64"), Source::new("for-arm64"));
    let (tar, squashfs) = (amd64.tar("--gzip"), arm64.squashfs("xz"));
    let gzip_type = format!("{TAR}+gzip");
    let tar = Artifact { config: EMPTY, media_type: &gzip_type, title: "tool", bytes: &tar };
    let squashfs = Artifact { config: EMPTY, media_type: TAR, title: "tool.raw", bytes: &squashfs };
    let manifests = [("amd64", tar), ("arm64", squashfs)].map(|(architecture, artifact)| {
        let mut entry = registry.push_artifact(architecture, &artifact);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    registry.push_document("multi", INDEX, &index);
    for architecture in ["amd64", "arm64"] {
        let packed = amd64.packed(&registry, "multi", architecture).unwrap();
        assert!(packed.starts_with(&format!("out.sqsh: for-{architecture} 1, ")), "{packed}");
    }
    let error = amd64.packed(&registry, "multi", "riscv64").unwrap_err();
    assert!(error.contains("amd64") && error.contains("arm64"), "{error}");
}
