//! Getting and renewing what the `Authorization` header says.
//!
//! In: a challenge of an endpoint. Out: the header's value, remembered for the
//! endpoint and repository. Invariants: one renewal for each request, and one
//! at a time however many threads need it; a token server's redirects are not
//! followed.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::http::{HeaderMap, StatusCode};

use super::auth::{self, Challenge};
use super::error::{Detail, EndpointError};
use super::http::{Limits, Request};
use super::retry::retry_after;
use super::url::{self, Url};
use super::{Client, lock};
use crate::fetch::Event;
use crate::limits::Bound;
use crate::oci::registries::{Credentials, Endpoint, Secret};
use crate::text::Escaped;

const CLIENT_ID: &str = "plywood";

/// Whose authorization it is about.
#[derive(Clone, Copy)]
pub(super) struct Subject<'p> {
    pub endpoint: &'p Endpoint,
    pub repository: &'p str,
    pub limits: &'p Limits,
}

impl Subject<'_> {
    fn key(&self) -> (String, String) {
        (self.endpoint.to_string(), self.repository.into())
    }
}

impl Client<'_> {
    /// What was accepted last, if anything.
    pub(super) fn authorization(&self, subject: Subject<'_>) -> Option<Secret> {
        lock(&self.authorizations).get(&subject.key()).cloned()
    }

    /// Answers the challenge of a 401. Nothing if the configuration has
    /// nothing better to say than `refused`, which was just refused.
    pub(super) fn renew(
        &self,
        subject: Subject<'_>,
        headers: &HeaderMap,
        refused: Option<&Secret>,
    ) -> Result<Option<Secret>, EndpointError> {
        // Held during the request, so that all threads wait for one token.
        let mut authorizations = lock(&self.authorizations);
        let known = authorizations.get(&subject.key());
        if known.is_some() && known != refused {
            return Ok(known.cloned());
        }
        let credentials = self.registries.credentials(subject.endpoint, subject.repository);
        let value = match auth::challenge(headers) {
            None => None,
            Some(Challenge::Basic) => credentials.and_then(basic),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let wanted =
                    Wanted { realm, service, scope: auth::scope(subject.repository, scope.as_deref()) };
                let token = self.token(subject, &wanted, credentials)?;
                Some(Secret::new(format!("Bearer {}", token.reveal())))
            }
        };
        let value = value.filter(|value| Some(value) != refused);
        if let Some(value) = &value {
            authorizations.insert(subject.key(), value.clone());
        }
        Ok(value)
    }

    fn token(
        &self,
        subject: Subject<'_>,
        wanted: &Wanted,
        credentials: Option<&Credentials>,
    ) -> Result<Secret, EndpointError> {
        let server = self.token_server(subject.endpoint, &wanted.realm)?;
        let realm = server.to_string();
        let useless = |problem| EndpointError::Token { realm: realm.clone(), problem };
        let failed = |source| match source {
            EndpointError::Stopped | EndpointError::Deadline(_) => source,
            source => EndpointError::TokenServer { realm: realm.clone(), source: Box::new(source) },
        };
        let identity = match credentials {
            Some(Credentials::Identity(configured)) => Some(self.identity(subject.endpoint, configured)),
            _ => None,
        };
        let request = wanted.request(server, credentials, identity.as_ref());
        let request = request.ok_or_else(|| useless("its URL is too odd"))?;
        let mut answer = self.send(&request, subject.limits).map_err(failed)?;
        match answer.status {
            StatusCode::OK => {}
            status if status.is_redirection() => return Err(useless("it redirects, which is not followed")),
            status => {
                let detail = Detail::read(&mut answer.body);
                return Err(failed(refusal(status, &answer.headers, detail)));
            }
        }
        let bytes = answer.body.read_all(Bound::TokenAnswer, &self.limits).map_err(failed)?;
        let Granted { token, refresh_token } = parse_token(&bytes).map_err(useless)?;
        if let (Some(Credentials::Identity(configured)), Some(fresh)) = (credentials, refresh_token) {
            let key = (subject.endpoint.authority.clone(), configured.reveal().to_owned());
            lock(&self.identities).insert(key, fresh);
        }
        Ok(token)
    }

    /// The identity token to send: the one that took the place of the
    /// configured one in this run, if any did.
    fn identity(&self, endpoint: &Endpoint, configured: &Secret) -> Secret {
        let key = (endpoint.authority.clone(), configured.reveal().to_owned());
        lock(&self.identities).get(&key).unwrap_or(configured).clone()
    }

    /// Checks where a challenge sends us, and tells of it once.
    fn token_server(&self, endpoint: &Endpoint, realm: &str) -> Result<Url, EndpointError> {
        let refused = |why| {
            // A realm that is no plain URL may hold anything.
            let shown = Url::parse(realm).map_or_else(|| "(no plain URL)".into(), |url| url.to_string());
            EndpointError::Realm { realm: shown, why }
        };
        let from = Url::parse(&endpoint.url("")).ok_or_else(|| refused(super::RealmRefusal::Url))?;
        let server = auth::token_server(&from, realm).map_err(refused)?;
        if server.origin() != from.origin() && lock(&self.reported).insert(server.authority().into()) {
            let host = Escaped::new(server.authority()).to_string();
            self.progress.report(Event::TokenServer { endpoint: &endpoint.to_string(), host: &host });
        }
        Ok(server)
    }
}

/// What to ask a token server for.
struct Wanted {
    realm: String,
    service: Option<String>,
    scope: String,
}

impl Wanted {
    /// A GET, with a password where there is one (distribution, "Token
    /// Authentication Specification"), or a POST of a refresh token ("OAuth2
    /// Token Authentication").
    fn request(
        &self,
        server: Url,
        credentials: Option<&Credentials>,
        identity: Option<&Secret>,
    ) -> Option<Request> {
        let mut parameters = vec![("scope", self.scope.as_str())];
        parameters.extend(self.service.as_deref().map(|service| ("service", service)));
        match identity {
            Some(token) => {
                parameters.push(("grant_type", "refresh_token"));
                parameters.push(("client_id", CLIENT_ID));
                parameters.push(("refresh_token", token.reveal()));
                Some(Request { form: Some(url::form(&parameters)), ..Request::get(server) })
            }
            None => {
                let url = server.with_query(&parameters)?;
                Some(Request { authorization: credentials.and_then(basic), ..Request::get(url) })
            }
        }
    }
}

fn basic(credentials: &Credentials) -> Option<Secret> {
    match credentials {
        Credentials::Basic { username, password } => {
            let pair = BASE64_STANDARD.encode(format!("{username}:{}", password.reveal()));
            Some(Secret::new(format!("Basic {pair}")))
        }
        Credentials::Identity(_) => None,
    }
}

/// What a token server's answer that is none means.
fn refusal(status: StatusCode, headers: &HeaderMap, detail: Detail) -> EndpointError {
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return EndpointError::Busy { status, retry_after: retry_after(headers), detail };
    }
    EndpointError::Status { status, detail }
}

/// What a token server grants.
#[derive(Debug, PartialEq, Eq)]
struct Granted {
    token: Secret,
    /// In place of the identity token that was sent.
    refresh_token: Option<Secret>,
}

fn parse_token(bytes: &[u8]) -> Result<Granted, &'static str> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        refresh_token: Option<String>,
    }
    let answer: Answer =
        serde_json::from_slice(bytes).map_err(|_| "its answer is not the JSON of a token")?;
    let filled = |text: &String| !text.is_empty();
    let refresh_token = answer.refresh_token.filter(filled).map(Secret::new);
    match answer.token.filter(filled).or(answer.access_token.filter(filled)) {
        Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Granted { token: Secret::new(token), refresh_token })
        }
        Some(_) => Err("its token holds characters that no token has"),
        None => Err("its answer holds no token"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_filled_and_printable() {
        for (answer, token) in [
            (r#"{"token":"a.b-c","expires_in":60}"#, Some("a.b-c")),
            (r#"{"access_token":"a"}"#, Some("a")),
            (r#"{"token":"","access_token":"a"}"#, Some("a")),
            (r#"{"token":"","access_token":""}"#, None),
            (r#"{"token":"a\r\nx-evil: 1"}"#, None),
            ("{}", None),
            ("<html>", None),
            ("", None),
        ] {
            let granted = parse_token(answer.as_bytes()).ok().map(|granted| granted.token);
            assert_eq!(granted, token.map(|t| Secret::new(t.into())), "{answer}");
        }
    }
}
