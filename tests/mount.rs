//! Real mounts: layers, overlays, API filesystems, switch root. Each test has
//! a mount namespace of its own, so nothing is left on the machine. Needs root
//! and squashfs-tools, and fails without them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use plywood::mount::{Attached, Cover, Form, LayerFile, Overlay, OverlayError, Writable};
use plywood::sys::loopdev::LoopDevice;
use plywood::sys::mount::{
    self, Method, MountError, Options, OverlayBuilder, Stack, Submounts, is_mount_point, mounts_below,
};
use plywood::sys::switch_root::{NewRoot, Pivot};

const METHODS: [Method; 3] = [Method::Descriptors, Method::Paths, Method::Classic];

/// A thread's own mount namespace with a tmpfs to work in, and its `/run`.
struct Namespace {
    directory: PathBuf,
}

impl Namespace {
    fn enter() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests mount filesystems: run them as root");
        // SAFETY: CLONE_NEWNS gives this thread copies of its mounts and of
        // its working directory; no memory and no descriptor is unshared.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        assert_eq!(unshared, 0, "unshare: {}", std::io::Error::last_os_error());
        mount::make_private(Path::new("/")).unwrap();
        let directory = PathBuf::from("/tmp");
        for target in ["/tmp", "/run"] {
            mount::mount("tmpfs", Path::new("test"), Path::new(target), &Options::DEFAULT).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes files with these contents, and the directories they are in.
    fn files(&self, directory: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.path(directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, content) in files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        directory
    }

    /// A squashfs of these files.
    fn layer(&self, number: u16, files: &[(&str, &str)]) -> LayerFile {
        let name = format!("{number:03}-test");
        let tree = self.files(&format!("tree-{name}"), files);
        let image = self.path(&format!("{name}.sqsh"));
        let mut command = Command::new("mksquashfs");
        command.args([&tree, &image]).args(["-quiet", "-no-progress", "-noappend", "-no-xattrs"]);
        let output = command.output().expect("mksquashfs of squashfs-tools");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        LayerFile { number, name, file: File::open(image).unwrap() }
    }

    /// What is mounted in the work directory, and in /run.
    fn mounts(&self) -> BTreeSet<PathBuf> {
        let below = |path: &Path| mounts_below(File::open(path).unwrap()).unwrap();
        below(&self.directory).into_iter().chain(below(Path::new("/run"))).collect()
    }

    /// Names that loop devices hold of files in this work directory.
    fn loops(&self) -> Vec<String> {
        let names = fs::read_dir("/sys/class/block")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("loop/backing_file")).ok());
        names.filter(|name| name.trim().ends_with("-test.sqsh")).collect()
    }
}

/// Tests that look at loop devices, which all namespaces share, take turns.
static LOOPS: Mutex<()> = Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    LOOPS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn chain(error: &dyn std::error::Error) -> String {
    let errors = std::iter::successors(Some(error), |error| error.source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn form(cover: Cover, writable: Writable) -> Form {
    Form { cover, writable, top: None }
}

fn hierarchies(paths: &[&str]) -> Cover {
    Cover::Hierarchies(paths.iter().map(PathBuf::from).collect())
}

/// A base directory that is a mount, as a root is.
fn base(namespace: &Namespace) -> PathBuf {
    let base = namespace.files("base", &[]);
    mount::mount("tmpfs", Path::new("base"), &base, &Options::DEFAULT).unwrap();
    namespace.files("base", &[("usr/bin/sh", "base"), ("usr/bin/tool", "base"), ("etc/os-release", "base")])
}

fn attach(
    namespace: &Namespace,
    method: Method,
    form: Form,
    layers: Vec<LayerFile>,
) -> Result<Attached, OverlayError> {
    let base = namespace.path("base");
    let overlay = Overlay::over(&base, layers, form)?.expect("layers");
    let builder = OverlayBuilder::with(method, &namespace.path("staging")).unwrap();
    overlay.attach_with(&builder, &base)
}

#[test]
fn the_highest_layer_wins_over_a_whole_root() {
    let _turn = turn();
    for method in METHODS {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        let before = namespace.mounts();
        let layers = vec![
            namespace.layer(1, &[("usr/bin/tool", "one"), ("usr/bin/one", "one"), ("opt/a", "one")]),
            namespace.layer(2, &[("usr/bin/tool", "two")]),
        ];
        let attached = attach(&namespace, method, form(Cover::Root, Writable::No), layers).unwrap();
        for (path, expected) in
            [("usr/bin/sh", "base"), ("usr/bin/tool", "two"), ("usr/bin/one", "one"), ("opt/a", "one")]
        {
            assert_eq!(read(&base.join(path)).as_deref(), Some(expected), "{method}: {path}");
        }
        assert!(fs::write(base.join("new"), "").is_err(), "{method}: read-only");
        assert_eq!(attached.mount_points(), [base.as_path()]);
        // Nothing but the overlay can be seen, and it goes without a trace.
        assert_eq!(namespace.mounts(), before, "{method}: the overlay is over the base's mount");
        assert!(!fs::exists("/tmp/staging").unwrap());
        assert_eq!(namespace.loops().len(), 2, "{method}");
        attached.detach();
        assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("base"), "{method}");
        wait_until(|| namespace.loops().is_empty(), "loop devices are freed");
    }
}

/// The kernel frees loop devices a moment after their last user.
fn wait_until(condition: impl Fn() -> bool, what: &str) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{what}");
}

#[test]
fn hierarchies_are_overlaid_apart_and_only_where_something_is() {
    let _turn = turn();
    for method in METHODS {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        let layers = vec![
            namespace.layer(1, &[("usr/bin/tool", "one"), ("var/not-covered", "one")]),
            namespace.layer(2, &[("opt/cni/bin/x", "two")]),
        ];
        let form = form(hierarchies(&["/usr", "/etc", "/opt"]), Writable::No);
        let attached = attach(&namespace, method, form, layers).unwrap();
        assert_eq!(attached.mount_points(), [base.join("usr"), base.join("opt")], "{method}");
        assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("one"));
        assert_eq!(read(&base.join("opt/cni/bin/x")).as_deref(), Some("two"), "made in the base");
        assert_eq!(read(&base.join("var/not-covered")), None);
        fs::write(base.join("etc/new"), "").expect("/etc is as it was");
        attached.detach();
    }
}

#[test]
fn a_hierarchy_behind_a_symlink_stays_inside_the_root() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let base = base(&namespace);
    fs::create_dir(base.join("usr/lib")).unwrap();
    symlink("/usr/lib", base.join("lib")).unwrap();
    let layers = vec![namespace.layer(1, &[("lib/x", "one")])];
    let attached =
        attach(&namespace, Method::Descriptors, form(hierarchies(&["/lib"]), Writable::No), layers).unwrap();
    assert_eq!(attached.mount_points(), [base.join("usr/lib")]);
    assert_eq!(read(&base.join("usr/lib/x")).as_deref(), Some("one"));
}

#[test]
fn writes_go_to_memory_or_to_a_directory_that_stays() {
    let _turn = turn();
    for method in METHODS {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        fs::set_permissions(base.join("usr"), fs::Permissions::from_mode(0o751)).unwrap();
        let persistent = Writable::Persistent {
            upperdir: namespace.path("state/upper"),
            workdir: namespace.path("state/work"),
        };
        fs::create_dir(namespace.path("state")).unwrap();
        for (cover, writable) in [
            (Cover::Root, Writable::Tmpfs),
            (hierarchies(&["/usr"]), Writable::Tmpfs),
            (hierarchies(&["/usr", "/etc"]), persistent),
        ] {
            let layers = vec![namespace.layer(1, &[("usr/bin/tool", "one")])];
            let attached = attach(&namespace, method, form(cover, writable), layers).unwrap();
            fs::write(base.join("usr/bin/tool"), "written").expect("writable");
            assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("written"));
            let mode = fs::metadata(base.join("usr")).unwrap().mode();
            attached.detach();
            // From the base where the overlay's root is there, else from the layer.
            assert!(matches!(mode & 0o7777, 0o751 | 0o755), "{method}: {mode:o}");
            assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("base"), "{method}");
        }
        assert_eq!(read(&namespace.path("state/upper/usr/bin/tool")).as_deref(), Some("written"));
        assert_eq!(fs::metadata(namespace.path("state/upper/usr")).unwrap().mode() & 0o7777, 0o751);
    }
}

#[test]
fn a_plain_directory_lies_on_top_of_all_layers() {
    let _turn = turn();
    for method in METHODS {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        let top = namespace.files("top", &[("etc/extensions.yaml", "layers: []"), ("usr/bin/tool", "top")]);
        let layers = vec![namespace.layer(9, &[("usr/bin/tool", "nine"), ("etc/extensions.yaml", "nine")])];
        let form = Form { top: Some(top), ..form(Cover::Root, Writable::No) };
        let _attached = attach(&namespace, method, form, layers).unwrap();
        assert_eq!(read(&base.join("etc/extensions.yaml")).as_deref(), Some("layers: []"), "{method}");
        assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("top"), "{method}");
        mount::detach(&base).unwrap();
    }
}

#[test]
fn an_error_leaves_no_mount_and_no_loop_device() {
    let _turn = turn();
    for method in METHODS {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        let before = namespace.mounts();
        let mut broken = namespace.layer(2, &[("usr/x", "")]);
        fs::write(namespace.path("002-test.sqsh"), [0; 8192]).unwrap();
        broken.file = File::open(namespace.path("002-test.sqsh")).unwrap();
        let layers = vec![namespace.layer(1, &[("usr/y", "")]), broken, namespace.layer(3, &[("usr/z", "")])];
        let error = attach(&namespace, method, form(Cover::Root, Writable::No), layers).unwrap_err();
        assert!(matches!(&error, OverlayError::Layer { number: 2, .. }), "{}", chain(&error));
        let text = chain(&error);
        assert!(text.starts_with("cannot mount layer 002 002-test: fsconfig failed"), "{text}");
        assert!(
            text.contains("(kernel: Can't find a SQUASHFS superblock on loop"),
            "the kernel's own text: {text}"
        );
        assert_eq!(namespace.mounts(), before, "{method}");
        assert_eq!(read(&base.join("usr/y")), None);
        wait_until(|| namespace.loops().is_empty(), "loop devices are freed");

        // The second of two hierarchies fails after the first was built.
        let layers =
            vec![namespace.layer(1, &[("usr/y", ""), ("etc", "a file where a directory should be")])];
        let form = form(hierarchies(&["/usr", "/etc"]), Writable::No);
        let error = attach(&namespace, method, form, layers).unwrap_err();
        assert_eq!(
            chain(&error),
            "cannot mount layer 001 001-test: openat2 failed for etc: Not a directory (os error 20)"
        );
        assert_eq!((namespace.mounts(), read(&base.join("usr/y"))), (before, None), "{method}");
        wait_until(|| namespace.loops().is_empty(), "loop devices are freed");
    }
}

#[test]
fn a_mount_that_an_overlay_would_hide_is_named() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let base = base(&namespace);
    mount::bind(&base.join("etc"), &base.join("usr/bin"), Submounts::Leave).unwrap();
    let layers = vec![namespace.layer(1, &[("usr/x", "")])];
    let error = attach(&namespace, Method::Descriptors, form(Cover::Root, Writable::No), layers).unwrap_err();
    assert_eq!(chain(&error), "cannot overlay /: /tmp/base/usr/bin is mounted below it and would be hidden");
}

#[test]
fn the_kernels_own_text_is_in_the_error() {
    let namespace = Namespace::enter();
    let directories: Vec<_> =
        (0..501).map(|i| File::open(namespace.files(&format!("lower/{i}"), &[])).unwrap()).collect();
    let stack = Stack { lower: directories.iter().map(AsFd::as_fd).collect(), upper: None };
    for (method, expected) in [
        (Method::Descriptors, "too many lower directories, limit is 500"),
        (Method::Paths, "too many lower directories, limit is 500"),
        // mount(2) can only give a number.
        (Method::Classic, "mount failed for overlay"),
    ] {
        let builder = OverlayBuilder::with(method, &namespace.path("staging")).unwrap();
        let error = builder.open(&stack).unwrap_err();
        assert!(chain(&error).contains(expected), "{method}: {}", chain(&error));
    }
}

#[test]
fn five_hundred_directories_are_overlaid() {
    let namespace = Namespace::enter();
    let directories: Vec<_> = (0..500)
        .map(|i| File::open(namespace.files(&format!("lower/{i}"), &[(&format!("file{i}"), "")])).unwrap())
        .collect();
    let stack = Stack { lower: directories.iter().map(AsFd::as_fd).collect(), upper: None };
    for method in METHODS {
        let builder = OverlayBuilder::with(method, &namespace.path("staging")).unwrap();
        let overlay = builder.open(&stack).unwrap_or_else(|error| panic!("{method}: {}", chain(&error)));
        let target = namespace.files("merged", &[]);
        overlay.attach(&target).unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 500, "{method}");
        mount::detach(&target).unwrap();
    }
}

#[test]
fn the_best_method_that_works_is_found() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let base = base(&namespace);
    let overlay =
        Overlay::over(&base, vec![namespace.layer(1, &[("usr/x", "one")])], form(Cover::Root, Writable::No));
    let attached = overlay.unwrap().unwrap().attach(&base).unwrap();
    assert_eq!(read(&base.join("usr/x")).as_deref(), Some("one"));
    assert_eq!(fs::read_dir("/run/plywood").map_or(0, Iterator::count), 0, "no staging is left");
    attached.detach();
}

#[test]
fn options_of_the_overlay_do_not_depend_on_the_kernels_configuration() {
    let _turn = turn();
    for method in METHODS {
        let namespace = Namespace::enter();
        base(&namespace);
        let layers = vec![namespace.layer(1, &[("usr/x", "one")])];
        let _attached = attach(&namespace, method, form(Cover::Root, Writable::Tmpfs), layers).unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - overlay plywood ")).unwrap();
        assert!(line.contains("nodev"), "{line}");
        // The kernel lists what differs from its configuration.
        assert!(!line.contains("redirect_dir=on") && !line.contains("metacopy=on"), "{line}");
        assert!(line.contains("redirect_dir=nofollow") && line.contains("xino=on"), "{line}");
    }
}

#[test]
fn loop_devices_are_read_only_and_free_themselves() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let layer = namespace.layer(7, &[("usr/x", "one")]);
    let device = LoopDevice::attach(&layer.file, "007-test").unwrap();
    assert_eq!(namespace.loops().len(), 1);
    let sys = Path::new("/sys/class/block").join(device.path().file_name().unwrap());
    assert_eq!(read(&sys.join("ro")).as_deref(), Some("1\n"));
    assert_eq!(read(&sys.join("loop/autoclear")).as_deref(), Some("1\n"));
    let mut magic = [0; 4];
    File::open(device.path()).unwrap().read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"hsqs");
    let written =
        File::options().write(true).open(device.path()).and_then(|file| file.write_at(&[0; 512], 0));
    written.expect_err("read-only");
    drop(device);
    wait_until(|| namespace.loops().is_empty(), "the loop device is freed");
}

#[test]
fn many_loop_devices_are_attached_at_once() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let layer = namespace.layer(8, &[("usr/x", "one")]);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| (0..4).map(|_| LoopDevice::attach(&layer.file, "008")).collect::<Vec<_>>())
            })
            .collect();
        let devices: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let paths: BTreeSet<_> =
            devices.iter().map(|device| device.as_ref().unwrap().path().to_owned()).collect();
        assert_eq!(paths.len(), 32);
    });
    wait_until(|| namespace.loops().is_empty(), "loop devices are freed");
}

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

/// Sorted options of the mount, not of the filesystem.
fn mount_flags(path: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = mounts.lines().rfind(|line| line.split(' ').nth(4) == path.to_str()).unwrap();
    let mut flags: Vec<_> = line.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect();
    flags.sort();
    flags
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

/// Set in the process that becomes init: how, and where its console is.
const PIVOT: &str = "PLYWOOD_TEST_PIVOT";
const CONSOLE: &str = "PLYWOOD_TEST_CONSOLE";

/// The new root's init: says on its console what it finds.
const INIT: &str = "#!/bin/sh
echo init $0 $1 $2
echo env $(env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD= | sort)
echo umask $(umask)
for i in dev proc sys run; do test -e /$i/$(cat /moved/$i) && echo $i moved; done
grep -e SigBlk -e SigIgn /proc/$$/status
echo initramfs $(ls /old)
echo other filesystem $(ls /other)
test -e /initramfs-file && echo old root is visible
true";

#[test]
fn init_starts_in_the_new_root_with_its_mounts_and_a_clean_state() {
    const NAME: &str = "init_starts_in_the_new_root_with_its_mounts_and_a_clean_state";
    if let Ok(pivot) = std::env::var(PIVOT) {
        become_init(if pivot == "move" { Pivot::Move } else { Pivot::Auto });
    }
    for (pivot, initramfs) in [
        ("auto", "initramfs a dev initramfs-file kept proc run sys sysroot\n"),
        // All but the directory on which something is mounted.
        ("move", "initramfs kept\n"),
    ] {
        let mut console = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
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
            "SigBlk:\t0000000000000000\n",
            initramfs,
            "other filesystem precious\n",
        ] {
            assert!(text.contains(expected), "{pivot}: no {expected:?} in {text}");
        }
        let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
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
