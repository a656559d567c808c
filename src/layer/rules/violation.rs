//! What is wrong with an image, for the person who made it.

use std::fmt;

use crate::layer::changeset::ElfMachine;
use crate::text::Escaped;

/// Violations that are kept and shown; more are counted.
const MAX_LISTED: usize = 1000;

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

/// A rule that does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// From the image's root, joined by slashes, as in the result: what was
    /// in `lib` is named in `usr/lib`.
    pub path: Vec<u8>,
    pub rule: Rule,
    /// The changeset that has it, 0 for the lowest.
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
        if self.listed.len() < MAX_LISTED {
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
}

impl std::error::Error for Violations {}

/// A line for their number, then one for each.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.listed.len() + self.omitted;
        write!(f, "the image breaks the rules for extensions in {count} ")?;
        f.write_str(if count == 1 { "place" } else { "places" })?;
        self.listed.iter().try_for_each(|violation| write!(f, "\n  {violation}"))?;
        if self.omitted > 0 {
            write!(f, "\n  and {} more", self.omitted)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_listed_up_to_a_limit() {
        let mut found = Violations::default();
        for number in 0..=MAX_LISTED {
            found.add(format!("{number:04}\x1b").as_bytes(), Rule::SpecialFile, Some(2));
        }
        let shown = found.into_result().unwrap_err().to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], "the image breaks the rules for extensions in 1001 places");
        assert_eq!(lines[1], "  0000\\x1b: special files are not allowed (changeset 2)");
        assert_eq!(lines[MAX_LISTED + 1..], ["  and 1 more"]);
    }
}
