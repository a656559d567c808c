//! The serial console of a running machine. In: QEMU's standard output. Out:
//! lines that a test waits for. All waiting ends at the machine's deadline,
//! by the host's clock; what was on the console is in the log file and, its
//! end, in the message of the test that failed.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

/// How many lines of the console a failure shows.
const SHOWN_LINES: usize = 60;

const PANIC: &str = "Kernel panic - not syncing";
const POWER_DOWN: &str = "reboot: Power down";
const RESTART: &str = "reboot: Restarting system";

/// A booted machine, seen through its serial console. Dropping it kills it.
pub struct Console {
    name: String,
    log: PathBuf,
    qemu: Child,
    input: ChildStdin,
    screen: Arc<Screen>,
    reader: Option<JoinHandle<()>>,
    /// Where in the text the next search starts.
    seen: usize,
    deadline: Instant,
}

/// Everything that a machine wrote on its console, from power on to the end.
pub struct Transcript {
    name: String,
    log: PathBuf,
    text: String,
}

/// What the reading thread shares with the waiting one.
#[derive(Default)]
struct Screen {
    state: Mutex<Written>,
    grew: Condvar,
}

#[derive(Default)]
struct Written {
    text: String,
    ended: bool,
}

impl Screen {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until there is more to read, or the deadline.
    fn wait<'a>(&self, written: MutexGuard<'a, Written>, deadline: Instant) -> MutexGuard<'a, Written> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.grew.wait_timeout(written, left);
        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }
}

impl Console {
    /// Watches `qemu`, whose standard streams are the serial console.
    pub(crate) fn new(name: &str, mut qemu: Child, log: PathBuf, deadline: Instant) -> Self {
        let output = qemu.stdout.take().expect("the machine starts QEMU with its output piped");
        let input = qemu.stdin.take().expect("the machine starts QEMU with its input piped");
        let file = std::fs::File::create(&log)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", log.display()));
        let screen = Arc::new(Screen::default());
        let shared = Arc::clone(&screen);
        let reader = std::thread::spawn(move || copy(output, file, &shared));
        Self { name: name.into(), log, qemu, input, screen, reader: Some(reader), seen: 0, deadline }
    }

    /// Waits until `pattern` is on the console, after what was found last;
    /// returns the line from there on. `*` in it stands for any text within
    /// the line. A kernel panic, the end of the machine and its deadline end
    /// the wait with a failure.
    pub fn expect(&mut self, pattern: &str) -> String {
        let screen = Arc::clone(&self.screen);
        let mut written = screen.lock();
        loop {
            let unseen = &written.text[self.seen..];
            if let Some((start, end)) = find(unseen, pattern) {
                let line = unseen[start..].lines().next().unwrap_or_default().to_owned();
                self.seen += end;
                return line;
            }
            let reason = if unseen.contains(PANIC) {
                "the kernel panicked"
            } else if written.ended {
                "the machine ended"
            } else if Instant::now() >= self.deadline {
                "the time is over"
            } else {
                written = screen.wait(written, self.deadline);
                continue;
            };
            let text = written.text.clone();
            drop(written);
            self.transcript(text).fail(&format!("waited for {pattern:?}, but {reason}"));
        }
    }

    /// Types `line` and Enter on the console.
    pub fn send(&mut self, line: &str) {
        let sent = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        sent.unwrap_or_else(|error| panic!("{}: cannot type {line:?}: {error}", self.name));
    }

    /// Waits until the guest has powered itself off.
    pub fn powered_off(mut self) -> Transcript {
        self.expect(POWER_DOWN);
        self.ended()
    }

    /// Waits until the guest has restarted itself, which ends the machine.
    pub fn restarted(mut self) -> Transcript {
        self.expect(RESTART);
        self.ended()
    }

    /// Waits until the machine has ended, however that came: a panic or a
    /// watchdog resets it without a word.
    pub fn stopped(self) -> Transcript {
        self.ended()
    }

    /// Ends the machine as a power cut does: the guest's caches are lost,
    /// what it wrote to its disks stays.
    pub fn power_cut(mut self) -> Transcript {
        self.kill();
        self.ended()
    }

    fn ended(mut self) -> Transcript {
        let screen = Arc::clone(&self.screen);
        let mut written = screen.lock();
        while !written.ended && Instant::now() < self.deadline {
            written = screen.wait(written, self.deadline);
        }
        let transcript = self.transcript(written.text.clone());
        let ended = written.ended;
        drop(written);
        self.kill();
        if !ended {
            transcript.fail("the guest said goodbye, but the machine went on");
        }
        transcript
    }

    fn transcript(&self, text: String) -> Transcript {
        Transcript { name: self.name.clone(), log: self.log.clone(), text }
    }

    fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Transcript {
    /// Fails if `pattern` was ever on the console.
    pub fn expect_never(&self, pattern: &str) -> &Self {
        if find(&self.text, pattern).is_some() {
            self.fail(&format!("{pattern:?} is on the console"));
        }
        self
    }

    /// Fails unless `pattern` was on the console at some time.
    pub fn expect(&self, pattern: &str) -> &Self {
        if find(&self.text, pattern).is_none() {
            self.fail(&format!("{pattern:?} is not on the console"));
        }
        self
    }

    /// What follows `prefix` in each line that has it, in their order. A line
    /// that was cut with the power does not count.
    pub fn after(&self, prefix: &str) -> Vec<&str> {
        let whole = self.text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        whole.filter_map(|line| Some(line.split_once(prefix)?.1)).collect()
    }

    fn fail(&self, reason: &str) -> ! {
        let lines: Vec<&str> = self.text.lines().collect();
        let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        panic!("{}: {reason}\n{last}\n(all of it: {})", self.name, self.log.display());
    }
}

/// Copies what QEMU prints to the log and, without escapes, to the screen.
fn copy(mut output: ChildStdout, mut log: std::fs::File, screen: &Screen) {
    let mut escapes = Escapes::default();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut buffer) {
        // The log is for people; a full disk must not fail a test.
        let _ = log.write_all(&buffer[..length]);
        let text = escapes.strip(&buffer[..length]);
        screen.lock().text.push_str(&text);
        screen.grew.notify_all();
    }
    screen.lock().ended = true;
    screen.grew.notify_all();
}

/// Takes carriage returns and terminal escapes out of a stream: the firmware
/// leaves some right before the first line of the kernel.
#[derive(Default)]
struct Escapes {
    state: Escape,
}

#[derive(Default)]
enum Escape {
    #[default]
    Outside,
    Begun,
    /// Within `ESC [ … letter`.
    Sequence,
}

impl Escapes {
    fn strip(&mut self, bytes: &[u8]) -> String {
        let kept: Vec<u8> = bytes.iter().copied().filter(|byte| self.keep(*byte)).collect();
        // A character cut by the end of a read loses its look, not its place.
        String::from_utf8_lossy(&kept).into_owned()
    }

    fn keep(&mut self, byte: u8) -> bool {
        match (&self.state, byte) {
            (Escape::Outside, 0x1b) => self.state = Escape::Begun,
            (Escape::Outside, byte) => return byte != b'\r',
            (Escape::Begun, b'[') => self.state = Escape::Sequence,
            (Escape::Sequence, b' '..=b'?') => {}
            (Escape::Begun | Escape::Sequence, _) => self.state = Escape::Outside,
        }
        false
    }
}

/// Where the first match of `pattern` begins and ends in `text`.
fn find(text: &str, pattern: &str) -> Option<(usize, usize)> {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if let Some((start, end)) = find_in_line(line, pattern) {
            return Some((offset + start, offset + end));
        }
        offset += line.len();
    }
    None
}

fn find_in_line(line: &str, pattern: &str) -> Option<(usize, usize)> {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let start = line.find(first)?;
    let end = parts.try_fold(start + first.len(), |from, part| {
        line[from..].find(part).map(|at| from + at + part.len())
    })?;
    Some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_within_a_line() {
        let text = "one two three\nfour two five\n";
        for (pattern, expected) in [
            ("two", Some((4, 7))),
            ("two*five", Some((19, 27))),
            ("one*three", Some((0, 13))),
            ("three*four", None),
            ("six", None),
        ] {
            assert_eq!(find(text, pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn escapes_are_stripped_wherever_a_read_ends() {
        let bytes = b"\x1bc\x1b[?7l\x1b[2J[ 0.0] Linux\r\n\x1b[1mbold\x1b[0m";
        for cut in 0..bytes.len() {
            let mut escapes = Escapes::default();
            let text = escapes.strip(&bytes[..cut]) + &escapes.strip(&bytes[cut..]);
            assert_eq!(text, "[ 0.0] Linux\nbold", "cut at {cut}");
        }
    }
}
