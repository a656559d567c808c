//! Compression of single blocks.
//!
//! In: a block of data or metadata. Out: its compressed form and the decision
//! which of the two is stored. Each thread has a [`Codec`] of its own, whose
//! context is reused. Invariant: both depend on the block and the
//! [`Compression`] only.

use std::io::{self, Write};

use flate2::{Compress, FlushCompress, Status};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use lzma_rust2::{CheckType, XzOptions, XzWriter};

use super::error::WriteError;
use super::format::{LZ4_VERSION, METADATA_SIZE, Record, flags};

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Level 1 to 22.
    Zstd {
        level: i32,
    },
    /// Level 1 to 9. Slower to write and to read than zstd at any level; for
    /// kernels without `CONFIG_SQUASHFS_ZSTD`.
    Gzip {
        level: u32,
    },
    /// Larger than zstd, and faster to write and to read.
    Lz4,
    /// Smaller than zstd, and many times slower to write and to read.
    Xz,
    None,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd { level: 3 }
    }
}

impl Compression {
    pub(super) fn check(self) -> Result<(), WriteError> {
        match self {
            Self::Zstd { level } if !(1..=22).contains(&level) => {
                Err(WriteError::Level { compressor: "zstd", level: level.into() })
            }
            Self::Gzip { level } if !(1..=9).contains(&level) => {
                Err(WriteError::Level { compressor: "gzip", level: level.into() })
            }
            _ => Ok(()),
        }
    }

    /// The compressor's number in the superblock. An image in which nothing
    /// is compressed names one too, and gzip is what most kernels have.
    pub(super) fn number(self) -> u16 {
        match self {
            Self::Gzip { .. } | Self::None => 1,
            Self::Xz => 4,
            Self::Lz4 => 5,
            Self::Zstd { .. } => 6,
        }
    }

    /// The compressor's options, if they are not those a reader assumes; of
    /// lz4 it assumes none.
    pub(super) fn options(self) -> Option<Vec<u8>> {
        const GZIP_WINDOW_BITS: u16 = 15;
        const GZIP_DEFAULT_STRATEGY: u16 = 0;
        match self {
            Self::Zstd { level: 15 } | Self::Gzip { level: 9 } | Self::Xz | Self::None => None,
            Self::Lz4 => Some(Record::default().u32(LZ4_VERSION).u32(0).finish()),
            Self::Zstd { level } => Some(Record::default().u32(level.cast_unsigned()).finish()),
            Self::Gzip { level } => {
                Some(Record::default().u32(level).u16(GZIP_WINDOW_BITS).u16(GZIP_DEFAULT_STRATEGY).finish())
            }
        }
    }

    /// The superblock's bits that follow from the compression.
    pub(super) fn flags(self) -> u16 {
        let options = if self.options().is_some() { flags::COMPRESSOR_OPTIONS } else { 0 };
        match self {
            Self::None => {
                flags::RAW_INODES
                    | flags::RAW_DATA
                    | flags::RAW_FRAGMENTS
                    | flags::RAW_XATTRS
                    | flags::RAW_IDS
            }
            Self::Zstd { .. } | Self::Gzip { .. } | Self::Lz4 | Self::Xz => options,
        }
    }
}

/// Which form of a block goes into the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Compressed,
    /// The block as it is: compressed it would not be smaller.
    Raw,
}

/// A compressor with its reusable context.
pub(super) enum Codec {
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip(Compress),
    Lz4(CompressTable),
    Xz,
    None,
}

impl Codec {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd { level } => Self::Zstd(zstd::bulk::Compressor::new(level)?),
            Compression::Gzip { level } => Self::Gzip(Compress::new(flate2::Compression::new(level), true)),
            // The other table is for short blocks, and which of both a thread had
            // would depend on the blocks before.
            Compression::Lz4 => Self::Lz4(CompressTable::large()),
            Compression::Xz => Self::Xz,
            Compression::None => Self::None,
        })
    }

    /// Compresses `input` into `output`, which is overwritten.
    pub(super) fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> io::Result<Stored> {
        output.clear();
        match self {
            Self::Zstd(compressor) => {
                output.reserve(zstd::zstd_safe::compress_bound(input.len()));
                compressor.compress_to_buffer(input, output)?;
            }
            Self::Gzip(compress) => {
                // What does not fit here is not worth storing.
                output.reserve(input.len());
                compress.reset();
                let status = compress.compress_vec(input, output, FlushCompress::Finish)?;
                if status != Status::StreamEnd {
                    return Ok(Stored::Raw);
                }
            }
            Self::Lz4(table) => {
                output.resize(get_maximum_output_size(input.len()), 0);
                let length = compress_into_with_table(input, output, table).map_err(io::Error::other)?;
                output.truncate(length);
            }
            Self::Xz => xz(input, output)?,
            Self::None => return Ok(Stored::Raw),
        }
        Ok(if output.len() < input.len() { Stored::Compressed } else { Stored::Raw })
    }
}

/// An .xz stream as the kernel reads it: CRC-32, and a dictionary that is not
/// larger than the image's blocks, those of metadata among them.
fn xz(input: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    let mut options = XzOptions::default();
    options.set_check_sum_type(CheckType::Crc32);
    options.lzma_options.dict_size = input.len().next_power_of_two().max(METADATA_SIZE) as u32;
    let mut writer = XzWriter::new(output, options)?;
    writer.write_all(input)?;
    writer.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_outside_a_compressors_range_are_refused() {
        for (compression, accepted) in [
            (Compression::Zstd { level: 1 }, true),
            (Compression::Zstd { level: 22 }, true),
            (Compression::Zstd { level: 0 }, false),
            (Compression::Zstd { level: -1 }, false),
            (Compression::Zstd { level: 23 }, false),
            (Compression::Gzip { level: 1 }, true),
            (Compression::Gzip { level: 9 }, true),
            (Compression::Gzip { level: 0 }, false),
            (Compression::Gzip { level: 10 }, false),
            (Compression::Lz4, true),
            (Compression::Xz, true),
            (Compression::None, true),
        ] {
            assert_eq!(compression.check().is_ok(), accepted, "{compression:?}");
        }
    }

    #[test]
    fn options_are_written_only_when_a_reader_would_assume_others() {
        for (compression, options) in [
            (Compression::Zstd { level: 3 }, Some(&[3, 0, 0, 0][..])),
            (Compression::Zstd { level: 15 }, None),
            (Compression::Gzip { level: 1 }, Some(&[1, 0, 0, 0, 15, 0, 0, 0])),
            (Compression::Gzip { level: 9 }, None),
            (Compression::Lz4, Some(&[1, 0, 0, 0, 0, 0, 0, 0])),
            (Compression::Xz, None),
            (Compression::None, None),
        ] {
            assert_eq!(compression.options().as_deref(), options, "{compression:?}");
        }
    }

    #[test]
    fn a_block_is_compressed_only_if_that_makes_it_smaller() {
        let zeros = [0; 8192];
        for (compression, input, stored) in [
            (Compression::Zstd { level: 3 }, &zeros[..], Stored::Compressed),
            (Compression::Zstd { level: 3 }, b"abcdefgh", Stored::Raw),
            (Compression::Gzip { level: 9 }, &zeros[..], Stored::Compressed),
            (Compression::Gzip { level: 9 }, b"abcdefgh", Stored::Raw),
            (Compression::Lz4, &zeros[..], Stored::Compressed),
            (Compression::Lz4, b"abcdefgh", Stored::Raw),
            (Compression::Lz4, b"", Stored::Raw),
            (Compression::Xz, &zeros[..], Stored::Compressed),
            (Compression::Xz, b"abcdefgh", Stored::Raw),
            (Compression::None, &zeros[..], Stored::Raw),
        ] {
            let mut codec = Codec::new(compression).unwrap();
            let mut output = b"left from before".to_vec();
            for _ in 0..2 {
                assert_eq!(codec.compress(input, &mut output).unwrap(), stored, "{compression:?}");
            }
            if stored == Stored::Compressed {
                assert!(output.len() < 128, "{compression:?}: {} bytes", output.len());
            }
        }
    }

    /// Threads see other blocks before it.
    #[test]
    fn a_block_is_compressed_the_same_whatever_came_before() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|number| (number / 7 % 501).to_le_bytes()).collect();
        let (long, short) = (&text[..100_000], &text[300_000..330_000]);
        for compression in [
            Compression::Zstd { level: 3 },
            Compression::Gzip { level: 6 },
            Compression::Lz4,
            Compression::Xz,
        ] {
            let compress = |blocks: &[&[u8]]| {
                let (mut codec, mut output) = (Codec::new(compression).unwrap(), Vec::new());
                for block in blocks {
                    codec.compress(block, &mut output).unwrap();
                }
                output
            };
            assert!(compress(&[short]) == compress(&[long, short]), "{compression:?}");
            assert!(compress(&[long]) == compress(&[short, long, short, long]), "{compression:?}");
        }
    }
}
