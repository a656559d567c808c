//! Images that are small and want to become large are refused at a limit,
//! early, with the key that raises it, and leave nothing behind.

#[allow(dead_code)]
#[path = "../src/layer/tar/fixture.rs"]
mod fixture;
mod image;

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use fixture::{Header, Tar};
use image::write_layout;

const GIB: u64 = 1 << 30;

/// A zstd frame of `head` and then zeros: blocks of 128 KiB that are one byte
/// each (RFC 8878, 3.1.1.2.2, "RLE_Block").
fn zstd_bomb(head: &[u8], zeros: u64) -> Vec<u8> {
    const BLOCK: u32 = 128 << 10;
    // No checksum, no content size; a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    let block = |size: u32, kind: u32, last: u32| (size << 3 | kind << 1 | last).to_le_bytes();
    frame.extend_from_slice(&block(head.len() as u32, 0, 0)[..3]);
    frame.extend_from_slice(head);
    let blocks = zeros / u64::from(BLOCK);
    for number in 1..=blocks {
        frame.extend_from_slice(&block(BLOCK, 1, u32::from(number == blocks))[..3]);
        frame.push(0);
    }
    frame
}

/// gzip members, one after another: `head`, then zeros.
fn gzip_bomb(head: &[u8], zeros: u64) -> Vec<u8> {
    let member = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let repeated = member(&vec![0; 1 << 24]);
    [member(head), repeated.repeat((zeros >> 24) as usize)].concat()
}

#[test]
fn bombs_are_refused_early_with_the_key_named() {
    // A header that claims 8 GiB less a byte, the most that octal digits can.
    let claimed =
        Tar::new().header(Header::new(b'0', b"rootfs/usr/local/zeros").size(8 * GIB - 1)).unfinished();
    let ended = Tar::new().file("rootfs/usr/local/small", b"x").finish();
    let many: Vec<_> =
        (0..1500).map(|number| Tar::new().file(&format!("f{number}"), b"").unfinished()).collect();
    let defaults = "plywood: {}";
    let small = "plywood: {limits: {changesetBytes: 64MiB, padding: 1TiB}}";
    for (what, packed, media_type, limits, key) in [
        ("one large file, zstd", zstd_bomb(&claimed, 10 * GIB), "tar+zstd", defaults, "changesetBytes"),
        ("one large file, gzip", gzip_bomb(&claimed, 10 * GIB), "tar+gzip", defaults, "changesetBytes"),
        ("zeros after the end, zstd", zstd_bomb(&ended, 10 * GIB), "tar+zstd", small, "changesetBytes"),
        ("zeros after the end, gzip", gzip_bomb(&ended, 10 * GIB), "tar+gzip", small, "changesetBytes"),
        ("nothing but zeros", zstd_bomb(&[], 10 * GIB), "tar+zstd", defaults, "padding"),
        (
            "all changesets",
            zstd_bomb(&ended, GIB),
            "tar+zstd",
            "plywood: {limits: {bytes: 64MiB, padding: 1TiB}}",
            "bytes",
        ),
        ("entries", many.concat(), "tar", "plywood: {limits: {entries: 1000}}", "entries"),
        ("packed", many.concat(), "tar", "plywood: {limits: {packedBytes: 1KiB}}", "packedBytes"),
        (
            "time",
            zstd_bomb(&ended, 200 * GIB),
            "tar+zstd",
            "plywood: {limits: {buildTime: 1s, padding: 1TiB, bytes: 1TiB, changesetBytes: 1TiB}}",
            "buildTime",
        ),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let at = scratch.path();
        write_layout(&at.join("image"), media_type, |layer| layer.write_all(&packed).unwrap());
        fs::write(at.join("limits.yaml"), format!("version: v1alpha1\n{limits}\n")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
        command.args(["pack", "oci:image", "-o", "layer.sqsh", "--config", "limits.yaml"]).current_dir(at);
        let started = Instant::now();
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}: {text}");
        assert!(text.contains(&format!("(plywood.limits.{key})")), "{what}: {text}");
        assert!(text.matches("error:").count() == 1 && text.lines().count() == 1, "{what}: {text}");
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: {:?}", started.elapsed());
        assert_eq!(fs::read_dir(at).unwrap().count(), 2, "{what}: something is left behind");
    }
}
