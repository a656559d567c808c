//! Numbers with units: one parser for sizes, one for durations.

use std::time::Duration;

use crate::text::Escaped;

/// Why a text is not a number with a unit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnitError {
    #[error("`{}` is not a size (as in 128KiB, 64MiB, 2GiB or a number of bytes)", Escaped::new(.0))]
    Size(String),
    #[error("`{}` is not a duration (as in 500ms, 30s, 5m or 1h30m)", Escaped::new(.0))]
    Duration(String),
}

/// Bytes, as in `128KiB`, `64 MiB`, `2GiB`, `1TiB` or `4096`.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let error = || UnitError::Size(text.into());
    let (number, unit) = split_number(text).ok_or_else(error)?;
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(error()),
    };
    number.checked_mul(1 << shift).ok_or_else(error)
}

/// A sum of numbers with units, as in `500ms`, `30s`, `5m`, `1h30m`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let error = || UnitError::Duration(text.into());
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(error)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(error()),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(error)?;
        total = total.checked_add(part).ok_or_else(error)?;
        rest = after;
    }
    Ok(total)
}

/// The digits a text begins with, as a number, and what follows.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("12B", Some(12)),
            ("128KiB", Some(128 << 10)),
            ("64 MiB", Some(64 << 20)),
            ("2GiB", Some(2 << 30)),
            ("1TiB", Some(1 << 40)),
            ("128KB", None),
            ("128k", None),
            ("1.5GiB", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("MiB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_sums_with_units() {
        let milliseconds = |n| Some(Duration::from_millis(n));
        for (text, expected) in [
            ("500ms", milliseconds(500)),
            ("30s", milliseconds(30_000)),
            ("5m", milliseconds(300_000)),
            ("1h30m", milliseconds(5_400_000)),
            ("0s", milliseconds(0)),
            ("30", None),
            ("", None),
            ("s", None),
            ("1d", None),
            ("1.5s", None),
            ("-1s", None),
            ("1s30", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expected, "{text}");
        }
    }
}
