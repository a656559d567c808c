//! `machine.registries`, and the documents that replaced it in Talos 1.12:
//! `RegistryMirrorConfig`, `RegistryAuthConfig`, `RegistryTLSConfig` and
//! `TrustedRootsConfig`.
//!
//! Both forms mean the same and may stand side by side, but not for the same
//! host. No message here shows a value that may be or hold a secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::auth_file::decode_auth;
use super::draft::{Draft, add};
use super::machine::read_document_header;
use crate::oci::registries::{
    Authorities, ClientIdentity, Credentials, IdentityError, Mirror, MirrorEndpoint, Secret, Tls,
};
use crate::text::Escaped;
use crate::yaml::{Cursor, Fields};

/// Reads `machine.registries`.
pub(super) fn read(mut fields: Fields<'_>, draft: &mut Draft) {
    for (host, at) in fields.optional("mirrors").and_then(|at| at.entries()).unwrap_or_default() {
        read_mirror(host, &at, draft);
    }
    for (host, at) in fields.optional("config").and_then(|at| at.entries()).unwrap_or_default() {
        read_endpoint(host, &at, draft);
    }
    fields.finish();
}

fn read_mirror(host: &str, at: &Cursor<'_>, draft: &mut Draft) {
    let Some(mut fields) = at.fields() else { return };
    let override_path = boolean(&mut fields, "overridePath");
    let endpoint =
        |at: &Cursor<'_>| at.parse_with(parse_endpoint).map(|url| MirrorEndpoint { url, override_path });
    let endpoints = fields.optional("endpoints").and_then(|at| at.list(endpoint)).unwrap_or_default();
    let mirror = Mirror { endpoints, skip_fallback: boolean(&mut fields, "skipFallback") };
    fields.finish();
    add_mirror(host, at, mirror, draft);
}

/// Reads a `RegistryMirrorConfig`.
pub(super) fn read_mirror_document(mut fields: Fields<'_>, draft: &mut Draft) {
    read_document_header(&mut fields);
    let name = fields.required("name");
    let endpoints = fields.optional("endpoints").and_then(|at| at.list(read_mirror_endpoint));
    let mirror = Mirror {
        endpoints: endpoints.unwrap_or_default(),
        skip_fallback: boolean(&mut fields, "skipFallback"),
    };
    if let Some((name, at)) = name.and_then(|at| Some((at.text()?, at))) {
        add_mirror(name, &at, mirror, draft);
    }
    fields.finish();
}

fn read_mirror_endpoint(at: &Cursor<'_>) -> Option<MirrorEndpoint> {
    let mut fields = at.fields()?;
    let url = fields.required("url").and_then(|at| at.parse_with(parse_endpoint));
    let override_path = boolean(&mut fields, "overridePath");
    fields.finish();
    Some(MirrorEndpoint { url: url?, override_path })
}

fn add_mirror(host: &str, at: &Cursor<'_>, mirror: Mirror, draft: &mut Draft) {
    if host == "*" || is_authority(host) {
        return add(&mut draft.mirrors, host.into(), at, mirror);
    }
    at.problem(format!("`{}` is not a registry: expected host, host:port or *", Escaped::new(host)));
}

fn read_endpoint(host: &str, at: &Cursor<'_>, draft: &mut Draft) {
    let Some(mut fields) = at.fields() else { return };
    let Some(authority) = authority(host, at) else { return };
    if let Some(auth) = fields.optional("auth")
        && let Some(mut fields) = auth.fields()
    {
        if let Some(credentials) = read_credentials(&mut fields) {
            add(&mut draft.credentials, authority.clone(), &auth, credentials);
        }
        fields.finish_among_secrets();
    }
    if let Some(tls) = fields.optional("tls")
        && let Some(mut fields) = tls.fields()
    {
        if let Some(settings) = read_tls(&mut fields, Pem::Base64) {
            add(&mut draft.tls, authority, &tls, settings);
        }
        fields.finish_among_secrets();
    }
    fields.finish();
}

/// Reads a `RegistryAuthConfig`.
pub(super) fn read_auth_document(mut fields: Fields<'_>, draft: &mut Draft) {
    read_document_header(&mut fields);
    let name = fields.required("name");
    let credentials = read_credentials(&mut fields);
    if let Some(at) = name
        && let Some(authority) = at.text().and_then(|text| authority(text, &at))
        && let Some(credentials) = credentials
    {
        add(&mut draft.credentials, authority, &at, credentials);
    }
    fields.finish_among_secrets();
}

/// Reads a `RegistryTLSConfig`.
pub(super) fn read_tls_document(mut fields: Fields<'_>, draft: &mut Draft) {
    read_document_header(&mut fields);
    let name = fields.required("name");
    let tls = read_tls(&mut fields, Pem::Text);
    if let Some(at) = name
        && let Some(authority) = at.text().and_then(|text| authority(text, &at))
        && let Some(tls) = tls
    {
        add(&mut draft.tls, authority, &at, tls);
    }
    fields.finish_among_secrets();
}

fn read_credentials(fields: &mut Fields<'_>) -> Option<Credentials> {
    let mut text = |key| fields.optional(key).map(|at| Some((at.text()?.to_string(), at)));
    let (username, password) = (flatten(text("username"))?, flatten(text("password"))?);
    let (auth, token) = (flatten(text("auth"))?, flatten(text("identityToken"))?);
    match (username, password, auth, token) {
        (Some((username, _)), password, None, None) => {
            let password = Secret::new(password.map(|(password, _)| password).unwrap_or_default());
            Some(Credentials::Basic { username, password })
        }
        (None, None, Some((auth, at)), None) => {
            match decode_auth(&auth).filter(|(username, _)| !username.is_empty()) {
                Some((username, password)) => {
                    Some(Credentials::Basic { username, password: Secret::new(password) })
                }
                None => {
                    at.problem("this is not base64 of user:password");
                    None
                }
            }
        }
        (None, None, None, Some((token, _))) => Some(Credentials::Identity(Secret::new(token))),
        _ => {
            fields.at().problem("expected either username and password, or auth, or identityToken");
            None
        }
    }
}

/// How a document writes PEM.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pem {
    /// In base64 once more, as in `machine.registries`.
    Base64,
    /// As it is, as in the later documents.
    Text,
}

fn read_tls(fields: &mut Fields<'_>, form: Pem) -> Option<Tls> {
    let ca = fields.optional("ca").map(|at| read_authorities(&at, form));
    let identity = fields.optional("clientIdentity").map(|at| read_identity(&at, form));
    let insecure_skip_verify = boolean(fields, "insecureSkipVerify");
    // What is there but wrong makes the whole unusable: half of it would be
    // less secure than it reads.
    Some(Tls { ca: flatten(ca)?, client_identity: flatten(identity)?, insecure_skip_verify })
}

/// Nothing, if it was there and could not be read.
fn flatten<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        other => Some(other.flatten()),
    }
}

fn read_authorities(at: &Cursor<'_>, form: Pem) -> Option<Authorities> {
    let pem = read_pem(at, form)?;
    let parsed = Authorities::parse(&pem);
    parsed.map_err(|error| at.problem(format!("this is of no use as a CA: {error}"))).ok()
}

fn read_identity(at: &Cursor<'_>, form: Pem) -> Option<ClientIdentity> {
    let mut fields = at.fields()?;
    let certificate_at = match form {
        Pem::Base64 => fields.required("crt"),
        Pem::Text => fields.required("cert"),
    };
    let certificate = certificate_at.as_ref().and_then(|at| read_pem(at, form));
    let key_at = fields.required("key");
    let key = key_at.as_ref().and_then(|at| read_pem(at, form));
    fields.finish_among_secrets();
    let error = match ClientIdentity::parse(&certificate?, &key?) {
        Ok(identity) => return Some(identity),
        Err(error) => error,
    };
    let at = match error {
        IdentityError::Certificate | IdentityError::Version => certificate_at?,
        IdentityError::KeyForm | IdentityError::Key | IdentityError::Mismatch => key_at?,
    };
    at.problem(format!("this is of no use as a client identity: {error}"));
    None
}

fn read_pem(at: &Cursor<'_>, form: Pem) -> Option<String> {
    let text = at.text()?;
    if form == Pem::Text {
        return Some(text.into());
    }
    if text.contains("-----BEGIN") {
        at.problem("this is PEM as it is, here it has to be in base64 once more");
        return None;
    }
    let compact: String = text.split_ascii_whitespace().collect();
    let pem = STANDARD.decode(compact).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if pem.is_none() {
        at.problem("this is not base64 of PEM");
    }
    pem
}

/// Reads a `TrustedRootsConfig`.
pub(super) fn read_trusted_roots(mut fields: Fields<'_>, draft: &mut Draft) {
    read_document_header(&mut fields);
    let name = fields.required("name");
    let certificates = fields.required("certificates").and_then(|at| read_authorities(&at, Pem::Text));
    if let Some(at) = name
        && let Some(name) = at.text()
        && let Some(certificates) = certificates
    {
        add(&mut draft.trusted_roots, name.into(), &at, certificates);
    }
    fields.finish();
}

fn boolean(fields: &mut Fields<'_>, key: &'static str) -> bool {
    fields.optional(key).and_then(|at| at.boolean()).unwrap_or_default()
}

/// The `host[:port]` that an endpoint's settings are for, in lower case.
fn authority(text: &str, at: &Cursor<'_>) -> Option<String> {
    if is_authority(text) {
        return Some(text.to_ascii_lowercase());
    }
    let hint = if text == "*" { " (settings are for one endpoint each, not for all)" } else { "" };
    at.problem(format!("`{}` is not an endpoint: expected host or host:port{hint}", Escaped::new(text)));
    None
}

/// Checks an endpoint's URL and gives it back with its authority in lower case.
fn parse_endpoint(text: &str) -> Result<String, String> {
    if text.contains('@') {
        // Not shown: what stands before it may be a password.
        return Err("an endpoint holds no user or password, these belong to machine.registries.config".into());
    }
    let wrong = |what: &str| format!("the endpoint `{}` {what}", Escaped::new(text));
    let Some((scheme, rest)) =
        text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
    else {
        return Err(wrong("does not begin with http:// or https://"));
    };
    if rest.contains(['?', '#']) || rest.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(wrong("has a query, a fragment or a character that a URL may not have"));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !is_authority(authority) {
        return Err(wrong("has no host, or a malformed host or port"));
    }
    Ok(format!("{scheme}://{}{path}", authority.to_ascii_lowercase()))
}

/// `host[:port]`: a DNS name, an IPv4 address or an IPv6 address in brackets.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0);
    is_host_name(host) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// A DNS name as hosts have them; an IPv4 address looks like one.
pub(super) fn is_host_name(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let is_label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(word) && !label.starts_with('-');
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_plain_urls() {
        for (text, expected) in [
            ("https://mirror.lan", Ok("https://mirror.lan")),
            ("http://MIRROR.lan:5000/Path/", Ok("http://mirror.lan:5000/Path/")),
            ("https://[::1]:443/v2/x", Ok("https://[::1]:443/v2/x")),
            ("http://registry", Ok("http://registry")),
            ("mirror.lan", Err("does not begin with http")),
            ("ftp://mirror.lan", Err("does not begin with http")),
            ("https://", Err("has no host")),
            ("https:///x", Err("has no host")),
            ("https://a:0", Err("has no host")),
            ("https://a:65536", Err("has no host")),
            ("https://a:b", Err("has no host")),
            ("https://[::1", Err("has no host")),
            ("https://a..b", Err("has no host")),
            ("https://a?x=1", Err("has a query")),
            ("https://a/#x", Err("has a query")),
            ("https://a/b c", Err("has a query")),
            ("https://user:hunter2@a", Err("holds no user or password")),
            ("user:hunter2@a", Err("holds no user or password")),
        ] {
            match (parse_endpoint(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => {
                    assert!(found.contains(expected) && !found.contains("hunter2"), "{text}: {found}");
                }
                (found, expected) => panic!("{text}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
