//! The hardware watchdog: a machine that hangs is reset.
//!
//! In: a time. Out: a watchdog that runs until somebody else feeds or stops
//! it. Invariant: closing the device after [`start`] leaves it running, as
//! the kernel's watchdog-api.rst promises for a close without a `V`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::{Error, failed};

const DEVICE: &str = "/dev/watchdog";

/// `WDIOC_SETTIMEOUT` of linux/watchdog.h: `_IOWR('W', 6, int)`.
const SET_TIMEOUT: libc::Ioctl = 0xc004_5706_u32 as libc::Ioctl;

/// Whether there is a watchdog.
pub fn is_there() -> bool {
    Path::new(DEVICE).exists()
}

/// Starts the watchdog: it resets the machine after `time`, unless it is fed
/// or stopped before. Returns the time it took, which some round.
pub fn start(time: Duration) -> Result<Duration, Error> {
    let device = open()?;
    let mut seconds = libc::c_int::try_from(time.as_secs()).unwrap_or(libc::c_int::MAX);
    // SAFETY: WDIOC_SETTIMEOUT reads and writes one int, which `seconds` is;
    // it and the descriptor live until the call has returned.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), SET_TIMEOUT, std::ptr::from_mut(&mut seconds)) };
    if result != 0 {
        let source = std::io::Error::last_os_error();
        // Opening it has started it, with a time that nobody asked for.
        if let Err(error) = stop_open(device) {
            log::warn!("the watchdog runs: {error}: {}", error.source);
        }
        return Err(error("ioctl WDIOC_SETTIMEOUT")(source));
    }
    Ok(Duration::from_secs(u64::from(seconds.unsigned_abs())))
}

/// Stops the watchdog. Fails with `BUSY` if somebody else has it, who feeds
/// it then.
pub fn stop() -> Result<(), Error> {
    stop_open(open()?)
}

fn stop_open(mut device: File) -> Result<(), Error> {
    device.write_all(b"V").map_err(error("write"))
}

fn open() -> Result<File, Error> {
    OpenOptions::new().write(true).open(Path::new(DEVICE)).map_err(error("open"))
}

fn error(call: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| failed(call, DEVICE)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
