//! Changesets unpacked ahead of whoever reads them.
//!
//! In: packed changesets, in the order in which they will be read. Out: plain
//! tars. Each is downloaded, verified and decompressed by a thread of its own,
//! while its reader works on what came before; the next one is begun
//! meanwhile. Invariant: threads wait for their readers, so that what lies
//! between them is bounded, and at most [`AHEAD`] of them are at work, fewer
//! where the machine may not download as many at a time.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use super::decompress::Decompressor;
use crate::fetch::{Changeset, Reader};
use crate::limits::Limits;

/// Changesets at work: the one that is read, and the next.
const AHEAD: usize = 2;

/// Bytes that are handed over together.
const CHUNK: usize = 128 << 10;

/// Chunks that may wait for their reader.
const WAITING: usize = 4;

/// Begins `changesets` in time and returns them in order.
pub(super) struct Unpacker<'scope, 'env, I> {
    scope: &'scope Scope<'scope, 'env>,
    limits: Limits,
    /// Changesets at work, at most.
    ahead: usize,
    changesets: I,
    begun: std::collections::VecDeque<io::Result<Unpacked<'scope>>>,
}

impl<'scope, 'env, 'c: 'scope, I: Iterator<Item = &'c Changeset<'c>>> Unpacker<'scope, 'env, I> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, limits: Limits, changesets: I) -> Self {
        Self { scope, limits, ahead: AHEAD, changesets, begun: Default::default() }
    }

    /// With no more than `most` changesets at work; there is always one.
    pub(super) fn at_most(self, most: usize) -> Self {
        Self { ahead: self.ahead.min(most.max(1)), ..self }
    }
}

impl<'scope, 'c: 'scope, I: Iterator<Item = &'c Changeset<'c>>> Iterator for Unpacker<'scope, '_, I> {
    type Item = io::Result<Unpacked<'scope>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.begun.len() < self.ahead
            && let Some(changeset) = self.changesets.next()
        {
            self.begun.push_back(Unpacked::begin(self.scope, self.limits, changeset));
        }
        self.begun.pop_front()
    }
}

/// A plain tar on its way.
pub(super) struct Unpacked<'scope> {
    chunks: Receiver<io::Result<Vec<u8>>>,
    /// Where chunks go back to be filled again.
    spare: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    /// Bytes of the chunk that were read.
    read: usize,
    has_ended: bool,
    thread: ScopedJoinHandle<'scope, Reader<'scope>>,
}

impl<'scope> Unpacked<'scope> {
    fn begin<'c: 'scope>(
        scope: &'scope Scope<'scope, '_>,
        limits: Limits,
        changeset: &'c Changeset<'c>,
    ) -> io::Result<Self> {
        let mut blob = changeset.blob().open()?;
        let compression = changeset.compression();
        let (full, chunks) = sync_channel(WAITING);
        let (spare, empty) = channel();
        let thread = Builder::new().name("unpack".into()).spawn_scoped(scope, move || {
            match Decompressor::new(compression, &mut blob, &limits) {
                Ok(plain) => unpack(plain, &full, &empty),
                Err(error) => drop(full.send(Err(error))),
            }
            blob
        })?;
        Ok(Self { chunks, spare, chunk: Vec::new(), read: 0, has_ended: false, thread })
    }

    /// Whether the packed changeset was what it should be, all of it.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.chunks);
        self.thread.join().map_err(|_| ended_early())?.drain()
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.chunk.len() && !buffer.is_empty() && !self.has_ended {
            let next = self.chunks.recv().map_err(|_| ended_early())??;
            // A thread that has ended fills no more.
            let _ = self.spare.send(std::mem::replace(&mut self.chunk, next));
            (self.read, self.has_ended) = (0, self.chunk.is_empty());
        }
        let count = (&self.chunk[self.read..]).read(buffer)?;
        self.read += count;
        Ok(count)
    }
}

fn ended_early() -> io::Error {
    io::Error::other("the unpacking thread ended early")
}

/// Sends chunks until the end, which is one without bytes, or a failure.
fn unpack(mut plain: impl Read, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        // New ones come zeroed from the allocator.
        let mut chunk = empty.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        chunk.resize(CHUNK, 0);
        let filled = fill(&mut plain, &mut chunk);
        let goes_on = matches!(filled, Ok(count) if count > 0);
        let filled = filled.map(|count| {
            chunk.truncate(count);
            chunk
        });
        // Without a reader there is nobody to unpack for.
        if full.send(filled).is_err() || !goes_on {
            return;
        }
    }
}

/// Reads until `room` is full or the end is reached.
fn fill(reader: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < room.len() {
        match reader.read(&mut room[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
