//! Threads that work on a list together.
//!
//! In: items, and what to do with each. Out: the results in the items' order,
//! whatever order they came in. Invariant: a thread that the system refuses
//! costs time, never a result; the calling thread works too.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// How many cores this process may use: as many threads as have work to
/// compute, more for work that waits.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Does `work` for every item, for so many `at_once`.
pub fn for_all<T, R>(items: Vec<T>, at_once: usize, work: impl Fn(T) -> R + Sync) -> Vec<R>
where
    T: Send,
    R: Send,
{
    let threads = at_once.min(items.len());
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let items = Mutex::new(items.into_iter().enumerate());
    let worker = || {
        // In braces, or the lock would be held during the work.
        while let Some((number, item)) = { locked(&items).next() } {
            let result = work(item);
            locked(&done).push((number, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    let mut results = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// A thread that panicked was not holding it: `work` runs without.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_items_order() {
        for (count, at_once) in [(0, 4), (1, 4), (2, 4), (1000, 0), (1000, 1), (1000, 8)] {
            let items: Vec<_> = (0..count).collect();
            // Later items are done sooner.
            let results = for_all(items.clone(), at_once, |item| {
                (item..count).for_each(|_| thread::yield_now());
                item * 2
            });
            assert_eq!(results, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
