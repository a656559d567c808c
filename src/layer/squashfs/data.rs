//! Contents: cut into blocks, compressed, appended in order, stored once.
//!
//! In: the contents of files. Out: where each is, as its inode has to say it.
//! Blocks wait in a queue for their compression; what is stored where is
//! decided when they leave it, in the order they entered. Invariant: the
//! queue is bounded, so memory does not grow with the size of a file but for
//! four bytes a block.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::ops::Range;

use super::error::WriteError;
use super::format::{HOLE, RAW_BLOCK};
use super::fragment::{Fragment, Packer};
use super::identity::{Identity, Sequence};
use super::output::{Mark, Output};
use super::pool::{Block, Buffers, Pool, Ticket};
use super::{FileId, Options};

/// Where the content of one file is.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Length in bytes.
    pub(super) size: u64,
    /// Where its first block is in the image, 0 if no block is stored.
    pub(super) start: u64,
    /// Bytes in holes.
    pub(super) sparse: u64,
    /// The tail, unless that is a hole.
    pub(super) fragment: Option<Fragment>,
    /// Which of all blocks are its own.
    pub(super) blocks: Range<u32>,
}

/// A fragment block in the image.
pub(super) struct FragmentBlock {
    pub(super) start: u64,
    pub(super) size_word: u32,
}

/// All contents, written.
pub(super) struct Written {
    pub(super) output: Output,
    pub(super) contents: Contents,
    pub(super) fragments: Vec<FragmentBlock>,
}

/// Where the contents of all files are.
#[derive(Default)]
pub(super) struct Contents {
    list: Vec<Content>,
    /// Stored sizes of blocks; those of one content follow one another.
    blocks: Vec<u32>,
}

impl Contents {
    /// Where one file's content is, and its block list.
    pub(super) fn get(&self, id: FileId) -> Option<(&Content, &[u32])> {
        let content = self.list.get(id.0 as usize)?;
        let Range { start, end } = content.blocks;
        Some((content, self.blocks.get(start as usize..end as usize)?))
    }
}

/// A block on its way, and what it belongs to.
struct Pending {
    ticket: Ticket,
    owner: Owner,
}

#[derive(Clone, Copy)]
enum Owner {
    /// `index` is the block's among all.
    Content {
        content: usize,
        index: usize,
    },
    Fragments,
}

/// The stored blocks of one content, while they are being appended.
struct Extent {
    content: usize,
    start: u64,
    /// Where it is taken back to if it is no new one.
    before: Mark,
}

/// The extents that are in the image, by what tells one from another.
#[derive(Default)]
struct Extents {
    /// For each length in bytes the first content of it, until its identity
    /// is known too. Most lengths are there once: nothing of them is hashed.
    lengths: HashMap<u64, Option<usize>>,
    /// Where extents start, by their identity.
    starts: HashMap<Identity, u64>,
}

/// Contents on their way into the image.
pub(super) struct Data {
    output: Output,
    block_size: u32,
    pool: Pool,
    queue: VecDeque<Pending>,
    packer: Packer,
    /// Room for a tail before it is packed.
    tail: Vec<u8>,
    contents: Contents,
    fragments: Vec<FragmentBlock>,
    open: Option<Extent>,
    extents: Extents,
}

impl Data {
    pub(super) fn new(output: Output, options: &Options) -> Result<Self, WriteError> {
        Ok(Self {
            output,
            block_size: options.block_size,
            pool: Pool::new(options.compression, &options.workers)?,
            queue: VecDeque::new(),
            packer: Packer::new(options.block_size),
            tail: vec![0; options.block_size as usize],
            contents: Contents::default(),
            fragments: Vec::new(),
            open: None,
            extents: Extents::default(),
        })
    }

    pub(super) fn add_file(&mut self, size: u64, reader: &mut dyn Read) -> Result<FileId, WriteError> {
        let content = self.contents.list.len();
        let id = u32::try_from(content).map_err(|_| WriteError::TooMany("files"))?;
        let first = self.block_count()?;
        self.contents.list.push(Content { size, blocks: first..first, ..Content::default() });
        let mut source = Source { reader, size, offset: 0 };
        while source.left() >= u64::from(self.block_size) {
            self.add_block(content, &mut source)?;
        }
        let tail = source.left() as usize;
        if tail > 0 {
            self.add_tail(content, tail, &mut source)?;
        }
        source.check_end()?;
        self.contents.list[content].blocks.end = self.block_count()?;
        Ok(FileId(id))
    }

    fn block_count(&self) -> Result<u32, WriteError> {
        u32::try_from(self.contents.blocks.len()).map_err(|_| WriteError::TooMany("blocks"))
    }

    /// Stores what is still on its way, and forgets what duplicates are found
    /// by: what comes after this is stored anew.
    pub(super) fn flush(&mut self) -> Result<(), WriteError> {
        self.flush_fragments()?;
        while let Some(next) = self.queue.pop_front() {
            self.store(next)?;
        }
        self.close_extent()?;
        self.extents = Extents::default();
        self.packer.forget();
        self.contents.list.shrink_to_fit();
        self.pool.shrink();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Written, WriteError> {
        self.flush()?;
        Ok(Written { output: self.output, contents: self.contents, fragments: self.fragments })
    }

    fn add_block(&mut self, content: usize, source: &mut Source) -> Result<(), WriteError> {
        let mut buffers = self.pool.buffers();
        buffers.input.resize(self.block_size as usize, 0);
        source.fill(&mut buffers.input)?;
        let index = self.add_hole();
        if is_zero(&buffers.input) {
            self.contents.list[content].sparse += u64::from(self.block_size);
            self.pool.recycle(buffers);
            return Ok(());
        }
        self.submit(buffers, Owner::Content { content, index })
    }

    fn add_tail(&mut self, content: usize, length: usize, source: &mut Source) -> Result<(), WriteError> {
        let mut room = std::mem::take(&mut self.tail);
        let tail = &mut room[..length];
        source.fill(tail)?;
        if is_zero(tail) {
            self.add_hole();
            self.contents.list[content].sparse += length as u64;
        } else {
            self.contents.list[content].fragment = Some(self.pack(tail)?);
        }
        self.tail = room;
        Ok(())
    }

    /// Adds a block to the block list; until it is stored it is a hole.
    fn add_hole(&mut self) -> usize {
        self.contents.blocks.push(HOLE);
        self.contents.blocks.len() - 1
    }

    fn pack(&mut self, tail: &[u8]) -> Result<Fragment, WriteError> {
        let identity = Identity::of(tail);
        if let Some(known) = self.packer.find(&identity) {
            return Ok(known);
        }
        if !self.packer.has_room(tail.len()) {
            self.flush_fragments()?;
        }
        Ok(self.packer.pack(identity, tail))
    }

    fn flush_fragments(&mut self) -> Result<(), WriteError> {
        let mut buffers = self.pool.buffers();
        if self.packer.take(&mut buffers.input) {
            return self.submit(buffers, Owner::Fragments);
        }
        self.pool.recycle(buffers);
        Ok(())
    }

    fn submit(&mut self, buffers: Buffers, owner: Owner) -> Result<(), WriteError> {
        while self.queue.len() >= self.pool.depth()
            && let Some(next) = self.queue.pop_front()
        {
            self.store(next)?;
        }
        self.queue.push_back(Pending { ticket: self.pool.submit(buffers), owner });
        Ok(())
    }

    /// Appends a block to the image as soon as it is compressed.
    fn store(&mut self, pending: Pending) -> Result<(), WriteError> {
        let block = pending.ticket.wait()?;
        match pending.owner {
            Owner::Content { content, index } => self.store_block(content, index, &block)?,
            Owner::Fragments => {
                // Or the extent could not be taken back any more.
                self.close_extent()?;
                let start = self.output.append(block.bytes())?;
                self.fragments.push(FragmentBlock { start, size_word: block.size_word() });
            }
        }
        self.pool.recycle_block(block);
        Ok(())
    }

    fn store_block(&mut self, content: usize, index: usize, block: &Block) -> Result<(), WriteError> {
        if self.open.as_ref().is_none_or(|extent| extent.content != content) {
            self.close_extent()?;
        }
        let start = self.output.position();
        self.open.get_or_insert_with(|| Extent { content, start, before: self.output.mark() });
        self.output.append(block.bytes())?;
        self.contents.blocks[index] = block.size_word();
        Ok(())
    }

    /// Decides whether the extent just written is new. If it is not, it is
    /// taken back, and the next one is written over it.
    fn close_extent(&mut self) -> Result<(), WriteError> {
        let Some(Extent { content, start, before }) = self.open.take() else { return Ok(()) };
        self.contents.list[content].start = start;
        let first = match self.extents.lengths.entry(self.output.position() - start) {
            Entry::Vacant(new) => {
                new.insert(Some(content));
                return Ok(());
            }
            Entry::Occupied(mut first) => first.get_mut().take(),
        };
        if let Some(first) = first {
            let identity = self.identify(first)?;
            self.extents.starts.insert(identity, self.contents.list[first].start);
        }
        match self.extents.starts.entry(self.identify(content)?) {
            Entry::Occupied(known) => {
                self.output.rewind(before);
                self.contents.list[content].start = *known.get();
            }
            Entry::Vacant(new) => {
                new.insert(start);
            }
        }
        Ok(())
    }

    /// Reads a content's blocks back, all of which are in the image.
    fn identify(&self, content: usize) -> Result<Identity, WriteError> {
        let Content { start, blocks, .. } = &self.contents.list[content];
        let (mut at, mut identity, mut block) = (*start, Sequence::new(), Vec::new());
        for word in &self.contents.blocks[blocks.start as usize..blocks.end as usize] {
            if *word != HOLE {
                block.resize((word & !RAW_BLOCK) as usize, 0);
                self.output.read_at(&mut block, at)?;
                identity.push(&Identity::of(&block));
                at += block.len() as u64;
            }
        }
        Ok(identity.finish())
    }
}

/// A reader that has to give exactly `size` bytes.
struct Source<'a> {
    reader: &'a mut dyn Read,
    size: u64,
    offset: u64,
}

impl Source<'_> {
    fn left(&self) -> u64 {
        self.size - self.offset
    }

    fn fill(&mut self, mut room: &mut [u8]) -> Result<(), WriteError> {
        while !room.is_empty() {
            match self.read(room)? {
                0 => return Err(WriteError::Short { expected: self.size, actual: self.offset }),
                count => room = &mut room[count..],
            }
        }
        Ok(())
    }

    /// Reads on to the end, so that readers that check their content do.
    fn check_end(&mut self) -> Result<(), WriteError> {
        let expected = self.size;
        match self.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(WriteError::Long { expected }),
        }
    }

    fn read(&mut self, room: &mut [u8]) -> Result<usize, WriteError> {
        loop {
            match self.reader.read(room) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(WriteError::Read { offset: self.offset, source }),
            }
        }
    }
}

/// Whether all bytes are 0: the first is, and each is equal to its neighbour.
/// That is one comparison of memory, which ends at once for most blocks.
fn is_zero(block: &[u8]) -> bool {
    match block {
        [] => true,
        [first, rest @ ..] => *first == 0 && *rest == block[..rest.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_hole_if_all_its_bytes_are_0() {
        for (block, expected) in [
            (&[][..], true),
            (&[0], true),
            (&[1], false),
            (&[0; 4096], true),
            (&[1; 4096], false),
            (&[&[0; 4095][..], &[1]].concat(), false),
            (&[&[1][..], &[0; 4095]].concat(), false),
            (&[&[0; 2000][..], &[1], &[0; 2000]].concat(), false),
        ] {
            assert_eq!(is_zero(block), expected);
        }
    }
}
