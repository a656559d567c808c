//! The threads that compress blocks.
//!
//! In: a block. Out: a receiver that gets the finished block once some thread
//! is done with it. Whoever waits for receivers in the order of submission
//! has restored that order, so timing cannot reach the image. Buffers go in a
//! circle and are allocated only while the circle grows.

use std::io;
use std::num::NonZeroUsize;
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

pub(super) struct Pool {
    /// Taken when the pool ends, which ends its threads.
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    spare: Vec<Buffers>,
}

impl Pool {
    /// Blocks in flight for each thread: one in work, the next already there.
    const IN_FLIGHT: usize = 2;

    pub(super) fn new(compression: Compression, workers: NonZeroUsize) -> Result<Self, WriteError> {
        let (jobs, queue) = sync_channel(workers.get().saturating_mul(Self::IN_FLIGHT));
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self { jobs: Some(jobs), threads: Vec::new(), spare: Vec::new() };
        for number in 0..workers.get() {
            let codec = Codec::new(compression).map_err(|source| WriteError::Compress { source })?;
            let queue = Arc::clone(&queue);
            let thread = thread::Builder::new()
                .name(format!("squashfs-{number}"))
                .spawn(move || work(codec, &queue))
                .map_err(|source| WriteError::Spawn { source })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// How many blocks are worth having in flight. More cost memory only.
    pub(super) fn depth(&self) -> usize {
        self.threads.len() * Self::IN_FLIGHT
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
        if let Some(jobs) = &self.jobs {
            // With all threads gone the reply is dropped here, and the ticket reports it.
            let _ = jobs.send(Job { buffers, reply });
        }
        Ticket(ticket)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked was reported by the ticket of its block.
            let _ = thread.join();
        }
    }
}

fn work(mut codec: Codec, queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { mut buffers, reply }) = job else { return };
        let result = codec.compress(&buffers.input, &mut buffers.output);
        let result = result.map(|stored| Block { buffers, stored });
        // Nobody waits for it any more if the image was given up.
        let _ = reply.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_to_their_tickets_whatever_thread_is_first() {
        let mut pool = Pool::new(Compression::None, NonZeroUsize::new(3).unwrap()).unwrap();
        for round in 0..50_u8 {
            let tickets: Vec<_> = (0..6)
                .map(|number| {
                    let mut buffers = pool.buffers();
                    buffers.input.clear();
                    buffers.input.resize(1 + 1000 * usize::from(number), round ^ number);
                    pool.submit(buffers)
                })
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
}
