//! Network namespaces with cables between them, and what answers there.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
use rustix::thread::{UnshareFlags, gettid};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, both gone when this is dropped.
pub struct Host {
    jobs: Sender<Job>,
    thread: String,
}

impl Host {
    pub fn new() -> Self {
        let (jobs, queue) = channel::<Job>();
        let (tell, told) = channel();
        thread::spawn(move || {
            #[expect(deprecated, reason = "only unsharing descriptors is unsound, and these stay shared")]
            let result = rustix::thread::unshare(UnshareFlags::NEWNET);
            tell.send(result.map(|()| gettid().to_string())).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let thread = told.recv().unwrap().expect("network tests make network namespaces, which needs root");
        Self { jobs, thread }
    }

    /// What ip(8) takes for the namespace.
    pub fn thread(&self) -> &str {
        &self.thread
    }

    /// Runs `work` in the namespace; threads that it starts are in it too.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        self.jobs.send(Box::new(move || tell.send(work()).unwrap())).unwrap();
        told.recv().expect("the work in the namespace panicked")
    }

    /// Runs ip(8) in the namespace.
    pub fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || {
            let output = Command::new("ip").args(arguments.split(' ')).output();
            let output = output.expect("network tests need ip of iproute2");
            assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        });
    }
}

/// Connects `device` of `host` with `eth0` of `peer`, which goes up with
/// `address` and sends everything there. The host's end stays down.
pub fn cable(host: &Host, device: &str, peer: &Host, address: &str) {
    host.ip(&format!("link add {device} type veth peer name eth0 netns {}", peer.thread));
    // The only address of the link: the kernel may send from any that it has.
    peer.ip("link set eth0 addrgenmode none");
    peer.ip("addr add fe80::1/64 dev eth0 nodad");
    peer.ip(&format!("addr add {address} dev eth0"));
    peer.ip("link set eth0 up");
    // Without it the broadcasts of a DHCP server would have nowhere to go.
    peer.ip("route add default dev eth0");
}

/// How a DHCP server treats its clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manners {
    Polite,
    /// The first request is refused.
    RefuseFirst,
    /// The first discovery goes unheard.
    IgnoreFirst,
    /// Each answer comes after some that are wrong.
    SendRubbish,
}

/// A DHCP server for one client: 10.9.0.77 or the like, from the address that
/// `eth0` has. Stops when dropped.
pub struct DhcpServer {
    messages: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
}

impl DhcpServer {
    pub fn start(host: &Host, manners: Manners) -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (heard, ended) = (messages.clone(), stop.clone());
        host.run(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    let Ok(length) = socket.recv(&mut buffer) else { continue };
                    heard.lock().unwrap().push(buffer[..length].to_vec());
                    for answer in answers(&heard.lock().unwrap(), manners) {
                        socket.send_to(&answer, (Ipv4Addr::BROADCAST, 68)).unwrap();
                    }
                }
            });
        });
        Self { messages, stop }
    }

    /// The types of the messages so far. Repetitions count once: on a busy
    /// machine the client may ask again before the server has run.
    pub fn heard(&self) -> String {
        let messages = self.messages.lock().unwrap();
        let names = messages.iter().map(|message| match kind(message) {
            1 => "discover",
            3 => "request",
            _ => "?",
        });
        let mut names: Vec<_> = names.collect();
        names.dedup();
        names.join(" ")
    }

    /// What the client calls itself.
    pub fn hostname(&self) -> String {
        let messages = self.messages.lock().unwrap();
        String::from_utf8(option(&messages[0], 12).unwrap()).unwrap()
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What to say to the last message.
fn answers(messages: &[Vec<u8>], manners: Manners) -> Vec<Vec<u8>> {
    let last = messages.last().unwrap();
    let first_of_kind = messages.iter().filter(|message| kind(message) == kind(last)).count() == 1;
    let good = reply(last, if kind(last) == 1 { 2 } else { 5 });
    match manners {
        Manners::Polite => vec![good],
        Manners::RefuseFirst if kind(last) == 3 && first_of_kind => vec![reply(last, 6)],
        Manners::IgnoreFirst if first_of_kind && kind(last) == 1 => vec![],
        Manners::RefuseFirst | Manners::IgnoreFirst => vec![good],
        Manners::SendRubbish => {
            let changed = |place: usize| {
                let mut wrong = good.clone();
                wrong[place] ^= 0xff;
                wrong
            };
            vec![vec![], vec![0xff; 1400], changed(4), changed(28), changed(16), good[..241].to_vec(), good]
        }
    }
}

/// A reply of this type to a message (RFC 2131, table 3).
fn reply(to: &[u8], kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&to[4..8]);
    bytes[28..34].copy_from_slice(&to[28..34]);
    if kind != 6 {
        bytes[16..20].copy_from_slice(&[10, 9, 0, 77]);
    }
    bytes.extend([99, 130, 83, 99, 53, 1, kind, 54, 4, 10, 9, 0, 1]);
    if kind != 6 {
        bytes.extend([1, 4, 255, 255, 255, 0, 3, 4, 10, 9, 0, 1, 6, 4, 10, 9, 0, 1]);
        bytes.extend([51, 4, 0, 0, 14, 16, 26, 2, 5, 120, 15, 11]);
        bytes.extend(b"lan.example");
    }
    bytes.push(255);
    bytes
}

fn kind(message: &[u8]) -> u8 {
    option(message, 53).map_or(0, |value| value[0])
}

/// The value of an option of a message that a client has made.
fn option(message: &[u8], code: u8) -> Option<Vec<u8>> {
    let mut rest = &message[240..];
    loop {
        match *rest {
            [found, length, ref after @ ..] if found != 255 => {
                let (value, after) = after.split_at(length.into());
                if found == code {
                    return Some(value.to_vec());
                }
                rest = after;
            }
            _ => return None,
        }
    }
}

/// A time server that answers each question with these datagrams, made from
/// it. Stops when dropped.
pub struct TimeServer(Arc<AtomicBool>);

impl Drop for TimeServer {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl TimeServer {
    pub fn start(host: &Host, answers: fn(&[u8]) -> Vec<Vec<u8>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        host.run(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 123)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
                    for answer in answers(&buffer[..length]) {
                        socket.send_to(&answer, client).unwrap();
                    }
                }
            });
        });
        Self(stop)
    }
}

/// A name server for which every name is that of the machine it runs on,
/// 10.9.0.1. Over UDP it may say that its answer does not fit. Stops when
/// dropped.
pub struct NameServer {
    stop: Arc<AtomicBool>,
    by_tcp: Arc<AtomicBool>,
}

/// What a name server says over UDP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Datagrams {
    Whole,
    /// Nothing but that there is more (RFC 1035, 4.1.1, TC).
    Truncated,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl NameServer {
    pub fn start(host: &Host, datagrams: Datagrams) -> Self {
        let server = Self { stop: Arc::default(), by_tcp: Arc::default() };
        let (ended, by_tcp) = (server.stop.clone(), server.by_tcp.clone());
        host.run(move || {
            let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
            udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
            tcp.set_nonblocking(true).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    if let Ok((length, client)) = udp.recv_from(&mut buffer) {
                        udp.send_to(&name_answer(&buffer[..length], datagrams), client).unwrap();
                    }
                    if let Ok((stream, _)) = tcp.accept() {
                        by_tcp.store(true, Ordering::Relaxed);
                        thread::spawn(move || answer_stream(stream));
                    }
                }
            });
        });
        server
    }

    /// Whether anybody has asked over TCP.
    pub fn was_asked_by_tcp(&self) -> bool {
        self.by_tcp.load(Ordering::Relaxed)
    }
}

/// Answers the questions of one connection, each behind its length.
fn answer_stream(mut stream: TcpStream) {
    stream.set_nonblocking(false).unwrap();
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question).unwrap();
        let answer = name_answer(&question, Datagrams::Whole);
        stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).unwrap();
    }
}

/// The question with an address behind it, where it asks for one of IPv4.
fn name_answer(question: &[u8], datagrams: Datagrams) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).unwrap() + 13;
    let mut answer = question[..name + 4].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    if datagrams == Datagrams::Truncated {
        answer[2] |= 2;
    } else if question[name..name + 2] == [0, 1] {
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 0, 1]);
    }
    answer
}

/// An answer to a question that says `seconds` since 1900 (RFC 5905, 7.3).
pub fn time_answer(question: &[u8], seconds: u32) -> Vec<u8> {
    let mut answer = vec![0; 48];
    answer[..2].copy_from_slice(&[0x24, 1]);
    answer[24..32].copy_from_slice(&question[40..48]);
    answer[40..44].copy_from_slice(&seconds.to_be_bytes());
    answer
}

/// An IPv6 router for 2001:db8::/64 with the name servers 2001:db8::1 and
/// fe80::1. Stops when dropped.
pub struct Router(Arc<AtomicBool>);

impl Drop for Router {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Advertises `host` on its `eth0` as a router, five times a second (RFC
/// 4861, section 4.2; RFC 8106, section 5.1).
pub fn advertise_router(host: &Host) -> Router {
    let mut advertisement = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    advertisement.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    advertisement.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    advertisement.extend([25, 5, 0, 0, 0, 0, 0x0e, 0x10]);
    for server in ["2001:db8::1", "fe80::1"] {
        advertisement.extend(server.parse::<Ipv6Addr>().unwrap().octets());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    host.run(move || {
        let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let mut links = plywood::sys::net::Rtnetlink::open().unwrap().links().unwrap();
        links.retain(|link| link.name == "eth0");
        let all_nodes = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, links[0].index);
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // Refused until the client's end is up.
                let _ = sendto(&socket, &advertisement, SendFlags::empty(), &all_nodes);
                thread::sleep(Duration::from_millis(200));
            }
        });
    });
    Router(stop)
}
