//! `plywood bless` and `plywood expire`: the end of a generation's trial.
//!
//! In: `/run/plywood/boot.json`, which says what runs, and the store. Out: a
//! mark that the generation is good; or, when the time of a tried generation
//! is over without one, a reboot. Invariant: nothing but a boot that came up,
//! or a person, marks a generation good.

use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use super::generations;
use super::list::{self, Trial};
use super::machine;
use crate::cli;
use crate::error::Error;
use crate::sys::power::{self, Ending};
use crate::sys::{kmsg, watchdog};

/// How long an init has to end the machine by itself.
const GRACE: Duration = Duration::from_secs(120);

/// Marks the running generation, or the one that `arguments` name, as good.
pub fn run(arguments: &cli::Bless) -> Result<(), Error> {
    let number = match arguments.generation {
        Some(number) => number,
        None => match list::report()?.generation {
            Some(number) => number,
            None => return super::print("nothing to bless: the plain root runs"),
        },
    };
    let trial = running_trial(number);
    if arguments.automatic && trial.as_ref().is_some_and(|trial| trial.time_limit.is_some()) {
        return super::print(format_args!(
            "generation {number} is on trial for a limited time: `plywood bless`, without --automatic, ends it"
        ));
    }
    let trials = generations::open_existing(&arguments.state)?.trials_or_none()?;
    // A write that changes nothing could only fail.
    let is_good = trials.is_good(number) && trials.last_good == Some(number);
    if !is_good {
        mark_good(&machine::state_directory(&arguments.state), number)?;
    }
    if trial.is_some_and(|trial| trial.watchdog.is_some()) {
        stop_watchdog();
    }
    super::print(format_args!("generation {number} is good{}", if is_good { " already" } else { "" }))
}

/// The trial that the running system is, if it is of generation `number`.
fn running_trial(number: u32) -> Option<Trial> {
    list::report().ok().filter(|report| report.generation == Some(number))?.trial
}

fn mark_good(directory: &Path, number: u32) -> Result<(), Error> {
    let (store, lock) = generations::open_to_change(directory)?;
    let mut trials = store.trials_or_none()?;
    store.generation(number)?;
    trials.bless(number);
    Ok(store.put_trials(&lock, &trials)?)
}

/// The boot has started it; an init that has it by now feeds it.
fn stop_watchdog() {
    match watchdog::stop() {
        Ok(()) => log::info!("stopped the watchdog"),
        Err(error) => log::info!("the watchdog is left alone: {}", kmsg::chain(&error)),
    }
}

/// Waits until the time limit of the running trial is over, and reboots the
/// machine unless the generation was blessed. Returns at once if there is no
/// limit.
pub fn expire(arguments: &cli::Expire) -> Result<(), Error> {
    let report = list::report()?;
    let (Some(number), Some(limit)) = (report.generation, report.trial.and_then(|trial| trial.time_limit))
    else {
        return super::print("what runs has no time limit");
    };
    let uptime = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    thread::sleep(Duration::from_secs(limit).saturating_sub(uptime));
    match is_good(&arguments.state, number) {
        Ok(true) => return super::print(format_args!("generation {number} was blessed in time")),
        Ok(false) => {}
        // A generation that takes the state away is one of those that a limit is for.
        Err(error) => log::error!("nothing tells whether generation {number} was blessed: {}", error.chain()),
    }
    log::error!("generation {number} was not blessed within {limit} s: rebooting");
    reboot()
}

fn is_good(state: &cli::State, number: u32) -> Result<bool, Error> {
    Ok(generations::open_existing(state)?.trials_or_none()?.is_good(number))
}

/// Asks the machine's init to reboot as on Ctrl-Alt-Del, which every init
/// knows; one that does not in good time is not waited for.
pub fn reboot() -> Result<(), Error> {
    let failed = |source: std::io::Error| Error::Boot { what: "reboot".into(), source: source.into() };
    kill_process(Pid::INIT, Signal::INT).map_err(|errno| failed(errno.into()))?;
    thread::sleep(GRACE);
    let Err(error) = power::end(Ending::Reboot);
    Err(error.into())
}
