//! Numbers in tar headers.
//!
//! Octal digits, after spaces and before spaces or NULs, or base-256: the
//! first bit set, the rest big-endian and two's complement (GNU tar). A field
//! of spaces and NULs alone is 0, as every parser has it.

/// Why a field is no number for us.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NumberProblem {
    #[error("is not a number")]
    Malformed,
    #[error("is negative")]
    Negative,
    #[error("is too large")]
    TooLarge,
}

/// Reads a field that may not be negative; at most 2^63 - 1.
pub(super) fn unsigned(field: &[u8]) -> Result<u64, NumberProblem> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

/// Reads seconds since 1970. Times before and after what a layer can hold
/// become the first and last that it can. GNU tar refuses what 64 bits cannot
/// hold.
pub(super) fn time(field: &[u8]) -> Result<u32, NumberProblem> {
    match unsigned(field) {
        Ok(seconds) => Ok(u32::try_from(seconds).unwrap_or(u32::MAX)),
        Err(NumberProblem::Negative) if is_64_bits(field) => Ok(0),
        Err(NumberProblem::Negative) => Err(NumberProblem::TooLarge),
        Err(problem) => Err(problem),
    }
}

/// Whether a negative base-256 number is at least -2^63.
fn is_64_bits(field: &[u8]) -> bool {
    let (sign, value) = field.split_at(field.len().saturating_sub(8));
    sign.iter().all(|&byte| byte == 0xff) && value.first().is_some_and(|byte| byte & 0x80 != 0)
}

/// Reads decimal digits, nothing else; at most 2^63 - 1.
pub(super) fn decimal(digits: &[u8]) -> Result<u64, NumberProblem> {
    if digits.first() == Some(&b'-') {
        return Err(NumberProblem::Negative);
    }
    number(digits, 10)
}

fn octal(field: &[u8]) -> Result<u64, NumberProblem> {
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    if field.iter().all(is_filler) {
        return Ok(0);
    }
    let start = field.iter().position(|&byte| byte != b' ').unwrap_or(0);
    let digits = &field[start..];
    let end = digits.iter().position(is_filler).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(is_filler) {
        return Err(NumberProblem::Malformed);
    }
    number(digits, 8)
}

fn number(digits: &[u8], radix: u64) -> Result<u64, NumberProblem> {
    if digits.is_empty() {
        return Err(NumberProblem::Malformed);
    }
    let mut value = 0u64;
    for &digit in digits {
        let digit = char::from(digit).to_digit(radix as u32).ok_or(NumberProblem::Malformed)?;
        value = value
            .checked_mul(radix)
            .and_then(|value| value.checked_add(u64::from(digit)))
            .filter(|&value| i64::try_from(value).is_ok())
            .ok_or(NumberProblem::TooLarge)?;
    }
    Ok(value)
}

fn base256(field: &[u8]) -> Result<u64, NumberProblem> {
    let mut value = 0u64;
    for (index, &byte) in field.iter().enumerate() {
        let byte = if index == 0 { byte & 0x7f } else { byte };
        if index == 0 && byte & 0x40 != 0 {
            return Err(NumberProblem::Negative);
        }
        if value >> 55 != 0 {
            return Err(NumberProblem::TooLarge);
        }
        value = value << 8 | u64::from(byte);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_octal_or_base256() {
        use NumberProblem::{Malformed, Negative, TooLarge};
        for (field, expected) in [
            (&b"00000000644\0"[..], Ok(0o644)),
            (b"  644 \0", Ok(0o644)),
            (b"0000644 ", Ok(0o644)),
            (b"777777777777", Ok(0o777_777_777_777)),
            (b"\0\0\0\0", Ok(0)),
            (b"    ", Ok(0)),
            (b"", Ok(0)),
            (b"644\0garbage", Err(Malformed)),
            (b"64 4", Err(Malformed)),
            (b"\x00644", Err(Malformed)),
            (b"0x1f", Err(Malformed)),
            (b"+644", Err(Malformed)),
            (b"-644", Err(Malformed)),
            (b"689\0", Err(Malformed)),
            (b"7777777777777777777777777", Err(TooLarge)),
            (b"\x80\0\0\0\0\0\0\x01", Ok(1)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Ok(i64::MAX as u64)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", Err(TooLarge)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", Err(TooLarge)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(TooLarge)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Err(Negative)),
        ] {
            assert_eq!(unsigned(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn times_are_clamped_to_what_a_layer_holds() {
        for (field, expected) in [
            (&b"14774167456\0"[..], Ok(0o14774167456)),
            (b"777777777777", Ok(u32::MAX)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Ok(0)),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Ok(0)),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", Err(NumberProblem::TooLarge)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Ok(u32::MAX)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", Err(NumberProblem::TooLarge)),
            (b"yesterday", Err(NumberProblem::Malformed)),
            (b"-1", Err(NumberProblem::Malformed)),
        ] {
            assert_eq!(time(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn decimals_are_digits_only() {
        use NumberProblem::{Malformed, Negative, TooLarge};
        for (digits, expected) in [
            (&b"0"[..], Ok(0)),
            (b"9223372036854775807", Ok(i64::MAX as u64)),
            (b"9223372036854775808", Err(TooLarge)),
            (b"18446744073709551616", Err(TooLarge)),
            (b"", Err(Malformed)),
            (b"+1", Err(Malformed)),
            (b" 1", Err(Malformed)),
            (b"1 ", Err(Malformed)),
            (b"0x1", Err(Malformed)),
            (b"-1", Err(Negative)),
        ] {
            assert_eq!(decimal(digits), expected, "{}", digits.escape_ascii());
        }
    }
}
