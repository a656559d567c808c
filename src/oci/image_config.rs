//! The image config (image-spec, config.md): platform and diff IDs.

use serde::Deserialize;

use super::{Digest, Platform, spelling};
use crate::text::Escaped;

/// The keys that are read.
const KEYS: [&str; 6] = ["os", "architecture", "variant", "rootfs", "type", "diff_ids"];

/// What plywood needs of an image config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// `None` where the config names no platform, as `umoci` may write it.
    pub platform: Option<Platform>,
    /// The digest of each changeset's plain tar, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// Why bytes are not an image config.
#[derive(Debug, thiserror::Error)]
pub enum ImageConfigError {
    #[error("it is not the JSON of an image config")]
    Json(#[source] serde_json::Error),
    #[error("it has the key `{}`, which differs in case only from one of the format", Escaped::new(.0))]
    Spelling(String),
    #[error("its `rootfs` is not of the type `layers`")]
    RootfsType,
    #[error("it lists {diff_ids} diff IDs for {changesets} changesets")]
    Count { diff_ids: usize, changesets: usize },
    #[error("it is for {has}, this machine needs {wanted}")]
    Platform { has: Platform, wanted: Platform },
}

#[derive(Deserialize)]
struct ConfigJson {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    rootfs: RootfsJson,
}

#[derive(Deserialize)]
struct RootfsJson {
    r#type: String,
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses an image config.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageConfigError> {
        let json: ConfigJson = serde_json::from_slice(bytes).map_err(ImageConfigError::Json)?;
        if let Some(key) = spelling::resembling(bytes, &KEYS) {
            return Err(ImageConfigError::Spelling(key));
        }
        if json.rootfs.r#type != "layers" {
            return Err(ImageConfigError::RootfsType);
        }
        let platform = match (json.os, json.architecture) {
            (Some(os), Some(architecture)) if !os.is_empty() && !architecture.is_empty() => {
                Some(Platform { os, architecture, variant: json.variant })
            }
            _ => None,
        };
        Ok(Self { platform, diff_ids: json.rootfs.diff_ids })
    }

    /// Checks that the config goes with a manifest of `changesets` changesets
    /// and runs on `machine`.
    pub fn check(&self, changesets: usize, machine: &Platform) -> Result<(), ImageConfigError> {
        if self.diff_ids.len() != changesets {
            return Err(ImageConfigError::Count { diff_ids: self.diff_ids.len(), changesets });
        }
        match &self.platform {
            Some(has) if !has.runs_on(machine) => {
                Err(ImageConfigError::Platform { has: has.clone(), wanted: machine.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// The chain ID of a stack of changesets, lowest first (image-spec,
/// config.md, "Layer ChainID"). `None` for an empty stack.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(*first, |chain, diff| Digest::sha256(format!("{chain} {diff}").as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_must_fit_manifest_and_machine() {
        let digest = Digest::sha256(b"");
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        let amd64 = Platform::linux("amd64");
        config.check(1, &amd64).unwrap();
        assert!(matches!(config.check(2, &amd64), Err(ImageConfigError::Count { .. })));
        let error = config.check(1, &Platform::linux("arm64")).unwrap_err();
        assert_eq!(error.to_string(), "it is for linux/amd64, this machine needs linux/arm64");
        let twice = text.replace("\"os\"", "\"OS\":\"windows\",\"os\"");
        assert!(matches!(ImageConfig::parse(twice.as_bytes()), Err(ImageConfigError::Spelling(_))));
        let bad = text.replace("layers", "other");
        assert!(matches!(ImageConfig::parse(bad.as_bytes()), Err(ImageConfigError::RootfsType)));
    }

    #[test]
    fn the_chain_id_of_one_changeset_is_its_diff_id() {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[a]), Some(a));
        assert_eq!(chain_id(&[a, b]), Some(Digest::sha256(format!("{a} {b}").as_bytes())));
    }
}
