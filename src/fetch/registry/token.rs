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
        let credentials = self.registries.credentials(&subject.endpoint.authority, subject.repository);
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
        let failed = |problem: String| EndpointError::Token { realm: realm.clone(), problem };
        let request =
            wanted.request(server, credentials).ok_or_else(|| failed("its URL is too odd".into()))?;
        let mut answer = self.send(&request, subject.limits)?;
        if answer.status != StatusCode::OK {
            let detail = Detail::read(&mut answer.body);
            return Err(match answer.status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => EndpointError::Unauthorized(detail),
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    let retry_after = super::retry::retry_after(&answer.headers);
                    EndpointError::Busy { status, retry_after, detail }
                }
                status if status.is_redirection() => failed("it redirects, which is not followed".into()),
                status => failed(format!("it answers {status}{detail}")),
            });
        }
        let bytes = answer.body.read_all(Bound::TokenAnswer, &self.limits)?;
        parse_token(&bytes).map_err(|problem| failed(problem.into()))
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
    fn request(&self, server: Url, credentials: Option<&Credentials>) -> Option<Request> {
        let mut parameters = vec![("scope", self.scope.as_str())];
        parameters.extend(self.service.as_deref().map(|service| ("service", service)));
        match credentials {
            Some(Credentials::Identity(token)) => {
                parameters.push(("grant_type", "refresh_token"));
                parameters.push(("client_id", CLIENT_ID));
                parameters.push(("refresh_token", token.reveal()));
                Some(Request { form: Some(url::form(&parameters)), ..Request::get(server) })
            }
            credentials => {
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

fn parse_token(bytes: &[u8]) -> Result<Secret, &'static str> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer =
        serde_json::from_slice(bytes).map_err(|_| "its answer is not the JSON of a token")?;
    let filled = |text: &String| !text.is_empty();
    match answer.token.filter(filled).or(answer.access_token.filter(filled)) {
        Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Secret::new(token)),
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
            assert_eq!(parse_token(answer.as_bytes()).ok(), token.map(|t| Secret::new(t.into())), "{answer}");
        }
    }
}
