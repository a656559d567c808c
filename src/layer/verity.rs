//! dm-verity hash trees, grown while the file that they protect is written.
//!
//! In: a file's bytes in order, of which the last may be taken back. Out: a
//! file for `veritysetup` and the kernel, and the root hash. Invariant: the
//! leaves go to the tree's file as they come, so memory does not grow with
//! the file.
//!
//! ```text
//! superblock, padded to 4 KiB · the level of one block, which the root hash
//! is of · … · the level of which each hash is of 4 KiB of the file
//! ```
//!
//! All hashes are SHA-256 without salt, 128 in a block, and what is left of a
//! level's last block is zeros. A file of a single block has no levels: the
//! root hash is that of the block. The layout is that of cryptsetup, the
//! meaning in the kernel's Documentation/admin-guide/device-mapper/verity.rst.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::oci::Digest;

/// Bytes of a block, of the file as of the tree.
const BLOCK: usize = 4096;
const HASH: usize = 32;

/// Leaves that are kept until they are written together, in bytes.
const BUFFER: usize = 16 * BLOCK;

/// Writes the hash tree of a finished `squashfs` to `tree`, which is empty and
/// open for reading, too; returns the root hash.
pub fn write_hash_tree(squashfs: &File, tree: File) -> io::Result<Digest> {
    let mut hashes = HashTree::new(tree);
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        match squashfs.read_at(&mut buffer, at)? {
            0 => return hashes.finish(&[]),
            count => {
                hashes.append(&buffer[..count])?;
                at += count as u64;
            }
        }
    }
}

/// The hash tree of a file that is being written.
pub(super) struct HashTree {
    file: File,
    /// Leaves that are in the file, in bytes.
    flushed: u64,
    leaves: Vec<u8>,
    /// What came behind the last whole block.
    partial: Vec<u8>,
    /// The first block, which is the last to be known.
    first: Vec<u8>,
}

/// A place to come back to.
pub(super) struct Mark {
    /// Leaves before it, in bytes.
    leaves: u64,
    partial: Vec<u8>,
}

impl HashTree {
    /// Writes the tree to `file`, from its first byte on.
    pub(super) fn new(file: File) -> Self {
        Self { file, flushed: 0, leaves: Vec::new(), partial: Vec::new(), first: Vec::new() }
    }

    /// Takes the next bytes of the file.
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if !self.partial.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.partial.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
            if self.partial.len() < BLOCK {
                return Ok(());
            }
            let whole = std::mem::take(&mut self.partial);
            self.add_leaf(&whole)?;
        }
        let blocks = bytes.chunks_exact(BLOCK);
        self.partial.extend_from_slice(blocks.remainder());
        blocks.into_iter().try_for_each(|block| self.add_leaf(block))
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { leaves: self.length(), partial: self.partial.clone() }
    }

    /// Takes back all that came behind `mark`.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.flushed = self.flushed.min(mark.leaves);
        self.leaves.truncate((mark.leaves - self.flushed) as usize);
        self.partial = mark.partial;
    }

    /// Completes the tree of a file that is padded with zeros to whole blocks
    /// and now begins with `head`; returns the root hash.
    pub(super) fn finish(mut self, head: &[u8]) -> io::Result<Digest> {
        if !self.partial.is_empty() {
            let padding = vec![0; BLOCK - self.partial.len()];
            self.append(&padding)?;
        }
        self.flush()?;
        if let Some(start) = self.first.get_mut(..head.len()) {
            start.copy_from_slice(head);
        }
        self.file.write_all_at(&hash(&self.first), 0)?;
        self.write_levels()
    }

    /// Bytes of all leaves so far.
    fn length(&self) -> u64 {
        self.flushed + self.leaves.len() as u64
    }

    fn add_leaf(&mut self, block: &[u8]) -> io::Result<()> {
        if self.length() == 0 {
            self.first = block.to_vec();
        }
        self.leaves.extend_from_slice(&hash(block));
        if self.leaves.len() < BUFFER {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.leaves, self.flushed)?;
        self.flushed += self.leaves.len() as u64;
        self.leaves.clear();
        Ok(())
    }

    /// Puts the upper levels before the leaves, and the superblock before all.
    fn write_levels(self) -> io::Result<Digest> {
        let leaves = self.flushed;
        let mut head = superblock(leaves / HASH as u64);
        if leaves == HASH as u64 {
            self.file.set_len(0)?;
            self.file.write_all_at(&head, 0)?;
            return Ok(Digest::Sha256(hash(&self.first)));
        }
        let padded = leaves.next_multiple_of(BLOCK as u64);
        // Cut first, or what was taken back would be left in the padding.
        self.file.set_len(leaves)?;
        self.file.set_len(padded)?;
        let mut upper = Vec::new();
        let mut hashes = self.hashes_of_leaves(padded)?;
        while hashes.len() > 1 {
            let mut level = hashes.concat();
            level.resize(level.len().next_multiple_of(BLOCK), 0);
            hashes = level.chunks_exact(BLOCK).map(hash).collect();
            upper.push(level);
        }
        head.extend(upper.into_iter().rev().flatten());
        self.move_leaves(padded, head.len() as u64)?;
        self.file.write_all_at(&head, 0)?;
        Ok(Digest::Sha256(hashes[0]))
    }

    /// The hashes of the blocks that the leaves fill: 8 KiB for each GiB of
    /// the file.
    fn hashes_of_leaves(&self, length: u64) -> io::Result<Vec<[u8; HASH]>> {
        let mut block = [0; BLOCK];
        let positions = (0..length).step_by(BLOCK);
        positions.map(|at| self.file.read_exact_at(&mut block, at).map(|()| hash(&block))).collect()
    }

    /// Moves `length` bytes from the file's start to `to`, the last first.
    fn move_leaves(&self, length: u64, to: u64) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut left = length;
        while left > 0 {
            let part = &mut buffer[..(BUFFER as u64).min(left) as usize];
            left -= part.len() as u64;
            self.file.read_exact_at(part, left)?;
            self.file.write_all_at(part, to + left)?;
        }
        Ok(())
    }
}

fn hash(block: &[u8]) -> [u8; HASH] {
    let mut hash = [0; HASH];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, block).as_ref());
    hash
}

/// The first block: cryptsetup's superblock of version 1, and zeros. Its UUID
/// and salt are none, so that the same file always has the same tree.
fn superblock(data_blocks: u64) -> Vec<u8> {
    const VERSION: u32 = 1;
    /// The salt, had we one, would come before the block.
    const HASH_TYPE: u32 = 1;
    const UUID: [u8; 16] = [0; 16];
    let mut algorithm = [0; 32];
    algorithm[..6].copy_from_slice(b"sha256");
    let block = (BLOCK as u32).to_le_bytes();
    let mut superblock = [
        &b"verity\0\0"[..],
        &VERSION.to_le_bytes(),
        &HASH_TYPE.to_le_bytes(),
        &UUID,
        &algorithm,
        &block,
        &block,
        &data_blocks.to_le_bytes(),
    ]
    .concat();
    superblock.resize(BLOCK, 0);
    superblock
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    fn content(length: usize) -> Vec<u8> {
        (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    /// The tree of `content`, which came in pieces of `step` bytes.
    fn tree(content: &[u8], step: usize) -> (tempfile::NamedTempFile, Digest) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tree = HashTree::new(file.reopen().unwrap());
        content.chunks(step).for_each(|piece| tree.append(piece).unwrap());
        let root = tree.finish(&content[..content.len().min(96)]).unwrap();
        (file, root)
    }

    fn veritysetup_takes(content: &[u8], tree: &std::path::Path, root: &Digest) -> bool {
        let mut data = tempfile::NamedTempFile::new().unwrap();
        data.write_all(content).unwrap();
        data.as_file().set_len(content.len().next_multiple_of(BLOCK) as u64).unwrap();
        let mut command = Command::new("veritysetup");
        let run = command.arg("verify").args([data.path(), tree]).arg(root.hex()).output();
        run.expect("veritysetup, of the package cryptsetup-bin").status.success()
    }

    #[test]
    fn veritysetup_verifies_trees_of_any_height() {
        const MIB: usize = 1 << 20;
        for (what, length, blocks) in [
            ("one block", BLOCK, 1),
            ("less than a block", 100, 1),
            ("two blocks", BLOCK + 1, 2),
            ("a block of hashes but one", 127 * BLOCK, 2),
            ("a block of hashes", 128 * BLOCK, 2),
            ("a block of hashes and one", 128 * BLOCK + 1, 4),
            ("two blocks of hashes", 256 * BLOCK, 4),
            ("two levels, full", 64 * MIB, 130),
            ("three levels", 64 * MIB + 1, 133),
        ] {
            let content = content(length);
            let (file, root) = tree(&content, 100_000);
            assert_eq!(file.as_file().metadata().unwrap().len(), (blocks * BLOCK) as u64, "{what}");
            assert!(veritysetup_takes(&content, file.path(), &root), "{what}");
            let mut flipped = content;
            flipped[length / 2] ^= 1;
            assert!(!veritysetup_takes(&flipped, file.path(), &root), "{what}, with a bit flipped");
        }
    }

    #[test]
    fn what_was_taken_back_leaves_no_trace() {
        let (kept, gone) = (content(300_000), vec![b'x'; 5 << 20]);
        let (straight, root) = tree(&kept, 4000);
        for at in [0, 1, 4096, 100_001, 299_999] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut tree = HashTree::new(file.reopen().unwrap());
            tree.append(&kept[..at]).unwrap();
            let mark = tree.mark();
            tree.append(&gone).unwrap();
            tree.rewind(mark);
            tree.append(&kept[at..]).unwrap();
            assert_eq!(tree.finish(&kept[..96]).unwrap(), root, "at {at}");
            assert!(std::fs::read(&file).unwrap() == std::fs::read(&straight).unwrap(), "at {at}");
        }
    }

    #[test]
    fn the_head_may_come_last() {
        let content = content(10_000);
        let (straight, root) = tree(&content, 10_000);
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tree = HashTree::new(file.reopen().unwrap());
        tree.append(&[0; 96]).unwrap();
        tree.append(&content[96..]).unwrap();
        assert_eq!(tree.finish(&content[..96]).unwrap(), root);
        assert!(std::fs::read(&file).unwrap() == std::fs::read(&straight).unwrap());
    }
}
