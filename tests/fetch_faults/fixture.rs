//! A small image, a registry that serves it well, and a machine to fetch it
//! on.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use plywood::fetch::{Event, FetchError, Fetcher, Image, Machine, Network, Selection, Timeouts};
use plywood::oci::manifest::{CONFIG, INDEX, LAYER_GZIP, MANIFEST};
use plywood::oci::registries::{Credentials, Mirror, MirrorEndpoint, Secret};
use plywood::oci::{Digest, ImageSource, Platform, Registries};
use plywood::store::Store;
use plywood::sys::kmsg::chain;
use serde_json::json;

use crate::server::{Reply, Request};

pub const REGISTRY: &str = "registry.test";
pub const LAYER_SIZE: usize = 40_000;

/// What a registry holds, by digest, and what its tags mean.
#[derive(Clone, Default)]
pub struct Registry {
    pub blobs: BTreeMap<String, (String, Vec<u8>)>,
    pub tags: BTreeMap<String, String>,
    pub layers: Vec<String>,
}

impl Registry {
    /// An image with `count` changesets as `tools:v1`. Nothing here reads
    /// them, so they need not be tars.
    pub fn with_image(count: u8) -> Self {
        let mut registry = Self::default();
        let contents: Vec<Vec<u8>> = (0..count).map(|seed| noise(seed, LAYER_SIZE)).collect();
        let digest = registry.add_image("amd64", &contents);
        registry.tags.insert("v1".into(), digest);
        registry
    }

    /// Adds an image and returns its manifest's digest.
    pub fn add_image(&mut self, architecture: &str, contents: &[Vec<u8>]) -> String {
        self.add_image_of(architecture, LAYER_GZIP, contents)
    }

    /// As [`add_image`](Self::add_image), with changesets of a media type.
    pub fn add_image_of(&mut self, architecture: &str, media_type: &str, contents: &[Vec<u8>]) -> String {
        let diff_ids: Vec<String> = contents.iter().map(|c| Digest::sha256(c).to_string()).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add("application/octet-stream", config.to_string().into_bytes());
        let mut layers = Vec::new();
        for content in contents {
            let digest = self.add("application/octet-stream", content.clone());
            layers.push(json!({"mediaType": media_type, "digest": digest, "size": content.len()}));
            self.layers.push(digest);
        }
        let config_size = self.blobs[&config].1.len();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": config_size},
            "layers": layers,
        });
        self.add(MANIFEST, manifest.to_string().into_bytes())
    }

    /// Adds an index and returns its digest.
    pub fn add_index(&mut self, entries: &[(&str, &str, Option<&str>)]) -> String {
        let entries: Vec<_> = entries
            .iter()
            .map(|(digest, media_type, architecture)| {
                let size = self.blobs[*digest].1.len();
                let mut entry = json!({"mediaType": media_type, "digest": digest, "size": size});
                if let Some(architecture) = architecture {
                    entry["platform"] = json!({"os": "linux", "architecture": architecture});
                }
                entry
            })
            .collect();
        self.add(INDEX, json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes())
    }

    pub fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = Digest::sha256(&bytes).to_string();
        self.blobs.insert(digest.clone(), (media_type.into(), bytes));
        digest
    }

    /// What a good registry answers.
    pub fn answer(&self, request: &Request) -> Reply {
        let name = request.path.rsplit('/').next().unwrap();
        let name = self.tags.get(name).map_or(name, String::as_str);
        let Some((media_type, bytes)) = self.blobs.get(name) else {
            let error = json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]});
            return Reply::new(404, error.to_string());
        };
        let reply = Reply::new(200, bytes.clone()).with("Content-Type", media_type);
        let from = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        match from.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok()) {
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply { status: 206, body: bytes[from..].to_vec(), ..reply }.with("Content-Range", &range)
            }
            None => reply,
        }
    }

    pub fn is_layer(&self, request: &Request) -> bool {
        self.layers.iter().any(|digest| request.path.ends_with(digest.as_str()))
    }
}

pub fn noise(seed: u8, count: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// A machine with an empty store.
pub struct Bench {
    pub registries: Registries,
    pub network: Network,
    pub events: Mutex<Vec<String>>,
    pub store: Store,
    directory: tempfile::TempDir,
}

impl Bench {
    /// One whose registry has these endpoints and no others.
    pub fn new(endpoints: &[String]) -> Self {
        let endpoints =
            endpoints.iter().map(|url| MirrorEndpoint { url: url.clone(), override_path: false }).collect();
        let mut registries = Registries::default();
        registries.mirrors.insert(REGISTRY.into(), Mirror { endpoints, skip_fallback: true });
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let timeouts = Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(2),
            idle: Duration::from_secs(1),
            total: Duration::from_secs(20),
            backoff: Duration::from_millis(2),
            longest_pause: Duration::from_secs(5),
        };
        let network = Network { timeouts, ..Network::default() };
        Self { registries, network, events: Mutex::default(), store, directory }
    }

    pub fn with_password(mut self, authority: &str, password: &str) -> Self {
        let password = Secret::new(password.into());
        let credentials = Credentials::Basic { username: "user".into(), password };
        self.registries.credentials.insert(authority.into(), credentials);
        self
    }

    /// Resolves and fetches `registry.test/tools<suffix>`; an error comes as
    /// its whole chain.
    pub fn fetch(&self, suffix: &str) -> Result<Image<'static>, String> {
        self.with_fetcher(|fetcher| {
            fetcher.resolve(&source(suffix)).and_then(|resolved| fetcher.fetch(resolved))
        })
    }

    /// As [`fetch`](Self::fetch), but the changesets are read while they are
    /// downloaded. Returns them and whether another try from the start may
    /// help.
    pub fn stream(&self, suffix: &str) -> Result<Vec<Vec<u8>>, (String, bool)> {
        let streamed = self.with_fetcher(|fetcher| {
            let image = fetcher.resolve(&source(suffix)).and_then(|resolved| fetcher.stream(resolved))?;
            let contents: Result<Vec<_>, _> =
                image.changesets().iter().map(|changeset| changeset.blob().read()).collect();
            Ok(contents.map_err(|_| {
                let interrupted = image.interrupted().expect("a failed reader says why");
                (chain(&interrupted.error), interrupted.elsewhere)
            }))
        });
        let blobs = std::fs::read_dir(self.directory.path().join("blobs/sha256")).unwrap();
        assert!(blobs.count() <= 2, "more than manifest and image config is kept");
        streamed.map_err(|error| (error, false)).flatten()
    }

    /// What one fetcher does; an error comes as its whole chain.
    pub fn with_fetcher<T>(&self, act: impl FnOnce(&Fetcher) -> Result<T, FetchError>) -> Result<T, String> {
        let progress = |event: Event<'_>| self.events.lock().unwrap().push(format!("{event:?}"));
        let fetcher = Fetcher::new(Machine {
            store: &self.store,
            registries: &self.registries,
            selection: Selection::of(Platform::linux("amd64")),
            network: self.network.clone(),
            progress: &progress,
        });
        let result = act(&fetcher).map_err(|error| chain(&error));
        self.check_store();
        result
    }

    /// Nothing half-done is left, and what has a name is what it says.
    fn check_store(&self) {
        let staging = std::fs::read_dir(self.directory.path().join("staging")).unwrap();
        assert_eq!(staging.count(), 0, "staging is not empty");
        for entry in std::fs::read_dir(self.directory.path().join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let digest = Digest::sha256(&std::fs::read(&path).unwrap());
            assert_eq!(path.file_name().unwrap().to_str(), Some(digest.hex().as_str()));
        }
    }

    /// The same store once more.
    pub fn reopen(&self) -> Store {
        Store::open(self.directory.path()).unwrap()
    }

    /// Changes a byte of a stored blob.
    pub fn damage(&self, digest: &Digest) {
        let path = self.directory.path().join("blobs/sha256").join(digest.hex());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    pub fn saw(&self, event: &str) -> bool {
        self.events.lock().unwrap().iter().any(|seen| seen.contains(event))
    }
}

/// `registry.test/tools<suffix>`.
pub fn source(suffix: &str) -> ImageSource {
    format!("{REGISTRY}/tools{suffix}").parse().unwrap()
}
