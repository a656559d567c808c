//! What packing costs in memory stays within its bound, however large the
//! image is and however many files it has. The release binary is measured
//! where it is newer than the sources, else the one that was built for tests.

#[allow(dead_code)]
#[path = "../src/layer/tar/fixture.rs"]
mod fixture;
mod image;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use fixture::{Header, Tar};
use image::write_layout;

/// In KiB, as the kernel counts.
const MOST: i64 = 64 << 10;

const MANIFEST: &[u8] = b"version: v1alpha1\nmetadata: {name: large, version: \"1\"}\n";

/// The newest change below a path.
fn changed(path: &Path) -> SystemTime {
    let metadata = fs::metadata(path).unwrap();
    if !metadata.is_dir() {
        return metadata.modified().unwrap();
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| changed(&entry.unwrap().path()));
    entries.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let release = root.join("build/plywood");
    let sources = ["src", "Cargo.toml", "Cargo.lock"].map(|name| changed(&root.join(name)));
    if release.exists() && sources.iter().all(|source| *source < changed(&release)) {
        return release;
    }
    env!("CARGO_BIN_EXE_plywood").into()
}

/// What becomes of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Packed,
    Refused,
}

/// Packs the image whose changeset is what `content` writes; returns the peak
/// of its resident memory, in KiB.
fn peak_of_packing(outcome: Outcome, content: impl FnOnce(&mut dyn Write)) -> i64 {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write_layout(&scratch.path().join("image"), "tar", content);
    let mut command = Command::new(binary());
    command.args(["pack", "oci:image", "-o", "layer.sqsh"]).current_dir(scratch.path()).stdout(Stdio::null());
    #[allow(clippy::zombie_processes, reason = "wait4 waits for it and tells what it used")]
    let child = command.spawn().unwrap();
    // SAFETY: all bytes zero are a valid rusage.
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: both pointers are to live values of the right type, and the
    // child is ours and was not waited for.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    assert_eq!(waited, child.id() as i32);
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    assert_eq!(code, Some(if outcome == Outcome::Packed { 0 } else { 1 }));
    assert_eq!(scratch.path().join("layer.sqsh").exists(), outcome == Outcome::Packed);
    usage.ru_maxrss
}

/// Fills a buffer with what does not compress (xorshift).
fn fill(buffer: &mut [u8], state: &mut u64) {
    for word in buffer.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

#[test]
fn a_large_image_fits_in_memory() {
    const MIB: usize = 1 << 20;
    let peak = peak_of_packing(Outcome::Packed, |tar| {
        tar.write_all(&Tar::new().file("manifest.yaml", MANIFEST).unfinished()).unwrap();
        let (mut buffer, mut state) = (vec![0; MIB], 1);
        for file in 0..4 {
            let name = format!("rootfs/usr/local/file-{file}");
            let header = Header::new(b'0', name.as_bytes()).size(256 << 20);
            tar.write_all(&Tar::new().header(header).unfinished()).unwrap();
            for part in 0..256 {
                match part % 2 {
                    0 => fill(&mut buffer, &mut state),
                    _ => buffer.fill(0),
                }
                tar.write_all(&buffer).unwrap();
            }
        }
        tar.write_all(&[0; 1024]).unwrap();
    });
    println!("1 GiB: {peak} KiB");
    assert!(peak <= MOST, "{peak} KiB");
}

#[test]
fn many_files_fit_in_memory() {
    // As many as an image may have, but for its directories.
    const FILES: usize = 197_000;
    let peak = peak_of_packing(Outcome::Packed, |tar| {
        tar.write_all(&Tar::new().file("manifest.yaml", MANIFEST).unfinished()).unwrap();
        for file in 0..FILES {
            let name = format!("rootfs/usr/local/share/tool/{:03}/file-of-some-length-{file:06}", file / 100);
            let content = name.repeat(file % 20);
            tar.write_all(&Tar::new().file(&name, content.as_bytes()).unfinished()).unwrap();
        }
        tar.write_all(&[0; 1024]).unwrap();
    });
    println!("{FILES} files: {peak} KiB");
    assert!(peak <= MOST, "{peak} KiB");
}

#[test]
fn a_manifest_many_times_over_is_held_once() {
    const MIB: usize = 1 << 20;
    let peak = peak_of_packing(Outcome::Refused, |tar| {
        let manifest = Tar::new().file("manifest.yaml", &[b'#'; MIB]).unfinished();
        (0..100).for_each(|_| tar.write_all(&manifest).unwrap());
        tar.write_all(&[0; 1024]).unwrap();
    });
    println!("100 manifests: {peak} KiB");
    assert!(peak <= MOST, "{peak} KiB");
}
