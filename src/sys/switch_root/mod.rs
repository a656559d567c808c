//! From the initramfs to the real root.
//!
//! In: where the new root is mounted and its init. Out: nothing: the process
//! becomes that init. Invariant: [`NewRoot::check`] changes nothing and finds
//! what it can of all that would fail later, because after
//! [`NewRoot::perform`] has begun there is no way back.

mod init;
mod remove;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatfs, fstatvfs, mkdirat, open};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, mount_move, move_mount, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use self::init::InitError;
use super::directory::{Symlinks, resolve};
use super::mount::{is_mount_point, is_mount_root, make_private};
use super::{Error, failed, signal};
use crate::text::Escaped;

/// What moves along, each where it is mounted in the initramfs. The new root
/// needs a directory of the same name.
const MOVED: &[&str] = &["dev", "proc", "sys", "run"];

/// `f_type` of the filesystems that an initramfs is on, from linux/magic.h.
const RAMFS: i64 = 0x8584_58f6;
const TMPFS: i64 = 0x0102_1994;

/// A root that can be switched to.
#[derive(Debug)]
pub struct NewRoot {
    path: PathBuf,
    fd: OwnedFd,
    init: PathBuf,
    moves: Vec<Move>,
}

/// A mount that moves along.
#[derive(Debug)]
struct Move {
    name: &'static str,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Directory,
    /// The new root is writable, so it can be made.
    Missing,
    /// Something is mounted there already; ours goes.
    Mounted,
}

/// How the root is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pivot {
    /// `pivot_root(2)` where the kernel allows it, else as `Move`.
    Auto,
    /// The new root is moved over the old one, which is then emptied.
    Move,
}

/// Why the root cannot be switched.
#[derive(Debug, thiserror::Error)]
pub enum SwitchRootError {
    #[error("cannot switch to {}: nothing is mounted there", .root.display())]
    NotMounted { root: PathBuf },
    #[error(
        "cannot switch to {}: it has no directory /{name} and is read-only, so none can be made",
        .root.display()
    )]
    NoMountPoint { root: PathBuf, name: &'static str },
    #[error("cannot start {} in {}", Escaped::new(.init.as_os_str().as_bytes()), .root.display())]
    Init { root: PathBuf, init: PathBuf, source: InitError },
    #[error("cannot switch to {}", .root.display())]
    Call { root: PathBuf, source: Error },
    #[error("cannot execute {}", Escaped::new(.init.as_os_str().as_bytes()))]
    Exec { init: PathBuf, source: io::Error },
}

impl NewRoot {
    /// Finds out whether `root` can be switched to and `init`, a path inside
    /// it, started. Changes nothing.
    pub fn check(root: &Path, init: &Path) -> Result<Self, SwitchRootError> {
        let call = |source| SwitchRootError::Call { root: root.into(), source };
        if !is_mount_point(root).map_err(call)? {
            return Err(SwitchRootError::NotMounted { root: root.into() });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(root, flags, Mode::empty()).map_err(failed("open", root.display())).map_err(call)?;
        init::check(&fd, init).map_err(|source| SwitchRootError::Init {
            root: root.into(),
            init: init.into(),
            source,
        })?;
        let mut new = Self { path: root.into(), fd, init: init.into(), moves: Vec::new() };
        for name in MOVED {
            let there = Path::new("/").join(name);
            // Not there, or not mounted: nothing to move.
            if is_mount_point(&there).unwrap_or(false) {
                new.moves.push(new.plan_move(name)?);
            }
        }
        Ok(new)
    }

    fn plan_move(&self, name: &'static str) -> Result<Move, SwitchRootError> {
        let call = |source| SwitchRootError::Call { root: self.path.clone(), source };
        let target =
            match resolve(&self.fd, Path::new(name), OFlags::PATH | OFlags::DIRECTORY, Symlinks::Follow) {
                Ok(directory) if is_mount_root(directory.as_fd()) => Target::Mounted,
                Ok(_) => Target::Directory,
                Err(Errno::NOENT) if self.is_writable().map_err(call)? => Target::Missing,
                Err(Errno::NOENT) => {
                    return Err(SwitchRootError::NoMountPoint { root: self.path.clone(), name });
                }
                Err(error) => return Err(call(failed("openat2", format!("/{name} in the new root"))(error))),
            };
        Ok(Move { name, target })
    }

    fn is_writable(&self) -> Result<bool, Error> {
        let status = fstatvfs(&self.fd).map_err(failed("fstatvfs", self.path.display()))?;
        Ok(!status.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Switches and becomes init, with the arguments after its name and just
    /// this environment. Returns only when that failed; then the initramfs
    /// may be gone.
    pub fn perform(
        self,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
        pivot: Pivot,
    ) -> Result<Infallible, SwitchRootError> {
        self.change_root(pivot)
            .map_err(|source| SwitchRootError::Call { root: self.path.clone(), source })?;
        open_console();
        signal::reset();
        umask(Mode::from_raw_mode(0o022));
        let mut command = Command::new(&self.init);
        command.args(arguments).env_clear().envs(environment.iter().map(|(key, value)| (key, value)));
        Err(SwitchRootError::Exec { source: command.exec(), init: self.init })
    }

    fn change_root(&self, pivot: Pivot) -> Result<(), Error> {
        // The kernel does not move a mount whose parent is shared.
        make_private(Path::new("/"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let old = open("/", flags, Mode::empty()).map_err(failed("open", "/"))?;
        self.moves.iter().try_for_each(|mount| self.carry(mount))?;
        fchdir(&self.fd).map_err(failed("fchdir", self.path.display()))?;
        if pivot == Pivot::Move || !try_pivot()? {
            move_over(&old)?;
        }
        chdir("/").map_err(failed("chdir", "/"))
    }

    /// Moves one mount into the new root, by descriptor, so that a symlink
    /// there cannot lead out of it.
    fn carry(&self, mount: &Move) -> Result<(), Error> {
        let from = Path::new("/").join(mount.name);
        match mount.target {
            Target::Mounted => return super::mount::detach(&from),
            Target::Missing => mkdirat(&self.fd, mount.name, Mode::from_raw_mode(0o755))
                .map_err(failed("mkdirat", format!("/{} in the new root", mount.name)))?,
            Target::Directory => {}
        }
        let target =
            resolve(&self.fd, Path::new(mount.name), OFlags::PATH | OFlags::DIRECTORY, Symlinks::Follow)
                .map_err(failed("openat2", format!("/{} in the new root", mount.name)))?;
        move_mount(CWD, &from, &target, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
            .map_err(failed("move_mount", from.display()))
    }
}

/// Makes the working directory the root with `pivot_root`. False where the
/// kernel does not allow that from an initramfs.
fn try_pivot() -> Result<bool, Error> {
    match pivot_root(".", ".") {
        // The old root now lies over the new one.
        Ok(()) => {
            unmount(".", UnmountFlags::DETACH).map_err(failed("umount2", "the old root")).map(|()| true)
        }
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(failed("pivot_root", "the new root")(error)),
    }
}

/// KERNEL(7.0): may go when no supported kernel refuses `pivot_root` from the
/// initramfs, which cannot be unmounted either and would keep its memory.
fn move_over(old: &OwnedFd) -> Result<(), Error> {
    mount_move(".", "/").map_err(failed("mount MS_MOVE", "the new root"))?;
    chroot(".").map_err(failed("chroot", "the new root"))?;
    let kind = fstatfs(old).map_err(failed("fstatfs", "the old root"))?.f_type as i64;
    if kind == RAMFS || kind == TMPFS {
        remove::contents(old.as_fd());
    }
    Ok(())
}

/// Gives init the console as its standard streams; without one it keeps what
/// there is.
fn open_console() {
    let console = open("/dev/console", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let result = console.and_then(|console| {
        dup2_stdin(&console)?;
        dup2_stdout(&console)?;
        dup2_stderr(&console)
    });
    if let Err(error) = result {
        log::warn!("cannot open /dev/console, ignored: {error}");
    }
}
