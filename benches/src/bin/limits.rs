//! What building a layer costs at the least: `limits BLOCK LEVEL CHANGESET…`.
//!
//! Each step by itself on the same bytes, on one core, with the libraries that
//! the binary uses: SHA-256 of the packed bytes, inflate, SHA-256 of the plain
//! bytes, zstd of the files in blocks. Out: CPU seconds of each step, as JSON.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Read;

use flate2::read::GzDecoder;
use ring::digest;
use rustix::time::{ClockId, clock_gettime};

/// Bytes that one read or update takes.
const PIECE: usize = 128 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let block: usize = arguments.next().ok_or("no block size")?.parse()?;
    let level: i32 = arguments.next().ok_or("no level")?.parse()?;
    let (mut packed_hash, mut inflate, mut plain_hash, mut compress) = (0.0, 0.0, 0.0, 0.0);
    for path in arguments {
        let packed = fs::read(path)?;
        packed_hash += timed(|| sha256(&packed));
        let mut plain = Vec::new();
        GzDecoder::new(&packed[..]).read_to_end(&mut plain)?;
        inflate += timed(|| inflate_in_pieces(&packed));
        plain_hash += timed(|| sha256(&plain));
        let blocks = blocks(&plain, block)?;
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        let mut output = Vec::with_capacity(zstd::zstd_safe::compress_bound(block));
        compress += timed(|| {
            for block in &blocks {
                output.clear();
                compressor.compress_to_buffer(block, &mut output).expect("the buffer is large enough");
            }
        });
    }
    println!(
        r#"{{"sha256 packed": {packed_hash}, "inflate": {inflate}, "sha256 plain": {plain_hash}, "compress": {compress}}}"#
    );
    Ok(())
}

/// CPU seconds of this thread.
fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let started = now();
    std::hint::black_box(work());
    now() - started
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    bytes.chunks(PIECE).for_each(|piece| context.update(piece));
    context.finish()
}

fn inflate_in_pieces(packed: &[u8]) -> usize {
    let mut decoder = GzDecoder::new(packed);
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    while let Ok(count @ 1..) = decoder.read(&mut piece) {
        total += count;
    }
    total
}

/// The files' bytes as squashfs stores them: whole blocks, and the tails of
/// files together in blocks.
fn blocks(tar: &[u8], size: usize) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let (mut blocks, mut tails) = (Vec::new(), Vec::new());
    for entry in tar::Archive::new(tar).entries()? {
        let mut content = Vec::new();
        entry?.read_to_end(&mut content)?;
        let whole = content.chunks_exact(size);
        let tail = whole.remainder();
        if tails.len() + tail.len() > size {
            blocks.push(std::mem::take(&mut tails));
        }
        tails.extend_from_slice(tail);
        blocks.extend(whole.map(<[u8]>::to_vec));
    }
    blocks.push(tails);
    Ok(blocks)
}
