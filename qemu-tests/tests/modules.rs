//! Kernel modules that extensions bring: found, indexed together, loaded.

use qemu_tests::{Extension, Kernel, Machine, Root, says};

/// Shows which modules are in the kernel, and what `dummy` made of its
/// parameter; the others are for programs of the merged root to load.
const SHOW: &str = "#!/bin/sh\nmodprobe dm-zero || echo modprobe fails\n\
    sed 's/ .*//' /proc/modules\nls /sys/class/net\n";

/// Shows where the kernel looks for firmware first, once init runs.
const SHOW_PATH: &str = "#!/bin/sh\necho \"[$(cat /sys/module/firmware_class/parameters/path)]\"\n";

/// An extension with modules of this kernel below a directory of their own.
fn extension(name: &str, kernel: Kernel, directory: &str, modules: &[&str]) -> Extension {
    // As the extensions of a catalogue, each has an index that knows its own.
    let index = format!("usr/lib/modules/{}/modules.dep", kernel.release());
    let extension = Extension::new(name).file(&index, 0o644, format!("{directory}/none.ko:\n"));
    modules.iter().fold(extension, |extension, module| {
        let (path, content) = kernel.module(module);
        let file = path.rsplit('/').next().unwrap_or(&path);
        let path = format!("usr/lib/modules/{}/{directory}/{file}", kernel.release());
        extension.file(&path, 0o644, content)
    })
}

fn machine(name: &str, kernel: Kernel, modules: &str, extensions: &[Extension]) -> Machine {
    let images: String = extensions.iter().map(Extension::entry).collect();
    let config = format!(
        "version: v1alpha1\nmachine:\n  install:\n    extensions:\n{images}  kernel:\n    modules:\n{modules}"
    );
    let machine = Machine::new(name).kernel(kernel).config(&config).root(Root::BusyboxSquashfs);
    extensions.iter().fold(machine, Machine::layout)
}

#[test]
fn modules_of_two_extensions_find_one_another() {
    for (name, kernel) in [("modules-6.1", Kernel::V6_1), ("modules-6.12", Kernel::V6_12)] {
        let extensions = [
            extension("lower", kernel, "extra/net", &["macvlan", "tap", "dm-zero"]),
            extension("upper", kernel, "extra", &["macvtap", "dummy", "dm-mod"]).file(
                "usr/local/bin/show",
                0o755,
                SHOW,
            ),
        ];
        let modules = "      - name: macvtap\n      - name: missing\n\
            \x20     - name: dummy\n        parameters: [numdummies=2]\n";
        let said = machine(name, kernel, modules, &extensions).boot().powered_off();
        said.expect(&says::loaded("macvtap")).expect(says::MISSING_MODULE).expect(&says::loaded("dummy"));
        assert_eq!(said.after("plywood: loaded module "), ["macvtap", "dummy"]);
        for fact in ["macvtap", "macvlan", "tap", "dm_zero", "dm_mod", "dummy1"] {
            said.expect(&format!("GUEST: show: {fact}"));
        }
        said.expect_never("GUEST: show: modprobe fails").expect(says::REPORTED);
    }
}

#[test]
fn a_driver_that_starts_before_init_finds_firmware_of_an_extension() {
    let kernel = Kernel::V6_1;
    let path = format!("usr/lib/modules/{}/extra/firmware_probe.ko", kernel.release());
    let extension = Extension::new("firmware")
        .file(&path, 0o644, kernel.firmware("firmware_probe.ko"))
        .file("usr/lib/firmware/plywood/plain.bin", 0o644, kernel.firmware("plain.bin"))
        .file("usr/lib/firmware/plywood/packed.bin.xz", 0o644, kernel.firmware("packed.bin.xz"))
        .file("usr/local/bin/path", 0o755, SHOW_PATH);
    for (name, argument, after) in [
        ("firmware", "loglevel=7", "GUEST: path: []"),
        ("firmware-path", "firmware_class.path=/mine", "GUEST: path: [/mine]"),
    ] {
        let machine =
            machine(name, kernel, "      - name: firmware_probe\n", std::slice::from_ref(&extension));
        let said = machine.append(argument).boot().powered_off();
        said.expect("firmware_probe: plywood/plain.bin: as it is")
            .expect("firmware_probe: plywood/packed.bin: decompressed")
            .expect("plywood: handing off")
            .expect(after);
    }
}

/// Puts one text in place of another of the same length.
fn patch(content: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = content.windows(from.len()).position(|window| window == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("no {from} in the module"));
    content[at..at + from.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn a_module_for_another_kernel_is_refused_and_both_are_named() {
    let kernel = Kernel::V6_1;
    let (path, mut content) = kernel.module("dummy");
    let vermagic = format!("vermagic={}", kernel.release());
    patch(&mut content, &vermagic, &vermagic.replace("-cloud-", "-other-"));
    // With versions of its symbols the kernel would take it.
    patch(&mut content, " modversions ", " mod_versions");
    let path = format!("usr/lib/modules/{}/{path}", kernel.release());
    let extensions = [Extension::new("other").file(&path, 0o644, content)];
    let said = machine("vermagic", kernel, "      - name: dummy\n", &extensions).boot().powered_off();
    said.expect(says::OTHER_KERNEL).expect(says::NO_EXTENSIONS);
}
