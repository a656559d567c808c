//! Disks of a guest: a shared asset that no boot can change, or a file of
//! one test that keeps what the guest wrote, power cut or not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::program::{MKE2FS, run, scratch};

/// A raw image that appears as the next of `/dev/vda`, `/dev/vdb`, ….
#[derive(Clone)]
pub struct Disk {
    path: PathBuf,
    keep: Keep,
}

/// What becomes of the guest's writes.
#[derive(Clone, Copy)]
enum Keep {
    Writes,
    Nothing,
    /// The guest is told that there are none.
    Refused,
}

impl Disk {
    /// An image that stays as it is: writes go to a temporary file.
    pub fn unchanged(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), keep: Keep::Nothing }
    }

    /// An empty ext4 volume of 256 MiB with `label`, for the test `name`.
    /// It lasts from boot to boot.
    pub fn empty(name: &str, label: &str) -> Self {
        let path = scratch(&format!("{name}-{label}")).join("disk.ext4");
        run(MKE2FS.command().args(["-q", "-t", "ext4", "-L", label]).arg(&path).arg("256m"));
        Self { path, keep: Keep::Writes }
    }

    /// The same disk, which the guest cannot write to.
    pub fn read_only(&self) -> Self {
        Self { keep: Keep::Refused, ..self.clone() }
    }

    /// Panics unless the guest has left the ext4 volume as after unmounting:
    /// its journal needs no replay (kernel documentation, "ext4 superblock").
    pub fn assert_clean(&self) {
        const STATE: u64 = 1024 + 0x3a;
        const INCOMPATIBLE: u64 = 1024 + 0x60;
        let read = |offset| {
            let mut bytes = [0; 2];
            File::open(&self.path)
                .and_then(|file| file.read_exact_at(&mut bytes, offset))
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", self.path.display()));
            u16::from_le_bytes(bytes)
        };
        assert_eq!(read(STATE), 1, "{} was not unmounted", self.path.display());
        assert_eq!(read(INCOMPATIBLE) & 4, 0, "the journal of {} has to be replayed", self.path.display());
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The argument of QEMU's `-drive`.
    pub(crate) fn drive(&self) -> String {
        let mode = match self.keep {
            Keep::Writes => "snapshot=off",
            Keep::Nothing => "snapshot=on",
            Keep::Refused => "readonly=on",
        };
        format!("file={},format=raw,if=virtio,{mode}", self.path.display())
    }
}
