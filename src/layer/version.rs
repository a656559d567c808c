//! Host versions and the constraints that manifests put on them.
//!
//! In: `compatibility` strings as the extension catalogue writes them, and
//! versions of hosts as distributions write them. Out: [`Constraint`], which
//! says whether it admits a [`Version`]. Ordering is that of semantic
//! versioning, without the exception for pre-releases that dependency
//! resolvers make. Like Talos, a host is compared by its *core* version: a
//! host that runs `1.10.0-beta.2` satisfies `>= 1.10.0`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use semver::{BuildMetadata, Prerelease, Version};

use crate::limits::Bound;
use crate::text::Escaped;

/// Longest constraint or version, in bytes.
const MAX_LENGTH: usize = Bound::Constraint.length();

/// Why a text is not a version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not a version (as in 1.2.3, v1.2, 12 or 20260101.0)", Escaped::new(.0))]
pub struct VersionError(pub String);

/// Reads a version of one to three numbers, with or without `v` before them
/// and with or without a pre-release: `v1.9.0-beta.1`, `12`, `24.04`,
/// `20260101.0`. Numbers that are missing count as 0.
pub fn parse_version(text: &str) -> Result<Version, VersionError> {
    let error = || VersionError(text.into());
    match Pattern::parse(text.trim()).ok_or_else(error)? {
        Pattern::Exact(version) => Ok(version),
        Pattern::Any | Pattern::Major(_) | Pattern::Minor(..) => Err(error()),
    }
}

/// A version, or all versions that begin alike (`1.2.x`).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(Version),
    /// `x`
    Any,
    /// `1.x`
    Major(u64),
    /// `1.2.x`
    Minor(u64, u64),
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (text, build) = match text.split_once('+') {
            None => (text, BuildMetadata::EMPTY),
            Some((text, build)) => (text, BuildMetadata::new(build).ok()?),
        };
        let (core, pre) = match text.split_once('-') {
            None => (text, Prerelease::EMPTY),
            Some((core, pre)) => (core, Prerelease::new(pre).ok().filter(|pre| !pre.is_empty())?),
        };
        let parts: Vec<Part> = core.split('.').map(Part::parse).collect::<Option<_>>()?;
        let exact = |major, minor, patch| Version { major, minor, patch, pre, build };
        match parts.as_slice() {
            [Part::Number(major)] => Some(Self::Exact(exact(*major, 0, 0))),
            [Part::Number(major), Part::Number(minor)] => Some(Self::Exact(exact(*major, *minor, 0))),
            [Part::Number(major), Part::Number(minor), Part::Number(patch)] => {
                Some(Self::Exact(exact(*major, *minor, *patch)))
            }
            _ if text.len() != core.len() => None,
            [Part::Wildcard] => Some(Self::Any),
            [Part::Number(major), Part::Wildcard] => Some(Self::Major(*major)),
            [Part::Number(major), Part::Wildcard, Part::Wildcard] => Some(Self::Major(*major)),
            [Part::Number(major), Part::Number(minor), Part::Wildcard] => Some(Self::Minor(*major, *minor)),
            _ => None,
        }
    }

    /// Where `version` lies: before, among or after what is meant.
    fn position_of(&self, version: &Version) -> Ordering {
        match self {
            Self::Exact(exact) => version.cmp_precedence(exact),
            Self::Any => Ordering::Equal,
            Self::Major(major) => version.major.cmp(major),
            Self::Minor(major, minor) => (version.major, version.minor).cmp(&(*major, *minor)),
        }
    }
}

enum Part {
    Number(u64),
    Wildcard,
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "x" | "X" | "*" => Some(Self::Wildcard),
            // `u64::from_str` takes a sign.
            _ if !text.bytes().all(|b| b.is_ascii_digit()) => None,
            _ => text.parse().ok().map(Self::Number),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    /// In the order in which they are tried: longer ones first.
    const WRITTEN: [(&str, Self); 8] = [
        (">=", Self::GreaterOrEqual),
        ("<=", Self::LessOrEqual),
        ("!=", Self::NotEqual),
        ("==", Self::Equal),
        (">", Self::Greater),
        ("<", Self::Less),
        ("=", Self::Equal),
        ("!", Self::NotEqual),
    ];

    fn holds(self, position: Ordering) -> bool {
        match self {
            Self::Equal => position.is_eq(),
            Self::NotEqual => position.is_ne(),
            Self::Less => position.is_lt(),
            Self::LessOrEqual => position.is_le(),
            Self::Greater => position.is_gt(),
            Self::GreaterOrEqual => position.is_ge(),
        }
    }
}

/// Which versions of a host an extension works on.
///
/// Alternatives are separated by `||`; within one, comparisons separated by
/// spaces or commas all have to hold. A comparison is an operator (`=`, `==`
/// or none, `!=`, `!`, `<`, `<=`, `>`, `>=`) and a version, which may have a `v`
/// before it, miss its last numbers (they count as 0) or end in a wildcard
/// (`1.2.x`, meaning all of 1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    text: String,
    alternatives: Vec<Vec<(Operator, Pattern)>>,
}

/// Why a text is not a version constraint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConstraintError {
    #[error("version constraint is longer than {MAX_LENGTH} bytes")]
    TooLong,
    #[error("version constraint `{}`: expected a comparison as in >= 1.2 at column {column}", Escaped::new(.constraint))]
    Missing { constraint: String, column: usize },
    #[error("version constraint `{}`: `{}` at column {column} is not a version", Escaped::new(.constraint), Escaped::new(.found))]
    Version { constraint: String, found: String, column: usize },
}

impl Constraint {
    /// Whether a host of this version will do. Its pre-release does not count.
    pub fn admits(&self, host: &Version) -> bool {
        let core = Version::new(host.major, host.minor, host.patch);
        let holds = |(operator, pattern): &(Operator, Pattern)| operator.holds(pattern.position_of(&core));
        self.alternatives.iter().any(|comparisons| comparisons.iter().all(holds))
    }
}

/// As it was written.
impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped::new(&self.text).fmt(f)
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        if text.len() > MAX_LENGTH {
            return Err(ConstraintError::TooLong);
        }
        let mut alternatives = Vec::new();
        let mut rest = Rest { whole: text, left: text };
        loop {
            alternatives.push(rest.comparisons()?);
            if !rest.skip("||") {
                return Ok(Self { text: text.into(), alternatives });
            }
        }
    }
}

/// What is left of a constraint while it is read.
struct Rest<'a> {
    whole: &'a str,
    left: &'a str,
}

impl<'a> Rest<'a> {
    /// One or more comparisons, up to `||` or the end.
    fn comparisons(&mut self) -> Result<Vec<(Operator, Pattern)>, ConstraintError> {
        let mut comparisons = Vec::new();
        loop {
            self.left = self.left.trim_start();
            if !comparisons.is_empty() {
                if self.left.is_empty() || self.left.starts_with("||") {
                    return Ok(comparisons);
                }
                self.skip(",");
                self.left = self.left.trim_start();
            }
            comparisons.push(self.comparison()?);
        }
    }

    fn comparison(&mut self) -> Result<(Operator, Pattern), ConstraintError> {
        let written = Operator::WRITTEN.iter().find(|(written, _)| self.skip(written));
        let operator = written.map_or(Operator::Equal, |(_, operator)| *operator);
        self.left = self.left.trim_start();
        let end = self.left.find([' ', '\t', '\n', ',', '|', '<', '>', '=', '!']).unwrap_or(self.left.len());
        let (word, left) = self.left.split_at(end);
        let (constraint, column) = (self.whole.to_string(), self.column());
        if word.is_empty() {
            return Err(ConstraintError::Missing { constraint, column });
        }
        let Some(pattern) = Pattern::parse(word) else {
            return Err(ConstraintError::Version { constraint, found: word.into(), column });
        };
        self.left = left;
        Ok((operator, pattern))
    }

    fn skip(&mut self, prefix: &str) -> bool {
        match self.left.strip_prefix(prefix) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// In characters, counted from 1.
    fn column(&self) -> usize {
        let read = self.whole.len() - self.left.len();
        self.whole.get(..read).unwrap_or_default().chars().count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_hosts_write_them() {
        for (text, expected) in [
            ("1.9.0", "1.9.0"),
            ("v1.9.0", "1.9.0"),
            ("12", "12.0.0"),
            ("24.04", "24.4.0"),
            ("3.20.3", "3.20.3"),
            ("20260101.0", "20260101.0.0"),
            ("v1.10.0-alpha.2", "1.10.0-alpha.2"),
            ("1.9-rc.1+build", "1.9.0-rc.1+build"),
            (" 1.0 ", "1.0.0"),
        ] {
            assert_eq!(parse_version(text).map(|v| v.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for text in
            ["", "v", "vv1", "rolling", "1.2.3.4", "1..2", "1.x", "x", "-1", "+1", "1.2.", "1-", "1.0-a_b"]
        {
            assert_eq!(parse_version(text), Err(VersionError(text.into())), "{text}");
        }
        assert!(parse_version("99999999999999999999").is_err());
    }

    #[test]
    fn constraints_admit_what_they_say() {
        for (constraint, admitted, refused) in [
            (">= v1.0.0", &["1.0.0", "2", "1.0.0-alpha.1"][..], &["0.9.9"][..]),
            (">= 1.9.0-alpha.0", &["1.9.0", "1.9.0-alpha.0"], &["1.8.9"]),
            ("> v0.15.0-alpha.1", &["0.15.0", "0.16.0-beta.0"], &["0.14.9"]),
            (">= 1.2 < 2 || 3.x", &["1.2.0", "1.99", "3.0.0", "3.7.1"], &["1.1.9", "2.0.0", "4"]),
            (">= 1.2, < 2", &["1.2"], &["2", "1"]),
            (">=1.2,<2", &["1.2"], &["2", "1"]),
            (">=1.2<2", &["1.2"], &["2", "1"]),
            ("1.2.x", &["1.2.0", "1.2.9"], &["1.3.0", "1.1.9"]),
            (">1.2.x", &["1.3.0", "2"], &["1.2.9"]),
            ("<=1.2.x", &["1.2.9", "1"], &["1.3.0"]),
            ("!=1.2.x", &["1.3", "1.1.9"], &["1.2.0", "1.2.7"]),
            ("!= 1.5.0", &["1.5.1"], &["1.5"]),
            ("!1.5.0", &["1.5.1"], &["1.5"]),
            ("= 12", &["12"], &["13", "12.1"]),
            ("==12", &["12"], &["11"]),
            ("12", &["12.0.0"], &["11"]),
            ("20260101.0", &["20260101.0"], &["20260102.0"]),
            ("*", &["0.0.0", "99"], &[]),
            ("1.x.x", &["1.2.3"], &["2"]),
            ("> 1 || < 1", &["2", "0.1"], &["1.0.0"]),
        ] {
            let parsed: Constraint = constraint.parse().unwrap();
            assert_eq!(parsed.to_string(), constraint);
            for (versions, expected) in [(admitted, true), (refused, false)] {
                for version in versions {
                    let host = parse_version(version).unwrap();
                    assert_eq!(parsed.admits(&host), expected, "{version} and {constraint}");
                }
            }
        }
    }

    #[test]
    fn malformed_constraints_are_refused_with_their_place() {
        let missing = "expected a comparison as in >= 1.2 at column";
        for (constraint, message) in [
            ("", format!("{missing} 1")),
            ("  ", format!("{missing} 3")),
            (">=", format!("{missing} 3")),
            (">= 1 ||", format!("{missing} 8")),
            ("|| 1", format!("{missing} 1")),
            ("1 || || 2", format!("{missing} 6")),
            (">= 1,", format!("{missing} 6")),
            (">= 1,, 2", format!("{missing} 6")),
            ("1 | 2", format!("{missing} 3")),
            (">>1", format!("{missing} 2")),
            ("=> 1", format!("{missing} 2")),
            ("~> 1.2", "`~` at column 1 is not a version".into()),
            ("^1.2", "`^1.2` at column 1 is not a version".into()),
            (">= 1..2", "`1..2` at column 4 is not a version".into()),
            (">= 1.x.2", "`1.x.2` at column 4 is not a version".into()),
            ("1.x-rc.1", "`1.x-rc.1` at column 1 is not a version".into()),
            ("é 1", "`é` at column 1 is not a version".into()),
            ("1 latest", "`latest` at column 3 is not a version".into()),
        ] {
            let error = constraint.parse::<Constraint>().unwrap_err().to_string();
            assert_eq!(error, format!("version constraint `{constraint}`: {message}"));
        }
        assert_eq!(">".repeat(257).parse::<Constraint>(), Err(ConstraintError::TooLong));
    }
}
