//! Which endpoints serve a registry host, and what each is told: mirrors,
//! credentials and TLS settings with the semantics of Talos'
//! `machine.registries`. Pure; `fetch` does the talking.

mod proxy;
mod tls;

use std::collections::BTreeMap;
use std::fmt;

pub use proxy::{PROXY_VARIABLES, Proxies, Proxy, ProxyError, Target};
pub use tls::{Authorities, AuthoritiesError, ClientIdentity, IdentityError};

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
    /// Replace the machine's roots for this host.
    pub ca: Option<Authorities>,
    pub client_identity: Option<ClientIdentity>,
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
    /// By endpoint `host[:port]`, and where an auth file says so by
    /// `host[:port]/repository` or a leading part of the repository.
    pub credentials: BTreeMap<String, Credentials>,
    /// By endpoint `host[:port]`.
    pub tls: BTreeMap<String, Tls>,
    /// Trusted like the machine's own roots.
    pub trusted_roots: Authorities,
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
    /// The credentials for a repository at an endpoint: those whose key says
    /// the most about it.
    pub fn credentials(&self, endpoint: &Endpoint, repository: &str) -> Option<&Credentials> {
        spellings(endpoint.scheme == "https", &endpoint.authority).into_iter().flatten().find_map(
            |authority| {
                let mut key = format!("{authority}/{repository}");
                loop {
                    if let Some(credentials) = self.credentials.get(&key) {
                        return Some(credentials);
                    }
                    key.truncate(key.rfind('/')?);
                }
            },
        )
    }

    /// The TLS settings of the host at `host[:port]`.
    pub fn tls(&self, https: bool, authority: &str) -> Option<&Tls> {
        spellings(https, authority).into_iter().flatten().find_map(|authority| self.tls.get(&authority))
    }

    /// The endpoints for `registry`, in the order in which to try them.
    pub fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirror = [registry, mirrored_name(registry), "*"].iter().find_map(|key| self.mirrors.get(*key));
        let mut endpoints: Vec<_> =
            mirror.iter().flat_map(|mirror| &mirror.endpoints).filter_map(MirrorEndpoint::endpoint).collect();
        if mirror.is_none_or(|mirror| !mirror.skip_fallback) {
            let upstream = Endpoint {
                scheme: "https".into(),
                authority: default_host(registry).into(),
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

/// A `host[:port]` in lower case, and its other form where its port is that of
/// the scheme: with or without it, it is the same server.
fn spellings(https: bool, authority: &str) -> [Option<String>; 2] {
    let authority = authority.to_ascii_lowercase();
    let port = if https { ":443" } else { ":80" };
    let has_port = authority.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    let other = match authority.strip_suffix(port) {
        Some(host) => Some(host.to_owned()),
        None if has_port => None,
        None => Some(format!("{authority}{port}")),
    };
    [Some(authority), other]
}

/// The name by which mirrors know a registry: that of Docker Hub has an older
/// form.
pub fn mirrored_name(registry: &str) -> &str {
    match registry {
        "index.docker.io" => "docker.io",
        registry => registry,
    }
}

/// The `host[:port]` behind the name of a registry.
pub fn default_host(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        registry => registry,
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
        let path = clean(path);
        let prefix = match path {
            path if self.override_path || path.ends_with("/v2") => path,
            path => format!("{path}/v2"),
        };
        Some(Endpoint { scheme: scheme.into(), authority: authority.into(), prefix, upstream: false })
    }
}

/// A path without empty, `.` and `..` components, and without a slash at its
/// end.
fn clean(path: &str) -> String {
    let mut kept = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(kept.pop()),
            component => kept.push(component),
        }
    }
    kept.iter().map(|component| format!("/{component}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(registries: &Registries, registry: &str) -> Vec<String> {
        registries.endpoints(registry).iter().map(ToString::to_string).collect()
    }

    fn endpoint(scheme: &str, authority: &str) -> Endpoint {
        let (scheme, authority) = (scheme.into(), authority.into());
        Endpoint { scheme, authority, prefix: "/v2".into(), upstream: true }
    }

    fn mirror(urls: &[&str], override_path: bool, skip_fallback: bool) -> Mirror {
        let endpoints = urls.iter().map(|url| MirrorEndpoint { url: (*url).into(), override_path }).collect();
        Mirror { endpoints, skip_fallback }
    }

    #[test]
    fn endpoints_are_those_of_the_mirror_then_the_registry_itself() {
        let mut registries = Registries::default();
        let none = registries.clone();
        registries.mirrors.extend([
            ("docker.io".into(), mirror(&["http://127.0.0.1:5000", "https://some.host"], false, false)),
            ("ghcr.io".into(), mirror(&["http://n.lan:5000/ghcr"], false, true)),
            ("quay.io".into(), mirror(&["https://h.lan/v2/proxy", "https://p.lan"], true, true)),
            ("same.io".into(), mirror(&["https://same.io"], false, false)),
            ("empty.io".into(), mirror(&[], false, false)),
            ("closed.io".into(), mirror(&[], false, true)),
        ]);
        let mut catch_all = registries.clone();
        catch_all.mirrors.insert("*".into(), mirror(&["http://127.0.0.1:5001"], false, false));
        let mut closed = registries.clone();
        closed.mirrors.insert("*".into(), mirror(&["http://127.0.0.1:5001"], false, true));
        const HUB: &str = "https://registry-1.docker.io/v2";
        for (registries, registry, expected) in [
            (&none, "docker.io", &[HUB][..]),
            (&none, "quay.io", &["https://quay.io/v2"]),
            (&none, "localhost:5000", &["https://localhost:5000/v2"]),
            (&registries, "docker.io", &["http://127.0.0.1:5000/v2", "https://some.host/v2", HUB]),
            (&registries, "index.docker.io", &["http://127.0.0.1:5000/v2", "https://some.host/v2", HUB]),
            (&registries, "ghcr.io", &["http://n.lan:5000/ghcr/v2"]),
            (&registries, "quay.io", &["https://h.lan/v2/proxy", "https://p.lan"]),
            (&registries, "same.io", &["https://same.io/v2"]),
            (&registries, "empty.io", &["https://empty.io/v2"]),
            (&registries, "closed.io", &[]),
            (&registries, "other.io", &["https://other.io/v2"]),
            (&catch_all, "docker.io", &["http://127.0.0.1:5000/v2", "https://some.host/v2", HUB]),
            (&catch_all, "other.io", &["http://127.0.0.1:5001/v2", "https://other.io/v2"]),
            (&catch_all, "closed.io", &[]),
            (&closed, "other.io", &["http://127.0.0.1:5001/v2"]),
        ] {
            assert_eq!(urls(registries, registry), expected, "{registry}");
        }
    }

    #[test]
    fn the_path_of_an_endpoint_ends_with_v2_unless_it_is_overridden() {
        for (url, prefix, overridden) in [
            ("https://a.io", "/v2", ""),
            ("https://a.io/", "/v2", ""),
            ("https://a.io/v2", "/v2", "/v2"),
            ("https://a.io/v2/", "/v2", "/v2"),
            ("https://a.io/docker.io", "/docker.io/v2", "/docker.io"),
            ("https://a.io/v2/docker.io", "/v2/docker.io/v2", "/v2/docker.io"),
            ("https://a.io//x/./y/../z//", "/x/z/v2", "/x/z"),
            ("https://a.io/../x", "/x/v2", "/x"),
            ("https://a.io/xv2", "/xv2/v2", "/xv2"),
        ] {
            for (override_path, expected) in [(false, prefix), (true, overridden)] {
                let endpoint = MirrorEndpoint { url: url.into(), override_path }.endpoint().unwrap();
                assert_eq!(endpoint.prefix, expected, "{url} {override_path}");
                assert_eq!(endpoint.authority, "a.io", "{url}");
            }
        }
    }

    #[test]
    fn credentials_are_for_a_host_or_a_part_of_it() {
        let of = |name: &str| Credentials::Identity(Secret::new(name.into()));
        let keys = [
            "a.io",
            "a.io/team",
            "a.io/team/secret",
            "b.io:5000",
            "c.io/team",
            "d.io:443",
            "[::1]",
            "e.io",
            "e.io:443/x",
        ];
        let credentials = keys.iter().map(|key| ((*key).into(), of(key))).collect();
        let registries = Registries { credentials, ..Registries::default() };
        for (authority, repository, expected) in [
            ("a.io", "x", Some("a.io")),
            ("A.io", "x/y", Some("a.io")),
            ("a.io", "team/x", Some("a.io/team")),
            ("a.io", "teams/x", Some("a.io")),
            ("a.io", "team/secret/x", Some("a.io/team/secret")),
            ("a.io", "team/secret", Some("a.io/team/secret")),
            ("a.io:443", "team/x", Some("a.io/team")),
            ("a.io:80", "x", None),
            ("d.io", "x", Some("d.io:443")),
            ("d.io:5000", "x", None),
            ("[::1]:443", "x", Some("[::1]")),
            ("[::1]:5000", "x", None),
            ("e.io", "x", Some("e.io")),
            ("b.io:5000", "x", Some("b.io:5000")),
            ("b.io", "x", None),
            ("c.io", "x", None),
            ("c.io", "team/x", Some("c.io/team")),
        ] {
            let found = registries.credentials(&endpoint("https", authority), repository);
            assert_eq!(found, expected.map(of).as_ref(), "{authority}");
        }
        // Without TLS it is another server.
        assert_eq!(registries.credentials(&endpoint("http", "d.io"), "x"), None);
        assert_eq!(registries.credentials(&endpoint("http", "a.io:80"), "x"), Some(&of("a.io")));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "(secret)");
    }
}
