//! Whose turn it is: the endpoints of one thing that is wanted, in rounds.
//!
//! In: what each endpoint failed with. Out: the endpoint to ask next, and in
//! the end what all of them failed with. Invariants: all endpoints of a round
//! are asked before any is asked again; one whose content does not fit its
//! digest is not asked again for it.

use std::time::Instant;

use super::error::{Again, EndpointError};
use super::pull::Pull;
use super::retry;
use crate::fetch::Event;
use crate::fetch::error::{Attempt, Cause};
use crate::oci::registries::Endpoint;

/// An endpoint and how it has done so far.
struct Turn<'p> {
    endpoint: &'p Endpoint,
    again: Again,
    /// Not to be asked before.
    ready: Instant,
    error: Option<EndpointError>,
}

/// The endpoints of a pull, asked for one thing.
pub(super) struct Turns<'p> {
    pull: &'p Pull<'p>,
    turns: Vec<Turn<'p>>,
    round: u32,
    /// Rounds after which no endpoint had said when to come back.
    failures: u32,
    /// Whose turn is next in this round.
    next: usize,
}

impl<'p> Turns<'p> {
    pub(super) fn new(pull: &'p Pull<'p>, endpoints: impl Iterator<Item = &'p Endpoint>) -> Self {
        let turn = |endpoint| Turn { endpoint, again: Again::Later, ready: Instant::now(), error: None };
        Self { pull, turns: endpoints.map(turn).collect(), round: 1, failures: 0, next: 0 }
    }

    /// The endpoint to ask now, after a pause where all were asked before;
    /// none if no endpoint may do better.
    pub(super) fn next(&mut self) -> Option<&'p Endpoint> {
        loop {
            while let Some(turn) = self.turns.get(self.next) {
                self.next += 1;
                if turn.again != Again::Never && turn.ready <= Instant::now() {
                    return Some(turn.endpoint);
                }
            }
            let left = || self.turns.iter().filter(|turn| turn.again != Again::Never);
            // Who is asked to come back is not failing: only time ends that.
            self.failures += u32::from(!left().any(|turn| matches!(turn.again, Again::Asked(_))));
            let ready = left().map(|turn| turn.ready).min().filter(|_| self.failures < retry::ATTEMPTS)?;
            let least = ready.saturating_duration_since(Instant::now());
            let pause = least + retry::pause(self.pull.timeouts(), self.round);
            self.pull.report(Event::Pausing(pause));
            self.pull.limits().sleep(pause).ok()?;
            (self.round, self.next) = (self.round + 1, 0);
        }
    }

    /// Takes note of what the endpoint last asked failed with.
    pub(super) fn note(&mut self, error: EndpointError) {
        let Some(turn) = self.next.checked_sub(1).and_then(|last| self.turns.get_mut(last)) else { return };
        // Not the endpoint's fault, and told of by whoever stopped us.
        if !matches!(error, EndpointError::Stopped) {
            self.pull.report(Event::Failed { endpoint: &turn.endpoint.to_string(), error: &error });
        }
        turn.again = error.again(self.pull.timeouts().longest_pause);
        if let Again::Asked(pause) = turn.again {
            turn.ready = Instant::now() + pause;
        }
        turn.error = Some(error.after(turn.error.take()));
    }

    /// Whether some endpoint, other than the one last asked, may still be asked.
    pub(super) fn has_other(&self) -> bool {
        let other = |(at, turn): (usize, &Turn<'_>)| at + 1 != self.next && turn.again != Again::Never;
        self.turns.iter().enumerate().any(other)
    }

    /// What stood in the way of `what` everywhere.
    pub(super) fn into_cause(self, what: String) -> Cause {
        if self.turns.is_empty() {
            return if self.pull.has_endpoints() { Cause::Distrusted { what } } else { Cause::NoEndpoint };
        }
        let attempt =
            |turn: Turn<'_>| Some(Attempt { endpoint: turn.endpoint.to_string(), error: turn.error? });
        Cause::Endpoints { what, attempts: self.turns.into_iter().filter_map(attempt).collect() }
    }
}
