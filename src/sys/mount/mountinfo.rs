//! What is mounted where, as the kernel lists it.
//!
//! In: `/proc/thread-self/mountinfo` (proc(5)). Out: mount points. Invariant:
//! the list is of the namespace that this thread's mount calls act on.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::sys::directory::path_of;
use crate::sys::{Error, failed};

const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// All mount points, a path as often as something is mounted there, in the
/// kernel's order: what was mounted on something comes after it.
pub fn mount_points() -> Result<Vec<PathBuf>, Error> {
    let text = fs::read(MOUNTINFO)
        .map_err(|error| failed("read", MOUNTINFO)(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(mount_point).collect())
}

/// Mount points below an open directory, without itself.
pub fn mounts_below(directory: impl AsFd) -> Result<Vec<PathBuf>, Error> {
    let directory = path_of(directory)?;
    let mut below = mount_points()?;
    below.retain(|path| *path != directory && path.starts_with(&directory));
    Ok(below)
}

/// The fifth field of a line.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|&byte| byte == b' ').nth(4)?;
    Some(OsString::from_vec(unescape(field)).into())
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(mut field: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(field.len());
    while let Some((&byte, rest)) = field.split_first() {
        field = rest;
        match (byte, rest) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                field = rest;
            }
            _ => path.push(byte),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_the_fifth_field_unescaped() {
        for (line, expected) in [
            ("36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw", Some("/mnt")),
            ("36 35 98:0 /a\\040b /mnt\\040one\\134two rw - ext3 x rw", Some("/mnt one\\two")),
            ("36 35 98:0 / /odd\\999\\1 rw - ext3 x rw", Some("/odd\\999\\1")),
            ("36 35 98:0 /", None),
            ("", None),
        ] {
            assert_eq!(mount_point(line.as_bytes()), expected.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn a_directory_is_not_below_itself() {
        let below = |path: &str| mounts_below(fs::File::open(path).unwrap()).unwrap();
        assert!(below("/").contains(&"/proc".into()));
        assert!(!below("/").contains(&"/".into()));
        assert!(!below("/proc").contains(&"/proc".into()));
        assert_eq!(below("/proc/self/task"), Vec::<PathBuf>::new());
    }
}
