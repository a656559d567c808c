//! SNTP client (RFC 4330): one question, one answer, no clock discipline.
//!
//! In: the name or address of a server, a deadline. Out: the time it says.
//! Setting the clock is for [`clock`](super::clock). Invariant: an answer
//! counts only if it repeats the number that was sent with the question, so
//! who cannot see the question cannot answer it.
//!
//! ```text
//! 0 leap indicator 2 bits, version 3 bits, mode 3 bits   1 stratum u8   …
//! 12 reference (for stratum 0 a code)   24 originate   32 receive   40 transmit
//! timestamp   0 seconds since 1900 u32, modulo 2^32   4 fraction u32, both big-endian
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::random::random;
use crate::text::Escaped;

const PORT: u16 = 123;
const MESSAGE: usize = 48;
/// No leap second to announce, version 4, from a client.
const QUESTION: u8 = 4 << 3 | 3;
const SERVER_MODE: u8 = 4;
/// The leap indicator of a server that does not know the time itself.
const UNSYNCHRONIZED: u8 = 3;
/// From 1900 to 1970.
const SECONDS_TO_1970: u64 = 2_208_988_800;

/// How long a server is waited for, and how often it is asked.
const ANSWER: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

/// Why a server has not told the time.
#[derive(Debug, thiserror::Error)]
pub enum SntpError {
    #[error("cannot resolve {}", Escaped::new(.server))]
    Resolve { server: String, source: io::Error },
    #[error("cannot ask {address}")]
    Socket { address: SocketAddr, source: io::Error },
    #[error("no answer from {}", Escaped::new(.server))]
    NoAnswer { server: String },
    #[error("{address} refuses to tell: {}", Escaped::new(.code))]
    Refused { address: SocketAddr, code: String },
    #[error("{address} does not know the time itself")]
    Unsynchronized { address: SocketAddr },
}

/// Asks `server`, a host name or an address, for the time since 1970. It lies
/// within 136 years after `earliest`: the protocol tells no more.
pub fn query(server: &str, earliest: Duration, deadline: Instant) -> Result<Duration, SntpError> {
    let mut error = SntpError::NoAnswer { server: server.into() };
    for address in resolve(server, deadline)? {
        match ask(address, earliest, deadline) {
            Ok(Some(time)) => return Ok(time),
            Ok(None) => {}
            Err(other) => error = other,
        }
    }
    Err(error)
}

/// The resolver has timeouts of its own, which may be longer than ours.
fn resolve(server: &str, deadline: Instant) -> Result<Vec<SocketAddr>, SntpError> {
    let failed = |source| SntpError::Resolve { server: server.into(), source };
    let (tell, told) = mpsc::channel();
    let name = server.to_owned();
    let ask = move || {
        let addresses = (name.as_str(), PORT).to_socket_addrs().map(Iterator::collect);
        // Nobody listens any more if it took too long.
        tell.send(addresses).ok();
    };
    thread::Builder::new().spawn(ask).map_err(failed)?;
    let left = deadline.saturating_duration_since(Instant::now());
    told.recv_timeout(left).map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)
}

/// Asks one address a few times. None is no answer.
fn ask(address: SocketAddr, earliest: Duration, deadline: Instant) -> Result<Option<Duration>, SntpError> {
    let failed = |source| SntpError::Socket { address, source };
    let local: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).map_err(failed)?;
    socket.connect(address).map_err(failed)?;
    for _ in 0..TRIES {
        let nonce = random().to_be_bytes();
        let sent = Instant::now();
        socket.send(&question(nonce)).map_err(failed)?;
        while let Some(left) = left_until(deadline.min(sent + ANSWER)) {
            socket.set_read_timeout(Some(left)).map_err(failed)?;
            let mut buffer = [0; 512];
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            match read(buffer.get(..length).unwrap_or_default(), nonce, earliest) {
                Answer::Time(time) => return Ok(Some(time + sent.elapsed() / 2)),
                Answer::Refused(code) => return Err(SntpError::Refused { address, code }),
                Answer::Unsynchronized => return Err(SntpError::Unsynchronized { address }),
                Answer::Noise => {}
            }
        }
    }
    Ok(None)
}

fn left_until(time: Instant) -> Option<Duration> {
    Some(time.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

/// What a datagram stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Time(Duration),
    /// "Kiss o' death", with its code.
    Refused(String),
    Unsynchronized,
    /// Not an answer to our question.
    Noise,
}

/// A question. The time in it would be of no use to the server; a number that
/// nobody can guess is in its place.
fn question(nonce: [u8; 8]) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[0] = QUESTION;
    message[40..].copy_from_slice(&nonce);
    message
}

fn read(datagram: &[u8], nonce: [u8; 8], earliest: Duration) -> Answer {
    let Some(message) = datagram.first_chunk::<MESSAGE>() else { return Answer::Noise };
    let (leap, mode, stratum) = (message[0] >> 6, message[0] & 7, message[1]);
    let (originate, transmit) = (&message[24..32], &message[40..]);
    match stratum {
        _ if mode != SERVER_MODE || originate != nonce => Answer::Noise,
        0 => Answer::Refused(String::from_utf8_lossy(&message[12..16]).into_owned()),
        16.. => Answer::Unsynchronized,
        _ if leap == UNSYNCHRONIZED || transmit == [0; 8] => Answer::Unsynchronized,
        _ => Answer::Time(time_of(transmit, earliest)),
    }
}

/// The first time from `earliest` on that a timestamp can stand for.
fn time_of(timestamp: &[u8], earliest: Duration) -> Duration {
    const ERA: u64 = 1 << 32;
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let (seconds, fraction) = timestamp.split_at(4);
    let earliest = earliest.as_secs() + SECONDS_TO_1970;
    let since = number(seconds).wrapping_sub(earliest) % ERA;
    let nanoseconds = (number(fraction) * 1_000_000_000) >> 32;
    Duration::new(earliest + since - SECONDS_TO_1970, nanoseconds as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
    /// 1 January 2026.
    const EARLIEST: Duration = Duration::from_secs(1_767_225_600);

    /// An answer that says `seconds` and a half after `EARLIEST`.
    fn answer(seconds: u64) -> Vec<u8> {
        let mut message = vec![0; MESSAGE];
        (message[0], message[1]) = (4 << 3 | SERVER_MODE, 2);
        message[24..32].copy_from_slice(&NONCE);
        let since_1900 = (EARLIEST.as_secs() + SECONDS_TO_1970 + seconds) as u32;
        message[40..44].copy_from_slice(&since_1900.to_be_bytes());
        message[44] = 0x80;
        message
    }

    fn changed(at: usize, to: u8) -> Vec<u8> {
        let mut message = answer(5);
        message[at] = to;
        message
    }

    #[test]
    fn only_an_answer_to_the_question_tells_the_time() {
        let time = |seconds| Answer::Time(EARLIEST + Duration::new(seconds, 500_000_000));
        let kiss = [&changed(1, 0)[..12], b"RATE", &answer(5)[16..]].concat();
        for (rule, datagram, expected) in [
            ("an answer", answer(5), time(5)),
            ("beyond the end of the era in 2036", answer(400_000_000), time(400_000_000)),
            ("longer than we know", [answer(5), vec![0; 20]].concat(), time(5)),
            ("to another question", changed(24, 9), Answer::Noise),
            ("our own question", question(NONCE).to_vec(), Answer::Noise),
            ("from a client", changed(0, QUESTION), Answer::Noise),
            ("refused", kiss, Answer::Refused("RATE".into())),
            ("a server that was not told", changed(0, 3 << 6 | 4 << 3 | 4), Answer::Unsynchronized),
            ("a stratum that does not exist", changed(1, 16), Answer::Unsynchronized),
            ("no time in it", [&answer(5)[..40], &[0; 8]].concat(), Answer::Unsynchronized),
            ("cut short", answer(5)[..47].to_vec(), Answer::Noise),
            ("nothing", vec![], Answer::Noise),
        ] {
            assert_eq!(read(&datagram, NONCE, EARLIEST), expected, "{rule}");
        }
    }

    #[test]
    fn the_time_of_day_is_never_before_the_earliest() {
        for timestamp in [[0; 8], [0xff; 8], [0x80, 0, 0, 0, 0, 0, 0, 1]] {
            assert!(time_of(&timestamp, EARLIEST) >= EARLIEST);
            assert!(time_of(&timestamp, Duration::ZERO) < Duration::from_secs(1 << 33));
        }
    }
}
