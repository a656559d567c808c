//! Requests made true: devices made, links up, addresses and routes set,
//! `resolv.conf` written.
//!
//! In: [`Requests`] and a deadline. Out: [`NetworkState`]. All requests are
//! worked on at once; of several devices that may serve one of them, all are
//! tried and the first that gets an address has won. Invariant: the other
//! devices, and requests that fail, are as they were before.

mod address;
mod device;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use self::address::Attempt;
use super::journal::Journal;
use super::request::{IpRequest, PeerNameservers, Requests, RouteRequest, masked};
use super::{ConfiguredLink, Link, NameServer, NetError, NetworkState, Route, Via};
use crate::sys::kmsg::chain;
use crate::sys::threads;

/// Time between two looks at the links: the kernel would tell of each change,
/// but looking is simpler and nothing here waits for long.
const LOOK: Duration = Duration::from_millis(50);

/// Resolvers read no more name servers than this (resolv.conf(5), MAXNS).
const MAX_NAMESERVERS: usize = 3;

/// With the resolver's own five seconds, two dead servers would use up the
/// time that a connection may take before the third is asked.
const RESOLVER_OPTIONS: &str = "options timeout:2 attempts:2\n";

/// Sets up the network as `requests` ask, before `deadline`, and writes what
/// is known of name servers to `resolv_conf` (`/etc/resolv.conf`). It is
/// enough if one request is fulfilled; see [`NetworkState::failures`] for
/// the others.
pub fn configure(
    requests: &Requests,
    resolv_conf: &Path,
    deadline: Instant,
) -> Result<NetworkState, NetError> {
    let mut setup = Setup { requests, deadline, journal: Journal::open()? };
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
type Outcome = (Vec<ConfiguredLink>, Vec<NameServer>, Vec<NetError>);

struct Setup<'a> {
    requests: &'a Requests,
    deadline: Instant,
    journal: Journal,
}

/// A link with an address, and the routes that come with it.
struct Addressed {
    link: ConfiguredLink,
    routes: Vec<Route>,
}

impl Setup<'_> {
    fn run(&mut self, resolv_conf: &Path) -> Result<Outcome, NetError> {
        if let Some(loopback) = self.links()?.iter().find(|link| link.loopback) {
            self.journal.set_up(loopback)?;
        }
        let mut failures = self.make_devices();
        let default = [IpRequest::dhcp()];
        let interfaces = match self.requests.interfaces.as_slice() {
            [] => &default,
            interfaces => interfaces,
        };
        let mut links = Vec::new();
        for result in self.attempt_all(interfaces) {
            match result.and_then(|addressed| addressed.map(|one| self.add_routes(one)).transpose()) {
                Ok(link) => links.extend(link),
                Err(failure) => failures.push(failure),
            }
        }
        if links.is_empty() && !failures.is_empty() {
            let first = failures.remove(0);
            failures.iter().for_each(|failure| log::warn!("network: {}", chain(failure)));
            return Err(first);
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

    /// Works on all requests at once, so that one whose device is dead costs
    /// the others no time. The results are in the order of the requests.
    fn attempt_all(&mut self, interfaces: &[IpRequest]) -> Vec<Result<Option<Addressed>, NetError>> {
        let (requests, deadline) = (self.requests, self.deadline);
        let attempt = |request: &IpRequest| {
            let mut attempt = Attempt::new(requests, deadline)?;
            let result = attempt.fulfil(request);
            Ok((result, attempt.into_journal()))
        };
        let finished = threads::for_all(interfaces.iter().collect(), interfaces.len(), attempt);
        let results = finished.into_iter().map(|end: Result<_, NetError>| {
            let (result, journal) = end?;
            self.journal.append(journal);
            result
        });
        results.collect()
    }

    /// Adds the routes of one link. Those of the requests before it are there
    /// already, and of two default routes the first serves.
    fn add_routes(&mut self, addressed: Addressed) -> Result<ConfiguredLink, NetError> {
        let Addressed { link, routes } = addressed;
        for route in routes {
            match self.journal.add_route(route) {
                // One odd route of many does not make the address useless.
                Err(error) if route.prefix > 0 => log::debug!("{}: {}", link.link.name, chain(&error)),
                Err(error) => {
                    self.journal.release(link.link.index)?;
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        Ok(link)
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

    fn links(&mut self) -> Result<Vec<Link>, NetError> {
        self.journal.netlink.links().map_err(NetError::Kernel)
    }

    /// Name servers of the command line first, then those that others name.
    fn nameservers(&self, interfaces: &[IpRequest], links: &[ConfiguredLink]) -> Vec<NameServer> {
        let requested = interfaces.iter().flat_map(|request| &request.nameservers);
        let requested = self.requests.nameservers.iter().chain(requested).copied().map(NameServer::from);
        let learned = links.iter().flat_map(|link| link.nameservers.iter().cloned());
        let learned = learned.filter(|_| self.requests.peer_nameservers == PeerNameservers::Use);
        let mut all = Vec::new();
        for server in requested.chain(learned) {
            if !all.contains(&server) {
                all.push(server);
            }
        }
        all.truncate(MAX_NAMESERVERS);
        all
    }
}

/// The text of resolv.conf(5).
fn resolver_text(nameservers: &[NameServer], links: &[ConfiguredLink]) -> String {
    let leases = links.iter().filter_map(|link| link.lease.as_ref());
    let domains: Vec<_> = leases.filter_map(|lease| lease.domain.as_deref()).collect();
    let mut text = String::new();
    if !domains.is_empty() {
        text += &format!("search {}\n", domains.join(" "));
    }
    for server in nameservers {
        text += &format!("nameserver {server}\n");
    }
    text + RESOLVER_OPTIONS
}

fn names<'a>(links: impl IntoIterator<Item = &'a Link>) -> String {
    links.into_iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
}
