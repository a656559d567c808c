//! The end of a boot that cannot go on: what process 1 does instead of dying.
//!
//! In: an error, and what the command line says of failures. Out: a shell, a
//! reboot, or a machine that waits with the reason on its console. Invariant:
//! nothing here returns.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::config::cmdline::{BootParameters, FailureAction};
use crate::sys::kmsg;
use crate::sys::power::{self, CtrlAltDel, Ending};

/// Shells that an initramfs may have, the likeliest first.
const SHELLS: [&str; 3] = ["/bin/sh", "/usr/bin/sh", "/bin/busybox"];

/// What becomes of a machine that cannot boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Shell,
    End(Ending),
    /// Reboot after so long.
    RebootAfter(Duration),
    /// Show the reason until Ctrl-Alt-Del.
    Wait,
}

impl Fate {
    /// Reads the command line: `plywood.onfailure=` decides; `panic=` asks for
    /// a reboot and forbids a shell, as it does for initramfs-tools, because
    /// who sets it expects no one at the console; else `rd.shell` allows one.
    pub fn of(parameters: &BootParameters) -> Self {
        match (parameters.on_failure, parameters.panic) {
            (Some(FailureAction::Reboot), _) => Self::End(Ending::Reboot),
            (Some(FailureAction::PowerOff), _) => Self::End(Ending::PowerOff),
            (Some(FailureAction::Halt), _) => Self::End(Ending::Halt),
            (_, Some(seconds)) if seconds < 0 => Self::End(Ending::Reboot),
            (_, Some(seconds)) if seconds > 0 => {
                Self::RebootAfter(Duration::from_secs(u64::from(seconds.unsigned_abs())))
            }
            _ if parameters.shell => Self::Shell,
            _ => Self::Wait,
        }
    }
}

/// Ends the boot. `reason` was not logged yet.
pub fn end(reason: &str, fate: Fate) -> ! {
    log::error!("cannot boot: {reason}");
    if let Err(error) = kmsg::save(Path::new("/run/plywood/log")) {
        log::warn!("cannot keep the log, ignored: {error}");
    }
    // Whoever waits at the console needs a way out that syncs disks.
    if let Err(error) = power::set_ctrl_alt_del(CtrlAltDel::Init) {
        log::debug!("{error}");
    }
    match fate {
        Fate::Shell => shell(),
        Fate::End(ending) => finish(ending),
        Fate::RebootAfter(pause) => {
            log::error!("rebooting in {} s", pause.as_secs());
            thread::sleep(pause);
        }
        Fate::Wait => {
            log::error!("waiting; Ctrl-Alt-Del reboots");
            power::wait_for_ctrl_alt_del();
        }
    }
    finish(Ending::Reboot)
}

/// Ends the machine where `plywood.onfailure=` names an end. Returns where the
/// initramfs that called is to decide.
pub fn end_if_asked(reason: &str, action: FailureAction) {
    let ending = match action {
        FailureAction::Reboot => Ending::Reboot,
        FailureAction::PowerOff => Ending::PowerOff,
        FailureAction::Halt => Ending::Halt,
        FailureAction::Base | FailureAction::Shell => return,
    };
    log::error!("cannot boot: {reason}");
    finish(ending)
}

fn finish(ending: Ending) -> ! {
    log::info!("{ending:?}");
    let Err(error) = power::end(ending);
    log::error!("{error}: {}", error.source);
    loop {
        power::wait_for_ctrl_alt_del();
    }
}

/// Runs a shell on the console until it exits.
fn shell() {
    let Some(shell) = SHELLS.iter().find(|shell| Path::new(shell).exists()) else {
        log::error!("there is no shell in this initramfs; waiting; Ctrl-Alt-Del reboots");
        return power::wait_for_ctrl_alt_del();
    };
    log::error!("starting {shell}; the log is in /run/plywood/log; leaving the shell reboots");
    let arguments: &[&str] = if shell.ends_with("busybox") { &["sh"] } else { &[] };
    let status = Command::new(shell)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/")
        .stdin(Stdio::inherit())
        .status();
    if let Err(error) = status {
        log::error!("cannot run {shell}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cmdline::CommandLine;

    #[test]
    fn the_command_line_decides_the_fate() {
        for (line, fate) in [
            ("", Fate::Wait),
            ("rd.shell", Fate::Shell),
            ("rd.shell=0", Fate::Wait),
            ("panic=0 rd.shell", Fate::Shell),
            ("panic=0", Fate::Wait),
            ("panic=-1 rd.shell", Fate::End(Ending::Reboot)),
            ("panic=5 rd.shell", Fate::RebootAfter(Duration::from_secs(5))),
            ("plywood.onfailure=poweroff panic=5", Fate::End(Ending::PowerOff)),
            ("plywood.onfailure=shell rd.shell", Fate::Shell),
            ("plywood.onfailure=base panic=-1", Fate::End(Ending::Reboot)),
        ] {
            let parameters = BootParameters::new(&CommandLine::parse(line.as_bytes()));
            assert_eq!(Fate::of(&parameters), fate, "{line}");
        }
    }
}
