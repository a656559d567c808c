//! The proof of generations: what this boot may try, and what it showed.
//!
//! In: the store and what the configuration asks for. Out: candidates for
//! [`Boot::mount_first_that_works`](super::Boot), and marks in the store.
//! Invariant: an attempt is on disk before anything is mounted for it; only
//! what another candidate then did better is marked bad.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Boot, report};
use crate::command::decision::{self, Choice, Count, Decision, Role, Situation};
use crate::command::list::Report;
use crate::config::cmdline::{BootParameters, FailureAction};
use crate::error::Error;
use crate::store::{GenerationError, Proof, RecordError, Store, Trials};
use crate::sys::{kmsg, watchdog};

/// Something that may be booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    Generation(Choice),
    /// The base alone.
    Plain,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generation(choice) => write!(f, "generation {}", choice.number),
            Self::Plain => f.write_str("the plain root"),
        }
    }
}

/// Why something that should have booted did not.
#[derive(Debug)]
pub(super) struct Failure {
    pub text: String,
    /// The generation that is to be marked bad for it, if that is its fault
    /// and will not pass; and whether the store was damaged.
    pub condemned: Option<(u32, String, Damage)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Store,
    None,
}

impl Failure {
    /// Logs the failure of `subject`.
    pub fn log(subject: impl fmt::Display, reason: &str) -> Self {
        let text = format!("{subject}: {reason}");
        log::error!("{text}");
        Self { text, condemned: None }
    }

    pub fn of(candidate: Candidate, error: &Error) -> Self {
        let reason = error.chain();
        let damage = match error {
            Error::Layer(error) if error.damaged().is_some() => Some(Damage::Store),
            Error::Generation(error) if error.is_damage() => Some(Damage::Store),
            Error::NoInit(_) => Some(Damage::None),
            _ => None,
        };
        let failure = Self::log(candidate, &reason);
        match (candidate, damage) {
            (Candidate::Generation(choice), Some(damage)) => {
                Self { condemned: Some((choice.number, reason, damage)), ..failure }
            }
            _ => failure,
        }
    }
}

impl Boot {
    /// What to try, best first. What is known not to work is in `failures`.
    pub(super) fn candidates(&mut self, failures: &mut Vec<Failure>) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        if self.parameters.enabled {
            let decision = self.decide(failures);
            candidates.extend(decision.choices.into_iter().map(Candidate::Generation));
        }
        if allows_plain_root(&self.parameters) {
            candidates.push(Candidate::Plain);
        }
        candidates
    }

    fn decide(&mut self, failures: &mut Vec<Failure>) -> Decision {
        let asked = match self.parameters.generation {
            Some(_) => Ok(None),
            None => self.configured(),
        };
        let asked = asked.unwrap_or_else(|error| {
            failures.push(Failure::log("the configured extensions", &error.chain()));
            None
        });
        let store = match self.has_no_store {
            true => return Decision::default(),
            false => self.store(),
        };
        let store = match store {
            Ok(store) => store,
            Err(error) => {
                failures.push(Failure::log("the state", &error.chain()));
                return Decision::default();
            }
        };
        self.trials = trials(&store);
        let known = known(&store, failures);
        let pointer = |number: Result<Option<u32>, GenerationError>, failures: &mut Vec<Failure>| {
            number.unwrap_or_else(|error| {
                failures.push(Failure::log("the state", &kmsg::chain(&error)));
                None
            })
        };
        let current = pointer(store.current(), failures);
        let previous = pointer(store.previous(), failures);
        if current.is_none() && !known.is_empty() {
            failures.push(Failure::log("the state", "nothing says which generation is current"));
        }
        let decision = decision::decide(&Situation {
            pinned: self.parameters.generation,
            wanted: asked.or(current),
            previous,
            known: &known,
            trials: &self.trials,
        });
        self.note(&decision, failures);
        decision
    }

    /// Keeps what was decided against.
    fn note(&self, decision: &Decision, failures: &mut Vec<Failure>) {
        for (number, reason) in &decision.passed_over {
            let mut failure = Failure::log(format_args!("generation {number} is passed over"), reason);
            if decision.exhausted.contains(number) {
                failure.condemned = Some((*number, reason.clone(), Damage::None));
            }
            failures.push(failure);
        }
    }

    /// Writes down that `choice` is about to be tried. Where that cannot be
    /// written, the attempt is made only if nothing proven is left to boot.
    pub(super) fn count(&mut self, choice: Choice) -> Result<(), Error> {
        let Count::Attempt { number: attempt, of } = choice.count else { return Ok(()) };
        let number = choice.number;
        let mut trials = self.trials.clone();
        trials.marks.entry(number).or_default().attempts = attempt;
        match self.keep(&trials) {
            Ok(()) => {
                log::info!("generation {number}: attempt {attempt} of {of}, until `plywood bless`");
                self.trials = trials;
                Ok(())
            }
            Err(error) if self.trials.last_good.is_some_and(|good| good != number) => Err(error),
            Err(error) => {
                log::warn!("this attempt is not counted, and nothing proven is there: {}", error.chain());
                Ok(())
            }
        }
    }

    /// Marks what failed, now that something else is known to work. A store
    /// that cannot be written to is told of and changes nothing for this boot.
    pub(super) fn conclude(&mut self, failures: &[Failure]) {
        let mut trials = self.trials.clone();
        for (number, reason, damage) in failures.iter().filter_map(|failure| failure.condemned.clone()) {
            trials.condemn(number, reason, damage == Damage::Store);
        }
        if trials == self.trials {
            return;
        }
        match self.keep(&trials) {
            Ok(()) => self.trials = trials,
            Err(error) => log::warn!("bad generations are not marked: {}", error.chain()),
        }
    }

    /// Leaves what this boot came to in `/run` and, for later, in the store.
    pub(super) fn keep_report(&mut self, report: &Report) {
        if let Some(store) = &self.store
            && let Err(error) = store.lock().and_then(|lock| store.put_last_boot(&lock, report))
        {
            log::warn!("the store does not keep how this boot went: {}", kmsg::chain(&error));
        }
        report::save(report, &self.timeline);
        if let Some(seconds) = report.trial.as_ref().and_then(|trial| trial.watchdog) {
            self.start_watchdog(Duration::from_secs(seconds));
        }
    }

    /// From here on a machine that hangs is reset. Without the hardware, the
    /// kernel's own timer does it while the kernel runs; a machine without
    /// either boots all the same.
    fn start_watchdog(&mut self, time: Duration) {
        if !watchdog::is_there() {
            self.load_module("softdog");
        }
        match watchdog::start(time) {
            Ok(time) => {
                log::info!("the watchdog resets the machine in {} s, until `plywood bless`", time.as_secs());
            }
            Err(error) => log::warn!("no watchdog guards this attempt: {}", kmsg::chain(&error)),
        }
    }

    fn keep(&mut self, trials: &Trials) -> Result<(), Error> {
        let store = self.store()?;
        let lock = store.lock()?;
        // Damaged marks may be replaced, a newer plywood's may not.
        store.trials_or_none().map_err(GenerationError::Trials)?;
        Ok(store.put_trials(&lock, trials)?)
    }
}

/// The marks; none if they cannot be read, so that everything is tried anew.
fn trials(store: &Store) -> Trials {
    store.trials().unwrap_or_else(|error: RecordError| {
        log::warn!("the marks of generations are lost: {}", kmsg::chain(&error));
        Trials::default()
    })
}

/// The generations, and how each has to prove itself.
fn known(store: &Store, failures: &mut Vec<Failure>) -> BTreeMap<u32, Result<Proof, String>> {
    let numbers = store.generations().unwrap_or_else(|error| {
        failures.push(Failure::log("the state", &kmsg::chain(&error)));
        Vec::new()
    });
    numbers.into_iter().map(|number| (number, decision::proof_of(store, number))).collect()
}

/// The command line can only take away.
fn allows_plain_root(parameters: &BootParameters) -> bool {
    !parameters.enabled || matches!(parameters.on_failure, None | Some(FailureAction::Base))
}

/// Whether what a candidate stands for may be made anew where it is damaged.
pub(super) fn is_wanted(choice: Choice) -> bool {
    choice.role == Role::Wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cmdline::CommandLine;

    #[test]
    fn the_command_line_says_whether_the_plain_root_may_be_booted() {
        for (line, expected) in [
            ("", true),
            ("plywood=0", true),
            ("plywood.generation=3", true),
            ("plywood.onfailure=reboot", false),
            ("plywood.onfailure=base", true),
            ("plywood=0 plywood.onfailure=reboot", true),
        ] {
            let parameters = BootParameters::new(&CommandLine::parse(line.as_bytes()));
            assert_eq!(allows_plain_root(&parameters), expected, "{line}");
        }
    }
}
