//! By which proxy an endpoint is reached, with the variables that people know:
//! `https_proxy`, `http_proxy` and `no_proxy`.
//!
//! In: the values of the variables. Out: [`Proxies`]. Invariant: no error and
//! no debug print shows a proxy's user or password.

use std::fmt;
use std::net::IpAddr;

use super::Secret;
use crate::text;

/// The names of the variables, in lower case. The upper-case forms count where
/// these are not set.
pub const PROXY_VARIABLES: [&str; 3] = ["https_proxy", "http_proxy", "no_proxy"];

/// The proxies for both schemes, and what is reached without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    except: Vec<Exception>,
}

/// An HTTP proxy that connects us (RFC 9110, 9.3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// An IPv6 address is in brackets.
    pub host: String,
    pub port: u16,
    pub username: String,
    pub password: Option<Secret>,
}

/// Where a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub https: bool,
    /// An IPv6 address may be in brackets.
    pub host: &'a str,
    pub port: u16,
}

/// Why the value of a variable is of no use. It is not shown, because it may
/// hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("this is not the URL of a proxy: expected http://[USER:PASSWORD@]HOST[:PORT]")]
    Url,
    #[error("only proxies at http:// are supported")]
    Scheme,
}

/// One entry of `no_proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// A name and all names below it.
    Domain(String),
    Network {
        address: IpAddr,
        /// Bits of the address that count.
        prefix: u32,
    },
}

impl Proxies {
    /// Whether one of them is told a password.
    pub fn has_password(&self) -> bool {
        [&self.https, &self.http].into_iter().flatten().any(|proxy| proxy.password.is_some())
    }

    /// Sets what one of [`PROXY_VARIABLES`] says; an empty value says nothing.
    /// Other names are passed over.
    pub fn set(&mut self, variable: &str, value: &str) -> Result<(), ProxyError> {
        let value = value.trim();
        match variable {
            "https_proxy" => self.https = parse_optional(value)?,
            "http_proxy" => self.http = parse_optional(value)?,
            "no_proxy" => self.except = parse_exceptions(value),
            _ => {}
        }
        Ok(())
    }

    /// The proxy for a target; nothing if it is reached directly.
    pub fn proxy(&self, target: Target<'_>) -> Option<&Proxy> {
        let proxy = if target.https { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !self.except.iter().any(|exception| exception.covers(target)))
    }
}

fn parse_optional(text: &str) -> Result<Option<Proxy>, ProxyError> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

impl std::str::FromStr for Proxy {
    type Err = ProxyError;

    /// `[http://][user[:password]@]host[:port][/]`, by default port 80.
    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(ProxyError::Scheme);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (userinfo, authority) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (host, port) = split_port(authority).ok_or(ProxyError::Url)?;
        let (username, password) = match userinfo.split_once(':') {
            Some((username, password)) => (username, Some(password)),
            None => (userinfo, None),
        };
        let password = password.map(percent_decoded).transpose()?.map(Secret::new);
        let username = percent_decoded(username)?;
        Ok(Self { host: host.to_ascii_lowercase(), port: port.unwrap_or(80), username, password })
    }
}

/// Where it is, without user and password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// `host[:port]`, where the host is a name, an IPv4 address or an IPv6 address
/// in brackets.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at_checked(end)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    let known = bracketed.map_or(is_name(host), |address| address.parse::<IpAddr>().is_ok());
    let port = match port.strip_prefix(':') {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
        None if port.is_empty() => None,
        None => return None,
    };
    known.then_some((host, port))
}

fn percent_decoded(text: &str) -> Result<String, ProxyError> {
    let bytes = text::percent_decoded(text.as_bytes()).ok_or(ProxyError::Url)?;
    String::from_utf8(bytes).map_err(|_| ProxyError::Url)
}

/// Entries that mean nothing are passed over, as everywhere.
fn parse_exceptions(text: &str) -> Vec<Exception> {
    text.split([',', ' ', '\t', '\n']).filter(|entry| !entry.is_empty()).filter_map(parse_exception).collect()
}

fn parse_exception(entry: &str) -> Option<Exception> {
    if entry == "*" {
        return Some(Exception { hosts: Hosts::All, port: None });
    }
    if let Some((address, prefix)) = entry.split_once('/') {
        let (address, prefix) = (bare(address).parse().ok()?, prefix.parse().ok()?);
        return Some(Exception { hosts: Hosts::Network { address, prefix }, port: None });
    }
    if let Ok(address) = bare(entry).parse::<IpAddr>() {
        return Some(Exception { hosts: Hosts::Network { address, prefix: 128 }, port: None });
    }
    let domain = entry.strip_prefix("*.").or_else(|| entry.strip_prefix('.')).unwrap_or(entry);
    let (host, port) = split_port(domain)?;
    let hosts = match bare(host).parse() {
        Ok(address) => Hosts::Network { address, prefix: 128 },
        Err(_) => Hosts::Domain(host.trim_end_matches('.').to_ascii_lowercase()),
    };
    Some(Exception { hosts, port })
}

/// An address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl Exception {
    fn covers(&self, target: Target<'_>) -> bool {
        if self.port.is_some_and(|port| port != target.port) {
            return false;
        }
        let host = bare(target.host).trim_end_matches('.').to_ascii_lowercase();
        match &self.hosts {
            Hosts::All => true,
            Hosts::Domain(domain) => {
                host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Hosts::Network { address, prefix } => {
                host.parse().is_ok_and(|host| same_network(host, *address, *prefix))
            }
        }
    }
}

fn same_network(one: IpAddr, other: IpAddr, prefix: u32) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros().min(32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    let bits = if one.is_ipv4() { 32 } else { 128 };
    differing >= prefix.min(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_url_whose_password_is_not_shown() {
        for (text, expected) in [
            ("http://proxy.lan:3128", Ok(("proxy.lan:3128", "", None))),
            ("http://Proxy.lan", Ok(("proxy.lan:80", "", None))),
            ("proxy.lan:3128/", Ok(("proxy.lan:3128", "", None))),
            ("HTTP://me:hunter2@proxy.lan", Ok(("proxy.lan:80", "me", Some("hunter2")))),
            ("http://me@[::1]:3128", Ok(("[::1]:3128", "me", None))),
            ("http://me:hunter2%40x%3a@10.0.0.1:1", Ok(("10.0.0.1:1", "me", Some("hunter2@x:")))),
            ("http://me:hunter2%+4@proxy.lan", Err(ProxyError::Url)),
            ("http://me:hunter2@x@proxy", Ok(("proxy:80", "me", Some("hunter2@x")))),
            ("https://me:hunter2@proxy.lan", Err(ProxyError::Scheme)),
            ("socks5://me:hunter2@proxy.lan", Err(ProxyError::Scheme)),
            ("http://me:hunter2%4@proxy.lan", Err(ProxyError::Url)),
            ("http://me:hunter2@", Err(ProxyError::Url)),
            ("http://proxy:0", Err(ProxyError::Url)),
            ("http://proxy:65536", Err(ProxyError::Url)),
            ("http://proxy/path", Err(ProxyError::Url)),
            ("http://[::1", Err(ProxyError::Url)),
            ("http://[x]:1", Err(ProxyError::Url)),
            ("::", Err(ProxyError::Url)),
        ] {
            let parsed = text.parse::<Proxy>();
            assert!(!format!("{parsed:?}").contains("hunter2"), "{text}");
            let shown = parsed.as_ref().map(|proxy| {
                (proxy.to_string(), proxy.username.as_str(), proxy.password.as_ref().map(Secret::reveal))
            });
            let expected =
                expected.map(|(shown, username, password)| (shown.to_string(), username, password));
            assert_eq!(shown.map_err(|error| *error), expected, "{text}");
        }
    }

    #[test]
    fn no_proxy_names_hosts_domains_networks_and_ports() {
        for (exceptions, host, direct) in [
            ("", "a.io", false),
            ("*", "a.io", true),
            ("a.io", "a.io", true),
            ("A.IO", "a.io.", true),
            ("a.io", "x.a.io", true),
            (".a.io", "x.a.io", true),
            (".a.io", "a.io", true),
            ("*.a.io", "x.a.io", true),
            ("a.io", "xa.io", false),
            ("x.a.io", "a.io", false),
            ("b.io, a.io", "a.io", true),
            ("b.io a.io", "a.io", true),
            ("a.io:443", "a.io", true),
            ("a.io:444", "a.io", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.10", false),
            ("10.0.0.1:443", "10.0.0.1", true),
            ("10.0.0.1:1", "10.0.0.1", false),
            ("10.0.0.0/8", "10.9.9.9", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "10.a.io", false),
            ("0.0.0.0/0", "192.168.0.1", true),
            ("0.0.0.0/0", "[::1]", false),
            ("::1", "[::1]", true),
            ("[::1]:443", "[::1]", true),
            ("fd00::/8", "[fd12::1]", true),
            ("fd00::/8", "[fe80::1]", false),
            ("10.0.0.0/x,//,:,[", "10.0.0.1", false),
        ] {
            let mut proxies = Proxies::default();
            proxies.set("https_proxy", "http://proxy.lan:3128").unwrap();
            proxies.set("no_proxy", exceptions).unwrap();
            let target = Target { https: true, host, port: 443 };
            assert_eq!(proxies.proxy(target).is_none(), direct, "{exceptions} {host}");
        }
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let mut proxies = Proxies::default();
        proxies.set("https_proxy", "http://one").unwrap();
        proxies.set("http_proxy", "two").unwrap();
        for (https, host) in [(true, "one"), (false, "two")] {
            let proxy = proxies.proxy(Target { https, host: "a.io", port: 5000 });
            assert_eq!(proxy.map(|proxy| proxy.host.as_str()), Some(host));
        }
        proxies.set("http_proxy", "").unwrap();
        assert_eq!(proxies.proxy(Target { https: false, host: "a.io", port: 80 }), None);
    }
}
