//! Docker's `config.json` and containers-auth.json(5): passwords that people
//! have stored with `docker login` or `podman login`.
//!
//! In: the text of one file. Out: [`AuthFile`], credentials by endpoint
//! `host[:port]`, or a part of its repositories. Invariant: no error shows
//! anything of the file but a place in it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::oci::registries::{Credentials, Registries, Secret, default_host};

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthFile {
    credentials: BTreeMap<String, Credentials>,
    helpers: Vec<String>,
}

/// Why a file is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthFileError {
    #[error("it is not JSON of the right form, at line {line} column {column}")]
    Json { line: usize, column: usize },
    #[error("the auth of its entry {entry} is not base64 of user:password")]
    Auth {
        /// Counts from 1, in the order of their names.
        entry: usize,
    },
}

/// The file as it was written. The tools that write it take `null` for
/// nothing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
}

impl AuthFile {
    pub fn parse(text: &str) -> Result<Self, AuthFileError> {
        let written: Written = serde_json::from_str(text)
            .map_err(|error| AuthFileError::Json { line: error.line(), column: error.column() })?;
        let mut file = Self::default();
        for (position, (name, entry)) in written.auths.unwrap_or_default().into_iter().enumerate() {
            let credentials = entry
                .unwrap_or_default()
                .credentials()
                .map_err(|()| AuthFileError::Auth { entry: position + 1 })?;
            if let Some(credentials) = credentials {
                file.credentials.insert(key(&name), credentials);
            }
        }
        file.helpers = written.cred_helpers.unwrap_or_default().into_keys().collect();
        if written.creds_store.is_some_and(|store| !store.is_empty()) {
            file.helpers.push("all registries".into());
        }
        Ok(file)
    }

    /// For whom the file names a helper, which is another program and is not
    /// run.
    pub fn helpers(&self) -> &[String] {
        &self.helpers
    }

    /// Adds what `registries` does not know yet. Where it has credentials for
    /// a host, these are for all of it.
    pub fn add_to(self, registries: &mut Registries) {
        let host = |key: &str| key.split('/').next().unwrap_or_default().to_owned();
        let mut new = self.credentials;
        new.retain(|key, _| !registries.credentials.contains_key(&host(key)));
        for (key, credentials) in new {
            registries.credentials.entry(key).or_insert(credentials);
        }
    }
}

impl Entry {
    /// Nothing if a helper has them.
    fn credentials(self) -> Result<Option<Credentials>, ()> {
        let (username, password) = match self.auth.as_deref().unwrap_or_default() {
            "" => (self.username.unwrap_or_default(), self.password.unwrap_or_default()),
            auth => decode_auth(auth).ok_or(())?,
        };
        Ok(match (self.identity_token.unwrap_or_default(), username.as_str()) {
            (token, _) if !token.is_empty() => Some(Credentials::Identity(Secret::new(token))),
            // The name that Docker gives to those who have a token only.
            (_, "<token>") => Some(Credentials::Identity(Secret::new(password))),
            (_, "") => None,
            _ => Some(Credentials::Basic { username, password: Secret::new(password) }),
        })
    }
}

/// User and password from the base64 of `user:password`.
pub(super) fn decode_auth(auth: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    // Old versions of Docker pad with these.
    Some((username.into(), password.trim_end_matches('\0').into()))
}

/// `https://host/v1/`, `host` or `host/repository` as the key of an endpoint.
fn key(name: &str) -> String {
    let (host, path) = match name.split_once("://") {
        Some((_, rest)) => (rest.split('/').next().unwrap_or_default(), ""),
        None => name.split_once('/').unwrap_or((name, "")),
    };
    let host = host.to_ascii_lowercase();
    let path = path.trim_matches('/');
    let separator = if path.is_empty() { "" } else { "/" };
    format!("{}{separator}{path}", default_host(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic { username: username.into(), password: Secret::new(password.into()) }
    }

    #[test]
    fn entries_are_for_a_host_or_some_of_its_repositories() {
        let identity = |token: &str| Credentials::Identity(Secret::new(token.into()));
        for (text, key, credentials) in [
            (r#"{"auths": {"a.io": {"auth": "dTpw"}}}"#, "a.io", basic("u", "p")),
            (r#"{"auths": {"A.io:5000": {"auth": "dTpw"}}}"#, "a.io:5000", basic("u", "p")),
            (r#"{"auths": {"https://a.io/v2/": {"auth": "dTpwAA=="}}}"#, "a.io", basic("u", "p")),
            (
                r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}}"#,
                "registry-1.docker.io",
                basic("u", "p"),
            ),
            (
                r#"{"auths": {"docker.io/team": {"auth": "dTpw"}}}"#,
                "registry-1.docker.io/team",
                basic("u", "p"),
            ),
            (r#"{"auths": {"a.io/Team/x/": {"auth": "dTpw"}}}"#, "a.io/Team/x", basic("u", "p")),
            (r#"{"auths": {"a.io": {"username": "u", "password": "p:q"}}}"#, "a.io", basic("u", "p:q")),
            (
                r#"{"auths": {"a.io": {"auth": "dTpw", "identitytoken": null}, "b.io": null}, "credHelpers": null}"#,
                "a.io",
                basic("u", "p"),
            ),
            (r#"{"auths": {"a.io": {"auth": "dTpw", "identitytoken": "t"}}}"#, "a.io", identity("t")),
            (r#"{"auths": {"a.io": {"auth": "PHRva2VuPjp0"}}, "HttpHeaders": {}}"#, "a.io", identity("t")),
        ] {
            let file = AuthFile::parse(text).unwrap();
            assert_eq!(file.credentials, BTreeMap::from([(key.to_string(), credentials)]), "{text}");
        }
    }

    #[test]
    fn what_helpers_have_is_not_had() {
        for (text, helpers) in [
            ("{}", &[][..]),
            (r#"{"auths": null, "credsStore": null}"#, &[]),
            (r#"{"auths": {"a.io": {}}, "credsStore": "desktop"}"#, &["all registries"]),
            (r#"{"credHelpers": {"a.io": "ecr", "b.io": "gcr"}}"#, &["a.io", "b.io"]),
        ] {
            let file = AuthFile::parse(text).unwrap();
            assert_eq!(
                (file.helpers(), file.credentials.len()),
                (&*helpers.iter().map(|h| h.to_string()).collect::<Vec<_>>(), 0)
            );
        }
    }

    #[test]
    fn a_broken_file_is_not_shown() {
        for (text, says) in [
            ("", "it is not JSON of the right form, at line 1 column 0"),
            ("{\n\"auths\": \"hunter2\"}", "it is not JSON of the right form, at line 2 column 18"),
            (r#"{"auths": {"a": {"auth": 1}}}"#, "it is not JSON of the right form, at line 1 column 26"),
            (
                r#"{"auths": {"a": {}, "b": {"auth": "hunter2"}}}"#,
                "the auth of its entry 2 is not base64 of user:password",
            ),
            (
                r#"{"auths": {"a": {"auth": "aHVudGVyMg=="}}}"#,
                "the auth of its entry 1 is not base64 of user:password",
            ),
        ] {
            assert_eq!(AuthFile::parse(text).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn the_configuration_counts_before_auth_files_and_these_in_their_order() {
        let mut registries = Registries::default();
        registries.credentials.insert("a.io".into(), basic("config", "p"));
        let first = r#"{"auths": {"a.io/x": {"auth": "dTpw"}, "b.io": {"username": "first"}}}"#;
        let second = r#"{"auths": {"b.io": {"auth": "dTpw"}, "c.io": {"auth": "dTpw"},
            "c.io/x": {"username": "part"}, "b.io/x": {"username": "late"}}}"#;
        for text in [first, second] {
            AuthFile::parse(text).unwrap().add_to(&mut registries);
        }
        for (key, username) in [
            ("a.io", Some("config")),
            ("a.io/x", None),
            ("b.io", Some("first")),
            ("b.io/x", None),
            ("c.io", Some("u")),
            ("c.io/x", Some("part")),
        ] {
            let found = registries.credentials.get(key).map(|credentials| match credentials {
                Credentials::Basic { username, .. } => username.as_str(),
                Credentials::Identity(_) => panic!("{key}"),
            });
            assert_eq!(found, username, "{key}");
        }
    }
}
