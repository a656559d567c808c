//! Kernel modules that extensions bring: found, indexed together, loaded.

use qemu_tests::{Extension, Kernel, Machine, Root, says};

/// Shows which modules are in the kernel, and what `dummy` made of its
/// parameter; the others are for programs of the merged root to load.
const SHOW: &str = "#!/bin/sh\nmodprobe dm-zero || echo modprobe fails\n\
    sed 's/ .*//' /proc/modules\nls /sys/class/net\n";

/// An extension with modules of this kernel below a directory of their own.
fn extension(name: &str, kernel: Kernel, directory: &str, modules: &[&str]) -> Extension {
    modules.iter().fold(Extension::new(name), |extension, module| {
        let (path, content) = kernel.module(module);
        let file = path.rsplit('/').next().unwrap_or(&path);
        let path = format!("usr/lib/modules/{}/{directory}/{file}", kernel.release());
        extension.file(&path, 0o644, content)
    })
}

fn machine(name: &str, kernel: Kernel, modules: &str, extensions: &[Extension]) -> Machine {
    let images: Vec<_> =
        extensions.iter().map(|one| format!("      - image: oci:/extensions/{}\n", one.name())).collect();
    let config = format!(
        "version: v1alpha1\nmachine:\n  install:\n    extensions:\n{}  kernel:\n    modules:\n{modules}",
        images.concat()
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
        for fact in ["macvtap", "macvlan", "tap", "dm_zero", "dm_mod", "dummy1"] {
            said.expect(&format!("GUEST: show: {fact}"));
        }
        said.expect_never("GUEST: show: modprobe fails").expect(says::REPORTED);
    }
}
