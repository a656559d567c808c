//! What the processor of a guest changes: QEMU's program and board, the
//! console, which assets it boots from and which plywood is tested.

use std::path::PathBuf;

use crate::asset::current;
use crate::program::{Program, QEMU, QEMU_ARM};

/// By the names that images and Debian have for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    pub(crate) fn qemu(self) -> Program {
        match self {
            Architecture::Amd64 => QEMU,
            Architecture::Arm64 => QEMU_ARM,
        }
    }

    /// QEMU 7.2 computes wrong flags for cmpxchg16b now and then, and a kernel
    /// 6.12 that allocates memory with it then faults at a random place.
    pub(crate) fn processor(self) -> &'static str {
        match self {
            Architecture::Amd64 => "max,-cx16",
            Architecture::Arm64 => "cortex-a57",
        }
    }

    pub(crate) fn board(self) -> &'static str {
        match self {
            Architecture::Amd64 => "pc",
            Architecture::Arm64 => "virt",
        }
    }

    /// The console, and no test of the timer, which comes too late where the
    /// host is busy.
    pub(crate) fn kernel_arguments(self) -> &'static str {
        match self {
            Architecture::Amd64 => "console=ttyS0 no_timer_check",
            Architecture::Arm64 => "console=ttyAMA0",
        }
    }

    /// The binary under test. Panics if it is older than its sources.
    pub fn plywood(self) -> PathBuf {
        match self {
            Architecture::Amd64 => current("build/plywood", "make build"),
            Architecture::Arm64 => current("build/aarch64/plywood", "make build-arm64"),
        }
    }
}
