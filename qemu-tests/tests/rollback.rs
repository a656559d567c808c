//! The proof of rollback: whatever a new generation does to its boot, the
//! machine ends on the last good one by itself, with the new one marked bad.

use qemu_tests::{Disk, Extension, Machine, Root, says};

/// What the first boot runs: it blesses itself and applies a generation with
/// another init.
const PREPARE: &str = "#!/bin/sh\n\
    [ -e /run/plywood/state/generations/2 ] && exit 0\n\
    plywood bless\n\
    mkdir -p /run/broken/rootfs/usr/sbin\n\
    cd /usr/local/share/broken\n\
    cp -p init /run/broken/rootfs/usr/sbin/init\n\
    cp manifest.yaml /run/broken/manifest.yaml\n\
    plywood apply -f machine.yaml\n\
    if [ -e corrupt ]; then\n\
        layer=$(ls -t /run/plywood/state/layers/*.sqsh | head -n 1)\n\
        printf X | dd of=$layer bs=1 seek=150 conv=notrunc 2>/dev/null\n\
    fi\n\
    sync\n";

const MANIFEST: &str = "version: v1alpha1\nmetadata: {name: broken, version: \"1\"}\n";

/// A generation that is broken in one way.
struct Broken {
    name: &'static str,
    /// Its `/usr/sbin/init`, and the mode of that.
    init: (&'static str, u32),
    /// Keys of `plywood` in its configuration.
    keys: &'static str,
    corrupt: bool,
}

impl Broken {
    /// A machine on the state volume that [`Broken::prepare`] left.
    fn machine(&self, state: &Disk, boot: &str) -> Machine {
        let yaml = "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      - image: oci:/extensions/prepare\n";
        Machine::new(&format!("rollback-{}-{boot}", self.name))
            .config(yaml)
            .layout(&self.extension())
            .root(Root::BusyboxSquashfs)
            .append("plywood.state=LABEL=PLYWOOD")
            .disk(state.clone())
    }

    fn extension(&self) -> Extension {
        let (init, mode) = self.init;
        let machine = format!(
            "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      - image: dir:/run/broken\n        \
             overrides: [/usr/sbin/init]\nplywood:\n  rules: {{allow: [/usr/sbin/init]}}\n{}",
            self.keys
        );
        let extension = Extension::new("prepare")
            .file("usr/local/bin/prepare", 0o755, PREPARE)
            .file("usr/local/share/broken/init", mode, init)
            .file("usr/local/share/broken/manifest.yaml", 0o644, MANIFEST)
            .file("usr/local/share/broken/machine.yaml", 0o644, &machine);
        match self.corrupt {
            true => extension.file("usr/local/share/broken/corrupt", 0o644, ""),
            false => extension,
        }
    }

    /// Boots a good generation, which applies the broken one.
    fn prepare(&self) -> Disk {
        let state = Disk::empty(&format!("rollback-{}", self.name), "PLYWOOD");
        let said = self.machine(&state, "1st").boot().powered_off();
        said.expect(says::BLESSED).expect(says::APPLIED);
        state
    }

    /// Boots without help: the last good generation runs.
    fn ends_well(&self, state: &Disk) {
        let said = self.machine(state, "last").boot().powered_off();
        said.expect(says::GENERATION_1_RUNS).expect(says::GENERATION_2_IS_BAD);
        let again = self.machine(state, "again").boot().powered_off();
        again.expect(says::GENERATION_1_RUNS).expect_never(says::ATTEMPT);
    }
}

#[test]
fn a_corrupt_layer() {
    let broken = Broken { name: "corrupt", init: ("#!/bin/sh\n", 0o755), keys: "", corrupt: true };
    let state = broken.prepare();
    broken.ends_well(&state);
}

#[test]
fn an_init_that_cannot_start() {
    let broken = Broken { name: "no-init", init: ("not a program\n", 0o644), keys: "", corrupt: false };
    let state = broken.prepare();
    broken.ends_well(&state);
}

#[test]
fn an_init_that_exits() {
    let broken = Broken { name: "exits", init: ("#!/bin/sh\nexit 1\n", 0o755), keys: "", corrupt: false };
    let state = broken.prepare();
    for attempt in ["a", "b", "c"] {
        let said = broken.machine(&state, attempt).boot().stopped();
        said.expect(says::ATTEMPT).expect(says::INIT_EXITED);
    }
    broken.ends_well(&state);
}

#[test]
fn a_kernel_that_panics() {
    let init = ("#!/bin/sh\necho c >/proc/sysrq-trigger\n", 0o755);
    let broken = Broken { name: "panic", init, keys: "  bootAttempts: 1\n", corrupt: false };
    let state = broken.prepare();
    broken.machine(&state, "a").boot().stopped().expect(says::ATTEMPT).expect(says::A_CRASH);
    broken.ends_well(&state);
}

#[test]
fn an_init_that_hangs() {
    let init = ("#!/bin/sh\necho GUEST: hangs\nexec sleep 100000\n", 0o755);
    let keys = "  bootAttempts: 1\n  watchdog: 10s\n";
    let broken = Broken { name: "hangs", init, keys, corrupt: false };
    let state = broken.prepare();
    let said = broken.machine(&state, "a").boot().stopped();
    said.expect(says::WATCHDOG).expect(says::HANGS);
    broken.ends_well(&state);
}

#[test]
fn power_that_is_cut_three_times() {
    let init = ("#!/bin/sh\necho GUEST: hangs\nexec sleep 100000\n", 0o755);
    let broken = Broken { name: "cut", init, keys: "", corrupt: false };
    let state = broken.prepare();
    for attempt in ["a", "b", "c"] {
        let mut console = broken.machine(&state, attempt).boot();
        console.expect(says::HANGS);
        console.power_cut();
    }
    broken.ends_well(&state);
}
