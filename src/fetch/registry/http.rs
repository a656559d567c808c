//! Requests and answers, one connection pool for each host.
//!
//! In: a [`Request`]. Out: an [`Answer`] whose body is watched. Invariants:
//! redirects are followed here and nowhere else, `Authorization` leaves with
//! them only to the very same origin, and no read outlasts the pull's time.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use ureq::http::{self, HeaderMap, HeaderName, HeaderValue, StatusCode};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
use ureq::{Agent, AsSendBody, Body as UreqBody, BodyReader, ProxyProtocol};

use super::error::{EndpointError, RedirectRefusal};
use super::pace::Pace;
use super::resolver::SystemResolver;
use super::url::{Origin, Url};
use super::{Client, lock, tls};
use crate::fetch::Event;
use crate::limits::{self, Bound, Exceeded};
use crate::oci::registries::{Proxy, Secret, Target};
use crate::text::Escaped;

const USER_AGENT: &str = concat!("plywood/", env!("CARGO_PKG_VERSION"));

/// A request without a body, or one that sends a form.
pub(super) struct Request {
    pub url: Url,
    pub headers: Vec<(HeaderName, String)>,
    pub authorization: Option<Secret>,
    pub form: Option<String>,
}

/// An answer of any status.
pub(super) struct Answer<'l> {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where it came from, after redirects.
    pub url: Url,
    pub body: Body<'l>,
}

/// What ends a pull early.
#[derive(Debug)]
pub(super) struct Limits {
    /// None where it lies beyond all time.
    deadline: Option<Instant>,
    minimum_rate: u64,
    stop: AtomicBool,
}

impl Limits {
    pub(super) fn new(total: Duration, minimum_rate: u64) -> Self {
        Self { deadline: Instant::now().checked_add(total), minimum_rate, stop: AtomicBool::new(false) }
    }

    /// Least bytes a second.
    pub(super) fn minimum_rate(&self) -> u64 {
        self.minimum_rate
    }

    /// Fails if no further request or read may be made.
    pub(super) fn check(&self) -> Result<(), EndpointError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(EndpointError::Stopped);
        }
        if self.is_over(Instant::now()) {
            return Err(EndpointError::Deadline(None));
        }
        Ok(())
    }

    fn is_over(&self, at: Instant) -> bool {
        self.deadline.is_some_and(|deadline| at >= deadline)
    }

    /// The time until the pull's end.
    fn left(&self) -> Duration {
        const ENDLESS: Duration = Duration::from_secs(u32::MAX as u64);
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.deadline.map_or(ENDLESS, |deadline| left(deadline).min(ENDLESS))
    }

    /// Makes all other work of the pull fail.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Sleeps, but not beyond the end of the pull.
    pub(super) fn sleep(&self, pause: Duration) -> Result<(), EndpointError> {
        const STEP: Duration = Duration::from_millis(100);
        let until = Instant::now().checked_add(pause).ok_or(EndpointError::Deadline(None))?;
        if self.is_over(until) {
            return Err(EndpointError::Deadline(None));
        }
        loop {
            self.check()?;
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => std::thread::sleep(left.min(STEP)),
            }
        }
    }
}

/// A body that ends with its pull; [`Pace`] sees to it that it keeps coming.
pub(super) struct Body<'l> {
    reader: BodyReader<'static>,
    limits: &'l Limits,
}

impl<'l> Body<'l> {
    fn new(body: UreqBody, limits: &'l Limits) -> Self {
        Self { reader: body.into_with_config().limit(u64::MAX).reader(), limits }
    }

    /// Reads some bytes; 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, EndpointError> {
        self.limits.check()?;
        self.reader.read(buffer).map_err(EndpointError::from_io)
    }

    /// Reads the whole body, which `bound` is for.
    pub(super) fn read_all(
        &mut self,
        bound: Bound,
        limits: &limits::Limits,
    ) -> Result<Vec<u8>, EndpointError> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = self.read(&mut buffer)?;
            if count == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&buffer[..count]);
            limits.check(bound, bytes.len() as u64).map_err(EndpointError::TooLong)?;
        }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Body::read(self, buffer).map_err(io::Error::other)
    }
}

impl Client<'_> {
    /// Gets a URL and follows its redirects.
    pub(super) fn follow<'l>(
        &self,
        mut request: Request,
        limits: &'l Limits,
    ) -> Result<Answer<'l>, EndpointError> {
        let limit = self.limits.get(Bound::Redirects);
        for _ in 0..=limit {
            let answer = self.send(&request, limits)?;
            if !is_redirect(answer.status) {
                return Ok(answer);
            }
            let to = redirect_target(&request.url, &answer.headers)?;
            if to.origin() != request.url.origin() {
                request.authorization = None;
            }
            request.url = to;
        }
        let exceeded = Exceeded { bound: Bound::Redirects, limit };
        Err(EndpointError::Redirect { to: request.url.to_string(), why: RedirectRefusal::TooMany(exceeded) })
    }

    /// Makes one request and takes its answer as it is.
    pub(super) fn send<'l>(
        &self,
        request: &Request,
        limits: &'l Limits,
    ) -> Result<Answer<'l>, EndpointError> {
        limits.check()?;
        let agent = self.agent(&request.url)?;
        if request.authorization.is_some() && !request.url.origin().https {
            self.warn_of_plain_http(&request.url);
        }
        let answer = match &request.form {
            None => agent.run(until(&agent, request.build("GET", ())?, limits.left())),
            Some(form) => agent.run(until(&agent, request.build("POST", form.clone())?, limits.left())),
        };
        let failed = |error| EndpointError::from_ureq(error).through(self.proxy(&request.url));
        let (parts, body) = answer.map_err(failed)?.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            url: request.url.clone(),
            body: Body::new(body, limits),
        })
    }

    fn warn_of_plain_http(&self, url: &Url) {
        let authority = url.authority();
        if lock(&self.unencrypted).insert(authority.into()) {
            self.progress.report(Event::Unencrypted { authority: &Escaped::new(authority).to_string() });
        }
    }

    /// The connections to a URL's host.
    fn agent(&self, url: &Url) -> Result<Agent, EndpointError> {
        let https = url.origin().https;
        let authority = &url.authority().to_ascii_lowercase();
        let tls = self.registries.tls(https, authority);
        if !https && tls.is_some() {
            return Err(EndpointError::TlsForHttp);
        }
        let mut agents = lock(&self.agents);
        let key = format!("{} {authority}", if https { "https" } else { "http" });
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let config = https.then(|| tls::config(tls, &self.network.roots)).transpose();
        let agent = self.new_agent(config.map_err(EndpointError::Tls)?, self.proxy(url))?;
        if tls.is_some_and(|tls| tls.insecure_skip_verify) {
            self.progress.report(Event::Unverified { authority });
        }
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    fn proxy(&self, url: &Url) -> Option<&Proxy> {
        let Origin { https, host, port } = url.origin();
        self.network.proxies.proxy(Target { https, host: &host, port })
    }

    fn new_agent(&self, tls: Option<ClientConfig>, proxy: Option<&Proxy>) -> Result<Agent, EndpointError> {
        let timeouts = &self.network.timeouts;
        let proxy = proxy.map(connect_proxy).transpose();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(USER_AGENT)
            // A decoded body would not have the digest that was asked for.
            .accept_encoding("identity")
            // The default would come from the environment.
            .proxy(proxy.map_err(|_| EndpointError::Proxy)?)
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_send_request(Some(timeouts.first_byte))
            .timeout_send_body(Some(timeouts.first_byte))
            .timeout_recv_response(Some(timeouts.first_byte))
            .timeout_per_read(Some(timeouts.idle))
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(Pace { idle: timeouts.idle, minimum: self.network.minimum_rate() });
        let resolver = SystemResolver::default();
        Ok(match tls.map(Arc::new) {
            Some(tls) => Agent::with_parts(config, connector.chain(tls::TlsConnector(tls)), resolver),
            None => Agent::with_parts(config, connector, resolver),
        })
    }
}

impl Request {
    pub(super) fn get(url: Url) -> Self {
        Self { url, headers: Vec::new(), authorization: None, form: None }
    }

    fn build<B>(&self, method: &str, body: B) -> Result<http::Request<B>, EndpointError> {
        let mut builder = http::Request::builder().method(method).uri(self.url.uri().clone());
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        if self.form.is_some() {
            builder = builder.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let unusable = || EndpointError::Protocol("the request cannot be put into headers".into());
        if let Some(authorization) = &self.authorization {
            let mut value = HeaderValue::from_str(authorization.reveal()).map_err(|_| unusable())?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        builder.body(body).map_err(|_| unusable())
    }
}

/// The request, whose answer's body has to be there by then.
fn until<B: AsSendBody>(agent: &Agent, request: http::Request<B>, left: Duration) -> http::Request<B> {
    agent.configure_request(request).timeout_recv_body(Some(left)).build()
}

fn connect_proxy(proxy: &Proxy) -> Result<ureq::Proxy, ureq::Error> {
    let builder = ureq::Proxy::builder(ProxyProtocol::Http).host(&proxy.host).port(proxy.port);
    let builder = match proxy.username.as_str() {
        "" => builder,
        username => builder.username(username),
    };
    match &proxy.password {
        Some(password) => builder.password(password.reveal()).build(),
        None => builder.build(),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where an answer redirects to, if that may be followed.
fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url, EndpointError> {
    let location = headers.get(LOCATION).map_or(&b""[..], HeaderValue::as_bytes);
    let Some(to) = std::str::from_utf8(location).ok().and_then(|location| from.join(location)) else {
        let shown = location.split(|byte| *byte == b'?').next().unwrap_or_default();
        // Userinfo would end with the last `@`.
        let shown = shown.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
        return Err(EndpointError::Redirect {
            to: Escaped(shown).to_string(),
            why: RedirectRefusal::Location,
        });
    };
    if from.origin().https && !to.origin().https {
        return Err(EndpointError::Redirect { to: to.to_string(), why: RedirectRefusal::Downgrade });
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_encrypted() {
        for (from, location, result) in [
            ("https://a.io/x", "https://b.io/y?s=1", Ok("https://b.io/y")),
            ("https://a.io/x", "/y", Ok("https://a.io/y")),
            ("http://a.io/x", "https://b.io/y", Ok("https://b.io/y")),
            ("http://a.io/x", "http://b.io/y", Ok("http://b.io/y")),
            ("https://a.io/x", "http://a.io/y", Err(RedirectRefusal::Downgrade)),
            ("https://a.io/x", "file:///etc/shadow", Err(RedirectRefusal::Location)),
            ("https://a.io/x", "https://u:secret@b.io/", Err(RedirectRefusal::Location)),
            ("https://a.io/x", "", Err(RedirectRefusal::Location)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            match (redirect_target(&Url::parse(from).unwrap(), &headers), result) {
                (Ok(to), Ok(expected)) => assert_eq!(to.to_string(), expected),
                (Err(error), Err(expected)) => {
                    let text = error.to_string();
                    assert!(matches!(error, EndpointError::Redirect { why, .. } if why == expected));
                    assert!(!text.contains("secret"), "{text}");
                }
                (result, _) => panic!("{location}: {result:?}"),
            }
        }
    }
}
