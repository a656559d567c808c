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
    /// The body is all there is: no status, no headers.
    Raw,
}

/// What happens while the body is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// After so many bytes: RST.
    Reset(usize),
    /// After so many bytes: FIN.
    Cut(usize),
    /// After the whole body: FIN, whatever the headers say.
    HangUp,
    /// After so many bytes nothing more, and the connection stays.
    Stall(usize),
    /// Not even the headers arrive whole.
    StallHeaders,
    /// A byte every so many milliseconds.
    Drip(u64),
    /// The same of the headers.
    DripHeaders(u64),
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

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(has, _)| has.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether more requests are read after this reply.
    fn keeps_connection(&self) -> bool {
        let framed = matches!(self.framing, Framing::Length(0) | Framing::Chunked);
        framed && self.fault == Fault::None && self.header("connection") == Some("keep-alive")
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Status\r\n", self.status);
        if self.header("connection").is_none() {
            head += "Connection: close\r\n";
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match self.framing {
            Framing::Length(more) => {
                head += &format!("Content-Length: {}\r\n", self.body.len() as i64 + more);
            }
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
            Framing::UntilClose | Framing::Raw => {}
        }
        (head + "\r\n").into_bytes()
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
        Self::varied(0, answer)
    }

    /// One that cuts earlier, answers later and sends in other pieces than
    /// asked, as `seed` says. 0 changes nothing.
    pub fn varied(seed: u64, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, stopped, logged) = (Arc::new(answer), stop.clone(), log.clone());
        thread::spawn(move || {
            for (number, stream) in (1..).zip(listener.incoming()) {
                let dice = Dice::new(seed, number);
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (answer, logged) = (answer.clone(), logged.clone());
                // A client that goes away in the middle is no fault of the server's.
                thread::spawn(move || drop(serve(stream, &*answer, &logged, dice)));
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

/// Numbers by chance, the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn new(seed: u64, connection: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(2 * connection + 1))
    }

    /// Less than `limit`; always 0 for the seed 0.
    fn roll(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit.max(1)
    }
}

fn serve(
    stream: TcpStream,
    answer: &(dyn Fn(&Request) -> Reply + Send + Sync),
    log: &Mutex<Vec<Request>>,
    mut dice: Dice,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = match receive(&mut reader) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            // What other servers say to a TLS handshake, for example.
            Err(_) => return send(stream, &Reply::new(400, ""), &mut dice),
        };
        {
            let mut log = log.lock().unwrap();
            request.nth = log.iter().filter(|before| before.path == request.path).count();
            log.push(request.clone());
        }
        let reply = answer(&request);
        thread::sleep(Duration::from_millis(dice.roll(20) as u64));
        send(stream.try_clone()?, &reply, &mut dice)?;
        if !reply.keeps_connection() {
            return Ok(());
        }
    }
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

fn send(mut stream: TcpStream, reply: &Reply, dice: &mut Dice) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if reply.framing == Framing::Raw {
        return stream.write_all(&reply.body);
    }
    let head = reply.head();
    match reply.fault {
        Fault::StallHeaders => {
            stream.write_all(&head[..head.len() - 2])?;
            return stall(&stream);
        }
        Fault::DripHeaders(pause) => drip(&mut stream, &head, pause, dice)?,
        _ => stream.write_all(&head)?,
    }
    if let Fault::Drip(pause) = reply.fault {
        drip(&mut stream, &reply.body, pause, dice)?;
    }
    let sent = match reply.fault {
        Fault::Drip(_) => 0,
        Fault::Reset(at) | Fault::Cut(at) | Fault::Stall(at) => {
            (at - dice.roll(at / 2)).min(reply.body.len())
        }
        _ => reply.body.len(),
    };
    send_body(&mut stream, &reply.body[..sent], reply.framing, dice)?;
    match reply.fault {
        Fault::Reset(_) => {
            // Lets what was sent arrive before it is thrown away.
            thread::sleep(Duration::from_millis(50));
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Fault::Stall(_) => stall(&stream)?,
        Fault::Endless(count) => {
            for _ in 0..count.div_ceil(4096) {
                send_body(&mut stream, &[b' '; 4096], reply.framing, dice)?;
            }
        }
        _ if reply.framing == Framing::Chunked && sent == reply.body.len() => {
            stream.write_all(b"0\r\n\r\n")?;
        }
        _ => {}
    }
    Ok(())
}

fn drip(stream: &mut TcpStream, bytes: &[u8], pause: u64, dice: &mut Dice) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte])?;
        thread::sleep(Duration::from_millis(pause + dice.roll(pause as usize / 4) as u64));
    }
    Ok(())
}

fn send_body(stream: &mut TcpStream, bytes: &[u8], framing: Framing, dice: &mut Dice) -> std::io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(1000 + dice.roll(16_000)));
        rest = after;
        if framing != Framing::Chunked {
            stream.write_all(piece)?;
            continue;
        }
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
        stream.write_all(piece)?;
        stream.write_all(b"\r\n")?;
    }
    Ok(())
}

/// Says nothing until the client has enough of it.
fn stall(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.read(&mut [0]).map(drop)
}
