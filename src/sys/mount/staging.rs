//! A place for mounts that the kernel wants to see attached while something
//! is built from them.
//!
//! In: a path below `/run`. Out: a small tmpfs there, to attach to. Invariant:
//! dropped, it takes all that is mounted in it along; what was built from
//! them keeps them alive.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use super::{DetachedMount, MountError, Options, detach, make_private, open, shown};
use crate::sys::{Error, failed};

/// A private tmpfs that is unmounted when dropped.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// For the name of the next mount point.
    next: AtomicU32,
}

impl Staging {
    /// Makes the directory if it is missing, and mounts over it. The
    /// process' number is added to its name.
    pub fn mount(path: &Path) -> Result<Self, MountError> {
        let mut path = path.as_os_str().to_owned();
        path.push(format!("-{}", std::process::id()));
        let path = PathBuf::from(path);
        fs::create_dir_all(&path).map_err(|error| {
            failed("mkdir", shown(&path))(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        let options = Options::parse("nosuid,nodev,noexec,mode=0700,size=4M");
        open("tmpfs", Path::new("plywood"), &options)?.attach(&path)?;
        let staging = Self { path, next: AtomicU32::new(0) };
        // What is attached here must not appear in other namespaces.
        make_private(&staging.path)?;
        Ok(staging)
    }

    /// A new empty directory in it.
    pub fn directory(&self) -> Result<PathBuf, Error> {
        let path = self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        mkdirat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o700)).map_err(failed("mkdir", shown(&path)))?;
        Ok(path)
    }

    /// Attaches a mount to a new directory.
    pub fn attach(&self, mount: &DetachedMount) -> Result<(), Error> {
        let directory = self.directory()?;
        mount.attach(&directory)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let gone = detach(&self.path).map_err(|error| error.to_string());
        let removed = gone.and_then(|()| fs::remove_dir(&self.path).map_err(|error| error.to_string()));
        if let Err(error) = removed {
            log::warn!("cannot remove {}, ignored: {error}", self.path.display());
        }
    }
}
