//! The client's half of a DHCP exchange (RFC 2131, sections 3.1 and 4.1).
//!
//! In: the time and datagrams. Out: datagrams and in the end a lease. No
//! socket and no clock are used here. Invariant: an answer that does not fit
//! the question before it changes nothing.
//!
//! ```text
//! Selecting ── offer ──▶ Requesting ── acknowledged ──▶ lease
//!     ▲──── refused, or no answer ─────┘
//! ```

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::Lease;
use super::message::{Identity, Question, Reply};

/// Times between two tries, in seconds. RFC 2131 begins with 4; the quick
/// first one is for the switch that was not listening yet.
const DELAYS: [u64; 6] = [1, 4, 8, 16, 32, 64];

/// Requests that one server may leave unanswered before others are asked.
const MAX_REQUESTS: usize = 4;

#[derive(Debug)]
pub struct Exchange {
    identity: Identity,
    state: State,
    started: Instant,
    due: Instant,
    /// Messages sent in this state.
    tries: usize,
    /// Refusals so far; each makes the pause after it longer.
    refusals: usize,
    random: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Selecting,
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
}

impl Exchange {
    /// A client that has not said anything; its first message is due now.
    /// `random` seeds the transaction's number and the jitter.
    pub fn new(mac: [u8; 6], hostname: Option<&str>, random: u64, now: Instant) -> Self {
        let identity = Identity { xid: (random >> 32) as u32, mac, hostname: hostname.map(str::to_owned) };
        // A xorshift generator stays at zero for ever.
        let random = random | 1;
        Self { identity, state: State::Selecting, started: now, due: now, tries: 0, refusals: 0, random }
    }

    /// When the next message is to be sent.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The message to broadcast now; the one after it becomes due later.
    pub fn send(&mut self, now: Instant) -> Vec<u8> {
        if matches!(self.state, State::Requesting { .. }) && self.tries >= MAX_REQUESTS {
            self.enter(State::Selecting, now);
        }
        let question = match self.state {
            State::Selecting => Question::Discover,
            State::Requesting { address, server } => Question::Request { address, server },
        };
        self.due = now + self.delay(self.tries);
        self.tries += 1;
        self.identity.message(question, now.saturating_duration_since(self.started))
    }

    /// Takes a datagram from anybody, and returns the lease once it is ours.
    pub fn receive(&mut self, datagram: &[u8], now: Instant) -> Option<Lease> {
        let reply = match self.identity.parse(datagram) {
            Ok(reply) => reply,
            Err(error) => {
                log::debug!("a DHCP datagram is passed over: {error}");
                return None;
            }
        };
        match (&self.state, reply) {
            (State::Selecting, Reply::Offer(Lease { address, server, .. })) => {
                self.enter(State::Requesting { address, server }, now);
                None
            }
            (State::Requesting { address, server }, Reply::Ack(lease))
                if (lease.address, lease.server) == (*address, *server) =>
            {
                Some(lease)
            }
            (State::Requesting { server, .. }, Reply::Nak { server: from })
                if from.is_none_or(|from| from == *server) =>
            {
                // At once would let a server that always refuses keep us busy.
                let pause = self.delay(self.refusals);
                self.refusals += 1;
                self.enter(State::Selecting, now + pause);
                None
            }
            _ => None,
        }
    }

    fn enter(&mut self, state: State, due: Instant) {
        (self.state, self.due, self.tries) = (state, due, 0);
    }

    /// The pause after try `number`, give or take a quarter but not more than
    /// a second, so that machines that start together do not stay in step.
    fn delay(&mut self, number: usize) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let base = 1000 * DELAYS.get(number).unwrap_or(&64);
        let spread = (base / 4).min(1000);
        Duration::from_millis(base - spread + self.random % (2 * spread))
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::{reply, with_option};
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const RANDOM: u64 = 0x1234_5678_9abc_def0;
    const XID: u32 = 0x1234_5678;

    fn kind_of(message: &[u8]) -> &'static str {
        match message[242] {
            1 => "discover",
            3 => "request",
            _ => "?",
        }
    }

    /// What a server says about 10.0.0.9, from 10.0.0.`server`.
    fn from_server(kind: u8, server: u8) -> Vec<u8> {
        with_option(reply(XID, MAC, kind), 54, &[10, 0, 0, server])
    }

    #[test]
    fn only_the_answer_to_the_last_question_counts() {
        const OFFER: u8 = 2;
        const ACK: u8 = 5;
        const NAK: u8 = 6;
        let mut other_address = from_server(ACK, 1);
        other_address[19] = 10;
        for (rule, replies, next) in [
            ("nothing", vec![], "discover"),
            ("an offer is requested", vec![from_server(OFFER, 1)], "request"),
            ("a granted request is a lease", vec![from_server(OFFER, 1), from_server(ACK, 1)], "lease"),
            ("a grant before the offer", vec![from_server(ACK, 1)], "discover"),
            ("a second offer", vec![from_server(OFFER, 1), from_server(OFFER, 2)], "request"),
            ("another server's grant", vec![from_server(OFFER, 1), from_server(ACK, 2)], "request"),
            ("a grant of another address", vec![from_server(OFFER, 1), other_address], "request"),
            ("a refusal starts again", vec![from_server(OFFER, 1), from_server(NAK, 1)], "discover"),
            ("another server's refusal", vec![from_server(OFFER, 1), from_server(NAK, 2)], "request"),
            ("a refusal before the offer", vec![from_server(NAK, 1)], "discover"),
            ("noise", vec![b"noise".to_vec(), from_server(OFFER, 1), vec![]], "request"),
            (
                "a lease after a refusal",
                vec![from_server(OFFER, 1), from_server(NAK, 1), from_server(OFFER, 1), from_server(ACK, 1)],
                "lease",
            ),
        ] {
            let now = Instant::now();
            let mut exchange = Exchange::new(MAC, None, RANDOM, now);
            let leases: Vec<_> = replies.iter().filter_map(|reply| exchange.receive(reply, now)).collect();
            let last = if leases.is_empty() { kind_of(&exchange.send(exchange.due())) } else { "lease" };
            assert_eq!(last, next, "{rule}");
        }
    }

    #[test]
    fn silence_is_asked_again_ever_more_slowly() {
        let start = Instant::now();
        let mut exchange = Exchange::new(MAC, None, RANDOM, start);
        for expected in [1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0] {
            let sent = exchange.due();
            assert_eq!(kind_of(&exchange.send(sent)), "discover");
            let pause = (exchange.due() - sent).as_secs_f64();
            assert!((pause - expected).abs() <= f64::min(expected / 4.0, 1.0), "{pause} for {expected}");
        }
        let elapsed = (exchange.due() - start).as_secs() as u16;
        assert_eq!(exchange.send(exchange.due())[8..10], elapsed.to_be_bytes());
    }

    #[test]
    fn a_server_that_falls_silent_is_given_up() {
        let now = Instant::now();
        let mut exchange = Exchange::new(MAC, None, RANDOM, now);
        exchange.receive(&from_server(2, 1), now);
        let kinds: Vec<_> = (0..5).map(|_| kind_of(&exchange.send(exchange.due()))).collect();
        assert_eq!(kinds, ["request", "request", "request", "request", "discover"]);
    }

    #[test]
    fn each_refusal_is_followed_by_a_pause() {
        let now = Instant::now();
        let mut exchange = Exchange::new(MAC, None, RANDOM, now);
        for least in [0, 3, 7] {
            exchange.receive(&from_server(2, 1), now);
            exchange.receive(&from_server(6, 1), now);
            assert!(exchange.due() - now >= Duration::from_secs(least));
        }
    }
}
