//! Measures the squashfs writer: packs a directory and prints the rate.
//!
//! ```text
//! cargo run --release --example squashfs -- DIRECTORY IMAGE [WORKERS] [none|lz4|xz|gzip:LEVEL|zstd:LEVEL] [BLOCK SIZE]
//! ```

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use plywood::layer::squashfs::{Compression, Options, Workers, Writer};
use plywood::layer::tree::{Attributes, Content, Directory, Node};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, image, options @ ..] = arguments.as_slice() else {
        return Err("usage: squashfs DIRECTORY IMAGE [WORKERS] [COMPRESSION] [BLOCK SIZE]".into());
    };
    let argument = |at: usize, default: &str| options.get(at).map_or(default, String::as_str).to_owned();
    let options = Options {
        workers: Workers::new(argument(0, "1").parse()?),
        compression: parse_compression(&argument(1, "zstd:3"))?,
        block_size: argument(2, "131072").parse()?,
    };
    let begin = Instant::now();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(image)?;
    let mut writer = Writer::new(file, options)?;
    let mut bytes = 0;
    let root = read_directory(directory.as_ref(), &mut writer, &mut bytes)?;
    let summary = writer.finish(&root, Attributes::IMPLIED_DIRECTORY)?;
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{} inodes, {bytes} → {} bytes, {seconds:.2} s, {:.0} MB/s",
        summary.inodes,
        summary.bytes,
        bytes as f64 / 1e6 / seconds
    );
    Ok(())
}

fn parse_compression(text: &str) -> Result<Compression, Box<dyn Error>> {
    Ok(match text.split_once(':') {
        Some(("zstd", level)) => Compression::Zstd { level: level.parse()? },
        Some(("gzip", level)) => Compression::Gzip { level: level.parse()? },
        _ if text == "none" => Compression::None,
        _ if text == "lz4" => Compression::Lz4,
        _ if text == "xz" => Compression::Xz,
        _ => return Err(format!("no such compression: {text}").into()),
    })
}

/// Adds all files below `path`, in the order of their names.
fn read_directory(path: &Path, writer: &mut Writer, bytes: &mut u64) -> Result<Directory, Box<dyn Error>> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name());
    }
    names.sort();
    let mut directory = Directory::new();
    for name in names {
        let path = path.join(&name);
        let metadata = fs::symlink_metadata(&path)?;
        let content = if metadata.is_dir() {
            Content::Directory(read_directory(&path, writer, bytes)?)
        } else if metadata.is_symlink() {
            Content::Symlink(fs::read_link(&path)?.as_os_str().as_bytes().into())
        } else if metadata.is_file() {
            *bytes += metadata.len();
            Content::File(writer.add_file(metadata.len(), &mut File::open(&path)?)?)
        } else {
            continue;
        };
        let attributes = Attributes {
            mode: (metadata.mode() & 0o7777) as u16,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: metadata.mtime() as u32,
        };
        directory.insert(name.into_vec(), Node { attributes, changeset: None, xattrs: None, content });
    }
    Ok(directory)
}
