//! How a command line names a block device.
//!
//! In: the text after `root=` or `plywood.state=`. Out: [`DeviceSpec`], which
//! says what to look for. Invariant: a specification is never resolved here;
//! that needs the devices, which may come later.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::text::Escaped;

/// Which block device is meant. Parsed from the forms that the kernel
/// (`Documentation/admin-guide/kernel-parameters.txt`, `root=`) and `mount(8)`
/// take; UUIDs are compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// A node below `/dev`, or a symlink to one.
    Path(PathBuf),
    /// `8:1`, or `0801` as the kernel writes it in hexadecimal.
    Number { major: u32, minor: u32 },
    /// `UUID=`: of the filesystem.
    Uuid(String),
    /// `LABEL=`: of the filesystem.
    Label(String),
    /// `PARTUUID=`, of the GPT entry or `ssssssss-pp` for an MBR. With
    /// `/PARTNROFF=n` the partition that many numbers further on that disk.
    PartUuid { uuid: String, offset: i32 },
    /// `PARTLABEL=`: the name in the GPT entry.
    PartLabel(String),
}

/// Text that names no block device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} does not name a block device: expected /dev/…, UUID=, LABEL=, PARTUUID=, PARTLABEL= or MAJOR:MINOR",
    Escaped::new(.0)
)]
pub struct SpecError(String);

impl DeviceSpec {
    /// Reads a device specification. A value may stand in double quotes.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let spec = match text.split_once('=') {
            Some((tag, value)) => Self::from_tag(tag, unquote(value)),
            None if text.starts_with('/') => Self::from_path(Path::new(text)),
            None => Self::from_number(text),
        };
        spec.ok_or_else(|| SpecError(text.to_owned()))
    }

    fn from_tag(tag: &str, value: &str) -> Option<Self> {
        let text = || (!value.is_empty()).then(|| value.to_owned());
        Some(match tag {
            "UUID" => Self::Uuid(text()?),
            "LABEL" => Self::Label(text()?),
            "PARTLABEL" => Self::PartLabel(text()?),
            "PARTUUID" => match value.split_once("/PARTNROFF=") {
                None => Self::PartUuid { uuid: text()?, offset: 0 },
                Some((uuid, offset)) => Self::PartUuid { uuid: uuid.into(), offset: offset.parse().ok()? },
            },
            _ => return None,
        })
    }

    /// `/dev/disk/by-*` are udev's symlinks; there may be no udev, so what
    /// they say is looked up instead. Those made from hardware identifiers
    /// stay paths.
    fn from_path(path: &Path) -> Option<Self> {
        let Ok(link) = path.strip_prefix("/dev/disk") else {
            return path.starts_with("/dev").then(|| Self::Path(path.into()));
        };
        let mut parts = link.components().map(|part| part.as_os_str().as_bytes());
        let (kind, name) = (parts.next()?, parts.next()?);
        let text = String::from_utf8(decode_udev(name)).ok()?;
        Some(match kind {
            b"by-uuid" => Self::Uuid(text),
            b"by-label" => Self::Label(text),
            b"by-partuuid" => Self::PartUuid { uuid: text, offset: 0 },
            b"by-partlabel" => Self::PartLabel(text),
            _ => Self::Path(path.into()),
        })
    }

    fn from_number(text: &str) -> Option<Self> {
        if let Some((major, minor)) = text.split_once(':') {
            return Some(Self::Number { major: decimal(major)?, minor: decimal(minor)? });
        }
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).ok().filter(|_| hex && text.len() >= 3)?;
        // The kernel's `new_decode_dev`: minor bits on both sides of the major's.
        let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xf_ff00));
        Some(Self::Number { major, minor })
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => Escaped::new(path.as_os_str().as_bytes()).fmt(f),
            Self::Number { major, minor } => write!(f, "{major}:{minor}"),
            Self::Uuid(uuid) => write!(f, "UUID={}", Escaped::new(uuid)),
            Self::Label(label) => write!(f, "LABEL={}", Escaped::new(label)),
            Self::PartUuid { uuid, offset: 0 } => write!(f, "PARTUUID={}", Escaped::new(uuid)),
            Self::PartUuid { uuid, offset } => {
                write!(f, "PARTUUID={}/PARTNROFF={offset}", Escaped::new(uuid))
            }
            Self::PartLabel(label) => write!(f, "PARTLABEL={}", Escaped::new(label)),
        }
    }
}

fn decimal(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Reads the names of udev's symlinks, where `\x20` is a space.
fn decode_udev(mut name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    while let Some((&byte, rest)) = name.split_first() {
        match name {
            [b'\\', b'x', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(nibble(*high) << 4 | nibble(*low));
                name = rest;
            }
            _ => {
                decoded.push(byte);
                name = rest;
            }
        }
    }
    decoded
}

/// The value of a hexadecimal digit; 0 for anything else.
fn nibble(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_specifications_are_those_of_kernel_and_mount() {
        use DeviceSpec::*;
        for (text, expected) in [
            ("/dev/vda1", Path("/dev/vda1".into())),
            ("/dev/mapper/vg-root", Path("/dev/mapper/vg-root".into())),
            ("UUID=0A-b", Uuid("0A-b".into())),
            ("UUID=\"0A-b\"", Uuid("0A-b".into())),
            ("LABEL=PLYWOOD", Label("PLYWOOD".into())),
            ("LABEL=a=b c", Label("a=b c".into())),
            ("PARTLABEL=state", PartLabel("state".into())),
            ("PARTUUID=1b-01", PartUuid { uuid: "1b-01".into(), offset: 0 }),
            ("PARTUUID=1b-01/PARTNROFF=2", PartUuid { uuid: "1b-01".into(), offset: 2 }),
            ("PARTUUID=1b-01/PARTNROFF=-1", PartUuid { uuid: "1b-01".into(), offset: -1 }),
            ("/dev/disk/by-uuid/0a-b", Uuid("0a-b".into())),
            ("/dev/disk/by-label/my\\x20disk\\x2f1", Label("my disk/1".into())),
            ("/dev/disk/by-label/odd\\xzz\\x2", Label("odd\\xzz\\x2".into())),
            ("/dev/disk/by-partuuid/1b-01", PartUuid { uuid: "1b-01".into(), offset: 0 }),
            ("/dev/disk/by-partlabel/state", PartLabel("state".into())),
            ("/dev/disk/by-id/virtio-1", Path("/dev/disk/by-id/virtio-1".into())),
            ("8:17", Number { major: 8, minor: 17 }),
            ("0801", Number { major: 8, minor: 1 }),
            ("103:0", Number { major: 103, minor: 0 }),
            ("110301", Number { major: 259, minor: 257 }),
        ] {
            assert_eq!(DeviceSpec::parse(text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn what_names_no_block_device_is_refused() {
        for text in [
            "",
            "vda1",
            "/sysroot",
            "/dev/disk",
            "/dev/disk/by-label",
            "LABEL=",
            "UUID=\"\"",
            "label=x",
            "ID=x",
            "PARTUUID=1/PARTNROFF=x",
            "8:",
            ":1",
            "8:+1",
            "+801",
            "12",
            "8:99999999999",
            "nfs",
            "/dev/disk/by-label/\\xff",
        ] {
            assert_eq!(DeviceSpec::parse(text), Err(SpecError(text.into())), "{text}");
        }
    }

    #[test]
    fn a_specification_prints_as_it_is_written() {
        for text in ["/dev/vda1", "UUID=0a", "LABEL=x", "PARTUUID=1b-01/PARTNROFF=2", "PARTLABEL=x", "8:1"] {
            assert_eq!(DeviceSpec::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(DeviceSpec::Label("a\x1b[2J".into()).to_string(), "LABEL=a\\x1b[2J");
    }
}
