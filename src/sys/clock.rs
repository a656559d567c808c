//! The system's time of day.
//!
//! In: a time. Out: the kernel's clock, set to it. Invariant: the clock is
//! only ever set forward.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_settime};

use super::{Error, failed};

/// The time since 1970; nothing for a clock that is before that.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Sets the clock to `time` since 1970 if it is behind, and returns what it
/// was then.
pub fn advance_to(time: Duration) -> Result<Option<Duration>, Error> {
    let before = now();
    if before >= time {
        return Ok(None);
    }
    let timespec =
        Timespec::try_from(time).map_err(|_| failed("clock_settime", "a time out of range")(Errno::RANGE))?;
    clock_settime(ClockId::Realtime, timespec).map_err(failed("clock_settime", "the time of day"))?;
    Ok(Some(before))
}
