//! Foreign bytes made safe to print.
//!
//! Names from images, answers of registries and lines of configuration reach
//! consoles and logs. Whoever prints such text wraps it in [`Escaped`], so a
//! terminal never sees a control character, an escape sequence or a
//! bidirectional override that a stranger chose. Depends on nothing.

use std::fmt;
use std::path::Path;

/// Longest foreign text, in characters, that is printed before it is cut.
const MAX_CHARS: usize = 512;

/// Displays bytes as text: control characters, invalid UTF-8, backslashes and
/// invisible format characters become escapes, and long text is cut.
pub struct Escaped<'a>(pub &'a [u8]);

impl<'a> Escaped<'a> {
    /// Wraps anything that is bytes: `&str`, `&[u8]`, `Vec<u8>`, `OsStr` bytes.
    pub fn new(bytes: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self(bytes.as_ref())
    }

    /// Wraps a path, whose bytes need not be text.
    pub fn path(path: &'a Path) -> Self {
        Self(path.as_os_str().as_encoded_bytes())
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = MAX_CHARS;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if left == 0 {
                    return f.write_str("…");
                }
                left -= 1;
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", c as u32)?,
                    c if is_invisible(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                    c => fmt::Write::write_char(f, c)?,
                }
            }
            for byte in chunk.invalid() {
                if left == 0 {
                    return f.write_str("…");
                }
                left -= 1;
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// C1 controls, and format characters that reorder or hide text
/// (Unicode bidirectional controls, zero-width characters, line separators,
/// the byte order mark, tags).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Text as a part of a URL: what is not unreserved in RFC 3986, 2.3, as `%XX`.
pub fn percent_encoded(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte| if unreserved(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

/// The bytes that text with `%XX` in it stands for; nothing if a `%` is not
/// followed by two hexadecimal digits.
pub fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digits = str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
        rest = tail;
    }
    Some(bytes)
}

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;
/// Days of 400 years, after which the calendar repeats.
const DAYS_OF_400_YEARS: u64 = 146_097;
/// From 1 March of the year 0 to 1 January 1970.
const DAYS_BEFORE_1970: u64 = 719_468;

/// Seconds since 1970, printed as `1994-11-06 08:49:37 UTC`.
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = (self.0 / DAY).saturating_add(DAYS_BEFORE_1970);
        let day_of_era = days % DAYS_OF_400_YEARS;
        // A leap day ends every 4th year, but not every 100th unless it is a 400th.
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let (month, next) = if from_march < 10 { (from_march + 3, 0) } else { (from_march - 9, 1) };
        let year = days / DAYS_OF_400_YEARS * 400 + year_of_era + next;
        let time = self.0 % DAY;
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped() {
        for (bytes, expected) in [
            (&b"usr/bin/tool"[..], "usr/bin/tool"),
            ("größe".as_bytes(), "größe"),
            (b"a\x1b[31mb", "a\\x1b[31mb"),
            (b"a\nb\tc\0", "a\\nb\\tc\\x00"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            (b"back\\slash", "back\\\\slash"),
        ] {
            assert_eq!(Escaped(bytes).to_string(), expected);
        }
    }

    #[test]
    fn percent_signs_stand_before_two_digits() {
        for (text, bytes) in [
            ("a%2Fb%25", Some(&b"a/b%"[..])),
            ("%ff", Some(b"\xff")),
            ("", Some(b"")),
            ("%2", None),
            ("%+2", None),
            ("%zz", None),
        ] {
            assert_eq!(percent_decoded(text.as_bytes()).as_deref(), bytes, "{text}");
        }
    }

    #[test]
    fn long_text_is_cut() {
        let shown = Escaped(&[b'a'; 10_000]).to_string();
        assert_eq!(shown.chars().count(), MAX_CHARS + 1);
    }

    #[test]
    fn seconds_since_1970_are_printed_as_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (784_111_777, "1994-11-06 08:49:37 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_208_000, "2024-02-29 12:00:00 UTC"),
            (1_709_251_200, "2024-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
        }
    }
}
