//! Platforms (image-spec, image-index.md, "platform") and the choice among
//! the entries of an index.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::Escaped;

/// What an image runs on, in Go's words for systems and architectures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on `architecture` (Go's name: `amd64`, `arm64`).
    pub fn linux(architecture: &str) -> Self {
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// The platform this binary was built for.
    pub fn host() -> Self {
        Self::linux(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            other => other,
        })
    }

    /// Whether an image for `self` runs on `machine`: all parts are equal,
    /// where a variant that the spec takes for granted counts as none.
    pub fn runs_on(&self, machine: &Platform) -> bool {
        self.os == machine.os
            && self.architecture == machine.architecture
            && self.implied_variant() == machine.implied_variant()
    }

    fn implied_variant(&self) -> Option<&str> {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", Some("v8")) => None,
            ("amd64", Some("v1")) => None,
            (_, Some("")) => None,
            (_, variant) => variant,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Escaped::new(&self.os), Escaped::new(&self.architecture))?;
        match self.implied_variant() {
            Some(variant) => write!(f, "/{}", Escaped::new(variant)),
            None => Ok(()),
        }
    }
}
