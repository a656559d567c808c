use std::io::Write;

use flate2::write::GzEncoder;

use super::*;

/// Larger than every buffer, and not one byte like the next.
fn content() -> Vec<u8> {
    (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 & 0x1f).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Hands out one byte a read, as a slow network may.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(1).min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fn decompress(compression: Compression, blob: &[u8]) -> Result<Vec<u8>, String> {
    let read = |blob: &mut dyn Read| {
        let mut out = Vec::new();
        match Decompressor::new(compression, blob, &Limits::default())
            .and_then(|mut d| d.read_to_end(&mut out))
        {
            Ok(_) => Ok(out),
            Err(error) => Err(error.to_string()),
        }
    };
    let whole = read(&mut &blob[..]);
    assert_eq!(read(&mut Trickle(blob)), whole, "the size of reads makes a difference");
    whole
}

#[test]
fn every_member_and_frame_is_read() {
    let content = content();
    let (head, tail) = content.split_at(70_001);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"table"].concat();
    let header = [0x1f, 0x8b, 8, 0x1e, 0, 0, 0, 0, 0, 3, 2, 0, b'x', b'y', b'n', 0, b'c', 0];
    let mut crc = flate2::Crc::new();
    crc.update(&header);
    let fields = [&header[..], &(crc.sum() as u16).to_le_bytes(), &gzip(&content)[10..]].concat();
    let plain_frame = ::zstd::encode_all(&content[..], 1).unwrap();
    for (what, compression, blob) in [
        ("plain", Compression::None, content.clone()),
        ("one gzip member", Compression::Gzip, gzip(&content)),
        ("two gzip members", Compression::Gzip, [gzip(head), gzip(tail)].concat()),
        ("an empty gzip member", Compression::Gzip, [gzip(head), gzip(b""), gzip(tail)].concat()),
        ("a gzip header with all fields", Compression::Gzip, fields),
        ("one zstd frame", Compression::Zstd, zstd(&content)),
        ("two zstd frames", Compression::Zstd, [zstd(head), zstd(tail)].concat()),
        ("an empty zstd frame", Compression::Zstd, [zstd(head), zstd(b""), zstd(tail)].concat()),
        ("skippable frames", Compression::Zstd, [&skippable[..], &zstd(&content), &skippable].concat()),
        ("a zstd frame without checksum", Compression::Zstd, plain_frame),
    ] {
        let result = decompress(compression, &blob);
        assert!(result.as_ref() == Ok(&content), "{what}: {:?}", result.err());
    }
}

#[test]
fn damaged_gzip_is_refused() {
    let good = gzip(b"content");
    let length = good.len();
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= value;
        bytes
    };
    for (what, blob, expected) in [
        ("nothing", vec![], "gzip: truncated at byte 0"),
        ("header cut", good[..7].to_vec(), "gzip: truncated at byte 7"),
        ("stream cut", good[..14].to_vec(), "gzip: truncated at byte 14"),
        ("trailer cut", good[..length - 1].to_vec(), "gzip: truncated at byte 26"),
        ("magic", changed(0, 1), "gzip: no gzip member at byte 10"),
        ("method", changed(2, 1), "gzip: unknown compression method or reserved flag at byte 10"),
        ("reserved flag", changed(3, 0x80), "gzip: unknown compression method or reserved flag at byte 10"),
        ("header checksum", changed(3, 2), "gzip: header checksum mismatch at byte 12"),
        ("stream", changed(10, 6), "gzip: corrupt deflate stream at byte "),
        ("checksum", changed(length - 8, 1), "gzip: checksum mismatch at byte 23"),
        ("length", changed(length - 4, 1), "gzip: length mismatch at byte 27"),
        ("zeros behind", [&good[..], &[0; 16]].concat(), "gzip: no gzip member at byte 37"),
        ("garbage behind", [&good[..], b"garbage, long"].concat(), "gzip: no gzip member at byte 37"),
        ("one byte behind", [&good[..], &[0x1f]].concat(), "gzip: truncated at byte 28"),
        ("second member damaged", [&good[..], &changed(length - 8, 1)].concat(), "gzip: checksum mismatch"),
        (
            "endless name",
            [&changed(3, 8)[..10], &[b'n'; 70_000]].concat(),
            "gzip: header field of more than the limit of 64KiB",
        ),
    ] {
        let error = decompress(Compression::Gzip, &blob).expect_err(what);
        assert!(error.starts_with(expected), "{what}: {error}");
    }
}

#[test]
fn damaged_zstd_is_refused() {
    let good = zstd(b"content");
    let length = good.len();
    let with_byte = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= value;
        bytes
    };
    let mut wide = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(24).unwrap();
    wide.write_all(b"content").unwrap();
    // Single segment, dictionary 7, seven bytes of content in one raw block.
    let dictionary = b"\x28\xb5\x2f\xfd\x21\x07\x07\x39\0\0content".to_vec();
    for (what, blob, expected) in [
        ("nothing", vec![], "zstd: truncated in the frame at byte 0"),
        ("header cut", good[..3].to_vec(), "zstd: truncated"),
        ("checksum cut", good[..length - 1].to_vec(), "zstd: truncated"),
        ("magic", with_byte(0, 1), "zstd: no zstd frame"),
        ("checksum", with_byte(length - 1, 1), "zstd: checksum mismatch"),
        (
            "window",
            wide.finish().unwrap(),
            "zstd: window of more than the limit of 8MiB for the window of zstd, rounded down to a power of two (plywood.limits.zstdWindow)",
        ),
        ("dictionary", dictionary, "zstd: dictionary required"),
        ("zeros behind", [&good[..], &[0; 16]].concat(), "zstd: no zstd frame"),
        ("one byte behind", [&good[..], &[0x28]].concat(), "zstd: truncated"),
        (
            "second frame damaged",
            [&good[..], &with_byte(length - 1, 1)].concat(),
            "zstd: checksum mismatch in the frame at byte 20",
        ),
        ("skippable frame cut", b"\x50\x2a\x4d\x18\x05\0\0\0tab".to_vec(), "zstd: truncated"),
    ] {
        let error = decompress(Compression::Zstd, &blob).expect_err(what);
        assert!(error.starts_with(expected), "{what}: {error}");
    }
}

/// Every single-byte change and every cut of a blob fails or gives the same
/// content: nothing else gets past the checksums.
#[test]
fn damage_never_gives_other_content() {
    let content = &content()[..3000];
    for (compression, good) in [(Compression::Gzip, gzip(content)), (Compression::Zstd, zstd(content))] {
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            for blob in [&bad[..], &good[..at]] {
                let mut out = Vec::new();
                let result = Decompressor::new(compression, blob, &Limits::default())
                    .and_then(|mut d| d.read_to_end(&mut out));
                assert!(result.is_err() || out == content, "{compression:?}, byte {at}");
            }
        }
    }
}
