//! The file that the image grows in.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::WriteError;
use super::format::PADDING;
use crate::layer::verity::{self, HashTree};
use crate::oci::Digest;

/// Appends at a position that can be taken back.
pub(super) struct Output {
    file: File,
    position: u64,
    /// The hash tree of the file, if one is wanted.
    tree: Option<HashTree>,
}

/// A place to come back to.
pub(super) struct Mark {
    position: u64,
    tree: Option<verity::Mark>,
}

/// A complete file.
pub(super) struct Finished {
    pub(super) file: File,
    /// Length in bytes.
    pub(super) bytes: u64,
    /// The root of the hash tree.
    pub(super) verity_root: Option<Digest>,
}

impl Output {
    pub(super) fn new(file: File, tree: Option<HashTree>) -> Self {
        Self { file, position: 0, tree }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Returns where `bytes` are now.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<u64, WriteError> {
        let offset = self.position;
        self.write_at(bytes, offset)?;
        if let Some(tree) = &mut self.tree {
            tree.append(bytes).map_err(|source| WriteError::Verity { source })?;
        }
        self.position += bytes.len() as u64;
        Ok(offset)
    }

    /// What was appended before.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), WriteError> {
        self.file.read_exact_at(bytes, offset).map_err(|source| WriteError::ReadBack { offset, source })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), WriteError> {
        self.file.write_all_at(bytes, offset).map_err(|source| WriteError::Write { offset, source })
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { position: self.position, tree: self.tree.as_ref().map(HashTree::mark) }
    }

    /// Takes back everything behind `mark`.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.position = mark.position;
        if let (Some(tree), Some(mark)) = (&mut self.tree, mark.tree) {
            tree.rewind(mark);
        }
    }

    /// Overwrites the first bytes with `head`, cuts off what was taken back
    /// and pads with zeros.
    pub(super) fn finish(self, head: &[u8]) -> Result<Finished, WriteError> {
        self.write_at(head, 0)?;
        let padded = self.position.next_multiple_of(PADDING);
        for length in [self.position, padded] {
            self.file.set_len(length).map_err(|source| WriteError::Write { offset: length, source })?;
        }
        let root = self.tree.map(|tree| tree.finish(head)).transpose();
        let verity_root = root.map_err(|source| WriteError::Verity { source })?;
        Ok(Finished { file: self.file, bytes: padded, verity_root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn nothing_is_left_of_what_was_taken_back() {
        let mut output = Output::new(tempfile::tempfile().unwrap(), None);
        assert_eq!(output.append(b"HEAD").unwrap(), 0);
        let mark = output.mark();
        assert_eq!(output.append(&[b'x'; 9000]).unwrap(), 4);
        output.rewind(mark);
        assert_eq!(output.append(b"tail").unwrap(), 4);
        let Finished { mut file, bytes: length, .. } = output.finish(b"head").unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(length, 4096);
        assert_eq!(bytes, [&b"headtail"[..], &[0; 4088]].concat());
    }
}
