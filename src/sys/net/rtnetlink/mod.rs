//! Links, addresses and routes as values, and the calls that change them
//! (rtnetlink(7)).
//!
//! In: what is to be added, removed or set. Out: what the kernel has.
//! Invariant: an error names the link, address or route it is about.

mod device;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use self::device::{DeviceKind, NewDevice};
use super::MacAddress;
use super::netlink::{Message, NLM_F_CREATE, NLM_F_EXCL, Socket, attributes, u16_at, u32_at};
use crate::sys::Error;
use crate::text::Escaped;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Size of `struct ifinfomsg`: family u8, pad u8, type u16, index u32, flags u32, change u32.
const IFINFOMSG: usize = 16;
const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_CARRIER: u16 = 33;

/// Size of `struct ifaddrmsg`: family u8, prefix length u8, flags u8, scope u8, index u32.
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_TENTATIVE: u8 = 0x40;
const IFA_F_DADFAILED: u8 = 0x08;

/// Size of `struct rtmsg`: family, destination length, source length, tos,
/// table, protocol, scope and type, all u8, flags u32.
const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
/// Set while booting: what a network daemon later takes for its own to replace.
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// None for what is not Ethernet.
    pub mac: Option<MacAddress>,
    pub up: bool,
    pub carrier: bool,
    pub loopback: bool,
    /// In bytes.
    pub mtu: u32,
    /// Index of the bond or the like that it is a member of.
    pub master: Option<u32>,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub address: IpAddr,
    /// Length of the prefix that is on the link.
    pub prefix: u8,
    /// The other end, if there is just one.
    pub peer: Option<IpAddr>,
    pub standing: Standing,
}

/// What duplicate detection (RFC 4862) has found about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Ours; always so for IPv4, where the kernel does not look.
    Usable,
    /// Another machine may have it: nothing is sent from it yet.
    Tentative,
    /// Another machine has it.
    Duplicate,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub link: u32,
    pub destination: IpAddr,
    /// Length of the destination's prefix, 0 for the default route.
    pub prefix: u8,
    pub via: Via,
}

/// Where a route's packets are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// To the destination itself.
    Link,
    Gateway(IpAddr),
    /// To a gateway that no prefix of the link covers, but that is there.
    OnLinkGateway(IpAddr),
}

/// Whether an address or a route is to come or to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

/// A connection to the kernel about the network of the calling thread's
/// namespace.
#[derive(Debug)]
pub struct Rtnetlink(Socket);

impl Rtnetlink {
    pub fn open() -> Result<Self, Error> {
        Socket::open().map(Self)
    }

    /// All links, by index.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = Vec::new();
        let message = Message::new(RTM_GETLINK, 0, &[0; IFINFOMSG]);
        self.0.list(&message, "RTM_GETLINK", |kind, body| {
            links.extend((kind == RTM_NEWLINK).then(|| Link::parse(body)).flatten());
        })?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// All addresses of both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let mut addresses = Vec::new();
        let message = Message::new(RTM_GETADDR, 0, &[0; IFADDRMSG]);
        self.0.list(&message, "RTM_GETADDR", |kind, body| {
            addresses.extend((kind == RTM_NEWADDR).then(|| Address::parse(body)).flatten());
        })?;
        Ok(addresses)
    }

    /// The unicast routes of the main table, of both families.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        let message = Message::new(RTM_GETROUTE, 0, &[0; RTMSG]);
        self.0.list(&message, "RTM_GETROUTE", |kind, body| {
            routes.extend((kind == RTM_NEWROUTE).then(|| Route::parse(body)).flatten());
        })?;
        Ok(routes)
    }

    pub fn set_up(&mut self, link: &Link) -> Result<(), Error> {
        self.change_link(&link_message(link.index, IFF_UP), "RTM_NEWLINK up", &link.name)
    }

    /// Takes the link down; the kernel drops its routes and IPv6 addresses.
    pub fn set_down(&mut self, link: &Link) -> Result<(), Error> {
        self.change_link(&link_message(link.index, 0), "RTM_NEWLINK down", &link.name)
    }

    /// Sets the largest packet, in bytes.
    pub fn set_mtu(&mut self, link: &Link, mtu: u32) -> Result<(), Error> {
        let message = unchanged_link(link.index).attribute(IFLA_MTU, &mtu.to_ne_bytes());
        self.change_link(&message, "RTM_NEWLINK mtu", format_args!("{} mtu {mtu}", link.name))
    }

    /// Sets the hardware address; most drivers want the link down for it.
    pub fn set_mac(&mut self, link: &Link, mac: MacAddress) -> Result<(), Error> {
        let message = unchanged_link(link.index).attribute(IFLA_ADDRESS, &mac.0);
        self.change_link(&message, "RTM_NEWLINK address", format_args!("{} {mac}", link.name))
    }

    /// Adds or removes an address. Adding one that is there is EEXIST.
    pub fn change_address(&mut self, change: Change, address: &Address) -> Result<(), Error> {
        let fixed =
            [&[family(address.address), address.prefix, 0, 0], &address.link.to_ne_bytes()[..]].concat();
        let (kind, flags, call) = match change {
            Change::Add => (RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, "RTM_NEWADDR"),
            Change::Remove => (RTM_DELADDR, 0, "RTM_DELADDR"),
        };
        let message = Message::new(kind, flags, &fixed)
            .attribute(IFA_LOCAL, &octets(address.address))
            .attribute(IFA_ADDRESS, &octets(address.peer.unwrap_or(address.address)));
        self.0.perform(&message, call, &address.to_string())
    }

    /// Adds or removes a route. Adding a second one to the same destination
    /// is EEXIST.
    pub fn change_route(&mut self, change: Change, route: &Route) -> Result<(), Error> {
        let (kind, create, call) = match change {
            Change::Add => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "RTM_NEWROUTE"),
            Change::Remove => (RTM_DELROUTE, 0, "RTM_DELROUTE"),
        };
        let (gateway, scope, flags) = match route.via {
            Via::Link => (None, RT_SCOPE_LINK, 0),
            Via::Gateway(gateway) => (Some(gateway), RT_SCOPE_UNIVERSE, 0),
            Via::OnLinkGateway(gateway) => (Some(gateway), RT_SCOPE_UNIVERSE, RTNH_F_ONLINK),
        };
        let fixed =
            [family(route.destination), route.prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST];
        let fixed = [&fixed[..], &flags.to_ne_bytes()].concat();
        let mut message = Message::new(kind, create, &fixed).attribute(RTA_OIF, &route.link.to_ne_bytes());
        if route.prefix > 0 {
            message = message.attribute(RTA_DST, &octets(route.destination));
        }
        if let Some(gateway) = gateway {
            message = message.attribute(RTA_GATEWAY, &octets(gateway));
        }
        self.0.perform(&message, call, &route.to_string())
    }

    fn change_link(
        &mut self,
        message: &Message,
        call: &'static str,
        what: impl fmt::Display,
    ) -> Result<(), Error> {
        self.0.perform(message, call, &what.to_string())
    }
}

impl Link {
    fn parse(body: &[u8]) -> Option<Self> {
        let flags = u32_at(body, 8)?;
        let mut link = Self {
            index: u32_at(body, 4)?,
            name: String::new(),
            mac: None,
            up: flags & IFF_UP != 0,
            carrier: false,
            loopback: flags & IFF_LOOPBACK != 0,
            mtu: 0,
            master: None,
        };
        let ethernet = u16_at(body, 2)? == ARPHRD_ETHER;
        for (kind, value) in attributes(body, IFINFOMSG) {
            match kind {
                IFLA_ADDRESS if ethernet => link.mac = value.try_into().ok().map(MacAddress),
                IFLA_IFNAME => link.name = Escaped::new(value.strip_suffix(b"\0")?).to_string(),
                IFLA_MTU => link.mtu = u32_at(value, 0)?,
                IFLA_MASTER => link.master = u32_at(value, 0),
                IFLA_CARRIER => link.carrier = *value.first()? != 0,
                _ => {}
            }
        }
        Some(link).filter(|link| !link.name.is_empty())
    }
}

impl Address {
    fn parse(body: &[u8]) -> Option<Self> {
        let [_, prefix, flags, _] = *body.first_chunk()?;
        let link = u32_at(body, 4)?;
        let (mut local, mut peer) = (None, None);
        for (kind, value) in attributes(body, IFADDRMSG) {
            match kind {
                IFA_LOCAL => local = ip_address(value),
                IFA_ADDRESS => peer = ip_address(value),
                _ => {}
            }
        }
        // IPv6 has only the second, unless there is a peer.
        let address = local.or(peer)?;
        let peer = peer.filter(|peer| *peer != address);
        let standing = match (flags & IFA_F_DADFAILED, flags & IFA_F_TENTATIVE) {
            (0, 0) => Standing::Usable,
            (0, _) => Standing::Tentative,
            _ => Standing::Duplicate,
        };
        Some(Self { link, address, prefix, peer, standing })
    }

    /// Whether others beyond the link may use it.
    pub fn is_global(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
            IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
        }
    }
}

impl Route {
    fn parse(body: &[u8]) -> Option<Self> {
        let [family, prefix, _, _, table, _, _, kind] = *body.first_chunk()?;
        if (table, kind) != (RT_TABLE_MAIN, RTN_UNICAST) {
            return None;
        }
        let mut destination = match family {
            AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let onlink = u32_at(body, 8)? & RTNH_F_ONLINK != 0;
        let (mut link, mut via) = (None, Via::Link);
        for (kind, value) in attributes(body, RTMSG) {
            match kind {
                RTA_DST => destination = ip_address(value)?,
                RTA_OIF => link = u32_at(value, 0),
                RTA_GATEWAY if onlink => via = Via::OnLinkGateway(ip_address(value)?),
                RTA_GATEWAY => via = Via::Gateway(ip_address(value)?),
                _ => {}
            }
        }
        Some(Self { link: link?, destination, prefix, via })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.destination, self.prefix)?;
        match self.via {
            Via::Link => Ok(()),
            Via::Gateway(gateway) | Via::OnLinkGateway(gateway) => write!(f, " via {gateway}"),
        }
    }
}

/// A request that sets the up flag of a link to that in `flags`.
fn link_message(index: u32, flags: u32) -> Message {
    let fixed = [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), IFF_UP.to_ne_bytes()].concat();
    Message::new(RTM_NEWLINK, 0, &fixed)
}

/// A request about a link that leaves its flags alone.
fn unchanged_link(index: u32) -> Message {
    Message::new(RTM_NEWLINK, 0, &[[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat())
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ip_address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(*value.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*value.first_chunk::<16>()?)),
        _ => None,
    }
}
