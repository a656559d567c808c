//! Directories by descriptor, in a root that is not ours yet.
//!
//! In: paths as the system that is being assembled will see them. Out: open
//! directories. Invariant: inside a root, absolute symlinks and `..` stay
//! inside that root.

use std::fs::read_link;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::{Error, failed};
use crate::text::Escaped;

/// openat2 returns EAGAIN when anything is renamed meanwhile; a few tries
/// suffice.
const RESOLVE_ATTEMPTS: u32 = 16;

/// A directory that is only passed on.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether symlinks inside a root are followed, inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symlinks {
    Follow,
    Refuse,
}

/// Opens a directory.
pub fn open(path: &Path) -> Result<OwnedFd, Error> {
    openat(rustix::fs::CWD, path, DIRECTORY, Mode::empty()).map_err(failed("open", shown(path)))
}

/// Opens a directory inside a root. The empty path is the root itself. `None`
/// if it is not there.
pub fn open_in_root(root: impl AsFd, path: &Path, symlinks: Symlinks) -> Result<Option<OwnedFd>, Error> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match resolve(root, path, DIRECTORY, symlinks) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed("openat2", shown(path))(error)),
    }
}

/// Opens a path as if `root` were `/`.
pub(super) fn resolve(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    symlinks: Symlinks,
) -> Result<OwnedFd, Errno> {
    let resolution = match symlinks {
        Symlinks::Follow => ResolveFlags::IN_ROOT,
        Symlinks::Refuse => ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    };
    for _ in 0..RESOLVE_ATTEMPTS {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolution) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the directory at `path` below `parent`, and makes it and what leads
/// to it if missing. When made, it gets the mode and owner of `like`.
pub fn make(parent: impl AsFd, path: &Path, like: impl AsFd) -> Result<OwnedFd, Error> {
    let parent = parent.as_fd();
    let mut leading: Vec<_> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    leading.reverse();
    let mut made = false;
    for part in leading {
        made = match mkdirat(parent, part, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed("mkdirat", shown(path))(error)),
        };
    }
    // Changing mode and owner takes a descriptor that is not O_PATH.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, path, flags, Mode::empty()).map_err(failed("openat", shown(path)))?;
    if made {
        let wanted = fstat(like).map_err(failed("fstat", shown(path)))?;
        let (owner, group) = (Uid::from_raw(wanted.st_uid), Gid::from_raw(wanted.st_gid));
        fchown(&directory, Some(owner), Some(group)).map_err(failed("fchown", shown(path)))?;
        fchmod(&directory, Mode::from_raw_mode(wanted.st_mode)).map_err(failed("fchmod", shown(path)))?;
    }
    Ok(directory)
}

/// Where an open directory is now, as seen from this process' root.
pub fn path_of(directory: impl AsFd) -> Result<PathBuf, Error> {
    let link = format!("/proc/thread-self/fd/{}", directory.as_fd().as_raw_fd());
    read_link(&link)
        .map_err(|error| failed("readlink", &link)(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

fn shown(path: &Path) -> String {
    Escaped::new(path.as_os_str().as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn paths_stay_inside_their_root() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("usr/lib")).unwrap();
        symlink("/usr/lib", path("lib")).unwrap();
        symlink("../../../usr", path("up")).unwrap();
        fs::write(path("file"), "").unwrap();
        let root = open(directory.path()).unwrap();
        let at = |name: &str, symlinks| {
            let opened = open_in_root(&root, Path::new(name), symlinks);
            opened.map(|fd| fd.map(|fd| path_of(fd).unwrap())).map_err(|error| error.source)
        };
        let inside = |name: &str| Ok(Some(directory.path().canonicalize().unwrap().join(name)));
        for (name, followed, refused) in [
            ("usr", inside("usr"), inside("usr")),
            ("", inside(""), inside("")),
            ("lib", inside("usr/lib"), Err(Errno::LOOP)),
            ("up/lib", inside("usr/lib"), Err(Errno::LOOP)),
            ("opt", Ok(None), Ok(None)),
            ("file", Err(Errno::NOTDIR), Err(Errno::NOTDIR)),
        ] {
            assert_eq!(at(name, Symlinks::Follow), followed, "{name}");
            assert_eq!(at(name, Symlinks::Refuse), refused, "{name}");
        }
    }

    #[test]
    fn a_made_directory_is_like_its_model_and_an_old_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        fs::create_dir(directory.path().join("model")).unwrap();
        fs::set_permissions(directory.path().join("model"), fs::Permissions::from_mode(0o1751)).unwrap();
        let (root, model) = (open(directory.path()).unwrap(), open(&directory.path().join("model")).unwrap());
        make(&root, Path::new("a/b"), &model).unwrap();
        assert_eq!((mode("a/b") & 0o7777, mode("a") & 0o7777), (0o1751, 0o755));
        make(&root, Path::new("a"), &model).unwrap();
        assert_eq!(mode("a") & 0o7777, 0o755);
        symlink("model", directory.path().join("link")).unwrap();
        make(&root, Path::new("link"), &model).unwrap_err();
    }
}
