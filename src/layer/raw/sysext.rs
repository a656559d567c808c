//! systemd's system extensions (systemd-sysext(8), os-release(5)).
//!
//! In: `extension-release`, which says what a sysext is for. Out: the
//! `manifest.yaml` that says the same, so that from here on a sysext is an
//! extension like any other. Invariant: what systemd would refuse because of
//! `ID`, `VERSION_ID` or `ARCHITECTURE`, the manifest or this module refuses.

use crate::layer::changeset::ElfMachine;
use crate::layer::manifest::os_release;
use crate::layer::squashfs::FileId;
use crate::layer::tree::{Content, Directory, Node};
use crate::text::Escaped;

/// Where a sysext says what it is, and a confext.
const RELEASES: [&[u8]; 3] = [b"usr", b"lib", b"extension-release.d"];
const CONFEXT: [&[u8]; 2] = [b"etc", b"extension-release.d"];
const PREFIX: &[u8] = b"extension-release.";

/// systemd's words for architectures, and OCI's.
const ARCHITECTURES: [(&str, &str); 9] = [
    ("x86-64", "amd64"),
    ("arm64", "arm64"),
    ("x86", "386"),
    ("arm", "arm"),
    ("riscv64", "riscv64"),
    ("ppc64-le", "ppc64le"),
    ("ppc64", "ppc64"),
    ("s390x", "s390x"),
    ("loongarch64", "loong64"),
];

/// Why something is no sysext for this machine.
#[derive(Debug, thiserror::Error)]
pub enum SysextError {
    #[error("it has neither manifest.yaml nor usr/lib/extension-release.d/extension-release.NAME")]
    NoRelease,
    #[error("it is a confext: extensions of /etc are not supported")]
    Confext,
    #[error("usr/lib/extension-release.d has several releases: {}", Escaped::new(.0))]
    Several(String),
    #[error("usr/lib/extension-release.d/{} is not a regular file", Escaped::new(.0))]
    NotFile(String),
    #[error("its extension-release is not text")]
    Text,
    #[error("its extension-release has no ID")]
    NoId,
    #[error(
        "its extension-release has the SYSEXT_LEVEL `{}` and no VERSION_ID; only versions of hosts are compared",
        Escaped::new(.0)
    )]
    Level(String),
    #[error("it is for the architecture `{}`, this machine is {wanted}", Escaped::new(.has))]
    Architecture { has: String, wanted: ElfMachine },
}

/// The release file in a root: the sysext's name and the content.
pub(super) fn release(root: &Directory) -> Result<(String, FileId), SysextError> {
    let releases = root.walk(RELEASES).and_then(Node::children);
    let Some(releases) = releases else {
        let confext = root.walk(CONFEXT).is_some();
        return Err(if confext { SysextError::Confext } else { SysextError::NoRelease });
    };
    let named: Vec<_> =
        releases.iter().filter_map(|(name, node)| Some((name.strip_prefix(PREFIX)?, node))).collect();
    match named.as_slice() {
        [] => Err(SysextError::NoRelease),
        [(name, node)] => {
            let name = String::from_utf8_lossy(name).into_owned();
            match node.content {
                Content::File(id) => Ok((name, id)),
                _ => Err(SysextError::NotFile(format!("extension-release.{name}"))),
            }
        }
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
            Err(SysextError::Several(names.join(", ")))
        }
    }
}

/// The manifest that says what a release file says.
pub(super) fn manifest(
    name: &str,
    release: &[u8],
    machine: Option<ElfMachine>,
) -> Result<String, SysextError> {
    let text = std::str::from_utf8(release).map_err(|_| SysextError::Text)?;
    let value = |key| os_release(text, key).filter(|value| !value.is_empty());
    check_architecture(value("ARCHITECTURE"), machine)?;
    let mut manifest = format!("version: v1alpha1\nmetadata:\n  name: {}\n", quoted(name));
    match (value("ID"), value("VERSION_ID"), value("SYSEXT_LEVEL")) {
        (None, ..) => return Err(SysextError::NoId),
        // The word for: works everywhere.
        (Some("_any"), ..) => {}
        (Some(_), None, Some(level)) => return Err(SysextError::Level(level.into())),
        (Some(id), version, _) => {
            // A host without versions is of any.
            let constraint = version.map_or(">= 0".into(), |version| format!("= {version}"));
            manifest +=
                &format!("  compatibility:\n    {}:\n      version: {}\n", quoted(id), quoted(&constraint));
        }
    }
    Ok(manifest)
}

fn check_architecture(has: Option<&str>, machine: Option<ElfMachine>) -> Result<(), SysextError> {
    let (Some(has), Some(wanted)) = (has.filter(|has| *has != "_any"), machine) else { return Ok(()) };
    let known = ARCHITECTURES.iter().find(|(word, _)| *word == has);
    match known.and_then(|(_, architecture)| ElfMachine::of_architecture(architecture)) {
        Some(machine) if machine == wanted => Ok(()),
        _ => Err(SysextError::Architecture { has: has.into(), wanted }),
    }
}

/// A string as JSON has it, which YAML has too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::manifest::{Host, Manifest};

    #[test]
    fn a_release_says_what_its_manifest_says() {
        let amd64 = ElfMachine::of_architecture("amd64");
        for (release, host, expected) in [
            ("ID=debian\nVERSION_ID=12\n", "debian=12", "fits"),
            ("ID=debian\nVERSION_ID=\"12\"\nSYSEXT_LEVEL=1.0\nARCHITECTURE=x86-64\n", "debian=12", "fits"),
            ("ID=ubuntu\nVERSION_ID='24.04'\n", "ubuntu=24.04", "fits"),
            ("ID=_any\n", "debian=12", "fits"),
            ("ID=_any\nVERSION_ID=7\nARCHITECTURE=_any", "debian=12", "fits"),
            ("ID=arch\n", "arch=1", "fits"),
            (
                "ID=debian\nVERSION_ID=11\n",
                "debian=12",
                "extension tool: version constraint `= 11` can't be satisfied with debian version 12.0.0",
            ),
            (
                "ID=fedora\nVERSION_ID=12\n",
                "debian=12",
                "extension tool is made for fedora and not for this host; plywood.host.fedora in the configuration would declare it compatible",
            ),
            (
                "ID=debian\nVERSION_ID=12\nARCHITECTURE=arm64\n",
                "debian=12",
                "it is for the architecture `arm64`, this machine is amd64",
            ),
            (
                "ID=debian\nARCHITECTURE=pdp\x1b",
                "debian=12",
                "it is for the architecture `pdp\\x1b`, this machine is amd64",
            ),
            (
                "ID=debian\nSYSEXT_LEVEL=2\n",
                "debian=12",
                "its extension-release has the SYSEXT_LEVEL `2` and no VERSION_ID; only versions of hosts are compared",
            ),
            ("VERSION_ID=12\n", "debian=12", "its extension-release has no ID"),
            ("", "debian=12", "its extension-release has no ID"),
            ("ID=\n", "debian=12", "its extension-release has no ID"),
            ("ID=\u{fffd}\n", "debian=12", "unusable"),
            ("ID=a: b\n", "debian=12", "unusable"),
            ("ID=debian\nVERSION_ID=\"12\\\"\n      version: x\"", "debian=12", "unusable"),
            ("ID=debian\nVERSION_ID=stable\n", "debian=12", "unusable"),
        ] {
            let mut machine = Host::default();
            machine.declare_argument(host).unwrap();
            let found = match manifest("tool", release.as_bytes(), amd64) {
                Err(error) => error.to_string(),
                Ok(text) => match Manifest::parse("manifest.yaml", text.as_bytes()) {
                    Err(_) => "unusable".into(),
                    Ok(manifest) => {
                        manifest.check(&machine).map_or_else(|error| error.to_string(), |_| "fits".into())
                    }
                },
            };
            assert_eq!(found, expected, "{release}");
        }
        assert!(matches!(manifest("tool", b"ID=\xff", None), Err(SysextError::Text)));
    }
}
