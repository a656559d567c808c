//! Trees to be written: made by hand or by a seeded generator.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use plywood::layer::squashfs::{Compression, Options, Workers, WriteError, Writer};
use plywood::layer::tree::{Attributes, Content, Directory, Node, Xattrs};
use tempfile::TempDir;

pub const ROOT: Attributes = Attributes { mode: 0o751, uid: 0, gid: 0, mtime: 86_400 };

pub type Tree = BTreeMap<Vec<u8>, Item>;

pub struct Item {
    pub attributes: Attributes,
    pub xattrs: Xattrs,
    pub kind: Kind,
}

pub enum Kind {
    Directory(Tree),
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

impl From<Kind> for Item {
    fn from(kind: Kind) -> Self {
        Self { attributes: Attributes::IMPLIED_DIRECTORY, xattrs: Xattrs::new(), kind }
    }
}

/// A tree of files with these contents.
pub fn files(contents: &[&[u8]]) -> Tree {
    let name = |number| format!("file{number:03}").into_bytes();
    let file = |content: &&[u8]| Kind::File(content.to_vec()).into();
    contents.iter().enumerate().map(|(number, content)| (name(number), file(content))).collect()
}

/// A finished image in a directory of its own.
pub struct Image {
    directory: TempDir,
    pub bytes: u64,
    pub inodes: u32,
}

impl Image {
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// A path beside the image.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

pub fn options(compression: Compression, block_size: u32) -> Options {
    Options { compression, block_size, workers: Workers::new(2.try_into().unwrap()) }
}

pub fn default_options() -> Options {
    options(Compression::default(), Options::DEFAULT_BLOCK_SIZE)
}

/// Writes `tree` as the layer stage does: contents first, then the tree.
pub fn write(tree: &Tree, options: Options) -> Image {
    write_with(options, |writer| Ok(add(tree, writer))).unwrap()
}

pub fn write_with(
    options: Options,
    contents: impl FnOnce(&mut Writer) -> Result<Directory, WriteError>,
) -> Result<Image, WriteError> {
    let directory = tempfile::tempdir().unwrap();
    let file = std::fs::File::create_new(directory.path().join("image")).unwrap();
    let mut writer = Writer::new(file, options)?;
    let root = contents(&mut writer)?;
    let summary = writer.finish(&root, ROOT)?;
    assert_eq!(summary.file.metadata().unwrap().len(), summary.bytes);
    Ok(Image { directory, bytes: summary.bytes, inodes: summary.inodes })
}

fn add(tree: &Tree, writer: &mut Writer) -> Directory {
    let mut directory = Directory::new();
    for (name, item) in tree {
        let content = match &item.kind {
            Kind::Directory(tree) => Content::Directory(add(tree, writer)),
            Kind::File(bytes) => {
                Content::File(writer.add_file(bytes.len() as u64, &mut bytes.as_slice()).unwrap())
            }
            Kind::Symlink(target) => Content::Symlink(target.as_slice().into()),
        };
        directory.insert(name.as_slice(), node(item.attributes, &item.xattrs, content));
    }
    directory
}

pub fn node(attributes: Attributes, xattrs: &Xattrs, content: Content) -> Node {
    Node { attributes, changeset: None, xattrs: Some(Box::new(xattrs.clone())), content }
}

/// Makes `tree` on disk, with the modes and times of files and directories.
pub fn create(tree: &Tree, path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    std::fs::create_dir(path)?;
    for (name, item) in tree {
        let path = path.join(std::ffi::OsStr::from_bytes(name));
        match &item.kind {
            Kind::Directory(tree) => create(tree, &path)?,
            Kind::File(bytes) => std::fs::write(&path, bytes)?,
            Kind::Symlink(target) => std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path)?,
        }
        set_attributes(&path, item.attributes)?;
    }
    set_attributes(path, ROOT)
}

fn set_attributes(path: &Path, attributes: Attributes) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};
    if !path.is_symlink() {
        rustix::fs::chmod(path, Mode::from_raw_mode(attributes.mode.into()))?;
    }
    let time = Timespec { tv_sec: attributes.mtime.into(), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Bytes that programs trip over, some of them not UTF-8.
const NAME: &[u8] = b"abcdefgXYZ019 ._-\\~\"'\xc3\xa4\xff";

/// A generator of trees: the same seed, the same tree.
pub struct Generator {
    state: u64,
    /// Owners and groups that nodes may have.
    pub owners: u64,
    /// What names are made of.
    pub alphabet: &'static [u8],
    /// Contents so far, to be used again.
    contents: Vec<Vec<u8>>,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(2).wrapping_add(1), owners: 5, alphabet: NAME, contents: Vec::new() }
    }

    /// A number below `limit` (xorshift64*).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let high = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (high * limit) >> 32
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    /// Bytes that compress about as text does.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        let words: Vec<_> = (0..200).map(|_| format!("word{} ", self.below(100_000))).collect();
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            text.extend_from_slice(words[self.below(200) as usize].as_bytes());
        }
        text.truncate(length);
        text
    }

    /// Contents that meet every way to store a block.
    pub fn content(&mut self, block_size: usize) -> Vec<u8> {
        let scale = block_size as u64;
        let content = match self.below(10) {
            0 => Vec::new(),
            1 => vec![0; self.below(3 * scale) as usize],
            2 if !self.contents.is_empty() => {
                let again = self.below(self.contents.len() as u64) as usize;
                self.contents[again].clone()
            }
            3 => {
                let length = self.below(2 * scale) as usize;
                self.bytes(length)
            }
            4 => {
                let blocks = self.below(4) as usize;
                self.text(blocks * block_size)
            }
            5 => {
                let tail = self.below(100) as usize;
                [self.text(block_size), vec![0; block_size], self.text(tail)].concat()
            }
            6 => [vec![0; block_size], self.text(block_size + 1), vec![0; 9]].concat(),
            _ => {
                let length = self.below(scale / 4) as usize;
                self.text(length)
            }
        };
        self.contents.push(content.clone());
        content
    }

    fn attributes(&mut self) -> Attributes {
        Attributes {
            // Extracted by an ordinary user, the owner must be able to read.
            mode: self.below(0o10_000) as u16 | 0o700,
            uid: self.below(self.owners) as u32 * 1001,
            gid: self.below(self.owners) as u32 * 70_000,
            mtime: self.below(1 << 31) as u32,
        }
    }

    fn name(&mut self) -> Vec<u8> {
        let length = match self.below(20) {
            0 => 200 + self.below(56),
            _ => 1 + self.below(12),
        };
        let name: Vec<_> =
            (0..length).map(|_| self.alphabet[self.below(self.alphabet.len() as u64) as usize]).collect();
        if name.iter().all(|&byte| byte == b'.') { b"dots".to_vec() } else { name }
    }

    /// A tree of at most `depth` levels with up to `width` names in each.
    pub fn tree(&mut self, depth: u64, width: u64, block_size: usize) -> Tree {
        let mut tree = Tree::new();
        for _ in 0..self.below(width + 1).max(depth.min(2)) {
            let kind = match self.below(6) {
                0 => Kind::Symlink(self.name()),
                1 | 2 if depth > 1 => Kind::Directory(self.tree(depth - 1, width, block_size)),
                _ => Kind::File(self.content(block_size)),
            };
            let mut attributes = self.attributes();
            if let Kind::Symlink(_) = kind {
                // Linux makes no others.
                attributes.mode = 0o777;
            }
            tree.insert(self.name(), Item { attributes, xattrs: Xattrs::new(), kind });
        }
        tree
    }
}
