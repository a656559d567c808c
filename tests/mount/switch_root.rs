//! Into another root, and what is found out before.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use plywood::sys::mount::{self, Options, Submounts, is_mount_point};
use plywood::sys::switch_root::{NewRoot, Pivot};

use crate::{Namespace, chain};

/// Set in the process that becomes init: how, and where its console is.
const PIVOT: &str = "PLYWOOD_TEST_PIVOT";
const CONSOLE: &str = "PLYWOOD_TEST_CONSOLE";

/// The new root's init: says on its console what it finds. The shell blocks
/// signals while it starts a program, so it reads its status by itself.
const INIT: &str = "#!/bin/sh
echo init $0 $1 $2
echo env $(env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD= | sort)
echo umask $(umask)
for i in dev proc sys run; do test -e /$i/$(cat /moved/$i) && echo $i moved; done
while read key value; do case $key in Sig*) echo $key $value; esac; done < /proc/$$/status
echo initramfs $(ls /old)
echo other filesystem $(ls /other)
test -e /initramfs-file && echo old root is visible
true";

#[test]
fn init_starts_in_the_new_root_with_its_mounts_and_a_clean_state() {
    const NAME: &str = "switch_root::init_starts_in_the_new_root_with_its_mounts_and_a_clean_state";
    if let Ok(pivot) = std::env::var(PIVOT) {
        become_init(if pivot == "move" { Pivot::Move } else { Pivot::Auto });
    }
    for (pivot, initramfs) in [
        ("auto", "initramfs a dev initramfs-file kept proc run sys sysroot\n"),
        // All but the directory on which something is mounted.
        ("move", "initramfs kept\n"),
    ] {
        // Not below /tmp, which the test's namespace hides, and with it a checkout there.
        let mut console = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture", "--test-threads=1"]);
        let output = command.env(PIVOT, pivot).env(CONSOLE, console.path()).output().unwrap();
        assert!(output.status.success(), "{pivot}: {}", String::from_utf8_lossy(&output.stderr));
        let mut text = String::new();
        console.read_to_string(&mut text).unwrap();
        for expected in [
            "init /sbin/init quiet 2\n",
            "env A=b\n",
            "umask 0022\n",
            "dev moved\nproc moved\nsys moved\nrun moved\n",
            "SigBlk: 0000000000000000\n",
            initramfs,
            "other filesystem precious\n",
        ] {
            assert!(text.contains(expected), "{pivot}: no {expected:?} in {text}");
        }
        let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn: ")).unwrap();
        // The C library keeps 32 and 33 for itself, and ignores them in what it spawns.
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & !(0b11 << 31), 0, "{pivot}: {ignored}");
        assert!(!text.contains("old root"), "{pivot}: {text}");
    }
}

/// Goes into a tmpfs that plays the initramfs, then into another one.
fn become_init(pivot: Pivot) -> ! {
    let namespace = Namespace::enter();
    let initramfs = namespace.files("initramfs", &[]);
    mount::mount("tmpfs", Path::new("rootfs"), &initramfs, &Options::DEFAULT).unwrap();
    namespace.files("initramfs", &[("initramfs-file", ""), ("a/b/c", ""), ("kept/inside", "")]);
    symlink("/sysroot", initramfs.join("a/link")).unwrap();
    let sysroot = initramfs.join("sysroot");
    fs::create_dir(&sysroot).unwrap();
    mount::mount_api_filesystems(&initramfs).unwrap();
    fs::write(initramfs.join("run/sign"), "").unwrap();
    // A mount over the node: devtmpfs is one for the whole machine.
    let console = std::env::var(CONSOLE).unwrap();
    mount::bind(Path::new(&console), &initramfs.join("dev/console"), Submounts::Leave).unwrap();
    // Another filesystem in the initramfs, which must not be emptied.
    let other = namespace.files("other", &[("precious", "")]);
    mount::bind(&other, &initramfs.join("kept"), Submounts::Leave).unwrap();
    fill_root(&sysroot);
    mount::bind(&initramfs, &sysroot.join("old"), Submounts::Leave).unwrap();
    mount::bind(&other, &sysroot.join("other"), Submounts::Leave).unwrap();

    rustix::process::chdir(&initramfs).unwrap();
    rustix::process::pivot_root(".", ".").unwrap();
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH).unwrap();
    rustix::process::chdir("/").unwrap();
    let root = NewRoot::check(Path::new("/sysroot"), Path::new("/sbin/init")).unwrap();
    let arguments = ["quiet", "2"].map(Into::into);
    let error = root.perform(&arguments, &[("A".into(), "b".into())], pivot).unwrap_err();
    panic!("{}", chain(&error));
}

/// A root with the host's programs and an init that reports. It has no
/// `/proc` yet.
fn fill_root(root: &Path) {
    mount::mount("tmpfs", Path::new("root"), root, &Options::DEFAULT).unwrap();
    for directory in ["dev", "sys", "run", "sbin", "moved", "old", "other"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    for directory in ["usr", "bin", "lib", "lib64"] {
        fs::create_dir(root.join(directory)).unwrap();
        let host = Path::new("/").join(directory).canonicalize().unwrap();
        mount::bind(&host, &root.join(directory), Submounts::Leave).unwrap();
    }
    for (directory, sign) in [("dev", "null"), ("proc", "self"), ("sys", "class"), ("run", "sign")] {
        fs::write(root.join("moved").join(directory), sign).unwrap();
    }
    fs::write(root.join("sbin/init"), INIT).unwrap();
    fs::set_permissions(root.join("sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_root_that_cannot_be_switched_to_is_refused_and_nothing_changes() {
    let namespace = Namespace::enter();
    let root = namespace.files("root", &[]);
    let check =
        |init: &str| NewRoot::check(&root, Path::new(init)).map(|_| ()).map_err(|error| chain(&error));
    assert_eq!(check("/sbin/init"), Err("cannot switch to /tmp/root: nothing is mounted there".into()));
    mount::mount("tmpfs", Path::new("x"), &root, &Options::DEFAULT).unwrap();
    assert_eq!(
        check("/sbin/init"),
        Err("cannot start /sbin/init in /tmp/root: it cannot be opened: No such file or directory (os error 2)"
            .into())
    );
    fs::create_dir(root.join("sbin")).unwrap();
    fs::copy("/proc/self/exe", root.join("sbin/init")).unwrap();
    let error = check("/sbin/init").unwrap_err();
    assert!(error.contains("its interpreter /lib64/ld-linux-x86-64.so.2 cannot be started"), "{error}");
    fs::write(root.join("sbin/init"), b"#!/sbin/static").unwrap();
    fs::write(root.join("sbin/static"), [b"\x7fELF\x02\x01".as_slice(), &[0; 122]].concat()).unwrap();
    fs::set_permissions(root.join("sbin/static"), fs::Permissions::from_mode(0o755)).unwrap();
    check("/sbin/init").expect("directories can be made");
    mount::remount(&root, &Options::parse("ro")).unwrap();
    assert_eq!(
        check("/sbin/init"),
        Err("cannot switch to /tmp/root: it has no directory /dev and is read-only, so none can be made"
            .into())
    );
    assert!(fs::read_dir(&root).unwrap().count() == 1, "nothing was made");
    assert!(is_mount_point(Path::new("/proc")).unwrap());
}
