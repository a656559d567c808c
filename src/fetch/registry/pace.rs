//! A body has to keep coming, whatever it is wrapped in.
//!
//! In: a connection below TLS, and the least rate. Out: the same connection,
//! whose reads end with [`TooSlow`] once too little came. Invariant: every
//! byte counts where it arrives, so that a TLS record or a chunk's header that
//! never becomes whole is as slow as it is, though nobody above sees any of it.

use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Fewer bytes a second came than they should.
#[derive(Debug, thiserror::Error)]
#[error("less than {minimum} bytes a second arrive")]
pub(super) struct TooSlow {
    pub minimum: u64,
}

/// Watches every connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// What comes is counted over twice this time.
    pub idle: Duration,
    /// Bytes a second.
    pub minimum: u64,
}

impl<In: Transport> Connector<In> for Pace {
    type Out = Paced<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|inner| Paced { inner, pace: *self, waited: Duration::ZERO, received: 0 }))
    }
}

/// A watched connection.
#[derive(Debug)]
pub(super) struct Paced<T> {
    inner: T,
    pace: Pace,
    /// Time spent waiting for the server. What the reader does in between is
    /// its own affair, however long it takes.
    waited: Duration,
    /// Bytes in that time.
    received: u64,
}

impl<T: Transport> Transport for Paced<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if timeout.reason != Timeout::RecvBody {
            // What comes before a body has its time as a whole.
            (self.waited, self.received) = (Duration::ZERO, 0);
            return self.inner.await_input(NextTimeout { per_read: None, ..timeout });
        }
        let (asked, before) = (Instant::now(), self.buffers().input().len());
        let progress = self.inner.await_input(timeout)?;
        self.waited += asked.elapsed();
        self.received += self.buffers().input().len().saturating_sub(before) as u64;
        if self.waited > self.pace.idle * 2 {
            let minimum = self.pace.minimum;
            if self.received < minimum.saturating_mul(self.waited.as_secs()) {
                return Err(ureq::Error::Other(Box::new(TooSlow { minimum })));
            }
            (self.waited, self.received) = (Duration::ZERO, 0);
        }
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
