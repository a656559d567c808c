//! The squashfs writer against those who read squashfs: unsquashfs, the kernel
//! and others. mksquashfs says what an image of the same tree looks like.

mod inspect;
mod peers;
mod read;
mod refused;
mod tree;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use inspect::{
    Compare, Mount, assert_lines, assert_same, expected_listing, extract, listing, run, without_times,
};
use plywood::layer::squashfs::{Compression, Options, Workers};
use plywood::layer::tree::{Attributes, Content, Directory, Xattrs};
use tree::{
    Generator, Image, Item, Kind, ROOT, Tree, create, default_options, files, node, options, write,
    write_with,
};

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// Every compressor with the smallest, usual and largest block size.
const SETTINGS: [(Compression, u32); 15] = [
    (Compression::Zstd { level: 19 }, 4 * KIB),
    (Compression::Zstd { level: 3 }, 128 * KIB),
    (Compression::Zstd { level: 15 }, MIB),
    (Compression::Gzip { level: 1 }, 4 * KIB),
    (Compression::Gzip { level: 9 }, 128 * KIB),
    (Compression::Gzip { level: 6 }, MIB),
    (Compression::Lz4, 4 * KIB),
    (Compression::Lz4, 128 * KIB),
    (Compression::Lz4, MIB),
    (Compression::Xz, 4 * KIB),
    (Compression::Xz, 128 * KIB),
    (Compression::Xz, MIB),
    (Compression::None, 4 * KIB),
    (Compression::None, 128 * KIB),
    (Compression::None, MIB),
];

fn random_tree(seed: u64, block_size: u32) -> Tree {
    // Large blocks make large files: fewer of them do.
    let width = if block_size > 128 * KIB { 4 } else { 8 };
    Generator::new(seed).tree(4, width, block_size as usize)
}

/// Names, targets, depths and contents at their limits.
fn extreme_tree() -> Tree {
    let mut deep = Tree::from([(b"bottom".to_vec(), Kind::File(b"deep".to_vec()).into())]);
    for _ in 0..300 {
        deep = Tree::from([(b"d".to_vec(), Kind::Directory(deep).into())]);
    }
    let many = (0..1000).map(|number| (format!("{number:0250}").into_bytes(), Kind::File(vec![1]).into()));
    Tree::from([
        (b"deep".to_vec(), Kind::Directory(deep).into()),
        (b"empty directory".to_vec(), Kind::Directory(Tree::new()).into()),
        (b"empty file".to_vec(), Kind::File(Vec::new()).into()),
        (b"line\nfeed\xff".to_vec(), Kind::File(b"name".to_vec()).into()),
        (b"long target".to_vec(), Kind::Symlink([b'/'; 4095].to_vec()).into()),
        (vec![b'n'; 255], Kind::File(b"long name".to_vec()).into()),
        (b"many".to_vec(), Kind::Directory(many.collect()).into()),
        (b"zero byte".to_vec(), Kind::File(vec![0]).into()),
    ])
}

#[test]
fn unsquashfs_finds_the_tree_that_was_written() {
    for (seed, (compression, block_size)) in (1..).zip(SETTINGS) {
        let tree = random_tree(seed, block_size);
        let image = write(&tree, options(compression, block_size));
        assert_lines(&without_times(&listing(&image.path())), &expected_listing(&tree));
        assert_same(&tree, &extract(&image), Compare::ModesAndTimes);
    }
}

#[test]
fn unsquashfs_extracts_what_is_at_the_limits() {
    let tree = extreme_tree();
    assert_same(&tree, &extract(&write(&tree, default_options())), Compare::ModesAndTimes);
}

#[test]
fn unsquashfs_prints_one_content() {
    let mut generator = Generator::new(4);
    let contents = [generator.text(300_000), generator.bytes(10), generator.text(131_072)];
    let image = write(&files(&contents.each_ref().map(Vec::as_slice)), default_options());
    for (content, name) in contents.iter().zip(["file000", "file001", "file002"]) {
        let printed = run("unsquashfs", &["-cat".as_ref(), image.path().as_os_str(), name.as_ref()]);
        assert!(printed == *content, "{name}");
    }
}

#[test]
fn an_image_without_any_file_is_valid() {
    let image = write(&Tree::new(), default_options());
    assert_eq!((image.bytes, image.inodes), (4096, 1));
    assert_same(&Tree::new(), &extract(&image), Compare::ModesAndTimes);
}

#[test]
fn mksquashfs_makes_the_same_listing_and_saves_at_most_2_percent() {
    let mut generator = Generator::new(77);
    generator.owners = 1;
    let mut tree = generator.tree(4, 8, 64 << 10);
    tree.extend((0..500).map(|number| {
        let length = generator.below(60_000) as usize;
        (format!("text{number}").into_bytes(), Kind::File(generator.text(length)).into())
    }));
    let image = write(&tree, default_options());
    let (source, peer) = (image.beside("source"), image.beside("peer"));
    create(&tree, &source).unwrap();
    let flags = "-all-root -comp zstd -Xcompression-level 3 -processors 2 -no-progress -quiet";
    let flags: Vec<_> = flags.split(' ').map(OsStr::new).collect();
    run("mksquashfs", &[&[source.as_os_str(), peer.as_os_str()], &flags[..]].concat());
    assert_lines(&listing(&image.path()), &listing(&peer));
    let peer_bytes = fs::metadata(&peer).unwrap().len();
    assert!(image.bytes * 100 <= peer_bytes * 102, "{} bytes, mksquashfs {peer_bytes}", image.bytes);
}

#[test]
fn the_number_of_workers_does_not_change_a_byte() {
    for (compression, block_size) in SETTINGS.into_iter().filter(|(_, block_size)| *block_size < MIB) {
        let tree = random_tree(5, block_size);
        let bytes = [1, 2, 8].map(|workers| {
            let workers = Workers::new(workers.try_into().unwrap());
            let image = write(&tree, Options { compression, block_size, workers });
            fs::read(image.path()).unwrap()
        });
        assert!(bytes[0] == bytes[1] && bytes[1] == bytes[2], "{compression:?}");
    }
}

#[test]
fn the_same_content_is_stored_once() {
    let block = 128 << 10;
    let mut generator = Generator::new(9);
    let data = generator.bytes(3 * block + 5000);
    let (blocks, tail) = data.split_at(3 * block);
    let mut changed = data.clone();
    changed[block] ^= 1;
    let swapped = [&data[block..2 * block], &data[..block], &data[2 * block..]].concat();
    let zeros = vec![0; block];
    let stored = |contents: &[&[u8]]| {
        let image = write(&files(contents), options(Compression::None, block as u32));
        assert_same(&files(contents), &extract(&image), Compare::ModesAndTimes);
        image.bytes / 1000 * 1000
    };
    let once = stored(&[&data]);
    let near = |bytes: u64, extra: usize| bytes.abs_diff(once + extra as u64) <= 5000;
    for (why, contents, extra) in [
        ("twice the same", vec![&data[..], &data], 0),
        ("the same after another", vec![&data, &blocks[..block], &data], block),
        ("only the blocks are the same", vec![&data, blocks], 0),
        ("only the tail is the same", vec![&data, tail], 0),
        ("one bit differs", vec![&data, &changed], 3 * block),
        ("the same blocks in another order", vec![&data, &swapped], 3 * block),
        ("the same blocks around a hole", vec![&data, &[blocks, &zeros, tail].concat()], 0),
        ("the same size", vec![tail, &generator.bytes(5000), &data], 5000),
    ] {
        let bytes = stored(&contents);
        assert!(near(bytes, extra), "{why}: {bytes} bytes, once {once}");
    }
}

/// A file of more than 4 GiB, nearly all of it holes.
const SPARSE: u64 = (4 << 30) + 100_000;

fn sparse_content() -> impl Read {
    let zeros = |length: u64| io::repeat(0).take(length);
    let (start, end) = (&b"start"[..], &b"end"[..]);
    start.chain(zeros(1 << 31)).chain(&b"middle"[..]).chain(zeros(SPARSE - (1 << 31) - 14)).chain(end)
}

fn write_sparse() -> Image {
    let image = write_with(options(Compression::default(), 4 * KIB), |writer| {
        let file = Content::File(writer.add_file(SPARSE, &mut sparse_content())?);
        let file = node(ROOT, &Xattrs::new(), file);
        Ok(Directory::from([((*b"sparse").into(), file)]))
    });
    image.unwrap()
}

fn assert_same_content(mut found: impl Read, mut expected: impl Read) {
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = found.read(&mut left).unwrap();
        if count == 0 {
            assert_eq!(expected.read(&mut right).unwrap(), 0);
            return;
        }
        expected.read_exact(&mut right[..count]).unwrap();
        assert!(left[..count] == right[..count]);
    }
}

#[test]
fn a_hole_takes_no_space_in_a_file_larger_than_4_gib() {
    let image = write_sparse();
    assert!(image.bytes <= 64 << 10, "{} bytes", image.bytes);
    let extracted = extract(&image).join("sparse");
    assert!(fs::metadata(&extracted).unwrap().blocks() < 1000);
    assert_same_content(File::open(extracted).unwrap(), sparse_content());
}

fn large_directory() -> Tree {
    let name = |number: u32| format!("{:08x}-{number}", number.wrapping_mul(0x9e37_79b9)).into_bytes();
    let large = (0..100_000).map(|number| (name(number), Kind::File(vec![number as u8]).into())).collect();
    Tree::from([(b"large".to_vec(), Kind::Directory(large).into())])
}

#[test]
fn a_directory_has_100_000_entries() {
    let tree = large_directory();
    let image = write(&tree, default_options());
    assert_eq!(image.inodes, 100_002);
    assert_lines(&without_times(&listing(&image.path())), &expected_listing(&tree));
}

#[test]
fn contents_that_no_tree_names_are_left_out_of_it() {
    let mut generator = Generator::new(3);
    let image = write_with(default_options(), |writer| {
        let unnamed = generator.bytes(300_000);
        writer.add_file(unnamed.len() as u64, &mut unnamed.as_slice())?;
        let named = Content::File(writer.add_file(5, &mut &b"named"[..])?);
        Ok(Directory::from([(
            (*b"file000").into(),
            node(Attributes::IMPLIED_DIRECTORY, &Xattrs::new(), named),
        )]))
    });
    assert_same(&files(&[b"named"]), &extract(&image.unwrap()), Compare::ModesAndTimes);
}

/// Extended attributes on every kind of node, shared sets among them.
fn tree_with_xattrs() -> Tree {
    let xattrs = |pairs: &[(&str, &[u8])]| -> Xattrs {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
    };
    let capability = xattrs(&[("security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0")]);
    let several = xattrs(&[("trusted.a", b""), ("user.b", &[7; 30_000]), ("user.c", b"c")]);
    let trusted = xattrs(&[("trusted.overlay.opaque", b"y")]);
    let item = |kind, xattrs: &Xattrs| Item { xattrs: xattrs.clone(), ..Item::from(kind) };
    let mut generator = Generator::new(11);
    let mut tree = Tree::from([
        (b"directory".to_vec(), item(Kind::Directory(Tree::new()), &several)),
        (b"file".to_vec(), item(Kind::File(generator.text(400_000)), &several)),
        (b"plain".to_vec(), Kind::File(b"plain".to_vec()).into()),
        (b"program".to_vec(), item(Kind::File(b"#!".to_vec()), &capability)),
        (b"symlink".to_vec(), item(Kind::Symlink(b"file".to_vec()), &trusted)),
    ]);
    for number in 0..2000_u32 {
        let own = xattrs(&[("user.number", &number.to_le_bytes())]);
        tree.insert(format!("own{number}").into_bytes(), item(Kind::File(Vec::new()), &own));
    }
    tree
}

#[test]
fn the_kernel_finds_the_tree_that_was_written() {
    for (seed, (compression, block_size)) in (21..).zip(SETTINGS) {
        let tree = random_tree(seed, block_size);
        let image = write(&tree, options(compression, block_size));
        let mount = Mount::new(&image);
        assert_same(&tree, &mount.root(), Compare::All);
        let root = fs::metadata(mount.root()).unwrap();
        assert_eq!((root.mode() & 0o7777, root.mtime()), (u32::from(ROOT.mode), i64::from(ROOT.mtime)));
    }
    for tree in [Tree::new(), extreme_tree(), tree_with_xattrs()] {
        for compression in [
            Compression::default(),
            Compression::Gzip { level: 6 },
            Compression::Lz4,
            Compression::Xz,
            Compression::None,
        ] {
            let image = write(&tree, options(compression, 128 * KIB));
            assert_same(&tree, &Mount::new(&image).root(), Compare::All);
        }
    }
}

#[test]
fn the_kernel_finds_names_in_a_directory_of_100_000() {
    let tree = large_directory();
    let image = write(&tree, default_options());
    let mount = Mount::new(&image);
    let large = mount.root().join("large");
    fs::metadata(large.join("00000000-0")).unwrap();
    for missing in ["", "5", "7fffffff", "zzz"] {
        let path = large.join(format!("{missing}-"));
        assert_eq!(fs::metadata(path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
    assert_same(&tree, &mount.root(), Compare::All);
}

#[test]
fn the_kernel_reads_a_file_larger_than_4_gib() {
    let image = write_sparse();
    let mount = Mount::new(&image);
    let path = mount.root().join("sparse");
    assert_eq!(fs::metadata(&path).unwrap().len(), SPARSE);
    assert_same_content(File::open(path).unwrap(), sparse_content());
}
