//! The layer above all others, generated at every boot.
//!
//! In: the roots of the layers and the base, mounted and not yet merged. Out:
//! files at [`TOP`]: the list of extensions, and what several extensions have
//! to share. Invariant: nothing of an earlier attempt is left in it, and its
//! directories are everybody's to read, as they lend the merged ones their mode.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::kernel_release;
use crate::error::Error;
use crate::sys::module::depmod;
use crate::sys::roots::Roots;
use crate::sys::{kmsg, linker_cache};

/// The directory that lies above all layers.
pub(super) const TOP: &str = "/run/plywood/top";

/// The list of extensions inside the merged root, in the shape and place that
/// Talos gave it.
pub(super) const EXTENSIONS: &str = "etc/extensions.yaml";

/// The index that has systemd run kmod, and its unit fail without.
const DEVICE_NODES: &str = "modules.devname";

const LINKER_CACHE: &str = "etc/ld.so.cache";

/// Writes the top layer for these roots, the highest first.
pub(super) fn write(roots: &[BorrowedFd], extensions: &str) -> Result<(), Error> {
    match fs::remove_dir_all(TOP) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(Path::new(TOP), error)),
        _ => add(EXTENSIONS, extensions.as_bytes())?,
    }
    write_indexes(roots)
}

/// Adds the cache of glibc's linker, which finds libraries in `/usr/local/lib`
/// by it alone. For overlays that cover `/etc`.
pub(super) fn write_linker_cache(roots: &[BorrowedFd]) -> Result<(), Error> {
    match linker_cache::extend(roots) {
        Ok(Some(cache)) => {
            log::info!("adding libraries of extensions to /{LINKER_CACHE}");
            add(LINKER_CACHE, &cache)
        }
        Ok(None) => Ok(()),
        Err(error) => {
            log::warn!("the libraries of extensions are not in /{LINKER_CACHE}: {}", kmsg::chain(&error));
            Ok(())
        }
    }
}

/// The indexes of kernel modules. Without them the modules of extensions are
/// not found, and all else works.
fn write_indexes(roots: &[BorrowedFd]) -> Result<(), Error> {
    let release = kernel_release();
    let files = match depmod::index(roots, &release) {
        Ok(Some(files)) => files,
        Ok(None) => return Ok(()),
        Err(error) => {
            log::warn!("no index of the extensions' kernel modules: {}", kmsg::chain(&error));
            return Ok(());
        }
    };
    log::info!("indexing kernel modules of extensions for {release}");
    let files = files.iter().filter(|(name, _)| *name != DEVICE_NODES || has_kmod(roots));
    files
        .into_iter()
        .try_for_each(|(name, content)| add(&format!("usr/lib/modules/{release}/{name}"), content))
}

/// Whether there is what reads [`DEVICE_NODES`], at systemd's place for it.
fn has_kmod(roots: &[BorrowedFd]) -> bool {
    let roots = Roots::new(roots);
    ["usr/bin/kmod", "bin/kmod"]
        .iter()
        .any(|path| matches!(roots.open(roots.numbers(), Path::new(path)), Ok(Some(_))))
}

/// Adds a file, and the directories that it is in.
fn add(path: &str, content: &[u8]) -> Result<(), Error> {
    let path = Path::new(TOP).join(path);
    let write = || -> io::Result<()> {
        let mut missing: Vec<_> =
            path.ancestors().skip(1).take_while(|directory| !directory.exists()).collect();
        while let Some(directory) = missing.pop() {
            DirBuilder::new().mode(0o755).create(directory)?;
            // Whatever the umask is.
            fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        }
        fs::write(&path, content)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))
    };
    write().map_err(|error| failed(&path, error))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Write { path: path.into(), source }
}
