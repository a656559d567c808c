//! Decompression of single blocks.
//!
//! In: a block as stored and the most it may come to. Out: the block.
//! Invariant: no block costs more memory than its limit and a decoder's own
//! [`XZ_MEMORY`], and a block that says less or more than it is, or is
//! followed by anything, is refused.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::error::ReadError;
use crate::layer::squashfs::format::LZ4_VERSION;

/// Largest memory of the xz decoder, in KiB. A dictionary is at most as large
/// as a block, 1 MiB.
const XZ_MEMORY: u32 = 4 << 10;

pub(super) enum Decoder {
    Gzip(Decompress),
    Lz4,
    Xz,
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Decoder {
    /// The decoder for the superblock's compressor.
    pub(super) fn new(compressor: u16) -> Result<Self, ReadError> {
        match compressor {
            1 => Ok(Self::Gzip(Decompress::new(true))),
            2 => Err(ReadError::Compressor("lzma")),
            3 => Err(ReadError::Compressor("lzo")),
            4 => Ok(Self::Xz),
            5 => Ok(Self::Lz4),
            6 => match zstd::bulk::Decompressor::new() {
                Ok(decoder) => Ok(Self::Zstd(decoder)),
                Err(source) => Err(ReadError::Decompress { at: 0, source }),
            },
            _ => Err(ReadError::Superblock("names a compressor that is not known")),
        }
    }

    /// Bytes of this compressor's options.
    pub(super) fn options(&self) -> usize {
        match self {
            Self::Gzip(_) | Self::Lz4 | Self::Xz => 8,
            Self::Zstd(_) => 4,
        }
    }

    /// Checks the options that matter to a reader: lz4's say what a block is.
    pub(super) fn check_options(&self, options: Option<&[u8]>) -> Result<(), ReadError> {
        match (self, options) {
            (Self::Lz4, None) => Err(ReadError::Superblock("lacks the options that lz4 has to have")),
            (Self::Lz4, Some(options)) if !options.starts_with(&LZ4_VERSION.to_le_bytes()) => {
                Err(ReadError::Superblock("has lz4 blocks of an unknown form"))
            }
            _ => Ok(()),
        }
    }

    /// Decompresses a block to at most `limit` bytes.
    pub(super) fn decode(&mut self, stored: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        // To the zstd library nothing is a file without frames.
        if stored.is_empty() {
            return Err(invalid("it is empty"));
        }
        let mut block = vec![0; limit];
        let length = match self {
            Self::Gzip(decoder) => inflate(decoder, stored, &mut block)?,
            Self::Lz4 => lz4_flex::block::decompress_into(stored, &mut block)
                .map_err(|_| invalid("it is corrupt, cut off or longer than a block"))?,
            Self::Xz => unxz(stored, &mut block)?,
            Self::Zstd(decoder) => decoder.decompress_to_buffer(stored, block.as_mut_slice())?,
        };
        block.truncate(length);
        Ok(block)
    }
}

fn inflate(decoder: &mut Decompress, stored: &[u8], block: &mut [u8]) -> io::Result<usize> {
    decoder.reset(true);
    // The library's own words are about its state.
    let status =
        decoder.decompress(stored, block, FlushDecompress::Finish).map_err(|_| invalid("it is corrupt"))?;
    if status != Status::StreamEnd {
        return Err(invalid("it is cut off or longer than a block"));
    }
    if decoder.total_in() != stored.len() as u64 {
        return Err(invalid("bytes follow its end"));
    }
    usize::try_from(decoder.total_out()).map_err(io::Error::other)
}

fn unxz(stored: &[u8], block: &mut [u8]) -> io::Result<usize> {
    let mut reader = lzma_rust2::XzReader::new_mem_limit(stored, false, XZ_MEMORY);
    let mut length = 0;
    // Checksums are known to match only at the end.
    while let Some(rest) = block.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest)? {
            0 => break,
            count => length = length.saturating_add(count),
        }
    }
    if reader.read(&mut [0])? != 0 {
        return Err(invalid("it is longer than a block"));
    }
    if !reader.into_inner().is_empty() {
        return Err(invalid("bytes follow its end"));
    }
    Ok(length)
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(9));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8], dictionary: u32) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::default();
        options.lzma_options.dict_size = dictionary;
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_block_is_what_was_stored_and_nothing_else() {
        let content = [b"abc".repeat(100), vec![7; 100]].concat();
        let blocks = [
            (1, gzip(&content)),
            (4, xz(&content, 1 << 20)),
            (5, lz4_flex::block::compress(&content)),
            (6, zstd::bulk::compress(&content, 3).unwrap()),
        ];
        for (compressor, stored) in &blocks {
            let mut decoder = Decoder::new(*compressor).unwrap();
            for limit in [400, 401, 8192] {
                assert_eq!(decoder.decode(stored, limit).unwrap(), content, "{compressor} {limit}");
            }
            decoder.decode(stored, 399).unwrap_err();
            decoder.decode(&stored[..stored.len() - 1], 400).unwrap_err();
            decoder.decode(&[stored, &b"x"[..]].concat(), 400).unwrap_err();
            decoder.decode(b"", 400).unwrap_err();
        }
    }

    #[test]
    fn a_dictionary_larger_than_any_block_is_refused() {
        let mut decoder = Decoder::new(4).unwrap();
        decoder.decode(&xz(b"content", 1 << 20), 400).unwrap();
        decoder.decode(&xz(b"content", 8 << 20), 400).unwrap_err();
    }

    #[test]
    fn compressors_that_cannot_be_read_are_named() {
        for (compressor, expected) in [
            (2, "it is compressed with lzma; gzip, lz4, xz and zstd can be read"),
            (3, "it is compressed with lzo; gzip, lz4, xz and zstd can be read"),
            (0, "its superblock names a compressor that is not known"),
            (7, "its superblock names a compressor that is not known"),
        ] {
            let error = Decoder::new(compressor).err().unwrap();
            assert_eq!(error.to_string(), expected);
        }
    }
}
