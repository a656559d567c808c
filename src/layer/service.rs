//! Talos' extension services: containers that Talos starts beside the system.
//!
//! In: the bytes of a file of [`DIRECTORY`] in an extension, which a limit
//! bounds. Out: a [`Service`] that Talos would start, or every problem that
//! would make it pass the file over. Nothing here runs anything: on other
//! systems a service is only named, so that nobody waits for it.

use serde::Serialize;

use crate::text::Escaped;
use crate::yaml::{self, Cursor, Fields, Problems, Report, Source};

/// Where services are described, one file each; relative to the root.
pub const DIRECTORY: &str = "usr/local/etc/containers";

/// Largest description, in bytes.
pub const MAX_BYTES: usize = 64 << 10;

/// A container that is described in full. The texts are free: escape them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// `[-_a-z0-9]+`; Talos calls the service `ext-NAME`.
    pub name: String,
    /// The program, in the container's root `/usr/local/lib/containers/NAME`.
    pub entrypoint: String,
    /// `always`, `never` or `untilSuccess`.
    pub restart: String,
    /// What has to be there before it starts, as `service: cri`.
    pub depends: Vec<String>,
}

/// Whether a file of [`DIRECTORY`] describes a service, from its name alone.
pub fn is_description(file: &[u8]) -> bool {
    file.len() > b".yaml".len() && file.ends_with(b".yaml")
}

impl Service {
    /// Reads a description. `file` is what messages call it. Keys that are not
    /// known are no error, as in Talos.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, Problems> {
        let source = Source { name: file.into(), text: bytes.into() };
        let report = Report::new(file);
        let documents = yaml::parse(&source, MAX_BYTES, &report);
        let mut service = Self::default();
        match documents.first() {
            // As Talos does: what follows the first document is not looked at.
            Some(document) => {
                if let Some(fields) = Cursor::root(document, &report).fields() {
                    service.read(fields);
                }
            }
            None if report.is_empty() => report.problem((1, 1), "", "the description is empty"),
            None => {}
        }
        Problems::check(report.finish()).map(|()| service)
    }

    fn read(&mut self, mut fields: Fields<'_>) {
        if let Some(name) = fields.required("name").and_then(|at| at.parse_with(check_name)) {
            self.name = name;
        }
        if let Some(container) = fields.required("container").and_then(|at| at.fields())
            && let Some(entrypoint) = read_container(container)
        {
            self.entrypoint = entrypoint;
        }
        let restarts = ["always", "never", "untilSuccess"].map(|word| (word, word));
        if let Some(restart) = fields.required("restart").and_then(|at| at.one_of(&restarts)) {
            self.restart = restart.into();
        }
        let depends = fields.optional("depends").and_then(|at| at.list(read_dependency));
        self.depends = depends.unwrap_or_default();
        fields.optional("logToConsole").and_then(|at| at.boolean());
    }
}

fn check_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
        return Err(format!("the name `{}` is not of the form [-_a-z0-9]+", Escaped::new(text)));
    }
    Ok(text.into())
}

/// The entrypoint, after all else was checked too.
fn read_container(mut fields: Fields<'_>) -> Option<String> {
    let not_empty = |text: &str| if text.is_empty() { Err("it is empty") } else { Ok(text.to_string()) };
    let entrypoint = fields.required("entrypoint").and_then(|at| at.parse_with(not_empty));
    let texts = |at: Option<Cursor<'_>>| at.and_then(|at| at.list(|item| item.text().map(drop)));
    texts(fields.optional("args"));
    texts(fields.optional("environment"));
    fields.optional("environmentFile").and_then(|at| at.parse_with(check_absolute));
    for mount in fields.optional("mounts").and_then(|at| at.items()).unwrap_or_default() {
        let Some(mut mount) = mount.fields() else { continue };
        mount.required("destination").and_then(|at| at.parse_with(check_absolute));
        for key in ["source", "type"] {
            mount.optional(key).and_then(|at| at.text());
        }
        texts(mount.optional("options"));
    }
    if let Some(mut security) = fields.optional("security").and_then(|at| at.fields()) {
        for key in ["writeableRootfs", "writeableSysfs"] {
            security.optional(key).and_then(|at| at.boolean());
        }
        for key in ["maskedPaths", "readonlyPaths"] {
            texts(security.optional(key));
        }
        let propagations = ["shared", "slave", "private", "unbindable"].map(|word| (word, ()));
        security.optional("rootfsPropagation").and_then(|at| at.one_of(&propagations));
    }
    entrypoint
}

fn check_absolute(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.into()),
        false => Err(format!("`{}` is not an absolute path", Escaped::new(text))),
    }
}

/// One condition: exactly one key.
fn read_dependency(at: &Cursor<'_>) -> Option<String> {
    let entries = at.entries()?;
    let [(key, value)] = entries.as_slice() else {
        at.problem("a dependency is one of service, path, network, time and configuration");
        return None;
    };
    let said = match *key {
        "service" => value.text()?.to_string(),
        "path" => value.parse_with(check_absolute)?,
        "network" => {
            let conditions = ["addresses", "connectivity", "hostname", "etcfiles"].map(|word| (word, word));
            value.list(|item| item.one_of(&conditions))?.join(" ")
        }
        "time" | "configuration" => value.boolean()?.to_string(),
        other => {
            value.problem(format!(
                "unknown dependency {}, expected one of service, path, network, time, configuration",
                Escaped::new(other)
            ));
            return None;
        }
    };
    Some(format!("{key}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "name: net-agent
depends:
  - service: cri
  - network: [addresses, etcfiles]
  - path: /dev/net/tun
  - time: true
  - configuration: true
container:
  entrypoint: ./agent
  args: [--verbose, 3]
  environment: [A=b]
  environmentFile: /var/etc/agent.env
  security: {writeableRootfs: false, writeableSysfs: true, maskedPaths: [], readonlyPaths: [], rootfsPropagation: shared}
  mounts:
    - {source: /run, destination: /run, type: bind, options: [bind, rw]}
restart: untilSuccess
logToConsole: true
laterKey: {any: thing}
";

    #[test]
    fn a_service_is_read_with_all_its_keys() {
        let service = Service::parse("a.yaml", FULL.as_bytes()).unwrap();
        assert_eq!((service.name.as_str(), service.entrypoint.as_str()), ("net-agent", "./agent"));
        assert_eq!(service.restart, "untilSuccess");
        assert_eq!(
            service.depends,
            [
                "service: cri",
                "network: addresses etcfiles",
                "path: /dev/net/tun",
                "time: true",
                "configuration: true"
            ]
        );
    }

    /// The forms that descriptions in Talos' catalogue have.
    #[test]
    fn services_of_the_catalogue_are_read() {
        let always = "restart: always\n";
        for (container, rest, depends) in [
            ("{entrypoint: ./agent}", always, &[][..]),
            ("{entrypoint: /usr/local/bin/agent, args: []}", "depends: []\nrestart: always\n", &[]),
            ("{entrypoint: ./agent, environment: [PATH=/sbin]}", "restart: untilSuccess\n", &[]),
            ("{entrypoint: ./a, security: {maskedPaths: [], readonlyPaths: []}}", always, &[]),
            ("{entrypoint: ./a, mounts: [{destination: /run, type: tmpfs}]}", "restart: never\n", &[]),
            (
                "{entrypoint: ./a}",
                "depends:\n  - service: ext-other\n  - network:\n    - addresses\n    - hostname\nrestart: always\n",
                &["service: ext-other", "network: addresses hostname"],
            ),
            (
                "{entrypoint: ./a}",
                "# why\ndepends:\n  # the device\n  - path: /dev/vmbus/hv_kvp\nrestart: always\nlogToConsole: true\n",
                &["path: /dev/vmbus/hv_kvp"],
            ),
        ] {
            let text = format!("name: agent-2_x\ncontainer: {container}\n{rest}");
            let service = Service::parse("a.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e}"));
            assert_eq!(service.depends, depends, "{text}");
        }
    }

    #[test]
    fn what_talos_would_pass_over_is_a_problem() {
        for (from, to, expected) in [
            (FULL, "", "1:1: the description is empty"),
            (FULL, "[]", "1:1: expected a mapping, found a list"),
            ("name: net-agent", "name: Agent", "1:7: name: the name `Agent` is not of the form [-_a-z0-9]+"),
            ("name: net-agent\n", "", "1:1: the key name is missing"),
            ("  entrypoint: ./agent\n", "", "9:3: container: the key entrypoint is missing"),
            ("./agent", "''", "9:15: container.entrypoint: it is empty"),
            ("args: [--verbose, 3]", "args: x", "10:9: container.args: expected a list, found a string"),
            ("/var/etc", "etc", "12:20: container.environmentFile: `etc/agent.env` is not an absolute path"),
            (
                "destination: /run",
                "destination: run",
                "15:35: container.mounts[0].destination: `run` is not an absolute path",
            ),
            (
                "Propagation: shared",
                "Propagation: up",
                "13:115: container.security.rootfsPropagation: expected one of shared, slave, private, unbindable, found `up`",
            ),
            (
                "writeableSysfs: true",
                "writeableSysfs: 1",
                "13:54: container.security.writeableSysfs: expected true or false, found a number",
            ),
            (
                "untilSuccess",
                "maybe",
                "16:10: restart: expected one of always, never, untilSuccess, found `maybe`",
            ),
            ("restart: untilSuccess\n", "", "1:1: the key restart is missing"),
            (
                "service: cri",
                "service: cri\n    path: /x",
                "3:5: depends[0]: a dependency is one of service, path, network, time and configuration",
            ),
            (
                "service: cri",
                "port: 1",
                "3:11: depends[0].port: unknown dependency port, expected one of service, path, network, time, configuration",
            ),
            ("path: /dev", "path: dev", "5:11: depends[2].path: `dev/net/tun` is not an absolute path"),
            (
                "etcfiles",
                "dns",
                "4:26: depends[1].network[1]: expected one of addresses, connectivity, hostname, etcfiles, found `dns`",
            ),
        ] {
            let text = FULL.replacen(from, to, 1);
            assert_ne!(text, FULL, "{from}");
            let problems = Service::parse("s", text.as_bytes()).unwrap_err().to_string();
            assert_eq!(problems.trim_end(), format!("s:{expected}"));
        }
    }

    #[test]
    fn descriptions_are_known_by_their_names() {
        for (name, expected) in [("a.yaml", true), ("a.yml", false), (".yaml", false), ("a.yaml.bak", false)]
        {
            assert_eq!(is_description(name.as_bytes()), expected, "{name}");
        }
    }
}
