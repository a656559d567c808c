//! Where log lines go: the kernel log in the initramfs, stderr on a running
//! machine.
//!
//! In: records of the `log` macros. Out: one write per line to `/dev/kmsg`, to
//! the console where there is no kernel log, or to stderr; and the newest lines
//! in memory, for [`save`]. Invariant: logging never fails, never panics and
//! never uses more than [`MAX_REMEMBERED`] bytes, whatever is logged.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::time::{ClockId, clock_gettime};

/// The log's text that is kept for [`save`], in bytes. The oldest lines go
/// first.
pub const MAX_REMEMBERED: usize = 256 * 1024;

/// Longest text of one kernel log record, in bytes. Kernels before 6.6 refuse
/// writes above 992 bytes (`LOG_LINE_MAX`), and the prefix needs some of them.
const MAX_RECORD: usize = 960;

/// Most records that one message may take: a message is cut, not the log flooded.
const MAX_RECORDS: usize = 40;

/// Where lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The kernel log, for the initramfs. The kernel prints it on every console.
    Kernel,
    /// Standard error, for a command on a running machine.
    Stderr,
}

/// Starts logging: lines up to `level` are shown at `target`. A second call
/// changes nothing. Devices are opened when a line needs them, so this may
/// come before `/dev` is mounted.
pub fn init(level: LevelFilter, target: Target) {
    let logger = LOGGER.get_or_init(|| Logger::new(level, target, Devices::default()));
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level.max(LevelFilter::Debug));
    }
}

/// Writes the remembered lines to `path`: also debug lines that were not
/// shown, each with the seconds since the machine started.
pub fn save(path: &Path) -> io::Result<()> {
    let lines = LOGGER.get().map(Logger::remembered).unwrap_or_default();
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, lines)
}

/// An error and its causes, `subject: place: cause`, for a log line about it.
/// Some foreign errors repeat their cause in their own text; it is said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// The kernel's files that the log uses.
struct Devices {
    kmsg: PathBuf,
    console: PathBuf,
    ratelimit: PathBuf,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            kmsg: "/dev/kmsg".into(),
            console: "/dev/console".into(),
            ratelimit: "/proc/sys/kernel/printk_devkmsg".into(),
        }
    }
}

struct Logger {
    level: LevelFilter,
    target: Target,
    devices: Devices,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    /// Sum of the lengths of `lines`.
    bytes: usize,
    kmsg: Option<File>,
    ratelimit: Ratelimit,
}

/// What has been done about the kernel's limit of ten lines in five seconds
/// for each writer of `/dev/kmsg`.
#[derive(Default, PartialEq)]
enum Ratelimit {
    #[default]
    Unknown,
    Settled,
}

impl Logger {
    fn new(level: LevelFilter, target: Target, devices: Devices) -> Self {
        Self { level, target, devices, state: Mutex::default() }
    }

    /// A thread that panicked while it logged leaves a usable state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> String {
        self.state().lines.iter().map(String::as_str).collect()
    }

    fn show(&self, state: &mut State, level: Level, message: &str) {
        match self.target {
            Target::Stderr => {
                // Nobody is left to tell when stderr is gone, and `eprintln!` would panic.
                let _ = writeln!(io::stderr().lock(), "{}{message}", prefix(level));
            }
            Target::Kernel => self.show_in_kernel_log(state, level, message),
        }
    }

    fn show_in_kernel_log(&self, state: &mut State, level: Level, message: &str) {
        if state.kmsg.is_none() {
            state.kmsg = File::options().write(true).open(&self.devices.kmsg).ok();
        }
        if state.ratelimit == Ratelimit::Unknown {
            state.ratelimit = lift_ratelimit(&self.devices.ratelimit);
        }
        for part in records(message) {
            let record = format!("<{}>plywood: {part}\n", priority(level));
            let written = state.kmsg.as_mut().is_some_and(|kmsg| kmsg.write_all(record.as_bytes()).is_ok());
            if !written {
                self.show_on_console(level, &part);
            }
        }
    }

    /// The way out where the kernel log cannot be written. The console may be
    /// missing too; the line is then only remembered.
    fn show_on_console(&self, level: Level, part: &str) {
        let console = File::options()
            .write(true)
            .custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed())
            .open(&self.devices.console);
        if let Ok(mut console) = console {
            let _ = console.write_all(format!("plywood: {}{part}\r\n", prefix(level)).as_bytes());
        }
    }
}

impl Log for Logger {
    /// Shown are lines up to the chosen level; remembered are also our own
    /// debug lines, so that a failed boot can be explained afterwards.
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= self.level || metadata.level() <= Level::Debug && is_ours(metadata.target())
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args().to_string();
        let mut state = self.state();
        state.remember(record.level(), &message);
        if record.level() <= self.level {
            self.show(&mut state, record.level(), &message);
        }
    }

    fn flush(&self) {}
}

impl State {
    fn remember(&mut self, level: Level, message: &str) {
        let now = clock_gettime(ClockId::Boottime);
        let text = records(message).join("\n");
        let (seconds, micros) = (now.tv_sec, now.tv_nsec / 1000);
        let line = format!("[{seconds:5}.{micros:06}] {}{text}\n", prefix(level));
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > MAX_REMEMBERED {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

/// Allows PID 1 to write more than ten lines in five seconds, which a failing
/// boot easily does. The former value is not put back: the limit guards
/// against chatty unprivileged services, of which the initramfs has none, and
/// an init that wants it (systemd does not) sets it itself. A `printk.devkmsg=`
/// on the kernel command line locks the setting, so the user's choice stands.
fn lift_ratelimit(setting: &Path) -> Ratelimit {
    if std::process::id() != 1 {
        return Ratelimit::Settled;
    }
    // The kernel takes the word only with its newline.
    match fs::write(setting, "on\n") {
        // `/proc` is not mounted yet.
        Err(error) if error.kind() == ErrorKind::NotFound => Ratelimit::Unknown,
        _ => Ratelimit::Settled,
    }
}

fn is_ours(target: &str) -> bool {
    target == "plywood" || target.starts_with("plywood::")
}

/// syslog(2)'s number for a level; above 4 is hidden from a `quiet` console.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug | Level::Trace => "debug: ",
    }
}

/// One line without terminal control. Backslashes stay: foreign text inside
/// was escaped by whoever put it there.
fn escape_controls(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// `message` in parts that fit a kernel log record each: its lines, of which
/// all but the first are indented, cut between characters where too long.
/// Foreign text has its newlines escaped, so a line is one of our own.
fn records(message: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for (number, line) in message.split('\n').enumerate() {
        let indent = if number == 0 { "" } else { "  " };
        let mut rest = &*format!("{indent}{}", escape_controls(line));
        loop {
            let (part, after) = split_at_most(rest, MAX_RECORD);
            parts.push(part.to_owned());
            if after.is_empty() {
                break;
            }
            rest = after;
        }
    }
    parts.truncate(MAX_RECORDS);
    parts
}

/// The longest start of `text` of at most `limit` bytes, and the rest.
fn split_at_most(text: &str, limit: usize) -> (&str, &str) {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(logger: &Logger, level: Level, target: &str, message: &str) {
        logger.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
    }

    /// A logger whose devices are files in `directory`.
    fn logger(directory: &Path, level: LevelFilter) -> Logger {
        let devices = Devices {
            kmsg: directory.join("kmsg"),
            console: directory.join("console"),
            ratelimit: directory.join("printk_devkmsg"),
        };
        Logger::new(level, Target::Kernel, devices)
    }

    #[test]
    fn a_record_has_the_kernels_priority_and_one_line() {
        for (level, message, expected) in [
            (Level::Error, "no root", "<3>plywood: no root\n"),
            (Level::Warn, "slow", "<4>plywood: slow\n"),
            (Level::Info, "mounting", "<6>plywood: mounting\n"),
            (Level::Debug, "detail", "<7>plywood: detail\n"),
            (Level::Info, "a\nb\x1b[1m\0", "<6>plywood: a\n<6>plywood:   b\\u{1b}[1m\\u{0}\n"),
            (Level::Info, "größe \\x1b", "<6>plywood: größe \\x1b\n"),
            (Level::Info, "", "<6>plywood: \n"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("kmsg"), "").unwrap();
            log(&logger(directory.path(), LevelFilter::Debug), level, "plywood::x", message);
            assert_eq!(fs::read_to_string(directory.path().join("kmsg")).unwrap(), expected);
        }
    }

    #[test]
    fn without_a_kernel_log_the_console_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let logger = logger(directory.path(), LevelFilter::Info);
        log(&logger, Level::Error, "plywood", "nowhere to show this");
        fs::write(directory.path().join("console"), "").unwrap();
        log(&logger, Level::Error, "plywood", "no root");
        assert_eq!(
            fs::read_to_string(directory.path().join("console")).unwrap(),
            "plywood: error: no root\r\n"
        );
        fs::write(directory.path().join("kmsg"), "").unwrap();
        log(&logger, Level::Info, "plywood", "found it");
        assert_eq!(fs::read_to_string(directory.path().join("kmsg")).unwrap(), "<6>plywood: found it\n");
        assert!(logger.remembered().contains("nowhere to show this"));
    }

    #[test]
    fn long_messages_become_several_records_and_end() {
        for (message, records_expected) in [
            ("x".repeat(MAX_RECORD), 1),
            ("x".repeat(MAX_RECORD + 1), 2),
            ("ö".repeat(MAX_RECORD), 2),
            ("x".repeat(1 << 20), MAX_RECORDS),
        ] {
            let parts = records(&message);
            assert_eq!(parts.len(), records_expected);
            assert!(parts.iter().all(|part| part.len() <= MAX_RECORD));
            assert!(message.starts_with(&parts.concat()));
        }
    }

    #[test]
    fn levels_decide_what_is_shown_and_what_is_remembered() {
        for (level, target, shown, remembered) in [
            (Level::Info, "plywood::fetch", true, true),
            (Level::Debug, "plywood::fetch", false, true),
            (Level::Trace, "plywood::fetch", false, false),
            (Level::Warn, "ureq", true, true),
            (Level::Debug, "ureq", false, false),
            (Level::Debug, "plywoods", false, false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("kmsg"), "").unwrap();
            let logger = logger(directory.path(), LevelFilter::Info);
            log(&logger, level, target, "the line");
            let kmsg = fs::read_to_string(directory.path().join("kmsg")).unwrap();
            assert_eq!(kmsg.contains("the line"), shown, "{level} {target}");
            assert_eq!(logger.remembered().contains("the line"), remembered, "{level} {target}");
        }
    }

    #[test]
    fn the_memory_of_the_log_is_bounded_and_keeps_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let logger = logger(directory.path(), LevelFilter::Error);
        for number in 0..10_000 {
            log(&logger, Level::Info, "plywood", &format!("line {number} {}", "x".repeat(100)));
        }
        let text = logger.remembered();
        assert!(text.len() <= MAX_REMEMBERED && text.len() > MAX_REMEMBERED / 2);
        assert!(text.contains("line 9999 ") && !text.contains("line 1 "));
        assert!(text.starts_with('['));
    }
}
