//! The values a configuration is made of, as meant: small types that hold
//! only what makes sense, and the checks that text has to pass to become one.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::units::parse_size;
use crate::oci::ImageSource;
use crate::text::Escaped;

/// What squashfs allows, in bytes.
const BLOCK_SIZES: RangeInclusive<u32> = 4 << 10..=1 << 20;

/// One extension to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    pub image: ImageSource,
    pub on_failure: OnFailure,
    /// Paths of the base or of lower extensions that this one may replace.
    pub overrides: Vec<PathBuf>,
}

/// What becomes of a generation when one of its extensions cannot be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// There is no such generation.
    #[default]
    Fail,
    /// It is built without the extension, and says so.
    Skip,
}

/// A kernel module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelModule {
    pub name: String,
    /// `name=value` or `name`, in the order written.
    pub parameters: Vec<String>,
}

/// Where layers are mounted and what may be written there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    pub hierarchies: Hierarchies,
    pub writable: Writable,
}

/// The directories of the base that become overlays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hierarchies {
    /// The whole root where the base is an image that nothing writes to; else
    /// only what the extensions touch, so that the rest stays writable.
    #[default]
    Auto,
    /// One overlay over the whole root.
    Root,
    /// One overlay over each of these; none is inside another.
    Paths(Vec<PathBuf>),
}

/// Where writes below a hierarchy go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writable {
    /// Nowhere: the overlay is read-only.
    #[default]
    No,
    /// To memory, until the next boot.
    Tmpfs,
    /// To the state directory.
    Persistent,
}

/// What the contents of extensions may hold beyond the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Directories or files, added to the allowed paths.
    pub allow: Vec<PathBuf>,
    /// Set-user-ID and set-group-ID files.
    pub setuid: Permission,
    pub hard_links: Permission,
    /// Extended attributes that are kept; others are violations.
    pub xattrs: Vec<String>,
}

/// Whether a rule has an exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    #[default]
    Deny,
    Allow,
}

/// How layers are written. A change makes other layers of the same images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerOptions {
    pub compression: Compression,
    /// Bytes; a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self { compression: Compression::Zstd { level: 3 }, block_size: 128 << 10 }
    }
}

/// A squashfs compressor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    /// 1 to 9
    Gzip {
        level: u32,
    },
    Lz4,
    Xz,
    /// 1 to 22
    Zstd {
        level: u32,
    },
}

/// How long the network may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect to one endpoint, TLS included.
    pub connect: Duration,
    /// From a request to the answer's headers.
    pub first_byte: Duration,
    /// Without a single byte.
    pub idle: Duration,
    /// For one image, all tries included.
    pub total: Duration,
    /// Between two tries, and the longest `Retry-After` that is obeyed.
    pub longest_pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(10),
            first_byte: seconds(30),
            idle: seconds(30),
            total: seconds(20 * 60),
            longest_pause: seconds(60),
        }
    }
}

/// How blobs are downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downloads {
    /// Blobs at a time.
    pub parallel: NonZeroU32,
    /// In bytes a second. A slower endpoint counts as idle.
    pub minimum_rate: u64,
}

impl Default for Downloads {
    fn default() -> Self {
        const PARALLEL: NonZeroU32 = NonZeroU32::new(3).unwrap();
        Self { parallel: PARALLEL, minimum_rate: 1024 }
    }
}

/// An absolute path other than `/`, without `.`, `..` and doubled slashes. A
/// slash at the end is dropped.
pub(super) fn parse_path(text: &str) -> Result<PathBuf, String> {
    let wrong = |what| Err(format!("the path `{}` {what}", Escaped::new(text)));
    let Some(relative) = text.strip_prefix('/') else { return wrong("is not absolute") };
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    if relative.is_empty() {
        return wrong("is the whole root");
    }
    if relative.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return wrong("has an empty, `.` or `..` component");
    }
    if relative.len() > 4095 || relative.split('/').any(|component| component.len() > 255) {
        return wrong("is too long");
    }
    if relative.chars().any(char::is_control) {
        return wrong("has a control character");
    }
    Ok(PathBuf::from(format!("/{relative}")))
}

/// A kernel module's name.
pub(super) fn parse_module_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    // MODULE_NAME_LEN of 64-bit kernels, less the terminator.
    if (1..=55).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.into());
    }
    Err(format!("`{}` is not the name of a kernel module", Escaped::new(text)))
}

/// `name` or `name=value` for a kernel module.
pub(super) fn parse_module_parameter(text: &str) -> Result<String, String> {
    let name = text.split('=').next().unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name.is_empty()
        || !name.bytes().all(allowed)
        || text.len() > 1024
        || text.chars().any(char::is_control)
    {
        return Err(format!("`{}` is not a parameter of a kernel module", Escaped::new(text)));
    }
    Ok(text.into())
}

/// The name of an extended attribute that a layer may keep. What steers
/// overlayfs never may: it would hide or redirect parts of the base.
pub(super) fn parse_xattr_name(text: &str) -> Result<String, String> {
    let name = text.split_once('.').filter(|(class, _)| matches!(*class, "user" | "security" | "trusted"));
    let steers_overlay = |name: &str| name == "overlay" || name.starts_with("overlay.");
    match name {
        Some((_, name)) if steers_overlay(name) => {
            Err(format!("`{}` steers overlayfs and cannot be allowed", Escaped::new(text)))
        }
        Some((_, name))
            if !name.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(text.into())
        }
        _ => Err(format!(
            "`{}` is not the name of a user, security or trusted extended attribute",
            Escaped::new(text)
        )),
    }
}

/// `none`, `lz4`, `xz`, `gzip[:LEVEL]` or `zstd[:LEVEL]`.
pub fn parse_compression(text: &str) -> Result<Compression, String> {
    let (name, level) = match text.split_once(':') {
        None => (text, None),
        Some((name, level)) => (name, Some(level)),
    };
    let level = |default: u32, highest: u32| match level {
        None => Ok(default),
        Some(level) => {
            level.parse().ok().filter(|level| (1..=highest).contains(level)).ok_or_else(|| {
                format!("the level of {name} is 1 to {highest}, not `{}`", Escaped::new(level))
            })
        }
    };
    match name {
        "none" if text == name => Ok(Compression::None),
        "lz4" if text == name => Ok(Compression::Lz4),
        "xz" if text == name => Ok(Compression::Xz),
        "gzip" => Ok(Compression::Gzip { level: level(9, 9)? }),
        "zstd" => Ok(Compression::Zstd { level: level(3, 22)? }),
        _ => Err(format!(
            "expected none, lz4, xz, gzip[:LEVEL] or zstd[:LEVEL], found `{}`",
            Escaped::new(text)
        )),
    }
}

/// A power of two from `4KiB` to `1MiB`.
pub fn parse_block_size(text: &str) -> Result<u32, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    match u32::try_from(size) {
        Ok(size) if size.is_power_of_two() && BLOCK_SIZES.contains(&size) => Ok(size),
        _ => Err("a block is a power of two from 4KiB to 1MiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_plain() {
        for (text, expected) in [
            ("/opt/cni/bin", Ok("/opt/cni/bin")),
            ("/opt/", Ok("/opt")),
            ("opt", Err("is not absolute")),
            ("", Err("is not absolute")),
            ("/", Err("is the whole root")),
            ("/opt/../etc", Err("has an empty, `.` or `..` component")),
            ("/./opt", Err("has an empty, `.` or `..` component")),
            ("//opt", Err("has an empty, `.` or `..` component")),
            ("/opt//", Err("has an empty, `.` or `..` component")),
            ("/a\u{7}", Err("has a control character")),
        ] {
            let expected =
                expected.map(PathBuf::from).map_err(|e| format!("the path `{}` {e}", Escaped::new(text)));
            assert_eq!(parse_path(text), expected);
        }
        assert!(parse_path(&format!("/{}", "a".repeat(256))).is_err());
    }

    #[test]
    fn compressors_have_levels_in_their_range() {
        for (text, expected) in [
            ("none", Some(Compression::None)),
            ("gzip", Some(Compression::Gzip { level: 9 })),
            ("gzip:1", Some(Compression::Gzip { level: 1 })),
            ("zstd", Some(Compression::Zstd { level: 3 })),
            ("zstd:22", Some(Compression::Zstd { level: 22 })),
            ("lz4", Some(Compression::Lz4)),
            ("xz", Some(Compression::Xz)),
            ("none:1", None),
            ("lz4:1", None),
            ("xz:6", None),
            ("lzo", None),
            ("gzip:10", None),
            ("zstd:0", None),
            ("zstd:23", None),
            ("zstd:", None),
            ("zstd:-3", None),
        ] {
            assert_eq!(parse_compression(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn blocks_are_powers_of_two_that_squashfs_has() {
        for (text, expected) in [
            ("4KiB", Some(4096)),
            ("4096", Some(4096)),
            ("128KiB", Some(128 << 10)),
            ("1MiB", Some(1 << 20)),
            ("2KiB", None),
            ("2MiB", None),
            ("8GiB", None),
            ("100KiB", None),
            ("128kB", None),
            ("0", None),
        ] {
            assert_eq!(parse_block_size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn extended_attributes_that_steer_the_overlay_are_never_allowed() {
        for (text, allowed) in [
            ("user.checksum", true),
            ("security.capability", true),
            ("trusted.md5", true),
            ("trusted.overlay.opaque", false),
            ("user.overlay.redirect", false),
            ("trusted.overlay", false),
            ("system.posix_acl_access", false),
            ("user.", false),
            ("capability", false),
            ("user.a b", false),
        ] {
            assert_eq!(parse_xattr_name(text).is_ok(), allowed, "{text}");
        }
    }

    #[test]
    fn modules_and_their_parameters_are_single_words() {
        for (text, allowed) in
            [("br_netfilter", true), ("nvidia-drm", true), ("", false), ("../x", false), ("a b", false)]
        {
            assert_eq!(parse_module_name(text).is_ok(), allowed, "{text}");
        }
        for (text, allowed) in [
            ("modeset=1", true),
            ("debug", true),
            ("x=a b", true),
            ("=1", false),
            ("a b=1", false),
            ("a=\n", false),
        ] {
            assert_eq!(parse_module_parameter(text).is_ok(), allowed, "{text}");
        }
    }
}
