//! Programs on the host. Each is named with its package, so that a missing
//! one makes a failure that says what to install.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program and the Debian package that brings it.
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
}

pub const QEMU: Program = Program { name: "qemu-system-x86_64", package: "qemu-system-x86" };
pub const QEMU_ARM: Program = Program { name: "qemu-system-aarch64", package: "qemu-system-arm" };
pub const REGISTRY: Program = Program { name: "docker-registry", package: "docker-registry" };
pub const SKOPEO: Program = Program { name: "skopeo", package: "skopeo" };
pub const UMOCI: Program = Program { name: "umoci", package: "umoci" };
pub const HTPASSWD: Program = Program { name: "htpasswd", package: "apache2-utils" };
pub const BASE64: Program = Program { name: "base64", package: "coreutils" };
pub const MKE2FS: Program = Program { name: "mke2fs", package: "e2fsprogs" };
pub const DEBUGFS: Program = Program { name: "debugfs", package: "e2fsprogs" };
pub const MKFS_XFS: Program = Program { name: "mkfs.xfs", package: "xfsprogs" };
pub const MKFS_BTRFS: Program = Program { name: "mkfs.btrfs", package: "btrfs-progs" };
pub const MKFS_VFAT: Program = Program { name: "mkfs.vfat", package: "dosfstools" };
pub const SYSTEMD_ANALYZE: Program = Program { name: "systemd-analyze", package: "systemd" };
pub const OBJCOPY: Program = Program { name: "objcopy", package: "binutils" };
pub const CPIO: Program = Program { name: "cpio", package: "cpio" };

impl Program {
    /// The command, to be run to its end.
    pub fn command(&self) -> Command {
        Command::new(self.found())
    }

    /// The command, to be started and left running: the kernel kills it with
    /// the thread that started it, so a test that is killed leaves nothing.
    pub fn tied_to_this_thread(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.found());
        command
    }

    fn found(&self) -> PathBuf {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .map(|dir| dir.join(self.name))
            .find(|file| file.exists())
            .unwrap_or_else(|| panic!("{} is missing: install {} (make deps)", self.name, self.package))
    }
}

/// Runs `command` to its end and returns what it printed; panics with its
/// standard error if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The top of the source tree.
pub fn source_tree() -> &'static Path {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().expect("the crate lies in the source tree")
}

/// An empty directory for what one test leaves behind.
pub fn scratch(name: &str) -> PathBuf {
    let dir = source_tree().join("build/qemu").join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)
            .unwrap_or_else(|error| panic!("cannot empty {}: {error}", dir.display()));
    }
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
    dir
}
