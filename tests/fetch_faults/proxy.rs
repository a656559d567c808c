//! Fetching through a CONNECT proxy.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use plywood::oci::registries::Proxies;

use crate::fixture::Bench;
use crate::good;
use crate::server::{Reply, Server, nobody};

/// A proxy that lets everything through and remembers who asked for what.
/// Lives as long as the test program.
pub fn tunnel() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let log = log.clone();
            thread::spawn(move || pass_on(stream, &log));
        }
    });
    (address, seen)
}

fn pass_on(mut client: TcpStream, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head)?;
    }
    log.lock().unwrap().push(head.clone());
    let mut server = TcpStream::connect(head.split(' ').nth(1).unwrap_or_default())?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let mut to_server = server.try_clone()?;
    thread::spawn(move || io::copy(&mut reader, &mut to_server));
    io::copy(&mut server, &mut client).map(drop)
}

/// Proxies as the variables say.
fn proxies(url: &str, except: &str) -> Proxies {
    let mut proxies = Proxies::default();
    for (variable, value) in [("http_proxy", url), ("no_proxy", except)] {
        proxies.set(variable, value).unwrap();
    }
    proxies
}

#[test]
fn a_proxy_is_used_where_it_is_meant_and_told_its_own_password_only() {
    let server = good();
    let (address, seen) = tunnel();
    let url = format!("http://me:hidd%65n@{address}");
    let mut bench = Bench::new(&[server.url()]).with_password(&server.authority(), "right");
    bench.network.proxies = proxies(&url, "127.0.0.0/8");
    bench.fetch(":v1").unwrap();
    assert_eq!(seen.lock().unwrap().len(), 0);
    let mut bench = Bench::new(&[server.url()]).with_password(&server.authority(), "right");
    bench.network.proxies = proxies(&url, ".test");
    bench.fetch(":v1").unwrap();
    for head in seen.lock().unwrap().iter() {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with(&format!("connect {} ", server.authority())), "{head}");
        assert!(head.contains("proxy-authorization: basic bwu6aglkzgvu\r\n"), "{head}");
        assert!(!head.contains("\r\nauthorization:"), "{head}");
    }
    assert!(!seen.lock().unwrap().is_empty());
    for request in server.requests() {
        assert_eq!(request.header("proxy-authorization"), None);
    }
}

#[test]
fn a_proxy_that_refuses_is_named() {
    let server = good();
    for (status, says) in [
        (407, "does not help: it does not connect us: it wants another user or password (407)"),
        (403, "does not help: it does not connect us: it answers 403"),
    ] {
        let proxy = Server::start(move |_| Reply::new(status, ""));
        let mut bench = Bench::new(&[server.url()]);
        bench.network.proxies = proxies(&format!("http://me:hidden@{}", proxy.authority()), "");
        let error = bench.fetch(":v1").unwrap_err();
        assert!(error.contains(&format!("the proxy at {} {says}", proxy.authority())), "{error}");
        assert!(!error.contains("hidden"), "{error}");
        assert_eq!(proxy.requests().len(), 1);
    }
    let nobody = nobody();
    let mut bench = Bench::new(&[server.url()]);
    bench.network.proxies = proxies(&nobody, "");
    let error = bench.fetch(":v1").unwrap_err();
    assert!(
        error.contains(&format!("the proxy at {nobody} does not help: the connection failed")),
        "{error}"
    );
    assert_eq!(server.requests().len(), 0);
}
