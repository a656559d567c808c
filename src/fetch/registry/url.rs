//! `http` and `https` URLs from the configuration and from servers.
//!
//! In: text. Out: [`Url`] without userinfo, and [`Origin`], which decides who
//! may see credentials. Invariant: printing a [`Url`] shows no query, because
//! signed URLs carry their secrets there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::http::Uri;

use crate::text::{Escaped, percent_encoded};

/// An absolute URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url(Uri);

/// Scheme, host and port: the same for two URLs if and only if they lead to
/// the same server (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub https: bool,
    pub host: String,
    pub port: u16,
}

/// What a host part stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Name,
    /// An address that the whole internet can reach.
    Public,
    /// Loopback, link-local, private or unspecified, in any notation.
    Local,
}

impl Url {
    /// Nothing for other schemes, for userinfo and for what is no URL.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let schemed = matches!(uri.scheme_str(), Some("http" | "https"));
        (schemed && !authority.as_str().contains('@') && !authority.host().is_empty()).then_some(Self(uri))
    }

    /// The URL that `location` means in an answer from this one (RFC 3986,
    /// 5.2; without dot segments, which servers resolve).
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        let scheme = self.0.scheme_str()?;
        if location.contains("://") && !location.starts_with(['/', '?']) {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let authority = self.authority();
        let path = self.0.path();
        match location.chars().next()? {
            '/' => Self::parse(&format!("{scheme}://{authority}{location}")),
            '?' => Self::parse(&format!("{scheme}://{authority}{path}{location}")),
            _ => {
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                Self::parse(&format!("{scheme}://{authority}{directory}/{location}"))
            }
        }
    }

    /// Adds query parameters, percent-encoded.
    pub(super) fn with_query(&self, parameters: &[(&str, &str)]) -> Option<Self> {
        let separator = if self.0.query().is_some() { '&' } else { '?' };
        Self::parse(&format!("{}{separator}{}", self.0, form(parameters)))
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    /// `host[:port]`, as written.
    pub(super) fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    pub(super) fn origin(&self) -> Origin {
        let https = self.0.scheme_str() == Some("https");
        let port = self.0.port_u16().unwrap_or(if https { 443 } else { 80 });
        Origin { https, host: self.0.host().unwrap_or_default().to_ascii_lowercase(), port }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}{}", Escaped::new(self.authority()), Escaped::new(self.0.path()))
    }
}

/// `application/x-www-form-urlencoded`, also good as a query.
pub(super) fn form(parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<_> =
        parameters.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
    pairs.join("&")
}

impl Origin {
    /// Sorts a host by who can be behind it, from its text alone: no name is
    /// resolved. What only an old resolver would take for an address (`127.1`,
    /// `0x7f000001`) counts as local.
    pub(super) fn kind(&self) -> Host {
        let host = self.host.trim_end_matches('.');
        if host == "localhost" || host.ends_with(".localhost") {
            return Host::Local;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse() {
            Ok(IpAddr::V4(address)) if is_local_v4(address) => Host::Local,
            Ok(IpAddr::V6(address)) if is_local_v6(address) => Host::Local,
            Ok(_) => Host::Public,
            // With a zone an address means something on this machine only.
            Err(_) if looks_numeric(bare) || bare.len() < host.len() => Host::Local,
            Err(_) => Host::Name,
        }
    }
}

fn looks_numeric(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    last.starts_with("0x") || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_local_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    a == 0
        || shared
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_multicast()
}

fn is_local_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = address.to_ipv4() {
        // Mapped and compatible addresses; `::` and `::1` are among these.
        return address.is_loopback() || is_local_v4(v4);
    }
    // What translators (RFC 6052) and tunnels (RFC 3056) make an IPv4 address of.
    let v4 = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some((high, low)),
        _ => None,
    };
    let leads_to = |(high, low)| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    v4.map(leads_to).is_some_and(is_local_v4)
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn only_plain_http_urls_are_urls() {
        for text in ["https://a.io", "http://a.io:5000/v2/x?y=z", "https://[::1]:5000/"] {
            assert!(Url::parse(text).is_some(), "{text}");
        }
        for text in ["", "a.io", "/v2/", "file:///etc/shadow", "ftp://a.io/", "https://u:p@a.io/", "https://"]
        {
            assert!(Url::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn locations_are_joined_to_where_they_came_from() {
        let base = url("https://a.io:5000/v2/x/blobs/1?ns=b");
        for (location, joined) in [
            ("https://c.io/y?z=1", "https://c.io/y?z=1"),
            ("//c.io/y", "https://c.io/y"),
            ("/y?z=1", "https://a.io:5000/y?z=1"),
            ("2", "https://a.io:5000/v2/x/blobs/2"),
            ("?z", "https://a.io:5000/v2/x/blobs/1?z"),
            ("/y?u=http://c.io/", "https://a.io:5000/y?u=http://c.io/"),
        ] {
            assert_eq!(base.join(location), Some(url(joined)), "{location}");
        }
        for location in ["", "file:///etc/shadow", "https://u:p@c.io/", "https://c io/"] {
            assert_eq!(base.join(location), None, "{location}");
        }
    }

    #[test]
    fn a_printed_url_shows_no_query() {
        assert_eq!(url("https://a.io/x?signature=secret").to_string(), "https://a.io/x");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = url("https://A.io/x").origin();
        for (text, same) in [
            ("https://a.io:443/y", true),
            ("https://a.io:444/", false),
            ("http://a.io:443/", false),
            ("https://b.a.io/", false),
        ] {
            assert_eq!(url(text).origin() == origin, same, "{text}");
        }
    }

    #[test]
    fn hosts_are_sorted_without_asking_anyone() {
        for (host, kind) in [
            ("auth.docker.io", Host::Name),
            ("8.8.8.8", Host::Public),
            ("[2001:4860::1]", Host::Public),
            ("localhost", Host::Local),
            ("a.localhost", Host::Local),
            ("127.0.0.1", Host::Local),
            ("127.1", Host::Local),
            ("2130706433", Host::Local),
            ("0x7f000001", Host::Local),
            ("169.254.169.254", Host::Local),
            ("10.0.0.1", Host::Local),
            ("100.64.0.1", Host::Local),
            ("0.0.0.0", Host::Local),
            ("[::]", Host::Local),
            ("[::1]", Host::Local),
            ("[::ffff:127.0.0.1]", Host::Local),
            ("[fe80::1]", Host::Local),
            ("[fe80::1%25eth0]", Host::Local),
            ("[64:ff9b::a9fe:a9fe]", Host::Local),
            ("[64:ff9b::808:808]", Host::Public),
            ("[2002:7f00:1::]", Host::Local),
            ("[2002:808:808::]", Host::Public),
            ("[fd00::1]", Host::Local),
        ] {
            assert_eq!(url(&format!("https://{host}/")).origin().kind(), kind, "{host}");
        }
    }
}
