//! DHCP messages as bytes (RFC 2131, section 2; options RFC 2132, 3396, 3442).
//!
//! In: what the client wants to say, or a datagram that anybody may have
//! sent. Out: a datagram, or a [`Reply`] of which every field was checked.
//! Invariant: no input makes the parser panic or read outside of it.
//!
//! ```text
//!   0 op  1 htype  2 hlen  3 hops   4 xid      8 secs  10 flags
//!  12 ciaddr  16 yiaddr  20 siaddr  24 giaddr  28 chaddr[16]
//!  44 sname[64]  108 file[128]  236 magic cookie  240 options …
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Lease, Route};

const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
/// Replies are to be broadcast: without an address we cannot receive others.
const FLAG_BROADCAST: u16 = 0x8000;

const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const OPTIONS: usize = 240;

/// Smallest message that every relay passes on, in bytes (RFC 1542, section 2.1).
const MIN_LENGTH: usize = 300;

/// Largest reply that we take, in bytes: one Ethernet frame less the headers
/// of IP and UDP.
pub const MAX_LENGTH: u16 = 1500 - 28;

/// Smallest MTU that a server may tell us to use: every IPv4 host must take
/// packets of this size (RFC 791), and less is only a way to slow us down.
const MIN_MTU: u16 = 576;

/// Option codes (RFC 2132, section 3 and later).
mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DOMAIN_NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_IDENTIFIER: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    pub const CLIENT_IDENTIFIER: u8 = 61;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// What we ask servers for. Classless routes come before routers, as RFC 3442
/// demands.
const WANTED: [u8; 8] = [
    option::CLASSLESS_ROUTES,
    option::SUBNET_MASK,
    option::ROUTER,
    option::DOMAIN_NAME_SERVER,
    option::HOST_NAME,
    option::DOMAIN_NAME,
    option::INTERFACE_MTU,
    option::LEASE_TIME,
];

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Discover,
    Request { address: Ipv4Addr, server: Ipv4Addr },
}

/// Who asks, and in which exchange.
#[derive(Clone, Debug)]
pub struct Identity {
    pub xid: u32,
    pub mac: [u8; 6],
    pub hostname: Option<String>,
}

/// What a server says. Its content is as good as the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Offer(Lease),
    Ack(Lease),
    Nak { server: Option<Ipv4Addr> },
}

/// Why a datagram is not a reply to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("the datagram is too short for DHCP")]
    Short,
    #[error("it is not a DHCP reply for Ethernet")]
    NotReply,
    #[error("it is for another client")]
    NotOurs,
    #[error("option {code} is cut off or has a wrong length")]
    Option { code: u8 },
    #[error("message type {kind} is not one that a server sends us")]
    Type { kind: u8 },
    #[error("{what} {address} is not usable")]
    Address { what: &'static str, address: Ipv4Addr },
    #[error("the subnet mask {mask} has holes")]
    Mask { mask: Ipv4Addr },
}

impl Identity {
    /// The datagram for `question`, `elapsed` after the exchange began.
    pub fn message(&self, question: Question, elapsed: Duration) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS];
        bytes[..4].copy_from_slice(&[BOOT_REQUEST, ETHERNET, 6, 0]);
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        let seconds = u16::try_from(elapsed.as_secs()).unwrap_or(u16::MAX);
        bytes[8..10].copy_from_slice(&seconds.to_be_bytes());
        bytes[10..12].copy_from_slice(&FLAG_BROADCAST.to_be_bytes());
        bytes[28..34].copy_from_slice(&self.mac);
        bytes[236..].copy_from_slice(&MAGIC_COOKIE);
        self.add_options(question, &mut bytes);
        bytes.push(option::END);
        bytes.resize(bytes.len().max(MIN_LENGTH), option::PAD);
        bytes
    }

    fn add_options(&self, question: Question, bytes: &mut Vec<u8>) {
        let mut add = |code: u8, value: &[u8]| {
            // Nothing of ours is longer than an option can be; a hostname is cut.
            let value = &value[..value.len().min(255)];
            bytes.extend([code, value.len() as u8]);
            bytes.extend(value);
        };
        match question {
            Question::Discover => add(option::MESSAGE_TYPE, &[1]),
            Question::Request { address, server } => {
                add(option::MESSAGE_TYPE, &[3]);
                add(option::REQUESTED_ADDRESS, &address.octets());
                add(option::SERVER_IDENTIFIER, &server.octets());
            }
        }
        add(option::CLIENT_IDENTIFIER, &[&[ETHERNET], &self.mac[..]].concat());
        add(option::MAX_MESSAGE_SIZE, &MAX_LENGTH.to_be_bytes());
        if let Some(hostname) = &self.hostname {
            add(option::HOST_NAME, hostname.as_bytes());
        }
        add(option::PARAMETER_LIST, &WANTED);
    }

    /// Reads a datagram that may be an answer to us.
    pub fn parse(&self, datagram: &[u8]) -> Result<Reply, MessageError> {
        let Some(header) = datagram.first_chunk::<OPTIONS>() else { return Err(MessageError::Short) };
        if header[..3] != [BOOT_REPLY, ETHERNET, 6] || header[236..] != MAGIC_COOKIE {
            return Err(MessageError::NotReply);
        }
        if header[4..8] != self.xid.to_be_bytes() || header[28..34] != self.mac {
            return Err(MessageError::NotOurs);
        }
        let options = Options::parse(datagram)?;
        let server = options.address(option::SERVER_IDENTIFIER)?;
        let lease = || Lease::read(header, &options);
        match options.get(option::MESSAGE_TYPE) {
            Some([2]) => Ok(Reply::Offer(lease()?)),
            Some([5]) => Ok(Reply::Ack(lease()?)),
            Some([6]) => Ok(Reply::Nak { server }),
            Some([kind]) => Err(MessageError::Type { kind: *kind }),
            _ => Err(MessageError::Option { code: option::MESSAGE_TYPE }),
        }
    }
}

impl Lease {
    fn read(header: &[u8; OPTIONS], options: &Options) -> Result<Self, MessageError> {
        let address = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        let server = options
            .address(option::SERVER_IDENTIFIER)?
            .ok_or(MessageError::Option { code: option::SERVER_IDENTIFIER })?;
        for (what, address) in [("address", address), ("server", server)] {
            if !is_host(address) {
                return Err(MessageError::Address { what, address });
            }
        }
        Ok(Self {
            address,
            prefix: options.prefix(address)?,
            routes: options.routes()?,
            nameservers: options.addresses(option::DOMAIN_NAME_SERVER)?,
            domain: options.name(option::DOMAIN_NAME),
            hostname: options.name(option::HOST_NAME),
            mtu: options.get(option::INTERFACE_MTU).and_then(be_u16).filter(|&mtu| mtu >= MIN_MTU),
            duration: match options.get(option::LEASE_TIME).and_then(be_u32) {
                None | Some(u32::MAX) => None,
                Some(seconds) => Some(Duration::from_secs(seconds.into())),
            },
            server,
        })
    }
}

/// Options by code; one that came in pieces is whole again (RFC 3396).
#[derive(Debug, Default)]
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Collects options from where they may be: their own field, then `file`
    /// and `sname` if the overload option says so (RFC 2132, section 9.3).
    fn parse(datagram: &[u8]) -> Result<Self, MessageError> {
        let mut options = Self::default();
        options.collect(datagram.get(OPTIONS..).unwrap_or_default())?;
        let overload = options.get(option::OVERLOAD).and_then(|value| value.first()).copied();
        if matches!(overload, Some(1 | 3)) {
            options.collect(datagram.get(FILE).unwrap_or_default())?;
        }
        if matches!(overload, Some(2 | 3)) {
            options.collect(datagram.get(SNAME).unwrap_or_default())?;
        }
        Ok(options)
    }

    /// Reads one field up to its end option. A missing end is tolerated, as
    /// every client does.
    fn collect(&mut self, mut field: &[u8]) -> Result<(), MessageError> {
        loop {
            field = match *field {
                [] | [option::END, ..] => return Ok(()),
                [option::PAD, ref rest @ ..] => rest,
                [code, length, ref rest @ ..] => {
                    let Some((value, rest)) = rest.split_at_checked(length.into()) else {
                        return Err(MessageError::Option { code });
                    };
                    self.0.entry(code).or_default().extend(value);
                    rest
                }
                [code] => return Err(MessageError::Option { code }),
            };
        }
    }

    fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    fn address(&self, code: u8) -> Result<Option<Ipv4Addr>, MessageError> {
        match self.get(code) {
            None => Ok(None),
            Some(value) => be_u32(value).map(|bits| Some(bits.into())).ok_or(MessageError::Option { code }),
        }
    }

    /// A list of addresses, of which those that no host can have are left out.
    fn addresses(&self, code: u8) -> Result<Vec<Ipv4Addr>, MessageError> {
        let value = self.get(code).unwrap_or_default();
        let (addresses, []) = value.as_chunks::<4>() else { return Err(MessageError::Option { code }) };
        Ok(addresses.iter().map(|&octets| octets.into()).filter(|&address| is_host(address)).collect())
    }

    /// The length of the subnet's prefix; without a mask, that of the
    /// address' class.
    fn prefix(&self, address: Ipv4Addr) -> Result<u8, MessageError> {
        let Some(mask) = self.address(option::SUBNET_MASK)? else { return Ok(class_prefix(address)) };
        mask_prefix(mask).filter(|&prefix| prefix > 0).ok_or(MessageError::Mask { mask })
    }

    /// Classless routes if there are any: routers are then not to be used
    /// (RFC 3442). Else a default route through the first router.
    fn routes(&self) -> Result<Vec<Route>, MessageError> {
        if let Some(value) = self.get(option::CLASSLESS_ROUTES) {
            return parse_classless(value).ok_or(MessageError::Option { code: option::CLASSLESS_ROUTES });
        }
        let router = self.addresses(option::ROUTER)?.first().copied();
        let default = |router| Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(router) };
        Ok(router.map(default).into_iter().collect())
    }

    /// A host or domain name. It goes into files and onto consoles, so one
    /// that is not a name in the sense of RFC 1123 is left out.
    fn name(&self, code: u8) -> Option<String> {
        let mut text = self.get(code)?;
        // Some servers count a terminating zero or write the root's dot.
        while let [rest @ .., 0 | b'.'] = text {
            text = rest;
        }
        let is_label = |label: &[u8]| {
            !label.is_empty()
                && label.len() <= 63
                && label[0] != b'-'
                && label.iter().all(|b| is_name_byte(*b))
        };
        let valid = text.len() <= 253 && text.split(|&byte| byte == b'.').all(is_label);
        valid.then(|| String::from_utf8_lossy(text).into_owned())
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Routes as in RFC 3442: prefix length, as many octets of the destination as
/// it needs, gateway; 0.0.0.0 is the link itself. A route through what cannot
/// be a router is left out.
fn parse_classless(mut value: &[u8]) -> Option<Vec<Route>> {
    let mut routes = Vec::new();
    while let Some((&prefix, rest)) = value.split_first() {
        if prefix > 32 {
            return None;
        }
        let (significant, rest) = rest.split_at_checked(usize::from(prefix).div_ceil(8))?;
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let mut destination = [0; 4];
        destination[..significant.len()].copy_from_slice(significant);
        // Bits behind the prefix are to be ignored (RFC 3442, "Client Behavior").
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let destination = (u32::from_be_bytes(destination) & mask).into();
        let gateway = Some(Ipv4Addr::from(*gateway)).filter(|gateway| !gateway.is_unspecified());
        if gateway.is_none_or(is_host) {
            routes.push(Route { destination, prefix, gateway });
        }
        value = rest;
    }
    Some(routes)
}

/// The prefix length of a mask without holes.
pub fn mask_prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    (bits.leading_ones() + bits.trailing_zeros() >= 32).then(|| bits.leading_ones() as u8)
}

/// The prefix length that the address' class had before there were masks.
pub fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        ..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

/// Whether a single machine may have this address.
fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first < 224 && !address.is_loopback()
}

fn be_u16(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

fn be_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
pub mod tests;
