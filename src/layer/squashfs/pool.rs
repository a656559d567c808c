//! The threads that compress blocks.
//!
//! In: blocks of any number of writers. Out: for each a receiver that gets the
//! finished block once some thread is done with it. Whoever waits for receivers
//! in the order of submission has restored that order, so timing cannot reach
//! an image. Invariant: blocks in flight are bounded for all writers together;
//! their buffers go in a circle and are allocated only while the circle grows.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::codec::{Codec, Compression, Stored};
use super::error::WriteError;
use super::format::RAW_BLOCK;

/// Room for one block on its way through a thread.
#[derive(Default)]
pub(super) struct Buffers {
    pub(super) input: Vec<u8>,
    output: Vec<u8>,
}

/// A block as it is to be stored.
pub(super) struct Block {
    buffers: Buffers,
    stored: Stored,
}

impl Block {
    pub(super) fn bytes(&self) -> &[u8] {
        match self.stored {
            Stored::Compressed => &self.buffers.output,
            Stored::Raw => &self.buffers.input,
        }
    }

    /// The stored size as block lists and the fragment table have it.
    pub(super) fn size_word(&self) -> u32 {
        // A block is at most 1 MiB.
        let size = self.bytes().len() as u32;
        match self.stored {
            Stored::Compressed => size,
            Stored::Raw => size | RAW_BLOCK,
        }
    }
}

struct Job {
    compression: Compression,
    buffers: Buffers,
    reply: SyncSender<io::Result<Block>>,
}

/// A block that some thread has or will get.
pub(super) struct Ticket(Receiver<io::Result<Block>>);

impl Ticket {
    pub(super) fn wait(self) -> Result<Block, WriteError> {
        let ended = |_| Err(io::Error::other("the compression thread ended early"));
        self.0.recv().unwrap_or_else(ended).map_err(|source| WriteError::Compress { source })
    }
}

/// Compression threads, shared by all writers that have a clone of this. They
/// start with the first writer, and end with the last clone.
#[derive(Clone, Debug)]
pub struct Workers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    count: NonZeroUsize,
    /// Writers at work.
    writers: AtomicUsize,
    threads: Mutex<Option<Threads>>,
}

impl Workers {
    /// As many as `count`, beside the threads that write.
    pub fn new(count: NonZeroUsize) -> Self {
        Self(Arc::new(Shared { count, writers: AtomicUsize::new(0), threads: Mutex::default() }))
    }

    fn jobs(&self) -> Result<SyncSender<Job>, WriteError> {
        // Threads are there whole or not at all, whoever panicked.
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let started = match threads.take() {
            Some(started) => started,
            None => Threads::start(self.0.count)?,
        };
        Ok(threads.insert(started).jobs.clone())
    }
}

#[derive(Debug)]
struct Threads {
    jobs: SyncSender<Job>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(count: NonZeroUsize) -> Result<Self, WriteError> {
        let (jobs, queue) = sync_channel(count.get().saturating_mul(Pool::IN_FLIGHT));
        let queue = Arc::new(Mutex::new(queue));
        let start = |number| {
            let queue = Arc::clone(&queue);
            let thread = thread::Builder::new().name(format!("squashfs-{number}"));
            thread.spawn(move || work(&queue)).map_err(|source| WriteError::Spawn { source })
        };
        let handles = (0..count.get()).map(start).collect::<Result<_, _>>()?;
        Ok(Self { jobs, handles })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { jobs, handles }) = threads else { return };
        // Which ends them: no writer is left that could have another sender.
        drop(jobs);
        for thread in handles {
            // A thread that panicked was reported by the ticket of its block.
            let _ = thread.join();
        }
    }
}

/// One writer's share of the threads.
pub(super) struct Pool {
    compression: Compression,
    spare: Vec<Buffers>,
    /// Before `workers`, whose threads end when there is no sender left.
    jobs: SyncSender<Job>,
    workers: Workers,
}

impl Pool {
    /// Blocks in flight for each thread: one in work, the next already there.
    const IN_FLIGHT: usize = 2;

    pub(super) fn new(compression: Compression, workers: &Workers) -> Result<Self, WriteError> {
        let jobs = workers.jobs()?;
        workers.0.writers.fetch_add(1, Ordering::Relaxed);
        Ok(Self { compression, spare: Vec::new(), jobs, workers: workers.clone() })
    }

    /// How many blocks are worth having in flight. More cost memory only, so
    /// writers share what there is.
    pub(super) fn depth(&self) -> usize {
        let Shared { count, writers, .. } = &*self.workers.0;
        let share = count.get() * Self::IN_FLIGHT / writers.load(Ordering::Relaxed).max(1);
        share.max(Self::IN_FLIGHT)
    }

    /// Buffers with some content that is to be overwritten.
    pub(super) fn buffers(&mut self) -> Buffers {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn recycle(&mut self, buffers: Buffers) {
        self.spare.push(buffers);
    }

    /// Frees the room that no block is in.
    pub(super) fn shrink(&mut self) {
        self.spare = Vec::new();
    }

    pub(super) fn recycle_block(&mut self, block: Block) {
        self.recycle(block.buffers);
    }

    /// Hands `buffers.input` to the next thread that is free.
    pub(super) fn submit(&self, buffers: Buffers) -> Ticket {
        let (reply, ticket) = sync_channel(1);
        // With all threads gone the reply is dropped here, and the ticket reports it.
        let _ = self.jobs.send(Job { compression: self.compression, buffers, reply });
        Ticket(ticket)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.workers.0.writers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    let mut codec = None;
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { compression, mut buffers, reply }) = job else { return };
        let result = codec_for(compression, &mut codec)
            .and_then(|codec| codec.compress(&buffers.input, &mut buffers.output));
        let result = result.map(|stored| Block { buffers, stored });
        // Nobody waits for it any more if the image was given up.
        let _ = reply.send(result);
    }
}

/// The codec of the block before, mostly.
fn codec_for(compression: Compression, kept: &mut Option<(Compression, Codec)>) -> io::Result<&mut Codec> {
    if kept.as_ref().is_some_and(|(of, _)| *of != compression) {
        *kept = None;
    }
    match kept {
        Some((_, codec)) => Ok(codec),
        None => Ok(&mut kept.insert((compression, Codec::new(compression)?)).1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKERS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

    fn submit(pool: &mut Pool, length: usize, byte: u8) -> Ticket {
        let mut buffers = pool.buffers();
        buffers.input.clear();
        buffers.input.resize(length, byte);
        pool.submit(buffers)
    }

    #[test]
    fn blocks_come_back_to_their_tickets_whatever_thread_is_first() {
        let mut pool = Pool::new(Compression::None, &Workers::new(WORKERS)).unwrap();
        for round in 0..50_u8 {
            let tickets: Vec<_> = (0..6)
                .map(|number| submit(&mut pool, 1 + 1000 * usize::from(number), round ^ number))
                .collect();
            for (number, ticket) in (0_u8..).zip(tickets) {
                let block = ticket.wait().unwrap();
                assert_eq!(block.bytes().len(), 1 + 1000 * usize::from(number));
                assert!(block.bytes().iter().all(|&byte| byte == round ^ number));
                assert_eq!(block.size_word(), block.bytes().len() as u32 | RAW_BLOCK);
                pool.recycle_block(block);
            }
        }
        assert_eq!(pool.spare.len(), 6);
    }

    #[test]
    fn writers_share_threads_and_room_each_with_its_own_compression() {
        let workers = Workers::new(WORKERS);
        let compressions = [Compression::None, Compression::default(), Compression::Lz4];
        let mut pools = compressions.map(|compression| Pool::new(compression, &workers).unwrap());
        assert_eq!(pools.each_ref().map(Pool::depth), [2, 2, 2]);
        for byte in 0..20 {
            let tickets = pools.each_mut().map(|pool| submit(pool, 5000, byte));
            let lengths = tickets.map(|ticket| ticket.wait().unwrap().bytes().len());
            assert_eq!(lengths[0], 5000);
            assert!(lengths[1] < 100 && lengths[2] < 100 && lengths[1] != lengths[2], "{lengths:?}");
        }
        let [alone, ended @ ..] = pools;
        drop(ended);
        assert_eq!(alone.depth(), 6);
    }
}
