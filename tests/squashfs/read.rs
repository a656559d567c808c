//! The reader against what others and the writer make.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use plywood::layer::rules::Permission;
use plywood::layer::squashfs::Compression;
use plywood::layer::squashfs::reader::{ReadError, Reader};
use plywood::layer::tree::{Attributes, Content, Node, Xattrs};
use plywood::limits::{Bound, Limits};
use tempfile::TempDir;

use super::inspect::run;
use super::tree::{Generator, Item, Kind, ROOT, Tree, create, files, options, write};

fn open(path: &Path) -> Reader<File> {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    Reader::open(file, 0..size, Limits::default()).unwrap()
}

/// Reads everything in an image, contents too.
fn read_all(image: &[u8]) -> Result<u64, ReadError> {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, image, 0).unwrap();
    let limits = Limits::default().with(Bound::Entries, 1000).with(Bound::ImageBytes, 4 << 20);
    let mut reader = Reader::open(file, 0..image.len() as u64, limits)?;
    let tree = reader.tree(Permission::Refuse)?;
    let mut total = 0;
    let mut pending = vec![&tree.root];
    while let Some(node) = pending.pop() {
        match &node.content {
            Content::Directory(children) => pending.extend(children.iter().map(|(_, node)| node)),
            Content::File(id) => {
                let content = reader.content(&tree, *id)?.expect("a file of this tree");
                total += std::io::copy(&mut content.take(64 << 20), &mut std::io::sink()).unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok(total)
}

/// The tree that an image holds, as the tests make trees.
fn tree_of(reader: &mut Reader<File>) -> Tree {
    let tree = reader.tree(Permission::Refuse).unwrap();
    let Kind::Directory(children) = item(reader, &tree, &tree.root).kind else { panic!("the root") };
    children
}

fn item(reader: &mut Reader<File>, tree: &plywood::layer::squashfs::reader::Tree, node: &Node) -> Item {
    let kind = match &node.content {
        Content::Directory(children) => Kind::Directory(
            children.iter().map(|(name, node)| (name.to_vec(), item(reader, tree, node))).collect(),
        ),
        Content::File(id) => {
            let mut bytes = Vec::new();
            reader.content(tree, *id).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
            Kind::File(bytes)
        }
        Content::Symlink(target) => Kind::Symlink(target.to_vec()),
        other => panic!("{other:?}"),
    };
    Item { attributes: node.attributes, xattrs: node.xattrs.as_deref().cloned().unwrap_or_default(), kind }
}

#[derive(Clone, Copy)]
enum Owners {
    Stored,
    /// Those of whoever made the files.
    Any,
}

fn assert_same(expected: &Tree, found: &Tree, owners: Owners, path: &str) {
    let names = |tree: &Tree| tree.keys().map(|name| name.escape_ascii().to_string()).collect::<Vec<_>>();
    assert_eq!(names(expected), names(found), "names in {path}/");
    for (name, item) in expected {
        let path = format!("{path}/{}", name.escape_ascii());
        let other = &found[name];
        let attributes = |item: &Item| match owners {
            Owners::Stored => item.attributes,
            Owners::Any => Attributes { uid: 0, gid: 0, ..item.attributes },
        };
        assert_eq!(attributes(item), attributes(other), "{path}");
        assert_eq!(item.xattrs, other.xattrs, "{path}");
        match (&item.kind, &other.kind) {
            (Kind::Directory(a), Kind::Directory(b)) => assert_same(a, b, owners, &path),
            (Kind::File(a), Kind::File(b)) => assert!(a == b, "content of {path}"),
            (Kind::Symlink(a), Kind::Symlink(b)) => assert_eq!(a, b, "{path}"),
            _ => panic!("{path} is of another kind"),
        }
    }
}

fn mksquashfs(source: &Path, image: &Path, flags: &[&str]) {
    let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).chain([OsStr::new("-no-progress")]).collect();
    run("mksquashfs", &[&[source.as_os_str(), image.as_os_str()], &flags[..]].concat());
}

/// Of squashfs-tools-ng, from a directory.
fn gensquashfs(source: &Path, image: &Path, flags: &[&str]) {
    let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    let fixed = ["--quiet", "--keep-time", "--pack-dir"].map(OsStr::new);
    run("gensquashfs", &[&fixed[..], &[source.as_os_str()], &flags, &[image.as_os_str()]].concat());
}

/// Of squashfs-tools-ng, from a tar.
fn tar2sqfs(source: &Path, image: &Path, flags: &[&str]) {
    let tar = image.with_extension("tar");
    let to = [OsStr::new("-cf"), tar.as_os_str(), OsStr::new("-C"), source.as_os_str(), OsStr::new(".")];
    run("tar", &[&[OsStr::new("--format=pax")], &to[..]].concat());
    let output = Command::new("tar2sqfs")
        .args(flags)
        .args(["--quiet", "--force"])
        .arg(image)
        .stdin(File::open(&tar).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_others_make_is_read_back() {
    type Maker = fn(&Path, &Path, &[&str]);
    let directory = TempDir::new().unwrap();
    let images: [(Maker, &[&[&str]]); 3] = [
        (
            mksquashfs,
            &[
                &["-comp", "gzip"],
                &["-comp", "gzip", "-b", "4096"],
                &["-comp", "zstd"],
                &["-comp", "zstd", "-b", "1M", "-Xcompression-level", "19"],
                &["-comp", "xz"],
                &["-comp", "xz", "-b", "4096"],
                &["-comp", "xz", "-Xbcj", "x86,arm"],
                &["-noI", "-noD", "-noF", "-noX"],
                &["-noI", "-noId", "-comp", "zstd"],
                &["-no-fragments"],
                &["-always-use-fragments", "-comp", "zstd"],
                &["-no-exports", "-no-xattrs", "-nopad"],
                &["-no-duplicates", "-comp", "xz", "-b", "64K"],
                &["-comp", "lz4"],
                &["-comp", "lz4", "-Xhc", "-b", "4096"],
                &["-comp", "lz4", "-b", "1M", "-nopad"],
                &["-b", "1M", "-comp", "xz", "-Xdict-size", "50%"],
                &["-comp", "gzip", "-Xcompression-level", "1", "-Xwindow-size", "8"],
                &["-noD", "-noF", "-comp", "lz4"],
                &["-root-mode", "700", "-comp", "zstd", "-noDataCompression", "-b", "8K"],
            ],
        ),
        (
            gensquashfs,
            &[
                &["--compressor", "gzip"],
                &["--compressor", "xz", "--block-size", "4096"],
                &["--compressor", "lz4", "--no-tail-packing"],
                &["--compressor", "zstd", "--block-size", "1048576", "--exportable"],
            ],
        ),
        (
            tar2sqfs,
            &[
                &["--compressor", "gzip", "--no-tail-packing"],
                &["--compressor", "xz"],
                &["--compressor", "lz4", "--block-size", "4096", "--exportable"],
                &["--compressor", "zstd", "--dev-block-size", "1024"],
            ],
        ),
    ];
    let images = images.iter().flat_map(|(make, table)| table.iter().map(move |flags| (make, *flags)));
    for (seed, (make, flags)) in (1..).zip(images) {
        let block_size = if flags.contains(&"4096") { 4096 } else { 128 << 10 };
        let tree = Generator::new(seed).tree(4, 8, block_size);
        let (source, image) = (directory.path().join("source"), directory.path().join("image"));
        create(&tree, &source).unwrap();
        make(&source, &image, flags);
        assert_same(&tree, &tree_of(&mut open(&image)), Owners::Any, &flags.join(" "));
        fs::remove_dir_all(&source).unwrap();
        fs::remove_file(&image).unwrap();
    }
}

#[test]
fn what_the_writer_makes_is_read_back() {
    for (seed, compression, block_size) in [
        (21, Compression::default(), 128 << 10),
        (22, Compression::Gzip { level: 6 }, 4 << 10),
        (23, Compression::None, 4 << 10),
        (24, Compression::Zstd { level: 1 }, 1 << 20),
        (25, Compression::Lz4, 4 << 10),
        (26, Compression::Lz4, 1 << 20),
        (27, Compression::Xz, 4 << 10),
        (28, Compression::Xz, 128 << 10),
    ] {
        let mut tree = Generator::new(seed).tree(4, 8, block_size as usize);
        let xattrs = |number: usize| {
            Xattrs::from([
                (b"user.a".to_vec(), vec![b'v'; number * 1000]),
                (b"security.capability".to_vec(), b"c".to_vec()),
            ])
        };
        for (number, item) in tree.values_mut().enumerate() {
            item.xattrs = if number % 3 == 2 { Xattrs::new() } else { xattrs(number % 3) };
        }
        let image = write(&tree, options(compression, block_size));
        assert_same(&tree, &tree_of(&mut open(&image.path())), Owners::Stored, "");
    }
}

#[test]
fn ten_thousand_files_are_read_in_a_moment() {
    let contents: Vec<_> = (0..10_000).map(|number| format!("content {number}").into_bytes()).collect();
    let tree = files(&contents.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let directory = TempDir::new().unwrap();
    let (source, image) = (directory.path().join("source"), directory.path().join("image"));
    create(&tree, &source).unwrap();
    mksquashfs(&source, &image, &["-comp", "zstd"]);
    let start = Instant::now();
    let read = tree_of(&mut open(&image));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_same(&tree, &read, Owners::Any, "");
}

#[test]
fn xattrs_of_files_are_read() {
    let directory = TempDir::new().unwrap();
    let (source, image) = (directory.path().join("source"), directory.path().join("image"));
    let tree = files(&[b"one", b"two", b"three"]);
    create(&tree, &source).unwrap();
    let large = vec![b'x'; 3000];
    for (name, value) in [("file000", &b"small"[..]), ("file001", &large), ("file002", &large)] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(source.join(name), "user.note", value, flags).unwrap();
    }
    mksquashfs(&source, &image, &["-xattrs"]);
    let read = tree_of(&mut open(&image));
    let note = |name: &str| read[name.as_bytes()].xattrs[&b"user.note"[..]].clone();
    assert_eq!(
        (note("file000"), note("file001"), note("file002")),
        (b"small".to_vec(), large.clone(), large)
    );
}

#[test]
fn special_files_and_hard_links_are_told_apart() {
    let directory = TempDir::new().unwrap();
    let (source, image) = (directory.path().join("source"), directory.path().join("image"));
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("a"), "content").unwrap();
    fs::hard_link(source.join("a"), source.join("d/b")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, source.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap());
    mksquashfs(&source, &image, &["-p", "null c 666 0 0 1 3", "-p", "disk b 660 0 0 8 1"]);
    for (permission, second) in [(Permission::Refuse, "link to a"), (Permission::Allow, "file")] {
        let tree = open(&image).tree(permission).unwrap();
        let kind =
            |path: &[&[u8]]| match &tree.root.children().unwrap().walk(path.iter().copied()).unwrap().content
            {
                Content::Directory(_) => "directory".to_string(),
                Content::File(_) => "file".into(),
                Content::Symlink(_) => "symlink".into(),
                Content::HardLink(target) => format!("link to {}", target.escape_ascii()),
                Content::Device => "device".into(),
                Content::Fifo => "fifo".into(),
            };
        for (path, expected) in [
            (&[&b"a"[..]][..], "file"),
            (&[b"d", b"b"], second),
            (&[b"fifo"], "fifo"),
            (&[b"socket"], "fifo"),
            (&[b"null"], "device"),
            (&[b"disk"], "device"),
        ] {
            assert_eq!(kind(path), expected, "{path:?}");
        }
    }
}

#[test]
fn compressors_that_cannot_be_read_are_named() {
    let directory = TempDir::new().unwrap();
    let (source, image) = (directory.path().join("source"), directory.path().join("image"));
    create(&files(&[b"x"]), &source).unwrap();
    for compressor in ["lzo", "lzma"] {
        mksquashfs(&source, &image, &["-comp", compressor, "-noappend"]);
        let error = read_all(&fs::read(&image).unwrap()).unwrap_err().to_string();
        let expected = format!("it is compressed with {compressor}; gzip, lz4, xz and zstd can be read");
        assert_eq!(error, expected);
    }
}

/// As the kernel has it, where they are not told apart from damage.
#[test]
fn lz4_comes_with_the_version_of_its_blocks() {
    let image = write(&files(&[b"x"]), options(Compression::Lz4, 4096));
    let image = fs::read(image.path()).unwrap();
    read_all(&image).unwrap();
    let changed = |at: usize, value: u8| {
        let mut image = image.clone();
        image[at] = value;
        read_all(&image).unwrap_err().to_string()
    };
    for (at, value, expected) in [
        (25, image[25] & !4, "its superblock lacks the options that lz4 has to have"),
        (96, 4, "its superblock has options that its compressor does not have"),
        (98, 2, "its superblock has lz4 blocks of an unknown form"),
        (101, 1, "its superblock has lz4 blocks of an unknown form"),
    ] {
        assert_eq!(changed(at, value), expected);
    }
}

/// Whatever is changed, the image is read or refused, at once and without a
/// panic.
#[test]
fn mutations_are_read_or_refused() {
    let directory = TempDir::new().unwrap();
    let source = directory.path().join("source");
    let mut tree = Generator::new(99).tree(3, 4, 4096);
    tree.extend(files(&[&[b'c'; 9000], b"tail", b""]));
    create(&tree, &source).unwrap();
    for (name, value) in [("file000", "one"), ("file001", "two")] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(source.join(name), "user.note", value.as_bytes(), flags).unwrap();
    }
    let mut random = Generator::new(7);
    let (mut read, mut refused) = (0, 0);
    for (name, flags) in [
        ("raw", &["-noI", "-noId", "-noD", "-noF", "-noX", "-b", "4096"][..]),
        ("gzip", &["-comp", "gzip", "-b", "4096"]),
        ("zstd", &["-comp", "zstd", "-b", "4096"]),
        ("xz", &["-comp", "xz", "-b", "4096"]),
        ("lz4", &["-comp", "lz4", "-b", "4096"]),
    ] {
        let image = directory.path().join(name);
        mksquashfs(&source, &image, &[flags, &["-nopad"]].concat());
        let image = fs::read(&image).unwrap();
        assert!(read_all(&image).unwrap() > 9000);
        for _ in 0..1500 {
            let mutated = mutate(&image, &mut random);
            let start = Instant::now();
            match read_all(&mutated) {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
        }
    }
    assert!(read > 100 && refused > 1000, "{read} read, {refused} refused");
}

/// Changes a few bytes: anywhere, in the superblock or among the tables,
/// which come last.
fn mutate(image: &[u8], random: &mut Generator) -> Vec<u8> {
    let mut mutated = image.to_vec();
    let length = image.len() as u64;
    for _ in 0..=random.below(3) {
        let at = match random.below(3) {
            0 => random.below(96),
            1 => random.below(length),
            _ => length - 1 - random.below(length.min(4096)),
        };
        let value = match random.below(4) {
            0 => 0,
            1 => 0xff,
            2 => mutated[at as usize] ^ 1 << random.below(8),
            _ => random.below(256) as u8,
        };
        mutated[at as usize] = value;
    }
    if random.below(20) == 0 {
        mutated.truncate(random.below(length) as usize);
    }
    mutated
}

#[test]
fn every_byte_of_the_superblock_may_be_wrong() {
    let image = write(&files(&[b"a", b"b"]), options(Compression::None, 4096));
    let image = fs::read(image.path()).unwrap();
    for at in 0..96 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut mutated = image.clone();
            mutated[at] = value;
            let _: Result<_, ReadError> = read_all(&mutated);
        }
    }
    for length in 0..image.len() {
        let _: Result<_, ReadError> = read_all(&image[..length]);
    }
    read_all(&image[..95]).unwrap_err();
}

#[test]
fn the_roots_attributes_are_read() {
    let image = write(&Tree::new(), options(Compression::None, 4096));
    let tree = open(&image.path()).tree(Permission::Refuse).unwrap();
    assert_eq!(tree.root.attributes, ROOT);
    assert!(tree.root.children().unwrap().is_empty());
}
