//! What the process is to the rest of the system.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

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
