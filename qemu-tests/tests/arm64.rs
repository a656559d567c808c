//! An arm64 machine: the binary built for it boots Debian's kernel with two
//! extensions, and refuses what was made for another processor. Needs
//! `make build-arm64`, and so is apart from the other boots: `make test-arm64`.

use qemu_tests::{Extension, Kernel, Machine, Root, says};

/// An extension with a module `of` one kernel where `kernel` looks for it.
fn with_module(name: &str, kernel: Kernel, of: Kernel) -> Extension {
    let (path, content) = of.module("dummy");
    let file = path.rsplit('/').next().unwrap_or(&path);
    let path = format!("usr/lib/modules/{}/extra/{file}", kernel.release());
    Extension::new(name).architecture("arm64").file(&path, 0o644, content)
}

#[test]
#[ignore = "needs a cross-built binary; make test-arm64 and make matrix run it"]
fn arm64_boots_its_own_extensions_and_no_others() {
    for (name, kernel, other) in
        [("arm64-6.1", Kernel::V6_1Arm64, Kernel::V6_1), ("arm64-6.12", Kernel::V6_12Arm64, Kernel::V6_12)]
    {
        let extensions = [
            Extension::new("hello").architecture("arm64"),
            with_module("drivers", kernel, kernel),
            // As images are here, for amd64.
            Extension::new("foreign"),
            with_module("mixed", kernel, other),
        ];
        let images: String = extensions
            .iter()
            .map(|one| {
                format!(
                    "      - {{image: \"oci:/extensions/{}\", onFailure: skip, overrides: [/usr/local/share/guest/winner]}}\n",
                    one.name()
                )
            })
            .collect();
        let config = format!(
            "version: v1alpha1\nmachine:\n  install:\n    extensions:\n{images}  kernel:\n    modules: [{{name: dummy, parameters: [numdummies=2]}}]\n"
        );
        let machine = Machine::new(name).kernel(kernel).config(&config).root(Root::BusyboxArm64);
        let said = extensions.iter().fold(machine, Machine::layout).boot().powered_off();
        for (number, good) in ["hello", "drivers"].into_iter().enumerate() {
            said.expect(&says::layer(number, good)).expect(&says::greeting(good));
            said.expect(&says::listed(number, good));
        }
        said.expect(&says::loaded("dummy")).expect(says::FOR_ANOTHER_PROCESSOR);
        said.expect(says::MODULE_FOR_ANOTHER_PROCESSOR).expect(says::REPORTED);
        for bad in ["foreign", "mixed"] {
            said.expect_never(&says::greeting(bad));
        }
    }
}
