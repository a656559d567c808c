//! Signal actions.
//!
//! In: a signal and what to do. Out: the signal that came, or the kernel's
//! refusal.
//! Invariant: a handler only stores to an atomic, so it may interrupt any
//! code.

use std::io;

use rustix::io::Errno;

/// Has `handler` called on `signal`. It may do nothing but store to an
/// atomic.
pub(super) fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> Result<(), Errno> {
    set(signal, handler as *const () as libc::sighandler_t)
}

/// Has nothing happen on `signal`.
pub(super) fn ignore(signal: libc::c_int) -> Result<(), Errno> {
    set(signal, libc::SIG_IGN)
}

/// Gives every signal its default action and blocks none, as a new program
/// expects to start.
pub(super) fn reset() {
    // Signals that cannot be caught are refused, and need no reset.
    for signal in 1..=libc::SIGRTMAX() {
        let _ = set(signal, libc::SIG_DFL);
    }
    // SAFETY: an all-zero signal set is the empty set on Linux, and it lives
    // until the call has copied it; no old set is asked for.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn set(signal: libc::c_int, action: libc::sighandler_t) -> Result<(), Errno> {
    // SAFETY: a zeroed `sigaction` has no flags and an empty mask, and lives
    // until the call has copied it; no old action is asked for. `action` is
    // SIG_DFL, SIG_IGN or a function that takes a signal number and only stores to an
    // atomic.
    let result = unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = action;
        libc::sigaction(signal, &raw const new, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Signals that wait for [`wait`](Self::wait) from when this was made.
pub(super) struct Blocked(libc::sigset_t);

impl Blocked {
    /// Blocks those of `signals` that are not ignored, in this thread and in
    /// those that it starts from now on.
    pub(super) fn new(signals: &[libc::c_int]) -> Result<Self, Errno> {
        // SAFETY: an all-zero signal set is the empty set on Linux, and an
        // all-zero `sigaction` is valid to be written over; all pointers are
        // to locals that live through the calls.
        let (set, result) = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            for &signal in signals {
                let mut action: libc::sigaction = std::mem::zeroed();
                let known = libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0;
                if known && action.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(&raw mut set, signal);
                }
            }
            (set, libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))
        };
        if result == 0 { Ok(Self(set)) } else { Err(Errno::from_raw_os_error(result)) }
    }

    /// Waits for one of the signals.
    pub(super) fn wait(&self) -> Result<libc::c_int, Errno> {
        let mut signal = 0;
        // SAFETY: the set lives as long as `self`, `signal` through the call.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Ok(signal),
            error => Err(Errno::from_raw_os_error(error)),
        }
    }
}

/// Ends the process by `signal`, as if it had never been blocked.
pub(super) fn die_of(signal: libc::c_int) -> ! {
    reset();
    // SAFETY: `raise` takes any number and has no other precondition.
    unsafe { libc::raise(signal) };
    // The signal's default action was to end the process.
    std::process::abort()
}
