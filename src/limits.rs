//! Every absolute bound on what comes from strangers, in one table.
//!
//! Owns [`Bound`], whose rows `docs/limits.md` repeats; [`Limits`], the values
//! that hold on a machine; and [`Budget`], what one image has cost so far. In:
//! `plywood.limits` of the configuration. Out: numbers, and [`Exceeded`], which
//! names the bound and the key that raises it. Invariant: every bound has a
//! value before the first foreign byte is read. Depends on nothing.

use std::fmt;

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
    /// By this key below `plywood.limits`, up to `most`.
    By { key: &'static str, most: u64 },
    /// Never, and why.
    Never(&'static str),
}

const fn row(default: u64, unit: Unit, meaning: &'static str, raised: Raised) -> Row {
    Row { default, unit, meaning, raised }
}

const fn key(key: &'static str, most: u64) -> Raised {
    Raised::By { key, most }
}

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
        use Raised::Never;
        use Unit::{Bytes, Count, Seconds};
        let linux = Never("Linux has no longer ones");
        match self {
            Self::ImageBytes => {
                row(8 * GIB, Bytes, "all changesets of an image, uncompressed", key("bytes", u64::MAX))
            }
            Self::ChangesetBytes => {
                row(4 * GIB, Bytes, "one changeset, uncompressed", key("changesetBytes", u64::MAX))
            }
            Self::PackedBytes => {
                row(8 * GIB, Bytes, "all changesets of an image, as packed", key("packedBytes", u64::MAX))
            }
            Self::Changesets => row(128, Count, "changesets of an image", key("changesets", 1000)),
            Self::Entries => row(
                200_000,
                Count,
                "entries of all changesets, and directories that they imply",
                key("entries", u32::MAX as u64),
            ),
            Self::Names => {
                row(16 * MIB, Bytes, "all names, link targets and xattrs of an image", key("names", GIB))
            }
            Self::PaxHeader => row(MIB, Bytes, "one pax header in a tar", key("paxHeader", GIB)),
            Self::Padding => row(16 * MIB, Bytes, "zeros after the end of a tar", key("padding", u64::MAX)),
            Self::ManifestYaml => row(64 * KIB, Bytes, "`manifest.yaml`", key("manifest", MIB)),
            Self::IndexDepth => row(3, Count, "indexes inside one another", key("indexDepth", 64)),
            Self::Documents => {
                row(64, Count, "documents looked at in search of an image", key("documents", 100_000))
            }
            Self::BuildTime => row(30 * 60, Seconds, "building one layer", key("buildTime", 7 * 24 * 3600)),
            Self::Path => row(4096, Bytes, "one path", linux),
            Self::Component => row(255, Bytes, "one component of a path", linux),
            Self::Depth => row(128, Count, "components of one path", Never("trees are walked by recursion")),
            Self::SymlinkTarget => row(4095, Bytes, "one symlink's target", linux),
            Self::XattrName => row(255, Bytes, "one xattr's name", linux),
            Self::XattrValue => row(64 * KIB, Bytes, "one xattr's value", linux),
            Self::LongName => row(64 * KIB, Bytes, "one GNU long name in a tar", Never("paths are shorter")),
            Self::ZstdWindow => {
                row(8 * MIB, Bytes, "the window of zstd", Never("memory; RFC 8878, 3.1.1.1.2"))
            }
            Self::GzipField => {
                row(64 * KIB, Bytes, "one field of a gzip header", Never("nothing reads them"))
            }
            Self::Document => {
                row(4 * MIB, Bytes, "one manifest, index or image config", Never("distribution-spec"))
            }
            Self::Descriptors => row(1000, Count, "descriptors in one document", Never("memory")),
            Self::ArchiveEntries => {
                row(65_536, Count, "entries of one image archive", Never("an entry is a blob"))
            }
            Self::Redirects => row(5, Count, "redirects of one request", Never("loops")),
            Self::TokenAnswer => row(64 * KIB, Bytes, "a token server's answer", Never("memory")),
            Self::ErrorAnswer => row(16 * KIB, Bytes, "a registry's words about an error", Never("memory")),
            Self::Config => row(MIB, Bytes, "one configuration file", Never("it would come too late")),
            Self::YamlValues => {
                row(50_000, Count, "values in one YAML file, aliases repeated", Never("memory"))
            }
            Self::YamlText => row(4 * MIB, Bytes, "text in one YAML file, aliases repeated", Never("memory")),
            Self::YamlDepth => row(64, Count, "levels of one YAML document", Never("memory")),
            Self::Constraint => {
                row(256, Bytes, "one version or version constraint", Never("nobody needs more"))
            }
        }
    }

    /// The value that holds where no configuration says otherwise.
    pub const fn default(self) -> u64 {
        self.row().default
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
            Raised::By { key, .. } => write!(f, " (plywood.limits.{key})"),
            Raised::Never(_) => Ok(()),
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
                Raised::By { key, most: u64::MAX } => (format!("`plywood.limits.{key}`"), String::new()),
                Raised::By { key, most } => {
                    (format!("`plywood.limits.{key}`"), format!("at most {}", Amount(most, unit)))
                }
                Raised::Never(why) => ("fixed".into(), why.into()),
            };
            format!("| {meaning} | {} | {key} | {most} |", Amount(default, unit))
        });
        assert_eq!(documented, rows, "docs/limits.md should hold\n{}", rows.join("\n"));
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
    fn a_budget_is_spent_in_parts() {
        let mut budget = Budget::new(Limits::default().with(Bound::Entries, 2));
        assert_eq!(budget.spend(Bound::Entries, 2), Ok(()));
        let exceeded = budget.spend(Bound::Entries, 1).unwrap_err();
        assert_eq!(
            exceeded.to_string(),
            "more than the limit of 2 for entries of all changesets, and directories that they imply \
             (plywood.limits.entries)"
        );
        budget.restart(Bound::Entries);
        assert_eq!(budget.spend(Bound::Entries, 1), Ok(()));
        assert!(budget.spend(Bound::Entries, u64::MAX).is_err());
    }
}
