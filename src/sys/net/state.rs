//! What was done to the network.
//!
//! In: the links that [`configure`](super::configure()) has set up. Out: lines
//! for the log, and on request the network as it was before. Invariant: the
//! state is made only after something was set, and nothing else sets it.

use std::fmt;
use std::net::IpAddr;

use super::journal::Journal;
use super::{Link, NetError};
use crate::sys::dhcp::Lease;

/// What was set, for the log and to be taken back.
#[derive(Debug)]
pub struct NetworkState {
    pub(super) links: Vec<ConfiguredLink>,
    pub(super) nameservers: Vec<NameServer>,
    pub(super) failures: Vec<NetError>,
    pub(super) journal: Journal,
}

/// One link with an address. Displays as `eth0: 10.0.2.15/24 via 10.0.2.2
/// (DHCP server 10.0.2.2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredLink {
    pub link: Link,
    pub address: IpAddr,
    pub prefix: u8,
    /// Where its default route leads, if it has one.
    pub gateway: Option<IpAddr>,
    /// By DHCP only.
    pub lease: Option<Lease>,
    /// Those that the DHCP server or the IPv6 router names.
    pub nameservers: Vec<NameServer>,
}

/// A name server. Displays as resolv.conf(5) has it, as `fe80::1%eth0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    pub address: IpAddr,
    /// Where a link-local address is to be found.
    pub device: Option<String>,
}

impl From<IpAddr> for NameServer {
    fn from(address: IpAddr) -> Self {
        Self { address, device: None }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.device.as_ref().map_or(Ok(()), |device| write!(f, "%{device}"))
    }
}

impl NetworkState {
    /// The links that have an address now, in the order of the requests.
    pub fn links(&self) -> &[ConfiguredLink] {
        &self.links
    }

    /// What was written to `resolv.conf`; empty if it was left alone.
    pub fn nameservers(&self) -> &[NameServer] {
        &self.nameservers
    }

    /// Requests that were not fulfilled, while others were.
    pub fn failures(&self) -> &[NetError] {
        &self.failures
    }

    /// Takes everything back: routes, addresses, links, settings and
    /// `resolv.conf`. Goes on after an error and returns the first.
    pub fn take_down(mut self) -> Result<(), NetError> {
        self.journal.release_all()
    }
}

impl fmt::Display for ConfiguredLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}/{}", self.link.name, self.address, self.prefix)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        match &self.lease {
            Some(lease) => write!(f, " (DHCP server {})", lease.server),
            None => Ok(()),
        }
    }
}
