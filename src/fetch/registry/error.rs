//! Why one endpoint did not deliver, and whether asking again may help.
//!
//! In: answers and failures of servers. Out: [`EndpointError`], whose texts
//! name causes in words. Invariant: server text is bounded and escaped, URLs
//! come without userinfo and query.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use serde_json::Value;
use ureq::http::StatusCode;

use super::pace::TooSlow;
use super::resolver::LookupError;
use super::tls::TlsProblem;
use crate::limits::{Bound, Exceeded};
use crate::oci::registries::Proxy;
use crate::oci::{DocumentError, Mismatch};
use crate::text::Escaped;

/// Most bytes read of the body of an error answer.
const MAX_ERROR_BODY: u64 = Bound::ErrorAnswer.default();

/// What went wrong with one endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("the connection failed")]
    Connection(#[source] io::Error),
    #[error("its host name was not found: {}", Escaped::new(.0))]
    HostNotFound(String),
    #[error("TLS failed, {0}")]
    Tls(TlsProblem),
    #[error("timeout while {0}")]
    Timeout(&'static str),
    /// Perhaps after another failure, which explains where the time went.
    #[error("the time for the whole pull is used up")]
    Deadline(#[source] Option<Box<EndpointError>>),
    #[error("less than {minimum} bytes a second arrive")]
    TooSlow { minimum: u64 },
    #[error("the content ends after {actual} of {expected} bytes")]
    Short { expected: u64, actual: u64 },
    #[error("it answers outside HTTP: {}", Escaped::new(.0))]
    Protocol(String),
    #[error("not authorized{0}")]
    Unauthorized(Detail),
    #[error("access denied{0}")]
    Denied(Detail),
    #[error("not found{0}")]
    NotFound(Detail),
    #[error("it is not able to answer now: {status}{detail}")]
    Busy { status: StatusCode, retry_after: Option<Duration>, detail: Detail },
    #[error("it answers {status}{detail}")]
    Status { status: StatusCode, detail: Detail },
    #[error("the redirect to {to} is refused: {why}")]
    Redirect { to: String, why: RedirectRefusal },
    #[error("the token server {realm} is refused: {why}")]
    Realm { realm: String, why: RealmRefusal },
    #[error("the token server {realm} gave no token: {problem}")]
    Token { realm: String, problem: &'static str },
    #[error("the token server {realm} does not help")]
    TokenServer { realm: String, source: Box<EndpointError> },
    #[error("its list of referrers {0}")]
    Referrers(&'static str),
    #[error("the answer has {0}")]
    TooLong(Exceeded),
    #[error("the answer's headers are longer than {limit} bytes")]
    LongHeaders { limit: usize },
    #[error("it answers a request for a range with another range")]
    Range,
    #[error("what it delivers is not what was asked for")]
    Content(#[source] Mismatch),
    #[error("what it delivers is no document of an image")]
    Document(#[source] DocumentError),
    #[error("it says `{}` where the index says `{}`", Escaped::new(.said), Escaped::new(.expected))]
    ContentType { said: String, expected: String },
    #[error("TLS settings are configured for its host, but its URL says http")]
    TlsForHttp,
    #[error("the proxy's URL cannot be used")]
    Proxy,
    #[error("the proxy at {proxy} does not help")]
    Through { proxy: String, source: Box<EndpointError> },
    #[error("it does not connect us: {0}")]
    NotConnected(String),
    #[error("stopped, because another part of the image failed")]
    Stopped,
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectRefusal {
    #[error("that is {0}")]
    TooMany(Exceeded),
    #[error("it leads from https to http")]
    Downgrade,
    #[error("it is not a plain http or https URL")]
    Location,
}

/// Why a token server is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealmRefusal {
    #[error("it is not a plain http or https URL")]
    Url,
    #[error("it is not https")]
    Http,
    #[error("its address is local and not that of the endpoint")]
    Local,
}

/// What a registry says in its own words (distribution-spec, "Error codes"),
/// printed after a colon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail(String);

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", Escaped::new(&self.0))
    }
}

impl Detail {
    /// Reads the first errors of an error answer, also as token servers write
    /// them (RFC 6749, 5.2); nothing if it has none.
    pub(super) fn read(body: impl Read) -> Self {
        let mut bytes = Vec::new();
        // What cannot be read cannot be shown; the status remains.
        let _ = body.take(MAX_ERROR_BODY).read_to_end(&mut bytes);
        Self::parse(&bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let Ok(answer) = serde_json::from_slice::<Value>(bytes) else { return Self::default() };
        let words = |value: &Value, keys: &[&str]| {
            let words =
                keys.iter().filter_map(|key| value.get(key)?.as_str()).filter(|word| !word.is_empty());
            words.collect::<Vec<_>>().join(", ")
        };
        let errors = answer.get("errors").and_then(Value::as_array);
        let shown = match errors.map(Vec::as_slice).unwrap_or_default() {
            [] => words(&answer, &["error", "error_description", "details"]),
            errors => {
                let shown: Vec<_> =
                    errors.iter().take(3).map(|error| words(error, &["code", "message"])).collect();
                shown.join("; ")
            }
        };
        Self(shown)
    }
}

/// Whether to ask the same endpoint again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After a pause of our choice.
    Later,
    /// After at least this long, as the server said.
    Asked(Duration),
}

impl Again {
    /// The least time until then; none if it is never.
    pub(super) fn least_pause(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Later => Some(Duration::ZERO),
            Self::Asked(pause) => Some(pause),
        }
    }
}

impl EndpointError {
    /// An endpoint that wants a longer pause than `longest` is given up.
    pub(super) fn again(&self, longest: Duration) -> Again {
        match self {
            Self::Busy { retry_after: Some(pause), .. } if *pause > longest => Again::Never,
            Self::Through { source, .. } | Self::TokenServer { source, .. } => source.again(longest),
            Self::Busy { retry_after: Some(pause), .. } => Again::Asked(*pause),
            Self::Busy { retry_after: None, .. }
            | Self::Connection(_)
            | Self::HostNotFound(_)
            | Self::Timeout(_)
            | Self::TooSlow { .. }
            | Self::Short { .. }
            | Self::Range => Again::Later,
            _ => Again::Never,
        }
    }

    /// This failure after an earlier one, which counts where the time ran out.
    pub(super) fn after(self, earlier: Option<Self>) -> Self {
        match self {
            Self::Deadline(None) => Self::Deadline(earlier.map(Box::new)),
            other => other,
        }
    }

    /// The failure that this one is about.
    pub(in crate::fetch) fn below(&self) -> Option<&Self> {
        match self {
            Self::Through { source, .. } | Self::TokenServer { source, .. } => Some(source),
            Self::Deadline(earlier) => earlier.as_deref(),
            _ => None,
        }
    }

    /// Says that the way led through a proxy, unless the failure has nothing to
    /// do with it.
    pub(super) fn through(self, proxy: Option<&Proxy>) -> Self {
        let is_its = matches!(
            self,
            Self::Connection(_) | Self::HostNotFound(_) | Self::NotConnected(_) | Self::Timeout("connecting")
        );
        match proxy {
            Some(proxy) if is_its => Self::Through { proxy: proxy.to_string(), source: Box::new(self) },
            _ => self,
        }
    }

    /// Why `ureq` did not get an answer.
    pub(super) fn from_ureq(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Io(error) => Self::from_io(error),
            ureq::Error::Timeout(ureq::Timeout::RecvBody) => Self::Deadline(None),
            ureq::Error::Timeout(phase) => Self::Timeout(doing(phase)),
            ureq::Error::Other(error) => Self::from_ours(&*error),
            ureq::Error::ConnectProxyFailed(text) => Self::NotConnected(refusal_of_proxy(&text)),
            ureq::Error::ConnectionFailed => Self::Connection(io::ErrorKind::NotConnected.into()),
            ureq::Error::Protocol(error) => Self::Protocol(error.to_string()),
            ureq::Error::LargeResponseHeader(_, limit) => Self::LongHeaders { limit },
            // Its other texts may hold whole URLs.
            _ => Self::Protocol("the request could not be made".into()),
        }
    }

    /// What our own connector and resolver gave to `ureq`.
    fn from_ours(error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Self::Tls(TlsProblem::from(error));
        }
        if let Some(problem) = error.downcast_ref::<TlsProblem>() {
            return Self::Tls(problem.clone());
        }
        if let Some(TooSlow { minimum }) = error.downcast_ref() {
            return Self::TooSlow { minimum: *minimum };
        }
        match error.downcast_ref::<LookupError>() {
            Some(error) => Self::HostNotFound(error.to_string()),
            None => Self::Protocol("the request could not be made".into()),
        }
    }

    /// Why reading failed: `ureq` and `rustls` put their errors into those of
    /// I/O.
    pub(super) fn from_io(error: io::Error) -> Self {
        match error.downcast::<ureq::Error>() {
            Ok(error) => Self::from_ureq(error),
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(problem) => Self::Tls(TlsProblem::from(problem)),
                None => Self::Connection(error),
            },
        }
    }
}

/// What a proxy's answer to CONNECT means. `ureq` has it as text only.
fn refusal_of_proxy(text: &str) -> String {
    let status = text.strip_prefix("proxy server responded ").and_then(|rest| rest.get(..3));
    match status {
        Some("407") => "it wants another user or password (407)".into(),
        Some(status) => format!("it answers {}", Escaped::new(status)),
        None => Escaped::new(text).to_string(),
    }
}

fn doing(phase: ureq::Timeout) -> &'static str {
    match phase {
        ureq::Timeout::Resolve => "looking up its host name",
        ureq::Timeout::Connect => "connecting",
        ureq::Timeout::RecvResponse => "waiting for its answer",
        ureq::Timeout::PerRead => "waiting for the next byte",
        _ => "sending the request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_speaks_in_bounded_escaped_words() {
        let errors = |code: &str, message: &str| {
            serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string()
        };
        for (body, shown) in [
            (errors("MANIFEST_UNKNOWN", "no such tag"), ": MANIFEST_UNKNOWN, no such tag"),
            (errors("DENIED", ""), ": DENIED"),
            (errors("X", "\u{1b}[2J"), ": X, \\x1b[2J"),
            (r#"{"errors":[{"message":"no"},{"code":1}]}"#.into(), ": no; "),
            (r#"{"errors":[]}"#.into(), ""),
            (r#"{"error":"invalid_grant","error_description":"too old"}"#.into(), ": invalid_grant, too old"),
            (r#"{"details":"wrong password"}"#.into(), ": wrong password"),
            (r#"{"error":{"code":1}}"#.into(), ""),
            ("<html>".into(), ""),
            (String::new(), ""),
        ] {
            assert_eq!(Detail::parse(body.as_bytes()).to_string(), shown);
        }
        assert!(Detail::parse(errors("X", &"y".repeat(100_000)).as_bytes()).to_string().len() < 2000);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let longest = Duration::from_secs(60);
        let busy = |seconds| EndpointError::Busy {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(Duration::from_secs(seconds)),
            detail: Detail::default(),
        };
        for (error, again) in [
            (busy(2), Again::Asked(Duration::from_secs(2))),
            (busy(60), Again::Asked(longest)),
            (busy(61), Again::Never),
            (EndpointError::HostNotFound(String::new()), Again::Later),
            (EndpointError::Short { expected: 2, actual: 1 }, Again::Later),
            (EndpointError::NotFound(Detail::default()), Again::Never),
            (EndpointError::Unauthorized(Detail::default()), Again::Never),
            (EndpointError::Tls(TlsProblem::NotTls), Again::Never),
            (EndpointError::Deadline(None), Again::Never),
        ] {
            assert_eq!(error.again(longest), again, "{error}");
        }
    }
}
