//! Netlink messages and the socket that carries them (netlink(7)).
//!
//! In: a message with attributes. Out: the kernel's acknowledgement, or the
//! objects it lists. Integers are in the machine's byte order, and everything
//! is aligned to four bytes. Invariant: no answer makes the reader panic or
//! read outside of it.
//!
//! ```text
//! message    0 length u32   4 type u16   6 flags u16   8 sequence u32   12 port u32   16 body …
//! attribute  0 length u16   2 type u16   4 value …
//! ```

use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use crate::sys::{Error, failed};

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// For requests that create something: fail if it exists.
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;

/// The kernel fills at most this many bytes per datagram of a list.
const MAX_DATAGRAM: usize = 32 * 1024;

/// A message to the kernel.
#[derive(Clone, Debug)]
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

/// A message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub kind: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

/// A connection to the kernel's rtnetlink, in the network namespace of the
/// thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Message {
    /// A message of this type whose body begins with `fixed`, the structure
    /// that belongs to the type.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut body = fixed.to_vec();
        body.resize(align(body.len()), 0);
        Self { kind, flags, body }
    }

    /// Adds an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        push_attribute(&mut self.body, kind, value);
        self
    }

    fn bytes(&self, sequence: u32, flags: u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend(((HEADER + self.body.len()) as u32).to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | self.flags | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // Port 0: to and from the kernel.
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(&self.body);
        bytes
    }
}

impl Socket {
    pub fn open() -> Result<Self, Error> {
        // NETLINK_ROUTE is protocol 0, the default.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(failed("socket", "rtnetlink"))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// A connection that hears what the kernel tells `group`, an `RTNLGRP_…`
    /// of linux/rtnetlink.h below 32.
    pub fn subscribe(group: u32) -> Result<Self, Error> {
        let socket = Self::open()?;
        let address = SocketAddrNetlink::new(0, 1 << (group - 1));
        bind(&socket.fd, &address).map_err(failed("bind", "rtnetlink"))?;
        Ok(socket)
    }

    /// Gives the type and the body of every message that has arrived to
    /// `message`. Does not wait for one.
    pub fn drain(&mut self, mut message: impl FnMut(u16, &[u8])) -> Result<(), Error> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let length = match retry_on_intr(|| recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT)) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(()),
                // Some were lost; those that come again are as good.
                Err(Errno::NOBUFS) => continue,
                Err(errno) => return Err(failed("recv", "rtnetlink")(errno)),
            };
            let datagram = buffer.get(..length).unwrap_or(&buffer);
            answers(datagram).for_each(|answer| message(answer.kind, answer.body));
        }
    }

    /// Asks for a change and waits for the kernel's acknowledgement. `call`
    /// and `what` are for the error.
    pub fn perform(&mut self, message: &Message, call: &'static str, what: &str) -> Result<(), Error> {
        self.exchange(message, NLM_F_ACK, |_, _| ()).map_err(failed(call, what))
    }

    /// Asks for all objects of a kind, and gives the body of each to `object`.
    pub fn list(
        &mut self,
        message: &Message,
        call: &'static str,
        object: impl FnMut(u16, &[u8]),
    ) -> Result<(), Error> {
        self.exchange(message, NLM_F_DUMP, object).map_err(failed(call, "all"))
    }

    fn exchange(
        &mut self,
        message: &Message,
        flags: u16,
        mut object: impl FnMut(u16, &[u8]),
    ) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.bytes(self.sequence, flags);
        retry_on_intr(|| send(&self.fd, &bytes, SendFlags::empty()))?;
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let (length, _) = retry_on_intr(|| recv(&self.fd, &mut buffer[..], RecvFlags::empty()))?;
            let datagram = buffer.get(..length).unwrap_or(&buffer);
            for answer in answers(datagram).filter(|answer| answer.sequence == self.sequence) {
                match answer.kind {
                    NLMSG_ERROR => return error_in(answer.body),
                    NLMSG_DONE => return Ok(()),
                    kind => object(kind, answer.body),
                }
            }
        }
    }
}

/// Attributes as the value of another one.
pub fn nested<'a>(attributes: impl Iterator<Item = (u16, &'a [u8])>) -> Vec<u8> {
    let mut bytes = Vec::new();
    attributes.for_each(|(kind, value)| push_attribute(&mut bytes, kind, value));
    bytes
}

/// Values are addresses, numbers, names and lists of a few of them, far
/// shorter than the 64 KiB that fit.
fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (ATTRIBUTE_HEADER + value.len()) as u16;
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(align(bytes.len()), 0);
}

/// An error message's code: zero is the acknowledgement.
fn error_in(body: &[u8]) -> Result<(), Errno> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) if (-4095..0).contains(&code) => Err(Errno::from_raw_os_error(-code)),
        _ => Err(Errno::BADMSG),
    }
}

/// The messages in one datagram, up to the first whose length is wrong.
fn answers(mut datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let body = datagram.get(HEADER..length)?;
        let answer = Answer { kind: u16_at(datagram, 4)?, sequence: u32_at(datagram, 8)?, body };
        datagram = datagram.get(align(length)..).unwrap_or_default();
        Some(answer)
    })
}

/// The attributes behind a fixed structure of `fixed` bytes, up to the first
/// whose length is wrong. Types come without their flag bits.
pub fn attributes(body: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    const TYPE_MASK: u16 = 0x3fff;
    let mut rest = body.get(align(fixed)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let attribute = (u16_at(rest, 2)? & TYPE_MASK, rest.get(ATTRIBUTE_HEADER..length)?);
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(attribute)
    })
}

pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::net::mutants::mutants;

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let message =
            Message::new(16, NLM_F_CREATE, &[1, 2, 3, 4]).attribute(3, b"eth0\0").attribute(4, &[9; 4]);
        let mut bytes = message.bytes(7, NLM_F_ACK);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u16_at(&bytes, 6), Some(NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK));
        bytes.extend(Message::new(17, 0, &[]).bytes(8, 0));
        let read: Vec<_> = answers(&bytes).collect();
        assert_eq!(read.iter().map(|a| (a.kind, a.sequence)).collect::<Vec<_>>(), [(16, 7), (17, 8)]);
        let attributes: Vec<_> = attributes(read[0].body, 4).collect();
        assert_eq!(attributes, [(3, &b"eth0\0"[..]), (4, &[9; 4])]);
    }

    #[test]
    fn an_acknowledgement_is_an_error_of_zero() {
        for (code, expected) in [
            (0_i32, Ok(())),
            (-17, Err(Errno::EXIST)),
            (17, Err(Errno::BADMSG)),
            (i32::MIN, Err(Errno::BADMSG)),
        ] {
            assert_eq!(error_in(&code.to_ne_bytes()), expected);
        }
        assert_eq!(error_in(&[]), Err(Errno::BADMSG));
    }

    #[test]
    fn mutated_answers_never_panic() {
        let message = Message::new(16, 0, &[1; 16]).attribute(3, b"eth0\0").attribute(4, &[9; 4]);
        let bytes = [message.bytes(1, 0), message.bytes(2, 0)].concat();
        for mutant in mutants(&bytes) {
            for answer in answers(&mutant) {
                assert!(attributes(answer.body, 16).count() <= mutant.len());
            }
        }
    }
}
