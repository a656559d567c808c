//! An HTTP server on loopback that answers as a test wants, faults included.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    /// How many requests for this path came before.
    pub nth: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer, and how it is sent.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub framing: Framing,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    /// `Content-Length` as it is, plus this.
    Length(i64),
    Chunked,
    /// The end of the connection ends the body.
    UntilClose,
}

/// What happens while the body is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// After so many bytes: RST.
    Reset(usize),
    /// After so many bytes: FIN.
    Cut(usize),
    /// After so many bytes nothing more, and the connection stays.
    Stall(usize),
    /// Not even the headers arrive whole.
    StallHeaders,
    /// A byte every so many milliseconds.
    Drip(u64),
    /// The body is followed by so many more bytes.
    Endless(usize),
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: Vec::new(), body, framing: Framing::Length(0), fault: Fault::None }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(has, _)| !has.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(has, _)| !has.eq_ignore_ascii_case(name));
        self
    }

    pub fn framed(self, framing: Framing) -> Self {
        Self { framing, ..self }
    }

    pub fn failing(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }
}

/// Runs until dropped.
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, stopped, logged) = (Arc::new(answer), stop.clone(), log.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (answer, logged) = (answer.clone(), logged.clone());
                // A client that goes away in the middle is no fault of the server's.
                thread::spawn(move || drop(serve(stream, &*answer, &logged)));
            }
        });
        Self { address, stop, log }
    }

    /// `127.0.0.1:port`
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Requests whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

/// An address on which nothing listens.
pub fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn serve(
    stream: TcpStream,
    answer: &(dyn Fn(&Request) -> Reply + Send + Sync),
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = match receive(&mut reader) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        // What other servers say to a TLS handshake, for example.
        Err(_) => return send(stream, &Reply::new(400, "")),
    };
    {
        let mut log = log.lock().unwrap();
        request.nth = log.iter().filter(|before| before.path == request.path).count();
        log.push(request.clone());
    }
    send(stream, &answer(&request))
}

fn receive(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        method: method.into(),
        path: path.into(),
        query: query.into(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        nth: 0,
    }))
}

fn send(mut stream: TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match reply.framing {
        Framing::Length(more) => {
            head += &format!("Content-Length: {}\r\n", reply.body.len() as i64 + more);
        }
        Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
        Framing::UntilClose => {}
    }
    if reply.fault == Fault::StallHeaders {
        stream.write_all(head.as_bytes())?;
        return stall(&stream);
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if let Fault::Drip(pause) = reply.fault {
        for byte in &reply.body {
            stream.write_all(&[*byte])?;
            thread::sleep(Duration::from_millis(pause));
        }
    }
    let sent = match reply.fault {
        Fault::Drip(_) => 0,
        Fault::Reset(at) | Fault::Cut(at) | Fault::Stall(at) => at.min(reply.body.len()),
        _ => reply.body.len(),
    };
    send_body(&mut stream, &reply.body[..sent], reply.framing)?;
    match reply.fault {
        Fault::Reset(_) => {
            // Lets what was sent arrive before it is thrown away.
            thread::sleep(Duration::from_millis(50));
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Fault::Stall(_) => stall(&stream)?,
        Fault::Endless(count) => {
            for _ in 0..count.div_ceil(4096) {
                send_body(&mut stream, &[b' '; 4096], reply.framing)?;
            }
        }
        _ if reply.framing == Framing::Chunked && sent == reply.body.len() => {
            stream.write_all(b"0\r\n\r\n")?;
        }
        _ => {}
    }
    Ok(())
}

fn send_body(stream: &mut TcpStream, bytes: &[u8], framing: Framing) -> std::io::Result<()> {
    if framing != Framing::Chunked {
        return stream.write_all(bytes);
    }
    for chunk in bytes.chunks(1000) {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
        stream.write_all(chunk)?;
        stream.write_all(b"\r\n")?;
    }
    Ok(())
}

/// Says nothing until the client has enough of it.
fn stall(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.read(&mut [0]).map(drop)
}
