//! Writes newc archives, as the kernel unpacks an initramfs.
//!
//! In: paths with what they are to be. Out: an archive in which parents come
//! before what is in them, names are sorted, and nothing depends on who made
//! it when: all is owned by root and of 1970. Invariant: the archive is a
//! multiple of 4 bytes long, so another may follow.
//!
//! An entry is a header of 110 bytes, the name with a NUL, padding to a
//! multiple of 4, content, padding (kernel documentation, "initramfs buffer
//! format"). The header is `070701` and thirteen fields of eight hexadecimal
//! digits: inode, mode, owner, group, links, time, size, four device numbers,
//! length of the name with its NUL, check sum (0).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// What a path is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Directory {
        mode: u32,
    },
    File {
        mode: u32,
        content: Vec<u8>,
    },
    /// A file of this machine, read when the archive is written.
    Copy {
        mode: u32,
        from: PathBuf,
    },
    Symlink {
        target: OsString,
    },
}

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Archive {
    /// Adds `entry` at `path`, relative to the root, and the directories that
    /// lead there. The last entry of a path counts, but a directory that comes
    /// by itself does not change one that was added.
    pub fn add(&mut self, path: &Path, entry: Entry) {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            self.entries.entry(parent.into()).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.into(), entry);
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.entries.keys().map(PathBuf::as_path)
    }

    /// Writes the archive, whose first byte is at a multiple of 4.
    pub fn write(&self, out: &mut impl Write) -> Result<(), CopyError> {
        let mut inode = 0;
        for (path, entry) in &self.entries {
            inode += 1;
            write_entry(out, inode, path, entry)?;
        }
        let header = header(0, 0, 1, 0, b"TRAILER!!!".len());
        Ok(write_named(out, &header, b"TRAILER!!!")?)
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// What was to be copied.
    Read(PathBuf, io::Error),
    Write(io::Error),
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Copies all of `content`, which is that of `from`; returns its length in
/// bytes.
pub fn copy(from: &Path, mut content: impl Read, out: &mut impl Write) -> Result<u64, CopyError> {
    let mut buffer = vec![0; 64 * 1024];
    let mut length = 0;
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(count) => {
                out.write_all(buffer.get(..count).unwrap_or_default())?;
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(from.into(), error)),
        }
    }
}

fn write_entry(out: &mut impl Write, inode: u32, path: &Path, entry: &Entry) -> Result<(), CopyError> {
    let name = path.as_os_str().as_bytes();
    let start = |out: &mut _, mode, size| {
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        write_named(out, &header(inode, mode, links, size, name.len()), name)
    };
    match entry {
        Entry::Directory { mode } => start(out, S_IFDIR | mode, 0)?,
        Entry::File { mode, content } => {
            start(out, S_IFREG | mode, size_of(content.len() as u64)?)?;
            write_padded(out, content)?;
        }
        Entry::Symlink { target } => {
            let target = target.clone().into_vec();
            start(out, S_IFLNK | 0o777, size_of(target.len() as u64)?)?;
            write_padded(out, &target)?;
        }
        Entry::Copy { mode, from } => {
            let failed = |error| CopyError::Read(from.into(), error);
            let file = File::open(from).map_err(failed)?;
            let length = file.metadata().map_err(failed)?.len();
            start(out, S_IFREG | mode, size_of(length).map_err(failed)?)?;
            // Its size is in the header: what grows meanwhile is cut there.
            if copy(from, file.take(length), out)? != length {
                return Err(failed(io::Error::other("it became shorter while it was read")));
            }
            out.write_all(padding(length as usize))?;
        }
    }
    Ok(())
}

fn size_of(length: u64) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| io::Error::other("a file in an initramfs has to be smaller than 4 GiB"))
}

fn header(inode: u32, mode: u32, links: u32, size: u32, name: usize) -> String {
    let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name as u32 + 1, 0];
    fields.iter().fold(String::from("070701"), |text, field| format!("{text}{field:08X}"))
}

fn write_named(out: &mut impl Write, header: &str, name: &[u8]) -> io::Result<()> {
    out.write_all(header.as_bytes())?;
    out.write_all(name)?;
    out.write_all(&[0])?;
    out.write_all(padding(header.len() + name.len() + 1))
}

fn write_padded(out: &mut impl Write, content: &[u8]) -> io::Result<()> {
    out.write_all(content)?;
    out.write_all(padding(content.len()))
}

/// What brings `length` to a multiple of 4.
pub fn padding(length: usize) -> &'static [u8] {
    &[0; 3][..length.wrapping_neg() % 4]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(archive: &Archive) -> Vec<u8> {
        let mut out = Vec::new();
        archive.write(&mut out).unwrap();
        out
    }

    #[test]
    fn parents_come_first_and_the_order_of_adding_does_not_matter() {
        let file = |content: &str| Entry::File { mode: 0o644, content: content.into() };
        let mut one = Archive::default();
        one.add(Path::new("b/c"), file("1"));
        one.add(Path::new("a"), file("22"));
        let mut other = Archive::default();
        other.add(Path::new("a"), file("22"));
        other.add(Path::new("b/c"), file("1"));
        assert_eq!(one.paths().collect::<Vec<_>>(), [Path::new("a"), Path::new("b"), Path::new("b/c")]);
        assert_eq!(written(&one), written(&other));
    }

    #[test]
    fn a_directory_keeps_the_mode_that_it_was_given() {
        let mut archive = Archive::default();
        archive.add(Path::new("secret"), Entry::Directory { mode: 0o700 });
        archive.add(Path::new("secret/file"), Entry::File { mode: 0o600, content: vec![] });
        assert_eq!(archive.entries[Path::new("secret")], Entry::Directory { mode: 0o700 });
    }

    #[test]
    fn every_length_is_padded_to_a_multiple_of_four() {
        for length in 0..9 {
            let mut archive = Archive::default();
            let name = PathBuf::from("n".repeat(length + 1));
            archive.add(&name, Entry::File { mode: 0o644, content: vec![b'x'; length] });
            assert_eq!(written(&archive).len() % 4, 0, "{length}");
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named_and_a_full_disk_is_not_its_fault() {
        let copying = |from: &str| {
            let mut archive = Archive::default();
            archive.add(Path::new("a"), Entry::Copy { mode: 0o644, from: from.into() });
            archive
        };
        let missing = copying("/nowhere").write(&mut Vec::new()).unwrap_err();
        assert!(matches!(missing, CopyError::Read(path, _) if path == Path::new("/nowhere")));
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let unwritten = copying("/proc/self/exe").write(&mut full).unwrap_err();
        assert!(matches!(unwritten, CopyError::Write(_)), "{unwritten:?}");
    }
}
