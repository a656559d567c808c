//! The memory that the trees of images take which are built at the same time.
//!
//! In: entries, as each image's changesets come. Out: nothing, sooner or later.
//! What is remembered of an image grows with its entries and with nothing else,
//! so an image that turns out to have more than a few waits here for the others
//! like it. Invariant: of those there is one at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries that take so little that any image may have them: about 2 MB.
const FEW: u32 = 10_000;

/// The place for an image of many entries.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<()>);

/// What one image takes.
pub(super) struct Share<'r> {
    room: &'r Room,
    entries: u32,
    place: Option<MutexGuard<'r, ()>>,
}

impl Room {
    /// For the whole time that an image is built.
    pub(super) fn share(&self) -> Share<'_> {
        Share { room: self, entries: 0, place: None }
    }
}

impl Share<'_> {
    /// Counts an entry more; may wait for an image that has many.
    pub(super) fn add_entry(&mut self) {
        self.entries = self.entries.saturating_add(1);
        if self.entries > FEW {
            self.be_large();
        }
    }

    /// Takes the place at once, for an image whose entries are not counted.
    pub(super) fn be_large(&mut self) {
        if self.place.is_none() {
            // Nothing is kept in it that a panic could have left half done.
            self.place = Some(self.room.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_images_one_has_many_entries() {
        let room = Room::default();
        let (mut small, mut large) = (room.share(), room.share());
        (0..FEW).for_each(|_| small.add_entry());
        (0..=FEW).for_each(|_| large.add_entry());
        assert!(small.place.is_none() && large.place.is_some());
        assert!(room.0.try_lock().is_err());
        drop(large);
        small.add_entry();
        assert!(small.place.is_some());
    }
}
