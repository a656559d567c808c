//! The kernel command line.
//!
//! In: the bytes of `/proc/cmdline`. Out: [`CommandLine`], its words split as
//! the kernel splits them, and [`BootParameters`], what plywood makes of them.
//! Invariant: the command line names a configuration, which a digest and a
//! public key can only pin; apart from that it can only reduce what the
//! configuration allows: it chooses among generations and leaves extensions
//! out, and never names a rule or a credential.

mod boot;
mod key;
mod location;

pub use boot::{BootParameters, FailureAction, RootAccess, RootWait};
pub use key::PublicKey;
pub use location::{ConfigLocation, ConfigRequest, Unset, UrlTemplate, Variable};

/// The words of a kernel command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    parameters: Vec<Parameter>,
    init_arguments: Vec<String>,
}

/// `key` or `key=value`, without the quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub key: String,
    pub value: Option<String>,
}

impl CommandLine {
    /// Splits a command line by the rules of the kernel's `next_arg()`. Never
    /// fails; bytes that are not UTF-8 are replaced.
    pub fn parse(text: &[u8]) -> Self {
        let mut parameters = Vec::new();
        let mut words = Words(text);
        for parameter in words.by_ref() {
            if parameter.value.is_none() && parameter.key == "--" {
                break;
            }
            parameters.push(parameter);
        }
        Self { parameters, init_arguments: words.map(Parameter::into_word).collect() }
    }

    /// The value of the last `key=value`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().filter(|p| p.key == key).filter_map(|p| p.value.as_deref()).next_back()
    }

    /// The values of every `key=value`, in order.
    pub fn get_all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.parameters.iter().filter(move |p| p.key == key).filter_map(|p| p.value.as_deref())
    }

    /// The last `key` or `key=value`.
    pub fn last(&self, key: &str) -> Option<&Parameter> {
        self.parameters.iter().rfind(|p| p.key == key)
    }

    /// Whether the last `key` or `key=value` switches on, as the kernel and
    /// systemd read booleans. Nothing if there is none or it says neither.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.last(key)?.value.as_deref() {
            None | Some("1" | "y" | "yes" | "t" | "true" | "on") => Some(true),
            Some("0" | "n" | "no" | "f" | "false" | "off") => Some(false),
            Some(_) => None,
        }
    }

    /// All words before `--`, in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The words after `--`, which are for init.
    pub fn init_arguments(&self) -> &[String] {
        &self.init_arguments
    }
}

impl Parameter {
    fn into_word(self) -> String {
        match self.value {
            None => self.key,
            Some(value) => self.key + "=" + &value,
        }
    }
}

/// What is left of a command line.
struct Words<'a>(&'a [u8]);

impl Iterator for Words<'_> {
    type Item = Parameter;

    fn next(&mut self) -> Option<Parameter> {
        let start = self.0.iter().position(|b| !is_space(*b))?;
        let (_, rest) = self.0.split_at(start);
        let mut quoted = false;
        let ends = |b: &u8| {
            quoted ^= *b == b'"';
            is_space(*b) && !quoted
        };
        let end = rest.iter().position(ends).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.0 = rest;
        Some(unquote(word))
    }
}

/// Splits a word at its first `=`. A quote at the very beginning or right
/// after the `=` goes, and with it the one at the end; all others stay.
fn unquote(word: &[u8]) -> Parameter {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let without_last = |bytes: &[u8]| text(bytes.strip_suffix(b"\"").unwrap_or(bytes));
    let (word, whole_quoted) = match word.strip_prefix(b"\"") {
        Some(word) => (word, true),
        None => (word, false),
    };
    let Some(equals) = word.iter().skip(1).position(|b| *b == b'=').map(|at| at + 1) else {
        let key = if whole_quoted { without_last(word) } else { text(word) };
        return Parameter { key, value: None };
    };
    let (key, value) = word.split_at(equals);
    let value = value.strip_prefix(b"=").unwrap_or(value);
    let value = match value.strip_prefix(b"\"") {
        Some(value) => without_last(value),
        None if whole_quoted => without_last(value),
        None => text(value),
    };
    Parameter { key: text(key), value: Some(value) }
}

/// `isspace()` of the kernel, where the Latin-1 no-break space is one.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0 | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as `key=value` with a visible border.
    fn shown(text: &[u8]) -> Vec<String> {
        let show = |p: &Parameter| match &p.value {
            None => format!("<{}>", p.key),
            Some(value) => format!("<{}>=<{value}>", p.key),
        };
        CommandLine::parse(text).parameters().iter().map(show).collect()
    }

    #[test]
    fn words_are_split_as_the_kernel_does() {
        for (text, expected) in [
            (&b""[..], &[][..]),
            (b" \t\n", &[]),
            (b"quiet ro\n", &["<quiet>", "<ro>"]),
            (b"root=/dev/vda1", &["<root>=</dev/vda1>"]),
            (b"root=LABEL=x", &["<root>=<LABEL=x>"]),
            (b"a= b", &["<a>=<>", "<b>"]),
            (b"a=\"b c\" d", &["<a>=<b c>", "<d>"]),
            (b"\"a=b c\" d", &["<a>=<b c>", "<d>"]),
            (b"\"a b\" c", &["<a b>", "<c>"]),
            (b"a=b\"c d\"e f", &["<a>=<b\"c d\"e>", "<f>"]),
            (b"a=\"b c", &["<a>=<b c>"]),
            (b"a=\"\"", &["<a>=<>"]),
            (b"\"", &["<>"]),
            (b"\"\"", &["<>"]),
            (b"=x", &["<=x>"]),
            (b"==x", &["<=>=<x>"]),
            (b"a b\xa0c", &["<a>", "<b>", "<c>"]),
            (b"a=\xff", &["<a>=<\u{fffd}>"]),
            (b"a=\"--\" -- b", &["<a>=<-->"]),
        ] {
            assert_eq!(shown(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_follows_two_dashes_is_for_init() {
        for (text, expected) in [
            ("quiet", &[][..]),
            ("quiet -- single", &["single"]),
            ("-- -b --x a=\"b c\" -- d", &["-b", "--x", "a=b c", "--", "d"]),
            ("--x=1 a", &[]),
        ] {
            assert_eq!(CommandLine::parse(text.as_bytes()).init_arguments(), expected, "{text}");
        }
    }

    #[test]
    fn the_last_word_wins() {
        let line = CommandLine::parse(b"a=1 b a=2 c=3 a b=no c");
        assert_eq!(line.get("a"), Some("2"));
        assert_eq!(line.get_all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((line.get("d"), line.flag("d")), (None, None));
        assert_eq!((line.flag("a"), line.flag("b"), line.flag("c")), (Some(true), Some(false), Some(true)));
    }

    #[test]
    fn a_flag_is_on_off_or_neither() {
        for (text, expected) in [
            ("x", Some(true)),
            ("x=1", Some(true)),
            ("x=yes", Some(true)),
            ("x=0", Some(false)),
            ("x=no", Some(false)),
            ("x=off", Some(false)),
            ("x=", None),
            ("x=maybe", None),
            ("X", None),
            ("x_=1", None),
        ] {
            assert_eq!(CommandLine::parse(text.as_bytes()).flag("x"), expected, "{text}");
        }
    }

    #[test]
    fn mutated_lines_never_panic() {
        let text =
            b"root=LABEL=\"a b\" rootwait=3 plywood.config=inline:YTog plywood.skip=a,b panic=-1 -- x=\"y\"";
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for _ in 0..20_000 {
            let mut mutant = text.to_vec();
            for _ in 0..1 + next() % 6 {
                let at = next() % mutant.len();
                match next() % 3 {
                    0 => mutant[at] = next() as u8,
                    1 => mutant.insert(at, b"\"= -.,:\xa0\xff0"[next() % 10]),
                    _ => mutant.truncate(at.max(1)),
                }
            }
            BootParameters::new(&CommandLine::parse(&mutant));
        }
        for byte in 0..=255 {
            BootParameters::new(&CommandLine::parse(&[byte; 4096]));
        }
    }
}
