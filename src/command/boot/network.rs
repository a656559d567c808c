//! The network of early boot, brought up only when something has to be
//! fetched.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Boot;
use crate::error::Error;
use crate::sys::kmsg;
use crate::sys::net::{self, Requests};

/// How long all of it may take, unless `rd.net.timeout.*` gives less.
const LIMIT: Duration = Duration::from_secs(120);

impl Boot {
    /// Does what `ip=` and its companions ask for; DHCP where they are silent.
    /// What was set stays for the next init.
    pub(super) fn bring_up_network(&mut self) -> Result<(), Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Boot {
            what: "bring up the network".into(),
            source,
        };
        let (requests, ignored) = Requests::parse(&super::pairs(&self.line));
        for error in ignored {
            log::warn!("{error}, ignored");
        }
        for (module, parameters) in requests.modules() {
            if let Err(error) = self.modules.load(module, parameters) {
                log::warn!("network: {}", kmsg::chain(&error));
            }
        }
        let state = net::configure(&requests, Path::new("/etc/resolv.conf"), Instant::now() + LIMIT)
            .map_err(|error| failed(error.into()))?;
        for link in state.links() {
            log::info!("network: {link}");
        }
        for failure in state.failures() {
            log::warn!("network: {failure}");
        }
        self.timeline.done("network");
        Ok(())
    }
}
