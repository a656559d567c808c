//! Extensions of the shapes that Talos' catalogue has, all in one boot. What
//! they hold comes from Debian packages: static programs from busybox, modules
//! from the kernel; firmware and libraries are files of the right names.

use std::fs;
use std::path::Path;

use qemu_tests::{Disk, Extension, Kernel, Machine, Root, says};

const KERNEL: Kernel = Kernel::V6_1;
/// As many as a driver of a graphics card brings, each with two links to it.
const LIBRARIES: usize = 150;

const SERVICE: &str = "name: tailscale\ndepends:\n  - service: cri\n  - network: [addresses, connectivity]\n  \
    - configuration: true\ncontainer:\n  entrypoint: /usr/local/bin/containerboot\n  \
    mounts:\n    - {source: /dev/net/tun, destination: /dev/net/tun, type: bind, options: [bind, rw]}\n\
    restart: always\n";

const UNIT: &str = "[Unit]\nDescription=Brought by an extension\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/local/bin/zfs\n";

/// Runs in the guest, and says what it finds of the others.
const CHECK: &str = "#!/bin/sh\n\
    echo links: $(find /usr/local/lib/nvidia -type l -exec cat {} + | grep -c library)\n\
    echo files: $(find /usr/local/lib/nvidia -type f | wc -l)\n\
    echo firmware: $(cat /usr/lib/firmware/intel/ice/ddp/ice.pkg)\n\
    echo udev: $(udevadm settle && test -e /dev/zfs-null && echo seen)\n\
    echo linker: $(ldconfig -p | grep -c '=> /usr/local/lib/libz.so.1')\n\
    echo unit: $(systemctl is-active zfs-import.service)\n\
    echo tmpfiles: $(cat /run/zfs-made)\n\
    echo sysctl: $(cat /proc/sys/vm/swappiness)\n\
    echo cri: $(cat /etc/cri/conf.d/10-gvisor.part)\n";

/// A manifest as the catalogue's, for Talos alone.
fn extension(name: &str, constraint: &str) -> Extension {
    Extension::new(name).metadata(&format!("  compatibility:\n    talos:\n      version: \"{constraint}\"\n"))
}

fn program(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn gvisor() -> Extension {
    let busybox = program(Path::new("/bin/busybox"));
    extension("gvisor", ">= v1.0.0")
        .file("usr/local/bin/runsc", 0o755, &busybox)
        .file("usr/local/bin/containerd-shim-runsc-v1", 0o755, &busybox)
        .file("etc/cri/conf.d/10-gvisor.part", 0o644, "runsc\n")
}

fn nvidia() -> Extension {
    let base = extension("nvidia", ">= v1.6.0")
        .file("usr/bin/nvidia-smi", 0o755, program(Path::new("/bin/busybox")))
        .file("usr/share/glvnd/egl_vendor.d/10_nvidia.json", 0o644, "{}\n")
        .file("usr/lib/firmware/nvidia/595.45.04/gsp_ga10x.bin", 0o644, [7; 65536])
        .file("usr/local/lib/libz.so.1", 0o755, program(Path::new("/usr/lib/x86_64-linux-gnu/libz.so.1")));
    (0..LIBRARIES).fold(base, |extension, number| {
        let name = format!("libnvidia-{number}.so");
        let path = format!("usr/local/lib/nvidia/{name}");
        extension
            .file(&format!("{path}.595.45.04"), 0o755, format!("library {number}\n"))
            .symlink(&format!("{path}.1"), &format!("{name}.595.45.04"))
            .symlink(&path, &format!("{name}.1"))
    })
}

fn zfs() -> Extension {
    ["dm-mod", "dm-zero"].iter().fold(
        extension("zfs", ">= v1.4.5")
            .file("usr/local/sbin/zpool", 0o755, program(Path::new("/bin/busybox")))
            .file("usr/local/lib/systemd/system/zfs-import.service", 0o644, UNIT)
            .symlink(
                "usr/local/lib/systemd/system/multi-user.target.wants/zfs-import.service",
                "../zfs-import.service",
            )
            .file("usr/local/lib/tmpfiles.d/zfs.conf", 0o644, "f /run/zfs-made 0644 - - - made\n")
            .file("usr/local/lib/sysctl.d/50-zfs.conf", 0o644, "vm.swappiness = 37\n")
            .file("usr/lib/udev/rules.d/90-zfs.rules", 0o644, "KERNEL==\"null\", SYMLINK+=\"zfs-null\"\n"),
        |extension, module| {
            let (_, content) = KERNEL.module(module);
            let path = format!("usr/lib/modules/{}/extras/{module}.ko", KERNEL.release());
            extension.file(&path, 0o644, content)
        },
    )
}

fn firmware() -> Extension {
    extension("intel-ice-firmware", ">= 1.9.0-alpha.0")
        .file("usr/lib/firmware/intel/ice/ddp/ice-1.3.36.0.pkg", 0o644, "package\n")
        .symlink("usr/lib/firmware/intel/ice/ddp/ice.pkg", "ice-1.3.36.0.pkg")
}

fn tailscale() -> Extension {
    extension("tailscale", ">= v1.0.0")
        .file("usr/local/etc/containers/tailscale.yaml", 0o644, SERVICE)
        .file("usr/local/etc/containers/broken.yaml", 0o644, "name: broken\n")
        .file(
            "usr/local/lib/containers/tailscale/usr/local/bin/containerboot",
            0o755,
            program(Path::new("/bin/busybox")),
        )
        .file("usr/local/bin/check", 0o755, CHECK)
        // The root has none of its own to list them with.
        .file("usr/local/sbin/plywood", 0o755, program(&qemu_tests::plywood()))
}

#[test]
fn the_shapes_of_the_catalogue_boot_together() {
    let extensions = [gvisor(), nvidia(), zfs(), firmware(), tailscale()];
    let images: String = extensions.iter().map(Extension::entry).collect();
    let config = format!(
        "version: v1alpha1\nmachine:\n  install:\n    extensions:\n{images}  kernel:\n    modules: [{{name: dm_zero}}]\n\
         plywood: {{host: {{talos: v1.13.0}}}}\n"
    );
    let state = Disk::empty("catalogue", "PLYWOOD");
    let machine = Machine::new("catalogue")
        .kernel(KERNEL)
        .config(&config)
        .root(Root::DebianSquashfs)
        .append("plywood.state=LABEL=PLYWOOD")
        .disk(state.clone());
    let said = extensions.iter().fold(machine, Machine::layout).boot().powered_off();
    for (number, extension) in extensions.iter().enumerate() {
        said.expect(&says::layer(number, extension.name())).expect(&says::greeting(extension.name()));
    }
    said.expect(&says::loaded("dm_zero")).expect_never(says::A_FAILED_UNIT);
    for fact in [
        "runsc: runsc: applet not found",
        &format!("check: links: {}", 2 * LIBRARIES),
        &format!("check: files: {LIBRARIES}"),
        "check: firmware: package",
        "check: udev: seen",
        "check: linker: 1",
        "check: unit: active",
        "check: tmpfiles: made",
        "check: sysctl: 37",
        "check: cri: runsc",
        "list: service: tailscale: /usr/local/bin/containerboot (started by Talos only, tailscale.yaml)",
        "list: service: not usable: broken.yaml:1:1: the key container is missing",
    ] {
        said.expect(&format!("GUEST: {fact}"));
    }
    // Its root is an overlay, which systemd cannot unmount.
    said.expect(says::REPORTED).expect(says::STATE_UNMOUNTED).expect(says::RELEASED);
    state.assert_clean();
}
