//! `plywood boot --root DIR`: the boot as a step of an initramfs that mounts
//! the root and hands off to init by itself.
//!
//! In: the root mounted at DIR, and what that initramfs has done so far. Out:
//! the merged root at DIR, or an error for the initramfs to act on. Invariant:
//! the caller's devices, mounts and network stay as they are.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::network::Connection;
use super::{
    BASE, Boot, Mounted, NEEDED_MODULES, STATE, clock, emergency, kernel_release, pairs, read_command_line,
};
use crate::command::list::REPORT;
use crate::command::shutdown;
use crate::config::cmdline::BootParameters;
use crate::error::Error;
use crate::sys::kmsg;
use crate::sys::module::Modules;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The same boot over a root that the calling initramfs has mounted and hands
/// off to itself. If the command line says how the machine is to end after a
/// failure, it ends here; the rest of the policy is the initramfs' own.
pub fn hook(root: &Path) -> Result<(), Error> {
    if Path::new(REPORT).exists() {
        // An initramfs may have two hooks, its own and an appended one.
        log::info!("this boot has assembled the root already");
        return Ok(());
    }
    let line = read_command_line();
    let parameters = BootParameters::new(&line);
    let on_failure = parameters.on_failure;
    let assembled = Boot::new((line, parameters)).and_then(|boot| boot.assemble_at(root));
    if let (Err(error), Some(action)) = (&assembled, on_failure) {
        emergency::end_if_asked(&error.chain(), action);
    }
    assembled
}

impl Boot {
    fn assemble_at(mut self, root: &Path) -> Result<(), Error> {
        self.root = root.into();
        self.load_modules_of_either();
        clock::settle();
        self.adopt_network();
        let Mounted { report, overlays, .. } = self.mount_first_that_works()?;
        self.load_configured_modules();
        self.leave_network();
        shutdown::prepare(&self.root, &overlays, &[STATE, BASE]);
        self.keep_report(&report);
        Ok(())
    }

    /// Loads what an overlay of layers needs: from the initramfs, or else from
    /// the root, since not every initramfs was made with plywood in mind.
    fn load_modules_of_either(&mut self) {
        let mut of_root = Modules::open(&self.root, &kernel_release(), &pairs(&self.line));
        for name in NEEDED_MODULES {
            if self.modules.directory().is_some() && self.modules.load(name, "").is_ok() {
                continue;
            }
            let loaded = match &mut of_root {
                Ok(modules) => modules.load(name, "").map(drop),
                Err(error) => return log::debug!("the root's modules: {}", kmsg::chain(error)),
            };
            // If it is really missing, mounting fails with its own reason.
            if let Err(error) = loaded {
                log::debug!("{}", kmsg::chain(&error));
            }
        }
    }

    /// Takes the network that the initramfs has brought up, if it has.
    fn adopt_network(&mut self) {
        let tables = [("/proc/net/route", Family::V4), ("/proc/net/ipv6_route", Family::V6)];
        let is_up = tables.into_iter().any(|(table, family)| {
            fs::read_to_string(table).is_ok_and(|text| has_default_route(&text, family))
        });
        if !is_up {
            return;
        }
        log::info!("network: the initramfs has brought it up");
        self.connection = Connection::Adopted;
        if let Err(error) = adopt_name_servers() {
            log::warn!("network: cannot write {RESOLV_CONF}, ignored: {error}");
        }
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// Whether a routing table of the kernel, as it prints it, has a default route
/// by a device other than the loopback.
fn has_default_route(table: &str, family: Family) -> bool {
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        match (family, fields.as_slice()) {
            // device, destination, gateway, flags, …, the eighth is the mask
            (Family::V4, [device, destination, _, _, _, _, _, mask, ..]) => {
                *device != "lo" && *destination == "00000000" && *mask == "00000000"
            }
            // destination, its length, …; the last is the device
            (Family::V6, [destination, "00", .., device]) => {
                *device != "lo" && destination.bytes().all(|digit| digit == b'0')
            }
            _ => false,
        }
    })
}

/// The name servers that ipconfig of klibc, which initramfs-tools uses, has
/// left in `/run/net-*.conf`; unless there is a resolv.conf(5) already.
fn adopt_name_servers() -> std::io::Result<()> {
    if Path::new(RESOLV_CONF).exists() {
        return Ok(());
    }
    let mut text = String::new();
    for entry in fs::read_dir("/run")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("net-") && name.ends_with(".conf") {
            text += &resolver_text(&fs::read_to_string(&path)?);
        }
    }
    if text.is_empty() { Ok(()) } else { fs::write(RESOLV_CONF, text) }
}

/// `IPV4DNS0='10.0.2.3'` → `nameserver 10.0.2.3`; an unset one is 0.0.0.0.
fn resolver_text(ipconfig: &str) -> String {
    let assignments = ipconfig.lines().filter_map(|line| line.split_once('='));
    assignments
        .filter(|(key, _)| key.starts_with("IPV4DNS") || key.starts_with("IPV6DNS"))
        .filter_map(|(_, value)| value.trim_matches(['\'', '"']).parse::<IpAddr>().ok())
        .filter(|address| !address.is_unspecified())
        .map(|address| format!("nameserver {address}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_one_that_leads_out() {
        const HEAD: &str =
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        const ZERO: &str = "00000000000000000000000000000000";
        for (table, family, expected) in [
            (format!("{HEAD}eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"), Family::V4, true),
            (
                format!("{HEAD}eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"),
                Family::V4,
                false,
            ),
            (
                format!("{HEAD}eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n"),
                Family::V4,
                false,
            ),
            (HEAD.into(), Family::V4, false),
            (
                format!("{ZERO} 00 {ZERO} 00 fe800000000000000000000000000002 00000400 1 0 00000003 eth0\n"),
                Family::V6,
                true,
            ),
            // The kernel's own entry that refuses everything.
            (
                format!("{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"),
                Family::V6,
                false,
            ),
            (
                format!("fec00000000000000000000000000000 40 {ZERO} 00 {ZERO} 0100 1 0 1 eth0\n"),
                Family::V6,
                false,
            ),
            ("nonsense\n".into(), Family::V4, false),
        ] {
            assert_eq!(has_default_route(&table, family), expected, "{table}");
        }
    }

    #[test]
    fn name_servers_are_taken_from_ipconfig() {
        for (text, expected) in [
            ("DEVICE='eth0'\nIPV4DNS0='10.0.2.3'\nIPV4DNS1='0.0.0.0'\n", "nameserver 10.0.2.3\n"),
            ("IPV6DNS0=fec0::3\n", "nameserver fec0::3\n"),
            ("IPV4DNS0='10.0.2.3\noptions x'\n", "nameserver 10.0.2.3\n"),
            ("IPV4DNS0='$(reboot)'\nROOTSERVER='10.0.2.2'\n", ""),
        ] {
            assert_eq!(resolver_text(text), expected, "{text}");
        }
    }
}
