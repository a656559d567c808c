//! What the process is to the rest of the system.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use super::{Error, failed, signal};

/// Lets no core file and no debugger of the same user have this process's
/// memory, which holds passwords. Ends with the next exec (prctl(2),
/// `PR_SET_DUMPABLE`), so that init is not touched.
pub fn keep_memory_private() -> Result<(), Error> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("prctl", "PR_SET_DUMPABLE"))
}

/// Makes a write beyond the limit for files an error like that of a full disk,
/// so that what was begun is removed (setrlimit(2), `RLIMIT_FSIZE`).
pub fn outlive_file_size_limit() -> Result<(), Error> {
    signal::ignore(libc::SIGXFSZ).map_err(failed("sigaction", "SIGXFSZ"))
}

/// Gives back to the system what was freed: the C library keeps that for the
/// thread that had it (malloc_trim(3)).
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and locks what other threads use meanwhile.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// As many open files as the hard limit allows, until this is dropped: what is
/// started later may count on the soft one (select(2)).
#[derive(Debug)]
#[must_use = "the limit holds until this is dropped"]
pub struct ManyFiles(Rlimit);

impl ManyFiles {
    /// Raises the limit (setrlimit(2), `RLIMIT_NOFILE`).
    pub fn allow() -> Result<Self, Error> {
        let before = getrlimit(Resource::Nofile);
        let most = Rlimit { current: before.maximum, maximum: before.maximum };
        setrlimit(Resource::Nofile, most).map_err(failed("setrlimit", "RLIMIT_NOFILE"))?;
        Ok(Self(before))
    }
}

impl Drop for ManyFiles {
    fn drop(&mut self) {
        if let Err(errno) = setrlimit(Resource::Nofile, self.0) {
            log::warn!("the limit for open files stays raised: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_for_files_is_as_before_in_the_end() {
        let limits = || (getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
        let before = limits();
        let many = ManyFiles::allow().unwrap();
        assert_eq!(limits(), (before.1, before.1));
        drop(many);
        assert_eq!(limits(), before);
    }
}
