//! Disks of a guest: a shared asset that no boot can change, or a file of
//! one test that keeps what the guest wrote, power cut or not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::filesystem::Filesystem;
use crate::program::{DEBUGFS, run, scratch};

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
    /// And each one by itself, in a log beside the image.
    Log,
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
        Self::make(name, label, &[], (Filesystem::Ext4, "256m"))
    }

    /// One of 64 MiB with these files, by path and content.
    pub fn with(name: &str, label: &str, files: &[(&str, &[u8])]) -> Self {
        Self::make(name, label, files, (Filesystem::Ext4, "64m"))
    }

    /// One of 384 MiB with these files and another file system.
    pub fn formatted(name: &str, label: &str, files: &[(&str, &[u8])], filesystem: Filesystem) -> Self {
        Self::make(name, label, files, (filesystem, "384m"))
    }

    /// An empty ext4 volume of 16 MiB that holds 128 files, and no more.
    pub fn small(name: &str, label: &str) -> Self {
        Self::make(name, label, &[], (Filesystem::SmallExt4, "16m"))
    }

    fn make(
        name: &str,
        label: &str,
        files: &[(&str, &[u8])],
        (filesystem, size): (Filesystem, &str),
    ) -> Self {
        let directory = scratch(&format!("{name}-{label}"));
        let content = directory.join("content");
        make_directory(&content);
        for (file, bytes) in files {
            let file = content.join(file);
            file.parent().into_iter().for_each(make_directory);
            fs::write(&file, bytes)
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
        }
        let path = directory.join("disk");
        filesystem.make(label, &content, &path, size);
        Self { path, keep: Keep::Writes }
    }

    /// A copy for the test `name` of what the disk has by now.
    pub fn copied(&self, name: &str) -> Self {
        let path = scratch(&format!("{name}-copy")).join("disk");
        fs::copy(&self.path, &path)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        Self { path, keep: Keep::Writes }
    }

    /// Does something to the ext4 volume behind the kernel's back, by commands
    /// of debugfs(8); returns what it prints.
    pub fn debug(&self, commands: &str) -> String {
        let file = self.path.with_extension("commands");
        fs::write(&file, commands).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
        run(DEBUGFS.command().arg("-w").arg("-f").arg(file).arg(&self.path))
    }

    /// Overwrites a block of 4 KiB with bytes that mean nothing.
    pub fn damage(&self, block: u64) {
        let written = File::options().write(true).open(&self.path);
        let written = written.and_then(|file| file.write_all_at(&[0xa5; 4096], block * 4096));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", self.path.display()));
    }

    /// The UUID of the ext4 volume, as `UUID=` has it.
    pub fn uuid(&self) -> String {
        let mut uuid = [0; 16];
        File::open(&self.path)
            .and_then(|file| file.read_exact_at(&mut uuid, 1024 + 0x68))
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", self.path.display()));
        let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
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

    /// The same disk, whose writes are logged from here on; the log is at the
    /// path that is returned, see [`blocklog`](crate::blocklog).
    pub fn logged(&self) -> (Self, PathBuf) {
        let log = self.log();
        // QEMU only opens it.
        fs::write(&log, []).unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
        (Self { keep: Keep::Log, ..self.clone() }, log)
    }

    fn log(&self) -> PathBuf {
        self.path.with_extension("log")
    }

    /// The image.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The argument of QEMU's `-drive`.
    pub(crate) fn drive(&self) -> String {
        let mode = match self.keep {
            Keep::Log => {
                let (image, log) = (self.path.display(), self.log());
                let log = log.display();
                return format!(
                    "driver=blklogwrites,file.driver=file,file.filename={image},log.driver=file,log.filename={log},if=virtio"
                );
            }
            Keep::Writes => "snapshot=off",
            Keep::Nothing => "snapshot=on",
            Keep::Refused => "readonly=on",
        };
        format!("file={},format=raw,if=virtio,{mode}", self.path.display())
    }
}

fn make_directory(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
}
