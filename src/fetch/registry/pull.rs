//! One image from one registry: its endpoints in order, its documents one by
//! one, its blobs several at a time.
//!
//! In: a reference. Out: verified documents and stored blobs. Invariants: all
//! endpoints of a round are asked before any is asked again; an endpoint whose
//! content does not fit its digest is not asked again for it; a blob that is
//! stored is never asked for.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ureq::http::header::{ACCEPT, CONTENT_TYPE};
use ureq::http::{HeaderMap, HeaderName, StatusCode};

use super::download::Download;
use super::error::{Again, Detail, EndpointError};
use super::http::{Answer, Limits, Request};
use super::token::Subject;
use super::url::Url;
use super::{Client, lock, retry};
use crate::fetch::document::{self, Chosen, Documents};
use crate::fetch::error::{Attempt, Cause};
use crate::fetch::{Event, Selection, Timeouts};
use crate::oci::manifest::{DOCKER_LIST, DOCKER_MANIFEST, INDEX, Kind, MANIFEST, MAX_DOCUMENT, kind};
use crate::oci::registries::Endpoint;
use crate::oci::{Descriptor, Document, DocumentError, ImageSource, Reference};
use crate::store::{Blob, Store};

/// One `resolve` or `fetch`.
pub(in crate::fetch) struct Pull<'p> {
    client: &'p Client<'p>,
    reference: &'p Reference,
    endpoints: Vec<Endpoint>,
    limits: Limits,
}

/// Why an endpoint's turn ended.
enum Failed {
    /// The endpoint's fault: others may do better.
    Endpoint(EndpointError),
    /// Ours: no endpoint can help.
    Here(Cause),
}

/// An endpoint and how it has done so far.
struct Turn<'e> {
    endpoint: &'e Endpoint,
    again: Again,
    error: Option<EndpointError>,
}

impl<'e> Turn<'e> {
    fn new(endpoint: &'e Endpoint) -> Self {
        Self { endpoint, again: Again::After(Duration::ZERO), error: None }
    }

    fn pause(&self) -> Option<Duration> {
        match self.again {
            Again::After(pause) => Some(pause),
            Again::Never => None,
        }
    }

    fn end(self) -> Option<Attempt> {
        Some(Attempt { endpoint: self.endpoint.to_string(), error: self.error? })
    }
}

impl From<EndpointError> for Failed {
    fn from(error: EndpointError) -> Self {
        Self::Endpoint(error)
    }
}

impl<'p> Pull<'p> {
    pub(super) fn new(client: &'p Client<'p>, reference: &'p Reference) -> Self {
        let endpoints = client.registries.endpoints(reference.registry());
        Self { client, reference, endpoints, limits: Limits::new(&client.network) }
    }

    /// Asks for what the reference names and follows it down to one image.
    /// Documents that are stored are not asked for.
    pub(in crate::fetch) fn resolve(&self, store: &Store, selection: &Selection) -> Result<Chosen, Cause> {
        let (top, bytes) = self.top()?;
        document::choose(&Remote { pull: self, store, top: (&top, bytes) }, selection, top.clone())
    }

    /// The document that the reference names. A digest in the reference is
    /// checked whatever the endpoint's headers say.
    fn top(&self) -> Result<(Descriptor, Vec<u8>), Cause> {
        let target = self.reference.target();
        let pinned = self.reference.digest();
        self.try_endpoints(&format!("manifest {target}"), |endpoint| {
            let (said, bytes) = self.manifest(endpoint, &target)?;
            let media_type = said.unwrap_or_else(|| document::announced_by(&bytes));
            let mut descriptor = document::describe(&bytes, &media_type);
            if let Some(digest) = pinned {
                document::check_digest(&bytes, digest).map_err(EndpointError::Content)?;
                descriptor.digest = *digest;
            }
            // What is no manifest at all is this endpoint's fault.
            Document::parse(&bytes, &media_type).map_err(EndpointError::Document)?;
            Ok((descriptor, bytes))
        })
    }

    /// A document that another one points at.
    fn below(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause> {
        document::check_limit(wanted)?;
        let digest = wanted.digest;
        let manifest = matches!(wanted.kind(), Kind::Manifest | Kind::Index);
        let what = if manifest { "manifest" } else { "image config" };
        self.try_endpoints(&format!("{what} {digest}"), |endpoint| {
            let bytes = if manifest {
                let (said, bytes) = self.manifest(endpoint, &digest.to_string())?;
                check_type(said, &wanted.media_type)?;
                bytes
            } else {
                let mut answer = self.blob(endpoint, wanted, Vec::new())?;
                answer.body.read_all(MAX_DOCUMENT)?
            };
            document::check(&bytes, wanted).map_err(EndpointError::Content)?;
            Ok(bytes)
        })
    }

    /// `GET …/manifests/<target>`: the `Content-Type`, if any, and the body.
    fn manifest(
        &self,
        endpoint: &Endpoint,
        target: &str,
    ) -> Result<(Option<String>, Vec<u8>), EndpointError> {
        let accept = [INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let mut answer = self.ask(endpoint, &format!("manifests/{target}"), vec![(ACCEPT, accept)])?;
        let said = answer.headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let said = said.map(|value| value.into_owned());
        // Login pages and error pages come with status 200, too.
        if let Some(said) = said.clone().filter(|said| !matches!(kind(said), Kind::Manifest | Kind::Index)) {
            return Err(EndpointError::Document(DocumentError::Unsupported(said)));
        }
        Ok((said, answer.body.read_all(MAX_DOCUMENT)?))
    }

    /// `GET …/blobs/<digest>`.
    pub(super) fn blob(
        &self,
        endpoint: &Endpoint,
        wanted: &Descriptor,
        headers: Vec<(HeaderName, String)>,
    ) -> Result<Answer<'_>, EndpointError> {
        self.ask(endpoint, &format!("blobs/{}", wanted.digest), headers)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.client.network.timeouts
    }

    pub(super) fn report(&self, event: Event<'_>) {
        self.client.progress.report(event);
    }

    /// Asks an endpoint about the repository. A 401 is answered once, with
    /// what the endpoint's challenge asks for.
    fn ask(
        &self,
        endpoint: &Endpoint,
        path: &str,
        headers: Vec<(HeaderName, String)>,
    ) -> Result<Answer<'_>, EndpointError> {
        let url = self.url(endpoint, path)?;
        let subject = Subject { endpoint, repository: self.reference.repository(), limits: &self.limits };
        let known = self.client.authorization(subject);
        let request =
            |authorization| Request { headers: headers.clone(), authorization, ..Request::get(url.clone()) };
        let mut answer = self.client.follow(request(known.clone()), &self.limits)?;
        // Who redirected us elsewhere does not decide over our credentials.
        if answer.status == StatusCode::UNAUTHORIZED && answer.url.origin() == url.origin() {
            let detail = Detail::read(&mut answer.body);
            match self.client.renew(subject, &answer.headers, known.as_ref())? {
                Some(fresh) => answer = self.client.follow(request(Some(fresh)), &self.limits)?,
                None => return Err(EndpointError::Unauthorized(detail)),
            }
        }
        successful(answer)
    }

    fn url(&self, endpoint: &Endpoint, path: &str) -> Result<Url, EndpointError> {
        let url = Url::parse(&endpoint.url(&format!("{}/{path}", self.reference.repository())));
        let url = match endpoint.upstream {
            true => url,
            // How a mirror of several registries tells them apart.
            false => url.and_then(|url| url.with_query(&[("ns", self.reference.registry())])),
        };
        url.ok_or_else(|| EndpointError::Protocol("its URL cannot be used".into()))
    }

    /// Tries endpoints in order until one delivers, in rounds: those that may
    /// do better later are asked again after a pause.
    fn try_endpoints<T>(
        &self,
        what: &dyn Display,
        deliver: impl Fn(&Endpoint) -> Result<T, Failed>,
    ) -> Result<T, Cause> {
        if self.endpoints.is_empty() {
            return Err(Cause::NoEndpoint);
        }
        let mut turns: Vec<Turn<'_>> = self.endpoints.iter().map(Turn::new).collect();
        for round in 1..=retry::ATTEMPTS {
            for turn in turns.iter_mut().filter(|turn| turn.again != Again::Never) {
                match deliver(turn.endpoint) {
                    Ok(delivered) => return Ok(delivered),
                    Err(Failed::Here(cause)) => return Err(cause),
                    Err(Failed::Endpoint(error)) => self.note(turn, error),
                }
            }
            let least = turns.iter().filter_map(Turn::pause).min();
            let Some(least) = least.filter(|_| round < retry::ATTEMPTS) else { break };
            let pause = least.max(retry::pause(self.timeouts(), round));
            self.report(Event::Pausing(pause));
            if self.limits.sleep(pause).is_err() {
                break;
            }
        }
        Err(Cause::Endpoints {
            what: what.to_string(),
            attempts: turns.into_iter().filter_map(Turn::end).collect(),
        })
    }

    fn note(&self, turn: &mut Turn<'_>, error: EndpointError) {
        // Not the endpoint's fault, and told of by whoever stopped us.
        if !matches!(error, EndpointError::Stopped) {
            self.report(Event::Failed { endpoint: &turn.endpoint.to_string(), error: &error });
        }
        turn.again = error.again(self.timeouts().longest_pause);
        turn.error = Some(error);
    }

    /// Stores the blobs that are missing and returns all, in order.
    pub(in crate::fetch) fn download(
        &self,
        store: &Store,
        image: &ImageSource,
        wanted: &[&Descriptor],
    ) -> Result<Vec<Blob>, Cause> {
        let mut seen = HashSet::new();
        let missing: Vec<&Descriptor> = wanted
            .iter()
            .copied()
            .filter(|blob| seen.insert(blob.digest) && store.blob(&blob.digest).is_none())
            .collect();
        if !missing.is_empty() {
            let bytes = missing.iter().map(|blob| blob.size).sum();
            self.report(Event::Started { image, blobs: missing.len(), bytes });
            self.download_all(store, &missing)?;
        }
        wanted.iter().map(|blob| stored_blob(store, blob)).collect()
    }

    /// Works through `missing` with a few threads. The first failure stops
    /// the others and is what is returned.
    fn download_all(&self, store: &Store, missing: &[&Descriptor]) -> Result<(), Cause> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(wanted) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(cause) = self.download_one(store, wanted) {
                    lock(&failure).get_or_insert(cause);
                    self.limits.stop();
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads().min(missing.len()) {
                scope.spawn(work);
            }
            work();
        });
        lock(&failure).take().map_or(Ok(()), Err)
    }

    fn threads(&self) -> usize {
        usize::try_from(self.client.network.downloads.parallel.get()).unwrap_or(usize::MAX)
    }

    fn download_one(&self, store: &Store, wanted: &Descriptor) -> Result<(), Cause> {
        self.try_endpoints(&format!("blob {}", wanted.digest), |endpoint| {
            let mut download = Download::open(self, endpoint, wanted)?;
            let stored = store.put_blob(wanted, &mut download);
            let (received, failure) = download.into_outcome();
            let error = match stored {
                Ok(_) => {
                    let endpoint = endpoint.to_string();
                    self.report(Event::Stored { digest: &wanted.digest, endpoint: &endpoint });
                    return Ok(());
                }
                Err(error) => error,
            };
            self.report(Event::Discarded(received));
            match (failure, document::mismatch(&error)) {
                (Some(failure), _) => Err(Failed::Endpoint(failure)),
                (None, Some(mismatch)) => Err(Failed::Endpoint(EndpointError::Content(mismatch))),
                (None, None) => Err(Failed::Here(Cause::Store(error))),
            }
        })
    }
}

fn stored_blob(store: &Store, wanted: &Descriptor) -> Result<Blob, Cause> {
    let digest = wanted.digest;
    let blob = store.blob(&digest).ok_or(Cause::NotStored { digest })?;
    if blob.size() != wanted.size {
        return Err(Cause::Changed { digest, expected: wanted.size, actual: blob.size() });
    }
    Ok(blob)
}

/// Turns what is no success into an error, with the registry's own words.
fn successful(mut answer: Answer<'_>) -> Result<Answer<'_>, EndpointError> {
    let status = answer.status;
    if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Ok(answer);
    }
    let detail = Detail::read(&mut answer.body);
    Err(status_error(status, &answer.headers, detail))
}

/// The error that an answer's status stands for.
pub(super) fn status_error(status: StatusCode, headers: &HeaderMap, detail: Detail) -> EndpointError {
    match status {
        StatusCode::UNAUTHORIZED => EndpointError::Unauthorized(detail),
        StatusCode::FORBIDDEN => EndpointError::Denied(detail),
        StatusCode::NOT_FOUND => EndpointError::NotFound(detail),
        StatusCode::RANGE_NOT_SATISFIABLE => EndpointError::Range,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            EndpointError::Busy { status, retry_after: retry::retry_after(headers), detail }
        }
        status if status.is_server_error() => {
            EndpointError::Busy { status, retry_after: retry::retry_after(headers), detail }
        }
        status => EndpointError::Status { status, detail },
    }
}

/// The `Content-Type` of a manifest must be what its descriptor says.
fn check_type(said: Option<String>, expected: &str) -> Result<(), EndpointError> {
    let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match said {
        Some(said) if essence(&said) != essence(expected) => {
            Err(EndpointError::ContentType { said, expected: expected.into() })
        }
        _ => Ok(()),
    }
}

/// Documents from the store, else from the registry.
struct Remote<'a> {
    pull: &'a Pull<'a>,
    store: &'a Store,
    /// What the reference named, which was read already.
    top: (&'a Descriptor, Vec<u8>),
}

impl Documents for Remote<'_> {
    fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause> {
        if *wanted == *self.top.0 {
            return Ok(self.top.1.clone());
        }
        match document::stored(self.store, &wanted.digest)? {
            Some(bytes) => Ok(bytes),
            None => self.pull.below(wanted),
        }
    }
}
