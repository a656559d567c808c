//! What is under HTTP when it is not as it should be: versions and algorithms
//! of TLS that are no more, and handshakes that never end.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use plywood::oci::registries::Tls;

use crate::stage::{Pair, Signing, Validity, certificate, certificate_with, openssl_ca};
use crate::{Bench, authorities};

/// `openssl s_server`, ended when dropped. It answers every request with a page.
struct Openssl {
    child: Child,
    port: u16,
}

impl Openssl {
    fn start(pair: &Pair, options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}")])
            .arg("-cert")
            .arg(&pair.certificate)
            .arg("-key")
            .arg(&pair.key)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().expect("cannot run openssl: install the package openssl");
        let mut server = Self { child, port };
        for _ in 0..500 {
            // Who has ended leaves its port to somebody else.
            if server.child.try_wait().unwrap().is_some() {
                break;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("openssl s_server {options:?} does not start")
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn only_secure_versions_and_algorithms_are_spoken() {
    const SECURE: &str = "`text/html` is not a manifest or index";
    const INSECURE: &str = "it has no version and cipher of TLS that is secure, that is from 1.2 on";
    let ca = openssl_ca();
    let pair = certificate(&ca, "IP:127.0.0.1", Validity::Now);
    let signed = |key, digest| {
        let signing = Signing { key: &["-newkey", key, "-nodes"], digest };
        certificate_with(&ca, "IP:127.0.0.1", Validity::Now, &signing)
    };
    let (rsa, weak_key, weak_hash) =
        (signed("rsa:2048", "sha256"), signed("rsa:1024", "sha256"), signed("rsa:2048", "sha1"));
    for (pair, options, says) in [
        (&pair, &["-tls1_3"][..], SECURE),
        (&pair, &["-tls1_2"], SECURE),
        (&pair, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], INSECURE),
        (&pair, &["-tls1", "-cipher", "ALL:@SECLEVEL=0"], INSECURE),
        (&pair, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "it refuses us: HandshakeFailure"),
        (&rsa, &["-cipher", "ALL:@SECLEVEL=0"], SECURE),
        (&weak_key, &["-cipher", "ALL:@SECLEVEL=0"], "its certificate is not accepted"),
        (&weak_hash, &["-cipher", "ALL:@SECLEVEL=0"], "it is signed with an algorithm that is not secure"),
    ] {
        let server = Openssl::start(pair, options);
        let authority = format!("127.0.0.1:{}", server.port);
        let tls = Tls { ca: Some(authorities(&ca)), ..Tls::default() };
        let bench = Bench::new(&format!("https://{authority}")).with_tls(&authority, tls);
        let error = bench.fetch("registry.test/tools:v1", "amd64").unwrap_err();
        assert!(error.contains(says), "{options:?}: {error}");
    }
}

#[test]
fn a_handshake_that_never_ends_is_given_up() {
    for greeting in [&b""[..], b"\x16\x03\x03\x40\x00\x02"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().flatten() {
                stream.write_all(greeting).unwrap();
                open.push(stream);
            }
        });
        let mut bench = Bench::new(&format!("https://{address}"));
        bench.network.timeouts.connect = Duration::from_millis(300);
        bench.network.timeouts.backoff = Duration::from_millis(10);
        let started = Instant::now();
        let error = bench.fetch("registry.test/tools:v1", "amd64").unwrap_err();
        assert!(error.contains("timeout while connecting"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}
