//! Shell patterns as in modules.alias: fnmatch(3) without flags.
//!
//! In: a pattern and a text, both as bytes. Out: whether they match.
//! Invariant: time is bounded by the product of their lengths, because only
//! the last `*` is ever reconsidered.

/// Whether `text` as a whole matches `pattern` (`*`, `?`, `[…]`, `[!…]`, `\x`).
pub fn matches(mut pattern: &[u8], mut text: &[u8]) -> bool {
    // What follows the last `*`, and the text it was last tried against.
    let mut last_star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            (last_star, pattern) = (Some((rest, text)), rest);
            continue;
        }
        let Some((&byte, after)) = text.split_first() else { return pattern.is_empty() };
        if let Some(rest) = match_one(pattern, byte) {
            (pattern, text) = (rest, after);
            continue;
        }
        let Some((rest, [_, later @ ..])) = last_star else { return false };
        (last_star, pattern, text) = (Some((rest, later)), rest, later);
    }
}

/// The pattern behind its first element, if that element matches `byte`.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => match match_set(rest, byte) {
            Some((true, rest)) => Some(rest),
            Some((false, _)) => None,
            // Never closed, so an ordinary character.
            None => (byte == b'[').then_some(rest),
        },
        [b'\\', escaped, rest @ ..] => (*escaped == byte).then_some(rest),
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

/// Reads a set up to its `]`: whether it holds `byte`, and what follows it.
fn match_set(set: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match set {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut found = false;
    let mut first = true;
    loop {
        let (range, after) = match rest {
            [b']', after @ ..] if !first => return Some((found != negated, after)),
            [low, b'-', high, after @ ..] if *high != b']' => (*low..=*high, after),
            [one, after @ ..] => (*one..=*one, after),
            [] => return None,
        };
        found |= range.contains(&byte);
        (rest, first) = (after, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, text, expected) in [
            ("fs_ext4", "fs_ext4", true),
            ("fs_ext4", "fs_ext", false),
            ("fs_ext", "fs_ext4", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00", true),
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00008086d00001000sv00001AF4sd00000001bc02sc00i00", false),
            ("*ab", "aab", true),
            ("*ab", "aba", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-", false),
            ("virtio:d0000000[12]v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d0000000[12]v*", "virtio:d00000003v00001AF4", false),
            ("x[0-9a-f]", "xb", true),
            ("x[0-9a-f]", "xg", false),
            ("x[!0-9]", "xa", true),
            ("x[!0-9]", "x5", false),
            ("x[]]", "x]", true),
            ("x[a-]", "x-", true),
            ("x[a", "x[a", true),
            ("?x", "yx", true),
            ("?x", "x", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        assert!(!matches("a*".repeat(1000).as_bytes(), "b".repeat(100_000).as_bytes()));
        assert!(!matches(["*a".repeat(200), "c".into()].concat().as_bytes(), "a".repeat(20_000).as_bytes()));
    }
}
