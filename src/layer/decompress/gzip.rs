//! Gzip files: one member after another (RFC 1952).
//!
//! ```text
//! 1f 8b | method 8 | flags | mtime 4 | xfl | os        10 bytes
//! [extra: length 2, bytes] [name NUL] [comment NUL] [CRC-16 of the header]
//! deflate stream | CRC-32 of the content 4 | its length modulo 2^32 4
//! ```
//! A file is a series of members and nothing else (§2.2). Padding after the
//! last member, of zeros too, is therefore refused, as Go's reader does,
//! which containerd and most registries use; gzip(1) would pass over it.

use std::io::{self, Read};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::input::Input;
use super::{DecompressError, GzipProblem};
use crate::limits::{Bound, Exceeded, Limits};

const FLAG_HEADER_CRC: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const RESERVED_FLAGS: u8 = 0xe0;

pub(super) struct Gzip<R> {
    input: Input<R>,
    inflate: Decompress,
    checksum: Crc,
    state: State,
    /// Longest name or comment, in bytes. An extra field has at most 64 KiB by
    /// its format.
    longest_field: u64,
}

enum State {
    /// At the start of the file, where a member must follow.
    Start,
    Member,
    /// Behind a member, where another one or the end may follow.
    Between,
    End,
}

impl<R: Read> Gzip<R> {
    pub(super) fn new(input: Input<R>, limits: &Limits) -> Self {
        let longest_field = limits.get(Bound::GzipField);
        Self {
            input,
            inflate: Decompress::new(false),
            checksum: Crc::new(),
            state: State::Start,
            longest_field,
        }
    }

    pub(super) fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state {
                State::End => return Ok(0),
                State::Between if self.input.fill()?.is_empty() => self.state = State::End,
                State::Start | State::Between => {
                    self.header()?;
                    self.state = State::Member;
                }
                State::Member => {
                    let count = self.inflate(output)?;
                    if count > 0 {
                        return Ok(count);
                    }
                }
            }
        }
    }

    /// One step of inflating. Without output the state has moved on.
    fn inflate(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let input = self.input.fill()?;
            let at_end = input.is_empty();
            let status = self.inflate.decompress(input, output, FlushDecompress::None);
            let consumed = (self.inflate.total_in() - before_in) as usize;
            let produced = (self.inflate.total_out() - before_out) as usize;
            self.input.consume(consumed);
            self.checksum.update(&output[..produced]);
            match status {
                Err(_) => return Err(self.refuse(GzipProblem::Deflate)),
                Ok(Status::StreamEnd) => {
                    self.trailer()?;
                    return Ok(produced);
                }
                Ok(_) if produced > 0 => return Ok(produced),
                Ok(_) if at_end => return Err(self.refuse(GzipProblem::Truncated)),
                Ok(_) if consumed == 0 => return Err(self.refuse(GzipProblem::Deflate)),
                Ok(_) => {}
            }
        }
    }

    fn header(&mut self) -> io::Result<()> {
        let mut crc = Crc::new();
        let fixed: [u8; 10] = self.take(&mut crc)?;
        let [magic1, magic2, method, flags, ..] = fixed;
        if [magic1, magic2] != [0x1f, 0x8b] {
            return Err(self.refuse(GzipProblem::Magic));
        }
        if method != 8 || flags & RESERVED_FLAGS != 0 {
            return Err(self.refuse(GzipProblem::Header));
        }
        if flags & FLAG_EXTRA != 0 {
            for _ in 0..u16::from_le_bytes(self.take(&mut crc)?) {
                self.take::<1>(&mut crc)?;
            }
        }
        for flag in [FLAG_NAME, FLAG_COMMENT] {
            if flags & flag != 0 {
                self.skip_string(&mut crc)?;
            }
        }
        let sum = crc.sum() as u16;
        if flags & FLAG_HEADER_CRC != 0 && u16::from_le_bytes(self.take(&mut crc)?) != sum {
            return Err(self.refuse(GzipProblem::HeaderChecksum));
        }
        self.inflate.reset(false);
        self.checksum.reset();
        Ok(())
    }

    fn trailer(&mut self) -> io::Result<()> {
        let mut unused = Crc::new();
        if u32::from_le_bytes(self.take(&mut unused)?) != self.checksum.sum() {
            return Err(self.refuse(GzipProblem::Checksum));
        }
        if u32::from_le_bytes(self.take(&mut unused)?) != self.inflate.total_out() as u32 {
            return Err(self.refuse(GzipProblem::Length));
        }
        self.state = State::Between;
        Ok(())
    }

    fn skip_string(&mut self, crc: &mut Crc) -> io::Result<()> {
        for _ in 0..self.longest_field {
            if self.take(crc)? == [0] {
                return Ok(());
            }
        }
        let exceeded = Exceeded { bound: Bound::GzipField, limit: self.longest_field };
        Err(self.refuse(GzipProblem::HeaderTooLong(exceeded)))
    }

    fn take<const N: usize>(&mut self, crc: &mut Crc) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.input.byte()?.ok_or_else(|| self.refuse(GzipProblem::Truncated))?;
        }
        crc.update(&bytes);
        Ok(bytes)
    }

    fn refuse(&self, problem: GzipProblem) -> io::Error {
        DecompressError::Gzip { at: self.input.position(), problem }.into()
    }
}
