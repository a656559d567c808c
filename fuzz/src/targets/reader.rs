//! Raw squashfs images, read to the last byte of their last file.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use plywood::layer::rules::Permission;
use plywood::layer::squashfs::FileId;
use plywood::layer::squashfs::reader::Reader;
use plywood::limits::{Bound, Limits};

use super::assert_chain_printable;

/// Bytes in place of a file.
struct Image<'a>(&'a [u8]);

impl FileExt for Image<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        (&self.0[from..]).read(buffer)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub fn squashfs_reader(data: &[u8]) {
    let limits = Limits::default().with(Bound::Entries, 1000).with(Bound::ImageBytes, 1 << 20);
    let read = || {
        let mut reader = Reader::open(Image(data), 0..data.len() as u64, limits)?;
        let tree = reader.tree(Permission::Refuse)?;
        for number in 0..1000 {
            let Some(content) = reader.content(&tree, FileId::new(number))? else { break };
            let size = content.size().min(limits.get(Bound::ImageBytes));
            match io::copy(&mut content.take(size), &mut io::sink()) {
                Ok(count) => assert_eq!(count, size, "a file ends early"),
                Err(error) => assert_chain_printable(&error),
            }
        }
        Ok::<_, plywood::layer::squashfs::reader::ReadError>(())
    };
    if let Err(error) = read() {
        assert_chain_printable(&error);
    }
}
