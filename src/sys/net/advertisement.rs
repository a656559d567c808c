//! What IPv6 routers say beyond routes and prefixes: name servers (RFC 8106,
//! section 5.1), which the kernel passes on (linux/rtnetlink.h,
//! `nduseroptmsg`).
//!
//! In: messages of the kernel, the inside of which a router has written. Out:
//! [`NameServer`]s by link. Invariant: no message makes the reader panic or
//! read outside of it.
//!
//! ```text
//! nduseroptmsg  0 family u8   2 length of options u16   4 link i32   8 ICMP type u8   … 16 options
//! option        0 type u8   1 length in units of 8 u8
//! type 25       4 lifetime in seconds u32, big-endian   8 addresses, 16 bytes each …
//! ```

use std::net::{IpAddr, Ipv6Addr};

use super::NameServer;
use super::netlink::{Socket, u16_at, u32_at};
use crate::sys::Error;

const RTNLGRP_ND_USEROPT: u32 = 20;
const RTM_NEWNDUSEROPT: u16 = 68;
const NDUSEROPTMSG: usize = 16;
const AF_INET6: u8 = 10;
const ROUTER_ADVERTISEMENT: u8 = 134;
const RECURSIVE_DNS_SERVER: u8 = 25;

/// Of one link. A resolver reads no more of them, and a router could go on for
/// ever.
const MAX_SERVERS: usize = 16;

/// Hears what routers say from when it is opened.
#[derive(Debug)]
pub struct Advertisements {
    socket: Socket,
    heard: Vec<(u32, Ipv6Addr)>,
}

impl Advertisements {
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::subscribe(RTNLGRP_ND_USEROPT)?, heard: Vec::new() })
    }

    /// The name servers that routers on `link` have named so far.
    pub fn nameservers(&mut self, link: u32, device: &str) -> Result<Vec<NameServer>, Error> {
        let heard = &mut self.heard;
        self.socket.drain(|kind, body| {
            if kind == RTM_NEWNDUSEROPT {
                servers(body).into_iter().for_each(|server| remember(heard, server));
            }
        })?;
        let heard = self.heard.iter().filter(|(from, _)| *from == link);
        let servers = heard.map(|(_, address)| {
            // A link-local address says nothing without its link.
            let device = address.is_unicast_link_local().then(|| device.to_owned());
            NameServer { address: IpAddr::V6(*address), device }
        });
        Ok(servers.collect())
    }
}

/// Routers repeat themselves, and the one of another link must still be heard.
fn remember(heard: &mut Vec<(u32, Ipv6Addr)>, server: (u32, Ipv6Addr)) {
    let of_link = heard.iter().filter(|(link, _)| *link == server.0).count();
    if !heard.contains(&server) && of_link < MAX_SERVERS {
        heard.push(server);
    }
}

/// The link and the address of each name server in a message.
fn servers(body: &[u8]) -> Vec<(u32, Ipv6Addr)> {
    let read = || {
        let about_router = *body.first()? == AF_INET6 && *body.get(8)? == ROUTER_ADVERTISEMENT;
        let length = usize::from(u16_at(body, 2)?);
        let options = body.get(NDUSEROPTMSG..)?;
        let options = options.get(..length).unwrap_or(options);
        about_router.then_some((u32_at(body, 4)?, options))
    };
    let Some((link, mut options)) = read() else { return Vec::new() };
    let mut servers = Vec::new();
    // A length of zero would never end.
    while let [kind, units, ..] = *options
        && units > 0
    {
        let (option, rest) = options.split_at(usize::from(units).saturating_mul(8).min(options.len()));
        if kind == RECURSIVE_DNS_SERVER && option.get(4..8).is_some_and(|lifetime| lifetime != [0; 4]) {
            let addresses = option.get(8..).unwrap_or_default().as_chunks::<16>().0;
            servers.extend(addresses.iter().map(|octets| (link, Ipv6Addr::from(*octets))));
        }
        options = rest;
    }
    servers.retain(|(_, address)| !address.is_multicast() && !address.is_unspecified());
    servers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::net::mutants::mutants;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut body = vec![AF_INET6, 0];
        body.extend((options.len() as u16).to_ne_bytes());
        body.extend(3_u32.to_ne_bytes());
        body.extend([ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0]);
        body.extend(options);
        body
    }

    fn option(kind: u8, lifetime: u8, servers: &[&str]) -> Vec<u8> {
        let mut option = vec![kind, 1 + 2 * servers.len() as u8, 0, 0, 0, 0, 0, lifetime];
        for server in servers {
            option.extend(server.parse::<Ipv6Addr>().unwrap().octets());
        }
        option
    }

    #[test]
    fn name_servers_are_read_from_the_options_of_a_router() {
        let cut = option(25, 9, &["2001:db8::1", "2001:db8::2"]);
        for (rule, options, expected) in [
            ("one", option(25, 9, &["2001:db8::1"]), &["2001:db8::1"][..]),
            ("two in an option", option(25, 9, &["2001:db8::1", "fe80::2"]), &["2001:db8::1", "fe80::2"]),
            (
                "two options, another before",
                [option(31, 9, &["::5"]), option(25, 9, &["::6:1"]), option(25, 9, &["::6:2"])].concat(),
                &["::6:1", "::6:2"],
            ),
            ("withdrawn", option(25, 0, &["2001:db8::1"]), &[]),
            ("no address for a server", option(25, 9, &["::", "ff02::1"]), &[]),
            ("cut short", cut[..36].to_vec(), &["2001:db8::1"]),
            ("of no length", vec![25, 0, 0, 0, 0, 0, 0, 9], &[]),
            ("nothing", vec![], &[]),
        ] {
            let found: Vec<_> = servers(&message(&options)).iter().map(|(_, a)| a.to_string()).collect();
            assert_eq!(found, expected, "{rule}");
        }
        let mut other = message(&option(25, 9, &["2001:db8::1"]));
        other[8] = 137;
        assert_eq!(servers(&other), []);
    }

    #[test]
    fn a_link_that_is_full_leaves_room_for_the_others() {
        let mut heard = Vec::new();
        let server = |number: u128| Ipv6Addr::from(number);
        for number in (0..40).chain(0..40) {
            remember(&mut heard, (1, server(number)));
        }
        remember(&mut heard, (2, server(1)));
        remember(&mut heard, (2, server(1)));
        let first = (0..MAX_SERVERS as u128).map(|number| (1, server(number)));
        assert_eq!(heard, first.chain([(2, server(1))]).collect::<Vec<_>>());
    }

    #[test]
    fn mutated_messages_never_panic() {
        let good = message(&[option(25, 9, &["2001:db8::1"]), option(31, 9, &["::5"])].concat());
        for mutant in mutants(&good) {
            assert!(servers(&mutant).len() <= mutant.len() / 16);
        }
    }
}
