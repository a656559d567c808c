//! Records: small JSON files that know whether they are what was written.
//!
//! ```text
//! {"format":1,"digest":"sha256:…","record":
//! …
//! }
//! ```
//! The digest is that of the format's number, a newline and the lines in
//! between, so a bit changed or a byte lost anywhere is found. A newer format
//! is told from damage by the same digest. Invariant: a file is read only if
//! it is a regular one, owned and written by root or this user alone, and not
//! longer than its kind can be.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::read_at_most;
use crate::oci::Digest;
use crate::text::Escaped;

/// Longest record that is read, in bytes.
const MAX_RECORD: u64 = 16 * 1024 * 1024;
/// Mode bits with which others than the owner could change a file.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const TAIL: &str = "\n}\n";

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot read {}", Escaped::path(.path))]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is damaged: {what}", Escaped::path(.path))]
    Damaged { path: PathBuf, what: String },
    #[error("{} was written by a newer plywood (format {format})", Escaped::path(.path))]
    Newer { path: PathBuf, format: u32 },
}

impl RecordError {
    /// Whether there is no such record at all.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The first line, closed so that it is JSON by itself.
#[derive(Deserialize)]
struct Head {
    format: u32,
    digest: Digest,
}

fn head(format: u32, digest: &Digest) -> String {
    format!("{{\"format\":{format},\"digest\":\"{digest}\",\"record\":\n")
}

fn digest(format: u32, body: &str) -> Digest {
    Digest::sha256(format!("{format}\n{body}").as_bytes())
}

/// The bytes of a record's file.
pub fn encode(format: u32, record: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_string_pretty(record)?;
    Ok((head(format, &digest(format, &body)) + &body + TAIL).into_bytes())
}

/// Reads a record of at most `format` from its file.
pub fn read<T: DeserializeOwned>(path: &Path, format: u32) -> Result<T, RecordError> {
    let read = |source| RecordError::Read { path: path.into(), source };
    let bytes = read_trusted(path, MAX_RECORD).map_err(read)?;
    let damaged = |what: &str| RecordError::Damaged { path: path.into(), what: what.into() };
    let (written, body) = split(&bytes).map_err(damaged)?;
    if written > format {
        return Err(RecordError::Newer { path: path.into(), format: written });
    }
    serde_json::from_str(body).map_err(|error| damaged(&error.to_string()))
}

/// The format and the lines of a record that are as they were written.
fn split(bytes: &[u8]) -> Result<(u32, &str), &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let (first, rest) = text.split_once('\n').ok_or("it has no first line")?;
    let body = rest.strip_suffix(TAIL).ok_or("it has no end")?;
    let Head { format, digest: said } = serde_json::from_str(&format!("{first}null}}"))
        .map_err(|_| "its first line is not that of a record")?;
    let is_whole = head(format, &said) == format!("{first}\n") && digest(format, body) == said;
    if is_whole { Ok((format, body)) } else { Err("its digest is not the one that it names") }
}

/// Opens a file that only root or this user can have written. Neither it nor
/// its directory may be a symlink, and neither may be writable by others.
pub fn open_trusted(path: &Path) -> io::Result<File> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, parent, flags | OFlags::DIRECTORY, Mode::empty())?;
    check_owner(&directory)?;
    // A FIFO in its place would have whoever opens it wait for a writer.
    let file = File::from(openat(&directory, name, flags | OFlags::NONBLOCK, Mode::empty())?);
    check_owner(&file)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

fn check_owner(file: impl std::os::fd::AsFd) -> io::Result<()> {
    let status = fstat(file)?;
    let owner = status.st_uid;
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("it belongs to user {owner}")));
    }
    match status.st_mode & WRITABLE_BY_OTHERS {
        0 => Ok(()),
        _ => Err(io::Error::other("others than its owner may write to it")),
    }
}

/// The content of a trusted file of at most `limit` bytes.
pub fn read_trusted(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_at_most(open_trusted(path)?, limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn written() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        let bytes = encode(1, &vec!["one", "two"]).unwrap();
        fs::write(&path, &bytes).unwrap();
        (directory, path, bytes)
    }

    #[test]
    fn a_record_is_read_back_and_is_json() {
        let (_directory, path, bytes) = written();
        assert_eq!(read::<Vec<String>>(&path, 1).unwrap(), ["one", "two"]);
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["record"][1], "two");
    }

    #[test]
    fn every_flipped_bit_and_every_lost_byte_is_found() {
        let (_directory, path, bytes) = written();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                fs::write(&path, &flipped).unwrap();
                let error = read::<Vec<String>>(&path, 1).unwrap_err();
                assert!(matches!(error, RecordError::Damaged { .. }), "byte {at}, bit {bit}: {error}");
            }
            fs::write(&path, &bytes[..at]).unwrap();
            assert!(read::<Vec<String>>(&path, 1).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let (_directory, path, _) = written();
        fs::write(&path, encode(2, &"of another kind").unwrap()).unwrap();
        let error = read::<Vec<String>>(&path, 1).unwrap_err();
        assert!(error.to_string().ends_with("was written by a newer plywood (format 2)"), "{error}");
    }

    #[test]
    fn only_a_regular_file_that_nobody_else_writes_is_read() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 5] = [
            ("a symlink", |path| {
                fs::rename(path, path.with_extension("moved")).unwrap();
                symlink(path.with_extension("moved"), path).unwrap();
            }),
            ("a directory", |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
            ("a FIFO", |path| {
                fs::remove_file(path).unwrap();
                rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            }),
            ("writable by others", |path| {
                fs::set_permissions(path, fs::Permissions::from_mode(0o622)).unwrap();
            }),
            ("in a directory that is", |path| {
                fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
            }),
        ];
        for (name, change) in changes {
            let (_directory, path, _) = written();
            change(&path);
            assert!(read::<Vec<String>>(&path, 1).is_err(), "{name}");
        }
        let (_directory, path, bytes) = written();
        assert!(read_trusted(&path, bytes.len() as u64 - 1).is_err());
    }
}
