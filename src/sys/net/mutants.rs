//! Messages with mistakes, for tests of what reads them.
//!
//! In: a good message. Out: many that are changed here and there and cut.
//! Invariant: they are the same ones each time.

const COUNT: usize = 50_000;

/// Mutants of a message that is not empty.
pub fn mutants(good: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    (0..COUNT).map(move |_| {
        let mut mutant = good.to_vec();
        for _ in 0..=next() % 4 {
            let place = next() % mutant.len();
            mutant[place] = next() as u8;
        }
        mutant.truncate(next() % (mutant.len() + 1));
        mutant
    })
}
