//! Hostile images: one that is good, with single fields changed.

use super::*;
use crate::layer::squashfs::{Compression, Options, Workers, Writer};
use crate::layer::tree::{Attributes, Content as TreeContent, Directory};
use std::fs::File;
use std::io::{self, Write};

fn limits() -> Limits {
    let names = Limits::default().with(Bound::Names, 4096);
    names.with(Bound::Entries, 100).with(Bound::ImageBytes, 1 << 20)
}

/// `a/inner`, `b/`, `big` (two blocks and a tail) and `link`, uncompressed.
/// Inodes: 1 root, 2 a, 3 b, 4 big, 5 link, 6 inner.
fn image() -> Vec<u8> {
    let workers = Workers::new(std::num::NonZeroUsize::MIN);
    let options = Options { compression: Compression::None, block_size: 4096, workers };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let mut writer = Writer::new(File::create_new(&path).unwrap(), options).unwrap();
    let mut file =
        |bytes: &[u8]| TreeContent::File(writer.add_file(bytes.len() as u64, &mut &*bytes).unwrap());
    let node =
        |content| Node { attributes: Attributes::IMPLIED_DIRECTORY, changeset: None, xattrs: None, content };
    let inner = Directory::from([((*b"inner").into(), node(file(b"inner")))]);
    let root = Directory::from([
        ((*b"a").into(), node(TreeContent::Directory(inner))),
        ((*b"b").into(), node(TreeContent::Directory(Directory::new()))),
        ((*b"big").into(), node(file(&[b'x'; 9000]))),
        ((*b"link").into(), node(TreeContent::Symlink((*b"target").into()))),
    ]);
    writer.finish(&root, Attributes::IMPLIED_DIRECTORY).unwrap();
    std::fs::read(path).unwrap()
}

fn u64_at(image: &[u8], at: usize) -> usize {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize
}

/// Where inode `number` is.
fn inode(image: &[u8], number: u32) -> usize {
    let end = u64_at(image, 72);
    let mut at = u64_at(image, 64) + 2;
    while at < end {
        let field = |offset: usize| u32::from_le_bytes(image[at + offset..][..4].try_into().unwrap());
        if field(12) == number {
            return at;
        }
        at += match image[at] {
            1 => 32,
            2 => 32 + 4 * (field(28) as usize / 4096),
            3 => 24 + field(20) as usize,
            kind => panic!("type {kind}"),
        };
    }
    panic!("no inode {number}");
}

/// The entry for `name` in the listings.
fn entry(image: &[u8], name: &[u8]) -> usize {
    let start = u64_at(image, 72);
    let found = image[start..].windows(name.len()).position(|window| window == name).unwrap();
    start + found - 8
}

fn open(image: &[u8]) -> Result<(Reader<File>, Tree), ReadError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    let mut reader = Reader::open(file, 0..image.len() as u64, limits())?;
    let tree = reader.tree(Permission::Refuse)?;
    Ok((reader, tree))
}

fn contents(image: &[u8]) -> Result<Vec<usize>, String> {
    let chain = |error: &dyn std::error::Error| {
        let causes = std::iter::successors(Some(error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    };
    let (mut reader, tree) = open(image).map_err(|error| chain(&error))?;
    let mut sizes = Vec::new();
    for number in 0..tree.files.len() as u32 {
        let mut content = reader.content(&tree, FileId::new(number)).map_err(|error| chain(&error))?.unwrap();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut content, &mut bytes).map_err(|error| error.to_string())?;
        sizes.push(bytes.len());
    }
    Ok(sizes)
}

#[test]
fn the_image_is_good() {
    assert_eq!(contents(&image()), Ok(vec![5, 9000]));
}

/// Where something is in an image.
type Place = fn(&[u8]) -> usize;

/// What is changed, where, to what, and what is said of it.
const BROKEN: &[(&str, Place, &[u8], &str)] = &[
    ("magic", |_| 0, b"sqsh", "it is no squashfs 4.0 image"),
    ("version", |_| 28, &[3, 0], "it is no squashfs 4.0 image"),
    (
        "huge count of inodes",
        |_| 4,
        &[0xff; 4],
        "more than the limit of 100 for entries of an image, and directories that they imply (plywood.limits.entries)",
    ),
    ("no inodes", |_| 4, &[0; 4], "its superblock announces no inodes"),
    ("block size", |_| 12, &[1, 0x10, 0, 0], "its superblock has a block size that is no power of two"),
    ("small block size", |_| 12, &[0, 8, 0, 0], "its superblock has a block size that is not allowed"),
    ("block log", |_| 22, &[13, 0], "its superblock has two different block sizes"),
    ("no owners", |_| 26, &[0, 0], "its superblock announces no owners"),
    ("length", |_| 40, &[0xff; 8], "its superblock announces more bytes than there are"),
    ("inodes outside", |_| 64, &[0xff; 8], "its superblock has a table outside the image"),
    (
        "inodes in the superblock",
        |_| 64,
        &[9, 0, 0, 0, 0, 0, 0, 0],
        "its superblock has a table outside the image",
    ),
    (
        "directories over data",
        |_| 72,
        &[96, 0, 0, 0, 0, 0, 0, 0],
        "its superblock has the directories before the inodes",
    ),
    ("many owners", |_| 26, &[0xff, 0xff], "the metadata block at byte"),
    (
        "root beyond a block",
        |_| 32,
        &[0xff, 0xff],
        "the metadata block at byte 0 is referred to beyond its end",
    ),
    ("root is a file", |image| inode(image, 1), &[6, 0], "inode 1 is the root and no directory"),
    ("unknown type", |image| inode(image, 5), &[15, 0], "`link`: inode 5 is of an unknown type"),
    (
        "mode",
        |image| inode(image, 5) + 2,
        &[0, 0x10],
        "`link`: inode 5 has a mode of more than permission bits",
    ),
    ("owner out of range", |image| inode(image, 4) + 4, &[9, 0], "`big`: owner 9 is wanted, but there are 1"),
    (
        "inode number 0",
        |image| inode(image, 5) + 12,
        &[0; 4],
        "`link`: inode 0 has a number that the superblock does not allow",
    ),
    (
        "inode number too large",
        |image| inode(image, 5) + 12,
        &[7, 0, 0, 0],
        "`link`: inode 7 has a number that the superblock does not allow",
    ),
    (
        "another inode number",
        |image| inode(image, 5) + 12,
        &[4, 0, 0, 0],
        "`link`: inode 4 is not what its directory says",
    ),
    (
        "long target",
        |image| inode(image, 5) + 20,
        &[0, 0, 0, 0x80],
        "`link`: more than the limit of 4095 bytes for one symlink's target (Linux has no longer ones)",
    ),
    ("empty target", |image| inode(image, 5) + 20, &[0; 4], "`link`: inode 5 has a target that is empty"),
    (
        "NUL in a target",
        |image| inode(image, 5) + 24,
        &[0],
        "`link`: inode 5 has a target with control characters",
    ),
    (
        "fragment out of range",
        |image| inode(image, 4) + 20,
        &[7, 0, 0, 0],
        "`big`: fragment 7 is wanted, but there are 1",
    ),
    (
        "offset in a fragment",
        |image| inode(image, 4) + 24,
        &[0xff, 0xff, 0, 0],
        "byte of a fragment block 65535 is wanted, but there are",
    ),
    (
        "huge file",
        |image| inode(image, 4) + 28,
        &[0xff; 4],
        "`big`: more than the limit of 1MiB for all content of an image, uncompressed (plywood.limits.bytes)",
    ),
    (
        "data in the superblock",
        |image| inode(image, 4) + 16,
        &[4, 0, 0, 0],
        "the data block at byte 4 is in the superblock",
    ),
    (
        "data outside",
        |image| inode(image, 4) + 16,
        &[0xff; 4],
        "4096 bytes are wanted at byte 4294967295, but it has",
    ),
    (
        "large block",
        |image| inode(image, 4) + 32,
        &[1, 0x10, 0, 1],
        "the data block at byte 96 is empty or stored in more bytes than it has",
    ),
    (
        "size of a block",
        |image| inode(image, 4) + 32,
        &[0xff; 4],
        "is empty or stored in more bytes than it has",
    ),
    ("short block", |image| inode(image, 4) + 32, &[1, 0, 0, 1], "is shorter than its file says"),
    ("not compressed", |image| inode(image, 4) + 32, &[0, 0x10, 0, 0], "cannot be decompressed"),
    (
        "long listing",
        |image| inode(image, 2) + 24,
        &[0xff, 0xff],
        "`a`: its listing is not sorted or has a name twice",
    ),
    (
        "short listing",
        |image| inode(image, 2) + 24,
        &[20, 0],
        "`a`: its listing is longer than its directory says",
    ),
    (
        "run of entries",
        |image| entry(image, b"inner") - 12,
        &[0, 1, 0, 0],
        "`a`: its listing has a header for more than 256 entries",
    ),
    (
        "huge run of entries",
        |image| entry(image, b"inner") - 12,
        &[0xff; 4],
        "`a`: its listing has a header for more than 256 entries",
    ),
    (
        "type in a listing",
        |image| entry(image, b"link") + 4,
        &[2, 0],
        "`link`: inode 5 is not what its directory says",
    ),
    ("place in a listing", |image| entry(image, b"link"), &[0xff, 0xff], "is referred to beyond its end"),
    (
        "order of names",
        |image| entry(image, b"link") + 8,
        &[b'a'; 4],
        "its listing is not sorted or has a name twice",
    ),
    (
        "slash in a name",
        |image| entry(image, b"inner") + 8,
        b"/",
        "`a`: its listing has a name that is `.`, `..` or has a slash in it",
    ),
    (
        "NUL in a name",
        |image| entry(image, b"inner") + 8,
        b"\0",
        "`a/\\x00nner`: its name has control characters",
    ),
    (
        "length of a name",
        |image| entry(image, b"inner") + 6,
        &[0xff, 0xff],
        "`a`: its listing is longer than its directory says",
    ),
    ("empty metadata block", |image| u64_at(image, 64), &[0, 0x80], "is empty or longer than 8 KiB"),
    ("long metadata block", |image| u64_at(image, 64), &[1, 0xa0], "is empty or longer than 8 KiB"),
    ("no such xattrs", |image| inode(image, 5), &[10, 0], "`link`: set of xattrs"),
];

#[test]
fn what_the_format_does_not_allow_is_refused() {
    for (what, place, bytes, expected) in BROKEN {
        let mut image = image();
        let at = place(&image);
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let error = contents(&image).expect_err(what);
        assert!(error.contains(expected), "{what}: {error}");
    }
}

/// Makes the entry for `name` stand for inode `number`.
fn point(image: &mut [u8], name: &[u8], number: u32, kind: u16) {
    let table = u64_at(image, 64) + 2;
    let offset = (inode(image, number) - table) as u16;
    let at = entry(image, name);
    let header = match name {
        b"inner" => at - 12,
        _ => entry(image, b"a") - 12,
    };
    let base = u32::from_le_bytes(image[header + 8..header + 12].try_into().unwrap());
    let delta = (number as i32 - base as i32) as i16;
    image[at..at + 2].copy_from_slice(&offset.to_le_bytes());
    image[at + 2..at + 4].copy_from_slice(&delta.to_le_bytes());
    image[at + 4..at + 6].copy_from_slice(&kind.to_le_bytes());
}

#[test]
fn a_directory_has_one_name() {
    for (what, name, number, expected) in [
        ("its own child", &b"inner"[..], 2, "`a/inner`: inode 2 has more names than it should"),
        ("the root below", b"inner", 1, "`a/inner`: inode 1 has more names than it should"),
        ("a sibling twice", b"b", 2, "`b`: inode 2 has more names than it should"),
        ("the root beside", b"b", 1, "`b`: inode 1 has more names than it should"),
    ] {
        let mut image = image();
        point(&mut image, name, number, 1);
        assert_eq!(contents(&image).expect_err(what), expected, "{what}");
    }
}

#[test]
fn a_file_has_as_many_names_as_links() {
    let mut image = image();
    point(&mut image, b"inner", 4, 2);
    assert_eq!(contents(&image).unwrap_err(), "`big`: inode 4 has more names than it should");
}

#[test]
fn limits_hold() {
    let good = image();
    for (limits, expected) in [
        (
            limits().with(Bound::Entries, 4),
            "more than the limit of 4 for entries of an image, and directories that they imply (plywood.limits.entries)",
        ),
        (
            limits().with(Bound::Names, 19),
            "more than the limit of 19 bytes for all names, link targets and xattrs of an image (plywood.limits.names)",
        ),
        (
            limits().with(Bound::ImageBytes, 9004),
            "more than the limit of 9004 bytes for all content of an image, uncompressed (plywood.limits.bytes)",
        ),
    ] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&good).unwrap();
        let opened = Reader::open(file, 0..good.len() as u64, limits);
        let error = opened.and_then(|mut reader| reader.tree(Permission::Refuse).map(drop)).unwrap_err();
        let cause = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        assert_eq!(cause.last().unwrap().to_string(), expected);
    }
}
