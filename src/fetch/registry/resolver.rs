//! Looking up host names, with errors that say so.
//!
//! In: the host of a URL. Out: its addresses, IPv6 and IPv4 in the system's
//! order; a connection tries them one after the other, the first with about
//! half of its time. Invariant: a lookup ends in the connection's time, even
//! if the system's resolver does not.

use std::io;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The system's resolver (getaddrinfo(3)).
#[derive(Debug, Default)]
pub(super) struct SystemResolver(DefaultResolver);

/// A name that was not found, in the system's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct LookupError(String);

impl Resolver for SystemResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.0.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(error) => ureq::Error::Other(Box::new(LookupError::from(&error))),
            ureq::Error::HostNotFound => {
                ureq::Error::Other(Box::new(LookupError("it has no address".into())))
            }
            other => other,
        })
    }
}

impl From<&io::Error> for LookupError {
    fn from(error: &io::Error) -> Self {
        let text = error.to_string();
        // The standard library puts this before the system's words.
        let words = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
        Self(words.into())
    }
}
