//! What is wrong with an image, for the person who made it.

use std::collections::BTreeMap;
use std::fmt;

use crate::layer::changeset::ElfMachine;
use crate::text::Escaped;

/// Violations that are kept; more are counted. 100,000 of them take about 15 MB.
const MAX_KEPT: usize = 100_000;

/// Most lines of violations that are shown. The kernel log takes 40 lines of a
/// message, and whoever boots a machine sees little more at a time.
const PAGE: usize = 36;

/// What is wrong at one path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    #[error("only `manifest.yaml` and `rootfs` may be at the top of an extension")]
    Unexpected,
    #[error("is missing")]
    Missing,
    #[error("must be a regular file")]
    NotFile,
    #[error("must be a directory: it, or one below it, is shared with others")]
    NotDirectory,
    #[error("must be a directory or a regular file")]
    NotEither,
    #[error("is outside the allowed paths")]
    Outside,
    #[error("is also at `/{}`, with another content", Escaped::new(.other))]
    Conflict { other: Vec<u8> },
    #[error("hard link to `{}`, which is not allowed", Escaped::new(.target))]
    HardLink { target: Vec<u8> },
    #[error("hard link to `{}`, which is no regular file before it", Escaped::new(.target))]
    DanglingHardLink { target: Vec<u8> },
    #[error("special files are not allowed")]
    SpecialFile,
    #[error("world-writable files and directories are not allowed (mode {mode:04o})")]
    WorldWritable { mode: u16 },
    #[error("set-user-ID and set-group-ID are not allowed (mode {mode:04o})")]
    SetId { mode: u16 },
    #[error("the xattr `{}` is not allowed", Escaped::new(.name))]
    Xattr { name: Vec<u8> },
    #[error("names of whiteouts are not allowed")]
    WhiteoutName,
    #[error("kernel modules for another kernel, the host's is {}", Escaped::new(.expected))]
    ModuleRelease { expected: String },
    #[error("kernel module for {found}, the host is {expected}")]
    ModuleMachine { expected: ElfMachine, found: ElfMachine },
}

impl Rule {
    /// A name for machines, which stays the same.
    pub fn id(&self) -> &'static str {
        match self {
            Self::Unexpected => "unexpected",
            Self::Missing => "missing",
            Self::NotFile => "not-file",
            Self::NotDirectory => "not-directory",
            Self::NotEither => "not-directory-or-file",
            Self::Outside => "outside",
            Self::Conflict { .. } => "conflict",
            Self::HardLink { .. } => "hard-link",
            Self::DanglingHardLink { .. } => "dangling-hard-link",
            Self::SpecialFile => "special-file",
            Self::WorldWritable { .. } => "world-writable",
            Self::SetId { .. } => "set-id",
            Self::Xattr { .. } => "xattr",
            Self::WhiteoutName => "whiteout-name",
            Self::ModuleRelease { .. } => "module-release",
            Self::ModuleMachine { .. } => "module-machine",
        }
    }
}

/// A rule that does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// From the image's root, joined by slashes, as in the result: what was
    /// in `lib` is named in `usr/lib`.
    pub path: Vec<u8>,
    pub rule: Rule,
    /// The changeset that has it, 0 for the lowest; none has what is missing,
    /// and a squashfs has no changesets.
    pub changeset: Option<u16>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Escaped::new(&self.path), self.rule)?;
        self.changeset.map_or(Ok(()), |number| write!(f, " (changeset {number})"))
    }
}

/// All violations in an image, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    listed: Vec<Violation>,
    omitted: usize,
}

impl Violations {
    pub(super) fn add(&mut self, path: &[u8], rule: Rule, changeset: Option<u16>) {
        if self.listed.len() < MAX_KEPT {
            self.listed.push(Violation { path: path.into(), rule, changeset });
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn into_result(mut self) -> Result<(), Self> {
        self.listed.sort_by(|a, b| a.path.cmp(&b.path));
        if self.listed.is_empty() { Ok(()) } else { Err(self) }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.listed.iter()
    }

    /// How many there are beyond those that [`iter`](Self::iter) gives.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// A few of each rule, so that no rule hides behind another's many.
    fn fmt_by_rule(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rules: BTreeMap<&str, Vec<&Violation>> = BTreeMap::new();
        for violation in &self.listed {
            rules.entry(violation.rule.id()).or_default().push(violation);
        }
        let each = (PAGE / rules.len().max(1)).saturating_sub(1).max(1);
        for (id, violations) in rules {
            let shown = violations.len().min(each);
            violations.iter().take(shown).try_for_each(|violation| write!(f, "\n  {violation}"))?;
            if let more @ 1.. = violations.len() - shown {
                write!(f, "\n  … and {more} more of the rule {id}")?;
            }
        }
        if self.omitted > 0 {
            write!(f, "\n  … and {} more that were not kept", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// A line for their number, then one for each, by path; if that is more than
/// a page, some of each rule.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.listed.len() + self.omitted;
        write!(f, "the image breaks the rules for extensions in {count} ")?;
        f.write_str(if count == 1 { "place" } else { "places" })?;
        if count <= PAGE {
            return self.listed.iter().try_for_each(|violation| write!(f, "\n  {violation}"));
        }
        f.write_str(" (validate --json shows all)")?;
        self.fmt_by_rule(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rules: &[(Rule, usize)]) -> Violations {
        let mut found = Violations::default();
        for (rule, count) in rules {
            for number in 0..*count {
                found.add(format!("{number:06}\x1b").as_bytes(), rule.clone(), Some(2));
            }
        }
        found.into_result().unwrap_err()
    }

    #[test]
    fn violations_take_at_most_a_page() {
        let (special, outside) = (Rule::SpecialFile, Rule::Outside);
        let all = "the image breaks the rules for extensions in";
        for (rules, lines, expected) in [
            (&[(special.clone(), 1)][..], 2, vec![format!("{all} 1 place")]),
            (&[(special.clone(), 36)], 37, vec![format!("{all} 36 places")]),
            (
                &[(special.clone(), 37)],
                37,
                vec![
                    format!("{all} 37 places (validate --json shows all)"),
                    "  000000\\x1b: special files are not allowed (changeset 2)".into(),
                    "  … and 2 more of the rule special-file".into(),
                ],
            ),
            (
                &[(special.clone(), MAX_KEPT), (outside.clone(), 1)],
                38,
                vec!["  … and 1 more that were not kept".into()],
            ),
            (
                &[(special, 5000), (outside, 2)],
                21,
                vec![
                    "  000001\\x1b: is outside the allowed paths (changeset 2)".into(),
                    "  … and 4983 more of the rule special-file".into(),
                ],
            ),
        ] {
            let shown = found(rules).to_string();
            assert_eq!(shown.lines().count(), lines, "{shown}");
            for line in expected {
                assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
            }
        }
    }
}
