//! An image to a squashfs in steps, the way of krata's OCI packer:
//! `krata URL REPOSITORY TAG SCRATCH OUTPUT`.
//!
//! Blobs are fetched to disk and verified, their tars taken apart into files
//! on disk with whiteouts applied, then `backhand` writes the squashfs of what
//! is below `rootfs/`, zstd 3 in 128 KiB blocks. krata inflated with
//! `async-compression`, which is flate2 over miniz_oxide.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use backhand::compression::{CompressionOptions, Compressor, Zstd};
use backhand::{FilesystemCompressor, FilesystemWriter, NodeHeader};
use flate2::read::GzDecoder;
use ring::digest::{Context, SHA256};
use serde_json::Value;
use tar::EntryType;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json";
const BLOCK: u32 = 128 * 1024;
const LEVEL: u32 = 3;

enum Node {
    Directory(NodeHeader),
    File(NodeHeader, PathBuf),
    Symlink(NodeHeader, PathBuf),
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, repository, tag, scratch, output] = &arguments[..] else {
        return Err("usage: krata URL REPOSITORY TAG SCRATCH OUTPUT".into());
    };
    let base = format!("{url}/v2/{repository}");
    let scratch = Path::new(scratch);
    let manifest = get(&format!("{base}/manifests/{tag}"))?.read_to_vec()?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let config = fetch(&base, &manifest["config"], scratch)?;
    let config: Value = serde_json::from_reader(File::open(config)?)?;
    let layers = manifest["layers"].as_array().ok_or("no layers")?;
    let diff_ids = config["rootfs"]["diff_ids"].as_array().ok_or("no diff IDs")?;
    let mut tree = BTreeMap::new();
    for (number, (layer, diff_id)) in layers.iter().zip(diff_ids).enumerate() {
        let files = scratch.join(number.to_string());
        fs::create_dir(&files)?;
        let blob = fetch(&base, layer, scratch)?;
        unpack(&blob, text(diff_id)?, &files, &mut tree)?;
    }
    write(tree, Path::new(output))
}

fn get(url: &str) -> Result<ureq::Body> {
    Ok(ureq::get(url).header("accept", ACCEPT).call()?.into_body())
}

fn text(value: &Value) -> Result<&str> {
    Ok(value.as_str().ok_or("not a string")?)
}

/// A reader that hashes what passes.
struct Hashing<R> {
    inner: R,
    context: Context,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, context: Context::new(&SHA256) }
    }

    fn expect(self, digest: &str) -> Result<()> {
        let hash = self.context.finish();
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if digest.strip_prefix("sha256:") == Some(&hex) {
            Ok(())
        } else {
            Err(format!("not {digest}").into())
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        Ok(count)
    }
}

/// Stores a blob in a file, verified.
fn fetch(base: &str, descriptor: &Value, scratch: &Path) -> Result<PathBuf> {
    let digest = text(&descriptor["digest"])?;
    let path = scratch.join(digest.replace(':', "-"));
    let mut body = get(&format!("{base}/blobs/{digest}"))?;
    let mut reader = Hashing::new(body.as_reader());
    let mut file = BufWriter::with_capacity(1 << 18, File::create(&path)?);
    copy(&mut reader, &mut file)?;
    file.flush()?;
    reader.expect(digest)?;
    Ok(path)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

/// Takes one changeset apart over what is there from those below.
fn unpack(blob: &Path, diff_id: &str, files: &Path, tree: &mut BTreeMap<PathBuf, Node>) -> Result<()> {
    let inflated = GzDecoder::new(BufReader::with_capacity(1 << 17, File::open(blob)?));
    let mut plain = Hashing::new(inflated);
    let mut added = BTreeMap::new();
    let mut archive = tar::Archive::new(&mut plain);
    for (number, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new(""));
        if name == ".wh..wh..opq" {
            tree.retain(|other, _| other == parent || !other.starts_with(parent));
        } else if let Some(hidden) = name.strip_prefix(".wh.") {
            let hidden = parent.join(hidden);
            tree.retain(|other, _| !other.starts_with(&hidden));
        } else {
            let node = read_node(&mut entry, files.join(number.to_string()))?;
            added.insert(path, node);
        }
    }
    copy(&mut plain, &mut io::sink())?;
    plain.expect(diff_id)?;
    tree.extend(added);
    Ok(())
}

fn read_node(entry: &mut tar::Entry<impl Read>, file: PathBuf) -> Result<Node> {
    let header = NodeHeader {
        permissions: (entry.header().mode()? & 0o7777) as u16,
        uid: 0,
        gid: 0,
        mtime: entry.header().mtime()? as u32,
    };
    Ok(match entry.header().entry_type() {
        EntryType::Directory => Node::Directory(header),
        EntryType::Symlink => {
            Node::Symlink(header, entry.link_name()?.ok_or("a symlink without a target")?.into_owned())
        }
        EntryType::Regular => {
            copy(entry, &mut File::create(&file)?)?;
            Node::File(header, file)
        }
        other => return Err(format!("entry type {other:?}").into()),
    })
}

/// Opens its file when it is read: there are more files than descriptors.
enum Lazy {
    Path(PathBuf),
    Open(File),
}

impl Read for Lazy {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Path(path) = self {
            *self = Self::Open(File::open(path)?);
        }
        let Self::Open(file) = self else { return Ok(0) };
        let count = file.read(buffer)?;
        if count == 0 {
            *self = Self::Path("/dev/null".into());
        }
        Ok(count)
    }
}

fn write(tree: BTreeMap<PathBuf, Node>, output: &Path) -> Result<()> {
    let mut writer = FilesystemWriter::default();
    let options = CompressionOptions::Zstd(Zstd { compression_level: LEVEL });
    writer.set_compressor(FilesystemCompressor::new(Compressor::Zstd, Some(options))?);
    writer.set_block_size(BLOCK);
    for (path, node) in tree {
        let Ok(path) = path.strip_prefix("rootfs") else { continue };
        if path.as_os_str().is_empty() {
            continue;
        }
        match node {
            Node::Directory(header) => writer.push_dir(path, header)?,
            Node::File(header, file) => writer.push_file(Lazy::Path(file), path, header)?,
            Node::Symlink(header, target) => writer.push_symlink(target, path, header)?,
        }
    }
    writer.write(&mut BufWriter::new(File::create(output)?))?;
    Ok(())
}
