//! What backhand, a reader of squashfs in Rust, finds in the images that
//! plywood writes. Here, so that its packages are none of plywood's.

#[allow(dead_code)]
#[path = "../../../tests/squashfs/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use backhand::{FilesystemReader, InnerNode, NodeHeader};
use plywood::layer::squashfs::Compression;
use plywood::layer::tree::Attributes;
use tree::{Generator, Image, Kind, ROOT, Tree, options, write};

/// Attributes and content of whatever is at each path.
type Listing = BTreeMap<PathBuf, (Attributes, Content)>;

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Directory,
    File(Vec<u8>),
    Symlink(PathBuf),
}

fn listed(tree: &Tree) -> Listing {
    let mut listing = Listing::from([("/".into(), (ROOT, Content::Directory))]);
    list(tree, Path::new("/"), &mut listing);
    listing
}

fn list(tree: &Tree, parent: &Path, listing: &mut Listing) {
    for (name, item) in tree {
        let path = parent.join(OsStr::from_bytes(name));
        let content = match &item.kind {
            Kind::Directory(tree) => {
                list(tree, &path, listing);
                Content::Directory
            }
            Kind::File(bytes) => Content::File(bytes.clone()),
            Kind::Symlink(target) => Content::Symlink(OsStr::from_bytes(target).into()),
        };
        listing.insert(path, (item.attributes, content));
    }
}

fn read(image: &Image) -> Listing {
    let file = BufReader::new(File::open(image.path()).unwrap());
    let filesystem = FilesystemReader::from_reader(file).unwrap();
    let entry = |node: &backhand::Node<_>| {
        let content = match &node.inner {
            InnerNode::Dir(_) => Content::Directory,
            InnerNode::File(file) => {
                let mut bytes = Vec::new();
                filesystem.file(file).reader().read_to_end(&mut bytes).unwrap();
                Content::File(bytes)
            }
            InnerNode::Symlink(symlink) => Content::Symlink(symlink.link.clone()),
            other => panic!("{}: {other:?}", node.fullpath.display()),
        };
        let NodeHeader { permissions: mode, uid, gid, mtime } = node.header;
        (node.fullpath.clone(), (Attributes { mode, uid, gid, mtime }, content))
    };
    filesystem.files().map(entry).collect()
}

#[test]
fn backhand_finds_the_tree_that_was_written() {
    const KIB: u32 = 1 << 10;
    for (seed, (compression, block_size)) in (61..).zip([
        (Compression::Zstd { level: 19 }, 4 * KIB),
        (Compression::Zstd { level: 3 }, 128 * KIB),
        (Compression::Zstd { level: 15 }, 1024 * KIB),
        (Compression::Gzip { level: 6 }, 128 * KIB),
        (Compression::None, 128 * KIB),
    ]) {
        let tree = Generator::new(seed).tree(4, 6, block_size as usize);
        let (found, expected) = (read(&write(&tree, options(compression, block_size))), listed(&tree));
        assert!(found.keys().eq(expected.keys()), "{compression:?} {block_size}: other paths");
        for (path, entry) in &expected {
            assert!(&found[path] == entry, "{compression:?} {block_size}: {}", path.display());
        }
    }
}
