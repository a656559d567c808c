//! `plywood.network` and `machine.time`: the network and the clock of early
//! boot, as far as a configuration says something about them.
//!
//! In: their fields. Out: [`Network`]. Invariant: a time server is a host name
//! or an address.

use std::net::IpAddr;
use std::time::Duration;

use super::draft::{Draft, once};
use super::plywood::read_timeout;
use super::registries::is_host_name;
use crate::text::Escaped;
use crate::yaml::Fields;

/// The network of early boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// For all of it to be up.
    pub timeout: Duration,
    pub after_boot: AfterBoot,
    /// Asked in this order, before anything is fetched.
    pub time_servers: Vec<String>,
}

/// What becomes of the network when init takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterBoot {
    #[default]
    Keep,
    /// Links, addresses and routes are as they were before.
    TakeDown,
}

impl Default for Network {
    fn default() -> Self {
        let timeout = Duration::from_secs(120);
        Self { timeout, after_boot: AfterBoot::default(), time_servers: Vec::new() }
    }
}

const AFTER_BOOT: &[(&str, AfterBoot)] = &[("keep", AfterBoot::Keep), ("takeDown", AfterBoot::TakeDown)];

/// Reads `plywood.network`.
pub(super) fn read(mut fields: Fields<'_>, draft: &mut Draft) {
    once(&mut draft.network_timeout, fields.optional("timeout"), read_timeout);
    once(&mut draft.after_boot, fields.optional("afterBoot"), |at| at.one_of(AFTER_BOOT));
    fields.finish();
}

/// Reads `machine.time`. A machine that keeps its own time is not told it.
pub(super) fn read_time(mut fields: Fields<'_>, draft: &mut Draft) {
    let disabled = fields.optional("disabled").and_then(|at| at.boolean());
    let servers = fields.optional("servers").and_then(|at| at.list(|item| item.parse_with(parse_server)));
    if disabled != Some(true) {
        draft.time_servers.extend(servers.into_iter().flatten().flatten());
    }
    draft.passed_over.extend(fields.pass_over());
}

/// None for a clock of this machine, which Talos takes here too.
fn parse_server(text: &str) -> Result<Option<String>, String> {
    if text.starts_with("/dev/") {
        return Ok(None);
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if is_host_name(name) || text.parse::<IpAddr>().is_ok() {
        return Ok(Some(text.into()));
    }
    Err(format!("`{}` is not the name or the address of a time server", Escaped::new(text)))
}

#[cfg(test)]
mod tests {
    use crate::config::{AfterBoot, Config, Network, Source};

    fn read(text: &str) -> Result<Network, String> {
        let text = format!("version: v1alpha1\n{text}").into_bytes();
        let config = Config::parse(&[Source { name: "f".into(), text }]);
        config.map(|config| config.network().clone()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn time_servers_are_names_or_addresses() {
        for (time, expected) in [
            (
                "servers: [time.example, 10.0.0.1, \"2001:db8::1\"]",
                &["time.example", "10.0.0.1", "2001:db8::1"][..],
            ),
            ("servers: [time.example.]", &["time.example."]),
            ("servers: [/dev/ptp0, a]", &["a"]),
            ("{servers: [a], disabled: true}", &[]),
            ("{servers: [a], disabled: false, bootTimeout: 2m0s}", &["a"]),
            ("servers: []", &[]),
        ] {
            let time = if time.starts_with('{') { time.into() } else { format!("{{{time}}}") };
            assert_eq!(
                read(&format!("machine: {{time: {time}}}\n")).unwrap().time_servers,
                expected,
                "{time}"
            );
        }
        for server in ["http://a", "a b", "a..b", "a:123", "\\e[31m"] {
            let problem = read(&format!("machine: {{time: {{servers: [\"{server}\"]}}}}\n")).unwrap_err();
            assert!(problem.starts_with("f:2:28: machine.time.servers[0]: `"), "{problem}");
            assert!(problem.contains("is not the name or the address of a time server"), "{problem}");
        }
    }

    #[test]
    fn the_network_stays_unless_it_is_to_go() {
        for (text, expected) in [
            ("{}", Ok(AfterBoot::Keep)),
            ("{afterBoot: keep}", Ok(AfterBoot::Keep)),
            ("{afterBoot: takeDown}", Ok(AfterBoot::TakeDown)),
            (
                "{afterBoot: down}",
                Err("f:2:32: plywood.network.afterBoot: expected one of keep, takeDown, found `down`"),
            ),
            ("{after: down}", Err("f:2:21: plywood.network.after: unknown key")),
            ("{timeout: 0s}", Err("f:2:30: plywood.network.timeout: a timeout is longer than nothing")),
        ] {
            let result = read(&format!("plywood: {{network: {text}}}\n")).map(|network| network.after_boot);
            match expected {
                Ok(expected) => assert_eq!(result, Ok(expected), "{text}"),
                Err(start) => assert!(result.clone().unwrap_err().starts_with(start), "{result:?}"),
            }
        }
    }
}
