//! The forms of the parameters, each with what is wrong about others.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What is read of parameters that are all right.
fn parse(parameters: &[(&str, &str)]) -> Requests {
    let (requests, errors) = Requests::parse(parameters);
    assert_eq!(errors, [], "{parameters:?}");
    requests
}

fn request(device: &str, method: Method) -> IpRequest {
    let device = Some(device.to_owned()).filter(|device| !device.is_empty());
    IpRequest { device, method, ..IpRequest::dhcp() }
}

fn fixed(address: &str, prefix: u8, gateway: &str) -> Method {
    let gateway = Some(gateway).filter(|text| !text.is_empty()).map(ip);
    Method::Static(StaticAddress { address: ip(address), prefix, peer: None, gateway })
}

#[test]
fn ip_in_all_its_forms() {
    let mac = Some(MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    let dns = |servers: &[&str]| servers.iter().map(|text| ip(text)).collect::<Vec<_>>();
    let peer = StaticAddress {
        address: ip("10.0.0.5"),
        prefix: 32,
        peer: Some(ip("10.9.9.1")),
        gateway: Some(ip("10.9.9.1")),
    };
    for (value, expected) in [
        ("dhcp", request("", Method::Dhcp)),
        ("on", request("", Method::Dhcp)),
        ("any", request("", Method::Dhcp)),
        ("single-dhcp", request("", Method::Dhcp)),
        ("auto6", request("", Method::Auto6)),
        ("either6", request("", Method::Auto6)),
        ("off", request("", Method::Off)),
        ("none", request("", Method::Off)),
        ("", request("", Method::Off)),
        ("eth0:dhcp", request("eth0", Method::Dhcp)),
        ("eth0:off", request("eth0", Method::Off)),
        ("enp0s3:auto6", request("enp0s3", Method::Auto6)),
        ("eth0.5:on:1400", IpRequest { mtu: Some(1400), ..request("eth0.5", Method::Dhcp) }),
        ("eth0:any::52:54:00:12:34:56", IpRequest { mac, ..request("eth0", Method::Dhcp) }),
        (
            "eth0:dhcp:9000:52:54:00:12:34:56",
            IpRequest { mtu: Some(9000), mac, ..request("eth0", Method::Dhcp) },
        ),
        ("10.0.0.5", request("", fixed("10.0.0.5", 8, ""))),
        ("192.168.7.5::192.168.7.1", request("", fixed("192.168.7.5", 24, "192.168.7.1"))),
        ("10.0.0.5::10.0.0.1:255.255.255.0::eth0:off", request("eth0", fixed("10.0.0.5", 24, "10.0.0.1"))),
        ("10.0.0.5::10.0.0.1:24::eth0:none", request("eth0", fixed("10.0.0.5", 24, "10.0.0.1"))),
        ("10.0.0.5:::16::eth0:static", request("eth0", fixed("10.0.0.5", 16, ""))),
        (
            "10.0.0.5::10.0.0.1:24:node-1:eth0:none:10.0.0.2:10.0.0.3:10.0.0.4",
            IpRequest {
                hostname: Some("node-1".into()),
                nameservers: dns(&["10.0.0.2", "10.0.0.3"]),
                ..request("eth0", fixed("10.0.0.5", 24, "10.0.0.1"))
            },
        ),
        (
            "10.0.0.5::10.0.0.1:24::eth0:none::10.0.0.3",
            IpRequest {
                nameservers: dns(&["10.0.0.3"]),
                ..request("eth0", fixed("10.0.0.5", 24, "10.0.0.1"))
            },
        ),
        (
            "10.0.0.5::10.0.0.1:24::eth0:none:1400:52:54:00:12:34:56",
            IpRequest { mtu: Some(1400), mac, ..request("eth0", fixed("10.0.0.5", 24, "10.0.0.1")) },
        ),
        (
            "10.0.0.5::10.0.0.1:24::eth0:none::52:54:00:12:34:56",
            IpRequest { mac, ..request("eth0", fixed("10.0.0.5", 24, "10.0.0.1")) },
        ),
        (
            "[2001:db8::5]::[2001:db8::1]:64::eth0:none",
            request("eth0", fixed("2001:db8::5", 64, "2001:db8::1")),
        ),
        // The kernel's second field, a server that is not on the link.
        ("10.0.0.5:10.9.9.9:10.0.0.1:24::eth0:off", request("eth0", fixed("10.0.0.5", 24, "10.0.0.1"))),
        ("10.0.0.5:10.9.9.1:10.9.9.1:32::eth0:off", request("eth0", Method::Static(peer))),
        (
            "::::node-1:eth0:dhcp",
            IpRequest { hostname: Some("node-1".into()), ..request("eth0", Method::Dhcp) },
        ),
        (":::::eth0", request("eth0", Method::Dhcp)),
        ("10.0.0.5::10.0.0.1:24::eth0:dhcp", request("eth0", Method::Dhcp)),
        ("::::::off", request("", Method::Off)),
    ] {
        assert_eq!(parse(&[("ip", value)]).interfaces, [expected], "ip={value}");
    }
}

#[test]
fn other_parameters_of_the_network() {
    let requests = parse(&[
        ("quiet", ""),
        ("nameserver", "10.0.0.2"),
        ("nameserver", "[2001:db8::2]"),
        ("nameserver", "2001:db8::3"),
        ("rd.route", "192.168.200.9/24:192.168.100.222:ens10"),
        ("rd.route", "192.168.201.0/24:192.168.100.222"),
        ("rd.route", "192.168.202.0/255.255.255.0::ens10"),
        ("rd.route", "[2001:db8:3::/48]:[2001:db8:2::1]:ens10"),
        ("BOOTIF", "01-52-54-00-12-34-56"),
        ("ifname", "lan:52:54:00:12:34:56"),
        ("vlan", "vlan0005:eth0"),
        ("rd.neednet", "1"),
        ("rd.peerdns", "1"),
        ("rd.net.dhcp.retry", "2"),
        ("rd.net.timeout.dhcp", "5"),
        ("rd.net.timeout.carrier", "7"),
        ("rd.net.timeout.iflink", "8"),
        ("rd.net.timeout.ipv6auto", "9"),
        ("rd.net.timeout.ipv6dad", "11"),
        ("rd.net.timeout.route", "12"),
    ]);
    let mac = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    let seconds = Duration::from_secs;
    let route = |destination: &str, prefix, gateway: &str, device: &str| RouteRequest {
        destination: ip(destination),
        prefix,
        gateway: Some(gateway).filter(|text| !text.is_empty()).map(ip),
        device: Some(device.to_owned()).filter(|text| !text.is_empty()),
    };
    let expected = Requests {
        interfaces: vec![],
        nameservers: vec![ip("10.0.0.2"), ip("2001:db8::2"), ip("2001:db8::3")],
        routes: vec![
            route("192.168.200.0", 24, "192.168.100.222", "ens10"),
            route("192.168.201.0", 24, "192.168.100.222", ""),
            route("192.168.202.0", 24, "", "ens10"),
            route("2001:db8:3::", 48, "2001:db8:2::1", "ens10"),
        ],
        boot_device: Some(BootDevice::Address(mac)),
        peer_nameservers: PeerNameservers::Use,
        renames: vec![Rename { name: "lan".into(), mac }],
        bonds: vec![],
        vlans: vec![VlanRequest { name: "vlan0005".into(), id: 5, device: "eth0".into() }],
        timeouts: Timeouts {
            dhcp: seconds(10),
            carrier: seconds(7),
            device: seconds(8),
            router: seconds(9),
            duplicates: seconds(11),
        },
    };
    assert_eq!(requests, expected);
    assert_eq!(parse(&[("BOOTIF", "52:54:00:12:34:56")]).boot_device, expected.boot_device);
    assert_eq!(parse(&[("rd.bootif", "0"), ("BOOTIF", "52:54:00:12:34:56")]).boot_device, None);
    assert_eq!(parse(&[("rd.peerdns", "0")]).peer_nameservers, PeerNameservers::Ignore);
    assert_eq!(parse(&[("rd.net.timeout.ifup", "7")]).timeouts.carrier, seconds(7));
}

#[test]
fn the_request_for_the_boot_device_comes_first() {
    for (parameter, expected) in [
        (("bootdev", "eth1"), ["eth1", "eth0", "eth2"]),
        (("bootdev", "eth7"), ["eth0", "eth1", "eth2"]),
        (("BOOTIF", "52:54:00:12:34:56"), ["eth0", "eth1", "eth2"]),
    ] {
        let requests = parse(&[parameter, ("ip", "eth0:dhcp"), ("ip", "eth1:dhcp"), ("ip", "eth2:dhcp")]);
        let order: Vec<_> = requests.interfaces.iter().filter_map(|one| one.device.as_deref()).collect();
        assert_eq!(order, expected, "{parameter:?}");
    }
}

#[test]
fn devices_name_the_modules_that_they_need() {
    for (parameters, expected) in [
        (&[("ip", "dhcp")][..], &[][..]),
        (&[("vlan", "vlan5:eth0")], &[("8021q", "")]),
        (&[("vlan", "vlan5:bond0"), ("bond", "bond0:eth0")], &[("bonding", "max_bonds=0"), ("8021q", "")]),
    ] {
        assert_eq!(parse(parameters).modules().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_vlan_has_its_number_at_the_end_of_its_name() {
    for (name, id) in [
        ("vlan5", Some(5)),
        ("vlan0005", Some(5)),
        ("eth0.5", Some(5)),
        ("eth0.0005", Some(5)),
        ("v4094", Some(4094)),
    ] {
        let requests = parse(&[("vlan", &format!("{name}:eth0"))]);
        assert_eq!(requests.vlans.first().map(|vlan| vlan.id), id, "{name}");
    }
}

#[test]
fn errors_quote_the_parameter_and_what_is_wrong_in_it() {
    for (key, value, expected) in [
        ("ip", "dhcp6", "`dhcp6` is not one of dhcp, on, any, auto6, off, none, static"),
        ("ip", "eth0", "`eth0` is not one of dhcp, on, any, auto6, off, none, static"),
        ("ip", "eth0:sometimes", "`sometimes` is not one of dhcp, on, any, auto6, off, none, static"),
        ("ip", "name-that-is-too-long:dhcp", "`name-that-is-too-long` is not the name of a network device"),
        ("ip", "../eth0:dhcp", "`../eth0` is not the name of a network device"),
        ("ip", "eth0:dhcp:many", "`many` is not an MTU"),
        ("ip", "eth0:dhcp::52:54", "`52:54` is not an Ethernet address"),
        ("ip", "300.0.0.5:::24::eth0:off", "`300.0.0.5` is not an IP address"),
        ("ip", "10.0.0.5::10.0.0:24::eth0:off", "`10.0.0` is not an IP address"),
        ("ip", "10.0.0.5::10.0.0.1:33::eth0:off", "`33` is not a netmask or prefix length"),
        ("ip", "10.0.0.5::10.0.0.1:255.0.255.0::eth0:off", "`255.0.255.0` is not a netmask or prefix length"),
        (
            "ip",
            "10.0.0.5::[2001:db8::1]:24::eth0:off",
            "`[2001:db8::1]` is not an address of the same family as the machine's",
        ),
        ("ip", "10.0.0.5::10.0.0.1:24:no de:eth0:off", "`no de` is not a host name"),
        ("ip", "10.0.0.5::10.0.0.1:24::eth0:off:dns", "`dns` is not an IP address"),
        ("ip", "224.0.0.5:::24::eth0:off", "`224.0.0.5` is not an IP address"),
        ("ip", "[2001:db8::5]::[2001:db8::1]:::eth0:off", "the prefix length is missing"),
        ("ip", "[2001:db8::5]:::129::eth0:off", "`129` is not a netmask or prefix length"),
        ("nameserver", "dns.lan", "`dns.lan` is not an IP address"),
        ("nameserver", "", "`` is not an IP address"),
        ("rd.route", "10.0.0.0/8", "the gateway or the device is missing"),
        ("rd.route", "10.0.0.0:10.0.0.1", "`10.0.0.0` is not a network and its prefix"),
        ("rd.route", "10.0.0.0/8:1:2:3", "`10.0.0.0/8:1:2:3` is not NET/PREFIX:[GATEWAY][:DEVICE]"),
        (
            "rd.route",
            "10.0.0.0/8:[2001:db8::1]",
            "`10.0.0.0/8:[2001:db8::1]` is not a route whose gateway is of the same family as its network",
        ),
        ("BOOTIF", "01-52-54", "`01-52-54` is not an Ethernet address"),
        ("rd.net.timeout.dhcp", "soon", "`soon` is not a number of seconds"),
        ("rd.net.timeout.carrier", "-1", "`-1` is not a number of seconds"),
        ("rd.net.timeout.route", "soon", "`soon` is not a number of seconds"),
        ("rd.net.dhcp.retry", "0", "`0` is not a number of tries from 1 on"),
        ("rd.peerdns", "maybe", "`maybe` is not 0 or 1"),
        ("bootdev", "", "`` is not the name of a network device"),
        ("ifname", "lan", "`lan` is not NAME:MAC"),
        ("ifname", "lan:52:54", "`52:54` is not an Ethernet address"),
        ("ifname", "a/b:52:54:00:12:34:56", "`a/b` is not the name of a network device"),
        ("vlan", "vlan5", "`vlan5` is not NAME:DEVICE"),
        ("vlan", "vlan:eth0", "`vlan` is not a name that ends in a VLAN number from 1 to 4094"),
        ("vlan", "vlan0:eth0", "`vlan0` is not a name that ends in a VLAN number from 1 to 4094"),
        ("vlan", "vlan4095:eth0", "`vlan4095` is not a name that ends in a VLAN number from 1 to 4094"),
        ("bridge", "br0:eth0", "not supported"),
        ("team", "team0:eth0", "not supported"),
    ] {
        // The others are not hindered by it.
        let (requests, errors) = Requests::parse(&[("nameserver", "10.0.0.2"), (key, value)]);
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, [format!("kernel parameter `{key}={value}`: {expected}")]);
        assert_eq!(requests, parse(&[("nameserver", "10.0.0.2")]));
    }
    let twice = [("ip", "eth0:dhcp"), ("ip", "eth1:dhcp"), ("ip", "::::h:eth0:off")];
    let (requests, errors) = Requests::parse(&twice);
    assert_eq!(
        errors[0].to_string(),
        "kernel parameter `ip=::::h:eth0:off`: another one is for the same device"
    );
    assert_eq!(requests, parse(&twice[..2]));
}

#[test]
fn bits_behind_a_prefix_are_cleared() {
    for (address, prefix, expected) in [
        ("10.1.2.3", 24, "10.1.2.0"),
        ("10.1.2.3", 0, "0.0.0.0"),
        ("10.1.2.3", 32, "10.1.2.3"),
        ("2001:db8:1::5", 32, "2001:db8::"),
        ("2001:db8:1::5", 0, "::"),
    ] {
        assert_eq!(masked(ip(address), prefix), ip(expected));
    }
}
