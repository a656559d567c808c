//! What a person sees of a fetch: one line every few seconds, on a terminal
//! and on a console alike.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::fetch::{Event, Progress};
use crate::sys::kmsg;

/// Time between two lines of the same download.
const INTERVAL: Duration = Duration::from_secs(3);

/// Logs the events of a fetch.
#[derive(Debug, Default)]
pub struct Console(Mutex<Download>);

#[derive(Debug, Default)]
struct Download {
    total: u64,
    received: u64,
    said: Option<Instant>,
}

impl Progress for Console {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::Started { image, blobs, bytes } => {
                log::info!("{image}: fetching {blobs} blobs, {bytes} bytes");
                let mut download = self.lock();
                *download = Download { total: bytes, received: 0, said: Some(Instant::now()) };
            }
            Event::Received(bytes) => self.received(bytes),
            Event::Discarded(bytes) => {
                let mut download = self.lock();
                download.received = download.received.saturating_sub(bytes);
            }
            Event::Stored { digest, endpoint } => log::debug!("stored {digest} from {endpoint}"),
            Event::Delivered { digest, endpoint } => log::debug!("read {digest} from {endpoint}"),
            Event::Failed { endpoint, error } => log::warn!("{endpoint}: {}", kmsg::chain(error)),
            Event::Pausing(pause) => log::info!("trying again in {:.1} s", pause.as_secs_f32()),
            Event::Unverified { authority } => {
                log::warn!("the certificate of {authority} IS NOT VERIFIED, as the configuration says");
            }
            Event::TokenServer { endpoint, host } => {
                log::info!("{endpoint} sends us to {host} for a token");
            }
        }
    }
}

impl Console {
    fn lock(&self) -> std::sync::MutexGuard<'_, Download> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn received(&self, bytes: u64) {
        let mut download = self.lock();
        download.received += bytes;
        if download.said.is_none_or(|said| said.elapsed() >= INTERVAL) {
            download.said = Some(Instant::now());
            log::info!("fetched {} of {} bytes", download.received, download.total);
        }
    }
}
