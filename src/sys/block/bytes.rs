//! Fields of on-disk structures.
//!
//! In: bytes that a stranger may have written. Out: numbers and text, or
//! nothing where the bytes end. Invariant: no offset panics and no read is
//! larger than its caller says, however small or broken the device is.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::FileExt;

/// Up to `len` bytes from `offset` on; fewer where the device ends.
pub(super) fn read_at(device: &impl FileExt, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match device.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The start of a device can be readable where its end is not.
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A structure whose fields are read by their offset.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The structure that begins at `offset`.
    pub fn at(self, offset: usize) -> Option<Self> {
        self.0.get(offset..).map(Self)
    }

    pub fn bytes(self, offset: usize, len: usize) -> Option<&'a [u8]> {
        self.0.get(offset..offset.checked_add(len)?)
    }

    pub fn has(self, offset: usize, magic: &[u8]) -> Option<()> {
        (self.bytes(offset, magic.len())? == magic).then_some(())
    }

    pub fn array<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    pub fn u8(self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    pub fn u16(self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    pub fn u32(self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    pub fn u64(self, offset: usize) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }

    /// Text that ends at NUL or fills its field; `None` if it is empty.
    pub fn text(self, offset: usize, len: usize) -> Option<String> {
        let field = self.bytes(offset, len)?;
        let text = field.split(|&byte| byte == 0).next()?;
        not_empty(String::from_utf8_lossy(text).into_owned())
    }

    /// Text that is padded with spaces.
    pub fn padded_text(self, offset: usize, len: usize) -> Option<String> {
        let text = self.text(offset, len)?;
        not_empty(text.trim_end_matches(' ').to_owned())
    }

    /// Text in UTF-16, little endian, that ends at NUL or fills its field.
    pub fn text_utf16(self, offset: usize, len: usize) -> Option<String> {
        let field = self.bytes(offset, len)?;
        let units = field.chunks_exact(2).filter_map(|unit| unit.try_into().ok()).map(u16::from_le_bytes);
        let units = units.take_while(|&unit| unit != 0);
        not_empty(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
    }

    /// A UUID in the order of its bytes; `None` if it is all zero.
    pub fn uuid(self, offset: usize) -> Option<String> {
        uuid(self.array(offset)?)
    }

    /// A UUID as UEFI stores it: the first three groups are little endian.
    pub fn guid(self, offset: usize) -> Option<String> {
        let [a, b, c, d, e, f, g, h, rest @ ..] = self.array::<16>(offset)?;
        let mut swapped = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
        swapped.iter_mut().skip(8).zip(rest).for_each(|(to, from)| *to = from);
        uuid(swapped)
    }
}

fn not_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn uuid(bytes: [u8; 16]) -> Option<String> {
    if bytes == [0; 16] {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn fields_beyond_the_end_are_absent() {
        let fields = Fields(&[1, 2, 3, 4]);
        assert_eq!(fields.u32(0), Some(0x0403_0201));
        assert_eq!((fields.u32(1), fields.u16(3), fields.u8(4), fields.u64(0)), (None, None, None, None));
        assert_eq!(fields.bytes(usize::MAX, 2), None);
        assert!(fields.at(5).is_none());
    }

    #[test]
    fn text_ends_at_nul_padding_or_the_field() {
        let fields = Fields(b"label\0xx  ");
        assert_eq!(fields.text(0, 10).as_deref(), Some("label"));
        assert_eq!(fields.text(6, 4).as_deref(), Some("xx  "));
        assert_eq!(fields.padded_text(6, 4).as_deref(), Some("xx"));
        assert_eq!(fields.text(5, 3), None);
        assert_eq!(fields.padded_text(8, 2), None);
        assert_eq!(Fields(b"a\0\xfc\0\0\xd8\0\0x\0").text_utf16(0, 10).as_deref(), Some("aü\u{fffd}"));
    }

    #[test]
    fn uuids_are_lower_case_and_never_zero() {
        let bytes: Vec<u8> = (0xf0..=0xff).collect();
        assert_eq!(Fields(&bytes).uuid(0).as_deref(), Some("f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff"));
        assert_eq!(Fields(&bytes).guid(0).as_deref(), Some("f3f2f1f0-f5f4-f7f6-f8f9-fafbfcfdfeff"));
        assert_eq!(Fields(&[0; 16]).uuid(0), None);
    }

    #[test]
    fn reading_ends_where_the_device_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device");
        fs::write(&path, [7; 100]).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_at(&file, 90, 100).unwrap(), [7; 10]);
        assert!(read_at(&file, 1000, 100).unwrap().is_empty());
    }
}
