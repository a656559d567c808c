//! The configuration by network: `plywood.config=http(s)://…`.
//!
//! In: a URL with variables, and what pins its content. Out: the text.
//! Invariants: what nobody vouches for is refused, be it by encryption, by a
//! digest or by a signature; secrets do not travel in the clear.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Boot;
use super::network::Connection;
use crate::command::machine;
use crate::command::progress::Console;
use crate::config::cmdline::{ConfigRequest, PublicKey, UrlTemplate, Variable};
use crate::config::{Config, Network, Source};
use crate::error::Error;
use crate::fetch;
use crate::limits::Bound;
use crate::sys::net::Rtnetlink;

/// How long all tries to get one file may take.
const TOTAL: Duration = Duration::from_secs(120);

const UNPINNED: &str = "plywood.config= names an http:// URL, so anybody on the way could answer in its place; \
     use https://, or pin the content with plywood.config.digest= or plywood.config.key=";
const IN_THE_CLEAR: &str = "the configuration holds credentials, which everybody on the way could read: \
     it came over http://, use https://";

impl Boot {
    /// Fetches the text that `template` leads to.
    pub(super) fn config_by_network(
        &mut self,
        template: &UrlTemplate,
        request: &ConfigRequest,
    ) -> Result<Source, Error> {
        if !template.is_encrypted() && request.digest.is_none() && request.key.is_none() {
            return Err(Error::NotBootable(UNPINNED.into()));
        }
        if let Err(error) = self.bring_up_network(&Network::default()) {
            log::warn!("no network: {}", error.chain());
        }
        let url = template
            .fill(|variable| self.value(variable))
            .map_err(|error| Error::Boot { what: "fetch the configuration".into(), source: error.into() })?;
        let (name, _) = url.split_once('?').unwrap_or((&url, ""));
        log::info!("fetching the configuration from {name}");
        let text = get(&url)?;
        if let Some(key) = &request.key {
            check_signature(key, &url, &text)?;
        }
        let source = Source { name: name.into(), text };
        // What is wrong with it is reported by whoever uses it.
        let config = Config::parse(std::slice::from_ref(&source));
        if !template.is_encrypted() && config.is_ok_and(|config| config.has_secrets()) {
            return Err(Error::NotBootable(IN_THE_CLEAR.into()));
        }
        Ok(source)
    }

    fn value(&self, variable: Variable) -> Option<String> {
        match variable {
            Variable::Uuid => smbios("product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
            Variable::Serial => smbios("product_serial"),
            Variable::Mac => self.mac(),
            Variable::Hostname => self.hostname(),
        }
    }

    /// That of the device in use; where another network set it up, of the
    /// first that is up.
    fn mac(&self) -> Option<String> {
        let used = match &self.connection {
            Connection::Up(state) => state.links().iter().find_map(|link| link.link.mac),
            _ => None,
        };
        let first = || {
            let links = Rtnetlink::open().and_then(|mut kernel| kernel.links()).ok()?;
            links.iter().filter(|link| link.up && !link.loopback).find_map(|link| link.mac)
        };
        used.or_else(first).map(|mac| mac.to_string())
    }

    /// What the command line says, `ip=` or the kernel's `hostname=`; else
    /// what DHCP says.
    fn hostname(&self) -> Option<String> {
        let (requests, _) = crate::sys::net::Requests::parse(&super::pairs(&self.line));
        let requested = requests.interfaces.into_iter().find_map(|request| request.hostname);
        let kernels = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let kernels = Some(kernels).filter(|name| !matches!(name.as_str(), "" | "(none)" | "localhost"));
        let leased = || match &self.connection {
            Connection::Up(state) => {
                state.links().iter().find_map(|link| link.lease.as_ref()?.hostname.clone())
            }
            _ => None,
        };
        requested.or(kernels).or_else(leased)
    }
}

fn get(url: &str) -> Result<Vec<u8>, Error> {
    let mut network = machine::network_before_config();
    network.timeouts.total = TOTAL;
    Ok(fetch::file(url, Bound::Config, network, &Console::default())?)
}

/// The signature lies beside the text: the same path with `.sig`.
fn check_signature(key: &PublicKey, url: &str, text: &[u8]) -> Result<(), Error> {
    let signature = match url.split_once('?') {
        Some((path, query)) => get(&format!("{path}.sig?{query}"))?,
        None => get(&format!("{url}.sig"))?,
    };
    match key.has_signed(text, &signature) {
        true => Ok(()),
        false => Err(Error::NotBootable(
            "the configuration's signature is not one by the key of plywood.config.key=".into(),
        )),
    }
}

/// What the firmware says of the system (DMTF DSP0134, type 1).
fn smbios(file: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/sys/class/dmi/id").join(file)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
