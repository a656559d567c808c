//! What a person sees of a fetch: a bar on a terminal, a line every few
//! seconds elsewhere.
//!
//! In: [`Event`]s. Out: lines of log, and the bar on standard error, one for
//! all blobs that are fetched at a time, of however many images. Invariant:
//! whatever is logged meanwhile, a bar is gone before.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::list;
use crate::fetch::{Event, Progress};
use crate::sys::kmsg;

/// Time between two lines of the same download.
const LINES: Duration = Duration::from_secs(3);
/// Time between two drawings of the bar.
const DRAWINGS: Duration = Duration::from_millis(100);
/// Characters inside the bar.
const WIDTH: u64 = 30;
/// Back to the start of the line, and clear it (ECMA-48, EL).
const ERASE: &str = "\r\x1b[K";

/// Shows the events of a fetch.
#[derive(Debug, Default)]
pub struct Console {
    style: Style,
    download: Mutex<Download>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Style {
    #[default]
    Lines,
    Bar,
}

#[derive(Debug, Default)]
struct Download {
    total: u64,
    received: u64,
    said: Option<Instant>,
    drawn: bool,
}

impl Progress for Console {
    fn report(&self, event: Event<'_>) {
        let mut download = self.download.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Received(bytes) => return self.received(&mut download, bytes),
            Event::Discarded(bytes) => {
                download.received = download.received.saturating_sub(bytes);
                return;
            }
            _ => download.erase(),
        }
        match event {
            Event::Started { image, blobs, bytes } => {
                log::info!("{image}: fetching {blobs} blobs, {bytes} bytes");
                download.add(bytes);
            }
            Event::Received(_) | Event::Discarded(_) => {}
            Event::Stored { digest, endpoint } => log::debug!("stored {digest} from {endpoint}"),
            Event::Delivered { digest, endpoint } => log::debug!("read {digest} from {endpoint}"),
            Event::Failed { endpoint, error } => log::warn!("{endpoint}: {}", kmsg::chain(error)),
            Event::Pausing(pause) => log::info!("trying again in {:.1} s", pause.as_secs_f32()),
            Event::Unverified { authority } => {
                log::warn!("the certificate of {authority} IS NOT VERIFIED, as the configuration says");
            }
            Event::Unencrypted { authority } => {
                log::warn!("the credentials for {authority} are sent UNENCRYPTED: its endpoint is http");
            }
            Event::TokenServer { endpoint, host } => {
                log::info!("{endpoint} sends us to {host} for a token");
            }
        }
    }
}

impl Console {
    /// For a command that a person runs, perhaps at a terminal.
    pub fn by_hand() -> Self {
        let style = if io::stderr().is_terminal() { Style::Bar } else { Style::Lines };
        Self { style, download: Mutex::default() }
    }

    /// For whoever logs while something may be downloading.
    pub fn say(&self, say: impl FnOnce()) {
        let mut download = self.download.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        download.erase();
        say();
    }

    fn received(&self, download: &mut Download, bytes: u64) {
        download.received += bytes;
        let complete = download.received >= download.total;
        let interval = if self.style == Style::Bar { DRAWINGS } else { LINES };
        if !complete && download.said.is_some_and(|said| said.elapsed() < interval) {
            return;
        }
        download.said = Some(Instant::now());
        match self.style {
            Style::Bar if complete => download.erase(),
            Style::Bar => download.draw(),
            Style::Lines if complete => {}
            Style::Lines => log::info!("fetched {} of {} bytes", download.received, download.total),
        }
    }
}

impl Download {
    /// Counts bytes that are to come, with those that still are.
    fn add(&mut self, bytes: u64) {
        if self.received >= self.total {
            (self.received, self.total) = (0, 0);
        }
        self.total = self.total.saturating_add(bytes);
        self.said = Some(Instant::now());
    }

    fn draw(&mut self) {
        self.drawn = true;
        print(&format!("{ERASE}{}", bar(self.received, self.total)));
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            print(ERASE);
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.download.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).erase();
    }
}

/// A terminal that is gone misses nothing.
fn print(text: &str) {
    let mut terminal = io::stderr().lock();
    let _ = terminal.write_all(text.as_bytes());
    let _ = terminal.flush();
}

fn bar(received: u64, total: u64) -> String {
    let of_total = |parts: u64| (u128::from(received) * u128::from(parts) / u128::from(total.max(1))) as u64;
    let filled = of_total(WIDTH).min(WIDTH) as usize;
    let (full, empty) = ("#".repeat(filled), " ".repeat(WIDTH as usize - filled));
    format!("[{full}{empty}] {:3} % of {}", of_total(100).min(100), list::size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_begins_anew_only_when_there_is_none() {
        let mut download = Download::default();
        for (bytes, received, expected) in [(10, 4, (4, 10)), (5, 11, (15, 15)), (7, 0, (0, 7))] {
            download.add(bytes);
            download.received += received;
            assert_eq!((download.received, download.total), expected);
        }
    }

    #[test]
    fn a_bar_is_as_full_as_the_download() {
        for (received, total, shown) in [
            (0, 1 << 20, "[                              ]   0 % of 1.0 MiB"),
            (1 << 19, 1 << 20, "[###############               ]  50 % of 1.0 MiB"),
            (1 << 20, 1 << 20, "[##############################] 100 % of 1.0 MiB"),
            (3 << 20, 1 << 20, "[##############################] 100 % of 1.0 MiB"),
            (u64::MAX, u64::MAX, "[##############################] 100 % of"),
            (0, 0, "[                              ]   0 % of"),
        ] {
            assert!(bar(received, total).starts_with(shown), "{}", bar(received, total));
        }
    }
}
