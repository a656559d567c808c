//! What comes out of a changeset, counted while it is read.
//!
//! In: the plain tar, whatever it was packed with. Out: the same bytes, until
//! the changeset or the image is larger than its limit, or the layer takes
//! longer to build than it may. Invariant: a bomb costs no more than the
//! limits say, however small it was packed. Ratios are not limited: honest
//! zeros compress as well as a bomb.

use std::io::{self, Read};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::limits::{Bound, Budget, Exceeded, Limits};

/// Counts what the changesets of one image come to.
pub(super) struct Meter {
    budget: Budget,
    started: Instant,
    images: NonZeroU32,
}

/// A changeset being counted.
pub(super) struct Metered<'m, R> {
    inner: R,
    meter: &'m mut Meter,
}

impl Meter {
    /// For one of so many images that are built at a time, and share the
    /// machine.
    pub(super) fn start(limits: Limits, images: NonZeroU32) -> Self {
        Self { budget: Budget::new(limits), started: Instant::now(), images }
    }

    /// Counts the next changeset.
    pub(super) fn changeset<R>(&mut self, inner: R) -> Metered<'_, R> {
        self.budget.restart(Bound::ChangesetBytes);
        Metered { inner, meter: self }
    }

    fn spend(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.budget.spend(Bound::ChangesetBytes, bytes)?;
        self.budget.spend(Bound::ImageBytes, bytes)?;
        if self.is_late() {
            return Err(Exceeded { bound: Bound::BuildTime, limit: self.most_seconds() });
        }
        Ok(())
    }

    /// Whether building takes longer than it may.
    pub(super) fn is_late(&self) -> bool {
        self.started.elapsed() / self.images.get() > Duration::from_secs(self.most_seconds())
    }

    fn most_seconds(&self) -> u64 {
        self.budget.limits().get(Bound::BuildTime)
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.meter.spend(count as u64).map_err(io::Error::other)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changesets_and_images_are_counted() {
        let limits = Limits::default().with(Bound::ChangesetBytes, 10).with(Bound::ImageBytes, 15);
        for (what, sizes, exceeded) in [
            ("both in their limits", &[10, 5][..], None),
            ("the second too large", &[1, 11], Some(Bound::ChangesetBytes)),
            ("both together too large", &[10, 6], Some(Bound::ImageBytes)),
        ] {
            let mut meter = Meter::start(limits, NonZeroU32::MIN);
            let read = sizes.iter().try_for_each(|size| {
                io::copy(&mut meter.changeset(io::repeat(0).take(*size)), &mut io::sink()).map(drop)
            });
            let error = read.err().map(|error| *error.get_ref().unwrap().downcast_ref::<Exceeded>().unwrap());
            assert_eq!(error.map(|error| error.bound), exceeded, "{what}");
        }
    }

    #[test]
    fn time_is_counted() {
        let mut meter = Meter::start(Limits::default().with(Bound::BuildTime, 0), NonZeroU32::MIN);
        let error = meter.changeset(&b"x"[..]).read(&mut [0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "more than the limit of 0 for building one layer (plywood.limits.buildTime)"
        );
    }
}
