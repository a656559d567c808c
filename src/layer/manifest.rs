//! `manifest.yaml`, what an extension says about itself, as Talos defines it.
//!
//! In: the file's bytes, which a limit bounds. Out: a [`Manifest`] whose name may
//! become part of a file name, a list or a log line, and [`Manifest::check`],
//! which holds its `compatibility` against a [`Host`]. Keys that are not
//! known are no error, as in Talos, but can be listed.

use std::collections::BTreeMap;

use semver::Version;
use serde::Serialize;

use super::version::{Constraint, VersionError, parse_version};
use crate::limits::Bound;
use crate::text::Escaped;
use crate::yaml::{self, Cursor, Fields, Node, Problems, Report, Source};

/// Longest name, version and host, in bytes.
const MAX_NAME: usize = 128;

/// A manifest of version `v1alpha1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    metadata: Metadata,
    compatibility: BTreeMap<String, Constraint>,
    ignored: Vec<String>,
}

/// The `metadata` of a manifest; serializes to the shape it has in Talos'
/// `/etc/extensions.yaml`. All texts but the name are free: escape them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// `[A-Za-z0-9][A-Za-z0-9._-]*`
    pub name: String,
    pub version: String,
    pub author: String,
    pub description: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub compatibility: BTreeMap<String, Requirement>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub extra_info: String,
}

/// What `compatibility` says of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// The constraint as written.
    pub version: String,
}

impl Manifest {
    /// Largest manifest that any configuration allows, in bytes.
    pub const MAX_BYTES: usize = Bound::ManifestYaml.most() as usize;

    /// Reads a manifest. `name` is what messages call the file.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, Problems> {
        let source = Source { name: name.into(), text: bytes.into() };
        let report = Report::new(name);
        let documents = yaml::parse(&source, Self::MAX_BYTES, &report);
        let manifest = match documents.as_slice() {
            [document] => read(document, &report),
            [] if !report.is_empty() => Self::empty(),
            [] => {
                report.problem((1, 1), "", "extension manifest is empty");
                Self::empty()
            }
            [_, second, ..] => {
                report.problem((second.line, second.column), "", "a manifest is one document");
                Self::empty()
            }
        };
        Problems::check(report.finish()).map(|()| manifest)
    }

    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Paths of the keys that nobody here knows.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Holds `compatibility` against `host`: each constraint on a host that
    /// this one is must hold, and if there are constraints at all, one of them
    /// must be on a host that this one is.
    pub fn check(&self, host: &Host) -> Result<Compatibility, Incompatible> {
        let extension = || self.metadata.name.clone();
        let mut compatibility = Compatibility::Unstated;
        for (name, constraint) in &self.compatibility {
            let Some(version) = host.versions.get(name) else { continue };
            if !constraint.admits(version) {
                let (constraint, version) = (constraint.clone(), version.clone());
                return Err(Incompatible::Version {
                    extension: extension(),
                    constraint,
                    host: name.clone(),
                    version,
                });
            }
            compatibility = Compatibility::Declared;
        }
        match self.compatibility.keys().next() {
            Some(first) if compatibility == Compatibility::Unstated => Err(Incompatible::OtherHosts {
                extension: extension(),
                hosts: self.compatibility.keys().cloned().collect::<Vec<_>>().join(", "),
                key: format!("plywood.host.{first}"),
            }),
            _ => Ok(compatibility),
        }
    }

    fn empty() -> Self {
        Self { metadata: Metadata::default(), compatibility: BTreeMap::new(), ignored: Vec::new() }
    }
}

fn read(document: &Node, report: &Report) -> Manifest {
    let mut manifest = Manifest::empty();
    let Some(mut fields) = Cursor::root(document, report).fields() else { return manifest };
    if let Some(version) = fields.required("version") {
        version.parse_with(|text| match text {
            "v1alpha1" => Ok(()),
            _ => Err(format!("unsupported manifest version: \"{}\"", Escaped::new(text))),
        });
    }
    if let Some(metadata) = fields.required("metadata").and_then(|at| at.fields()) {
        read_metadata(metadata, &mut manifest);
    }
    manifest.ignored.extend(fields.pass_over());
    manifest
}

fn read_metadata(mut fields: Fields<'_>, manifest: &mut Manifest) {
    let text = |at: Option<Cursor<'_>>| at.and_then(|at| at.text()).unwrap_or_default().to_string();
    if let Some(name) = fields.required("name").and_then(|at| at.parse_with(check_name)) {
        manifest.metadata.name = name;
    }
    if let Some(version) = fields.optional("version").and_then(|at| at.parse_with(check_version)) {
        manifest.metadata.version = version;
    }
    manifest.metadata.author = text(fields.optional("author"));
    manifest.metadata.description = text(fields.optional("description"));
    manifest.metadata.extra_info = text(fields.optional("extraInfo"));
    for (host, at) in fields.optional("compatibility").and_then(|at| at.entries()).unwrap_or_default() {
        read_requirement(host, &at, manifest);
    }
    manifest.ignored.extend(fields.pass_over());
}

fn read_requirement(host: &str, at: &Cursor<'_>, manifest: &mut Manifest) {
    if let Err(message) = check_name(host) {
        return at.problem(message);
    }
    let Some(mut fields) = at.fields() else { return };
    // Talos takes an empty constraint for none.
    if let Some(version) = fields.optional("version")
        && version.text() != Some("")
        && let Some(constraint) = version.parse::<Constraint>()
    {
        let requirement = Requirement { version: version.text().unwrap_or_default().into() };
        manifest.metadata.compatibility.insert(host.into(), requirement);
        manifest.compatibility.insert(host.into(), constraint);
    }
    manifest.ignored.extend(fields.pass_over());
}

fn check_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if text.len() > MAX_NAME {
        return Err(format!("a name of {} bytes is longer than the {MAX_NAME} allowed", text.len()));
    }
    if !starts_well || !text.bytes().all(allowed) {
        return Err(format!(
            "the name `{}` is not of the form [A-Za-z0-9][A-Za-z0-9._-]*",
            Escaped::new(text)
        ));
    }
    Ok(text.into())
}

fn check_version(text: &str) -> Result<String, String> {
    if text.len() > MAX_NAME || text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(format!(
            "the version `{}` is not plain text of at most {MAX_NAME} bytes",
            Escaped::new(text)
        ));
    }
    Ok(text.into())
}

/// Whether an extension says that it works on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// It does.
    Declared,
    /// It says nothing: accepted, and worth a note.
    Unstated,
}

/// Why an extension does not fit this host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Incompatible {
    #[error(
        "extension {extension}: version constraint `{constraint}` can't be satisfied with {host} version {version}"
    )]
    Version { extension: String, constraint: Constraint, host: String, version: Version },
    #[error(
        "extension {extension} is made for {hosts} and not for this host; {key} in the configuration would declare it compatible"
    )]
    OtherHosts { extension: String, hosts: String, key: String },
}

/// What this machine is, for `compatibility`: names of hosts and the version
/// of each. A machine may be several, as `debian` 12 and `talos` 1.9.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    versions: BTreeMap<String, Version>,
}

/// Why a host cannot be declared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostError {
    #[error("host `{}` is not of the form NAME=VERSION", Escaped::new(.0))]
    Form(String),
    #[error("cannot read the version of host {}", Escaped::new(.host))]
    Version { host: String, source: VersionError },
}

impl Host {
    /// Declares this machine to be `name` of `version`.
    pub fn declare(&mut self, name: &str, version: &str) -> Result<(), HostError> {
        check_name(name).map_err(|_| HostError::Form(format!("{name}={version}")))?;
        let version =
            parse_version(version).map_err(|source| HostError::Version { host: name.into(), source })?;
        self.versions.insert(name.into(), version);
        Ok(())
    }

    /// Declares what `--host NAME=VERSION` says.
    pub fn declare_argument(&mut self, argument: &str) -> Result<(), HostError> {
        let (name, version) = argument.split_once('=').ok_or_else(|| HostError::Form(argument.into()))?;
        self.declare(name, version)
    }

    /// What the `ID` and `VERSION_ID` of os-release(5) say. Nothing where a
    /// distribution has no version, as rolling ones do.
    pub fn from_os_release(text: &str) -> Self {
        let value = |key| os_release(text, key);
        let mut host = Self::default();
        if let (Some(id), Some(version)) = (value("ID"), value("VERSION_ID")) {
            // A version that does not order cannot be compared: as good as none.
            let _ = host.declare(id, version);
        }
        host
    }

    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    pub fn versions(&self) -> &BTreeMap<String, Version> {
        &self.versions
    }
}

/// The value of `key` in a file like os-release(5).
pub(super) fn os_release<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let assignment = |line: &'t str| line.trim().strip_prefix(key)?.strip_prefix('=');
    let value = text.lines().filter_map(assignment).next_back()?;
    Some(value.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GVISOR: &str = "version: v1alpha1
metadata:
  name: gvisor
  version: 1.10
  author: Sidero Labs
  description: |
    This system extension provides gVisor.
  compatibility:
    talos:
      version: \">= v1.0.0\"
";

    fn with_compatibility(compatibility: &str) -> Manifest {
        let text = format!("version: v1alpha1\nmetadata: {{name: x, compatibility: {compatibility}}}");
        Manifest::parse("manifest.yaml", text.as_bytes()).expect(compatibility)
    }

    #[test]
    fn a_manifest_of_the_catalogue_is_read() {
        let manifest = Manifest::parse("manifest.yaml", GVISOR.as_bytes()).unwrap();
        let metadata = manifest.metadata();
        assert_eq!((manifest.name(), metadata.version.as_str()), ("gvisor", "1.10"));
        assert_eq!(metadata.author, "Sidero Labs");
        assert_eq!(metadata.description, "This system extension provides gVisor.\n");
        assert_eq!(
            serde_json::to_string(metadata).unwrap(),
            r#"{"name":"gvisor","version":"1.10","author":"Sidero Labs","description":"This system extension provides gVisor.\n","compatibility":{"talos":{"version":">= v1.0.0"}}}"#
        );
        assert!(manifest.ignored().is_empty());
    }

    #[test]
    fn names_versions_and_constraints_of_the_catalogue_are_read() {
        for (name, version, constraint, host, fits) in [
            ("gvisor", "20260810.0", ">= v1.0.0", "1.9.0", true),
            ("nvidia-open-gpu-kernel-modules-lts", "580.126.16-v1.13.0", ">= v1.2.0", "1.1.9", false),
            (
                "nonfree-kmod-nvidia-production",
                "595.45.04-v1.13.0-alpha.2-13-g80d3d92",
                ">= v1.5.0",
                "1.13.0",
                true,
            ),
            ("nvidia-container-toolkit-production", "595.45.04-v1.18.2", ">= v1.6.0", "1.6.0", true),
            ("zfs", "2.4.1-v1.13.0-dirty", ">= v1.4.5", "1.4.4", false),
            ("metal-agent", "5815ee3-v1.13.0", ">= v1.10.0", "1.10.0-beta.0", true),
            ("v4l-uvc-drivers", "v1.13.0", ">= v1.9.0", "1.10.0", true),
            ("tenstorrent", "v4.6", ">= v1.8.0", "1.7.9", false),
            ("i915", "20260810", ">= 1.9.0-alpha.0", "1.9.0-alpha.0", true),
            ("iscsi-tools", "0.2.0", ">= v1.1.0", "v1.1.0", true),
            ("nut-client", "2-8-3", ">= v1.5.0", "1.12.0", true),
            ("nfs-utils", "1.29", ">= v1.11.0", "1.12.0", true),
            ("bird2", "0.4.0-g5c274e6", ">= v1.12.0", "1.11.6", false),
            (
                "schematic",
                "0bd9e6cc1c5ff0a4d4e3fbd4ee8b0b4cdb3ba9a5ba7cb7a9b9fbce6d8e3b0c44",
                ">= 1.0.0",
                "1.13.0",
                true,
            ),
        ] {
            // A version such as 1.29 is a number to YAML, and has to stay as it was written.
            for quote in ["", "\""] {
                let text = format!(
                    "version: v1alpha1\nmetadata:\n  name: {name}\n  version: {quote}{version}{quote}\n  author: A\n  \
                     description: |\n    [{name}](https://example.org/{name}): text.\n  compatibility:\n    talos:\n      \
                     version: \"{constraint}\"\n"
                );
                let manifest = Manifest::parse("manifest.yaml", text.as_bytes()).expect(&text);
                assert_eq!((manifest.name(), manifest.metadata().version.as_str()), (name, version));
                let mut machine = Host::default();
                machine.declare("talos", host).unwrap();
                assert_eq!(manifest.check(&machine).is_ok(), fits, "{name}: {constraint} on {host}");
            }
        }
    }

    #[test]
    fn unknown_keys_are_listed_and_no_error() {
        let text = "version: v1alpha1\nx: 1\nmetadata: {name: a, y: 2, extraInfo: z, compatibility: {talos: {arch: q}}}";
        let manifest = Manifest::parse("manifest.yaml", text.as_bytes()).unwrap();
        assert_eq!(manifest.ignored(), ["metadata.compatibility.talos.arch", "metadata.y", "x"]);
        assert_eq!(manifest.metadata().extra_info, "z");
    }

    #[test]
    fn malformed_manifests_are_refused() {
        let long = "a".repeat(129);
        for (text, expected) in [
            ("", "1:1: extension manifest is empty"),
            ("[]", "1:1: expected a mapping, found a list"),
            ("a: [", ""),
            ("metadata: {name: a}", "1:1: the key version is missing"),
            ("version: v1alpha1", "1:1: the key metadata is missing"),
            (
                "version: v1beta1\nmetadata: {name: a}",
                "1:10: version: unsupported manifest version: \"v1beta1\"",
            ),
            ("version: v1alpha1\nmetadata: {version: 1}", "2:11: metadata: the key name is missing"),
            (
                "version: v1alpha1\nmetadata: {name: ''}",
                "2:18: metadata.name: the name `` is not of the form [A-Za-z0-9][A-Za-z0-9._-]*",
            ),
            (
                "version: v1alpha1\nmetadata: {name: ../x}",
                "2:18: metadata.name: the name `../x` is not of the form [A-Za-z0-9][A-Za-z0-9._-]*",
            ),
            (
                "version: v1alpha1\nmetadata: {name: \"a\\nb\"}",
                "2:18: metadata.name: the name `a\\nb` is not of the form [A-Za-z0-9][A-Za-z0-9._-]*",
            ),
            (
                &format!("version: v1alpha1\nmetadata: {{name: {long}}}"),
                "2:18: metadata.name: a name of 129 bytes is longer than the 128 allowed",
            ),
            (
                "version: v1alpha1\nmetadata: {name: a, version: 'a b'}",
                "2:30: metadata.version: the version `a b` is not plain text of at most 128 bytes",
            ),
            (
                "version: v1alpha1\nmetadata: {name: a, compatibility: {talos: {version: '>= x.1'}}}",
                "2:54: metadata.compatibility.talos.version: version constraint `>= x.1`: `x.1` at column 4 is not a version",
            ),
            ("version: v1alpha1\nmetadata: {name: a}\n---\nb: 1", "4:1: a manifest is one document"),
            (
                "version: v1alpha1\nmetadata: {name: a, name: b}",
                "2:21: metadata.name: this key is already at 2:12",
            ),
        ] {
            let problems = Manifest::parse("m", text.as_bytes()).unwrap_err();
            assert!(problems.to_string().starts_with(&format!("m:{expected}")), "{problems}");
            assert_eq!(problems.iter().count(), 1, "{problems}");
        }
        let padding = "#".repeat(Manifest::MAX_BYTES);
        assert!(Manifest::parse("m", format!("{GVISOR}{padding}").as_bytes()).is_err());
    }

    #[test]
    fn compatibility_is_held_against_the_host() {
        let other = "extension x is made for talos and not for this host; \
                     plywood.host.talos in the configuration would declare it compatible";
        for (compatibility, host, expected) in [
            ("{}", "debian=12", Ok(Compatibility::Unstated)),
            ("{talos: {}}", "debian=12", Ok(Compatibility::Unstated)),
            ("{talos: {version: ''}}", "debian=12", Ok(Compatibility::Unstated)),
            ("{talos: {version: '>= v1.0.0'}}", "talos=v1.9.0", Ok(Compatibility::Declared)),
            ("{talos: {version: '>= v1.10.0'}}", "talos=v1.10.0-beta.1", Ok(Compatibility::Declared)),
            ("{talos: {version: '>= 1'}, debian: {version: '12'}}", "debian=12", Ok(Compatibility::Declared)),
            (
                "{talos: {version: '>= v1.9.0'}}",
                "talos=1.8.3",
                Err(
                    "extension x: version constraint `>= v1.9.0` can't be satisfied with talos version 1.8.3",
                ),
            ),
            (
                "{debian: {version: '12'}, talos: {version: '>= v1.9.0'}}",
                "debian=12 talos=1.8",
                Err(
                    "extension x: version constraint `>= v1.9.0` can't be satisfied with talos version 1.8.0",
                ),
            ),
            ("{talos: {version: '>= v1.0.0'}}", "debian=12", Err(other)),
            ("{talos: {version: '>= v1.0.0'}}", "", Err(other)),
        ] {
            let mut machine = Host::default();
            for argument in host.split_whitespace() {
                machine.declare_argument(argument).unwrap();
            }
            let found = with_compatibility(compatibility).check(&machine).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_string), "{compatibility} on {host}");
        }
    }

    #[test]
    fn os_release_says_what_the_host_is() {
        for (text, expected) in [
            ("ID=debian\nVERSION_ID=\"12\"\nID_LIKE=x", Some(("debian", "12.0.0"))),
            ("NAME=x\nVERSION_ID='24.04'\n ID=ubuntu\n", Some(("ubuntu", "24.4.0"))),
            ("ID=talos\nVERSION_ID=v1.9.0", Some(("talos", "1.9.0"))),
            ("ID=arch\nBUILD_ID=rolling", None),
            ("ID=odd\nVERSION_ID=tumbleweed", None),
            ("", None),
        ] {
            let host = Host::from_os_release(text);
            let found =
                host.versions().iter().next().map(|(name, version)| (name.as_str(), version.to_string()));
            assert_eq!(found, expected.map(|(name, version)| (name, version.to_string())), "{text}");
        }
    }

    #[test]
    fn a_host_has_a_name_and_a_version() {
        for (argument, expected) in [
            ("talos", "host `talos` is not of the form NAME=VERSION"),
            ("=1", "host `=1` is not of the form NAME=VERSION"),
            ("a/b=1", "host `a/b=1` is not of the form NAME=VERSION"),
            ("talos=latest", "cannot read the version of host talos"),
        ] {
            assert_eq!(Host::default().declare_argument(argument).unwrap_err().to_string(), expected);
        }
    }
}
