//! Names: a resolver that says no, nothing, or an address where nobody is. In
//! a network namespace of their own, which needs root.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

use crate::fixture::{Bench, Registry};
use crate::server::Server;

/// What the name server does with a question.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Address,
    /// The same, but first an IPv6 address that leads nowhere.
    BlackholeFirst,
    Late,
    NoSuchName,
    ServerFailure,
    Garbage,
    Nothing,
}

/// Runs `work` in a namespace that has only loopback, a blackhole for
/// 2001:db8::/64, and `nameserver` to resolve names.
fn in_namespace<T: Send>(nameservers: &str, work: impl FnOnce() -> T + Send) -> T {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    };
    let resolv_conf = file("resolv.conf", &format!("{nameservers}options timeout:1 attempts:2\n"));
    let hosts = file("hosts", "127.0.0.1 localhost\n");
    let nsswitch = file("nsswitch.conf", "hosts: files dns\n");
    let enter = move || {
        let namespaces = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
        #[expect(deprecated, reason = "only unsharing descriptors is unsound, and these stay shared")]
        rustix::thread::unshare(namespaces).expect("tests of names make namespaces, which needs root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        for (from, to) in
            [(&resolv_conf, "/etc/resolv.conf"), (&hosts, "/etc/hosts"), (&nsswitch, "/etc/nsswitch.conf")]
        {
            mount_bind(from, fs::canonicalize(to).unwrap()).unwrap();
        }
        for arguments in [
            "link set lo up",
            "link add blackhole type veth peer name other",
            "link set other up",
            "link set blackhole up",
            "address add 2001:db8::2/64 dev blackhole nodad",
            "neighbour add 2001:db8::1 lladdr 02:00:00:00:00:01 dev blackhole nud permanent",
        ] {
            let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        }
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Answers every question on 127.0.0.1 until the namespace is gone.
fn serve_names(answer: Answer) {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            if let Some(reply) = reply(&question[..length], answer) {
                socket.send_to(&reply, from).unwrap();
            }
        }
    });
}

/// RFC 1035, 4.1: the question again, with flags and at most one answer.
fn reply(question: &[u8], answer: Answer) -> Option<Vec<u8>> {
    const AAAA: u8 = 28;
    let kind = question[question.len() - 3];
    let record: &[u8] = match (answer, kind) {
        (Answer::Late, 1) => {
            thread::sleep(Duration::from_millis(300));
            &[127, 0, 0, 1]
        }
        (Answer::Address | Answer::BlackholeFirst, 1) => &[127, 0, 0, 1],
        (Answer::BlackholeFirst, AAAA) => &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        (Answer::Nothing, _) => return None,
        (Answer::Garbage, _) => return Some(vec![0xff; 3]),
        _ => &[],
    };
    let code = match answer {
        Answer::NoSuchName => 3,
        Answer::ServerFailure => 2,
        _ => 0,
    };
    let mut reply = question.to_vec();
    reply[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::from(!record.is_empty()), 0, 0, 0, 0]);
    if !record.is_empty() {
        reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, record.len() as u8]);
        reply.extend(record);
    }
    Some(reply)
}

#[test]
fn names_that_do_not_resolve_end_in_time() {
    const ONE: &str = "nameserver 127.0.0.1\n";
    const SECOND_WORKS: &str = "nameserver 127.0.0.9\nnameserver 127.0.0.1\n";
    for (answer, nameservers, says) in [
        (Answer::Address, ONE, None),
        (Answer::Address, SECOND_WORKS, None),
        (Answer::Late, ONE, None),
        (Answer::BlackholeFirst, ONE, None),
        (Answer::NoSuchName, ONE, Some("its host name was not found: Name or service not known")),
        (
            Answer::ServerFailure,
            ONE,
            Some("its host name was not found: Temporary failure in name resolution"),
        ),
        (Answer::Garbage, ONE, Some("its host name")),
        (Answer::Nothing, ONE, Some("its host name")),
    ] {
        let (result, elapsed) = in_namespace(nameservers, move || {
            serve_names(answer);
            let registry = Registry::with_image(2);
            let server = Server::start(move |request| registry.answer(request));
            let port = server.authority().rsplit(':').next().unwrap().to_string();
            let mut bench = Bench::new(&[format!("http://registry.test:{port}")]);
            bench.network.timeouts.connect = Duration::from_secs(2);
            bench.network.timeouts.total = Duration::from_secs(15);
            let started = Instant::now();
            (bench.fetch(":v1").map(drop), started.elapsed())
        });
        match (&result, says) {
            (Ok(()), None) => {}
            (Err(error), Some(says)) => assert!(error.contains(says), "{answer:?}: {error}"),
            _ => panic!("{answer:?}: {result:?}"),
        }
        assert!(elapsed < Duration::from_secs(20), "{answer:?}: {elapsed:?}");
    }
}
