//! The network of the initramfs, in network namespaces that the tests make:
//! real links, a real kernel, and DHCP servers and routers that behave as
//! each test says. Needs root and iproute2; without them the tests fail.

mod lan;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lan::{
    Datagrams, DhcpServer, Host, Manners, NameServer, TimeServer, advertise_router, cable, time_answer,
};
use plywood::sys::net::{
    Address, Link, MacAddress, NetError, NetworkState, Requests, Route, Rtnetlink, Via, configure,
};
use plywood::sys::sntp;
use tempfile::TempDir;

/// The last line of every resolv.conf.
const OPTIONS: &str = "options timeout:2 attempts:2\n";

/// What the kernel has, loopback aside: that keeps its address once it was up.
#[derive(Clone, Debug, PartialEq)]
struct Snapshot {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

impl Snapshot {
    fn take() -> Self {
        let mut netlink = Rtnetlink::open().unwrap();
        let links: Vec<_> = netlink.links().unwrap().into_iter().filter(|link| !link.loopback).collect();
        let there = |index: u32| links.iter().any(|link| link.index == index);
        let addresses =
            netlink.addresses().unwrap().into_iter().filter(|address| there(address.link)).collect();
        let routes = netlink.routes().unwrap().into_iter().filter(|route| there(route.link)).collect();
        Self { links, addresses, routes }
    }

    fn link(&self, name: &str) -> &Link {
        self.links.iter().find(|link| link.name == name).unwrap()
    }

    /// The link's routes with a gateway, as text.
    fn gateways(&self, name: &str) -> Vec<String> {
        let link = self.link(name).index;
        let routed = self.routes.iter().filter(|route| route.link == link && route.via != Via::Link);
        routed.map(Route::to_string).collect()
    }

    /// The link's addresses that are not link-local.
    fn addresses(&self, name: &str) -> Vec<String> {
        let link = self.link(name).index;
        let global = self.addresses.iter().filter(|address| address.link == link && address.is_global());
        global.map(Address::to_string).collect()
    }
}

/// A machine and what it is told on its kernel command line.
struct Machine {
    host: Host,
    directory: TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { host: Host::new(), directory: tempfile::tempdir().unwrap() }
    }

    fn resolv_conf(&self) -> PathBuf {
        self.directory.path().join("etc/resolv.conf")
    }

    fn configure(&self, parameters: &[(&str, &str)]) -> Result<NetworkState, NetError> {
        let (requests, errors) = Requests::parse(parameters);
        assert_eq!(errors, [], "{parameters:?}");
        let resolv_conf = self.resolv_conf();
        self.host.run(move || configure(&requests, &resolv_conf, Instant::now() + Duration::from_secs(20)))
    }

    fn snapshot(&self) -> Snapshot {
        self.host.run(Snapshot::take)
    }

    /// Takes the state down and checks that everything is as it was.
    fn take_down(&self, state: NetworkState, before: &Snapshot) {
        self.host.run(move || state.take_down()).unwrap();
        self.assert_unchanged(before);
    }

    fn assert_unchanged(&self, before: &Snapshot) {
        // A link that went down keeps its multicast routes for a moment.
        for _ in 0..200 {
            if self.snapshot() == *before {
                break;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        assert_eq!(self.snapshot(), *before);
        assert!(!self.resolv_conf().exists());
    }
}

#[test]
fn a_lease_is_obtained_set_and_taken_back() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let server = DhcpServer::start(&lan, Manners::Polite);
    let before = machine.snapshot();

    let state = machine.configure(&[("ip", "::::node-1:eth0:dhcp"), ("nameserver", "10.9.9.9")]).unwrap();
    let after = machine.snapshot();
    assert_eq!(after.addresses("eth0"), ["10.9.0.77/24"]);
    assert_eq!(after.gateways("eth0"), ["0.0.0.0/0 via 10.9.0.1"]);
    assert!(after.link("eth0").up && after.link("eth0").mtu == 1400);
    let [link] = state.links() else { panic!("{state:?}") };
    assert_eq!(link.to_string(), "eth0: 10.9.0.77/24 via 10.9.0.1 (DHCP server 10.9.0.1)");
    let text = fs::read_to_string(machine.resolv_conf()).unwrap();
    assert_eq!(text, format!("search lan.example\nnameserver 10.9.9.9\nnameserver 10.9.0.1\n{OPTIONS}"));
    assert_eq!(server.heard(), "discover request");
    assert_eq!(server.hostname(), "node-1");
    machine.take_down(state, &before);
}

#[test]
fn a_server_that_refuses_or_is_slow_is_asked_again() {
    for (manners, heard) in [
        (Manners::RefuseFirst, "discover request discover request"),
        (Manners::IgnoreFirst, "discover request"),
        (Manners::SendRubbish, "discover request"),
    ] {
        let (machine, lan) = (Machine::new(), Host::new());
        cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
        let server = DhcpServer::start(&lan, manners);
        machine.configure(&[("ip", "dhcp")]).unwrap();
        assert_eq!(machine.snapshot().addresses("eth0"), ["10.9.0.77/24"], "{manners:?}");
        assert_eq!(server.heard(), heard, "{manners:?}");
    }
}

#[test]
fn of_two_links_the_one_with_a_server_wins() {
    let (machine, deaf, lan) = (Machine::new(), Host::new(), Host::new());
    cable(&machine.host, "eth0", &deaf, "10.8.0.1/24");
    cable(&machine.host, "eth1", &lan, "10.9.0.1/24");
    machine.host.ip("link add eth2 type veth peer name unplugged");
    let _server = DhcpServer::start(&lan, Manners::IgnoreFirst);
    let before = machine.snapshot();

    // Also without any ip= at all.
    let state = machine.configure(&[]).unwrap();
    let after = machine.snapshot();
    assert_eq!(after.addresses("eth1"), ["10.9.0.77/24"]);
    assert_eq!(state.links().len(), 1);
    assert!(state.failures().is_empty());
    for loser in ["eth0", "eth2"] {
        assert_eq!(after.link(loser), before.link(loser));
        assert!(after.addresses(loser).is_empty());
    }
    machine.take_down(state, &before);
}

#[test]
fn a_link_that_cannot_go_up_is_passed_over() {
    let (machine, lan, broken) = (Machine::new(), Host::new(), Host::new());
    // A macvlan refuses to go up with the address of the link below it.
    broken.ip("link add lower address 02:00:00:00:00:07 type veth peer name other");
    let namespace = machine.host.thread();
    broken.ip(&format!(
        "link add link lower name eth0 address 02:00:00:00:00:07 netns {namespace} type macvlan"
    ));
    cable(&machine.host, "eth1", &lan, "10.9.0.1/24");
    let _server = DhcpServer::start(&lan, Manners::Polite);
    let state = machine.configure(&[("ip", "dhcp")]).unwrap();
    assert_eq!(state.links()[0].link.name, "eth1");
    let error = machine.configure(&[("ip", "eth0:dhcp")]).unwrap_err();
    assert!(matches!(&error, NetError::Kernel(error) if error.what == "eth0"), "{error:?}");
}

#[test]
fn the_boot_loaders_device_is_preferred() {
    let (machine, other, lan) = (Machine::new(), Host::new(), Host::new());
    cable(&machine.host, "eth0", &other, "10.8.0.1/24");
    cable(&machine.host, "eth1", &lan, "10.9.0.1/24");
    let _servers =
        [DhcpServer::start(&other, Manners::Polite), DhcpServer::start(&lan, Manners::IgnoreFirst)];
    let mac = machine.snapshot().link("eth1").mac.unwrap().to_string().replace(':', "-");
    let state = machine.configure(&[("ip", "dhcp"), ("BOOTIF", &format!("01-{mac}"))]).unwrap();
    assert_eq!(state.links()[0].link.name, "eth1");
}

#[test]
fn devices_are_tried_at_the_same_time() {
    let (machine, deaf, lan) = (Machine::new(), Host::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    cable(&machine.host, "eth1", &deaf, "10.8.0.1/24");
    machine.host.ip("link add eth2 type veth peer name unplugged");
    let _server = DhcpServer::start(&lan, Manners::Polite);
    // One after the other, the dead ones would take all the time there is.
    let state = machine
        .configure(&[
            ("ip", "eth1:dhcp"),
            ("ip", "eth2:dhcp"),
            ("ip", "eth0:dhcp"),
            ("rd.net.timeout.dhcp", "15"),
            ("rd.net.timeout.carrier", "15"),
        ])
        .unwrap();
    assert_eq!(state.links()[0].link.name, "eth0");
    let failures: Vec<_> = state.failures().iter().map(ToString::to_string).collect();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures[0].starts_with("no DHCP server has given eth1"), "{failures:?}");
    assert!(failures[1].starts_with("no carrier on eth2"), "{failures:?}");
}

#[test]
fn the_named_boot_device_has_the_default_route() {
    for (bootdev, gateway) in [("eth0", "10.9.0.1"), ("eth1", "10.8.0.1")] {
        let (machine, lan, other) = (Machine::new(), Host::new(), Host::new());
        cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
        cable(&machine.host, "eth1", &other, "10.8.0.1/24");
        machine
            .configure(&[
                ("ip", "10.9.0.5::10.9.0.1:24::eth0:none"),
                ("ip", "10.8.0.5::10.8.0.1:24::eth1:none"),
                ("bootdev", bootdev),
            ])
            .unwrap();
        let routes = machine.snapshot().gateways(bootdev);
        assert_eq!(routes, [format!("0.0.0.0/0 via {gateway}")]);
    }
    let (machine, lan, other) = (Machine::new(), Host::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    cable(&machine.host, "eth1", &other, "10.9.0.1/24");
    let _servers = [DhcpServer::start(&lan, Manners::Polite), DhcpServer::start(&other, Manners::Polite)];
    let state = machine.configure(&[("ip", "dhcp"), ("bootdev", "eth1")]).unwrap();
    assert_eq!(state.links()[0].link.name, "eth1");
}

#[test]
fn a_device_gets_the_name_that_goes_with_its_address() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let mac = machine.snapshot().link("eth0").mac.unwrap().to_string();
    let _server = DhcpServer::start(&lan, Manners::Polite);
    for is_up in [false, true] {
        if is_up {
            machine.host.ip("link set eth0 up");
        }
        let before = machine.snapshot();
        let rename = format!("uplink:{mac}");
        let state = machine.configure(&[("ifname", &rename), ("ip", "uplink:dhcp")]).unwrap();
        assert_eq!(state.links()[0].link.name, "uplink");
        assert_eq!(machine.snapshot().addresses("uplink"), ["10.9.0.77/24"]);
        machine.host.run(move || state.take_down()).unwrap();
        assert_eq!(machine.snapshot().link("eth0").up, before.link("eth0").up);
    }
}

#[test]
fn name_servers_of_others_are_left_out_where_they_are_not_wanted() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let _server = DhcpServer::start(&lan, Manners::Polite);
    machine.configure(&[("ip", "dhcp"), ("rd.peerdns", "0"), ("nameserver", "10.9.9.9")]).unwrap();
    let text = fs::read_to_string(machine.resolv_conf()).unwrap();
    assert_eq!(text, format!("search lan.example\nnameserver 10.9.9.9\n{OPTIONS}"));
}

#[test]
fn a_device_that_cannot_be_made_is_told_of() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let state = machine
        .configure(&[
            ("vlan", "vlan5:eth7"),
            ("ifname", "uplink:02:00:00:00:00:99"),
            ("ip", "10.9.0.5::10.9.0.1:24::eth0:none"),
            ("rd.net.timeout.iflink", "1"),
        ])
        .unwrap();
    let failures: Vec<_> = state.failures().iter().map(ToString::to_string).collect();
    let expected = ["with address 02:00:00:00:00:99", "eth7"];
    assert_eq!(failures, expected.map(|what| format!("no network device {what} has appeared")));
}

#[test]
fn waiting_ends_and_says_what_was_missing() {
    let (machine, deaf) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &deaf, "10.8.0.1/24");
    machine.host.ip("link add eth1 type veth peer name unplugged");
    let before = machine.snapshot();
    for (ip, expected) in [
        ("eth0:dhcp", "no DHCP server has given eth0 an address within 1 s"),
        ("eth1:dhcp", "no carrier on eth1 after 1 s: is a cable plugged in?"),
        ("10.0.0.5::10.0.0.1:24::eth1:off", "no carrier on eth1 after 1 s: is a cable plugged in?"),
        ("eth7:dhcp", "no network device eth7 has appeared"),
        ("eth0:auto6", "no IPv6 router has given eth0 an address within 1 s"),
    ] {
        let timeouts = ["dhcp", "carrier", "iflink", "ipv6auto"].map(|what| format!("rd.net.timeout.{what}"));
        let timeouts = timeouts.each_ref().map(|key| (key.as_str(), "1"));
        let started = Instant::now();
        let error = machine.configure(&[&[("ip", ip)], &timeouts[..]].concat()).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(started.elapsed() < Duration::from_secs(10), "{ip}");
        machine.assert_unchanged(&before);
    }
}

#[test]
fn a_link_that_fails_does_not_hinder_the_others() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let state = machine
        .configure(&[
            ("ip", "eth9:dhcp"),
            ("ip", "10.9.0.5::10.9.0.1:24::eth0:none"),
            ("ip", "eth8:off"),
            ("rd.net.timeout.iflink", "1"),
        ])
        .unwrap();
    assert_eq!(state.links()[0].to_string(), "eth0: 10.9.0.5/24 via 10.9.0.1");
    let failures: Vec<_> = state.failures().iter().map(ToString::to_string).collect();
    assert_eq!(failures, ["no network device eth9 has appeared"]);
}

#[test]
fn addresses_and_routes_of_the_command_line_are_set() {
    for (parameters, addresses, gateways) in [
        (&[("ip", "10.9.0.5::10.9.0.1:24::eth0:none")][..], "10.9.0.5/24", "0.0.0.0/0 via 10.9.0.1"),
        (&[("ip", "10.9.0.5::10.7.7.1:255.255.255.0::eth0:none")], "10.9.0.5/24", "0.0.0.0/0 via 10.7.7.1"),
        (&[("ip", "10.9.0.5:10.9.0.1:10.9.0.1:32:::none")], "10.9.0.5/32", "0.0.0.0/0 via 10.9.0.1"),
        (&[("ip", "[2001:db8::5]::[2001:db8::1]:64::eth0:none")], "2001:db8::5/64", "::/0 via 2001:db8::1"),
        (&[("ip", "[2001:db8::5]::[fe80::1]:64::eth0:none")], "2001:db8::5/64", "::/0 via fe80::1"),
        (
            &[
                ("ip", "10.9.0.5:::24::eth0:none"),
                ("rd.route", "10.5.0.0/16:10.9.0.7"),
                ("rd.route", "10.6.0.0/16:10.7.0.1:eth0"),
            ],
            "10.9.0.5/24",
            "10.5.0.0/16 via 10.9.0.7, 10.6.0.0/16 via 10.7.0.1",
        ),
    ] {
        let (machine, lan) = (Machine::new(), Host::new());
        cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
        let before = machine.snapshot();
        let state = machine.configure(parameters).unwrap_or_else(|error| panic!("{parameters:?}: {error:?}"));
        let after = machine.snapshot();
        assert_eq!(after.addresses("eth0").join(", "), addresses, "{parameters:?}");
        assert_eq!(after.gateways("eth0").join(", "), gateways, "{parameters:?}");
        machine.take_down(state, &before);
    }
}

#[test]
fn a_route_that_leads_nowhere_is_refused() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let before = machine.snapshot();
    let parameters = [("ip", "10.9.0.5:::24::eth0:none"), ("rd.route", "10.5.0.0/16:10.1.0.7")];
    let error = machine.configure(&parameters).unwrap_err().to_string();
    assert!(error.starts_with("the route to 10.5.0.0/16 names no device"), "{error}");
    machine.assert_unchanged(&before);
}

#[test]
fn mtu_and_hardware_address_are_set_before_the_link_goes_up() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let _server = DhcpServer::start(&lan, Manners::Polite);
    let before = machine.snapshot();
    let state = machine.configure(&[("ip", "eth0:dhcp:1300:52:54:00:12:34:56")]).unwrap();
    let after = machine.snapshot();
    assert_eq!(after.link("eth0").mac, Some(MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
    // The command line has the last word over the server's 1400.
    assert_eq!(after.link("eth0").mtu, 1300);
    machine.take_down(state, &before);
}

#[test]
fn an_address_comes_from_an_ipv6_router() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let _router = advertise_router(&lan);
    let before = machine.snapshot();
    let state = machine.configure(&[("ip", "eth0:auto6"), ("nameserver", "2001:db8::53")]).unwrap();
    let [link] = state.links() else { panic!("{state:?}") };
    let IpAddr::V6(address) = link.address else { panic!("{link}") };
    assert_eq!((address.segments()[0], address.segments()[1], link.prefix), (0x2001, 0xdb8, 64));
    assert_eq!(link.gateway, Some("fe80::1".parse().unwrap()));
    // Those of the router come after that of the command line; fe80:: is of a link.
    let text = fs::read_to_string(machine.resolv_conf()).unwrap();
    let servers = "nameserver 2001:db8::53\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\n";
    assert_eq!(text, format!("{servers}{OPTIONS}"));
    machine.take_down(state, &before);
}

#[test]
fn an_address_that_another_machine_has_is_not_used() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    lan.ip("addr add 2001:db8::5/64 dev eth0 nodad");
    let before = machine.snapshot();
    let error = machine.configure(&[("ip", "[2001:db8::5]:::64::eth0:none")]).unwrap_err().to_string();
    assert!(error.starts_with("2001:db8::5 cannot be used on eth0"), "{error}");
    machine.assert_unchanged(&before);
}

#[test]
fn resolv_conf_comes_back_as_it_was() {
    let (machine, lan) = (Machine::new(), Host::new());
    cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
    let path = machine.resolv_conf();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/run/not/there", &path).unwrap();
    let parameters = [("ip", "10.9.0.5:::24::eth0:none:10.9.0.2"), ("nameserver", "10.9.0.1")];
    let state = machine.configure(&parameters).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("nameserver 10.9.0.1\nnameserver 10.9.0.2\n{OPTIONS}"));
    machine.host.run(move || state.take_down()).unwrap();
    assert_eq!(fs::read_link(&path).unwrap(), PathBuf::from("/run/not/there"));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

    // Without name servers the file is left alone.
    let state = machine.configure(&[("ip", "10.9.0.5:::24::eth0:none")]).unwrap();
    assert!(state.nameservers().is_empty());
    assert_eq!(fs::read_link(&path).unwrap(), PathBuf::from("/run/not/there"));
}

#[test]
fn a_time_server_is_believed_only_where_it_answers_the_question() {
    // 1 January 2026, in both eras.
    const SINCE_1970: u64 = 1_767_225_600;
    const SINCE_1900: u32 = (SINCE_1970 + 2_208_988_800) as u32;
    type Answers = fn(&[u8]) -> Vec<Vec<u8>>;
    let polite: Answers = |question| vec![time_answer(question, SINCE_1900 + 9)];
    let forged: Answers = |question| {
        let mut forged = time_answer(question, SINCE_1900 + 99_999);
        forged[24] ^= 1;
        vec![vec![], forged, question.to_vec(), time_answer(question, SINCE_1900 + 9)]
    };
    let refusing: Answers = |question| {
        let mut refusal = time_answer(question, SINCE_1900);
        refusal[1] = 0;
        refusal[12..16].copy_from_slice(b"DENY");
        vec![refusal]
    };
    let silent: Answers = |_| vec![];
    for (rule, answers, expected) in [
        ("polite", polite, Ok(SINCE_1970 + 9)),
        ("forged answers come first", forged, Ok(SINCE_1970 + 9)),
        ("refusing", refusing, Err("10.9.0.1:123 refuses to tell: DENY")),
        ("silent", silent, Err("no answer from 10.9.0.1")),
    ] {
        let (machine, lan) = (Machine::new(), Host::new());
        cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
        let _server = TimeServer::start(&lan, answers);
        machine.configure(&[("ip", "10.9.0.5:::24::eth0:none")]).unwrap();
        let time = machine.host.run(|| {
            let deadline = Instant::now() + Duration::from_secs(10);
            sntp::query("10.9.0.1", Duration::from_secs(SINCE_1970), deadline)
        });
        let time = time.map(|time| time.as_secs()).map_err(|error| error.to_string());
        match (time, expected) {
            // A busy machine may take a second for question and answer.
            (Ok(time), Ok(expected)) => assert!(expected <= time && time < expected + 10, "{rule}: {time}"),
            (time, expected) => assert_eq!(time, expected.map_err(str::to_owned), "{rule}"),
        }
    }
}

#[test]
fn names_are_found_by_udp_and_tcp_and_beyond_a_dead_server() {
    for (rule, servers, datagrams) in [
        ("one server", &["10.9.0.1"][..], Datagrams::Whole),
        ("cut answers", &["10.9.0.1"], Datagrams::Truncated),
        ("two dead servers first", &["10.9.0.8", "10.9.0.9", "10.9.0.1"], Datagrams::Whole),
    ] {
        let (machine, lan) = (Machine::new(), Host::new());
        cable(&machine.host, "eth0", &lan, "10.9.0.1/24");
        let server = NameServer::start(&lan, datagrams);
        let servers: Vec<_> = servers.iter().map(|server| ("nameserver", *server)).collect();
        machine.configure(&[&[("ip", "10.9.0.5::10.9.0.1:24::eth0:none")], &servers[..]].concat()).unwrap();
        for dead in ["10.9.0.8", "10.9.0.9"] {
            // Questions get lost, as behind a firewall.
            machine.host.ip(&format!("neigh add {dead} lladdr 02:00:00:00:00:08 dev eth0"));
        }
        let (resolv_conf, state) = (machine.resolv_conf(), machine.directory.path().join("state"));
        let output = machine.host.run(move || {
            let script = "mount --bind \"$1\" /etc/resolv.conf && exec \"$2\" pull --state \"$3\" registry.test:5000/a:b";
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script, "sh"]).arg(resolv_conf);
            command.arg(env!("CARGO_BIN_EXE_plywood")).arg(state).output().expect("network tests need unshare")
        });
        // Nobody listens there, which only who has found the address can know.
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("Connection refused"), "{rule}: {text}");
        assert_eq!(server.was_asked_by_tcp(), datagrams == Datagrams::Truncated, "{rule}");
    }
}
