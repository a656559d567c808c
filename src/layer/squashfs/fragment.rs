//! Tails: what is left of a file behind its last whole block.
//!
//! Tails are packed into fragment blocks in the order they come; a tail that
//! was seen before is not packed again. Invariant: a tail is wholly inside
//! one fragment block.

use std::collections::HashMap;

use super::identity::Identity;

/// Where a tail is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Index in the fragment table.
    pub(super) index: u32,
    /// Byte within the uncompressed fragment block.
    pub(super) offset: u32,
}

/// The fragment block being filled, and where all tails so far are.
pub(super) struct Packer {
    block_size: usize,
    /// How many fragment blocks were taken before this one.
    index: u32,
    block: Vec<u8>,
    known: HashMap<Identity, Fragment>,
}

impl Packer {
    pub(super) fn new(block_size: u32) -> Self {
        Self { block_size: block_size as usize, index: 0, block: Vec::new(), known: HashMap::new() }
    }

    /// Where a tail of this identity was packed.
    pub(super) fn find(&self, identity: &Identity) -> Option<Fragment> {
        self.known.get(identity).copied()
    }

    /// Whether a tail of `length` bytes fits into the block being filled.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.block.len() + length <= self.block_size
    }

    /// Packs a tail that is new and that there is room for.
    pub(super) fn pack(&mut self, identity: Identity, tail: &[u8]) -> Fragment {
        let fragment = Fragment { index: self.index, offset: self.block.len() as u32 };
        self.block.extend_from_slice(tail);
        self.known.insert(identity, fragment);
        fragment
    }

    /// Forgets all tails: those to come are packed again.
    pub(super) fn forget(&mut self) {
        self.known = HashMap::new();
    }

    /// Swaps the block being filled, if anything is in it, with `room` and
    /// starts the next one there.
    pub(super) fn take(&mut self, room: &mut Vec<u8>) -> bool {
        if self.block.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.block, room);
        self.block.clear();
        self.index += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_lies_in_one_block_and_is_packed_once() {
        let mut packer = Packer::new(4096);
        let mut room = Vec::new();
        for (tail, length, index, offset) in [
            (b'a', 4000, 0, 0),
            (b'b', 96, 0, 4000),
            (b'c', 1, 1, 0),
            (b'a', 4000, 0, 0),
            (b'a', 3999, 1, 1),
            (b'd', 97, 2, 0),
        ] {
            let tail = vec![tail; length];
            let identity = Identity::of(&tail);
            let found = packer.find(&identity).unwrap_or_else(|| {
                if !packer.has_room(length) {
                    assert!(packer.take(&mut room));
                }
                packer.pack(identity, &tail)
            });
            assert_eq!(found, Fragment { index, offset });
        }
        assert!(packer.take(&mut room));
        assert_eq!(room, [b'd'; 97]);
        assert!(!packer.take(&mut room));
    }
}
