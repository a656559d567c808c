//! A blob that is read while it is downloaded, and kept nowhere.
//!
//! In: a pull and a descriptor. Out: the blob as a reader that goes on where
//! it was, at the same endpoint or at the next one. Invariants: a byte is
//! passed on once; the end is reported only if size and digest match, however
//! many endpoints had a part in it.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use super::download::Download;
use super::error::EndpointError;
use super::lock;
use super::pull::Pull;
use super::turns::Turns;
use crate::fetch::Event;
use crate::fetch::document;
use crate::fetch::error::Cause;
use crate::oci::registries::Endpoint;
use crate::oci::{Descriptor, VerifyingReader};

/// A blob that is still in its registry.
#[derive(Clone)]
pub(in crate::fetch) struct Remote<'f> {
    pull: Arc<Pull<'f>>,
    wanted: Descriptor,
    /// Of the last download.
    failure: Arc<Mutex<Option<Failure>>>,
}

/// Why a blob did not come.
pub(in crate::fetch) struct Failure {
    pub(in crate::fetch) cause: Cause,
    pub(in crate::fetch) hope: Hope,
}

/// Whether starting over is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum Hope {
    /// What came was not the blob. Some endpoint may have it.
    Elsewhere,
    None,
}

impl<'f> Remote<'f> {
    pub(super) fn new(pull: &Arc<Pull<'f>>, wanted: &Descriptor) -> Self {
        Self { pull: Arc::clone(pull), wanted: wanted.clone(), failure: Arc::default() }
    }

    pub(in crate::fetch) fn wanted(&self) -> &Descriptor {
        &self.wanted
    }

    /// How many blobs the configuration allows to be downloaded at a time.
    pub(in crate::fetch) fn at_a_time(&self) -> usize {
        self.pull.threads()
    }

    /// The blob from its start. Nothing is asked for before the first read.
    pub(in crate::fetch) fn open(&self) -> Stream<'_> {
        let parts = Parts {
            remote: self,
            turns: self.pull.turns_for(&self.wanted.digest),
            download: None,
            sources: Vec::new(),
            offset: 0,
        };
        Stream(Some(VerifyingReader::new(parts, self.wanted.digest, Some(self.wanted.size))))
    }

    pub(in crate::fetch) fn take_failure(&self) -> Option<Failure> {
        lock(&self.failure).take()
    }
}

/// The same content is the same blob.
impl PartialEq for Remote<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.wanted == other.wanted
    }
}

impl Eq for Remote<'_> {}

impl fmt::Debug for Remote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.wanted.digest).finish()
    }
}

/// A blob being read; nothing once its end, or its failure, was reported.
pub(in crate::fetch) struct Stream<'s>(Option<VerifyingReader<Parts<'s>>>);

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(verified) = &mut self.0 else { return Ok(0) };
        let result = verified.read(buffer);
        let is_end = matches!(result, Ok(0)) && !buffer.is_empty();
        if let Some(verified) = self.0.take_if(|_| is_end || result.is_err()) {
            let parts = verified.into_inner();
            match &result {
                Ok(_) => parts.report_end(),
                Err(error) => parts.fail(document::mismatch(error).map(EndpointError::Content)),
            }
        }
        result
    }
}

/// What the endpoints deliver of a blob, one part behind the other.
struct Parts<'s> {
    remote: &'s Remote<'s>,
    turns: Turns<'s>,
    download: Option<Download<'s>>,
    /// Who had a part in it.
    sources: Vec<&'s Endpoint>,
    /// Bytes passed on.
    offset: u64,
}

impl<'s> Parts<'s> {
    /// The present download, or one from the next endpoint.
    fn download(&mut self) -> io::Result<&mut Download<'s>> {
        while self.download.is_none() {
            let ended = || io::Error::other("the download ended early");
            let endpoint = self.turns.next().ok_or_else(ended)?;
            match Download::open(&self.remote.pull, endpoint, &self.remote.wanted, self.offset) {
                Ok(download) => {
                    if !self.sources.iter().any(|source| std::ptr::eq(*source, endpoint)) {
                        self.sources.push(endpoint);
                    }
                    self.download = Some(download);
                }
                Err(error) => self.turns.note(error),
            }
        }
        self.download.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn report_end(&self) {
        if let Some(endpoint) = self.sources.last() {
            let (digest, endpoint) = (&self.remote.wanted.digest, endpoint.to_string());
            self.remote.pull.report(Event::Delivered { digest, endpoint: &endpoint });
        }
    }

    /// Leaves behind why the blob did not come. Content that is not what was
    /// asked for is known to be an endpoint's fault if that was the only one.
    fn fail(mut self, content: Option<EndpointError>) {
        let Remote { pull, wanted, failure } = self.remote;
        let mut hope = Hope::None;
        if let Some(error) = content {
            pull.report(Event::Discarded(self.offset));
            if let [endpoint] = self.sources[..] {
                pull.distrust(endpoint, &wanted.digest);
            }
            if self.sources.len() > 1 || self.turns.has_other() {
                hope = Hope::Elsewhere;
            }
            self.turns.note(error);
        }
        let cause = self.turns.into_cause(format!("blob {}", wanted.digest));
        *lock(failure) = Some(Failure { cause, hope });
    }
}

impl Read for Parts<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = self.download()?.read_on(buffer);
            match result {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) => {
                    self.download = None;
                    self.turns.note(error);
                }
            }
        }
    }
}
