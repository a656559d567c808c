//! The tree a document becomes, and the core schema that types its scalars
//! (YAML 1.2.2, §10.3).

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    /// In the order of the file; no key occurs twice.
    Mapping(Vec<Entry>),
}

/// A scalar as written, so that `version: 1.10` stays `1.10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// Without quotes and with escapes resolved.
    pub text: String,
    pub kind: ScalarKind,
}

/// What a scalar is by the core schema. Quoted ones are strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarKind {
    Null,
    Bool(bool),
    Int,
    Float,
    String,
}

/// One key of a mapping, where the key begins, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub line: u32,
    pub column: u32,
    pub value: Node,
}

impl Node {
    /// The entries of a mapping; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The value of `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { kind: ScalarKind::Null, .. }))
    }

    /// What this is, with an article, for messages.
    pub(super) fn description(&self) -> &'static str {
        match &self.value {
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
            Value::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => "nothing",
                ScalarKind::Bool(_) => "a boolean",
                ScalarKind::Int | ScalarKind::Float => "a number",
                ScalarKind::String => "a string",
            },
        }
    }
}

impl ScalarKind {
    /// Types an untagged plain scalar.
    pub(super) fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            _ if is_int(text) => Self::Int,
            _ if is_float(text) => Self::Float,
            _ => Self::String,
        }
    }
}

fn is_int(text: &str) -> bool {
    let all = |digits: &str, is: fn(&u8) -> bool| !digits.is_empty() && digits.as_bytes().iter().all(is);
    if let Some(octal) = text.strip_prefix("0o") {
        return all(octal, |b| (b'0'..=b'7').contains(b));
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return all(hex, u8::is_ascii_hexdigit);
    }
    all(unsigned(text), u8::is_ascii_digit)
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`,
/// infinities and not-a-number.
fn is_float(text: &str) -> bool {
    let text = match text {
        ".nan" | ".NaN" | ".NAN" => return true,
        _ => unsigned(text),
    };
    if matches!(text, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        None => (text, None),
        Some((mantissa, exponent)) => (mantissa, Some(unsigned(exponent))),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::ScalarKind::{self, *};

    #[test]
    fn plain_scalars_have_the_types_of_the_core_schema() {
        for (text, kind) in [
            ("", Null),
            ("~", Null),
            ("null", Null),
            ("nULL", String),
            ("true", Bool(true)),
            ("FALSE", Bool(false)),
            ("yes", String),
            ("no", String),
            ("off", String),
            ("y", String),
            ("0", Int),
            ("-12", Int),
            ("007", Int),
            ("0o17", Int),
            ("0o8", String),
            ("0xFF", Int),
            ("0x", String),
            ("1_000", String),
            ("1.10", Float),
            (".5", Float),
            ("5.", Float),
            (".", String),
            ("-", String),
            ("1e3", Float),
            ("1e", String),
            ("e1", String),
            ("-.inf", Float),
            (".nan", Float),
            ("1.2.3", String),
            ("12:30", String),
            ("v1", String),
        ] {
            assert_eq!(ScalarKind::of_plain(text), kind, "{text:?}");
        }
    }
}
