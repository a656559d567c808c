//! Rules of reading DHCP messages, each with a bad one, and mutated ones.

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const XID: u32 = 0xdead_beef;

/// A reply of this type to this client: 10.0.0.9 from 10.0.0.1, without end option.
pub fn reply(xid: u32, mac: [u8; 6], kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; OPTIONS];
    bytes[..3].copy_from_slice(&[BOOT_REPLY, ETHERNET, 6]);
    bytes[4..8].copy_from_slice(&xid.to_be_bytes());
    bytes[16..20].copy_from_slice(&[10, 0, 0, 9]);
    bytes[28..34].copy_from_slice(&mac);
    bytes[236..240].copy_from_slice(&MAGIC_COOKIE);
    with_option(bytes, option::MESSAGE_TYPE, &[kind])
}

pub fn with_option(mut message: Vec<u8>, code: u8, value: &[u8]) -> Vec<u8> {
    message.extend([code, value.len() as u8]);
    message.extend(value);
    message
}

fn identity() -> Identity {
    Identity { xid: XID, mac: MAC, hostname: None }
}

/// The lease of an acknowledgement with these options besides type and server.
fn lease(options: &[(u8, &[u8])]) -> Result<Lease, MessageError> {
    let message = with_option(reply(XID, MAC, 5), option::SERVER_IDENTIFIER, &[10, 0, 0, 1]);
    let message = options.iter().fold(message, |message, (code, value)| with_option(message, *code, value));
    match identity().parse(&message)? {
        Reply::Ack(lease) => Ok(lease),
        other => panic!("{other:?}"),
    }
}

fn route(destination: [u8; 4], prefix: u8, gateway: [u8; 4]) -> Route {
    let gateway = Some(Ipv4Addr::from(gateway)).filter(|gateway| !gateway.is_unspecified());
    Route { destination: destination.into(), prefix, gateway }
}

#[test]
fn questions_have_the_fields_that_servers_look_at() {
    let identity = Identity { xid: XID, mac: MAC, hostname: Some("node-1".into()) };
    let request = Question::Request { address: [10, 0, 0, 9].into(), server: [10, 0, 0, 1].into() };
    for (question, kind, asks) in [(Question::Discover, 1, None), (request, 3, Some(&[10, 0, 0, 9][..]))] {
        let message = identity.message(question, Duration::from_secs(70_000));
        assert!(message.len() >= MIN_LENGTH && message.len() <= usize::from(MAX_LENGTH));
        assert_eq!(message[..8], [1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(message[8..12], [0xff, 0xff, 0x80, 0]);
        assert_eq!(message[28..34], MAC);
        let options = Options::parse(&message).unwrap();
        for (code, value) in [
            (option::MESSAGE_TYPE, Some(&[kind][..])),
            (option::REQUESTED_ADDRESS, asks),
            (option::CLIENT_IDENTIFIER, Some(&[1, 2, 0, 0, 0, 0, 1])),
            (option::HOST_NAME, Some(b"node-1")),
            (option::PARAMETER_LIST, Some(&WANTED)),
        ] {
            assert_eq!(options.get(code), value, "option {code}");
        }
    }
}

#[test]
fn a_reply_must_be_one_and_for_us() {
    let good = || with_option(reply(XID, MAC, 2), option::SERVER_IDENTIFIER, &[10, 0, 0, 1]);
    let changed = |place: usize, value: u8| {
        let mut message = good();
        message[place] = value;
        message
    };
    assert!(matches!(identity().parse(&good()), Ok(Reply::Offer(_))));
    for (message, expected) in [
        (vec![], MessageError::Short),
        (good()[..239].to_vec(), MessageError::Short),
        (changed(0, BOOT_REQUEST), MessageError::NotReply),
        (changed(1, 6), MessageError::NotReply),
        (changed(2, 16), MessageError::NotReply),
        (changed(236, 0), MessageError::NotReply),
        (changed(7, 0), MessageError::NotOurs),
        (changed(33, 2), MessageError::NotOurs),
        (good()[..240].to_vec(), MessageError::Option { code: 53 }),
        (good()[..241].to_vec(), MessageError::Option { code: 53 }),
        (good()[..242].to_vec(), MessageError::Option { code: 53 }),
        (changed(242, 1), MessageError::Type { kind: 1 }),
        (reply(XID, MAC, 2), MessageError::Option { code: 54 }),
        (changed(244, 200), MessageError::Option { code: 54 }),
        (changed(16, 0), MessageError::Address { what: "address", address: [0, 0, 0, 9].into() }),
        (changed(16, 127), MessageError::Address { what: "address", address: [127, 0, 0, 9].into() }),
        (changed(16, 224), MessageError::Address { what: "address", address: [224, 0, 0, 9].into() }),
        (changed(245, 255), MessageError::Address { what: "server", address: [255, 0, 0, 1].into() }),
    ] {
        assert_eq!(identity().parse(&message), Err(expected));
    }
}

#[test]
fn a_lease_has_what_the_options_say() {
    let plain = lease(&[]).unwrap();
    let expected = Lease {
        address: [10, 0, 0, 9].into(),
        prefix: 8,
        routes: vec![],
        nameservers: vec![],
        domain: None,
        hostname: None,
        mtu: None,
        duration: None,
        server: [10, 0, 0, 1].into(),
    };
    assert_eq!(plain, expected);
    let full = lease(&[
        (option::PAD, b""),
        (option::SUBNET_MASK, &[255, 255, 255, 128]),
        (option::ROUTER, &[10, 0, 0, 1, 10, 0, 0, 2]),
        (option::DOMAIN_NAME_SERVER, &[10, 0, 0, 3, 0, 0, 0, 0, 10, 0, 0, 4]),
        (option::DOMAIN_NAME, b"lan.example.\0"),
        (option::HOST_NAME, b"node-1"),
        (option::INTERFACE_MTU, &[0x05, 0xaa]),
        (option::LEASE_TIME, &[0, 0, 0x0e, 0x10]),
        (77, b"unknown"),
    ]);
    let expected = Lease {
        prefix: 25,
        routes: vec![route([0; 4], 0, [10, 0, 0, 1])],
        nameservers: vec![[10, 0, 0, 3].into(), [10, 0, 0, 4].into()],
        domain: Some("lan.example".into()),
        hostname: Some("node-1".into()),
        mtu: Some(1450),
        duration: Some(Duration::from_secs(3600)),
        ..expected
    };
    assert_eq!(full.unwrap(), expected);
}

#[test]
fn options_that_make_no_sense_are_refused_or_left_out() {
    for (code, value, expected) in [
        (
            option::SUBNET_MASK,
            &[255, 0, 255, 0][..],
            Err(MessageError::Mask { mask: [255, 0, 255, 0].into() }),
        ),
        (option::SUBNET_MASK, &[0; 4], Err(MessageError::Mask { mask: [0; 4].into() })),
        (option::SUBNET_MASK, &[255; 3], Err(MessageError::Option { code: 1 })),
        (option::ROUTER, &[10, 0, 0], Err(MessageError::Option { code: 3 })),
        (option::DOMAIN_NAME_SERVER, &[10, 0, 0, 1, 5], Err(MessageError::Option { code: 6 })),
        (
            option::CLASSLESS_ROUTES,
            &[33, 1, 2, 3, 4, 5, 10, 0, 0, 1],
            Err(MessageError::Option { code: 121 }),
        ),
        (option::CLASSLESS_ROUTES, &[24, 10, 0, 0, 10, 0, 0], Err(MessageError::Option { code: 121 })),
        (option::CLASSLESS_ROUTES, &[24, 10], Err(MessageError::Option { code: 121 })),
        (option::ROUTER, &[224, 0, 0, 1], Ok(())),
        (option::CLASSLESS_ROUTES, &[0, 127, 0, 0, 1], Ok(())),
        (option::DOMAIN_NAME, b"two\nnameserver 6.6.6.6", Ok(())),
        (option::DOMAIN_NAME, b"two words", Ok(())),
        (option::DOMAIN_NAME, b"a..b", Ok(())),
        (option::DOMAIN_NAME, b"-x", Ok(())),
        (option::DOMAIN_NAME, b"\xff", Ok(())),
        (option::DOMAIN_NAME, &[b'a'; 64], Ok(())),
        (option::DOMAIN_NAME, b"", Ok(())),
        (option::DOMAIN_NAME, b"\0", Ok(())),
        (option::HOST_NAME, b"$(reboot)", Ok(())),
        (option::INTERFACE_MTU, &[0, 68], Ok(())),
        (option::INTERFACE_MTU, &[5], Ok(())),
        (option::LEASE_TIME, &[255; 4], Ok(())),
    ] {
        assert_eq!(lease(&[(code, value)]), expected.and_then(|()| lease(&[])), "option {code} {value:?}");
    }
}

#[test]
fn classless_routes_replace_routers() {
    for (value, expected) in [
        (&[][..], vec![]),
        (&[0, 10, 0, 0, 2], vec![route([0; 4], 0, [10, 0, 0, 2])]),
        (&[24, 192, 168, 5, 10, 0, 0, 3], vec![route([192, 168, 5, 0], 24, [10, 0, 0, 3])]),
        (&[20, 172, 16, 0xff, 10, 0, 0, 3], vec![route([172, 16, 0xf0, 0], 20, [10, 0, 0, 3])]),
        (
            &[32, 169, 254, 169, 254, 0, 0, 0, 0, 0, 10, 0, 0, 2],
            vec![route([169, 254, 169, 254], 32, [0; 4]), route([0; 4], 0, [10, 0, 0, 2])],
        ),
    ] {
        let lease = lease(&[(option::ROUTER, &[10, 0, 0, 1]), (option::CLASSLESS_ROUTES, value)]);
        assert_eq!(lease.unwrap().routes, expected);
    }
}

#[test]
fn options_are_put_together_from_pieces_and_other_fields() {
    let pieces = lease(&[(option::DOMAIN_NAME, b"lan."), (option::DOMAIN_NAME, b"example")]);
    assert_eq!(pieces.unwrap().domain.as_deref(), Some("lan.example"));

    for (overload, domain, hostname) in [
        (None, None, None),
        (Some(1), Some("f"), None),
        (Some(2), None, Some("s")),
        (Some(3), Some("f"), Some("s")),
    ] {
        let mut message = with_option(reply(XID, MAC, 5), option::SERVER_IDENTIFIER, &[10, 0, 0, 1]);
        message[FILE.start..][..4].copy_from_slice(&[option::DOMAIN_NAME, 1, b'f', option::END]);
        message[SNAME.start..][..4].copy_from_slice(&[option::HOST_NAME, 1, b's', option::END]);
        if let Some(overload) = overload {
            message = with_option(message, option::OVERLOAD, &[overload]);
        }
        message.extend([option::END, option::DOMAIN_NAME, 200]);
        let Reply::Ack(lease) = identity().parse(&message).unwrap() else { panic!() };
        assert_eq!((lease.domain.as_deref(), lease.hostname.as_deref()), (domain, hostname));
    }
}

#[test]
fn masks_become_prefixes() {
    for (mask, expected) in [
        ([255, 255, 255, 255], Some(32)),
        ([255, 255, 255, 0], Some(24)),
        ([128, 0, 0, 0], Some(1)),
        ([0, 0, 0, 0], Some(0)),
        ([255, 0, 255, 0], None),
        ([0, 0, 0, 255], None),
    ] {
        assert_eq!(mask_prefix(mask.into()), expected);
    }
    for (address, expected) in [([10, 0, 0, 1], 8), ([172, 16, 0, 1], 16), ([192, 168, 0, 1], 24)] {
        assert_eq!(class_prefix(address.into()), expected);
    }
}

#[test]
fn mutated_replies_never_panic() {
    let mut message = with_option(reply(XID, MAC, 5), option::SERVER_IDENTIFIER, &[10, 0, 0, 1]);
    for (code, value) in [
        (option::SUBNET_MASK, &[255, 255, 255, 0][..]),
        (option::OVERLOAD, &[3]),
        (option::CLASSLESS_ROUTES, &[24, 192, 168, 5, 10, 0, 0, 3, 0, 10, 0, 0, 2]),
        (option::DOMAIN_NAME_SERVER, &[10, 0, 0, 3]),
        (option::DOMAIN_NAME, b"lan.example"),
        (option::INTERFACE_MTU, &[5, 0xdc]),
    ] {
        message = with_option(message, code, value);
    }
    message.push(option::END);
    let mut random: u64 = 0x2545_f491_4f6c_dd1d;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let mut accepted = 0;
    for _ in 0..200_000 {
        let mut mutant = message.clone();
        for _ in 0..next() % 4 {
            // Mostly options: what stands before them is checked byte by byte.
            let place =
                if next() % 8 == 0 { next() % OPTIONS } else { OPTIONS + next() % (mutant.len() - OPTIONS) };
            mutant[place] = next() as u8;
        }
        if next() % 4 == 0 {
            mutant.truncate(next() % mutant.len());
        }
        accepted += usize::from(identity().parse(&mutant).is_ok());
    }
    assert!(accepted > 1000, "the mutants are too wild to test much: {accepted}");
}
