//! The registry client (distribution-spec, "Pulling manifests" and "Pulling
//! blobs") and its token flow.
//!
//! In: a reference and the endpoints that the configuration gives for its
//! registry. Out: verified documents, and blobs in the store. Invariants:
//! credentials go to the endpoint they are configured for and to its token
//! server, nowhere else; what an endpoint says about digests is never
//! believed; everything read is bounded in bytes and in time.

mod auth;
mod date;
mod download;
mod error;
mod file;
mod http;
mod pace;
mod pull;
mod referrers;
mod resolver;
mod retry;
mod stream;
mod tls;
mod token;
mod turns;
mod url;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use error::{Detail, EndpointError, RealmRefusal, RedirectRefusal};
pub use tls::{CertificateProblem, Roots, TlsProblem};

use super::{Network, Progress};
use crate::limits::Limits;
use crate::oci::registries::{Registries, Secret};
use crate::oci::{Digest, Reference};
use pull::Pull;
pub(super) use pull::stored_blob;
pub(super) use stream::{Failure, Hope, Remote, Stream};

/// Connections, tokens and settings, shared by all pulls of a process.
pub(super) struct Client<'a> {
    registries: &'a Registries,
    network: Network,
    /// How large answers may be.
    limits: Limits,
    progress: &'a dyn Progress,
    /// By `host[:port]`, because TLS settings are bound to that.
    agents: Mutex<HashMap<String, ureq::Agent>>,
    /// `Authorization` values that worked, by endpoint and repository.
    authorizations: Mutex<HashMap<(String, String), Secret>>,
    /// Identity tokens that token servers gave in place of the configured
    /// ones, by endpoint `host[:port]` and these.
    identities: Mutex<HashMap<(String, String), Secret>>,
    /// Token servers that were reported.
    reported: Mutex<HashSet<String>>,
    /// Hosts that get credentials over plain HTTP, as was reported.
    unencrypted: Mutex<HashSet<String>>,
    /// Endpoints that have something else under a blob's digest.
    refused: Mutex<HashSet<(String, Digest)>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        registries: &'a Registries,
        network: Network,
        limits: Limits,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            registries,
            network,
            limits,
            progress,
            agents: Mutex::default(),
            authorizations: Mutex::default(),
            identities: Mutex::default(),
            reported: Mutex::default(),
            unencrypted: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Starts the clock of one `resolve`.
    pub(super) fn pull(&self, reference: &Reference) -> Pull<'_> {
        Pull::new(self, reference, self.network.timeouts.total)
    }

    /// Starts the clock of one `fetch`, beside which there may be others.
    pub(super) fn pull_blobs(&self, reference: &Reference) -> Pull<'_> {
        let Network { timeouts, images, .. } = &self.network;
        Pull::new(self, reference, timeouts.total.saturating_mul(images.get()))
    }
}

/// Locks what stays whole even if a thread panicked meanwhile.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
