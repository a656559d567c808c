//! File systems of disks, made with content by the programs that people use.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use crate::program::{MKE2FS, MKFS_BTRFS, MKFS_VFAT, MKFS_XFS, run};

/// What a disk is formatted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    Ext4,
    /// With blocks of 4 KiB and 128 inodes, all of it for whoever comes.
    SmallExt4,
    Xfs,
    Btrfs,
    /// Always empty.
    Vfat,
}

impl Filesystem {
    /// The one of this name, as mount(8) has it.
    pub fn named(name: &str) -> Self {
        match name {
            "ext4" => Self::Ext4,
            "xfs" => Self::Xfs,
            "btrfs" => Self::Btrfs,
            "vfat" => Self::Vfat,
            _ => panic!("{name} is none of ext4, xfs, btrfs and vfat"),
        }
    }

    /// Makes `path` a volume of `size`, such as `64m`, with what is in the
    /// directory `content`.
    pub(crate) fn make(self, label: &str, content: &Path, path: &Path, size: &str) {
        let mke2fs = |options: &[&str]| {
            let mut make = MKE2FS.command();
            make.args(["-q", "-t", "ext4", "-L", label]).args(options).arg("-d").arg(content);
            run(make.arg(path).arg(size));
        };
        match self {
            Self::Ext4 => mke2fs(&[]),
            Self::SmallExt4 => mke2fs(&["-b", "4096", "-N", "128", "-m", "0"]),
            Self::Xfs => {
                let prototype = path.with_extension("prototype");
                write(&prototype, &format!("/\n0 0\n{}", describe(content)));
                allocate(path, size);
                run(MKFS_XFS.command().args(["-q", "-L", label, "-p"]).arg(prototype).arg(path));
            }
            Self::Btrfs => {
                allocate(path, size);
                run(MKFS_BTRFS.command().args(["-q", "-L", label, "--rootdir"]).arg(content).arg(path));
            }
            Self::Vfat => {
                allocate(path, size);
                run(MKFS_VFAT.command().args(["-n", label]).arg(path));
            }
        }
    }
}

/// A directory as mkfs.xfs(8) takes it: a line for itself, one for each thing
/// in it, and a `$`.
fn describe(directory: &Path) -> String {
    let mut text = String::from("d--755 0 0\n");
    let entries = fs::read_dir(directory);
    for entry in
        entries.unwrap_or_else(|error| panic!("cannot list {}: {error}", directory.display())).flatten()
    {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let described = match path.is_dir() {
            true => write!(text, "{name} {}", describe(&path)),
            false => writeln!(text, "{name} ---644 0 0 {}", path.display()),
        };
        described.expect("a text takes what is written to it");
    }
    text + "$\n"
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// Makes an empty file of `size`.
fn allocate(path: &Path, size: &str) {
    let mib: u64 = size.strip_suffix('m').and_then(|size| size.parse().ok()).expect("a size in MiB");
    File::create(path)
        .and_then(|file| file.set_len(mib << 20))
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
}
