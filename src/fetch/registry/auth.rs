//! How a registry wants to know who asks (RFC 9110, 11; distribution's token
//! specification), and which token servers are asked. Pure.
//!
//! In: `WWW-Authenticate` headers and the endpoint they came from. Out: a
//! [`Challenge`], and the URL to get a token from. Invariant: a server cannot
//! make us ask for more than pulling, nor send credentials in the clear or to
//! an address of its choice inside our network.

use ureq::http::{HeaderMap, header};

use super::error::RealmRefusal;
use super::url::{Host, Url};

/// What a 401 asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The best of an answer's challenges: a token rather than a password.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    // A realm that is shown to people may be in any language.
    let challenges: Vec<_> =
        values.flat_map(|value| parse_challenges(&String::from_utf8_lossy(value.as_bytes()))).collect();
    let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(challenges.first()).cloned()
}

/// Parses `scheme name=value, name="value", scheme token68, scheme …`. What
/// follows something malformed is passed over.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    const BETWEEN: [char; 3] = [' ', '\t', ','];
    let mut challenges = Vec::new();
    let mut rest = text.trim_start_matches(BETWEEN);
    while let Some((scheme, after)) = token(rest) {
        let mut parameters = Vec::new();
        rest = after.trim_start_matches(BETWEEN);
        if let Some(after) = token68(rest) {
            rest = after.trim_start_matches(BETWEEN);
        }
        while let Some((name, value, after)) = parameter(rest) {
            parameters.push((name.to_ascii_lowercase(), value));
            rest = after.trim_start_matches(BETWEEN);
        }
        challenges.extend(Challenge::new(scheme, parameters));
    }
    challenges
}

/// The longest token at the start (RFC 9110, 5.6.2).
fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// What is behind the one value that some schemes have in place of parameters,
/// if it can be nothing else: padded base64 (RFC 9110, 11.2).
fn token68(text: &str) -> Option<&str> {
    let is_value = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
    let padding = text.trim_start_matches(is_value);
    let rest = padding.trim_start_matches('=');
    let is_padded = text.len() > padding.len() && padding.len() > rest.len();
    (is_padded && (rest.is_empty() || rest.starts_with(','))).then_some(rest)
}

fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = token(text)?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, rest) = token(rest)?;
        return Some((name, value.into(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return Some((name, value, &quoted[position + 1..])),
            '\\' => value.push(characters.next()?.1),
            character => value.push(character),
        }
    }
    None
}

impl Challenge {
    fn new(scheme: &str, parameters: Vec<(String, String)>) -> Option<Self> {
        let get =
            |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") });
        }
        None
    }
}

/// The token server that `realm` names, if `endpoint` may send us there.
pub(super) fn token_server(endpoint: &Url, realm: &str) -> Result<Url, RealmRefusal> {
    let url = Url::parse(realm).ok_or(RealmRefusal::Url)?;
    let (from, to) = (endpoint.origin(), url.origin());
    if !to.https && (from.https || to.host != from.host) {
        return Err(RealmRefusal::Http);
    }
    if to.kind() == Host::Local && to.host != from.host {
        return Err(RealmRefusal::Local);
    }
    Ok(url)
}

/// The scope to ask for: pulling from one repository. A mirror may know the
/// repository below a name of its own, which its challenge then tells.
pub(super) fn scope(repository: &str, challenged: Option<&str>) -> String {
    // A space or a colon would begin another scope.
    let is_path = |name: &str| !name.contains(|c: char| c == ':' || c.is_whitespace());
    let below = |name: &str| {
        let is_longer = name.strip_suffix(repository).is_some_and(|prefix| prefix.ends_with('/'));
        name == repository || (is_longer && is_path(name))
    };
    let name = challenged
        .and_then(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'))
        .map(|(name, _)| name)
        .filter(|name| below(name))
        .unwrap_or(repository);
    format!("repository:{name}:pull")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn challenges_are_parsed_as_servers_write_them() {
        for (text, challenges) in [
            (r#"Basic realm="x""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://a.io/token",service="a.io",scope="repository:x:pull,push""#,
                vec![bearer("https://a.io/token", Some("a.io"), Some("repository:x:pull,push"))],
            ),
            (r#"bearer realm = "https://a.io" , error="x""#, vec![bearer("https://a.io", None, None)]),
            (r#"Bearer realm="a\"b""#, vec![bearer("a\"b", None, None)]),
            (
                r#"Negotiate, Basic realm="x", Bearer realm="https://a.io""#,
                vec![Challenge::Basic, bearer("https://a.io", None, None)],
            ),
            (r#", Basic realm="x""#, vec![Challenge::Basic]),
            (r#"Negotiate YQ==, Basic realm="x""#, vec![Challenge::Basic]),
            (r#"Negotiate YQ==,Bearer realm="https://a.io""#, vec![bearer("https://a.io", None, None)]),
            ("Basic realm=, Basic", vec![Challenge::Basic, Challenge::Basic]),
            (r#"Bearer service="a.io""#, vec![]),
            (r#"Bearer realm="unterminated"#, vec![]),
            ("", vec![]),
            ("=,=", vec![]),
        ] {
            assert_eq!(parse_challenges(text), challenges, "{text}");
        }
    }

    #[test]
    fn a_challenge_may_hold_words_of_any_language() {
        let mut headers = HeaderMap::new();
        let value = header::HeaderValue::from_bytes("Basic realm=\"dépôt\"".as_bytes()).unwrap();
        headers.insert(header::WWW_AUTHENTICATE, value);
        assert_eq!(challenge(&headers), Some(Challenge::Basic));
    }

    #[test]
    fn a_token_server_must_be_safe_to_send_credentials_to() {
        const HTTPS: &str = "https://registry.io/v2/";
        const HTTP: &str = "http://registry.lan:5000/v2/";
        const LOCAL: &str = "https://10.0.0.5:5000/v2/";
        for (endpoint, realm, refusal) in [
            (HTTPS, "https://registry.io/token", None),
            (HTTPS, "https://auth.example.com/token?x=y", None),
            (HTTPS, "https://8.8.8.8/token", None),
            (HTTPS, "http://registry.io/token", Some(RealmRefusal::Http)),
            (HTTP, "http://registry.lan:5001/token", None),
            (HTTP, "http://other.lan/token", Some(RealmRefusal::Http)),
            (HTTP, "https://other.lan/token", None),
            (LOCAL, "https://10.0.0.5/token", None),
            (LOCAL, "https://10.0.0.6/token", Some(RealmRefusal::Local)),
            (HTTPS, "https://169.254.169.254/token", Some(RealmRefusal::Local)),
            (HTTPS, "https://127.0.0.1/token", Some(RealmRefusal::Local)),
            (HTTPS, "https://[::1]/token", Some(RealmRefusal::Local)),
            (HTTPS, "https://localhost/token", Some(RealmRefusal::Local)),
            (HTTPS, "https://2130706433/token", Some(RealmRefusal::Local)),
            (HTTPS, "https://[64:ff9b::a9fe:a9fe]/token", Some(RealmRefusal::Local)),
            (HTTPS, "https://user:secret@auth.io/token", Some(RealmRefusal::Url)),
            (HTTPS, "file:///etc/shadow", Some(RealmRefusal::Url)),
            (HTTPS, "/token", Some(RealmRefusal::Url)),
        ] {
            let endpoint = Url::parse(endpoint).unwrap();
            assert_eq!(token_server(&endpoint, realm).err(), refusal, "{realm}");
        }
    }

    #[test]
    fn the_scope_is_pulling_from_one_repository() {
        for (challenged, scope) in [
            (None, "repository:a/b:pull"),
            (Some("repository:a/b:pull,push,delete"), "repository:a/b:pull"),
            (Some("repository:proxy/a/b:pull"), "repository:proxy/a/b:pull"),
            (Some("repository:xa/b:pull"), "repository:a/b:pull"),
            (Some("repository:other:pull"), "repository:a/b:pull"),
            (Some("registry:catalog:*"), "repository:a/b:pull"),
            (Some("repository:x:push repository:y/a/b:pull"), "repository:a/b:pull"),
            (Some("repository:x:push,delete\trepository:y/a/b:pull"), "repository:a/b:pull"),
        ] {
            assert_eq!(super::scope("a/b", challenged), scope);
        }
    }
}
