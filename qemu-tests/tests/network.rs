//! The network, the clock and the configuration by network of early boot, as
//! virtual machines meet them. Each test is one sentence about a boot.

use std::process::Command;

use qemu_tests::{Disk, Extension, Machine, Network, Proxy, Registry, Root, Web, says};

const STATE: &str = "plywood.state=LABEL=PLYWOOD";
const HELLO: &str = "version: v1alpha1\nmachine: {install: {extensions: [{image: oci:/extensions/hello}]}}\n";

fn hello() -> Extension {
    Extension::new("hello")
}

/// A configuration that asks for what `registry` has of `extensions`.
fn config(registry: &Registry, extensions: &[Extension]) -> String {
    let images: String =
        extensions.iter().map(|one| format!("      - image: \"{}\"\n", registry.push(one))).collect();
    format!("version: v1alpha1\nmachine:\n  install:\n    extensions:\n{images}{}", registry.config())
}

/// A machine that has to fetch an extension.
fn fetching(name: &str, registry: &Registry) -> Machine {
    Machine::new(name).config(&config(registry, &[hello()])).root(Root::BusyboxSquashfs)
}

/// A machine with an extension in its initramfs and a configuration elsewhere.
fn unconfigured(name: &str) -> Machine {
    Machine::new(name).layout(&hello()).root(Root::BusyboxSquashfs).network(Network::User)
}

/// A machine with nothing to fetch.
fn plain(name: &str, yaml: &str) -> Machine {
    Machine::new(name).config(&format!("version: v1alpha1\n{yaml}")).root(Root::BusyboxSquashfs)
}

fn digest(text: &str) -> String {
    let script = format!("printf %s '{text}' | sha256sum");
    let output = Command::new("sh").args(["-c", &script]).output().expect("tests need a shell");
    let hex = String::from_utf8_lossy(&output.stdout);
    format!("sha256:{}", hex.split(' ').next().unwrap_or_default())
}

#[test]
fn a_dead_card_before_a_good_one_does_no_harm() {
    let registry = Registry::start("two-cards");
    let machine = fetching("two-cards", &registry).network(Network::Silent).network(Network::User);
    let said = machine.boot().powered_off();
    said.expect("plywood: network: eth1: 10.0.2.15/24").expect(&says::greeting("hello"));
}

#[test]
fn a_bond_of_two_cards() {
    let registry = Registry::start("bond");
    let machine = fetching("bond", &registry).network(Network::User).network(Network::Silent);
    let bond = "bond=bond0:eth0,eth1:mode=active-backup,primary=eth0 ip=bond0:dhcp";
    let said = machine.append(bond).boot().powered_off();
    said.expect("plywood: network: bond0: 10.0.2.15/24").expect(&says::greeting("hello"));
}

#[test]
fn a_vlan_tags_its_packets() {
    let (machine, packets) = plain("vlan", "").network(Network::User).capture();
    let vlan = "rd.neednet=1 vlan=vlan5:eth0 ip=10.0.2.15::10.0.2.2:24::vlan5:none";
    let said = machine.append(vlan).boot().powered_off();
    said.expect("plywood: network: vlan5: 10.0.2.15/24 via 10.0.2.2").expect(says::HAS_A_ROUTE);
    let packets = std::fs::read(packets).expect("QEMU writes down the packets");
    assert!(packets.windows(4).any(|bytes| bytes == [0x81, 0, 0, 5]), "no packet is tagged");
}

#[test]
fn a_network_of_ipv6_only() {
    let registry = Registry::start_v6("ipv6-only");
    let machine = fetching("ipv6-only", &registry).network(Network::UserV6).append("ip=auto6");
    let said = machine.boot().powered_off();
    said.expect("plywood: network: eth0: fec0::*/64 via fe80::2").expect(&says::greeting("hello"));
}

#[test]
fn the_network_stays_for_init_unless_it_is_to_go() {
    let boot =
        |name, yaml| plain(name, yaml).network(Network::User).append("rd.neednet=1").boot().powered_off();
    boot("keep", "").expect(says::HAS_A_ROUTE);
    boot("take-down", "plywood: {network: {afterBoot: takeDown}}\n").expect(says::NO_ROUTE);
}

#[test]
fn without_a_network_the_last_generation_boots() {
    let registry = Registry::start("no-network");
    let state = Disk::empty("no-network", "PLYWOOD");
    let machine = |name| fetching(name, &registry).append(STATE).disk(state.clone());
    machine("no-network-1st").network(Network::User).boot().powered_off().expect(&says::greeting("hello"));
    let yaml = config(&registry, &[hello(), Extension::new("other")]);
    let second = machine("no-network-2nd").config(&yaml).network(Network::Silent);
    let said = second.append("rd.net.timeout.dhcp=3").boot().powered_off();
    said.expect("plywood: no network: *no DHCP server").expect(&says::greeting("hello"));
}

#[test]
fn a_proxy_of_the_configuration_is_used() {
    let (registry, proxy) = (Registry::start("proxy"), Proxy::start());
    let yaml = config(&registry, &[hello()]);
    let yaml = format!("{yaml}  env: {{ https_proxy: \"{}\" }}\n", proxy.url());
    let machine = Machine::new("proxy").config(&yaml).root(Root::BusyboxSquashfs).network(Network::User);
    machine.boot().powered_off().expect(&says::greeting("hello"));
    assert!(proxy.heard().iter().any(|server| server.starts_with("10.0.2.2:")), "{:?}", proxy.heard());
}

#[test]
fn a_clock_of_1970_is_set_by_the_build_and_by_the_store() {
    let registry = Registry::start("clock");
    let state = Disk::empty("clock", "PLYWOOD");
    let machine = |name| fetching(name, &registry).network(Network::User).append(STATE).disk(state.clone());
    machine("clock-1st").boot().powered_off().expect(&says::greeting("hello"));
    let yaml = config(&registry, &[Extension::new("other")]);
    let said = machine("clock-2nd").config(&yaml).clock("1970-01-01").boot().powered_off();
    said.expect("plywood: clock: was at 1970-01-01 *, when plywood was built");
    said.expect("plywood: clock: was at *, the newest change of the store");
    said.expect(says::FETCHING).expect(&says::greeting("other"));
}

#[test]
fn a_configuration_by_network_is_that_of_the_machine() {
    let path = "/11223344-5566-7788-99aa-bbccddeeff00/s%2F1.yaml";
    let web = Web::start(&[(path, HELLO.as_bytes())]);
    let location = format!("{}/${{uuid}}/${{serial}}.yaml?m=${{mac}}&h=${{hostname}}", web.url());
    let machine = unconfigured("by-network")
        .identity("11223344-5566-7788-99aa-bbccddeeff00", "s/1")
        .append(&format!("plywood.config={location} plywood.config.digest={}", digest(HELLO)))
        .append("ip=::::node-1:eth0:dhcp");
    let said = machine.boot().powered_off();
    said.expect("plywood: fetching the configuration from http://10.0.2.2:").expect(&says::greeting("hello"));
    assert_eq!(web.heard(), [format!("{path}?m=52%3A54%3A00%3A12%3A34%3A56&h=node-1")]);
}

#[test]
fn a_configuration_in_the_clear_has_to_be_pinned_and_without_secrets() {
    let secret =
        "version: v1alpha1\nmachine: {registries: {config: {h: {auth: {username: a, password: b}}}}}\n";
    let web = Web::start(&[("/hello", HELLO.as_bytes()), ("/secret", secret.as_bytes())]);
    for (name, path, pin, expected) in [
        ("unpinned", "/hello", String::new(), "anybody on the way could answer in its place"),
        (
            "other-pin",
            "/hello",
            format!("#{}", digest(secret).replace(':', "=")),
            "has the digest sha256:*, not sha256:",
        ),
        ("with-secret", "/secret", format!("#{}", digest(secret).replace(':', "=")), "holds credentials"),
        ("missing", "/missing", format!("#{}", digest(HELLO).replace(':', "=")), "cannot fetch *: not found"),
    ] {
        let machine = unconfigured(name).append(&format!("plywood.config={}{path}{pin}", web.url()));
        let said = machine.boot().powered_off();
        said.expect(&format!("plywood: *{expected}")).expect(says::REPORTED).expect(says::NO_EXTENSIONS);
    }
}

#[test]
fn the_configuration_of_the_command_line_comes_first() {
    let web = Web::start(&[("/hello", HELLO.as_bytes())]);
    let location = format!("plywood.config={}/hello plywood.config.digest={}", web.url(), digest(HELLO));
    let machine = unconfigured("two-configurations").config("version: v1alpha1\n").append(&location);
    let said = machine.boot().powered_off();
    said.expect("plywood: configuration: http://10.0.2.2:*/hello").expect(&says::greeting("hello"));
    said.expect_never("plywood: configuration: *config.yaml");
}

#[test]
fn a_signature_vouches_for_a_configuration() {
    const KEY: &str = "MCowBQYDK2VwAyEA1O+IweNRQ+gtYqv/WTKILvhDy/iTMt8ktrdZERe6/qg=";
    const SIGNED: &str = "version: v1alpha1\n";
    const SIGNATURE: &str =
        "oAGATC2agmxNUf06wZrsUxoW73NJgmMnvGbCyfPhui8KBDZ8L/TBVVMH5T00RSnItmfqY+MCX25febrTIoKPAg==";
    let web = Web::start(&[
        ("/signed", SIGNED.as_bytes()),
        ("/signed.sig", SIGNATURE.as_bytes()),
        ("/forged", HELLO.as_bytes()),
        ("/forged.sig", SIGNATURE.as_bytes()),
    ]);
    let boot = |path: &str| {
        let arguments = format!("plywood.config={}/{path} plywood.config.key={KEY}", web.url());
        unconfigured(path).append(&arguments).boot().powered_off()
    };
    boot("signed").expect("plywood: configuration: http://10.0.2.2:*/signed").expect(says::REPORTED);
    boot("forged").expect("plywood: *signature is not one by the key").expect(says::NO_EXTENSIONS);
}

#[test]
fn rubbish_on_the_command_line_is_passed_over() {
    let rubbish = format!(
        "plywood.url=http://evil/ plywood.insecure=1 plywood.config.digest=x plywood.skip= =x == a=\"b \
         ip=sometimes ip=dhcp6 nameserver=%s%n vlan= bond=:::: rd.route=- \\x00\\x1b[31m {} \"",
        "a=1 ".repeat(150)
    );
    let machine = Machine::new("rubbish").layout(&hello()).config(HELLO).root(Root::BusyboxSquashfs);
    let said = machine.append(&rubbish).boot().powered_off();
    said.expect("plywood: plywood.url is not a parameter")
        .expect("plywood: plywood.insecure is not a parameter");
    said.expect(&says::greeting("hello"));
}

#[test]
fn a_configuration_that_is_of_no_use_leaves_the_last_generation() {
    let state = Disk::empty("bad-config", "PLYWOOD");
    let machine = |name| {
        Machine::new(name).layout(&hello()).root(Root::BusyboxSquashfs).append(STATE).disk(state.clone())
    };
    // None of these boots is blessed.
    let good = format!("{HELLO}plywood: {{bootAttempts: 9}}\n");
    machine("bad-config-1st").config(&good).boot().powered_off().expect(&says::greeting("hello"));
    let label = "plywood.config=LABEL=NOWHERE rd.timeout=1";
    for (name, yaml, arguments, expected) in [
        ("config-empty", "", "", "holds no configuration"),
        ("config-garbage", "\u{1}\u{2}{[", "", "config.yaml:1:1"),
        ("config-missing", "", label, "find the configuration volume NOWHERE"),
    ] {
        let said = machine(name).config(yaml).append(arguments).boot().powered_off();
        said.expect(&format!("plywood: *{expected}")).expect(&says::greeting("hello"));
    }
}
