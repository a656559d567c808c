//! When to ask again: capped exponential backoff with jitter, and what
//! `Retry-After` says (RFC 9110, 10.2.3).
//!
//! In: the number of failures so far, and headers. Out: pauses. Invariant:
//! nothing here reads a clock. A date counts from the server's own `Date`,
//! so that a machine without the time of day understands it too.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use ureq::http::{HeaderMap, header};

use super::date;
use crate::fetch::Timeouts;

/// Most attempts at an endpoint in a row without a byte of progress.
pub(super) const ATTEMPTS: u32 = 5;

/// The pause after `failures` failures in a row: between half and all of a
/// time that doubles, so that machines that fail together do not return
/// together.
pub(super) fn pause(timeouts: &Timeouts, failures: u32) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let whole = timeouts.backoff.saturating_mul(doubled).min(timeouts.longest_pause);
    whole / 2 + whole.mul_f64(f64::from(random_byte()) / 512.0)
}

fn random_byte() -> u8 {
    let mut byte = [0];
    // Without randomness there is no jitter, which is no reason to fail.
    let _ = SystemRandom::new().fill(&mut byte);
    byte[0]
}

/// How long `Retry-After` asks to wait; nothing if it is missing or cannot be
/// understood.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let after = text(header::RETRY_AFTER)?;
    if !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(after.parse().unwrap_or(u64::MAX)));
    }
    let until = date::parse(after)?;
    let now = date::parse(text(header::DATE)?)?;
    Some(Duration::from_secs(until.saturating_sub(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_beside_the_servers_own() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let later = "Sun, 06 Nov 1994 08:49:40 GMT";
        for (after, now, seconds) in [
            ("2", None, Some(2)),
            ("99999", None, Some(99_999)),
            ("99999999999999999999999", None, Some(u64::MAX)),
            (later, Some(date), Some(3)),
            (date, Some(later), Some(0)),
            (later, None, None),
            ("-1", None, None),
            ("soon", Some(date), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, after.parse().unwrap());
            if let Some(now) = now {
                headers.insert(header::DATE, now.parse().unwrap());
            }
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{after}");
        }
    }

    #[test]
    fn pauses_double_up_to_their_cap() {
        let timeouts = Timeouts::default();
        for (failures, milliseconds) in
            [(1, 500), (2, 1000), (3, 2000), (7, 32_000), (8, 60_000), (99, 60_000)]
        {
            let whole = Duration::from_millis(milliseconds);
            let pause = pause(&timeouts, failures);
            assert!(whole / 2 <= pause && pause <= whole, "{failures}: {pause:?}");
        }
    }
}
