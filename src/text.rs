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
    fn long_text_is_cut() {
        let shown = Escaped(&[b'a'; 10_000]).to_string();
        assert_eq!(shown.chars().count(), MAX_CHARS + 1);
    }
}
