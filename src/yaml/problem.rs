//! What is wrong with a file, and where.
//!
//! A [`Report`] gathers the problems of one file while it is read; reading
//! goes on after each. [`Problems`] of one or several files is the error that
//! the user gets. Messages hold foreign text only in escaped form.

use std::cell::RefCell;
use std::fmt;

use crate::text::Escaped;

/// Problems kept for each file. Whoever has more has one cause for most.
const MAX_PROBLEMS: usize = 100;

/// A place in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub source: String,
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", Escaped::new(&self.source), self.line, self.column)
    }
}

/// One thing that is wrong. Displayed as `FILE:LINE:COLUMN: path: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// As in `machine.install.extensions[1].image`; empty for the whole file.
    pub path: String,
    /// Lower case, without a full stop, safe to print.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// All that is wrong, one problem a line, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `Ok` with nothing wrong, all problems otherwise.
    pub fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Gathers the problems of one source. Shared by all who read it, so that
/// each may add a problem and go on.
pub struct Report {
    source: String,
    problems: RefCell<Vec<Problem>>,
    /// Keys that were looked for and whether they were there: how a test
    /// knows that the reference configuration shows every key.
    #[cfg(test)]
    pub(crate) asked: RefCell<Vec<(String, bool)>>,
}

impl Report {
    pub fn new(source: &str) -> Self {
        Self {
            source: source.into(),
            problems: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }

    pub fn place(&self, line: u32, column: u32) -> Place {
        Place { source: self.source.clone(), line, column }
    }

    /// Adds a problem at `(line, column)` in what `path` names.
    pub fn problem(&self, (line, column): (u32, u32), path: &str, message: impl Into<String>) {
        let mut problems = self.problems.borrow_mut();
        let problem = |message| Problem { place: self.place(line, column), path: path.into(), message };
        match problems.len() {
            0..MAX_PROBLEMS => problems.push(problem(message.into())),
            MAX_PROBLEMS => problems.push(problem("more problems follow, not shown".into())),
            _ => {}
        }
    }

    pub fn is_empty(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// The problems in the order of their places.
    pub fn finish(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.place.line, problem.place.column));
        problems
    }
}

/// `path` and a key below it: `.key`, or `["key"]` where that is not a word.
pub(super) fn path_to_key(path: &str, key: &str) -> String {
    let is_word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    match (is_word, path.is_empty()) {
        (true, true) => key.into(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[\"{}\"]", Escaped::new(key)),
    }
}

/// `path` and an index below it, counted from 0.
pub(super) fn path_to_item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}
