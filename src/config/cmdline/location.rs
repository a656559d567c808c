//! `plywood.config=` and what pins it: where the machine's configuration is.
//!
//! In: the values of `plywood.config=`, `plywood.config.digest=` and
//! `plywood.config.key=`. Out: [`ConfigRequest`]. Invariant: a pin that is not
//! understood makes the whole request not understood, never one without it.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::key::PublicKey;
use crate::oci::Digest;
use crate::oci::registries::Secret;
use crate::text::percent_encoded;

/// Where the configuration is, and how it is known to be the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRequest {
    pub location: ConfigLocation,
    /// Of the text.
    pub digest: Option<Digest>,
    /// Whose signature the text has; for URLs only.
    pub key: Option<PublicKey>,
}

/// Where to find the machine's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigLocation {
    /// An absolute path in the initramfs.
    Path(PathBuf),
    /// `LABEL=name[:path]`: on the volume of this label. The path is relative
    /// to the volume's root and does not lead out of it.
    Label { label: String, path: Option<PathBuf> },
    /// `http://` or `https://`
    Url(UrlTemplate),
    /// `inline:` and base64 of the text itself.
    Inline(Secret),
}

/// A URL in which `${uuid}`, `${serial}`, `${mac}` and `${hostname}` stand for
/// what tells machines apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlTemplate(String);

/// What tells machines apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// SMBIOS' UUID of the system.
    Uuid,
    /// SMBIOS' serial number of the system.
    Serial,
    /// The hardware address of the network device that is used.
    Mac,
    Hostname,
}

/// A variable that stands for nothing on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this machine has no {0} to put into the URL")]
pub struct Unset(pub Variable);

impl ConfigRequest {
    /// Nothing for what is not understood. A value may be or hold a secret, so
    /// there is no error that would quote it.
    pub(super) fn parse(location: &str, digest: Option<&str>, key: Option<&str>) -> Option<Self> {
        let (location, pinned) = match location.split_once('#') {
            Some((url, fragment)) if is_url(url) => (url, Some(fragment.replacen("sha256=", "sha256:", 1))),
            _ => (location, None),
        };
        let mut digests = Vec::new();
        for digest in digest.into_iter().chain(pinned.as_deref()) {
            digests.push(digest.parse().ok()?);
        }
        digests.dedup();
        let location = ConfigLocation::parse(location)?;
        let key = match key {
            Some(_) if !matches!(location, ConfigLocation::Url(_)) => return None,
            Some(key) => Some(PublicKey::parse(key)?),
            None => None,
        };
        match digests[..] {
            [] => Some(Self { location, digest: None, key }),
            [digest] => Some(Self { location, digest: Some(digest), key }),
            _ => None,
        }
    }
}

impl ConfigLocation {
    fn parse(text: &str) -> Option<Self> {
        if let Some(encoded) = text.strip_prefix("inline:") {
            let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
            return Some(Self::Inline(Secret::new(decoded)));
        }
        if let Some(volume) = text.strip_prefix("LABEL=") {
            return parse_volume(volume);
        }
        if is_url(text) {
            return UrlTemplate::parse(text).map(Self::Url);
        }
        text.starts_with('/').then(|| Self::Path(text.into()))
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// `name[:path]`
fn parse_volume(text: &str) -> Option<ConfigLocation> {
    let (label, path) = match text.split_once(':') {
        None => (text, None),
        Some((label, path)) => (label, Some(path.trim_start_matches('/'))),
    };
    let leads_out = |path: &str| path.is_empty() || path.split('/').any(|component| component == "..");
    if label.is_empty() || path.is_some_and(leads_out) {
        return None;
    }
    Some(ConfigLocation::Label { label: label.into(), path: path.map(PathBuf::from) })
}

impl UrlTemplate {
    /// Everybody on the machine can read the command line: a password has no
    /// place there.
    fn parse(text: &str) -> Option<Self> {
        let template = Self(text.into());
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        (printable
            && !text.contains('@')
            && template.expand(|_| Some("x".into())).is_ok_and(|all| all.is_some()))
        .then_some(template)
    }

    /// Whether nobody on the way can read or change what is fetched.
    pub fn is_encrypted(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The URL with `value` of each variable in its place, percent-encoded, so
    /// that no value can change what the rest of the URL means. None inside is
    /// for a variable that does not exist.
    fn expand(&self, value: impl Fn(Variable) -> Option<String>) -> Result<Option<String>, Unset> {
        let mut parts = self.0.split("${");
        let mut url = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let Some((name, rest)) = part.split_once('}') else { return Ok(None) };
            let Some(variable) = Variable::named(name) else { return Ok(None) };
            let value = value(variable).filter(|value| !value.is_empty()).ok_or(Unset(variable))?;
            url += &percent_encoded(&value);
            url += rest;
        }
        Ok(Some(url))
    }

    /// The URL for a machine of which `value` tells the variables.
    pub fn fill(&self, value: impl Fn(Variable) -> Option<String>) -> Result<String, Unset> {
        self.expand(value).map(Option::unwrap_or_default)
    }
}

impl Variable {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "uuid" => Self::Uuid,
            "serial" => Self::Serial,
            "mac" => Self::Mac,
            "hostname" => Self::Hostname,
            _ => return None,
        })
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uuid => "SMBIOS UUID",
            Self::Serial => "SMBIOS serial number",
            Self::Mac => "hardware address of a network device",
            Self::Hostname => "host name",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const OTHER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    const KEY: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    #[test]
    fn a_pin_holds_or_there_is_no_request() {
        let fragment = DIGEST.replace(':', "=");
        let with = |url: &str| format!("{url}#{fragment}");
        for (rule, location, digest, key, expected) in [
            ("a file", "/a".into(), None, None, Some((None, false))),
            ("a file with its digest", "/a".into(), Some(DIGEST), None, Some((Some(DIGEST), false))),
            ("in the URL", with("http://h/a"), None, None, Some((Some(DIGEST), false))),
            ("in both places", with("http://h/a"), Some(DIGEST), None, Some((Some(DIGEST), false))),
            ("two different ones", with("http://h/a"), Some(OTHER), None, None),
            ("one cut short", "https://h/a".into(), Some(&DIGEST[..40]), None, None),
            ("an empty one", "https://h/a".into(), Some(""), None, None),
            ("another fragment", "https://h/a#top".into(), None, None, None),
            ("no URL, no fragment", "/a#b".into(), None, None, Some((None, false))),
            ("a key", "https://h/a".into(), None, Some(KEY), Some((None, true))),
            ("a key and a digest", with("http://h/a"), None, Some(KEY), Some((Some(DIGEST), true))),
            ("a key that is none", "https://h/a".into(), None, Some("AAAA"), None),
            ("a key for a file", "/a".into(), None, Some(KEY), None),
        ] {
            let request = ConfigRequest::parse(&location, digest, key);
            let found = request.map(|r| (r.digest.map(|d| d.to_string()), r.key.is_some()));
            let expected = expected.map(|(digest, key)| (digest.map(str::to_owned), key));
            assert_eq!(found, expected, "{rule}");
        }
    }

    #[test]
    fn values_cannot_change_the_meaning_of_a_url() {
        let value = |variable| match variable {
            Variable::Uuid => Some("11-22".into()),
            Variable::Serial => Some("a/../b?c=d#e @ü".into()),
            Variable::Mac => Some("52:54:00:12:34:56".into()),
            Variable::Hostname => None,
        };
        for (text, expected) in [
            ("http://h/a", Some(Ok("http://h/a"))),
            ("http://h/${uuid}.yaml", Some(Ok("http://h/11-22.yaml"))),
            (
                "https://h/c?s=${serial}&m=${mac}",
                Some(Ok("https://h/c?s=a%2F..%2Fb%3Fc%3Dd%23e%20%40%C3%BC&m=52%3A54%3A00%3A12%3A34%3A56")),
            ),
            ("https://h/${hostname}", Some(Err(Unset(Variable::Hostname)))),
            ("https://h/$uuid/$", Some(Ok("https://h/$uuid/$"))),
            ("https://h/${uid}", None),
            ("https://h/${uuid", None),
            ("https://h/${}", None),
            ("https://user:word@h/", None),
            ("https://h/a b", None),
            ("https://h/ü", None),
        ] {
            let found = UrlTemplate::parse(text).map(|template| template.fill(value));
            assert_eq!(found, expected.map(|result| result.map(str::to_owned)), "{text}");
        }
    }
}
