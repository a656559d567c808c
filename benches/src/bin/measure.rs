//! Runs a program and writes what it used: `measure FILE PROGRAM ARGUMENT…`.
//!
//! Out: FILE, with the seconds on the clock, the CPU seconds and the peak
//! resident KiB of the largest process. A process counts the memory of the one
//! that it was forked from, so this one is small; its standard streams are the
//! program's.

use std::env;
use std::error::Error;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let file = arguments.next().ok_or("no file for the result")?;
    let program = arguments.next().ok_or("no program")?;
    let started = Instant::now();
    let status = Command::new(program).args(arguments).status()?;
    let wall = started.elapsed().as_secs_f64();
    let usage = children_usage()?;
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    fs::write(file, format!(r#"{{"wall": {wall}, "cpu": {cpu}, "rss": {}}}"#, usage.ru_maxrss))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into())
}

fn children_usage() -> std::io::Result<libc::rusage> {
    // SAFETY: all-zero bytes are a valid `struct rusage`: it holds integers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a live `struct rusage`, which the call fills and
    // keeps no pointer to.
    let result = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    if result == 0 { Ok(usage) } else { Err(std::io::Error::last_os_error()) }
}
