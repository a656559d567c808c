//! Descriptors, manifests and indexes (image-spec, descriptor.md,
//! manifest.md, image-index.md) and their Docker counterparts.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Digest, Platform, spelling};
use crate::limits::{Bound, Exceeded, Limits};
use crate::text::Escaped;

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Annotation keys (image-spec, annotations.md).
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
pub const ANNOTATION_TITLE: &str = "org.opencontainers.image.title";
pub const ANNOTATION_VERSION: &str = "org.opencontainers.image.version";
pub const ANNOTATION_DESCRIPTION: &str = "org.opencontainers.image.description";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The keys of manifests, indexes and descriptors that are read here or by
/// others; those of annotations are free.
const KEYS: [&str; 15] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "fsLayers",
    "digest",
    "size",
    "urls",
    "platform",
    "os",
    "architecture",
    "variant",
];

/// What a descriptor's media type says its content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Index,
    Manifest,
    Config,
    Changeset(Compression),
    /// A changeset that its publisher keeps elsewhere. Never fetched.
    Foreign,
    Other,
}

/// How a changeset's tar is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// The word for it, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Reads a media type; parameters after `;` do not count.
pub fn kind(media_type: &str) -> Kind {
    match media_type.split(';').next().unwrap_or_default().trim() {
        INDEX | DOCKER_LIST => Kind::Index,
        MANIFEST | DOCKER_MANIFEST => Kind::Manifest,
        CONFIG | DOCKER_CONFIG => Kind::Config,
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Kind::Changeset(Compression::None)
        }
        LAYER_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Kind::Changeset(Compression::Gzip)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Kind::Changeset(Compression::Zstd),
        foreign if foreign.contains(".nondistributable.") || foreign.contains(".foreign.") => Kind::Foreign,
        _ => Kind::Other,
    }
}

/// Points at content by digest, size and type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub fn kind(&self) -> Kind {
        kind(&self.media_type)
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.digest, Escaped::new(&self.media_type))
    }
}

/// An image manifest: one platform's image config and changesets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    /// The changesets, lowest first.
    pub layers: Vec<Descriptor>,
    /// What kind of artifact this is, where it is not a container image.
    pub artifact_type: Option<String>,
}

/// A list of manifests, one a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub manifests: Vec<Descriptor>,
}

/// A document that a reference may resolve to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// Why a document is not a manifest or index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("it is not valid JSON of its kind")]
    Json(#[source] serde_json::Error),
    #[error("it has {0}")]
    Shape(&'static str),
    #[error("it has the key `{}`, which differs in case only from one of the format", Escaped::new(.0))]
    Spelling(String),
    #[error("it says it is `{}` but was announced as `{}`", Escaped::new(.said), Escaped::new(.announced))]
    MediaType { said: String, announced: String },
    #[error("`{}` is not a manifest or index", Escaped::new(.0))]
    Unsupported(String),
    #[error("it lists {count} descriptors, {exceeded}")]
    TooMany { count: usize, exceeded: Exceeded },
    #[error("no image for {wanted}; it has {has}")]
    Platform { wanted: Platform, has: String },
    #[error("changeset {} is of the type `{}`, which is not a tar of an image", .0.digest, Escaped::new(&.0.media_type))]
    LayerType(Box<Descriptor>),
}

/// Both kinds at once, so that a document that is both can be refused
/// (CVE-2021-41190).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentJson {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde_json::Value>,
}

impl Document {
    /// Parses a manifest or index. `announced` is the media type of the
    /// descriptor or the `Content-Type` of the answer; the document must
    /// agree with it.
    pub fn parse(bytes: &[u8], announced: &str, limits: &Limits) -> Result<Self, DocumentError> {
        let json: DocumentJson = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        if let Some(key) = spelling::resembling(bytes, &KEYS) {
            return Err(DocumentError::Spelling(key));
        }
        if json.schema_version != 2 || json.fs_layers.is_some() {
            return Err(DocumentError::Shape("a schema version other than 2"));
        }
        let announced_kind = kind(announced);
        if let Some(said) = &json.media_type
            && (kind(said) != announced_kind || said.split(';').next() != announced.split(';').next())
        {
            return Err(DocumentError::MediaType { said: said.clone(), announced: announced.into() });
        }
        match announced_kind {
            Kind::Index => json.into_index(limits).map(Self::Index),
            Kind::Manifest => json.into_manifest(limits).map(Self::Manifest),
            _ => Err(DocumentError::Unsupported(announced.into())),
        }
    }
}

impl DocumentJson {
    fn into_index(self, limits: &Limits) -> Result<Index, DocumentError> {
        if self.layers.is_some() || self.config.is_some() {
            return Err(DocumentError::Shape("`manifests` beside `layers` or `config`"));
        }
        let manifests = self.manifests.ok_or(DocumentError::Shape("no `manifests`"))?;
        check_count(manifests.len(), limits)?;
        Ok(Index { manifests })
    }

    fn into_manifest(self, limits: &Limits) -> Result<Manifest, DocumentError> {
        if self.manifests.is_some() {
            return Err(DocumentError::Shape("`manifests` beside `layers` or `config`"));
        }
        let config = self.config.ok_or(DocumentError::Shape("no `config`"))?;
        let layers = self.layers.ok_or(DocumentError::Shape("no `layers`"))?;
        if layers.is_empty() {
            return Err(DocumentError::Shape("no changesets"));
        }
        check_count(layers.len(), limits)?;
        Ok(Manifest { config, layers, artifact_type: self.artifact_type })
    }
}

fn check_count(count: usize, limits: &Limits) -> Result<(), DocumentError> {
    limits
        .check(Bound::Descriptors, count as u64)
        .map_err(|exceeded| DocumentError::TooMany { count, exceeded })
}

impl Manifest {
    /// The compression of each changeset, lowest first. Fails on the first
    /// one that is not a tar, or is kept elsewhere.
    pub fn compressions(&self) -> Result<Vec<Compression>, DocumentError> {
        self.layers
            .iter()
            .map(|layer| match layer.kind() {
                Kind::Changeset(compression) => Ok(compression),
                _ => Err(DocumentError::LayerType(Box::new(layer.clone()))),
            })
            .collect()
    }
}

impl Index {
    /// The entries for `wanted`, in the index's order: those that name the
    /// platform, else those that name none. Attestations, which name the
    /// platform `unknown/unknown`, never fit.
    pub fn select(&self, wanted: &Platform) -> Result<Vec<&Descriptor>, DocumentError> {
        let documents = || self.manifests.iter().filter(|d| matches!(d.kind(), Kind::Manifest | Kind::Index));
        let fitting: Vec<_> =
            documents().filter(|d| d.platform.as_ref().is_some_and(|has| has.runs_on(wanted))).collect();
        if !fitting.is_empty() {
            return Ok(fitting);
        }
        let unnamed: Vec<_> = documents().filter(|d| d.platform.is_none()).collect();
        if !unnamed.is_empty() {
            return Ok(unnamed);
        }
        let mut has: Vec<_> =
            documents().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
        has.sort();
        has.dedup();
        let has = if has.is_empty() { "no images at all".into() } else { has.join(", ") };
        Err(DocumentError::Platform { wanted: wanted.clone(), has })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"mediaType":"TYPE","size":3,"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#;

    fn descriptor(media_type: &str) -> String {
        ONE.replace("TYPE", media_type)
    }

    fn manifest(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,{extra}"config":{},"layers":[{}]}}"#,
            descriptor(CONFIG),
            descriptor(LAYER_GZIP)
        )
    }

    #[test]
    fn documents_must_be_what_they_were_announced_as() {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(MANIFEST));
        let both = manifest(&format!(r#""manifests":[{}],"#, descriptor(MANIFEST)));
        for (text, announced, good) in [
            (manifest(""), MANIFEST, true),
            (manifest(""), DOCKER_MANIFEST, true),
            (manifest(""), "application/vnd.oci.image.manifest.v1+json; charset=utf-8", true),
            (manifest(&format!(r#""mediaType":"{MANIFEST}","#)), MANIFEST, true),
            (manifest(&format!(r#""mediaType":"{MANIFEST}","#)), DOCKER_MANIFEST, false),
            (manifest(&format!(r#""mediaType":"{INDEX}","#)), MANIFEST, false),
            (manifest(""), INDEX, false),
            (manifest(""), "text/html", false),
            (index.clone(), INDEX, true),
            (index.clone(), DOCKER_LIST, true),
            (index, MANIFEST, false),
            (both.clone(), MANIFEST, false),
            (both, INDEX, false),
            (manifest("").replace("\"schemaVersion\":2", "\"schemaVersion\":1"), MANIFEST, false),
            (manifest(r#""fsLayers":[],"#), MANIFEST, false),
            (manifest("") + "x", MANIFEST, false),
            (manifest(r#""Layers":[],"#), MANIFEST, false),
            (manifest(r#""MediaType":"text/html","#), MANIFEST, false),
            (manifest("").replace("\"size\"", "\"Digest\":\"\",\"size\""), MANIFEST, false),
            (manifest(r#""annotations":{"Size":"1","size":"2"},"#), MANIFEST, true),
        ] {
            assert_eq!(
                Document::parse(text.as_bytes(), announced, &Limits::default()).is_ok(),
                good,
                "{announced}: {text}"
            );
        }
    }

    #[test]
    fn an_index_is_searched_by_platform() {
        let entry = |platform: Option<Platform>| Descriptor {
            media_type: MANIFEST.into(),
            digest: Digest::sha256(b""),
            size: 1,
            platform,
            annotations: BTreeMap::new(),
        };
        let amd64 = Platform::linux("amd64");
        let arm64 = Platform { variant: Some("v8".into()), ..Platform::linux("arm64") };
        let unknown = Platform { os: "unknown".into(), ..Platform::linux("unknown") };
        let index = Index { manifests: vec![entry(Some(unknown)), entry(Some(arm64.clone()))] };
        assert_eq!(index.select(&Platform::linux("arm64")).unwrap(), [&index.manifests[1]]);
        let error = index.select(&amd64).unwrap_err().to_string();
        assert_eq!(error, "no image for linux/amd64; it has linux/arm64, unknown/unknown");
        let unnamed = Index { manifests: vec![entry(None), entry(Some(arm64))] };
        assert_eq!(unnamed.select(&amd64).unwrap(), [&unnamed.manifests[0]]);
    }

    #[test]
    fn changesets_elsewhere_or_of_unknown_types_are_refused() {
        for media_type in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+xz",
            "text/plain",
        ] {
            let text = manifest("").replace(LAYER_GZIP, media_type);
            let Document::Manifest(manifest) =
                Document::parse(text.as_bytes(), MANIFEST, &Limits::default()).unwrap()
            else {
                panic!("not a manifest")
            };
            assert!(manifest.compressions().is_err(), "{media_type}");
        }
    }
}
