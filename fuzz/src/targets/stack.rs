//! Stacks of changesets: the flattener against a model that knows nothing but
//! paths, and the squashfs writer with what came out.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::num::NonZeroUsize;

use plywood::layer::changeset::Stack;
use plywood::layer::rules::Permission;
use plywood::layer::squashfs::{Compression, FileId, Options, Workers, Writer};
use plywood::layer::tree::{Attributes, Content, Directory};
use plywood::limits::Limits;

#[allow(dead_code)]
#[path = "../../../src/layer/tar/fixture.rs"]
mod fixture;

use fixture::Tar;

/// What one entry of a changeset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    File,
    Directory,
    Symlink,
    Whiteout,
    Opaque,
}

/// What is at a path: what it is, and the changeset it came from. Directories
/// that are only implied came from none.
type Model = BTreeMap<String, (Deed, Option<usize>)>;

/// Two bytes an entry: deed and depth, then names. 0xff begins a changeset.
fn changesets(data: &[u8]) -> Vec<Vec<(Deed, String)>> {
    let parse = |part: &[u8]| {
        part.chunks_exact(2)
            .take(64)
            .map(|bytes| {
                let deeds = [Deed::File, Deed::Directory, Deed::Symlink, Deed::Whiteout, Deed::Opaque];
                let (deed, depth) = (deeds[usize::from(bytes[0] % 5)], bytes[0] / 5 % 3 + 1);
                let name = |level| ["a", "b", "c"][usize::from(bytes[1] / 3u8.pow(level) % 3)];
                let names: Vec<_> = (0..u32::from(depth)).map(name).collect();
                (deed, names.join("/"))
            })
            .collect()
    };
    data.split(|&byte| byte == 0xff).take(6).map(parse).collect()
}

fn archive(entries: &[(Deed, String)]) -> Vec<u8> {
    let add = |tar: Tar, (deed, path): &(Deed, String)| {
        let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
        match deed {
            Deed::File => tar.file(path, path.as_bytes()),
            Deed::Directory => tar.directory_with(path, 0o700),
            Deed::Symlink => tar.symlink(path, "../target"),
            Deed::Whiteout => tar.file(&format!("{directory}/.wh.{name}"), b""),
            Deed::Opaque => tar.file(&format!("{path}/.wh..wh..opq"), b""),
        }
    };
    entries.iter().fold(Tar::new(), add).finish()
}

fn remove_below(model: &mut Model, path: &str) {
    let below = format!("{path}/");
    model.retain(|held, _| !held.starts_with(&below));
}

fn remove(model: &mut Model, path: &str) {
    remove_below(model, path);
    model.remove(path);
}

/// Whether a whiteout or opaque marker stands below something of its own
/// changeset that is no directory, or below a symlink of a lower one.
fn is_marker_through_link(model: &Model, entries: &[(Deed, String)], deed: Deed, path: &str) -> bool {
    let through = |directory: &str| {
        let is_own =
            |(deed, path): &(Deed, String)| matches!(deed, Deed::File | Deed::Symlink) && path == directory;
        model.get(directory).is_some_and(|(held, _)| *held == Deed::Symlink) || entries.iter().any(is_own)
    };
    let mut parents = path.match_indices('/').map(|(slash, _)| &path[..slash]);
    match deed {
        Deed::Whiteout => parents.any(through),
        Deed::Opaque => parents.any(through) || through(path),
        _ => false,
    }
}

/// Adds one changeset; true if a strict reader may refuse it.
fn apply(model: &mut Model, entries: &[(Deed, String)], number: usize) -> bool {
    let mut refusable =
        entries.iter().any(|(deed, path)| is_marker_through_link(model, entries, *deed, path));
    for (deed, path) in entries {
        match deed {
            Deed::Whiteout => remove(model, path),
            Deed::Opaque => remove_below(model, path),
            _ => {}
        }
    }
    let mut own: BTreeMap<&str, Deed> = BTreeMap::new();
    let made = entries.iter().filter(|(deed, _)| !matches!(deed, Deed::Whiteout | Deed::Opaque));
    for (deed, path) in made.clone() {
        let twice = own.insert(path, *deed);
        refusable |= twice.is_some_and(|other| (other, *deed) != (Deed::Directory, Deed::Directory));
    }
    for (deed, path) in made {
        for (slash, _) in path.match_indices('/') {
            let parent = &path[..slash];
            refusable |= own.get(parent).is_some_and(|other| *other != Deed::Directory);
            if model.get(parent).is_none_or(|(held, _)| *held != Deed::Directory) {
                refusable |= model.contains_key(parent) && !own.contains_key(parent);
                model.insert(parent.into(), (Deed::Directory, None));
            }
        }
        if *deed != Deed::Directory {
            remove_below(model, path);
        }
        model.insert(path.clone(), (*deed, Some(number)));
    }
    refusable
}

fn flattened(archives: &[Vec<u8>]) -> Result<Directory, String> {
    let mut stack = Stack::new(Limits::default(), Permission::Refuse);
    for archive in archives.iter().rev() {
        let mut store = |_: &_, _, content: &mut dyn Read| {
            std::io::copy(content, &mut std::io::sink()).map(|_| FileId::new(0))
        };
        stack.read(&archive[..], &mut store).map_err(|error| error.to_string())?;
    }
    stack.flatten().map(|tree| tree.root).map_err(|error| error.to_string())
}

fn listed(directory: &Directory, above: &str, list: &mut Model) {
    for (name, node) in directory.iter() {
        let path = format!("{above}{}", String::from_utf8_lossy(name));
        let deed = match &node.content {
            Content::Directory(children) => {
                listed(children, &format!("{path}/"), list);
                Deed::Directory
            }
            Content::File(_) => Deed::File,
            Content::Symlink(_) => Deed::Symlink,
            other => panic!("{other:?} at {path}"),
        };
        let implied = node.attributes.mode == 0o755 && deed == Deed::Directory;
        list.insert(path, (deed, node.changeset.filter(|_| !implied).map(usize::from)));
    }
}

/// What is flattened is what the model says. What is refused may be refused.
pub fn flatten(data: &[u8]) {
    let changesets = changesets(data);
    let archives: Vec<_> = changesets.iter().map(|entries| archive(entries)).collect();
    let mut model = Model::new();
    let mut refusable = false;
    for (number, entries) in changesets.iter().enumerate() {
        refusable |= apply(&mut model, entries, number);
    }
    match flattened(&archives) {
        Ok(root) => {
            let mut list = Model::new();
            listed(&root, "", &mut list);
            assert_eq!(list, model, "{changesets:?}");
        }
        Err(error) => assert!(refusable, "{error}: {changesets:?}"),
    }
}

/// The same tree gives the same image, whatever the number of threads; the
/// contents are cut from the input.
pub fn squashfs(data: &[u8]) {
    let image = |workers: usize| {
        let options = Options {
            compression: Compression::Gzip { level: 1 },
            block_size: 4096,
            workers: Workers::new(NonZeroUsize::new(workers).unwrap()),
        };
        let mut writer = Writer::new(tempfile::tempfile().unwrap(), options).unwrap();
        let mut files = 0;
        let mut stack = Stack::new(Limits::default(), Permission::Refuse);
        for entries in changesets(data).iter().rev() {
            let mut store = |_: &_, _, _: &mut dyn Read| {
                files += 1;
                let content = data.repeat(files % 5 * 40);
                Ok(writer.add_file(content.len() as u64, &mut &content[..]).unwrap())
            };
            stack.read(&archive(entries)[..], &mut store).ok()?;
        }
        let tree = stack.flatten().ok()?;
        let mut summary = writer.finish(&tree.root, Attributes::IMPLIED_DIRECTORY).unwrap();
        assert_eq!(summary.bytes % 4096, 0);
        let mut bytes = Vec::new();
        summary.file.rewind().unwrap();
        summary.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, summary.bytes);
        Some(bytes)
    };
    assert!(image(1) == image(3), "the number of threads changes the image");
}
