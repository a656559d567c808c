//! Where the kernel looks for firmware before anywhere else.
//!
//! In: a directory as the initramfs sees it. Out: [`SearchPath`]. Invariant:
//! when it is dropped, the kernel looks where it looked before.
//!
//! The kernel has one such directory, `firmware_class.path`; without a file
//! there it goes on to `/lib/firmware`, which in an initramfs is not yet the
//! root's. It decompresses `.xz` and `.zst` files itself if it was built to.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The parameter in sysfs.
const PARAMETER: &str = "sys/module/firmware_class/parameters/path";

/// A directory that the kernel looks into until this is dropped.
#[derive(Debug)]
pub struct SearchPath {
    parameter: PathBuf,
    before: Vec<u8>,
}

impl SearchPath {
    /// Sets the directory. `root` is where `sys` is, `/` at boot. Fails with
    /// `NotFound` on a kernel that loads no firmware.
    pub fn set(root: &Path, directory: &Path) -> io::Result<Self> {
        let parameter = root.join(PARAMETER);
        let mut before = super::sysfs::read(&parameter)?;
        if before.ends_with(b"\n") {
            before.pop();
        }
        fs::write(&parameter, directory.as_os_str().as_bytes())?;
        Ok(Self { parameter, before })
    }
}

impl Drop for SearchPath {
    fn drop(&mut self) {
        // To write nothing would not be a write; a newline is cut off.
        let before = if self.before.is_empty() { b"\n" } else { self.before.as_slice() };
        if let Err(error) = fs::write(&self.parameter, before) {
            log::warn!("{} keeps its value: {error}", self.parameter.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_set_and_what_was_there_comes_back() {
        for (before, after) in [("\n", "\n"), ("", "\n"), ("/lib/mine\n", "/lib/mine")] {
            let root = tempfile::tempdir().unwrap();
            let parameter = root.path().join(PARAMETER);
            let value = || fs::read_to_string(&parameter).unwrap();
            fs::create_dir_all(parameter.parent().unwrap()).unwrap();
            fs::write(&parameter, before).unwrap();
            let path = SearchPath::set(root.path(), Path::new("/sysroot/usr/lib/firmware")).unwrap();
            assert_eq!(value(), "/sysroot/usr/lib/firmware");
            drop(path);
            assert_eq!(value(), after);
        }
    }

    #[test]
    fn a_kernel_without_firmware_says_so() {
        let root = tempfile::tempdir().unwrap();
        let error = SearchPath::set(root.path(), Path::new("/x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
