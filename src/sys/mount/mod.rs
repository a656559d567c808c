//! Mounts: opened detached, attached when they are whole.
//!
//! In: a filesystem, its source and [`Options`]. Out: a [`DetachedMount`] that
//! is gone when dropped, until it is attached. Invariant: nothing half-built
//! is visible at any path.
//!
//! What plywood needs of the kernel, and what it does without it. Features
//! are tried, versions are never compared:
//!
//! | feature | since | without it |
//! |---|---|---|
//! | `fsopen`, `fsconfig`, `fsmount`, `move_mount`, `open_tree` | 5.2 | [`mount`] uses `mount(2)`; no overlay |
//! | `openat2` | 5.6 | no switch root |
//! | `LOOP_CONFIGURE` | 5.8 | no layers |
//! | `STATX_ATTR_MOUNT_ROOT` | 5.8 | [`is_mount_point`] compares devices |
//! | overlay `lowerdir+` | 6.8 | [`Method::Classic`]: one `lowerdir=`, `mount(2)` |
//! | overlay layers by descriptor | 6.13 | [`Method::Paths`]: `/proc/self/fd/N` |
//! | overlay of detached mounts | 6.15 | [`Method::Paths`]: mounts attached to a [`Staging`] |
//! | direct I/O of loop devices | by filesystem | buffered |
//! | `pivot_root` from the initramfs | 7.0 | `MS_MOVE`, and the initramfs is emptied |

mod api;
mod context;
mod mountinfo;
mod options;
mod overlay;
mod staging;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, Statx, StatxAttributes, StatxFlags, statvfs, statx};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change,
    mount_remount, move_mount, open_tree,
};

pub use api::mount_api_filesystems;
pub use context::KernelLog;
pub use mountinfo::{mount_points, mounts_below};
pub use options::Options;
pub use overlay::{MAX_LOWER, Method, OverlayBuilder, Stack, Upper};
pub use staging::Staging;

use self::context::Context;
use super::{Error, failed};
use crate::text::Escaped;

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("the kernel does not know the filesystem {}: it is neither built in nor loaded as a module", Escaped::new(.fstype))]
    UnknownFilesystem { fstype: String },
    /// `said` is the kernel's own text, where it gives one.
    #[error("{call} failed for {what}{said}")]
    Refused { call: &'static str, what: String, said: KernelLog, source: Errno },
    #[error(transparent)]
    Call(#[from] Error),
}

/// Whether what is mounted below a directory comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submounts {
    Include,
    Leave,
}

/// A mount that is attached nowhere, or was attached by its owner. Dropped
/// before that, it is unmounted.
#[derive(Debug)]
pub struct DetachedMount {
    fd: OwnedFd,
}

impl AsFd for DetachedMount {
    /// The mount's root directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl DetachedMount {
    /// Shows the mount at `target`.
    pub fn attach(&self, target: &Path) -> Result<(), Error> {
        move_mount(&self.fd, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(failed("move_mount", shown(target)))
    }

    /// Shows the mount at a directory that is open; `what` names it in the
    /// error.
    pub fn attach_to(&self, directory: BorrowedFd, what: &Path) -> Result<(), Error> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.fd, "", directory, "", flags).map_err(failed("move_mount", shown(what)))
    }
}

/// Opens a filesystem without attaching it. `source` is a device, or any name
/// where there is none.
pub fn open(fstype: &str, source: &Path, options: &Options) -> Result<DetachedMount, MountError> {
    let context = Context::open(fstype, &source.to_string_lossy())?;
    context.options(options)?;
    context.mount(options.attributes)
}

/// Mounts a filesystem at `target`.
pub fn mount(fstype: &str, source: &Path, target: &Path, options: &Options) -> Result<(), MountError> {
    match open(fstype, source, options) {
        Err(MountError::Refused { call: "fsopen", source: Errno::NOSYS | Errno::PERM, .. }) => {
            mount_classic(fstype, source, target, options)
        }
        opened => Ok(opened?.attach(target)?),
    }
}

/// Mounts with `mount(2)`, where the kernel or a sandbox lacks the newer
/// calls. Its options are limited to a page, and it explains nothing.
pub fn mount_classic(
    fstype: &str,
    source: &Path,
    target: &Path,
    options: &Options,
) -> Result<(), MountError> {
    let what = || format!("{} on {} at {}", Escaped::new(fstype), shown(source), shown(target));
    let data = CString::new(options.data()).map_err(|_| failed("mount", what())(Errno::INVAL))?;
    match rustix::mount::mount(source, target, fstype, options.flags(), data.as_c_str()) {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => Err(MountError::UnknownFilesystem { fstype: fstype.to_owned() }),
        Err(error) => Err(failed("mount", what())(error).into()),
    }
}

/// A copy of the mount at `path`, from that directory down: what a bind mount
/// is made of.
pub fn clone_tree(path: &Path, submounts: Submounts) -> Result<DetachedMount, Error> {
    let recursive = match submounts {
        Submounts::Include => OpenTreeFlags::AT_RECURSIVE,
        Submounts::Leave => OpenTreeFlags::empty(),
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive;
    let fd = open_tree(CWD, path, flags).map_err(failed("open_tree", shown(path)))?;
    Ok(DetachedMount { fd })
}

/// Shows the directory or file `from` also at `target`.
pub fn bind(from: &Path, target: &Path, submounts: Submounts) -> Result<(), Error> {
    clone_tree(from, submounts)?.attach(target)
}

/// Lets programs in `directory` run where what it is on is mounted `noexec`:
/// by a mount of its own, of the same files.
pub fn allow_programs(directory: &Path) -> Result<(), Error> {
    let status = statvfs(directory).map_err(failed("statvfs", shown(directory)))?;
    if !status.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Ok(());
    }
    bind(directory, directory, Submounts::Include)?;
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(directory, flags, c"").map_err(failed("mount", shown(directory)))
}

/// Whether what is mounted at `path` can be written to.
pub fn is_writable(path: &Path) -> Result<bool, Error> {
    let status = statvfs(path).map_err(failed("statvfs", shown(path)))?;
    Ok(!status.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Changes the options of what is mounted at `target`, of the filesystem too.
pub fn remount(target: &Path, options: &Options) -> Result<(), Error> {
    let data = CString::new(options.data()).map_err(|_| failed("mount", shown(target))(Errno::INVAL))?;
    mount_remount(target, options.flags(), data.as_c_str()).map_err(failed("mount", shown(target)))
}

/// Unmounts what is mounted last at `target`; fails while it is in use.
pub fn unmount(target: &Path) -> Result<(), Error> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW).map_err(failed("umount2", shown(target)))
}

/// Hides what is mounted last at `target`, with what is mounted below it. It
/// is unmounted when its last user is gone.
pub fn detach(target: &Path) -> Result<(), Error> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(target, flags).map_err(failed("umount2", shown(target)))
}

/// Keeps mounts at and below `target` from appearing in other namespaces, and
/// theirs from appearing here. A shared mount cannot be moved.
pub fn make_private(target: &Path) -> Result<(), Error> {
    mount_change(target, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("mount", shown(target)))
}

/// Whether something is mounted at `path`.
pub fn is_mount_point(path: &Path) -> Result<bool, Error> {
    let status = |path: &Path| {
        statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS).map_err(failed("statx", shown(path)))
    };
    let here = status(path)?;
    if let Some(is_root) = mount_root(&here) {
        return Ok(is_root);
    }
    let parent = status(&path.join(".."))?;
    let device = |status: &Statx| (status.stx_dev_major, status.stx_dev_minor);
    // The root directory is its own parent.
    Ok(device(&here) != device(&parent) || here.stx_ino == parent.stx_ino)
}

/// Whether an open directory is the root of a mount. False where the kernel
/// does not say.
pub(super) fn is_mount_root(directory: BorrowedFd) -> bool {
    let status = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    status.ok().as_ref().and_then(mount_root).unwrap_or(false)
}

fn mount_root(status: &Statx) -> Option<bool> {
    let told = status.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    told.then(|| status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// A path, safe to print.
fn shown(path: &Path) -> String {
    Escaped::new(path.as_os_str().as_bytes()).to_string()
}
