//! Chance that can be repeated, for tests that try more than a table can hold.

use std::time::{Duration, SystemTime};

/// Numbers that look random and are the same for the same seed (xorshift64*).
pub struct Random(u64);

impl Random {
    /// A seed of zero would give nothing but zeros, and is taken as one.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number below 2^31.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
    }

    /// True every other time.
    pub fn coin(&mut self) -> bool {
        self.number() >> 30 == 1
    }

    /// A time of whole milliseconds.
    pub fn below(&mut self, bound: Duration) -> Duration {
        Duration::from_millis(self.number() % (bound.as_millis() as u64).max(1))
    }
}

/// The number in the environment variable `name`.
pub fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// `SEED` of the environment, or one of the moment.
pub fn seed() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("the clock is set");
    from_environment("SEED").unwrap_or(u64::from(now.subsec_nanos()))
}
