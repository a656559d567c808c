//! What starts the kernel: QEMU's own loader (on a PC behind a BIOS or UEFI), or UEFI
//! alone, from a volume with a unified kernel image. In: kernel, initramfs,
//! command line. Out: arguments for QEMU.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::{Firmware, Kernel};
use crate::program::{OBJCOPY, run};

/// From Debian's packages ovmf and systemd-boot-efi.
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Where the stub looks for what it starts, apart from one another and from
/// its own sections.
const SECTIONS: [(&str, u32); 3] = [(".cmdline", 0x3_0000), (".linux", 0x200_0000), (".initrd", 0x400_0000)];

impl Firmware {
    /// The arguments of QEMU that make the machine start `kernel`.
    pub(crate) fn start(self, scratch: &Path, kernel: Kernel, initrd: &Path, line: &str) -> Vec<String> {
        let vmlinuz = kernel.directory().join("vmlinuz");
        let text = |path: &Path| path.display().to_string();
        let direct =
            ["-kernel".into(), text(&vmlinuz), "-initrd".into(), text(initrd), "-append".into(), line.into()];
        match self {
            Firmware::Bios => {
                [vec!["-M".into(), kernel.architecture().board().into()], direct.into()].concat()
            }
            Firmware::Uefi => [uefi(scratch), direct.into()].concat(),
            Firmware::UnifiedKernelImage => {
                let volume = unified_kernel_image(scratch, &vmlinuz, initrd, line);
                let drive = format!("file=fat:{},format=raw,if=none,id=esp,readonly=on", volume.display());
                let boot =
                    ["-drive".into(), drive, "-device".into(), "virtio-blk-pci,drive=esp,bootindex=0".into()];
                [uefi(scratch), boot.into()].concat()
            }
        }
    }
}

fn uefi(scratch: &Path) -> Vec<String> {
    let variables = scratch.join("variables.fd");
    fs::copy(VARIABLES, &variables)
        .unwrap_or_else(|error| panic!("cannot copy {VARIABLES}: {error} (make deps)"));
    let flash = |unit: u8, options: &str| format!("if=pflash,format=raw,unit={unit},{options}");
    let drives =
        [flash(0, &format!("readonly=on,file={CODE}")), flash(1, &format!("file={}", variables.display()))];
    let mut arguments = vec!["-M".into(), "q35".into()];
    arguments.extend(drives.into_iter().flat_map(|drive| ["-drive".into(), drive]));
    arguments
}

/// A directory that is the content of an EFI system partition.
fn unified_kernel_image(scratch: &Path, vmlinuz: &Path, initrd: &Path, line: &str) -> PathBuf {
    let volume = scratch.join("esp");
    let boot = volume.join("EFI/BOOT");
    let command_line = scratch.join("cmdline");
    fs::create_dir_all(&boot)
        .and_then(|()| fs::write(&command_line, line))
        .unwrap_or_else(|error| panic!("cannot write below {}: {error}", scratch.display()));
    let files = [command_line.as_path(), vmlinuz, initrd];
    let mut objcopy = OBJCOPY.command();
    for ((section, address), file) in SECTIONS.into_iter().zip(files) {
        objcopy.arg("--add-section").arg(format!("{section}={}", file.display()));
        objcopy.arg("--change-section-vma").arg(format!("{section}={address:#x}"));
    }
    run(objcopy.arg(STUB).arg(boot.join("BOOTX64.EFI")));
    volume
}
