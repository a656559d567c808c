//! Which endpoints serve a registry host, and what each is told: mirrors,
//! credentials and TLS settings with the semantics of Talos'
//! `machine.registries`. Pure; `fetch` does the talking.

use std::collections::BTreeMap;
use std::fmt;

/// Text that no log, error or debug print may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How to prove who we are to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        username: String,
        password: Secret,
    },
    /// An OAuth2 refresh token, exchanged for a bearer token.
    Identity(Secret),
}

/// TLS settings of one endpoint host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM certificates that replace the default roots for this host.
    pub ca: Option<String>,
    /// PEM certificate chain and private key of the client.
    pub client_identity: Option<(String, Secret)>,
    pub insecure_skip_verify: bool,
}

/// One `mirrors` entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    pub endpoints: Vec<MirrorEndpoint>,
    /// Do not ask the registry itself after the mirrors.
    pub skip_fallback: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorEndpoint {
    /// `http://` or `https://` URL, without userinfo, query and fragment.
    pub url: String,
    /// Take the URL's path as it is, without appending `/v2`.
    pub override_path: bool,
}

/// All of `machine.registries`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// By registry host; `*` stands for hosts without an entry.
    pub mirrors: BTreeMap<String, Mirror>,
    /// By endpoint `host[:port]`.
    pub credentials: BTreeMap<String, Credentials>,
    /// By endpoint `host[:port]`.
    pub tls: BTreeMap<String, Tls>,
}

/// One place to ask for a repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `http` or `https`.
    pub scheme: String,
    /// `host[:port]`; credentials and TLS settings are bound to it.
    pub authority: String,
    /// What comes before `/<repository>/manifests/…`: usually `/v2`.
    pub prefix: String,
    /// Whether this is the registry itself and not a mirror of it.
    pub upstream: bool,
}

impl Endpoint {
    /// The URL of something below the repository API.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{}/{}", self.scheme, self.authority, self.prefix, path)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

impl Registries {
    /// The endpoints for `registry`, in the order in which to try them.
    pub fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut endpoints: Vec<_> =
            mirror.iter().flat_map(|mirror| &mirror.endpoints).filter_map(MirrorEndpoint::endpoint).collect();
        if mirror.is_none_or(|mirror| !mirror.skip_fallback) {
            let authority = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
            let upstream = Endpoint {
                scheme: "https".into(),
                authority: authority.into(),
                prefix: "/v2".into(),
                upstream: true,
            };
            if !endpoints.iter().any(|e| {
                (&e.scheme, &e.authority, &e.prefix)
                    == (&upstream.scheme, &upstream.authority, &upstream.prefix)
            }) {
                endpoints.push(upstream);
            }
        }
        endpoints
    }
}

impl MirrorEndpoint {
    /// Splits the URL; the configuration has checked its form.
    fn endpoint(&self) -> Option<Endpoint> {
        let (scheme, rest) = self.url.split_once("://")?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let path = path.trim_end_matches('/');
        let prefix = match path {
            path if self.override_path => path.to_string(),
            path if path.ends_with("/v2") => path.to_string(),
            path => format!("{path}/v2"),
        };
        Some(Endpoint { scheme: scheme.into(), authority: authority.into(), prefix, upstream: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(registries: &Registries, registry: &str) -> Vec<String> {
        registries.endpoints(registry).iter().map(ToString::to_string).collect()
    }

    fn mirror(urls: &[&str], override_path: bool, skip_fallback: bool) -> Mirror {
        let endpoints = urls.iter().map(|url| MirrorEndpoint { url: (*url).into(), override_path }).collect();
        Mirror { endpoints, skip_fallback }
    }

    #[test]
    fn endpoints_follow_the_mirror_configuration() {
        let mut registries = Registries::default();
        assert_eq!(urls(&registries, "ghcr.io"), ["https://ghcr.io/v2"]);
        assert_eq!(urls(&registries, "docker.io"), ["https://registry-1.docker.io/v2"]);
        registries
            .mirrors
            .insert("ghcr.io".into(), mirror(&["https://m.lan", "http://n.lan:5000/ghcr/"], false, false));
        registries
            .mirrors
            .insert("quay.io".into(), mirror(&["https://h.lan/v2/proxy", "https://p.lan"], true, true));
        assert_eq!(
            urls(&registries, "ghcr.io"),
            ["https://m.lan/v2", "http://n.lan:5000/ghcr/v2", "https://ghcr.io/v2"]
        );
        assert_eq!(urls(&registries, "quay.io"), ["https://h.lan/v2/proxy", "https://p.lan"]);
        assert_eq!(urls(&registries, "other.io"), ["https://other.io/v2"]);
        registries.mirrors.insert("*".into(), mirror(&["https://all.lan/v2"], false, false));
        assert_eq!(urls(&registries, "other.io"), ["https://all.lan/v2", "https://other.io/v2"]);
        registries.mirrors.insert("same.io".into(), mirror(&["https://same.io"], false, false));
        assert_eq!(urls(&registries, "same.io"), ["https://same.io/v2"]);
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "(secret)");
    }
}
