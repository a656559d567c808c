//! The way out of an assembled system, whose init runs from what is to be
//! unmounted.
//!
//! In: the overlays of a boot. Out: instructions for systemd, where the root has
//! it, and as process 1 a machine that is off with nothing mounted that was
//! written to. Invariant: the machine ends, whatever cannot be unmounted.
//!
//! An overlay over a plain directory is unmounted lazily when all services have
//! stopped. systemd then executes the last program, `systemd-shutdown`, from
//! the base, which frees the overlay, its layers and their loop devices, and
//! unmounts the volume that they were on. Where the overlay hides a mount, the
//! root's own above all, that cannot be; there this program is
//! `/run/initramfs/shutdown`, which systemd jumps to in the end (its "initrd
//! interface"), with `/run/initramfs` as the root and the old one at `/oldroot`.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use log::LevelFilter;

use crate::sys::kmsg::{self, Target};
use crate::sys::mount::{self, Options};
use crate::sys::power::{self, Ending};
use crate::sys::{self, loopdev};

/// What systemd makes the root in the end.
const INITRAMFS: &str = "/run/initramfs";

/// The program's name, there and in that root.
const NAME: &str = "shutdown";

/// By this dracut knows that it has to unpack its initramfs there, which then
/// has a program of its own. It unmounts everything, too.
const OTHERS: &str = ".need_shutdown";

/// By these a root with systemd is known.
const SYSTEMD: [&str; 2] = ["usr/lib/systemd/systemd-shutdown", "lib/systemd/systemd-shutdown"];

/// Where systemd looks for units, too. To make `/run/systemd/system` would be
/// to say that systemd runs.
const UNITS: &str = "/run/systemd/system.attached";

/// For an overlay. Before=local-fs.target stops it after what needs that;
/// systemctl soft-reboot goes on with it.
const OVERLAY: &str = "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target umount.target\n\
    Conflicts=poweroff.target reboot.target halt.target kexec.target\n[Mount]\nLazyUnmount=yes\n";

/// For what layers are on: left to `systemd-shutdown`.
const KEPT: &str = "[Unit]\nDefaultDependencies=no\n";

const OLD_ROOT: &str = "/oldroot";

/// What systemd was told to tell the firmware.
const REBOOT_ARGUMENT: &str = "/run/systemd/reboot-param";

/// How long all of it may take: a file server that is gone is waited for in
/// vain, and init has waited for it already.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often, and after what pause, is tried again what is in use: the kernel
/// frees what a mount had shortly after it.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Sees to it that the init of `root` can unmount the `overlays`, mount points
/// below it, and then those of `kept`. A machine runs without that just as well.
pub fn prepare(root: &Path, overlays: &[PathBuf], kept: &[&str]) {
    if overlays.is_empty() || !SYSTEMD.iter().any(|program| root.join(program).exists()) {
        return;
    }
    let kept = kept.iter().try_for_each(|path| write_drop_in(Path::new(path), KEPT));
    let prepared = kept.and_then(|()| match hides_a_mount(overlays)? {
        true => leave_program(),
        false => {
            let mut places = overlays.iter().filter_map(|place| place.strip_prefix(root).ok());
            places.try_for_each(|place| write_drop_in(place, OVERLAY))
        }
    });
    if let Err(error) = prepared {
        log::warn!("the layers will not be unmounted at shutdown: {error}");
    }
}

fn hides_a_mount(overlays: &[PathBuf]) -> Result<bool, sys::Error> {
    let points = mount::mount_points()?;
    let mounts_at = |place: &PathBuf| points.iter().filter(|point| *point == place).count();
    Ok(overlays.iter().any(|place| mounts_at(place) > 1))
}

/// Leaves this program where systemd jumps to.
fn leave_program() -> io::Result<()> {
    let directory = Path::new(INITRAMFS);
    fs::create_dir_all(directory)?;
    if [NAME, OTHERS].iter().any(|name| directory.join(name).exists()) {
        log::info!("shutdown: the initramfs has a program of its own for it");
        return Ok(());
    }
    // Some initramfs has /run mounted noexec.
    mount::allow_programs(directory)?;
    let staged = directory.join(".shutdown");
    let copied = fs::copy("/proc/self/exe", &staged).and_then(|_| fs::rename(&staged, directory.join(NAME)));
    if copied.is_err()
        && let Err(error) = fs::remove_file(&staged)
    {
        log::debug!("{} stays: {error}", staged.display());
    }
    copied
}

fn write_drop_in(path: &Path, text: &str) -> io::Result<()> {
    let directory = Path::new(UNITS).join(format!("{}.mount.d", unit_name(path)));
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("plywood.conf"), text)
}

/// A path as the name of a unit, see "string escaping for inclusion in unit
/// names" in systemd.unit(5).
fn unit_name(path: &Path) -> String {
    let path = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
    let escaped = path.iter().enumerate().map(|(at, &byte)| match byte {
        b'/' => "-".into(),
        b'.' if at == 0 => "\\x2e".into(),
        b'.' | b':' | b'_' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    });
    escaped.collect()
}

/// Unmounts everything and ends the machine as `verb`, systemd's word, says.
pub fn run(verb: Option<&OsStr>) -> ! {
    kmsg::init(LevelFilter::Info, Target::Kernel);
    let ending = ending(verb);
    std::panic::set_hook(Box::new(move |panic| {
        log::error!("this is a bug in plywood: {panic}");
        finish(ending);
    }));
    release_in_time();
    finish(ending)
}

/// systemd's word for an end; what it does not know either is a reboot.
fn ending(verb: Option<&OsStr>) -> Ending {
    match verb.and_then(OsStr::to_str) {
        Some("poweroff" | "exit") => Ending::PowerOff,
        Some("halt") => Ending::Halt,
        Some("kexec") => Ending::Kexec,
        Some("reboot") => Ending::Reboot,
        _ => {
            log::warn!("shutdown: neither poweroff, halt, kexec nor reboot: rebooting");
            Ending::Reboot
        }
    }
}

fn release_in_time() {
    let (done, finished) = mpsc::channel();
    let work = move || {
        release();
        rustix::fs::sync();
        // Nobody waits any more if it took too long.
        let _ = done.send(());
    };
    match thread::Builder::new().name("release".into()).spawn(work) {
        Ok(_) if finished.recv_timeout(PATIENCE).is_ok() => {}
        Ok(_) => log::error!("shutdown: not everything was unmounted within {} s", PATIENCE.as_secs()),
        Err(error) => log::error!("shutdown: nothing is unmounted: cannot start a thread: {error}"),
    }
}

/// Unmounts what can be, the newest first. What is left then, the old root and
/// what its layers are on, keep each other in use, and go together.
fn release() {
    match mount::mount_points() {
        Ok(points) => points.iter().rev().filter(|point| is_to_go(point)).for_each(|point| unmount(point)),
        Err(error) => log::error!("shutdown: {}", kmsg::chain(&error)),
    }
    if let Err(error) = mount::detach(Path::new(OLD_ROOT)) {
        log::debug!("{}", kmsg::chain(&error));
    }
    match wait_for_loop_devices() {
        Ok(devices) if devices.is_empty() => {
            log::info!("everything is unmounted, and no loop device is in use")
        }
        Ok(devices) => log::error!("shutdown: loop devices in use: {}", devices.join(", ")),
        Err(error) => log::warn!("shutdown: cannot look for loop devices: {error}"),
    }
}

/// What is in use is at least not written to any more.
fn unmount(point: &Path) {
    let Err(error) = mount::unmount(point) else { return };
    log::debug!("{}", kmsg::chain(&error));
    if let Err(error) = mount::remount(point, &Options::parse("ro")) {
        log::debug!("{}", kmsg::chain(&error));
    }
}

/// Whether a mount is not one that this program runs from or needs.
fn is_to_go(point: &Path) -> bool {
    let is_needed = point == Path::new("/") || point == Path::new("/run");
    !is_needed && !["/dev", "/proc", "/sys"].iter().any(|kept| point.starts_with(kept))
}

/// The loop devices that are still in use after a while.
fn wait_for_loop_devices() -> io::Result<Vec<String>> {
    for _ in 0..ATTEMPTS {
        if loopdev::in_use()?.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
    }
    loopdev::in_use()
}

fn finish(ending: Ending) -> ! {
    log::info!("{ending:?}");
    if let (Ending::Reboot, Some(argument)) = (ending, reboot_argument()) {
        log::warn!("{}", kmsg::chain(&power::restart_with(&argument)));
    }
    // Without a kernel to start, or on a machine that cannot be switched off.
    for ending in [ending, Ending::Reboot, Ending::Halt] {
        let Err(error) = power::end_at_once(ending);
        log::error!("{}", kmsg::chain(&error));
    }
    loop {
        power::wait_for_ctrl_alt_del();
    }
}

fn reboot_argument() -> Option<CString> {
    let text = fs::read_to_string(REBOOT_ARGUMENT).ok()?;
    let argument = text.trim();
    if argument.is_empty() { None } else { CString::new(argument).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verb_is_systemds() {
        for (verb, expected) in [
            (Some("poweroff"), Ending::PowerOff),
            (Some("exit"), Ending::PowerOff),
            (Some("halt"), Ending::Halt),
            (Some("kexec"), Ending::Kexec),
            (Some("reboot"), Ending::Reboot),
            (Some("--log-level"), Ending::Reboot),
            (None, Ending::Reboot),
        ] {
            assert_eq!(ending(verb.map(OsStr::new)), expected, "{verb:?}");
        }
    }

    #[test]
    fn units_are_named_by_their_paths() {
        for (path, expected) in [
            ("usr", "usr"),
            ("/usr", "usr"),
            ("/run/plywood/state", "run-plywood-state"),
            ("/etc/cri/conf.d", "etc-cri-conf.d"),
            ("/opt/a-b c", "opt-a\\x2db\\x20c"),
            ("/.a/.b", "\\x2ea-.b"),
        ] {
            assert_eq!(unit_name(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn only_what_the_program_needs_stays_mounted() {
        for (point, expected) in [
            ("/", false),
            ("/run", false),
            ("/proc", false),
            ("/sys/fs/cgroup", false),
            ("/dev/pts", false),
            ("/oldroot", true),
            ("/oldroot/usr", true),
            ("/oldroot/run/plywood/state", true),
            ("/run/plywood/state", true),
            ("/development", true),
        ] {
            assert_eq!(is_to_go(Path::new(point)), expected, "{point}");
        }
    }
}
