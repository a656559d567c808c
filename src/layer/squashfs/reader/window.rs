//! The bytes of an image, inside a file that may hold more.
//!
//! In: a file and where the image is in it. Out: bytes by their place in the
//! image. Invariant: nothing outside the image is read, and a read is checked
//! against its end before memory is taken for it.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::error::ReadError;

pub(super) struct Window<F> {
    file: F,
    start: u64,
    size: u64,
}

impl<F: FileExt> Window<F> {
    pub(super) fn new(file: F, range: Range<u64>) -> Self {
        Self { file, start: range.start, size: range.end.saturating_sub(range.start) }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Makes the image end earlier: what is behind is padding.
    pub(super) fn cut(&mut self, size: u64) {
        self.size = self.size.min(size);
    }

    pub(super) fn read(&self, at: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let beyond = || ReadError::Beyond { at, length: length as u64, size: self.size };
        at.checked_add(length as u64).filter(|end| *end <= self.size).ok_or_else(beyond)?;
        let place = self.start.checked_add(at).ok_or_else(beyond)?;
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, place) {
            Ok(()) => Ok(bytes),
            Err(source) => Err(ReadError::Read { at, length, source }),
        }
    }

    pub(super) fn u16(&self, at: u64) -> Result<u16, ReadError> {
        Ok(u16::from_le_bytes(array(&self.read(at, 2)?)))
    }

    pub(super) fn u64(&self, at: u64) -> Result<u64, ReadError> {
        Ok(u64::from_le_bytes(array(&self.read(at, 8)?)))
    }
}

/// The first `N` bytes; zeros where there are fewer.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn nothing_outside_the_image_is_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"..image..").unwrap();
        let mut window = Window::new(file, 2..7);
        assert_eq!(window.read(0, 5).unwrap(), b"image");
        for (at, length) in [(0, 6), (5, 1), (u64::MAX, 1), (1, usize::MAX)] {
            assert!(matches!(window.read(at, length), Err(ReadError::Beyond { .. })), "{at} {length}");
        }
        window.cut(3);
        window.read(0, 4).unwrap_err();
        assert_eq!(window.u16(1).unwrap(), u16::from_le_bytes(*b"ma"));
    }
}
