//! One `ip=` fulfilled: candidates up, and then an address by the method that
//! was asked for.
//!
//! In: an [`IpRequest`] and a deadline. Out: the link that got an address, and
//! its routes, which are not set yet. Invariant: every other device that was
//! tried is as it was before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Addressed, LOOK, names};
use crate::sys::Error;
use crate::sys::dhcp::{self, Client, Lease};
use crate::sys::kmsg::chain;
use crate::sys::net::advertisement::Advertisements;
use crate::sys::net::journal::Journal;
use crate::sys::net::request::{BootDevice, IpRequest, Method, Requests, StaticAddress, masked};
use crate::sys::net::{Address, ConfiguredLink, Link, NetError, Route, Standing, Via};

/// Work on one request.
pub(super) struct Attempt<'a> {
    requests: &'a Requests,
    deadline: Instant,
    journal: Journal,
    /// Indices of links that could not be made ready for a request that does
    /// not name them. One bad device must not stop the others.
    broken: Vec<u32>,
}

/// A wait for an answer: until when, and what to say then.
struct Wait {
    since: Instant,
    until: Instant,
}

/// A wait for devices, which first have to appear.
struct CarrierWait {
    since: Instant,
    /// When the first one was seen.
    appeared: Option<Instant>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(requests: &'a Requests, deadline: Instant) -> Result<Self, NetError> {
        Ok(Self { requests, deadline, journal: Journal::open()?, broken: Vec::new() })
    }

    /// What has been changed.
    pub(super) fn into_journal(self) -> Journal {
        self.journal
    }

    /// Fulfils the request and releases every other device tried for it.
    pub(super) fn fulfil(&mut self, request: &IpRequest) -> Result<Option<Addressed>, NetError> {
        let result = match &request.method {
            Method::Off => return Ok(None),
            Method::Static(address) => self.set_static(request, address),
            Method::Auto6 => self.wait_for_router(request),
            Method::Dhcp => self.ask_dhcp(request),
        };
        let winner = result.as_ref().ok().map(|addressed| addressed.link.link.index);
        for link in self.candidates(request)?.iter().filter(|link| Some(link.index) != winner) {
            self.journal.release(link.index)?;
        }
        result.map(Some)
    }

    fn set_static(&mut self, request: &IpRequest, wanted: &StaticAddress) -> Result<Addressed, NetError> {
        let mut wait = CarrierWait::new();
        let link = loop {
            if let Some(link) = self.raise(request)?.into_iter().find(|link| link.carrier) {
                break link;
            }
            self.pause_for_carrier(request, &mut wait)?;
        };
        let StaticAddress { address, prefix, peer, gateway } = *wanted;
        self.journal.add_address(Address {
            link: link.index,
            address,
            prefix,
            peer,
            standing: Standing::Usable,
        })?;
        self.wait_until_usable(&link, address)?;
        let route = gateway.map(|gateway| {
            let on_link = masked(gateway, prefix) == masked(address, prefix) || peer == Some(gateway);
            let via = if on_link { Via::Gateway(gateway) } else { Via::OnLinkGateway(gateway) };
            default_route(link.index, via)
        });
        let nameservers = Vec::new();
        let link = ConfiguredLink { link, address, prefix, gateway, lease: None, nameservers };
        Ok(Addressed { link, routes: route.into_iter().collect() })
    }

    /// Waits until duplicate detection has passed an IPv6 address; before
    /// that nothing can be sent from it.
    fn wait_until_usable(&mut self, link: &Link, address: IpAddr) -> Result<(), NetError> {
        let wait = self.wait(self.requests.timeouts.duplicates);
        while address.is_ipv6() {
            let addresses = self.journal.netlink.addresses().map_err(NetError::Kernel)?;
            let ours = addresses.iter().find(|a| a.link == link.index && a.address == address);
            match ours.map(|address| address.standing) {
                Some(Standing::Usable) => break,
                Some(Standing::Tentative) if Instant::now() < wait.until => std::thread::sleep(LOOK),
                _ => return Err(NetError::AddressTaken { address, device: link.name.clone() }),
            }
        }
        Ok(())
    }

    /// Asks on every candidate as soon as it has carrier; the first lease wins.
    fn ask_dhcp(&mut self, request: &IpRequest) -> Result<Addressed, NetError> {
        let mut carrier = CarrierWait::new();
        let mut answer: Option<Wait> = None;
        let mut clients: Vec<(Link, Client)> = Vec::new();
        loop {
            for link in self.raise(request)?.into_iter().filter(|link| link.carrier) {
                open_client(&mut clients, link, request.hostname.as_deref()).map_err(NetError::Kernel)?;
            }
            if clients.is_empty() {
                self.pause_for_carrier(request, &mut carrier)?;
                continue;
            }
            let now = Instant::now();
            let mut leases = clients.iter_mut().map(|(link, client)| (link, client.advance(now)));
            if let Some((link, lease)) = leases.find_map(|(link, lease)| Some((link.clone(), lease?))) {
                return self.apply_lease(request, link, lease);
            }
            let answer = answer.get_or_insert_with(|| self.wait(self.requests.timeouts.dhcp));
            if now >= answer.until {
                let devices = names(clients.iter().map(|(link, _)| link));
                return Err(NetError::NoLease { devices, waited: answer.elapsed() });
            }
            wait_for_any(&clients, answer.until);
        }
    }

    fn apply_lease(&mut self, request: &IpRequest, link: Link, lease: Lease) -> Result<Addressed, NetError> {
        let (address, prefix) = (IpAddr::V4(lease.address), lease.prefix);
        if let (Some(mtu), None) = (lease.mtu, request.mtu)
            && let Err(error) = self.journal.set_mtu(&link, mtu.into())
        {
            log::debug!("{}: the server's MTU of {mtu} bytes is not used: {}", link.name, chain(&error));
        }
        self.journal.add_address(Address {
            link: link.index,
            address,
            prefix,
            peer: None,
            standing: Standing::Usable,
        })?;
        let default = lease.routes.iter().find(|route| route.prefix == 0);
        let gateway = default.and_then(|route| route.gateway).map(IpAddr::V4);
        let route = |leased: &dhcp::Route| {
            let via = match leased.gateway.map(IpAddr::V4) {
                None => Via::Link,
                Some(gateway) if masked(gateway, prefix) == masked(address, prefix) => Via::Gateway(gateway),
                Some(gateway) => Via::OnLinkGateway(gateway),
            };
            let destination = IpAddr::V4(leased.destination);
            Route { link: link.index, destination, prefix: leased.prefix, via }
        };
        let routes = lease.routes.iter().map(route).collect();
        let nameservers = lease.nameservers.iter().map(|&address| IpAddr::V4(address).into()).collect();
        let link = ConfiguredLink { link, address, prefix, gateway, lease: Some(lease), nameservers };
        Ok(Addressed { link, routes })
    }

    /// Lets the kernel take address and route from an IPv6 router.
    fn wait_for_router(&mut self, request: &IpRequest) -> Result<Addressed, NetError> {
        let mut carrier = CarrierWait::new();
        let mut answer: Option<Wait> = None;
        let mut advertisements = Advertisements::open().map_err(NetError::Kernel)?;
        loop {
            let links: Vec<_> = self.raise(request)?.into_iter().filter(|link| link.carrier).collect();
            for link in &links {
                if let Some(mut link) = self.learned_from_router(link)? {
                    let Link { index, name, .. } = &link.link;
                    link.nameservers = advertisements.nameservers(*index, name).map_err(NetError::Kernel)?;
                    // The kernel has set the route itself.
                    return Ok(Addressed { link, routes: Vec::new() });
                }
            }
            if links.is_empty() && answer.is_none() {
                self.pause_for_carrier(request, &mut carrier)?;
                continue;
            }
            let answer = answer.get_or_insert_with(|| self.wait(self.requests.timeouts.router));
            if Instant::now() >= answer.until {
                return Err(NetError::NoRouter { devices: names(&links), waited: answer.elapsed() });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The link's global IPv6 address and default route, once it has both.
    fn learned_from_router(&mut self, link: &Link) -> Result<Option<ConfiguredLink>, NetError> {
        let addresses = self.journal.netlink.addresses().map_err(NetError::Kernel)?;
        let address = addresses.into_iter().find(|address| {
            let usable = address.standing == Standing::Usable && address.is_global();
            address.link == link.index && address.address.is_ipv6() && usable
        });
        let routes = self.journal.netlink.routes().map_err(NetError::Kernel)?;
        let gateway = routes.iter().find_map(|route| match route.via {
            Via::Gateway(gateway) | Via::OnLinkGateway(gateway) => {
                (route.link == link.index && route.prefix == 0 && gateway.is_ipv6()).then_some(gateway)
            }
            Via::Link => None,
        });
        let (Some(Address { address, prefix, .. }), Some(gateway)) = (address, gateway) else {
            return Ok(None);
        };
        Ok(Some(ConfiguredLink {
            link: link.clone(),
            address,
            prefix,
            gateway: Some(gateway),
            lease: None,
            nameservers: Vec::new(),
        }))
    }

    /// The candidates for a request, made ready and put up; the list is as
    /// it was before that.
    fn raise(&mut self, request: &IpRequest) -> Result<Vec<Link>, NetError> {
        let mut links = self.candidates(request)?;
        links.retain(|link| !self.broken.contains(&link.index));
        for link in &links {
            match self.make_ready(request, link) {
                Err(error) if request.device.is_none() => {
                    log::debug!("{} is not used: {}", link.name, chain(&error));
                    self.broken.push(link.index);
                }
                result => result?,
            }
        }
        Ok(links)
    }

    /// Sets what has to be set before a link goes up, and puts it up.
    fn make_ready(&mut self, request: &IpRequest, link: &Link) -> Result<(), NetError> {
        if let Some(mac) = request.mac {
            self.journal.set_mac(link, mac)?;
        }
        if let Some(mtu) = request.mtu {
            self.journal.set_mtu(link, mtu)?;
        }
        if request.method == Method::Auto6 {
            self.listen_to_routers(link)?;
        }
        self.journal.set_up(link)
    }

    /// Has the kernel take what routers say; it asks them when the link goes up.
    fn listen_to_routers(&mut self, link: &Link) -> Result<(), NetError> {
        for (setting, value) in [("disable_ipv6", "0"), ("accept_ra", "1"), ("autoconf", "1")] {
            let path = PathBuf::from("/proc/sys/net/ipv6/conf").join(&link.name).join(setting);
            self.journal.write_setting(link, path, value)?;
        }
        Ok(())
    }

    /// The device that a request names; else the one the boot loader used, or
    /// every Ethernet device that no request names and that carries no other.
    fn candidates(&mut self, request: &IpRequest) -> Result<Vec<Link>, NetError> {
        let taken = |link: &Link| {
            let named =
                self.requests.interfaces.iter().any(|other| other.device.as_ref() == Some(&link.name));
            named || link.master.is_some() || self.requests.is_part(&link.name)
        };
        let fits = |link: &Link| match (&request.device, &self.requests.boot_device) {
            (Some(device), _) => link.name == *device,
            (None, Some(BootDevice::Name(device))) => link.name == *device && !taken(link),
            (None, Some(BootDevice::Address(mac))) => link.mac == Some(*mac) && !taken(link),
            (None, None) => link.mac.is_some() && !link.loopback && !taken(link),
        };
        let links = self.journal.netlink.links().map_err(NetError::Kernel)?;
        Ok(links.into_iter().filter(fits).collect())
    }

    fn wait(&self, time: Duration) -> Wait {
        let since = Instant::now();
        Wait { since, until: self.limited(since, time) }
    }

    /// `time` after `since`, but not beyond the deadline.
    fn limited(&self, since: Instant, time: Duration) -> Instant {
        since.checked_add(time).map_or(self.deadline, |until| until.min(self.deadline))
    }

    /// Waits a little for carrier, or says after all that waiting what is missing.
    fn pause_for_carrier(&mut self, request: &IpRequest, wait: &mut CarrierWait) -> Result<(), NetError> {
        let links = self.candidates(request)?;
        let timeouts = self.requests.timeouts;
        let (since, limit) = match links.as_slice() {
            [] => (wait.since, timeouts.device),
            _ => (*wait.appeared.get_or_insert_with(Instant::now), timeouts.carrier),
        };
        if Instant::now() < self.limited(since, limit) {
            std::thread::sleep(LOOK);
            return Ok(());
        }
        if !links.is_empty() {
            return Err(NetError::NoCarrier { devices: names(&links), waited: since.elapsed() });
        }
        let wanted = match (&request.device, &self.requests.boot_device) {
            (Some(device), _) | (None, Some(BootDevice::Name(device))) => device.clone(),
            (None, Some(BootDevice::Address(mac))) => format!("with address {mac}"),
            (None, None) => "of type Ethernet".into(),
        };
        Err(NetError::NoDevice { wanted })
    }
}

impl Wait {
    fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl CarrierWait {
    fn new() -> Self {
        Self { since: Instant::now(), appeared: None }
    }
}

/// Adds a client for a link that has none yet.
fn open_client(clients: &mut Vec<(Link, Client)>, link: Link, hostname: Option<&str>) -> Result<(), Error> {
    if let Some(mac) = link.mac
        && clients.iter().all(|(other, _)| other.index != link.index)
    {
        let client = Client::open(&link.name, mac.0, hostname)?;
        clients.push((link, client));
    }
    Ok(())
}

/// Sleeps until a datagram comes, a client has something to send, or it is
/// time to look at the links again.
fn wait_for_any(clients: &[(Link, Client)], until: Instant) {
    let now = Instant::now();
    let due = clients.iter().map(|(_, client)| client.due()).fold(until.min(now + LOOK), Instant::min);
    // Less than a second, as LOOK is.
    let timeout = due.saturating_duration_since(now).subsec_nanos();
    let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.into() };
    let mut descriptors: Vec<_> = clients.iter().map(|(_, c)| PollFd::new(c, PollFlags::IN)).collect();
    if let Err(error) = poll(&mut descriptors, Some(&timeout)) {
        // A signal, at most: the caller looks at everything again.
        log::debug!("poll: {error}");
    }
}

fn default_route(link: u32, via: Via) -> Route {
    let destination = match via {
        Via::Gateway(IpAddr::V6(_)) | Via::OnLinkGateway(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    Route { link, destination, prefix: 0, via }
}
