//! The time of day while a machine boots, before anything trusts it.
//!
//! In: the clock as the kernel has set it, when this program was built, what
//! the store remembers, and what time servers say. Out: a clock that is behind
//! none of them. Invariants: the clock is only ever set forward, and to no time
//! that is implausibly long after the build; certificates are checked all the
//! same.

use std::time::{Duration, Instant};

use super::Boot;
use crate::sys::{clock, kmsg, sntp};
use crate::text::{Escaped, Utc};

/// When this program was built: nothing it does can be earlier.
const BUILT: Duration = Duration::from_secs(match u64::from_str_radix(env!("PLYWOOD_BUILD_TIME"), 10) {
    Ok(seconds) => seconds,
    Err(_) => panic!("the build script gives a number"),
});

/// Nobody runs a build that is older: what is further ahead is an error.
const PLAUSIBLE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How long all time servers together may take.
const SERVERS: Duration = Duration::from_secs(10);

/// Sets the clock to when this program was built, if it is behind that.
pub fn settle() {
    advance(BUILT, "when plywood was built");
}

/// Sets the clock to `time` since 1970, if that is ahead of it and plausible.
pub fn advance(time: Duration, reason: &str) {
    if time > BUILT + PLAUSIBLE {
        let time = Utc(time.as_secs());
        return log::warn!("clock: {time}, {reason}, is implausible, passed over");
    }
    match clock::advance_to(time) {
        Ok(None) => {}
        Ok(Some(before)) => {
            log::warn!("clock: was at {}, set to {}, {reason}", Utc(before.as_secs()), Utc(time.as_secs()));
        }
        Err(error) => log::warn!("clock: {}", kmsg::chain(&error)),
    }
}

impl Boot {
    /// Asks time servers in their order, and takes the first answer.
    pub(super) fn ask_time_servers(&mut self, servers: &[String]) {
        let deadline = Instant::now() + SERVERS;
        for server in servers {
            match sntp::query(server, BUILT, deadline) {
                Ok(time) => {
                    let name = Escaped::new(server);
                    log::info!("clock: {name} says {}", Utc(time.as_secs()));
                    return advance(time, &format!("as {name} says"));
                }
                Err(error) => log::warn!("clock: {}", kmsg::chain(&error)),
            }
        }
        if !servers.is_empty() {
            log::warn!("clock: no time server has answered, going on with {}", Utc(clock::now().as_secs()));
        }
    }
}
