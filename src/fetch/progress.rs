//! What happens during a fetch, told while it happens.
//!
//! In: steps of the transports. Out: [`Event`]s, to whoever draws progress
//! bars or writes log lines; `fetch` itself logs nothing. Invariant: an event
//! never holds a secret.

use std::time::Duration;

use super::registry::EndpointError;
use crate::oci::{Digest, ImageSource};

/// One thing worth telling a person.
#[derive(Debug)]
pub enum Event<'a> {
    /// A fetch starts: so many blobs and bytes are missing.
    Started { image: &'a ImageSource, blobs: usize, bytes: u64 },
    /// Bytes of a blob arrived.
    Received(u64),
    /// A blob starts over elsewhere; so many received bytes do not count.
    Discarded(u64),
    /// A blob is complete and verified.
    Stored { digest: &'a Digest, endpoint: &'a str },
    /// A blob was read to its end while it was downloaded, and is verified.
    Delivered { digest: &'a Digest, endpoint: &'a str },
    /// An endpoint failed. Others, or the same one again, are tried.
    Failed { endpoint: &'a str, error: &'a EndpointError },
    /// Nothing is tried for so long.
    Pausing(Duration),
    /// The server's certificate is not checked, because the configuration
    /// says so. Told once for each `host[:port]`.
    Unverified { authority: &'a str },
    /// A password or token is sent over plain HTTP, because the configuration
    /// gives both. Told once for each `host[:port]`.
    Unencrypted { authority: &'a str },
    /// An endpoint sends us to this host for a token.
    TokenServer { endpoint: &'a str, host: &'a str },
}

/// Hears of events. Called from several threads.
pub trait Progress: Sync {
    fn report(&self, event: Event<'_>);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: Event<'_>) {}
}

impl<F: Fn(Event<'_>) + Sync> Progress for F {
    fn report(&self, event: Event<'_>) {
        self(event);
    }
}
