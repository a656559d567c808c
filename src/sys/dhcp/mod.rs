//! DHCPv4 client (RFC 2131): from an interface with carrier to a lease.
//!
//! In: an interface's name and hardware address, the clock, datagrams from
//! anybody on the link. Out: a [`Lease`]; setting it is for
//! [`net`](super::net). Leases are not renewed or released: an initramfs lasts
//! minutes, and the system's own client asks for the same address again.
//! Invariant: a lease is what one server offered and then acknowledged.

mod exchange;
mod message;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use self::exchange::Exchange;
use super::random::random;
use super::{Error, failed};

pub use self::message::{Identity, MessageError, Question, Reply, class_prefix, mask_prefix};

const CLIENT_PORT: u16 = 68;
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);

/// Datagrams read at once, so that a flood does not keep us from the clock.
const MAX_BURST: usize = 64;

/// What a server grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix, 1 to 32.
    pub prefix: u8,
    /// Routes to set, in the server's order. Classless routes (option 121) if
    /// there are any, else the default route through the first router.
    pub routes: Vec<Route>,
    pub nameservers: Vec<Ipv4Addr>,
    /// The domain to search names in, a valid name.
    pub domain: Option<String>,
    /// The name that the server gives us, a valid name.
    pub hostname: Option<String>,
    /// In bytes, at least 576.
    pub mtu: Option<u16>,
    /// How long the address is ours; None is for ever.
    pub duration: Option<Duration>,
    /// The server's identifier.
    pub server: Ipv4Addr,
}

/// One route of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    /// None: the destination is on the link.
    pub gateway: Option<Ipv4Addr>,
}

/// A client on one interface. Whoever has it waits for its descriptor or for
/// [`Client::due`], and then calls [`Client::advance`].
#[derive(Debug)]
pub struct Client {
    device: String,
    socket: UdpSocket,
    exchange: Exchange,
}

impl Client {
    /// Opens a client on `device`, which must be up. `hostname` is told to
    /// the server. Nothing is sent yet.
    pub fn open(device: &str, mac: [u8; 6], hostname: Option<&str>) -> Result<Self, Error> {
        let socket = open_socket(device)?;
        let exchange = Exchange::new(mac, hostname, random(), Instant::now());
        Ok(Self { device: device.into(), socket, exchange })
    }

    /// When [`Client::advance`] has to be called even if nothing arrives.
    pub fn due(&self) -> Instant {
        self.exchange.due()
    }

    /// Reads what has arrived and sends what is due.
    pub fn advance(&mut self, now: Instant) -> Option<Lease> {
        let mut datagram = [0; 2048];
        for _ in 0..MAX_BURST {
            match self.socket.recv(&mut datagram) {
                Ok(length) => {
                    let lease = self.exchange.receive(&datagram[..length], now);
                    if lease.is_some() {
                        return lease;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => log::debug!("{}: receiving DHCP: {error}", self.device),
            }
        }
        if self.exchange.due() <= now {
            let datagram = self.exchange.send(now);
            // As good as lost on the way: the next try comes anyhow.
            if let Err(error) = self.socket.send_to(&datagram, SERVER) {
                log::debug!("{}: sending DHCP: {error}", self.device);
            }
        }
        None
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A UDP socket that can say something without having an address. Bound to
/// the device before the port, so that several interfaces can be asked at once.
fn open_socket(device: &str) -> Result<UdpSocket, Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None).map_err(failed("socket", device))?;
    bind_to_device(&socket, device)
        .map_err(|error| failed("setsockopt SO_BINDTODEVICE", device)(errno(&error)))?;
    sockopt::set_socket_broadcast(&socket, true).map_err(failed("setsockopt SO_BROADCAST", device))?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(failed("setsockopt SO_REUSEADDR", device))?;
    let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
    bind(&socket, &local).map_err(failed("bind to the DHCP client's port", device))?;
    Ok(socket.into())
}

fn bind_to_device(socket: &OwnedFd, device: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `device`, which lives
    // beyond the call; the kernel only reads it and takes it without a
    // terminating zero. `socket` is open because we borrow its owner.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device.as_ptr().cast(),
            device.len() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn errno(error: &io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO)
}
