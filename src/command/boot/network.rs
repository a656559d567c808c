//! The network of early boot, brought up only when something has to be
//! fetched or the command line insists.
//!
//! In: `ip=` and its companions, and what the configuration says. Out: a
//! network, which stays for init unless the configuration wants it taken down.
//! Invariant: it is brought up once; a second try would be a second wait.

use std::path::Path;
use std::time::Instant;

use super::Boot;
use crate::config::{AfterBoot, Network};
use crate::error::Error;
use crate::sys::kmsg;
use crate::sys::net::{self, NetworkState, Requests};

/// How far the network has come.
pub enum Connection {
    Untried,
    Up(NetworkState),
    /// Up, and not by us: it is the initramfs' to take down.
    Adopted,
    Failed,
}

impl Boot {
    /// Connects the machine, and then asks the time servers of the
    /// configuration: certificates cannot be judged without a clock.
    pub(super) fn connect(&mut self, wanted: &Network) -> Result<(), Error> {
        self.bring_up_network(wanted)?;
        if !std::mem::replace(&mut self.has_asked_time, !wanted.time_servers.is_empty()) {
            self.ask_time_servers(&wanted.time_servers);
        }
        Ok(())
    }

    /// Does what `ip=` and its companions ask for; DHCP where they are silent.
    pub(super) fn bring_up_network(&mut self, wanted: &Network) -> Result<(), Error> {
        match self.connection {
            Connection::Untried => {}
            Connection::Up(_) | Connection::Adopted => return Ok(()),
            Connection::Failed => return Err(Error::NotBootable("it did not come up before".into())),
        }
        let requests = self.network_requests();
        for (module, parameters) in requests.modules() {
            if let Err(error) = self.modules.load(module, parameters) {
                log::warn!("network: {}", kmsg::chain(&error));
            }
        }
        self.connection = Connection::Failed;
        let deadline = Instant::now() + wanted.timeout;
        let state = net::configure(&requests, Path::new("/etc/resolv.conf"), deadline);
        self.timeline.done("network");
        let state = state
            .map_err(|error| Error::Boot { what: "bring up the network".into(), source: error.into() })?;
        for link in state.links() {
            log::info!("network: {link}");
        }
        if !state.nameservers().is_empty() {
            let servers: Vec<_> = state.nameservers().iter().map(ToString::to_string).collect();
            log::info!("network: name servers: {}", servers.join(", "));
        }
        for failure in state.failures() {
            log::warn!("network: {}", kmsg::chain(failure));
        }
        self.connection = Connection::Up(state);
        Ok(())
    }

    fn network_requests(&self) -> Requests {
        let (requests, ignored) = Requests::parse(&super::pairs(&self.line));
        for error in ignored {
            log::warn!("{error}, ignored");
        }
        requests
    }

    /// `rd.neednet=1`: the network is wanted, whatever is fetched.
    pub(super) fn bring_up_needed_network(&mut self) {
        if self.line.flag("rd.neednet") == Some(true)
            && let Err(error) = self.bring_up_network(&Network::default())
        {
            log::warn!("rd.neednet: {}", error.chain());
        }
    }

    /// Hands the network over to init, or takes it down where the
    /// configuration says so.
    pub(super) fn leave_network(&mut self) {
        let connection = std::mem::replace(&mut self.connection, Connection::Untried);
        let (Connection::Up(state), AfterBoot::TakeDown) = (connection, self.after_boot) else { return };
        log::info!("network: taking it down");
        if let Err(error) = state.take_down() {
            log::warn!("network: it is not quite as it was before: {}", kmsg::chain(&error));
        }
    }
}
