//! Readers of squashfs that share no code with the kernel or squashfs-tools.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use plywood::layer::squashfs::Compression;

use super::inspect::{Compare, Mount, assert_same, run};
use super::tree::{Generator, Image, options, write};
use super::{KIB, SETTINGS};

/// Where a reader has put an image's tree, for as long as that is there.
struct View {
    root: PathBuf,
    _mount: Option<Mount>,
}

/// A package, and how its reader gives an image's tree.
type Peer = (&'static str, fn(&Image) -> View, Reach);

/// What a reader can read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    /// Neither lz4, nor names that are not text.
    Most,
}

const PEERS: [Peer; 3] = [
    ("squashfs-tools-ng", rdsquashfs, Reach::All),
    ("squashfuse", squashfuse, Reach::All),
    ("7zip", seven_zip, Reach::Most),
];

fn rdsquashfs(image: &Image) -> View {
    let (root, path) = (image.beside("rdsquashfs"), image.path());
    std::fs::create_dir(&root).unwrap();
    let flags = ["--quiet", "--set-times", "--chmod", "--unpack-path", "/", "--unpack-root"].map(OsStr::new);
    run("rdsquashfs", &[&flags[..], &[root.as_os_str(), path.as_os_str()]].concat());
    View { root, _mount: None }
}

fn seven_zip(image: &Image) -> View {
    let (root, path) = (image.beside("7zz"), image.path());
    let to: OsString = [OsStr::new("-o"), root.as_os_str()].into_iter().collect();
    let flags = ["x", "-bso0", "-bsp0", "-snld20"].map(OsStr::new);
    run("7zz", &[&flags[..], &[&to, path.as_os_str()]].concat());
    View { root, _mount: None }
}

fn squashfuse(image: &Image) -> View {
    let mount = Mount::with("squashfuse \"$1\" /mnt/image", image);
    View { root: mount.root(), _mount: Some(mount) }
}

#[test]
fn others_find_the_tree_that_was_written() {
    for (seed, (compression, block_size)) in (41..).zip(SETTINGS) {
        for (package, view, reach) in PEERS {
            let mut generator = Generator::new(seed);
            if reach == Reach::Most {
                generator.alphabet = b"abcdefgXYZ019 ._-";
            }
            if reach == Reach::Most && compression == Compression::Lz4 {
                continue;
            }
            let width = if block_size > 128 * KIB { 3 } else { 6 };
            let tree = generator.tree(3, width, block_size as usize);
            let image = write(&tree, options(compression, block_size));
            println!("{package} {compression:?} {block_size}");
            assert_same(&tree, &view(&image).root, Compare::ModesAndTimes);
        }
    }
}
