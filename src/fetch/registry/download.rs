//! One blob from one endpoint, as a reader that survives broken connections.
//!
//! In: an endpoint and a descriptor. Out: at most the descriptor's size in
//! bytes; the store checks the digest. After a failure the rest is asked for
//! by `Range` (RFC 9110, 14); an endpoint that answers with all of it has the
//! known part skipped. Invariant: a byte is never passed on twice, nor past
//! the descriptor's size.

use std::io::{self, Read};
use std::time::Instant;

use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use ureq::http::{HeaderMap, StatusCode};

use super::error::{Again, EndpointError};
use super::http::{Answer, Body};
use super::pull::Pull;
use super::retry;
use crate::fetch::Event;
use crate::oci::Descriptor;
use crate::oci::registries::Endpoint;

/// A blob on its way.
pub(super) struct Download<'p> {
    pull: &'p Pull<'p>,
    endpoint: &'p Endpoint,
    wanted: &'p Descriptor,
    body: Option<Body<'p>>,
    /// Bytes passed on.
    offset: u64,
    /// Bytes of the body that were passed on before.
    skip: u64,
    /// Whether the answer announced an end exactly where the blob ends.
    length: Length,
    /// Failures in a row, without progress worth the name.
    failures: u32,
    /// The same with those that were asked to come back, for the pauses.
    pauses: u32,
    /// When the last failure was, and the offset then.
    last_failure: (Instant, u64),
    ranges: Ranges,
    /// The failure that was recovered from last.
    earlier: Option<EndpointError>,
    failure: Option<EndpointError>,
}

/// What an answer says about its length.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// It ends where the blob ends.
    Exact,
    /// It says nothing, or something else. The digest decides.
    Other,
}

/// Whether the endpoint is asked for parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Ask,
    /// It answered with a part that was not asked for.
    Unusable,
}

impl<'p> Download<'p> {
    /// Asks for the blob, or for what is missing of it from `offset` on.
    pub(super) fn open(
        pull: &'p Pull<'p>,
        endpoint: &'p Endpoint,
        wanted: &'p Descriptor,
        offset: u64,
    ) -> Result<Self, EndpointError> {
        let mut download = Self {
            pull,
            endpoint,
            wanted,
            body: None,
            offset,
            skip: 0,
            length: Length::Other,
            failures: 0,
            pauses: 0,
            last_failure: (Instant::now(), offset),
            ranges: Ranges::Ask,
            earlier: None,
            failure: None,
        };
        download.connect()?;
        Ok(download)
    }

    /// Bytes passed on, and what ended the download early.
    pub(super) fn into_outcome(self) -> (u64, Option<EndpointError>) {
        (self.offset, self.failure)
    }

    /// Asks for what is still missing.
    fn connect(&mut self) -> Result<(), EndpointError> {
        let mut headers = Vec::new();
        let ranged = self.offset > 0 && self.ranges == Ranges::Ask;
        if ranged {
            headers.push((RANGE, format!("bytes={}-", self.offset)));
        }
        let answer = self.pull.blob(self.endpoint, self.wanted, headers);
        let start = answer.and_then(|answer| self.start_of(&answer, ranged).map(|start| (start, answer)));
        match start {
            Ok((start, answer)) => {
                self.skip = self.offset - start;
                self.length = length(&answer.headers, self.wanted.size - start);
                self.body = Some(answer.body);
                Ok(())
            }
            Err(EndpointError::Range) if ranged => {
                self.ranges = Ranges::Unusable;
                self.connect()
            }
            Err(error) => Err(error),
        }
    }

    /// The offset of an answer's first byte: where we are, or the beginning.
    fn start_of(&self, answer: &Answer<'_>, ranged: bool) -> Result<u64, EndpointError> {
        match answer.status {
            StatusCode::PARTIAL_CONTENT if ranged => {
                let range = content_range(&answer.headers).ok_or(EndpointError::Range)?;
                let end = self.wanted.size.saturating_sub(1);
                (range == (self.offset, end)).then_some(self.offset).ok_or(EndpointError::Range)
            }
            StatusCode::PARTIAL_CONTENT => Err(EndpointError::Range),
            _ => Ok(0),
        }
    }

    /// Reads on, over as many connections as it takes; 0 bytes at the end only.
    pub(super) fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize, EndpointError> {
        if self.offset == self.wanted.size || buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.read_some(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    self.pull.report(Event::Received(count as u64));
                    if self.offset == self.wanted.size {
                        self.finish();
                    }
                    return Ok(count);
                }
                Err(error) => self.recover(error)?,
            }
        }
    }

    /// Reads from the present connection; never 0 bytes.
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, EndpointError> {
        if self.body.is_none() {
            self.connect()?;
        }
        let short = EndpointError::Short { expected: self.wanted.size, actual: self.offset };
        let Some(body) = &mut self.body else { return Err(short) };
        let left = self.wanted.size - self.offset;
        loop {
            let most = if self.skip > 0 { self.skip } else { left };
            let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
            match body.read(&mut buffer[..most])? {
                0 => return Err(short),
                count if self.skip > 0 => self.skip -= count as u64,
                count => return Ok(count),
            }
        }
    }

    /// Takes note of the end of the body, so that the connection can be used
    /// again. Only where nothing has to be waited for.
    fn finish(&mut self) {
        if let Some(mut body) = self.body.take().filter(|_| self.length == Length::Exact) {
            // The blob is complete, whatever becomes of the connection.
            let _ = body.read(&mut [0]);
        }
    }

    /// Whether what came since the last failure came at a bearable rate.
    fn has_progressed(&self) -> bool {
        let (then, offset) = self.last_failure;
        let rate = self.pull.limits().minimum_rate();
        // Where any rate is good enough, a byte is still something.
        self.offset - offset >= rate.saturating_mul(then.elapsed().as_secs().max(1)).max(1)
    }

    /// Pauses before another attempt, or gives `error` back where that is of
    /// no use.
    fn recover(&mut self, error: EndpointError) -> Result<(), EndpointError> {
        self.body = None;
        let timeouts = self.pull.timeouts();
        let again = error.again(timeouts.longest_pause);
        if self.has_progressed() {
            (self.failures, self.pauses) = (0, 0);
        }
        self.pauses += 1;
        self.failures = match again {
            // Who is asked to come back is not failing: only time ends that.
            Again::Asked(_) => self.failures.max(1),
            Again::Later | Again::Never => self.failures + 1,
        };
        self.last_failure = (Instant::now(), self.offset);
        // Another endpoint may be faster.
        let is_slow = matches!(error, EndpointError::TooSlow { .. });
        let least = again.least_pause().filter(|_| !is_slow && self.failures < retry::ATTEMPTS);
        let Some(least) = least else { return Err(error.after(self.earlier.take())) };
        self.pull.report(Event::Failed { endpoint: &self.endpoint.to_string(), error: &error });
        let slept = self.pull.limits().sleep(least + retry::pause(timeouts, self.pauses));
        self.earlier = Some(error);
        slept.map_err(|stopped| stopped.after(self.earlier.take()))
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_on(buffer).map_err(|error| {
            self.failure = Some(error);
            io::Error::other("the download ended early")
        })
    }
}

fn length(headers: &HeaderMap, left: u64) -> Length {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced == Some(left) { Length::Exact } else { Length::Other }
}

/// First and last byte of a part: `bytes first-last/size`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, _) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_names_first_and_last_byte() {
        for (text, range) in [
            ("bytes 5-9/10", Some((5, 9))),
            ("bytes 5-9/*", Some((5, 9))),
            ("bytes */10", None),
            ("bytes 5-/10", None),
            ("bytes 5-9", None),
            ("lines 5-9/10", None),
            ("bytes -5-9/10", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            assert_eq!(content_range(&headers), range, "{text}");
        }
    }
}
