//! Requests made true: links up, addresses and routes set, `resolv.conf`
//! written.
//!
//! In: [`Requests`] and a deadline. Out: [`NetworkState`]. Of several devices
//! that may serve one request, all are tried at once and the first that gets
//! an address has won. Invariant: the other devices, and requests that fail,
//! are as they were before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::journal::Journal;
use super::request::{IpRequest, Method, Requests, RouteRequest, StaticAddress, masked};
use super::{Address, ConfiguredLink, Link, NetError, NetworkState, Route, Standing, Via};
use crate::sys::Error;
use crate::sys::dhcp::{Client, Lease};
use crate::sys::kmsg::chain;

/// Time between two looks at the links: the kernel would tell of each change,
/// but looking is simpler and nothing here waits for long.
const LOOK: Duration = Duration::from_millis(50);

/// Duplicate detection takes a second or two (RFC 4862, section 5.4).
const DUPLICATE_DETECTION: Duration = Duration::from_secs(10);

/// Resolvers read no more name servers than this (resolv.conf(5), MAXNS).
const MAX_NAMESERVERS: usize = 3;

/// Sets up the network as `requests` ask, before `deadline`, and writes what
/// is known of name servers to `resolv_conf` (`/etc/resolv.conf`). It is
/// enough if one request is fulfilled; see [`NetworkState::failures`] for
/// the others.
pub fn configure(
    requests: &Requests,
    resolv_conf: &Path,
    deadline: Instant,
) -> Result<NetworkState, NetError> {
    let mut setup = Setup { requests, deadline, journal: Journal::open()?, broken: Vec::new() };
    match setup.run(resolv_conf) {
        Ok((links, nameservers, failures)) => {
            Ok(NetworkState { links, nameservers, failures, journal: setup.journal })
        }
        Err(error) => {
            if let Err(second) = setup.journal.release_all() {
                log::debug!("the network is not quite as it was: {}", chain(&second));
            }
            Err(error)
        }
    }
}

/// What a whole run has brought.
type Outcome = (Vec<ConfiguredLink>, Vec<IpAddr>, Vec<NetError>);

struct Setup<'a> {
    requests: &'a Requests,
    deadline: Instant,
    journal: Journal,
    /// Indices of links that could not be made ready for a request that does
    /// not name them. One bad device must not stop the others.
    broken: Vec<u32>,
}

/// A wait for devices: until when, and what to say then.
struct Wait {
    since: Instant,
    until: Instant,
}

impl Setup<'_> {
    fn run(&mut self, resolv_conf: &Path) -> Result<Outcome, NetError> {
        if let Some(loopback) = self.links()?.iter().find(|link| link.loopback) {
            self.journal.set_up(loopback)?;
        }
        let default = [IpRequest::dhcp()];
        let interfaces = match self.requests.interfaces.as_slice() {
            [] => &default,
            interfaces => interfaces,
        };
        let (mut links, mut failures) = (Vec::new(), Vec::new());
        for request in interfaces {
            match self.configure_one(request) {
                Ok(link) => links.extend(link),
                Err(failure) => failures.push(failure),
            }
        }
        if links.is_empty() && !failures.is_empty() {
            return Err(failures.swap_remove(0));
        }
        for route in &self.requests.routes {
            self.add_requested_route(route, &links)?;
        }
        let nameservers = self.nameservers(interfaces, &links);
        if !nameservers.is_empty() {
            self.journal.replace_file(resolv_conf, &resolver_text(&nameservers, &links))?;
        }
        Ok((links, nameservers, failures))
    }

    /// Fulfils one request and releases every other device tried for it.
    fn configure_one(&mut self, request: &IpRequest) -> Result<Option<ConfiguredLink>, NetError> {
        let result = match &request.method {
            Method::Off => return Ok(None),
            Method::Static(address) => self.set_static(request, address),
            Method::Auto6 => self.wait_for_router(request),
            Method::Dhcp => self.ask_dhcp(request),
        };
        let winner = result.as_ref().ok().map(|configured| configured.link.index);
        for link in self.candidates(request)?.iter().filter(|link| Some(link.index) != winner) {
            self.journal.release(link.index)?;
        }
        result.map(Some)
    }

    fn set_static(
        &mut self,
        request: &IpRequest,
        wanted: &StaticAddress,
    ) -> Result<ConfiguredLink, NetError> {
        let wait = self.wait(self.requests.timeouts.carrier);
        let link = loop {
            if let Some(link) = self.raise(request)?.into_iter().find(|link| link.carrier) {
                break link;
            }
            self.pause_for_carrier(request, &wait)?;
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
        if let Some(gateway) = gateway {
            let on_link = masked(gateway, prefix) == masked(address, prefix) || peer == Some(gateway);
            let via = if on_link { Via::Gateway(gateway) } else { Via::OnLinkGateway(gateway) };
            self.journal.add_route(default_route(link.index, via))?;
        }
        Ok(ConfiguredLink { link, address, prefix, gateway, lease: None })
    }

    /// Waits until duplicate detection has passed an IPv6 address; before
    /// that nothing can be sent from it.
    fn wait_until_usable(&mut self, link: &Link, address: IpAddr) -> Result<(), NetError> {
        let wait = self.wait(DUPLICATE_DETECTION);
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
    fn ask_dhcp(&mut self, request: &IpRequest) -> Result<ConfiguredLink, NetError> {
        let carrier = self.wait(self.requests.timeouts.carrier);
        let mut answer: Option<Wait> = None;
        let mut clients: Vec<(Link, Client)> = Vec::new();
        loop {
            for link in self.raise(request)?.into_iter().filter(|link| link.carrier) {
                open_client(&mut clients, link, request.hostname.as_deref()).map_err(NetError::Kernel)?;
            }
            if clients.is_empty() {
                self.pause_for_carrier(request, &carrier)?;
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

    fn apply_lease(
        &mut self,
        request: &IpRequest,
        link: Link,
        lease: Lease,
    ) -> Result<ConfiguredLink, NetError> {
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
        for leased in &lease.routes {
            let via = match leased.gateway.map(IpAddr::V4) {
                None => Via::Link,
                Some(gateway) if masked(gateway, prefix) == masked(address, prefix) => Via::Gateway(gateway),
                Some(gateway) => Via::OnLinkGateway(gateway),
            };
            let destination = IpAddr::V4(leased.destination);
            let route = Route { link: link.index, destination, prefix: leased.prefix, via };
            match self.journal.add_route(route) {
                // One odd route of many does not make the address useless.
                Err(error) if leased.prefix > 0 => log::debug!("{}: {}", link.name, chain(&error)),
                result => result?,
            }
        }
        Ok(ConfiguredLink { link, address, prefix, gateway, lease: Some(lease) })
    }

    /// Lets the kernel take address and route from an IPv6 router.
    fn wait_for_router(&mut self, request: &IpRequest) -> Result<ConfiguredLink, NetError> {
        let carrier = self.wait(self.requests.timeouts.carrier);
        let mut answer: Option<Wait> = None;
        loop {
            let links: Vec<_> = self.raise(request)?.into_iter().filter(|link| link.carrier).collect();
            for link in &links {
                if let Some(configured) = self.learned_from_router(link)? {
                    return Ok(configured);
                }
            }
            if links.is_empty() && answer.is_none() {
                self.pause_for_carrier(request, &carrier)?;
                continue;
            }
            let answer = answer.get_or_insert_with(|| self.wait(self.requests.timeouts.dhcp));
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
        Ok(Some(ConfiguredLink { link: link.clone(), address, prefix, gateway: Some(gateway), lease: None }))
    }

    fn add_requested_route(
        &mut self,
        route: &RouteRequest,
        links: &[ConfiguredLink],
    ) -> Result<(), NetError> {
        let covers = |link: &&ConfiguredLink, gateway: IpAddr| {
            link.address.is_ipv4() == gateway.is_ipv4()
                && masked(link.address, link.prefix) == masked(gateway, link.prefix)
        };
        let all = self.links()?;
        let link = match (&route.device, route.gateway) {
            (Some(device), _) => all.iter().find(|link| link.name == *device),
            (None, Some(gateway)) => links.iter().find(|link| covers(link, gateway)).map(|found| &found.link),
            (None, None) => None,
        };
        let Some(link) = link else {
            let destination = format!("{}/{}", route.destination, route.prefix);
            return Err(NetError::RouteWithoutDevice { destination });
        };
        let via = match route.gateway {
            None => Via::Link,
            Some(gateway) if links.iter().any(|l| l.link.index == link.index && covers(&l, gateway)) => {
                Via::Gateway(gateway)
            }
            Some(gateway) => Via::OnLinkGateway(gateway),
        };
        let RouteRequest { destination, prefix, .. } = *route;
        self.journal.add_route(Route { link: link.index, destination, prefix, via })
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
    /// every Ethernet device that no request names.
    fn candidates(&mut self, request: &IpRequest) -> Result<Vec<Link>, NetError> {
        let named = |link: &Link| {
            self.requests.interfaces.iter().any(|other| other.device.as_ref() == Some(&link.name))
        };
        let fits = |link: &Link| match (&request.device, self.requests.boot_device) {
            (Some(device), _) => link.name == *device,
            (None, Some(mac)) => link.mac == Some(mac) && !named(link),
            (None, None) => link.mac.is_some() && !link.loopback && !named(link),
        };
        let links = self.journal.netlink.links().map_err(NetError::Kernel)?;
        Ok(links.into_iter().filter(fits).collect())
    }

    fn links(&mut self) -> Result<Vec<Link>, NetError> {
        self.journal.netlink.links().map_err(NetError::Kernel)
    }

    fn wait(&self, time: Duration) -> Wait {
        let since = Instant::now();
        let until = since.checked_add(time).map_or(self.deadline, |until| until.min(self.deadline));
        Wait { since, until }
    }

    /// Waits a little for carrier, or says after all that waiting what is missing.
    fn pause_for_carrier(&mut self, request: &IpRequest, wait: &Wait) -> Result<(), NetError> {
        if Instant::now() < wait.until {
            std::thread::sleep(LOOK);
            return Ok(());
        }
        match (self.candidates(request)?.as_slice(), &request.device, self.requests.boot_device) {
            ([], Some(device), _) => Err(NetError::NoDevice { wanted: device.clone() }),
            ([], None, Some(mac)) => Err(NetError::NoDevice { wanted: format!("with address {mac}") }),
            ([], None, None) => Err(NetError::NoDevice { wanted: "of type Ethernet".into() }),
            (links, ..) => Err(NetError::NoCarrier { devices: names(links), waited: wait.elapsed() }),
        }
    }

    /// Name servers of the command line first, then those of the leases.
    fn nameservers(&self, interfaces: &[IpRequest], links: &[ConfiguredLink]) -> Vec<IpAddr> {
        let requested = interfaces.iter().flat_map(|request| &request.nameservers).copied();
        let leases = links.iter().filter_map(|link| link.lease.as_ref());
        let leased = leases.flat_map(|lease| &lease.nameservers).map(|&address| IpAddr::V4(address));
        let mut all = Vec::new();
        for address in self.requests.nameservers.iter().copied().chain(requested).chain(leased) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all.truncate(MAX_NAMESERVERS);
        all
    }
}

impl Wait {
    fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

/// The text of resolv.conf(5).
fn resolver_text(nameservers: &[IpAddr], links: &[ConfiguredLink]) -> String {
    let leases = links.iter().filter_map(|link| link.lease.as_ref());
    let domains: Vec<_> = leases.filter_map(|lease| lease.domain.as_deref()).collect();
    let mut text = String::new();
    if !domains.is_empty() {
        text += &format!("search {}\n", domains.join(" "));
    }
    for address in nameservers {
        text += &format!("nameserver {address}\n");
    }
    text
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

fn names<'a>(links: impl IntoIterator<Item = &'a Link>) -> String {
    links.into_iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
}
