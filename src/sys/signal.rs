//! Signal actions.
//!
//! In: a signal and what to do. Out: nothing, or the kernel's refusal.
//! Invariant: a handler only stores to an atomic, so it may interrupt any
//! code.

use std::io;

use rustix::io::Errno;

/// Has `handler` called on `signal`. It may do nothing but store to an
/// atomic.
pub(super) fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> Result<(), Errno> {
    set(signal, handler as *const () as libc::sighandler_t)
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
    // SIG_DFL or a function that takes a signal number and only stores to an
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
