//! Reading a tree by key, with every problem reported and none fatal.
//!
//! Every reading method gives `None` after it has reported why. Whoever reads
//! takes what it gets and goes on, so that one run shows all problems.

use std::fmt::Display;
use std::str::FromStr;

use super::node::{Entry, Node, Scalar, ScalarKind, Value};
use super::problem::{Place, Report, path_to_item, path_to_key};
use crate::text::Escaped;

/// A node on its way to become a value: where it is and how to report on it.
#[derive(Clone)]
pub struct Cursor<'r> {
    node: &'r Node,
    path: String,
    report: &'r Report,
}

impl<'r> Cursor<'r> {
    /// The root of a document.
    pub fn root(node: &'r Node, report: &'r Report) -> Self {
        Self { node, path: String::new(), report }
    }

    pub fn place(&self) -> Place {
        self.report.place(self.node.line, self.node.column)
    }

    /// As in `machine.install.extensions[1].image`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The text of a scalar that is not null; no problem if this is something else.
    pub fn scalar(&self) -> Option<&'r str> {
        scalar(self.node)
    }

    /// The same for the value of `key`.
    pub fn peek(&self, key: &str) -> Option<&'r str> {
        scalar(self.node.get(key)?)
    }

    /// Reports that something is wrong here.
    pub fn problem(&self, message: impl Into<String>) {
        self.report.problem((self.node.line, self.node.column), &self.path, message);
    }

    /// A mapping with keys that are known beforehand.
    pub fn fields(&self) -> Option<Fields<'r>> {
        match &self.node.value {
            Value::Mapping(entries) => Some(Fields { at: self.clone(), entries, known: Vec::new() }),
            _ => self.unexpected("a mapping"),
        }
    }

    /// A mapping with keys that the user chooses.
    pub fn entries(&self) -> Option<Vec<(&'r str, Cursor<'r>)>> {
        let Value::Mapping(entries) = &self.node.value else { return self.unexpected("a mapping") };
        Some(entries.iter().map(|entry| (entry.key.as_str(), self.child(entry))).collect())
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Cursor<'r>>> {
        let Value::Sequence(items) = &self.node.value else { return self.unexpected("a list") };
        let item = |(index, node)| Self { node, path: path_to_item(&self.path, index), report: self.report };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A list whose items are all read by `read`; those it cannot read are left out.
    pub fn list<T>(&self, read: impl Fn(&Cursor<'r>) -> Option<T>) -> Option<Vec<T>> {
        Some(self.items()?.iter().filter_map(read).collect())
    }

    /// The text of a scalar that is not null, as written.
    pub fn text(&self) -> Option<&'r str> {
        scalar(self.node).or_else(|| self.unexpected("a string"))
    }

    /// `true` or `false`, not quoted.
    pub fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Bool(value), .. }) => Some(*value),
            _ => self.unexpected("true or false"),
        }
    }

    /// A scalar's text as a `T`. The message of a failure is `T`'s own.
    pub fn parse<T>(&self) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.parse_with(str::parse)
    }

    /// A scalar's text through `parse`, whose error becomes the message.
    pub fn parse_with<T, E: Display>(&self, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        parse(self.text()?).map_err(|error| self.problem(error.to_string())).ok()
    }

    /// One of the words in `choices`.
    pub fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if chosen.is_none() {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.problem(format!("expected one of {}, found `{}`", words.join(", "), Escaped::new(text)));
        }
        chosen
    }

    fn child(&self, entry: &'r Entry) -> Self {
        Self { node: &entry.value, path: path_to_key(&self.path, &entry.key), report: self.report }
    }

    /// Reports that this is not `expected`. The value is not shown: it may be a secret.
    fn unexpected<T>(&self, expected: &str) -> Option<T> {
        self.problem(format!("expected {expected}, found {}", self.node.description()));
        None
    }
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar(Scalar { text, kind }) if *kind != ScalarKind::Null => Some(text),
        _ => None,
    }
}

/// A mapping that is asked for its keys one by one, and at the end knows
/// which were not asked for.
pub struct Fields<'r> {
    at: Cursor<'r>,
    entries: &'r [Entry],
    known: Vec<&'static str>,
}

impl<'r> Fields<'r> {
    /// The mapping itself.
    pub fn at(&self) -> &Cursor<'r> {
        &self.at
    }

    /// The value of `key`. A null is as good as no key.
    pub fn optional(&mut self, key: &'static str) -> Option<Cursor<'r>> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key && !entry.value.is_null());
        #[cfg(test)]
        self.at.report.asked.borrow_mut().push((path_to_key(&self.at.path, key), entry.is_some()));
        entry.map(|entry| self.at.child(entry))
    }

    /// The value of `key`, which has to be there.
    pub fn required(&mut self, key: &'static str) -> Option<Cursor<'r>> {
        let value = self.optional(key);
        if value.is_none() {
            self.at.problem(format!("the key {key} is missing"));
        }
        value
    }

    /// Reports the keys that were not asked for.
    pub fn finish(self) {
        for entry in self.unknown() {
            self.report_unknown(entry, &path_to_key(&self.at.path, &entry.key));
        }
    }

    /// Like [`finish`](Self::finish), but does not show the keys: next to
    /// secrets, a missing space or quote makes a key of one.
    pub fn finish_among_secrets(self) {
        for entry in self.unknown() {
            self.report_unknown(entry, &self.at.path);
        }
    }

    fn report_unknown(&self, entry: &Entry, path: &str) {
        let mut message = match self.known.as_slice() {
            [only] => format!("unknown key, expected {only}"),
            known => format!("unknown key, expected one of {}", known.join(", ")),
        };
        if let Some(meant) = closest(&entry.key, &self.known) {
            message += &format!("; did you mean {meant}?");
        }
        self.at.report.problem((entry.line, entry.column), path, message);
    }

    /// The paths of the keys that were not asked for, where others own them.
    pub fn pass_over(self) -> Vec<String> {
        self.unknown().map(|entry| path_to_key(&self.at.path, &entry.key)).collect()
    }

    fn unknown(&self) -> impl Iterator<Item = &'r Entry> {
        self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str()))
    }
}

/// The known key that `key` was probably meant to be.
fn closest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    // Longer keys are no slips of the finger, and would cost time.
    if key.len() > 40 {
        return None;
    }
    let distance = |known: &&&str| edit_distance(&key.to_lowercase(), &known.to_lowercase());
    let closest = known.iter().min_by_key(distance)?;
    (distance(&closest) <= closest.len().div_ceil(3)).then_some(*closest)
}

/// How many characters to insert, remove or replace (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_recognised() {
        let known = ["keepGenerations", "host", "overlay", "rules"];
        for (key, meant) in [
            ("kepGenerations", Some("keepGenerations")),
            ("keepgenerations", Some("keepGenerations")),
            ("keep-generation", Some("keepGenerations")),
            ("hosts", Some("host")),
            ("rule", Some("rules")),
            ("overlays", Some("overlay")),
            ("network", None),
            ("", None),
        ] {
            assert_eq!(closest(key, &known), meant, "{key}");
        }
    }

    #[test]
    fn edit_distances_count_single_changes() {
        for (from, to, distance) in
            [("", "", 0), ("", "ab", 2), ("ab", "", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(from, to), distance, "{from} {to}");
        }
    }
}
