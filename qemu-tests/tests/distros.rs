//! Distributions that keep the initramfs that they make themselves: what
//! plywood's hooks, or an appended archive, make of the next boot.

use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_tests::program::{CPIO, run, scratch};
use qemu_tests::{
    Console, Disk, Extension, Firmware, Initramfs, Kernel, Machine, Maker, Root, Transcript, says,
};

/// Emulated, on a machine that boots others meanwhile.
const TIME: std::time::Duration = std::time::Duration::from_secs(1500);

const UNIT: &str = "[Unit]\nDescription=Brought by an extension\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/local/bin/brought\n";

/// As docs/authoring.md has it.
const LDCONFIG: &str = "[Unit]\nDescription=Add the libraries of an extension to the linker's cache\n\
    DefaultDependencies=no\nAfter=local-fs.target\nBefore=sysinit.target\nConditionPathIsReadWrite=/etc\n\
    [Service]\nType=oneshot\nExecStart=/sbin/ldconfig -X\n";

/// Any library of glibc's kind.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libz.so.1";

/// An extension with what a distribution's own programs read: a unit, a udev
/// rule, a user; and one with nothing but a program and a configuration.
fn extensions() -> [Extension; 2] {
    [
        Extension::new("hello").file("etc/cri/conf.d/hello.part", 0o644, "# of an extension\n"),
        Extension::new("brought")
            .file("usr/local/lib/systemd/system/brought.service", 0o644, UNIT)
            .file(
                "usr/local/lib/systemd/system/multi-user.target.d/brought.conf",
                0o644,
                "[Unit]\nWants=brought.service\n",
            )
            .file(
                "usr/lib/udev/rules.d/90-brought.rules",
                0o644,
                "KERNEL==\"null\", SYMLINK+=\"brought-null\"\n",
            )
            .file("usr/local/lib/sysusers.d/brought.conf", 0o644, "u brought - \"Brought by an extension\"\n")
            .file("usr/local/lib/systemd/system/brought-ldconfig.service", 0o644, LDCONFIG)
            .symlink(
                "usr/local/lib/systemd/system/sysinit.target.wants/brought-ldconfig.service",
                "../brought-ldconfig.service",
            )
            .file("usr/local/lib/libz.so.1", 0o755, std::fs::read(LIBRARY).expect(LIBRARY)),
    ]
}

/// Writes go to memory, so that packages can be installed for a try.
const CONFIG: &str = "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      \
    - image: oci:/extensions/hello\n      - image: oci:/extensions/brought\n        \
    overrides: [/usr/local/share/guest/winner]\nplywood: {overlay: {writable: tmpfs}}\n";

/// One row of the matrix: a kernel with its Debian, what starts it, and what
/// made the initramfs.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    kernel: Kernel,
    firmware: Firmware,
    maker: Maker,
}

const fn row(name: &'static str, kernel: Kernel, firmware: Firmware, maker: Maker) -> Row {
    Row { name, kernel, firmware, maker }
}

impl Row {
    fn machine(self) -> Machine {
        let root = match self.kernel {
            Kernel::Debian12 => Root::Debian12,
            _ => Root::Debian13,
        };
        // The root comes by its label: firmware may put other disks before it.
        let line = "root=LABEL=debian rw plywood.state=LABEL=PLYWOOD systemd.show_status=1";
        Machine::new(self.name)
            .kernel(self.kernel)
            .firmware(self.firmware)
            .disk(root.disk())
            .append(line)
            .time(TIME)
    }

    /// Boots with the hooks that the initramfs was made with.
    fn boot(self) {
        let state = Disk::empty(self.name, "PLYWOOD");
        let machine =
            self.machine().initramfs(Initramfs::Made(self.maker)).config(CONFIG).disk(state.clone());
        let machine = extensions().iter().fold(machine, Machine::layout);
        assert_assembled(machine.boot(), &state);
    }

    /// Boots what was made without plywood, with an archive appended to it.
    fn boot_appended(self) {
        let state = Disk::empty(self.name, "PLYWOOD");
        let initramfs = append(self.name, &self.maker.initramfs(self.kernel));
        let machine = self.machine().initramfs(Initramfs::File(initramfs)).disk(state.clone());
        assert_assembled(machine.boot(), &state);
    }
}

/// What is true of every row.
fn assert_assembled(mut console: Console, state: &Disk) {
    console.expect("GUEST: system: ");
    console.expect(says::DISTRO_END);
    let said: Transcript = console.powered_off();
    said.expect(says::SYSTEM_RUNS).expect_never(says::A_FAILED_UNIT);
    said.expect(&says::greeting("hello")).expect(&says::greeting("brought"));
    said.expect(&says::layer(0, "hello")).expect(&says::layer(1, "brought"));
    said.expect(says::OVERLAY_WHERE_TOUCHED).expect_never(says::OVERLAY_OVER_THE_ROOT);
    for fact in [
        "unit of an extension runs",
        "udev rule of an extension applied",
        "user of an extension exists",
        "library of an extension is found",
        "var is writable",
        "etc is writable",
        "package is installed",
        "package is usable",
        "something is mounted below an overlay",
        "containers have overlays of their own",
        "state is not on an overlay",
    ] {
        said.expect(&says::so(fact));
    }
    said.expect(says::UNMOUNTED).expect(says::DETACHED);
    for complaint in says::NOT_RELEASED {
        said.expect_never(complaint);
    }
    state.assert_clean();
}

fn plywood(arguments: &[&str]) -> Command {
    let mut command = Command::new(qemu_tests::plywood());
    command.arg("initramfs").args(arguments);
    command
}

/// Configuration and images in a directory of the test `name`, and the call
/// that appends them to `initramfs`; what it writes is named by the caller.
fn appending(name: &str, initramfs: &Path) -> (PathBuf, Command) {
    let dir = scratch(&format!("{name}-appended"));
    let config = dir.join("config.yaml");
    std::fs::write(&config, CONFIG).expect("config.yaml");
    let mut command = plywood(&[]);
    for extension in extensions() {
        let layout = extension.pack(&dir);
        command.arg("--add").arg(format!("{}:/extensions/{}", layout.display(), extension.name()));
    }
    command.arg("--config").arg(&config).arg("--append").arg(initramfs).arg("-o");
    (dir, command)
}

/// What `plywood initramfs` makes of `initramfs`.
fn append(name: &str, initramfs: &Path) -> PathBuf {
    let (dir, mut command) = appending(name, initramfs);
    let out = dir.join("initramfs");
    run(command.arg(&out));
    out
}

#[test]
fn debian_12_with_initramfs_tools() {
    row("12-initramfs-tools", Kernel::Debian12, Firmware::Bios, Maker::InitramfsTools).boot();
}

#[test]
fn debian_13_with_initramfs_tools() {
    row("13-initramfs-tools", Kernel::Debian13, Firmware::Bios, Maker::InitramfsTools).boot();
}

/// A test for each row, `what` it boots.
macro_rules! matrix {
    ($what:ident: $($name:ident: $kernel:ident, $firmware:ident, $maker:ident;)*) => {
        mod $what {
            $(
                #[test]
                #[ignore = "takes long; make matrix runs it"]
                fn $name() {
                    let name = concat!(stringify!($what), "-", stringify!($name));
                    super::row(name, super::Kernel::$kernel, super::Firmware::$firmware, super::Maker::$maker).$what();
                }
            )*
        }
    };
}

// All the others.
matrix! { boot:
    debian_12_uefi_initramfs_tools: Debian12, Uefi, InitramfsTools;
    debian_12_dracut_systemd: Debian12, Bios, DracutSystemd;
    debian_12_dracut: Debian12, Bios, Dracut;
    debian_13_uefi_dracut_systemd: Debian13, Uefi, DracutSystemd;
    debian_13_uefi_dracut: Debian13, Uefi, Dracut;
    debian_13_dracut_systemd: Debian13, Bios, DracutSystemd;
    newest_uki_initramfs_tools: Debian13Newest, UnifiedKernelImage, InitramfsTools;
    newest_dracut_systemd: Debian13Newest, Bios, DracutSystemd;
}

// An archive is appended to what Debian made.
matrix! { boot_appended:
    debian_12_initramfs_tools: Debian12, Bios, PlainInitramfsTools;
    debian_13_dracut_systemd: Debian13, Bios, PlainDracutSystemd;
    debian_13_uki_initramfs_tools: Debian13, UnifiedKernelImage, PlainInitramfsTools;
}

#[test]
fn the_archive_is_the_same_each_time_and_whole() {
    let initramfs = scratch("append-to").join("initramfs.gz");
    // An odd length, so that the archive has to be padded.
    std::fs::write(&initramfs, b"\x1f\x8bodd").expect("a file");
    let (dir, mut command) = appending("append-twice", &initramfs);
    // The second replaces the first.
    let out = dir.join("initramfs");
    command.arg(&out);
    let [one, other] = [(); 2].map(|()| {
        run(&mut command);
        std::fs::read(&out).expect("the initramfs")
    });
    assert!(one == other, "the two archives differ");
    assert_eq!(&one[..8], b"\x1f\x8bodd\0\0\0");
    let archive = scratch("append-list").join("cpio");
    std::fs::write(&archive, &one[8..]).expect("a file");
    let listed = run(CPIO.command().args(["--list", "--verbose", "--file"]).arg(&archive));
    for expected in [
        "-rwxr-xr-x * root *Jan  1  1970 usr/bin/plywood",
        "-rw------- * root *Jan  1  1970 etc/plywood/config-000.yaml",
        "drwx------ * root *Jan  1  1970 etc/plywood",
        "-rw------- * root *Jan  1  1970 extensions/hello/index.json",
        "initrd-root-fs.target.requires/plywood-initramfs.service -> ../plywood-initramfs.service",
    ] {
        let found = listed.lines().any(|line| {
            let mut rest = line;
            expected.split('*').all(|part| match rest.find(part) {
                Some(at) => {
                    rest = &rest[at + part.len()..];
                    true
                }
                None => false,
            })
        });
        assert!(found, "{expected} is not in\n{listed}");
    }
}

#[test]
fn what_would_not_boot_is_not_written() {
    let dir = scratch("append-bad");
    let file = |name: &str, content: &str| {
        let path = dir.join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    };
    let config = |image: &str| {
        format!("version: v1alpha1\nmachine: {{install: {{extensions: [{{image: \"{image}\"}}]}}}}\n")
    };
    let text = file("text", "no archive\n");
    let relative = file("relative.yaml", &config("oci:extensions/hello"));
    let missing = file("missing.yaml", &config("oci:/nowhere/hello"));
    let out = dir.join("out");
    for (arguments, expected) in [
        (&["--append", text.as_str()][..], "it is no initramfs"),
        (&["--append", "/nowhere"], "cannot read /nowhere"),
        (&["--config", &relative], "has no absolute path"),
        (&["--config", &missing], "cannot read /nowhere/hello"),
        (&["--add", "/etc/hostname"], "want SRC:DEST"),
        (&["--add", "/etc/hostname:/a/../../b"], "want SRC:DEST"),
        (&["--add", "/etc/hostname:/lib/firmware/x"], "take the place of the usual symlink"),
        (&["--add", "/dev/null:/null"], "is not copied"),
    ] {
        let output = plywood(arguments).arg("-o").arg(&out).output().expect("plywood can be run");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} was accepted");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(!out.exists(), "{arguments:?} left a file");
    }
}
