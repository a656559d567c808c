//! Zstandard files: one frame after another (RFC 8878).
//!
//! Skippable frames, which zstd:chunked puts at the end, are passed over.
//! Content checksums are verified where a frame has one. Frames that need a
//! dictionary or a window larger than the limit are refused; after the last
//! frame nothing may follow. RFC 8878 (3.1.1.1.2) recommends every decoder to
//! support 8 MiB; zstd(1) needs more only above level 19.

use std::io::{self, Read};

use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::input::Input;
use super::{DecompressError, ZstdProblem};
use crate::limits::{Bound, Exceeded, Limits};

/// What the library takes for a largest window, as powers of two.
const WINDOW_LOGS: std::ops::RangeInclusive<u32> = 10..=27;

pub(super) struct Zstd<R> {
    input: Input<R>,
    decoder: DCtx<'static>,
    state: State,
    /// Where the frame being read starts.
    frame: u64,
    largest_window: u64,
}

enum State {
    /// At the start of the file, where a frame must follow.
    Start,
    Frame,
    /// Behind a frame, where another one or the end may follow.
    Between,
}

impl<R: Read> Zstd<R> {
    pub(super) fn new(input: Input<R>, limits: &Limits) -> io::Result<Self> {
        let memory = || DecompressError::Zstd { at: 0, problem: ZstdProblem::Memory };
        let mut decoder = DCtx::try_create().ok_or_else(memory)?;
        let largest_window = limits.get(Bound::ZstdWindow);
        let log = largest_window.max(1).ilog2().clamp(*WINDOW_LOGS.start(), *WINDOW_LOGS.end());
        decoder.set_parameter(DParameter::WindowLogMax(log)).map_err(|_| memory())?;
        Ok(Self { input, decoder, state: State::Start, frame: 0, largest_window })
    }

    pub(super) fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.input.fill()?;
            let at_end = input.is_empty();
            if at_end && matches!(self.state, State::Between) {
                return Ok(0);
            }
            let mut from = InBuffer::around(input);
            let mut to = OutBuffer::around(output);
            let result = self.decoder.decompress_stream(&mut to, &mut from);
            let (consumed, produced) = (from.pos(), to.pos());
            self.input.consume(consumed);
            match result {
                Ok(0) => (self.state, self.frame) = (State::Between, self.input.position()),
                Ok(_) => self.state = State::Frame,
                Err(code) => return Err(self.refuse(problem(code, self.largest_window))),
            }
            if produced > 0 {
                return Ok(produced);
            }
            if at_end && !matches!(self.state, State::Between) {
                return Err(self.refuse(ZstdProblem::Truncated));
            }
        }
    }

    fn refuse(&self, problem: ZstdProblem) -> io::Error {
        DecompressError::Zstd { at: self.frame, problem }.into()
    }
}

/// Names the library's error. Its codes are negated error numbers.
fn problem(code: usize, limit: u64) -> ZstdProblem {
    use ZSTD_ErrorCode::*;
    let is = |known: ZSTD_ErrorCode| code == (known as usize).wrapping_neg();
    if is(ZSTD_error_frameParameter_windowTooLarge) {
        ZstdProblem::Window(Exceeded { bound: Bound::ZstdWindow, limit })
    } else if is(ZSTD_error_dictionary_wrong) {
        ZstdProblem::Dictionary
    } else if is(ZSTD_error_checksum_wrong) {
        ZstdProblem::Checksum
    } else if is(ZSTD_error_prefix_unknown) {
        ZstdProblem::Magic
    } else if is(ZSTD_error_memory_allocation) {
        ZstdProblem::Memory
    } else {
        ZstdProblem::Frame(get_error_name(code))
    }
}
