//! Freeing the memory that the initramfs is in.
//!
//! In: its root directory's descriptor. Out: an empty directory. Invariant:
//! nothing on another mount is touched and no symlink is followed, whatever
//! is mounted where.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;

/// Removes all that is below `root` and on the same mount. What cannot be
/// removed stays, with one warning.
pub(super) fn contents(root: BorrowedFd) {
    if let Err(error) = empty(root) {
        log::warn!("some of the initramfs stays in memory, ignored: {error}");
    }
}

/// Goes on after an error, and returns the first.
fn empty(directory: BorrowedFd) -> Result<(), Errno> {
    let mut result = Ok(());
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let removed = match subdirectory(directory, name) {
            Ok(inside) => empty(std::os::fd::AsFd::as_fd(&inside))
                .and_then(|()| unlinkat(directory, name, AtFlags::REMOVEDIR)),
            // Where something is mounted: it stays, and so does its place.
            Err(Errno::XDEV) => Ok(()),
            Err(_) => unlinkat(directory, name, AtFlags::empty()),
        };
        result = result.and(removed);
    }
    result
}

fn subdirectory(directory: BorrowedFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(directory, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS)
}
