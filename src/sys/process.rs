//! What the process is to the rest of the system.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::{Error, failed};

/// Lets no core file and no debugger of the same user have this process's
/// memory, which holds passwords. Ends with the next exec (prctl(2),
/// `PR_SET_DUMPABLE`), so that init is not touched.
pub fn keep_memory_private() -> Result<(), Error> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("prctl", "PR_SET_DUMPABLE"))
}
