//! A point in time after which waiting ends.
//!
//! In: a time limit as a user gives it. Out: what is left of it, in the form
//! that `poll` takes. Invariant: the clock is monotonic, so a deadline does
//! not move when the machine learns what time it is.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// When to give up. Copied freely: all copies name the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Waiting that never ends.
    pub const NEVER: Self = Self(None);

    /// Ends when `limit` has passed from now. A limit beyond what the clock
    /// can express is no limit.
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now().checked_add(limit))
    }

    /// This deadline or `limit` from now, whichever is sooner.
    pub fn at_most(self, limit: Duration) -> Self {
        match (self.0, Self::after(limit).0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// Whether it has passed.
    pub fn is_over(self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    /// What is left, zero when it has passed; `None` if it never ends.
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// What is left, as a time limit for `poll`.
    pub(super) fn timeout(self) -> Option<Timespec> {
        // A duration that overflows is centuries: no limit.
        self.remaining().and_then(|left| Timespec::try_from(left).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends_when_its_limit_has_passed() {
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86400));
        assert!(Deadline::after(Duration::ZERO).is_over());
        assert!(!Deadline::after(hour).is_over());
        assert!(!Deadline::NEVER.is_over());
        assert_eq!(Deadline::NEVER.remaining(), None);
        assert_eq!(Deadline::after(Duration::MAX).remaining(), None);
        assert!(Deadline::NEVER.at_most(Duration::ZERO).is_over());
        assert!(Deadline::after(Duration::ZERO).at_most(hour).is_over());
        assert!(Deadline::after(day).at_most(hour).remaining().unwrap() <= hour);
    }
}
