//! The absolute bounds on images and configurations, in one table.
//!
//! Owns [`Bound`], whose rows `docs/limits.md` repeats; [`Limits`], the values
//! that hold on a machine; and [`Budget`], what one image has cost so far. In:
//! `plywood.limits` of the configuration. Out: numbers, and [`Exceeded`], which
//! names the bound and the key that raises it. Invariant: every bound has a
//! value before the first foreign byte is read. Depends on nothing.

use std::fmt;
use std::io::{self, Read};

use Raised::Never;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    ImageBytes,
    ChangesetBytes,
    PackedBytes,
    Changesets,
    Entries,
    Names,
    PaxHeader,
    Padding,
    ManifestYaml,
    IndexDepth,
    Documents,
    BuildTime,
    Path,
    Component,
    Depth,
    SymlinkTarget,
    XattrName,
    XattrValue,
    LongName,
    ZstdWindow,
    GzipField,
    Document,
    Descriptors,
    ArchiveEntries,
    Redirects,
    TokenAnswer,
    ErrorAnswer,
    Config,
    YamlValues,
    YamlText,
    YamlDepth,
    Constraint,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub default: u64,
    pub unit: Unit,
    pub meaning: &'static str,
    pub raised: Raised,
}

/// What a bound counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Count,
    Seconds,
}

/// Whether a machine's configuration may set another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// By this key below `plywood.limits`, up to `most`, and why not further.
    By { key: &'static str, most: u64, why: &'static str },
    /// Never, and why.
    Never(&'static str),
}

const fn bytes(default: u64, meaning: &'static str, raised: Raised) -> Row {
    Row { default, unit: Unit::Bytes, meaning, raised }
}

const fn count(default: u64, meaning: &'static str, raised: Raised) -> Row {
    Row { default, unit: Unit::Count, meaning, raised }
}

const fn seconds(default: u64, meaning: &'static str, raised: Raised) -> Row {
    Row { default, unit: Unit::Seconds, meaning, raised }
}

const fn key(key: &'static str, most: u64, why: &'static str) -> Raised {
    Raised::By { key, most, why }
}

/// As [`key`], to any height.
const fn any(key: &'static str) -> Raised {
    Raised::By { key, most: u64::MAX, why: "" }
}

const LINUX: &str = "Linux has no longer ones";
const MEMORY: &str = "it takes memory";
const STACK: &str = "recursion takes stack";
const UNREAD: &str = "it holds for the configuration itself";

impl Bound {
    /// In the order of the table.
    pub const ALL: [Self; 32] = [
        Self::ImageBytes,
        Self::ChangesetBytes,
        Self::PackedBytes,
        Self::Changesets,
        Self::Entries,
        Self::Names,
        Self::PaxHeader,
        Self::Padding,
        Self::ManifestYaml,
        Self::IndexDepth,
        Self::Documents,
        Self::BuildTime,
        Self::Path,
        Self::Component,
        Self::Depth,
        Self::SymlinkTarget,
        Self::XattrName,
        Self::XattrValue,
        Self::LongName,
        Self::ZstdWindow,
        Self::GzipField,
        Self::Document,
        Self::Descriptors,
        Self::ArchiveEntries,
        Self::Redirects,
        Self::TokenAnswer,
        Self::ErrorAnswer,
        Self::Config,
        Self::YamlValues,
        Self::YamlText,
        Self::YamlDepth,
        Self::Constraint,
    ];

    /// The bound's row.
    pub const fn row(self) -> Row {
        match self {
            Self::ImageBytes => bytes(8 * GIB, "all content of an image, uncompressed", any("bytes")),
            Self::ChangesetBytes => {
                bytes(4 * GIB, "one changeset, or file of a squashfs, uncompressed", any("changesetBytes"))
            }
            Self::PackedBytes => {
                bytes(8 * GIB, "all changesets of an image, or its squashfs, as packed", any("packedBytes"))
            }
            Self::Changesets => count(128, "changesets of an image", key("changesets", 1000, MEMORY)),
            Self::Entries => count(
                200_000,
                "entries of an image, and directories that they imply",
                key("entries", u32::MAX as u64, "squashfs counts no further"),
            ),
            Self::Names => {
                bytes(16 * MIB, "all names, link targets and xattrs of an image", key("names", GIB, MEMORY))
            }
            Self::PaxHeader => bytes(MIB, "one pax header in a tar", key("paxHeader", GIB, MEMORY)),
            Self::Padding => bytes(16 * MIB, "zeros after the end of a tar", any("padding")),
            Self::ManifestYaml => bytes(64 * KIB, "`manifest.yaml`", key("manifest", MIB, MEMORY)),
            Self::IndexDepth => count(3, "indexes inside one another", key("indexDepth", 64, STACK)),
            Self::Documents => {
                count(64, "documents looked at in search of an image", key("documents", 100_000, MEMORY))
            }
            Self::BuildTime => seconds(
                30 * 60,
                "building one layer",
                key("buildTime", 7 * 24 * 3600, "no boot waits longer"),
            ),
            Self::Path => bytes(4096, "one path", key("path", 4096, LINUX)),
            Self::Component => bytes(255, "one component of a path", key("component", 255, LINUX)),
            Self::Depth => count(128, "components of one path", key("depth", 512, STACK)),
            Self::SymlinkTarget => bytes(4095, "one symlink's target", key("symlinkTarget", 4095, LINUX)),
            Self::XattrName => bytes(255, "one xattr's name", key("xattrName", 255, LINUX)),
            Self::XattrValue => bytes(64 * KIB, "one xattr's value", key("xattrValue", 64 * KIB, LINUX)),
            Self::LongName => bytes(64 * KIB, "one GNU long name in a tar", key("longName", GIB, MEMORY)),
            Self::ZstdWindow => bytes(
                8 * MIB,
                "the window of zstd, rounded down to a power of two",
                key("zstdWindow", 128 * MIB, MEMORY),
            ),
            Self::GzipField => bytes(64 * KIB, "one field of a gzip header", any("gzipField")),
            Self::Document => {
                bytes(4 * MIB, "one manifest, index or image config", key("document", 64 * MIB, MEMORY))
            }
            Self::Descriptors => {
                count(1000, "descriptors in one document", key("descriptors", 100_000, MEMORY))
            }
            Self::ArchiveEntries => {
                count(65_536, "entries of one image archive", key("archiveEntries", 10_000_000, MEMORY))
            }
            Self::Redirects => {
                count(5, "redirects of one request", key("redirects", 50, "it would be a loop"))
            }
            Self::TokenAnswer => bytes(64 * KIB, "a token server's answer", key("tokenAnswer", MIB, MEMORY)),
            Self::ErrorAnswer => bytes(
                16 * KIB,
                "a registry's words about an error",
                Never("the rest is left off, nothing is refused"),
            ),
            Self::Config => {
                bytes(MIB, "one configuration file", Never("its keys are read too late; use several files"))
            }
            Self::YamlValues => count(50_000, "values in one YAML file, aliases repeated", Never(UNREAD)),
            Self::YamlText => bytes(4 * MIB, "text in one YAML file, aliases repeated", Never(UNREAD)),
            Self::YamlDepth => count(64, "levels of one YAML document", Never(UNREAD)),
            Self::Constraint => {
                bytes(256, "one version or version constraint", Never("no host has a version as long"))
            }
        }
    }

    /// The value that holds where no configuration says otherwise.
    pub const fn default(self) -> u64 {
        self.row().default
    }

    /// The highest value that any configuration may set.
    pub const fn most(self) -> u64 {
        match self.row().raised {
            Raised::By { most, .. } => most,
            Never(_) => self.default(),
        }
    }

    /// As [`default`](Self::default), for lengths in memory.
    pub const fn length(self) -> usize {
        self.default() as usize
    }
}

/// The values that hold on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits([u64; Bound::ALL.len()]);

impl Default for Limits {
    fn default() -> Self {
        Self(Bound::ALL.map(Bound::default))
    }
}

impl Limits {
    pub fn get(&self, bound: Bound) -> u64 {
        self.0[bound as usize]
    }

    /// These limits with another value for one bound.
    #[must_use]
    pub fn with(mut self, bound: Bound, value: u64) -> Self {
        self.0[bound as usize] = value;
        self
    }

    /// Compares a whole amount.
    pub fn check(&self, bound: Bound, amount: u64) -> Result<(), Exceeded> {
        let limit = self.get(bound);
        if amount > limit { Err(Exceeded { bound, limit }) } else { Ok(()) }
    }
}

/// What one image has cost so far.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    limits: Limits,
    spent: [u64; Bound::ALL.len()],
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self { limits, spent: [0; Bound::ALL.len()] }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Adds to what was spent of one bound.
    pub fn spend(&mut self, bound: Bound, amount: u64) -> Result<(), Exceeded> {
        let spent = &mut self.spent[bound as usize];
        *spent = spent.saturating_add(amount);
        self.limits.check(bound, *spent)
    }

    /// Starts to count a bound anew.
    pub fn restart(&mut self, bound: Bound) {
        self.spent[bound as usize] = 0;
    }
}

/// More than a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub bound: Bound,
    pub limit: u64,
}

impl std::error::Error for Exceeded {}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { unit, meaning, raised, .. } = self.bound.row();
        write!(f, "more than the limit of {} for {meaning}", Amount(self.limit, unit))?;
        match raised {
            Raised::By { key, most, .. } if self.limit < most => write!(f, " (plywood.limits.{key})"),
            Raised::By { why, .. } | Raised::Never(why) => write!(f, " ({why})"),
        }
    }
}

/// A number with its unit, as the configuration writes it.
pub struct Amount(pub u64, pub Unit);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units: &[(&str, u64)] = match self.1 {
            Unit::Bytes => &[("GiB", GIB), ("MiB", MIB), ("KiB", KIB)],
            Unit::Count => &[],
            Unit::Seconds => &[("h", 3600), ("m", 60), ("s", 1)],
        };
        match units.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None if self.1 == Unit::Bytes => write!(f, "{} bytes", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Most extensions that a machine has, and layers that it mounts. The kernel
/// stacks no more directories in one overlay.
pub const MAX_EXTENSIONS: usize = 500;

/// All of `content`, unless that is more than `most` bytes.
pub fn read_at_most(content: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(format!("it is longer than {most} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_bounds() {
        for (place, bound) in Bound::ALL.into_iter().enumerate() {
            assert_eq!(bound as usize, place, "{bound:?}");
        }
    }

    /// `docs/limits.md` is this table.
    #[test]
    fn the_documentation_is_the_table() {
        let documented: Vec<_> =
            include_str!("../docs/limits.md").lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        let rows = Bound::ALL.map(|bound| {
            let Row { default, unit, meaning, raised } = bound.row();
            let (key, most) = match raised {
                Raised::By { key, most: u64::MAX, .. } => (format!("`plywood.limits.{key}`"), String::new()),
                Raised::By { key, most, why } => {
                    (format!("`plywood.limits.{key}`"), format!("at most {}: {why}", Amount(most, unit)))
                }
                Raised::Never(why) => ("fixed".into(), why.into()),
            };
            format!("| {meaning} | {} | {key} | {most} |", Amount(default, unit))
        });
        assert_eq!(documented, rows, "docs/limits.md should hold\n{}", rows.join("\n"));
    }

    #[test]
    fn what_is_exceeded_names_the_key_that_raises_it_or_why_none_does() {
        for (bound, limit, expected) in [
            (
                Bound::Depth,
                128,
                "more than the limit of 128 for components of one path (plywood.limits.depth)",
            ),
            (
                Bound::Depth,
                512,
                "more than the limit of 512 for components of one path (recursion takes stack)",
            ),
            (
                Bound::Component,
                255,
                "more than the limit of 255 bytes for one component of a path (Linux has no longer ones)",
            ),
            (
                Bound::Component,
                20,
                "more than the limit of 20 bytes for one component of a path (plywood.limits.component)",
            ),
        ] {
            assert_eq!(Exceeded { bound, limit }.to_string(), expected);
        }
    }

    #[test]
    fn amounts_are_written_as_in_the_configuration() {
        for (amount, unit, expected) in [
            (8 << 30, Unit::Bytes, "8GiB"),
            (1536 << 10, Unit::Bytes, "1536KiB"),
            (4095, Unit::Bytes, "4095 bytes"),
            (200_000, Unit::Count, "200000"),
            (1800, Unit::Seconds, "30m"),
            (90, Unit::Seconds, "90s"),
        ] {
            assert_eq!(Amount(amount, unit).to_string(), expected);
        }
    }

    #[test]
    fn no_more_is_read_than_is_allowed() {
        assert_eq!(read_at_most(&b"four"[..], 4).unwrap(), b"four");
        let error = read_at_most(&b"fives"[..], 4).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 4 bytes");
    }

    #[test]
    fn a_budget_is_spent_in_parts() {
        let mut budget = Budget::new(Limits::default().with(Bound::Entries, 2));
        assert_eq!(budget.spend(Bound::Entries, 2), Ok(()));
        let exceeded = budget.spend(Bound::Entries, 1).unwrap_err();
        assert_eq!(
            exceeded.to_string(),
            "more than the limit of 2 for entries of an image, and directories that they imply \
             (plywood.limits.entries)"
        );
        budget.restart(Bound::Entries);
        assert_eq!(budget.spend(Bound::Entries, 1), Ok(()));
        assert!(budget.spend(Bound::Entries, u64::MAX).is_err());
    }
}
