//! The network of the initramfs: links, addresses and routes by rtnetlink(7).
//!
//! In: [`Requests`], from `ip=` and its relatives on the kernel command line;
//! leases from [`dhcp`](super::dhcp). Out: a [`NetworkState`], which says what
//! was set and takes all of it back. Invariant: what fails leaves nothing
//! behind, and nothing waits beyond its deadline.

mod advertisement;
mod configure;
mod journal;
#[cfg(test)]
mod mutants;
mod netlink;
mod request;
mod rtnetlink;
mod state;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Error;

pub use self::configure::configure;
pub use self::request::{
    BondOption, BondRequest, BootDevice, IpRequest, Method, PeerNameservers, Rename, RequestError, Requests,
    RouteRequest, StaticAddress, Timeouts, VlanRequest,
};
pub use self::rtnetlink::{Address, Change, DeviceKind, Link, NewDevice, Route, Rtnetlink, Standing, Via};
pub use self::state::{ConfiguredLink, NameServer, NetworkState};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// Why the network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("cannot change the network")]
    Kernel(#[source] Error),
    #[error("no network device {wanted} has appeared")]
    NoDevice { wanted: String },
    #[error("no carrier on {devices} after {} s: is a cable plugged in?", .waited.as_secs())]
    NoCarrier { devices: String, waited: Duration },
    #[error("no DHCP server has given {devices} an address within {} s", .waited.as_secs())]
    NoLease { devices: String, waited: Duration },
    #[error("no IPv6 router has given {devices} an address within {} s", .waited.as_secs())]
    NoRouter { devices: String, waited: Duration },
    #[error("{address} cannot be used on {device}: another machine has it")]
    AddressTaken { address: IpAddr, device: String },
    #[error("the route to {destination} names no device, and none of those set up leads to its gateway")]
    RouteWithoutDevice { destination: String },
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is not an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("six octets in hexadecimal are expected, as in 52:54:00:12:34:56")]
pub struct MacError;

impl FromStr for MacAddress {
    type Err = MacError;

    /// Parses `52:54:00:12:34:56`, also with `-`.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut octets = text.split([':', '-']);
        let mut address = [0; 6];
        for octet in &mut address {
            let text = octets.next().filter(|text| text.len() == 2).ok_or(MacError)?;
            if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(MacError);
            }
            *octet = u8::from_str_radix(text, 16).map_err(|_| MacError)?;
        }
        if octets.next().is_some() { Err(MacError) } else { Ok(Self(address)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_have_six_octets() {
        for (text, expected) in [
            ("52:54:00:12:34:56", Ok("52:54:00:12:34:56")),
            ("52-54-00-aB-Cd-eF", Ok("52:54:00:ab:cd:ef")),
            ("52:54:00:12:34", Err(MacError)),
            ("52:54:00:12:34:56:78", Err(MacError)),
            ("52:54:00:12:34:5", Err(MacError)),
            ("52:54:00:12:34:+5", Err(MacError)),
            ("525400123456", Err(MacError)),
            ("", Err(MacError)),
        ] {
            assert_eq!(
                text.parse().map(|mac: MacAddress| mac.to_string()),
                expected.map(str::to_owned),
                "{text}"
            );
        }
    }
}
