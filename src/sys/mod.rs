//! The kernel: mounts, loop devices, modules, devices, network, console.
//!
//! The only module with `unsafe`, and the only one that makes system calls
//! that the standard library does not offer. Errors name the call and what it
//! was for. Uses nothing else of plywood.

pub mod block;
pub mod clock;
pub mod deadline;
pub mod dhcp;
pub mod directory;
pub mod firmware;
pub mod kmsg;
pub mod leftover;
pub mod linker_cache;
pub mod loopdev;
pub mod module;
pub mod mount;
pub mod net;
pub mod power;
pub mod process;
mod random;
pub mod roots;
mod signal;
pub mod sntp;
pub mod switch_root;
mod sysfs;
pub mod threads;
pub mod uevent;
pub mod watchdog;

use rustix::io::Errno;

/// A system call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed for {what}")]
pub struct Error {
    /// The call's name, as in its manual page.
    pub call: &'static str,
    /// What it was to act on, safe to print.
    pub what: String,
    pub source: Errno,
}

/// For `map_err`: the error of `call` on `what`.
fn failed(call: &'static str, what: impl ToString) -> impl FnOnce(Errno) -> Error {
    move |source| Error { call, what: what.to_string(), source }
}

/// Where only the kind of an error matters; the call it came from is lost.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        error.source.into()
    }
}
