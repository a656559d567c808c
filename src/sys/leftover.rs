//! Files and directories that a command needs only while it runs.
//!
//! In: their paths. Out: [`Leftover`], with which they go. Invariant: they go
//! too when SIGHUP, SIGINT or SIGTERM ends the process, and it still ends by
//! that signal, so whoever waits for it learns the truth.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use super::signal;

/// Signals by which a command is stopped.
const ENDING: [libc::c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];
/// Other threads may go on making files while a directory is removed.
const REMOVE_ATTEMPTS: u32 = 16;

static PATHS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static WATCH: Once = Once::new();

/// A path to be removed, with all below it, when this is dropped or a signal
/// ends the process.
#[derive(Debug)]
pub struct Leftover(PathBuf);

impl Leftover {
    /// Takes care of `path` from now on, also if it is not made yet.
    pub fn new(path: PathBuf) -> Self {
        WATCH.call_once(watch);
        paths().push(path.clone());
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let mut paths = paths();
        if let Err(error) = remove(&self.0) {
            log::warn!("cannot remove {}, ignored: {error}", self.0.display());
        }
        paths.retain(|path| *path != self.0);
    }
}

/// A thread that panicked here leaves a usable list.
fn paths() -> MutexGuard<'static, Vec<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that ending signals go to. Without it they end the
/// process as before.
fn watch() {
    let Ok(caught) = signal::Blocked::new(&ENDING) else { return };
    let thread = thread::Builder::new().name("signals".into());
    if thread.spawn(move || end(&caught)).is_err() {
        log::warn!("cannot start a thread: what a signal interrupts will leave files behind");
    }
}

fn end(caught: &signal::Blocked) {
    let Ok(signal) = caught.wait() else { return };
    // Kept until the end: nothing more is made that the list does not have.
    let paths = paths();
    for path in paths.iter() {
        // Nobody is left to tell; what matters is that the others go.
        let _ = remove(path);
    }
    signal::die_of(signal);
}

/// What is not there needs no removal.
fn remove(path: &Path) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let result = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if attempts < REMOVE_ATTEMPTS => {}
            result => return result,
        }
    }
}
