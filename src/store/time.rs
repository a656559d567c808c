//! When something last happened to the store.
//!
//! In: the times of its files. Out: the newest. Invariant: nothing is read but
//! directories.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use super::Store;

impl Store {
    /// The newest time, since 1970, that anything directly in the state
    /// directory or in its generations was changed at. A clock that is behind
    /// it is wrong.
    pub fn newest_change(&self) -> Option<Duration> {
        let directories = [self.path.clone(), self.path.join("generations")];
        let entries = directories.iter().filter_map(|path| fs::read_dir(path).ok()).flatten().flatten();
        let modified = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok());
        modified.filter_map(|time| time.duration_since(UNIX_EPOCH).ok()).max()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_generation_of_the_future_is_the_newest_change() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let generation = directory.path().join("generations/1");
        fs::create_dir(&generation).unwrap();
        let future = Duration::from_secs(4_102_444_800);
        File::open(&generation).unwrap().set_modified(UNIX_EPOCH + future).unwrap();
        assert_eq!(store.newest_change(), Some(future));
    }
}
