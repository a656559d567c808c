//! Mounting, binding, changing and unmounting.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use plywood::sys::mount::{self, MountError, Options, Submounts, is_mount_point};

use crate::{Namespace, chain};

#[test]
fn api_filesystems_are_mounted_where_they_are_missing() {
    let namespace = Namespace::enter();
    let root = namespace.files("root", &[]);
    fs::create_dir(root.join("run")).unwrap();
    mount::mount("tmpfs", Path::new("mine"), &root.join("run"), &Options::DEFAULT).unwrap();
    fs::write(root.join("run/mine"), "").unwrap();
    mount::mount_api_filesystems(&root).unwrap();
    mount::mount_api_filesystems(&root).expect("all are there");
    for directory in ["proc", "sys", "dev", "dev/pts", "dev/shm", "run"] {
        assert!(is_mount_point(&root.join(directory)).unwrap(), "{directory}");
    }
    assert!(root.join("run/mine").exists() && root.join("proc/self").exists());
    assert!(root.join("dev/null").exists() && root.join("sys/class").exists());
    assert_eq!(fs::metadata(root.join("dev/shm")).unwrap().mode() & 0o7777, 0o1777);
    let flags = |name: &str| mount_flags(&root.join(name));
    assert_eq!(flags("proc"), ["nodev", "noexec", "nosuid", "relatime", "rw"]);
    assert_eq!(flags("dev"), ["nosuid", "relatime", "rw"]);
}

#[test]
fn mounts_are_opened_bound_changed_and_unmounted() {
    let namespace = Namespace::enter();
    for classic in [false, true] {
        let target = namespace.files("target", &[]);
        let options = Options::parse("nodev,noexec,noatime,size=1M,mode=0711");
        let mount = if classic { mount::mount_classic } else { mount::mount };
        mount("tmpfs", Path::new("x"), &target, &options).unwrap();
        assert_eq!(mount_flags(&target), ["noatime", "nodev", "noexec", "rw"]);
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o711);
        fs::write(target.join("file"), "").unwrap();
        mount::remount(&target, &Options::parse("ro,nodev")).unwrap();
        assert!(fs::write(target.join("file"), "").is_err());
        let other = namespace.files("other", &[]);
        assert!(!is_mount_point(&other).unwrap());
        mount::bind(&target, &other, Submounts::Include).unwrap();
        assert!(is_mount_point(&other).unwrap() && other.join("file").exists());
        mount::unmount(&other).unwrap();
        let open = File::open(target.join("file")).unwrap();
        assert!(mount::unmount(&target).is_err(), "in use");
        mount::detach(&target).unwrap();
        drop(open);
        assert!(!is_mount_point(&target).unwrap());
    }
    assert!(is_mount_point(Path::new("/")).unwrap());
}

#[test]
fn a_mount_that_is_never_attached_leaves_nothing() {
    let namespace = Namespace::enter();
    let before = namespace.mounts();
    drop(mount::open("tmpfs", Path::new("x"), &Options::DEFAULT).unwrap());
    assert_eq!(namespace.mounts(), before);
}

#[test]
fn a_refused_mount_says_what_the_kernel_says() {
    let namespace = Namespace::enter();
    let target = namespace.files("target", &[]);
    for (fstype, source, options, expected) in [
        ("nosuchfs", "x", "", "the kernel does not know the filesystem nosuchfs"),
        ("tmpfs", "x", "size=wrong", "fsconfig failed for option size= of tmpfs on x"),
        (
            "tmpfs",
            "x",
            "bogus",
            "fsconfig failed for option bogus of tmpfs on x (kernel: tmpfs: Unknown parameter 'bogus')",
        ),
        ("ext4", "/dev/nosuch", "", "fsconfig failed for superblock of ext4 on /dev/nosuch"),
    ] {
        let error = mount::mount(fstype, Path::new(source), &target, &Options::parse(options)).unwrap_err();
        assert!(chain(&error).starts_with(expected), "{}", chain(&error));
        assert_eq!(matches!(error, MountError::UnknownFilesystem { .. }), fstype == "nosuchfs", "told apart");
    }
}

/// Sorted options of the mount, not of the filesystem.
fn mount_flags(path: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = mounts.lines().rfind(|line| line.split(' ').nth(4) == path.to_str()).unwrap();
    let mut flags: Vec<_> = line.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect();
    flags.sort();
    flags
}
