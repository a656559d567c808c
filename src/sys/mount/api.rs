//! The kernel's own filesystems, which an initramfs starts without.
//!
//! In: the directory they go below, `/`. Out: `/proc`, `/sys`, `/dev` and
//! `/run`. Invariant: what is mounted already stays as it is.

use std::path::Path;

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io::Errno;

use super::{MountError, Options, is_mount_point, mount, shown};
use crate::sys::failed;

/// Directory, filesystem and options, parents first. /run may hold programs
/// that hooks run, so it is not `noexec`; gid 5 is `tty` everywhere.
const FILESYSTEMS: &[(&str, &str, &str)] = &[
    ("proc", "proc", "nosuid,noexec,nodev"),
    ("sys", "sysfs", "nosuid,noexec,nodev"),
    ("dev", "devtmpfs", "nosuid,mode=0755"),
    ("dev/pts", "devpts", "nosuid,noexec,gid=5,mode=0620"),
    ("dev/shm", "tmpfs", "nosuid,nodev,mode=1777"),
    ("run", "tmpfs", "nosuid,nodev,mode=0755"),
];

/// Mounts those that are missing, and makes their mount points. All are
/// tried; the errors are of those that are still missing.
pub fn mount_api_filesystems(root: &Path) -> Result<(), Vec<MountError>> {
    let mounted = FILESYSTEMS
        .iter()
        .map(|(directory, fstype, options)| ensure(&root.join(directory), fstype, &Options::parse(options)));
    let errors: Vec<_> = mounted.filter_map(Result::err).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn ensure(target: &Path, fstype: &str, options: &Options) -> Result<(), MountError> {
    match mkdirat(CWD, target, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("mkdir", shown(target))(error).into()),
    }
    if is_mount_point(target)? {
        return Ok(());
    }
    mount(fstype, Path::new(fstype), target, options)
}
