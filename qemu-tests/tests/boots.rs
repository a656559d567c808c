//! The table of boots: what plywood makes of a machine, seen from inside it.
//! Each test is one sentence about a boot, good or bad.

use qemu_tests::{Disk, Extension, Kernel, Machine, Network, Registry, Root, extension, says};

const STATE: &str = "plywood.state=LABEL=PLYWOOD";

/// A configuration that asks for `images`, the last one on top.
fn config(images: &[String], registries: &str) -> String {
    let extensions: String = images.iter().map(|image| extension::entry(image)).collect();
    format!("version: v1alpha1\nmachine:\n  install:\n    extensions:\n{extensions}{registries}")
}

/// A machine with the small root that finds `extensions` in its initramfs.
fn with_layouts(name: &str, extensions: &[Extension]) -> Machine {
    let images: Vec<_> = extensions.iter().map(|one| format!("oci:/extensions/{}", one.name())).collect();
    let machine = Machine::new(name).config(&config(&images, ""));
    extensions.iter().fold(machine, Machine::layout)
}

/// A machine with the small root that finds `extensions` in `registry`.
fn with_registry(name: &str, registry: &Registry, extensions: &[Extension]) -> Machine {
    let images: Vec<_> = extensions.iter().map(|one| registry.push(one)).collect();
    Machine::new(name)
        .config(&config(&images, &registry.config()))
        .root(Root::BusyboxSquashfs)
        .network(Network::User)
}

fn hello() -> [Extension; 1] {
    [Extension::new("hello")]
}

#[test]
fn an_extension_from_a_layout_on_6_1() {
    let said = with_layouts("layout-6.1", &hello()).root(Root::BusyboxSquashfs).boot().powered_off();
    said.expect(&says::layer(0, "hello")).expect(&says::greeting("hello")).expect(says::USR_IS_READ_ONLY);
}

#[test]
fn an_extension_from_a_layout_on_6_12() {
    let machine = with_layouts("layout-6.12", &hello()).kernel(Kernel::V6_12);
    let said = machine.root(Root::BusyboxSquashfs).boot().powered_off();
    said.expect(&says::layer(0, "hello")).expect(&says::greeting("hello")).expect(says::USR_IS_READ_ONLY);
}

#[test]
fn an_extension_from_a_registry_on_6_1() {
    let registry = Registry::start("registry-6.1");
    let machine = with_registry("registry-6.1", &registry, &hello()).append("ip=dhcp");
    machine.boot().powered_off().expect(says::FETCHING).expect(&says::greeting("hello"));
}

#[test]
fn an_extension_from_a_registry_on_6_12() {
    let registry = Registry::start("registry-6.12");
    let machine = with_registry("registry-6.12", &registry, &hello()).append("ip=dhcp");
    let said = machine.kernel(Kernel::V6_12).boot().powered_off();
    said.expect(says::FETCHING).expect(&says::greeting("hello"));
}

#[test]
fn an_address_from_the_command_line() {
    let registry = Registry::start("static");
    let machine = with_registry("static", &registry, &hello());
    let said = machine.append("ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:none").boot().powered_off();
    said.expect(says::FETCHING).expect(&says::greeting("hello"));
}

#[test]
fn a_registry_over_ipv6() {
    let registry = Registry::start_v6("ipv6");
    let machine = with_registry("ipv6", &registry, &hello());
    let said = machine.append("ip=eth0:auto6").boot().powered_off();
    said.expect(says::FETCHING).expect(&says::greeting("hello"));
}

#[test]
fn a_second_boot_needs_no_registry() {
    let state = Disk::empty("second", "PLYWOOD");
    let registry = Registry::start("second");
    let machine = |name| with_registry(name, &registry, &hello()).append(STATE).disk(state.clone());
    let second = machine("second-2nd");
    machine("second-1st").append("ip=dhcp").boot().powered_off().expect(&says::greeting("hello"));
    drop(registry);
    let said = second.boot().powered_off();
    said.expect(&says::greeting("hello")).expect_never(says::FETCHING);
}

#[test]
fn a_power_cut_while_fetching_does_no_harm() {
    let state = Disk::empty("cut", "PLYWOOD");
    let registry = Registry::start("cut");
    let machine =
        |name| with_registry(name, &registry, &hello()).append("ip=dhcp").append(STATE).disk(state.clone());
    let second = machine("cut-2nd");
    let mut console = machine("cut-1st").boot();
    console.expect(says::FETCHING);
    console.power_cut();
    second.boot().powered_off().expect(&says::greeting("hello"));
}

#[test]
fn without_extensions_there_is_no_overlay() {
    let machine = Machine::new("none").config("version: v1alpha1\n").root(Root::BusyboxSquashfs);
    let said = machine.boot().powered_off();
    said.expect(says::REPORTED).expect(says::NO_EXTENSIONS).expect_never(says::AN_OVERLAY);
}

#[test]
fn twelve_extensions_keep_their_order() {
    let names = "lima kilo juliett india hotel golf foxtrot echo delta charlie bravo alfa".split(' ');
    let extensions: Vec<_> = names.map(Extension::new).collect();
    let said = with_layouts("twelve", &extensions).root(Root::BusyboxSquashfs).boot().powered_off();
    for (number, extension) in extensions.iter().enumerate() {
        said.expect(&says::layer(number, extension.name())).expect(&says::greeting(extension.name()));
    }
    said.expect(&says::winner("alfa"));
}

#[test]
fn an_ext4_base() {
    let said = with_layouts("ext4", &hello()).root(Root::BusyboxExt4).boot().powered_off();
    said.expect(&says::layer(0, "hello")).expect(&says::greeting("hello")).expect(&says::listed(0, "hello"));
}

#[test]
fn debian_on_squashfs_reaches_its_default_target() {
    let said = with_layouts("debian-squashfs", &hello()).root(Root::DebianSquashfs).boot().powered_off();
    said.expect(says::DEBIAN).expect(&says::greeting("hello")).expect_never(says::A_FAILED_UNIT);
}

#[test]
fn debian_on_ext4_reaches_its_default_target() {
    let machine = with_layouts("debian-ext4", &hello()).kernel(Kernel::V6_12);
    let said = machine.root(Root::DebianExt4).boot().powered_off();
    said.expect(says::DEBIAN).expect(&says::greeting("hello")).expect_never(says::A_FAILED_UNIT);
}

#[test]
fn an_extension_that_breaks_a_rule_is_refused() {
    let evil = [Extension::new("evil").file("usr/local/share/open", 0o666, "anyone may write here\n")];
    let said = with_layouts("rule", &evil).root(Root::BusyboxSquashfs).boot().powered_off();
    said.expect(says::RULE_BROKEN).expect(says::REPORTED).expect_never(says::AN_EXTENSION);
}

#[test]
fn a_blob_whose_digest_does_not_match_is_refused() {
    let altered = [Extension::new("altered").with_altered_blobs()];
    let said = with_layouts("digest", &altered).root(Root::BusyboxSquashfs).boot().powered_off();
    said.expect(says::DIGEST_MISMATCH).expect(says::REPORTED).expect_never(says::AN_EXTENSION);
}

#[test]
fn an_extension_that_may_be_skipped_is_skipped() {
    let extensions = [Extension::new("hello"), Extension::new("altered").with_altered_blobs()];
    let yaml = "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      - image: oci:/extensions/altered\n        \
                onFailure: skip\n      - image: oci:/extensions/hello\n";
    let machine = with_layouts("skip", &extensions).config(yaml).root(Root::BusyboxSquashfs);
    let said = machine.boot().powered_off();
    said.expect(says::SKIPPED).expect(&says::greeting("hello")).expect_never(&says::greeting("altered"));
}

#[test]
fn a_registry_that_is_down_leaves_the_base() {
    let registry = Registry::start("down");
    let machine = with_registry("down", &registry, &hello()).append("ip=dhcp");
    drop(registry);
    let said = machine.boot().powered_off();
    said.expect(says::REGISTRY_DOWN).expect(says::REPORTED).expect(says::NO_EXTENSIONS);
}

#[test]
fn a_wrong_password_leaves_the_base_and_stays_secret() {
    let registry = Registry::start("password");
    let yaml = config(&[registry.push(&hello()[0])], &registry.config_with_wrong_password());
    let machine = with_registry("password", &registry, &[]).config(&yaml).append("ip=dhcp");
    let said = machine.boot().powered_off();
    said.expect(says::WRONG_PASSWORD).expect(says::NO_EXTENSIONS).expect_never("battery staple");
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let yaml = "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      - { image: \"oci:/a\", onfailure: skip }\n";
    let machine = Machine::new("unknown-key").config(yaml).root(Root::BusyboxSquashfs);
    let said = machine.boot().powered_off();
    said.expect(says::UNKNOWN_KEY).expect(says::REPORTED).expect(says::NO_EXTENSIONS);
}

#[test]
fn a_root_device_that_never_appears_is_named() {
    let machine = with_layouts("no-root", &hello()).append("root=/dev/vdz ro rd.timeout=5");
    machine.boot().restarted().expect(says::MISSING_ROOT).expect_never("Kernel panic");
}

#[test]
fn a_missing_init_is_noticed_before_the_hand_off() {
    let machine = with_layouts("no-init", &hello()).root(Root::BusyboxSquashfs).append("init=/sbin/nothing");
    machine.boot().restarted().expect(says::MISSING_INIT).expect_never("Kernel panic");
}

#[test]
fn a_root_by_label() {
    let machine = with_layouts("label", &hello()).root(Root::BusyboxExt4).append("root=LABEL=busybox");
    machine.boot().powered_off().expect(&says::greeting("hello"));
}

#[test]
fn a_root_that_is_an_image_in_the_initramfs() {
    let image = Root::BusyboxSquashfs.image();
    let machine = with_layouts("image", &hello()).file("/root.squashfs", 0o644, &image);
    machine.append("root=/root.squashfs").boot().powered_off().expect(&says::greeting("hello"));
}

#[test]
fn writes_go_to_memory_where_the_configuration_says_so() {
    let yaml = config(&["oci:/extensions/hello".into()], "plywood: {overlay: {writable: tmpfs}}\n");
    let machine = with_layouts("tmpfs", &hello()).config(&yaml).root(Root::BusyboxSquashfs);
    machine.boot().powered_off().expect(says::USR_IS_WRITABLE).expect(&says::greeting("hello"));
}

#[test]
fn writes_stay_on_the_state_volume_where_the_configuration_says_so() {
    let yaml = config(&["oci:/extensions/hello".into()], "plywood: {overlay: {writable: persistent}}\n");
    let state = Disk::empty("persistent", "PLYWOOD");
    let machine = with_layouts("persistent", &hello()).config(&yaml).root(Root::BusyboxSquashfs);
    let said = machine.append(STATE).disk(state).boot().powered_off();
    said.expect(says::USR_IS_WRITABLE).expect(&says::greeting("hello"));
}

#[test]
fn the_command_line_leaves_an_extension_out() {
    let machine = with_layouts("left-out", &hello()).root(Root::BusyboxSquashfs).append("plywood.skip=hello");
    let said = machine.boot().powered_off();
    said.expect(says::LEFT_OUT).expect(says::REPORTED).expect_never(&says::greeting("hello"));
    said.expect(says::LISTED_AS_SKIPPED).expect_never(says::LISTED);
}

#[test]
fn a_state_volume_without_a_configuration_is_passed_over() {
    let machine = Machine::new("no-config").root(Root::BusyboxSquashfs).append(STATE);
    let said = machine.disk(Disk::empty("no-config", "PLYWOOD")).boot().powered_off();
    said.expect(says::PASSED_OVER).expect(says::REPORTED).expect_never(says::BUSY);
}

#[test]
fn a_missing_state_volume_is_waited_for_once() {
    let machine = with_layouts("no-state", &hello()).root(Root::BusyboxSquashfs);
    let said = machine.append("plywood.state=LABEL=NOWHERE rd.timeout=1").boot().powered_off();
    said.expect(says::MISSING_STATE).expect(says::NO_EXTENSIONS).expect_never(says::ANOTHER_ATTEMPT);
}

#[test]
fn another_init_calls_plywood_for_the_overlay() {
    const HOOK: &[u8] = b"#!/bin/sh\nexport PATH=/usr/bin\n\
        for fs in proc:proc sysfs:sys devtmpfs:dev tmpfs:run; do mount -t ${fs%:*} none /${fs#*:}; done\n\
        modprobe virtio_pci; modprobe virtio_blk; modprobe squashfs\n\
        until mount -t squashfs -o ro /dev/vda /sysroot; do sleep 1; done\n\
        plywood boot --root /sysroot\n\
        for dir in dev proc sys run; do mount --move /$dir /sysroot/$dir; done\n\
        exec switch_root /sysroot /sbin/init\n";
    let machine = with_layouts("hook", &hello()).root(Root::BusyboxSquashfs).file("/hook", 0o755, HOOK);
    machine.append("rdinit=/hook").boot().powered_off().expect(&says::greeting("hello"));
}

#[test]
fn the_command_line_switches_plywood_off() {
    let machine = with_layouts("off", &hello()).root(Root::BusyboxSquashfs).append("plywood=0");
    machine.boot().powered_off().expect(says::NO_EXTENSIONS).expect_never(says::AN_OVERLAY);
}

#[test]
fn a_failure_reboots_where_the_plain_root_is_not_wanted() {
    let evil = [Extension::new("evil").file("usr/local/share/open", 0o666, "anyone may write here\n")];
    let machine = with_layouts("strict", &evil).root(Root::BusyboxSquashfs);
    let said = machine.append("plywood.onfailure=reboot").boot().restarted();
    said.expect(says::RULE_BROKEN).expect_never(says::REPORTED);
}

#[test]
fn a_shell_opens_where_it_is_allowed() {
    let mut console = with_layouts("shell", &hello()).append("panic=0 rd.shell").boot();
    console.expect(says::EMERGENCY_SHELL);
    console.send("echo answer $((40 + 2))");
    console.expect("answer 42");
    console.send("exit");
    console.restarted().expect(says::NO_ROOT);
}

#[test]
fn without_a_way_on_the_reason_stays_on_the_screen() {
    let mut console = with_layouts("wait", &hello()).append("panic=0").boot();
    console.expect(says::NO_ROOT);
    console.expect(says::WAITING);
    console.power_cut();
}

#[test]
fn init_gets_the_arguments_that_the_kernel_gave() {
    let machine = with_layouts("arguments", &hello()).root(Root::BusyboxSquashfs).append("single -- tail");
    machine.boot().powered_off().expect(says::ARGUMENTS);
}

#[test]
fn the_state_may_be_on_the_root() {
    let machine = with_layouts("state-on-root", &hello()).root(Root::BusyboxExt4);
    let said = machine.append("plywood.state=/var/lib/plywood").boot().powered_off();
    said.expect(&says::greeting("hello")).expect_never(says::A_FAILURE);
}

#[test]
fn a_state_volume_that_cannot_be_written_to_still_boots_what_it_has() {
    let state = Disk::empty("read-only", "PLYWOOD");
    let machine = |name| with_layouts(name, &hello()).root(Root::BusyboxSquashfs).append(STATE);
    machine("read-only-1st").disk(state.clone()).boot().powered_off().expect(&says::greeting("hello"));
    let said = machine("read-only-2nd").disk(state.read_only()).boot().powered_off();
    said.expect(says::STATE_READ_ONLY).expect(&says::greeting("hello"));
}
