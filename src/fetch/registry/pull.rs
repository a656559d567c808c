//! One image from one registry: its endpoints in order, its documents one by
//! one, its blobs several at a time.
//!
//! In: a reference. Out: verified documents and stored blobs, or blobs to be
//! read from where they are. Invariant: what is stored is never asked for.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::http::header::{ACCEPT, CONTENT_TYPE};
use ureq::http::{HeaderMap, HeaderName, StatusCode};

use super::download::Download;
use super::error::{Detail, EndpointError};
use super::http::{Answer, Limits, Request};
use super::stream::Remote;
use super::token::Subject;
use super::turns::Turns;
use super::url::Url;
use super::{Client, lock, retry};
use crate::fetch::document::{self, Chosen, Documents};
use crate::fetch::error::Cause;
use crate::fetch::{Event, Selection, Timeouts};
use crate::limits::{self, Bound};
use crate::oci::manifest::{DOCKER_LIST, DOCKER_MANIFEST, INDEX, Kind, MANIFEST, kind};
use crate::oci::registries::{Endpoint, mirrored_name};
use crate::oci::{Descriptor, Digest, Document, DocumentError, ImageSource, Reference};
use crate::store::{Blob, Store};

/// One `resolve` or `fetch`.
pub(in crate::fetch) struct Pull<'p> {
    client: &'p Client<'p>,
    reference: Reference,
    endpoints: Vec<Endpoint>,
    limits: Limits,
}

/// Why an endpoint's turn ended.
pub(super) enum Failed {
    /// The endpoint's fault: others may do better.
    Endpoint(EndpointError),
    /// Ours: no endpoint can help.
    Here(Cause),
}

impl From<EndpointError> for Failed {
    fn from(error: EndpointError) -> Self {
        Self::Endpoint(error)
    }
}

impl<'p> Pull<'p> {
    /// One that may take as long as `total`.
    pub(super) fn new(client: &'p Client<'p>, reference: &Reference, total: Duration) -> Self {
        let endpoints = client.registries.endpoints(reference.registry());
        let limits = Limits::new(total, client.network.minimum_rate());
        Self { client, reference: reference.clone(), endpoints, limits }
    }

    /// Asks for what the reference names and follows it down to one image.
    /// Documents that are stored are not asked for.
    pub(in crate::fetch) fn resolve(&self, store: &Store, selection: &Selection) -> Result<Chosen, Cause> {
        let (top, bytes) = self.top()?;
        document::choose(&Known { pull: self, store, top: (&top, bytes) }, selection, top.clone())
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
            Document::parse(&bytes, &media_type, &self.client.limits).map_err(EndpointError::Document)?;
            Ok((descriptor, bytes))
        })
    }

    /// A document that another one points at.
    fn below(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause> {
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
                answer.body.read_all(Bound::Document, &self.client.limits)?
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
        Ok((said, answer.body.read_all(Bound::Document, &self.client.limits)?))
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

    pub(super) fn has_endpoints(&self) -> bool {
        !self.endpoints.is_empty()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn document_limits(&self) -> &limits::Limits {
        &self.client.limits
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
        self.ask_url(endpoint, &self.url(endpoint, path)?, headers)
    }

    /// The same of a URL at the endpoint.
    pub(super) fn ask_url(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        headers: Vec<(HeaderName, String)>,
    ) -> Result<Answer<'_>, EndpointError> {
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

    pub(super) fn url(&self, endpoint: &Endpoint, path: &str) -> Result<Url, EndpointError> {
        let url = Url::parse(&endpoint.url(&format!("{}/{path}", self.reference.repository())));
        let url = match endpoint.upstream {
            true => url,
            // How a mirror of several registries tells them apart.
            false => url.and_then(|url| url.with_query(&[("ns", mirrored_name(self.reference.registry()))])),
        };
        url.ok_or_else(|| EndpointError::Protocol("its URL cannot be used".into()))
    }

    /// Tries endpoints until one delivers.
    pub(super) fn try_endpoints<T>(
        &self,
        what: &dyn Display,
        deliver: impl Fn(&Endpoint) -> Result<T, Failed>,
    ) -> Result<T, Cause> {
        self.try_turns(Turns::new(self, self.endpoints.iter()), what, deliver)
    }

    fn try_turns<'s, T>(
        &'s self,
        mut turns: Turns<'s>,
        what: &dyn Display,
        deliver: impl Fn(&'s Endpoint) -> Result<T, Failed>,
    ) -> Result<T, Cause> {
        while let Some(endpoint) = turns.next() {
            match deliver(endpoint) {
                Ok(delivered) => return Ok(delivered),
                Err(Failed::Here(cause)) => return Err(cause),
                Err(Failed::Endpoint(error)) => turns.note(error),
            }
        }
        Err(turns.into_cause(what.to_string()))
    }

    /// The endpoints that may have this blob.
    pub(super) fn turns_for(&self, digest: &Digest) -> Turns<'_> {
        let refused = lock(&self.client.refused);
        let is_refused = |endpoint: &&Endpoint| refused.contains(&(endpoint.to_string(), *digest));
        Turns::new(self, self.endpoints.iter().filter(|endpoint| !is_refused(endpoint)))
    }

    /// Never asks `endpoint` for this blob again: it has something else.
    pub(super) fn distrust(&self, endpoint: &Endpoint, digest: &Digest) {
        lock(&self.client.refused).insert((endpoint.to_string(), *digest));
    }

    /// The blobs, to be read from the registry itself.
    pub(in crate::fetch) fn remote(self, image: &ImageSource, wanted: &[&Descriptor]) -> Vec<Remote<'p>> {
        if !wanted.is_empty() {
            let bytes = wanted.iter().map(|blob| blob.size).sum();
            self.report(Event::Started { image, blobs: wanted.len(), bytes });
        }
        let pull = Arc::new(self);
        wanted.iter().map(|blob| Remote::new(&pull, blob)).collect()
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

    /// Blobs of this image at a time.
    pub(super) fn threads(&self) -> usize {
        self.client.network.blobs_at_a_time()
    }

    fn download_one(&self, store: &Store, wanted: &Descriptor) -> Result<(), Cause> {
        let turns = self.turns_for(&wanted.digest);
        self.try_turns(turns, &format!("blob {}", wanted.digest), |endpoint| {
            let mut download = Download::open(self, endpoint, wanted, 0)?;
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

pub(in crate::fetch) fn stored_blob(store: &Store, wanted: &Descriptor) -> Result<Blob, Cause> {
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
struct Known<'a> {
    pull: &'a Pull<'a>,
    store: &'a Store,
    /// What the reference named, which was read already.
    top: (&'a Descriptor, Vec<u8>),
}

impl Documents for Known<'_> {
    fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, Cause> {
        if *wanted == *self.top.0 {
            return Ok(self.top.1.clone());
        }
        match document::stored(self.store, &wanted.digest, &self.pull.client.limits)? {
            Some(bytes) => Ok(bytes),
            None => self.pull.below(wanted),
        }
    }
}
