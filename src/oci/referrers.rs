//! What refers to a manifest: signatures, attestations, bills of materials
//! (distribution-spec, "Listing Referrers").
//!
//! In: the index that a registry answers with. Out: [`Referrer`]s. Invariant:
//! this is a registry's word. Whoever uses a referrer has to see for himself
//! that its manifest names the subject.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::DocumentError;
use super::{Digest, Document};
use crate::limits::Limits;

/// A manifest whose `subject` is another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What kind of thing it is, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Referrer {
    /// Reads an image index of referrers.
    pub fn parse_all(bytes: &[u8], limits: &Limits) -> Result<Vec<Self>, DocumentError> {
        #[derive(Deserialize)]
        struct Listing {
            manifests: Vec<Referrer>,
        }
        Document::parse(bytes, super::manifest::INDEX, limits)?;
        let listing: Listing = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        Ok(listing.manifests)
    }
}

/// The tag under which a registry without the API has them: of a long digest
/// it has the first 64 digits (distribution-spec, "Referrers Tag Schema").
pub fn fallback_tag(subject: &Digest) -> String {
    let digits = subject.hex();
    format!("{}-{}", subject.algorithm().name(), digits.get(..64).unwrap_or(&digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn referrers_are_the_entries_of_an_index() {
        let digest = Digest::sha256(b"signature");
        let entry = format!(
            r#"{{"mediaType":"a","digest":"{digest}","size":3,"artifactType":"t","annotations":{{"k":"v"}},"x":1}}"#
        );
        for (text, artifact_types) in [
            (format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#), Some(&["t"][..])),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), Some(&[])),
            (format!(r#"{{"schemaVersion":2,"manifests":[{entry}],"layers":[]}}"#), None),
            (r#"{"schemaVersion":2}"#.into(), None),
            ("<html>".into(), None),
        ] {
            let found = Referrer::parse_all(text.as_bytes(), &Limits::default()).ok();
            let types =
                found.as_ref().map(|all| all.iter().filter_map(|r| r.artifact_type.as_deref()).collect());
            assert_eq!(types, artifact_types.map(<[&str]>::to_vec), "{text}");
        }
    }

    #[test]
    fn the_fallback_tag_is_the_start_of_the_digest_with_a_dash() {
        for (digest, tag) in [
            (Digest::Sha256([0xab; 32]), format!("sha256-{}", "ab".repeat(32))),
            (Digest::Sha512([0xab; 64]), format!("sha512-{}", "ab".repeat(32))),
        ] {
            assert_eq!(fallback_tag(&digest), tag);
        }
    }
}
