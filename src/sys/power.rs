//! What process 1 owes the machine: an end, and its children's.
//!
//! In: a decision. Out: the machine off, or a process that waits. Invariant:
//! everything written is on disk before [`end`] lets the machine go.

use std::convert::Infallible;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::sync;
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use rustix::system::RebootCommand;

use super::{Error, failed, signal};

/// Set by the signal handler, and taken by [`take_ctrl_alt_del`].
static CTRL_ALT_DEL: AtomicBool = AtomicBool::new(false);

/// How often process 1 looks after its children while it waits.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Reboot,
    PowerOff,
    Halt,
    /// Into the kernel that was loaded with `kexec_load(2)`.
    Kexec,
}

/// Writes everything to disk and ends the machine. Returns only if that is
/// refused: it takes `CAP_SYS_BOOT`.
pub fn end(ending: Ending) -> Result<Infallible, Error> {
    sync();
    end_at_once(ending)
}

/// Ends the machine; what is not on disk yet is lost.
pub fn end_at_once(ending: Ending) -> Result<Infallible, Error> {
    let (command, what) = match ending {
        Ending::Reboot => (RebootCommand::Restart, "restart"),
        Ending::PowerOff => (RebootCommand::PowerOff, "power off"),
        Ending::Halt => (RebootCommand::Halt, "halt"),
        Ending::Kexec => (RebootCommand::Kexec, "start the loaded kernel"),
    };
    rustix::system::reboot(command).map_err(failed("reboot", what))?;
    // The kernel stops inside the call; this is a sandbox that answers it.
    Err(failed("reboot", what)(Errno::NOSYS))
}

/// Reboots at once and tells the firmware or boot loader `argument`, as
/// `systemctl reboot --reboot-argument=` does. Most know none and only reboot.
pub fn restart_with(argument: &CStr) -> Error {
    // SAFETY: with LINUX_REBOOT_CMD_RESTART2 the kernel reads the last argument
    // as a string up to its NUL, which a `CStr` has and which lives until the
    // call has returned; it writes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_reboot,
            libc::LINUX_REBOOT_MAGIC1,
            libc::LINUX_REBOOT_MAGIC2,
            libc::LINUX_REBOOT_CMD_RESTART2,
            argument.as_ptr(),
        )
    };
    let error = std::io::Error::last_os_error();
    failed("reboot", "restart with an argument")(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Who acts on Ctrl-Alt-Del.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtrlAltDel {
    /// The kernel reboots at once, without writing anything to disk.
    Kernel,
    /// Process 1 gets SIGINT, which [`take_ctrl_alt_del`] then tells.
    Init,
}

/// Says who acts on Ctrl-Alt-Del. For `Init`, SIGINT is noticed from now on.
pub fn set_ctrl_alt_del(who: CtrlAltDel) -> Result<(), Error> {
    let command = match who {
        CtrlAltDel::Kernel => RebootCommand::CadOn,
        CtrlAltDel::Init => {
            signal::handle(libc::SIGINT, interrupted).map_err(failed("sigaction", "SIGINT"))?;
            RebootCommand::CadOff
        }
    };
    rustix::system::reboot(command).map_err(failed("reboot", "Ctrl-Alt-Del"))
}

/// Whether SIGINT came since this was last asked.
pub fn take_ctrl_alt_del() -> bool {
    CTRL_ALT_DEL.swap(false, Ordering::Relaxed)
}

/// Waits until Ctrl-Alt-Del and reaps children meanwhile. For ever, if the
/// kernel acts on those keys.
pub fn wait_for_ctrl_alt_del() {
    while !take_ctrl_alt_del() {
        reap();
        // The sleep goes on after a signal; a second late is soon enough.
        thread::sleep(REAP_INTERVAL);
    }
}

/// Takes note of all children that have ended. Orphans become children of
/// process 1 and stay zombies until then.
pub fn reap() {
    while matches!(wait(WaitOptions::NOHANG), Ok(Some(_)) | Err(Errno::INTR)) {}
}

extern "C" fn interrupted(_: libc::c_int) {
    CTRL_ALT_DEL.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    #[test]
    fn an_interrupt_is_noticed_once() {
        signal::handle(libc::SIGINT, interrupted).unwrap();
        assert!(!take_ctrl_alt_del());
        kill_process(getpid(), Signal::INT).unwrap();
        while !CTRL_ALT_DEL.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        assert!(take_ctrl_alt_del());
        assert!(!take_ctrl_alt_del());
    }
}
