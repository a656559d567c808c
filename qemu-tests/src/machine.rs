//! A virtual machine before it boots. In: kernel, initramfs, configuration,
//! disks. Out: a [`Console`]. QEMU emulates the processor, so tests need no
//! virtualisation on the host and take seconds, not milliseconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::architecture::Architecture;
use crate::asset::asset;
use crate::console::Console;
use crate::cpio::Archive;
use crate::disk::Disk;
use crate::extension::Extension;
use crate::program::{scratch, source_tree};

/// The host may be busy with other machines; nothing waits this long in vain.
const DEFAULT_TIME: Duration = Duration::from_secs(300);

/// A kernel argument of every machine: a panic ends it.
const PANIC: &str = "panic=-1";

/// The Debian cloud kernels that tests boot.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// No `lowerdir+`, uncompressed modules, virtio as modules.
    V6_1,
    /// `lowerdir+`, modules compressed with xz.
    V6_12,
    /// The same two for arm64.
    V6_1Arm64,
    V6_12Arm64,
    /// 6.1, as installed on Debian 12.
    Debian12,
    /// 6.12, as installed on Debian 13.
    Debian13,
    /// The newest that Debian 13 has from its backports.
    Debian13Newest,
}

impl Kernel {
    /// The name of the directory that its modules are in.
    pub fn release(self) -> String {
        let release = read(&self.directory().join("release"));
        String::from_utf8_lossy(&release).trim().into()
    }

    /// The path of the module `name` below that directory, and its file.
    pub fn module(self, name: &str) -> (String, Vec<u8>) {
        let root = asset(&format!("kernel-{}", self.version())).join("root/lib/modules").join(self.release());
        let index = String::from_utf8_lossy(&read(&root.join("modules.dep"))).into_owned();
        let mut paths = index.lines().filter_map(|line| line.split_once(':')).map(|(path, _)| path);
        let found = paths.find(|path| path.contains(&format!("/{name}.ko")));
        let path = found.unwrap_or_else(|| panic!("kernel {} has no module {name}", self.version()));
        (path.into(), read(&root.join(path)))
    }

    /// A module that asks for firmware, `firmware_probe.ko`, or what it asks for.
    pub fn firmware(self, name: &str) -> Vec<u8> {
        read(&asset(&format!("firmware-{}", self.version())).join(name))
    }

    pub fn architecture(self) -> Architecture {
        match self {
            Kernel::V6_1Arm64 | Kernel::V6_12Arm64 => Architecture::Arm64,
            _ => Architecture::Amd64,
        }
    }

    /// As the names of assets end.
    fn version(self) -> &'static str {
        match self {
            Kernel::V6_1Arm64 => "6.1-arm64",
            Kernel::V6_12Arm64 => "6.12-arm64",
            Kernel::V6_1 | Kernel::Debian12 => "6.1",
            Kernel::V6_12 | Kernel::Debian13 => "6.12",
            Kernel::Debian13Newest => "newest",
        }
    }

    /// The directory that holds it and its release.
    pub(crate) fn directory(self) -> PathBuf {
        match self {
            Kernel::V6_1 | Kernel::V6_12 | Kernel::V6_1Arm64 | Kernel::V6_12Arm64 => {
                asset(&format!("kernel-{}", self.version()))
            }
            Kernel::Debian12 => asset("distro-12").join(self.version()),
            Kernel::Debian13 | Kernel::Debian13Newest => asset("distro-13").join(self.version()),
        }
    }

    /// The Debian that it is installed on.
    fn distro(self) -> &'static str {
        match self {
            Kernel::V6_1 | Kernel::V6_1Arm64 | Kernel::Debian12 => "12",
            Kernel::V6_12 | Kernel::V6_12Arm64 | Kernel::Debian13 | Kernel::Debian13Newest => "13",
        }
    }
}

/// What the kernel unpacks first.
pub enum Initramfs {
    /// Plywood as /init, with the modules of the machine's kernel.
    Plywood,
    /// Nothing but a static busybox and this script as /init.
    Script(&'static str),
    /// What a program of the kernel's Debian has made.
    Made(Maker),
    /// A file.
    File(PathBuf),
}

/// How an installed Debian makes its initramfs.
#[derive(Clone, Copy, Debug)]
pub enum Maker {
    /// With plywood's hooks installed.
    InitramfsTools,
    DracutSystemd,
    Dracut,
    /// Without them.
    PlainInitramfsTools,
    PlainDracutSystemd,
}

impl Maker {
    /// The initramfs for `kernel`.
    pub fn initramfs(self, kernel: Kernel) -> PathBuf {
        let name = match self {
            Maker::InitramfsTools => "initramfs-tools",
            Maker::DracutSystemd => "dracut-systemd",
            Maker::Dracut => "dracut",
            Maker::PlainInitramfsTools => "plain-initramfs-tools",
            Maker::PlainDracutSystemd => "plain-dracut-systemd",
        };
        asset(&format!("hooks-{}", kernel.distro())).join(format!("{}.{name}", kernel.version()))
    }
}

/// What starts the kernel.
#[derive(Clone, Copy, Debug)]
pub enum Firmware {
    /// None on boards that have no BIOS.
    Bios,
    /// The kernel's EFI stub.
    Uefi,
    /// One file of stub, kernel, initramfs and command line, on a volume of
    /// its own.
    UnifiedKernelImage,
}

/// The base root, which becomes `/dev/vda`.
#[derive(Clone, Copy)]
pub enum Root {
    BusyboxSquashfs,
    BusyboxExt4,
    /// With programs for arm64.
    BusyboxArm64,
    DebianSquashfs,
    DebianExt4,
    /// Debian 12 and 13 as they are installed on disks, with kernels and all.
    Debian12,
    Debian13,
}

impl Root {
    /// The bytes of the image.
    pub fn image(self) -> Vec<u8> {
        read(self.disk().path())
    }

    /// A disk with it.
    pub fn disk(self) -> Disk {
        let (name, file) = match self {
            Root::BusyboxSquashfs => ("root-busybox", "root.squashfs"),
            Root::BusyboxExt4 => ("root-busybox", "root.ext4"),
            Root::BusyboxArm64 => ("root-busybox-arm64", "root.squashfs"),
            Root::DebianSquashfs => ("root-debian", "root.squashfs"),
            Root::DebianExt4 => ("root-debian", "root.ext4"),
            Root::Debian12 => ("distro-12", "root.ext4"),
            Root::Debian13 => ("distro-13", "root.ext4"),
        };
        Disk::unchanged(asset(name).join(file))
    }
}

/// What a network card is connected to.
#[derive(Clone, Copy)]
pub enum Network {
    /// QEMU's user network: DHCP offers 10.0.2.15, the host's loopback is
    /// 10.0.2.2 and fec0::2.
    User,
    /// The same without IPv4: a router advertises fec0::/64.
    UserV6,
    /// A switch with nobody else.
    Silent,
}

impl Network {
    /// The backend of card `number`, as `-netdev` has it.
    fn backend(self, number: usize) -> String {
        match self {
            Network::User => format!("user,id=net{number},restrict=off"),
            Network::UserV6 => format!("user,id=net{number},restrict=off,ipv4=off"),
            Network::Silent => format!("hubport,id=net{number},hubid={number}"),
        }
    }
}

/// A description of a machine; [`Machine::boot`] starts it.
pub struct Machine {
    name: String,
    kernel: Kernel,
    initramfs: Initramfs,
    firmware: Firmware,
    files: Archive,
    arguments: Vec<String>,
    disks: Vec<Disk>,
    cards: Vec<Network>,
    options: Vec<String>,
    time: Duration,
    scratch: PathBuf,
}

impl Machine {
    /// A machine with kernel 6.1, plywood's initramfs, no disk and no
    /// network. `name` names its log and must be its own.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            kernel: Kernel::V6_1,
            initramfs: Initramfs::Plywood,
            firmware: Firmware::Bios,
            files: Archive::default(),
            arguments: vec![PANIC.into()],
            disks: Vec::new(),
            cards: Vec::new(),
            options: Vec::new(),
            time: DEFAULT_TIME,
            scratch: scratch(name),
        }
    }

    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    pub fn initramfs(mut self, initramfs: Initramfs) -> Self {
        self.initramfs = initramfs;
        self
    }

    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// Makes `root` the next disk, and the root of the kernel command line.
    pub fn root(self, root: Root) -> Self {
        let letter = char::from(b'a' + self.disks.len() as u8);
        self.disk(root.disk()).append(&format!("root=/dev/vd{letter} ro"))
    }

    /// The configuration, at /etc/plywood/config.yaml of the initramfs.
    pub fn config(self, yaml: &str) -> Self {
        self.file("/etc/plywood/config.yaml", 0o600, yaml.as_bytes())
    }

    /// Puts a file into the initramfs, over what is there.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.files.file(path, mode, content);
        self
    }

    /// Puts an image layout into the initramfs, as `oci:/extensions/NAME`.
    pub fn layout(mut self, extension: &Extension) -> Self {
        let layout = extension.pack(&self.scratch);
        self.files.tree(&format!("/extensions/{}", extension.name()), &layout);
        self
    }

    /// Adds to the kernel command line.
    pub fn append(mut self, arguments: &str) -> Self {
        self.arguments.push(arguments.into());
        self
    }

    /// Adds the next disk.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Adds the next network card, `eth0`, `eth1`, ….
    pub fn network(mut self, network: Network) -> Self {
        self.cards.push(network);
        self
    }

    /// Writes the packets of the first card to the file that is returned, in
    /// the format of pcap.
    pub fn capture(mut self) -> (Self, PathBuf) {
        let file = self.scratch.join("packets.pcap");
        let filter = format!("filter-dump,id=dump0,netdev=net0,file={}", file.display());
        self.options.extend(["-object".into(), filter]);
        (self, file)
    }

    /// What the hardware clock says at power on, as `1970-01-01`.
    pub fn clock(mut self, date: &str) -> Self {
        self.options.extend(["-rtc".into(), format!("base={date}")]);
        self
    }

    /// What the firmware says of the machine.
    pub fn identity(mut self, uuid: &str, serial: &str) -> Self {
        self.options.extend(["-smbios".into(), format!("type=1,uuid={uuid},serial={serial}")]);
        self
    }

    /// How long the machine may take, from power on to its end.
    pub fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Powers the machine on.
    pub fn boot(self) -> Console {
        let Self {
            name,
            kernel,
            initramfs,
            firmware,
            files,
            arguments,
            disks,
            cards,
            options,
            time,
            scratch,
        } = self;
        let initrd = scratch.join("initramfs.cpio");
        write_initramfs(&initrd, kernel, &initramfs, files);
        // What a distribution makes holds every driver, packed and unpacked.
        let memory = if let Initramfs::Made(_) | Initramfs::File(_) = initramfs { "1024" } else { "512" };
        let architecture = kernel.architecture();
        let line = format!("{} {}", architecture.kernel_arguments(), arguments.join(" "));
        let mut qemu = architecture.qemu().tied_to_this_thread();
        qemu.args([
            "-accel",
            "tcg",
            "-cpu",
            architecture.processor(),
            "-smp",
            "1",
            "-m",
            memory,
            "-nodefaults",
        ])
        .args(["-nographic", "-no-reboot", "-serial", "stdio"])
        .args(firmware.start(&scratch, kernel, &initrd, &line));
        for disk in &disks {
            qemu.args(["-drive", &disk.drive()]);
        }
        for (number, card) in cards.iter().enumerate() {
            // Without a boot ROM the firmware has nothing to wait for.
            qemu.args(["-netdev", &card.backend(number)])
                .args(["-device", &format!("virtio-net-pci,netdev=net{number},romfile=")]);
        }
        qemu.args(&options);
        let child = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start QEMU: {error}"));
        let log = source_tree().join("build/qemu").join(format!("{name}.log"));
        Console::new(&name, child, log, Instant::now() + time)
    }
}

/// Writes the base archive, and after it the files of one test.
fn write_initramfs(path: &Path, kernel: Kernel, initramfs: &Initramfs, mut files: Archive) {
    let base = match initramfs {
        Initramfs::Plywood => {
            kernel.architecture().plywood();
            let file = asset(&format!("initramfs-{}", kernel.version())).join("initramfs.cpio");
            read(&file)
        }
        Initramfs::Made(maker) => {
            kernel.architecture().plywood();
            padded(read(&maker.initramfs(kernel)))
        }
        Initramfs::File(file) => {
            kernel.architecture().plywood();
            padded(read(file))
        }
        Initramfs::Script(script) => {
            files.file("/bin/busybox", 0o755, &read(Path::new("/bin/busybox")));
            files.file("/init", 0o755, script.as_bytes());
            Vec::new()
        }
    };
    let bytes = [base, files.finish()].concat();
    fs::write(path, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// The kernel finds an archive behind a compressed one at a multiple of 4.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error} (make deps)", path.display()))
}
