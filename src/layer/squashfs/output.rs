//! The file that the image grows in.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::WriteError;
use super::format::PADDING;

/// Appends at a position that can be taken back.
pub(super) struct Output {
    file: File,
    position: u64,
}

impl Output {
    pub(super) fn new(file: File) -> Self {
        Self { file, position: 0 }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Returns where `bytes` are now.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<u64, WriteError> {
        let offset = self.position;
        self.write_at(bytes, offset)?;
        self.position += bytes.len() as u64;
        Ok(offset)
    }

    /// Overwrites what is at `offset`.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), WriteError> {
        self.file.write_all_at(bytes, offset).map_err(|source| WriteError::Write { offset, source })
    }

    /// Takes back everything from `position` on.
    pub(super) fn rewind(&mut self, position: u64) {
        self.position = self.position.min(position);
    }

    /// Cuts off what was taken back, pads with zeros; returns the file and
    /// its length in bytes.
    pub(super) fn finish(self) -> Result<(File, u64), WriteError> {
        let padded = self.position.next_multiple_of(PADDING);
        for length in [self.position, padded] {
            self.file.set_len(length).map_err(|source| WriteError::Write { offset: length, source })?;
        }
        Ok((self.file, padded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn nothing_is_left_of_what_was_taken_back() {
        let mut output = Output::new(tempfile::tempfile().unwrap());
        assert_eq!(output.append(b"head").unwrap(), 0);
        assert_eq!(output.append(&[b'x'; 9000]).unwrap(), 4);
        output.rewind(4);
        assert_eq!(output.append(b"tail").unwrap(), 4);
        let (mut file, length) = output.finish().unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(length, 4096);
        assert_eq!(bytes, [&b"headtail"[..], &[0; 4088]].concat());
    }
}
