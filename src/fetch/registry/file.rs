//! A single file by its URL, outside of any repository.
//!
//! In: a URL. Out: bytes that nobody has verified. Invariants: time, size and
//! redirects are bounded as for registries, and no credentials are sent.

use ureq::http::StatusCode;

use super::error::{Again, Detail, EndpointError};
use super::http::{Limits, Request};
use super::pull::status_error;
use super::url::Url;
use super::{Client, retry};
use crate::fetch::Event;
use crate::limits::Bound;

impl Client<'_> {
    /// Gets a file that `bound` is for; what may work a little later is
    /// tried again.
    pub(in crate::fetch) fn file(&self, url: &str, bound: Bound) -> Result<Vec<u8>, EndpointError> {
        let url = Url::parse(url).ok_or_else(|| EndpointError::Protocol("its URL cannot be used".into()))?;
        let limits = Limits::new(self.network.timeouts.total, self.network.minimum_rate());
        let timeouts = &self.network.timeouts;
        let mut failures = 0;
        loop {
            let error = match self.file_once(&url, bound, &limits) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let again = error.again(timeouts.longest_pause);
            let Some(least) = again.least_pause() else { return Err(error) };
            failures += u32::from(again == Again::Later);
            if failures == retry::ATTEMPTS {
                return Err(error);
            }
            self.progress.report(Event::Failed { endpoint: &url.to_string(), error: &error });
            let pause = least + retry::pause(timeouts, failures);
            self.progress.report(Event::Pausing(pause));
            if limits.sleep(pause).is_err() {
                return Err(error);
            }
        }
    }

    fn file_once(&self, url: &Url, bound: Bound, limits: &Limits) -> Result<Vec<u8>, EndpointError> {
        let mut answer = self.follow(Request::get(url.clone()), limits)?;
        if answer.status != StatusCode::OK {
            let detail = Detail::read(&mut answer.body);
            return Err(status_error(answer.status, &answer.headers, detail));
        }
        answer.body.read_all(bound, &self.limits)
    }
}
