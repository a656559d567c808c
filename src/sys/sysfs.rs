//! Small files of sysfs.
//!
//! In: a path below `/sys`. Out: its bytes, or one line of text. Invariant:
//! no more is read than a kernel attribute can hold, whatever lies there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Largest file that is read, in bytes. An attribute is at most a page, which
/// is 64 KiB on some machines.
const MAX_LEN: u64 = 64 << 10;

/// The file's bytes, cut after 64 KiB.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The file's text without the final newline.
pub(super) fn attribute(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read(path)?).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(text.trim_end().to_owned())
}
