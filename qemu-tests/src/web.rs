//! Servers on the host's loopback that are part of the test's own process. In:
//! files to serve, or nothing. Out: the URL that a guest uses, and what guests
//! asked for. Gone when dropped.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::registry::HOST_V4;

/// A server for plain HTTP.
pub struct Web(Server);

/// A proxy that connects guests with servers on the host (RFC 9110, 9.3.6).
pub struct Proxy(Server);

struct Server {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Web {
    /// Serves each file at its path, whatever the query says.
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let files: Vec<_> = files.iter().map(|(path, body)| ((*path).to_owned(), body.to_vec())).collect();
        Self(Server::start(move |mut stream, target| {
            let path = target.split('?').next().unwrap_or_default();
            let file = files.iter().find(|(name, _)| name == path);
            let (status, body) = file.map_or(("404 Not Found", &[][..]), |(_, body)| ("200 OK", body));
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body].concat())
        }))
    }

    /// What guests put before a path.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// The paths and queries that were asked for.
    pub fn heard(&self) -> Vec<String> {
        self.0.heard()
    }
}

impl Proxy {
    pub fn start() -> Self {
        Self(Server::start(|stream, target| {
            let port = target.rsplit(':').next().and_then(|port| port.parse().ok());
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port.unwrap_or(0)))?;
            let (mut from_guest, mut to_guest) = (stream.try_clone()?, stream);
            to_guest.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
            let (mut from_server, mut to_server) = (server.try_clone()?, server);
            let other = thread::spawn(move || {
                let result = io::copy(&mut from_server, &mut to_guest);
                // The guest may have gone first.
                let _ = to_guest.shutdown(Shutdown::Write);
                result
            });
            io::copy(&mut from_guest, &mut to_server)?;
            to_server.shutdown(Shutdown::Write)?;
            other.join().expect("copying does not panic").map(drop)
        }))
    }

    /// What guests write into `https_proxy`.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// The servers that guests wanted to be connected with.
    pub fn heard(&self) -> Vec<String> {
        self.0.heard()
    }
}

impl Server {
    fn start(answer: impl Fn(TcpStream, &str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap_or_else(|error| panic!("no free port on loopback: {error}"));
        let address =
            listener.local_addr().unwrap_or_else(|error| panic!("a server without address: {error}"));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (requests, ended, answer) = (heard.clone(), stop.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (requests, answer) = (requests.clone(), answer.clone());
                thread::spawn(move || {
                    let target = read_target(&stream).unwrap_or_default();
                    requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(target.clone());
                    // A guest that went away is for the test to notice.
                    let _ = answer(stream, &target);
                });
            }
        });
        Self { address, heard, stop }
    }

    fn url(&self) -> String {
        format!("http://{HOST_V4}:{}", self.address.port())
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
    }
}

/// The second word of the first line; the headers are read and forgotten.
fn read_target(stream: &TcpStream) -> io::Result<String> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    Ok(first.split(' ').nth(1).unwrap_or_default().to_owned())
}
