//! Every fuzz target with every file of its corpus, and with what a bounded
//! number of small changes make of them. `make fuzz` searches further.

mod random;
#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use random::Random;

/// Changed inputs for each target.
const CHANGES: u64 = 400;

/// Largest corpus of all targets together, in bytes.
const MAX_CORPORA: usize = 300_000;

impl Random {
    /// One to four changes: a bit, a byte, a cut, a part twice, a part of another.
    fn change(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + self.below(64)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.next() as u8,
                2 => drop(bytes.drain(at..end)),
                3 => bytes.truncate(at),
                4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                _ => {
                    let from = self.below(other.len());
                    let part = &other[from..(from + self.below(64)).min(other.len())];
                    bytes.splice(at..at, part.iter().copied());
                }
            }
        }
        bytes
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn no_corpus_and_no_small_change_of_it_breaks_a_target() {
    for (number, (name, target)) in (0..).zip(targets::ALL) {
        let corpus = corpus(name);
        let mut random = Random(number);
        let changed = (0..CHANGES).map(|_| {
            let (input, other) = (random.below(corpus.len()), random.below(corpus.len()));
            random.change(&corpus[input], &corpus[other])
        });
        for input in corpus.clone().into_iter().chain(changed.collect::<Vec<_>>()) {
            let passed = catch_unwind(|| target(&input)).is_ok();
            assert!(passed, "{name} fails with {}", input.escape_ascii());
        }
    }
}

#[test]
fn corpora_stay_small() {
    let bytes: usize = targets::ALL.iter().flat_map(|(name, _)| corpus(name)).map(|input| input.len()).sum();
    assert!(bytes < MAX_CORPORA, "{bytes} bytes");
}
