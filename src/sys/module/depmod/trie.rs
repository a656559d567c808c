//! The `.bin` indexes that libkmod searches: a trie of keys, format 2.1.
//!
//! In: keys with values and their priorities. Out: the bytes of a file.
//! Invariant: a node is written after its children, so every offset is known
//! when it is written.
//!
//! ```text
//! file   magic b007f457 4 | version 00020001 4 | root 4 | nodes…
//! node   [prefix, 0] [first 1 | last 1 | child 4 × (last - first + 1)] [count 4 | values…]
//! value  priority 4 | text, 0
//! ```
//! Numbers are big endian. `root` and `child` are offsets into the file, 0 for
//! no child; their highest bits say which of the three parts the node has, in
//! this order: 8 prefix, 4 values, 2 children. The character that leads to a
//! child is not part of its prefix. Smaller priorities come first.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xb007_f457;
const VERSION: u32 = 0x0002_0001;

const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
/// What is left for an offset.
const MAX_OFFSET: u32 = 0x0fff_ffff;

/// Longest key in bytes. A node is entered for each, and no device has an
/// alias nearly as long.
const MAX_KEY: usize = 1024;

/// An index under construction.
#[derive(Default)]
pub struct Trie {
    root: Node,
}

#[derive(Default)]
struct Node {
    prefix: Vec<u8>,
    values: Vec<(u32, Vec<u8>)>,
    children: BTreeMap<u8, Node>,
}

impl Trie {
    /// Adds a value. Values of the same priority come before those that were
    /// there. Keys that the format does not know (other than 7-bit ASCII), and
    /// endless ones, are left out.
    pub fn insert(&mut self, key: &[u8], value: &[u8], priority: u32) {
        let is_text = |bytes: &[u8]| bytes.iter().all(|byte| (1..0x80).contains(byte));
        if key.len() > MAX_KEY || !is_text(key) || !is_text(value) {
            return;
        }
        let values = &mut self.root.at(key).values;
        let at = values.partition_point(|(other, _)| *other < priority);
        values.insert(at, (priority, value.to_vec()));
    }

    /// The file. `None` if it would be longer than offsets can say, 256 MiB.
    pub fn finish(&self) -> Option<Vec<u8>> {
        let mut out = [MAGIC.to_be_bytes(), VERSION.to_be_bytes(), [0; 4]].concat();
        let root = self.root.write(&mut out)?;
        out[8..12].copy_from_slice(&root.to_be_bytes());
        Some(out)
    }
}

impl Node {
    /// The node for `key` below this one, made if it is missing.
    fn at(&mut self, key: &[u8]) -> &mut Node {
        let shared = self.prefix.iter().zip(key).take_while(|(a, b)| a == b).count();
        if shared < self.prefix.len() {
            self.split(shared);
        }
        let Some((first, rest)) = key[shared..].split_first() else { return self };
        let child =
            self.children.entry(*first).or_insert_with(|| Node { prefix: rest.into(), ..Node::default() });
        child.at(rest)
    }

    /// Puts what this node is below one that has only the start of its prefix.
    fn split(&mut self, at: usize) {
        let mut lower = std::mem::take(self);
        let rest = lower.prefix.split_off(at);
        self.prefix = std::mem::take(&mut lower.prefix);
        if let Some((first, rest)) = rest.split_first() {
            lower.prefix = rest.into();
            self.children.insert(*first, lower);
        }
    }

    /// Writes the node and all below it; returns how others name it.
    fn write(&self, out: &mut Vec<u8>) -> Option<u32> {
        let mut children = BTreeMap::new();
        for (first, child) in &self.children {
            children.insert(*first, child.write(out)?);
        }
        let mut place = u32::try_from(out.len()).ok().filter(|offset| *offset <= MAX_OFFSET)?;
        if !self.prefix.is_empty() {
            place |= HAS_PREFIX;
            out.extend(&self.prefix);
            out.push(0);
        }
        if let (Some((&first, _)), Some((&last, _))) = (children.first_key_value(), children.last_key_value())
        {
            place |= HAS_CHILDREN;
            out.extend([first, last]);
            for byte in first..=last {
                out.extend(children.get(&byte).unwrap_or(&0).to_be_bytes());
            }
        }
        if !self.values.is_empty() {
            place |= HAS_VALUES;
            out.extend(u32::try_from(self.values.len()).ok()?.to_be_bytes());
            for (priority, value) in &self.values {
                out.extend(priority.to_be_bytes());
                out.extend(value);
                out.push(0);
            }
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut trie = Trie::default();
        for (key, value, priority) in
            [("ab", "1", 7), ("abx", "2", 0), ("ab", "3", 5), ("ab", "4", 7), ("é", "no", 0)]
        {
            trie.insert(key.as_bytes(), value.as_bytes(), priority);
        }
        let node_x = [&[0, 0, 0, 1][..], &[0, 0, 0, 0], b"2\0"].concat();
        let values = [&[0, 0, 0, 3][..], &[0, 0, 0, 5], b"3\0", &[0, 0, 0, 7], b"4\0", &[0, 0, 0, 7], b"1\0"];
        let node_b = [&b"b\0"[..], b"xx", &[0x40, 0, 0, 12], &values.concat()].concat();
        let expected = [
            &[0xb0, 0x07, 0xf4, 0x57, 0, 2, 0, 1, 0x20, 0, 0, 52][..],
            &node_x,
            &node_b,
            b"aa",
            &[0xe0, 0, 0, 22],
        ];
        assert_eq!(trie.finish().unwrap(), expected.concat());
    }

    #[test]
    fn an_empty_index_has_an_empty_root() {
        let bytes = Trie::default().finish().unwrap();
        assert_eq!(bytes, [0xb0, 0x07, 0xf4, 0x57, 0, 2, 0, 1, 0, 0, 0, 12]);
    }

    #[test]
    fn endless_keys_are_left_out() {
        let mut trie = Trie::default();
        trie.insert(&[b'a'; MAX_KEY + 1], b"x", 0);
        assert_eq!(trie.finish(), Trie::default().finish());
        (1..=MAX_KEY).for_each(|length| trie.insert(&vec![b'a'; length], b"x", 0));
        assert!(trie.finish().is_some());
    }
}
