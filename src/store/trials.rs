//! What boots have shown of generations: the record `attempts`.
//!
//! In: that a boot is about to take a risk, that it came up, or why it did
//! not. Out: [`Trials`], which the next boot decides on. Invariant: an attempt
//! is on disk before it is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::{self, RecordError};
use super::{Lock, Store, StoreError};
use crate::sys::kmsg;

/// Version of the record; a newer one is refused.
pub(super) const FORMAT: u32 = 1;

/// What is known of one generation from booting it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// No boot of it was blessed yet.
    #[default]
    Untried,
    /// A boot of it came up and was blessed.
    Good,
    /// It is not booted again, and why.
    Bad {
        reason: String,
        /// Whether something in the store was damaged, so that repairing it
        /// earns the generation a new trial.
        #[serde(default)]
        damaged: bool,
    },
}

/// The marks of one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Boots that were tried since it was applied and not blessed.
    pub attempts: u32,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The marks of all generations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trials {
    /// The generation that was blessed last.
    pub last_good: Option<u32>,
    /// The generation that `rollback` went back to, which outranks the
    /// configuration in the initramfs until something is applied.
    #[serde(default)]
    pub chosen: Option<u32>,
    pub marks: BTreeMap<u32, Mark>,
}

impl Trials {
    /// The mark of generation `number`; a new one's if there is none.
    pub fn mark(&self, number: u32) -> Mark {
        self.marks.get(&number).cloned().unwrap_or_default()
    }

    pub fn is_good(&self, number: u32) -> bool {
        self.marks.get(&number).is_some_and(|mark| mark.verdict == Verdict::Good)
    }

    /// Why generation `number` is not to be booted again.
    pub fn why_bad(&self, number: u32) -> Option<&str> {
        match &self.marks.get(&number)?.verdict {
            Verdict::Bad { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Notes that generation `number` came up.
    pub fn bless(&mut self, number: u32) {
        self.marks.insert(number, Mark { attempts: 0, verdict: Verdict::Good });
        self.last_good = Some(number);
    }

    /// Notes that generation `number` is of no use.
    pub fn condemn(&mut self, number: u32, reason: String, damaged: bool) {
        let mark = self.marks.entry(number).or_default();
        mark.verdict = Verdict::Bad { reason, damaged };
    }

    /// Gives generation `number` all its attempts back.
    pub fn reset(&mut self, number: u32) {
        self.marks.insert(number, Mark::default());
    }
}

impl Store {
    /// The marks; none if there are none yet.
    pub fn trials(&self) -> Result<Trials, RecordError> {
        match record::read(&self.path.join("attempts"), FORMAT) {
            Err(error) if error.is_absent() => Ok(Trials::default()),
            result => result,
        }
    }

    /// The marks; none if they are damaged, so that new ones can take their
    /// place. Those of a newer plywood are not damaged: they must stay.
    pub fn trials_or_none(&self) -> Result<Trials, RecordError> {
        match self.trials() {
            Err(error @ RecordError::Newer { .. }) => Err(error),
            Err(error) => {
                log::warn!("the marks of generations are lost: {}", kmsg::chain(&error));
                Ok(Trials::default())
            }
            Ok(trials) => Ok(trials),
        }
    }

    /// Replaces the marks. They are on disk when this returns.
    pub fn put_trials(&self, _lock: &Lock, trials: &Trials) -> Result<(), StoreError> {
        let path = self.path.join("attempts");
        self.replace_record(&path, FORMAT, trials).map_err(|source| StoreError::Io {
            action: "write",
            path,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.trials().unwrap(), Trials::default());
        let mut trials = Trials::default();
        trials.marks.insert(3, Mark { attempts: 2, verdict: Verdict::Untried });
        trials.bless(2);
        trials.condemn(4, "no init".into(), false);
        store.put_trials(&store.lock().unwrap(), &trials).unwrap();
        let read = store.trials().unwrap();
        assert_eq!(read, trials);
        assert_eq!((read.last_good, read.why_bad(4), read.why_bad(2)), (Some(2), Some("no init"), None));
        assert!(read.is_good(2) && !read.is_good(3) && !read.is_good(9));
        assert_eq!(read.mark(3).attempts, 2);
    }

    #[test]
    fn damaged_marks_count_for_none_and_newer_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let rows: [(Vec<u8>, bool); 3] = [
            (b"cut".to_vec(), true),
            (record::encode(FORMAT, &"of no kind").unwrap(), true),
            (record::encode(FORMAT + 1, &"of a later kind").unwrap(), false),
        ];
        for (bytes, is_none) in rows {
            std::fs::write(directory.path().join("attempts"), bytes).unwrap();
            assert_eq!(store.trials_or_none().is_ok_and(|trials| trials == Trials::default()), is_none);
        }
    }

    #[test]
    fn who_is_reset_has_all_attempts() {
        let mut trials = Trials::default();
        trials.condemn(1, "hung".into(), false);
        trials.reset(1);
        assert_eq!(trials.mark(1), Mark::default());
    }
}
