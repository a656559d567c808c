//! In which order depmod(8) writes things.
//!
//! In: names; a graph of who needs whom. Out: the same, ordered. Invariant:
//! the order depends on the input alone, and is depmod's, so that its files
//! and ours compare equal.

use std::cmp::Ordering;
use std::collections::HashSet;

/// Buckets of depmod's table of modules.
pub const MODULE_BUCKETS: u32 = 512;
/// Buckets of depmod's table of symbols.
pub const SYMBOL_BUCKETS: u32 = 2048;

/// Where depmod's hash table of so many buckets, a power of two, has a name:
/// by bucket, then by name.
pub fn by_bucket(a: &[u8], b: &[u8], buckets: u32) -> Ordering {
    let bucket = |name| hash(name) & (buckets - 1);
    bucket(a).cmp(&bucket(b)).then_with(|| a.cmp(b))
}

/// Paul Hsieh's SuperFastHash, of little endian words.
fn hash(text: &[u8]) -> u32 {
    let half = |pair: &[u8]| pair.iter().rev().fold(0, |number: u32, byte| number << 8 | u32::from(*byte));
    let mut hash = text.len() as u32;
    let words = text.chunks_exact(4);
    let rest = words.remainder();
    for word in words {
        hash = hash.wrapping_add(half(&word[..2]));
        hash = (hash << 16) ^ (half(&word[2..]) << 11) ^ hash;
        hash = hash.wrapping_add(hash >> 11);
    }
    match *rest {
        [first, second, third] => {
            hash = hash.wrapping_add(half(&[first, second]));
            hash ^= hash << 16;
            hash ^= u32::from(third) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        [first, second] => {
            hash = hash.wrapping_add(half(&[first, second]));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [only] => {
            hash = hash.wrapping_add(u32::from(only));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    for (left, right) in [(3, 5), (4, 17), (25, 6)] {
        hash ^= hash << left;
        hash = hash.wrapping_add(hash >> right);
    }
    hash
}

/// The rank of each node of a graph: who needs others comes before them.
/// `needs` has the direct dependencies of each, all of them known nodes. Nodes
/// in a cycle, and what only they need, have no such order and come last.
pub fn rank(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut users = vec![0_usize; needs.len()];
    needs.iter().flatten().for_each(|&need| users[need] += 1);
    let mut free: Vec<usize> = (0..needs.len()).filter(|&node| users[node] == 0).collect();
    let mut ranks = vec![usize::MAX; needs.len()];
    let mut next = 0;
    while let Some(node) = free.pop() {
        ranks[node] = next;
        next += 1;
        for &need in &needs[node] {
            users[need] -= 1;
            if users[need] == 0 {
                free.push(need);
            }
        }
    }
    for (rank, last) in ranks.iter_mut().filter(|rank| **rank == usize::MAX).zip(next..) {
        *rank = last;
    }
    ranks
}

/// Everything that `node` needs, directly or not, by rank.
pub fn closure(node: usize, needs: &[Vec<usize>], ranks: &[usize]) -> Vec<usize> {
    let mut found = HashSet::new();
    let mut left = vec![node];
    while let Some(at) = left.pop() {
        left.extend(needs[at].iter().filter(|&&need| need != node && found.insert(need)));
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|&need| ranks[need]);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_by_bucket_and_then_by_name() {
        // Computed by kmod 30.
        for (text, expected) in [
            ("", 0),
            ("a", 0x115e_a782),
            ("ab", 0x516b_8b44),
            ("abc", 0xd2be_198a),
            ("loop", 0xeb99_169f),
            ("overlay", 0x0c4c_042e),
            ("squashfs", 0xfc31_6769),
        ] {
            assert_eq!(hash(text.as_bytes()), expected, "{text}");
        }
        // Buckets 0x2e and 0x9f of 256.
        assert_eq!(by_bucket(b"overlay", b"loop", 256), Ordering::Less);
        assert_eq!(by_bucket(b"overlay", b"loop", 1), Ordering::Greater);
    }

    #[test]
    fn who_needs_others_comes_first() {
        for (needs, expected) in [
            (&[][..], &[][..]),
            // The last without users is taken first.
            (&[vec![], vec![], vec![]], &[2, 1, 0]),
            (&[vec![1, 2], vec![], vec![]], &[0, 2, 1]),
            (&[vec![2], vec![2], vec![]], &[1, 0, 2]),
            // 1 and 2 need each other, and 3 is needed by them alone.
            (&[vec![], vec![2], vec![1, 3], vec![]], &[0, 1, 2, 3]),
            (&[vec![0], vec![]], &[1, 0]),
        ] {
            assert_eq!(rank(needs), expected, "{needs:?}");
        }
    }

    #[test]
    fn a_closure_is_ordered_and_ends() {
        let needs = [vec![1, 2], vec![3], vec![3], vec![], vec![5], vec![4]];
        let ranks = rank(&needs);
        assert_eq!(closure(0, &needs, &ranks), [2, 1, 3]);
        assert_eq!(closure(4, &needs, &ranks), [5]);
    }
}
