//! Random stacks of changesets, flattened here and unpacked by umoci, must
//! give the same tree. Needs `umoci` in the path, and no privileges.

#[allow(dead_code)]
#[path = "../src/layer/tar/fixture.rs"]
mod fixture;
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use fixture::Tar;
use plywood::layer::changeset::{ImageTree, Stack};
use plywood::layer::decompress::Decompressor;
use plywood::layer::rules::Permission;
use plywood::layer::squashfs::FileId;
use plywood::layer::tree::{Content, Directory};
use plywood::limits::Limits;
use plywood::oci::{Compression, Digest};
use random::Random;
use serde_json::json;

const STACKS: u64 = 300;
/// Stacks that one run of this test unpacks at a time.
const THREADS: u64 = 2;

impl Random {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// One to three components, from few enough names to collide often.
    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| self.pick(&["a", "b", "c.d", "e-f"])).collect::<Vec<_>>().join("/")
    }
}

/// What a changeset asks for at one path.
#[derive(Clone, Debug)]
enum Ask {
    File { mode: u16, data: Vec<u8> },
    Directory { mode: u16 },
    Symlink { target: String },
    HardLink { target: String },
    Whiteout,
    Opaque,
}

type Changeset = Vec<(String, Ask)>;

/// Whether a path is a directory, for each path there is.
type Model = BTreeMap<String, bool>;

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// A changeset that every unpacker agrees on: nothing twice, and nothing
/// below something that is no directory by then.
fn changeset(random: &mut Random, lower: &mut Model) -> Changeset {
    let mut asks = Changeset::new();
    let mut model = lower.clone();
    // Whiteouts first, to know what is left; where they stand is for later.
    for _ in 0..random.below(4) {
        let path = random.path();
        if parents(&path).all(|parent| lower.get(parent) != Some(&false)) {
            let opaque = random.below(3) == 0 && lower.get(&path) != Some(&false);
            model.retain(|held, _| !is_below(held, &path) && (opaque || *held != path));
            asks.push((path, if opaque { Ask::Opaque } else { Ask::Whiteout }));
        }
    }
    let mut own = Model::new();
    for _ in 0..random.below(12) {
        let path = random.path();
        let blocked = |parent: &str| own.get(parent).or(model.get(parent)) == Some(&false);
        if own.contains_key(&path) || parents(&path).any(blocked) {
            continue;
        }
        let ask = ask(random, &own, &asks);
        let is_directory = matches!(ask, Ask::Directory { .. });
        let marks = |(marked, ask): &(String, Ask)| match ask {
            Ask::Opaque => *marked == path || is_below(marked, &path),
            _ => is_below(marked, &path),
        };
        if !is_directory && (own.keys().any(|held| is_below(held, &path)) || asks.iter().any(marks)) {
            continue;
        }
        own.extend(parents(&path).map(|parent| (parent.to_string(), true)));
        own.insert(path.clone(), is_directory);
        asks.push((path, ask));
    }
    model.retain(|held, _| {
        !own.iter().any(|(path, directory)| !directory && (is_below(held, path) || held == path))
    });
    model.extend(own);
    shuffle(random, &std::mem::replace(lower, model), asks)
}

fn ask(random: &mut Random, own: &Model, asks: &Changeset) -> Ask {
    match random.below(8) {
        0..=2 => Ask::Directory { mode: random.pick(&[0o755, 0o700, 0o711]) },
        3 => Ask::Symlink { target: random.pick(&["a", "/b", "../c.d", "missing"]).into() },
        4 => {
            let is_file = |(path, ask): &&(String, Ask)| {
                matches!(ask, Ask::File { .. }) && own.get(path) == Some(&false)
            };
            let files: Vec<_> = asks.iter().filter(is_file).map(|(path, _)| path).collect();
            match files.is_empty() {
                true => Ask::Symlink { target: "nothing".into() },
                false => Ask::HardLink { target: random.pick(&files).clone() },
            }
        }
        _ => {
            let length = random.pick(&[0, 1, 511, 512, 513, 3000]);
            let data = (0..length).map(|_| random.next() as u8).collect();
            Ask::File { mode: random.pick(&[0o644, 0o600, 0o755, 0o444]), data }
        }
    }
}

/// Whiteouts may stand anywhere in their changeset. Only where what they hide
/// is a parent of an entry does umoci want them first: it makes parents when
/// it comes to the entry. Entries keep their order, since what a hard link
/// names comes before it.
fn shuffle(random: &mut Random, lower: &Model, asks: Changeset) -> Changeset {
    let is_whiteout = |ask: &Ask| matches!(ask, Ask::Whiteout | Ask::Opaque);
    let (mut whiteouts, mut entries): (Vec<_>, Vec<_>) =
        asks.into_iter().partition(|(_, ask)| is_whiteout(ask));
    let hides = |parent: &str| whiteouts.iter().any(|(path, _)| parent == path || is_below(parent, path));
    let depends = |(path, _): &(String, Ask)| {
        parents(path).any(|parent| lower.get(parent) == Some(&false) || hides(parent))
    };
    if entries.iter().any(depends) {
        whiteouts.extend(entries);
        return whiteouts;
    }
    for whiteout in whiteouts {
        let at = random.below(entries.len() + 1);
        entries.insert(at, whiteout);
    }
    entries
}

fn archive(random: &mut Random, changeset: &Changeset) -> Vec<u8> {
    let mut tar = Tar::new();
    for (path, ask) in changeset {
        let prefix = random.pick(&["", "./", "/"]);
        let name = format!("{prefix}{path}");
        let (directory, last) = name.rsplit_once('/').map_or(("", &*name), |(d, l)| (d, l));
        tar = match ask {
            Ask::File { mode, data } => tar.file_with(&name, *mode, data),
            Ask::Directory { mode } => tar.directory_with(&format!("{name}/"), *mode),
            Ask::Symlink { target } => tar.symlink(&name, target),
            Ask::HardLink { target } => tar.hard_link(&name, target),
            Ask::Opaque => tar.file(&format!("{name}/.wh..wh..opq"), b""),
            Ask::Whiteout if name.contains('/') => tar.file(&format!("{directory}/.wh.{last}"), b""),
            Ask::Whiteout => tar.file(&format!(".wh.{last}"), b""),
        };
    }
    tar.finish()
}

/// Path to kind, mode and content: the same for both sides.
type Listing = BTreeMap<String, String>;

fn list_unpacked(directory: &Path, prefix: &str, listing: &mut Listing) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let metadata = entry.path().symlink_metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            listing.insert(path, format!("symlink {}", target.display()));
        } else if metadata.is_dir() {
            list_unpacked(&entry.path(), &format!("{path}/"), listing);
            listing.insert(path, format!("directory {mode:o}"));
        } else {
            let digest = Digest::sha256(&fs::read(entry.path()).unwrap());
            listing.insert(path, format!("file {mode:o} {digest}"));
        }
    }
}

fn list_tree(directory: &Directory, prefix: &str, contents: &[Digest], listing: &mut Listing) {
    for (name, node) in directory {
        let path = format!("{prefix}{}", str::from_utf8(name).unwrap());
        let mode = node.attributes.mode;
        let line = match &node.content {
            Content::Directory(children) => {
                list_tree(children, &format!("{path}/"), contents, listing);
                format!("directory {mode:o}")
            }
            Content::File(id) => {
                let number = (0..contents.len()).find(|number| FileId::new(*number as u32) == *id).unwrap();
                format!("file {mode:o} {}", contents[number])
            }
            Content::Symlink(target) => format!("symlink {}", str::from_utf8(target).unwrap()),
            other => format!("{other:?}"),
        };
        listing.insert(path, line);
    }
}

/// Flattens blobs, lowest first, the way the builder does.
fn flatten(blobs: &[(Compression, Vec<u8>)], hard_links: Permission) -> Listing {
    let mut stack = Stack::new(Limits::default(), hard_links);
    let mut contents = Vec::new();
    for (compression, blob) in blobs.iter().rev() {
        let tar = Decompressor::new(*compression, &blob[..], &Limits::default()).unwrap();
        stack
            .read(tar, &mut |_, size, data| {
                let mut content = Vec::new();
                data.read_to_end(&mut content)?;
                assert_eq!(content.len() as u64, size);
                contents.push(Digest::sha256(&content));
                Ok(FileId::new(contents.len() as u32 - 1))
            })
            .unwrap();
    }
    let ImageTree { root, .. } = stack.flatten().unwrap();
    let mut listing = Listing::new();
    list_tree(&root, "", &contents, &mut listing);
    listing
}

fn put(layout: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    digest
}

fn write_layout(layout: &Path, blobs: &[(Compression, Vec<u8>)], diff_ids: &[Digest]) {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let descriptor = |media_type: &str, bytes: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{media_type}");
        json!({ "mediaType": media_type, "size": bytes.len(), "digest": put(layout, bytes).to_string() })
    };
    let diff_ids: Vec<_> = diff_ids.iter().map(ToString::to_string).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let layers: Vec<_> = blobs
        .iter()
        .map(|(compression, blob)| match compression {
            Compression::Gzip => descriptor("layer.v1.tar+gzip", blob),
            _ => descriptor("layer.v1.tar", blob),
        })
        .collect();
    let config = descriptor("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let mut manifest = descriptor("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "test" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn unpack(layout: &Path, bundle: &Path) -> Listing {
    let output = Command::new("sh")
        .args(["-c", r#"umask 022; exec umoci unpack --rootless --image "$1:test" "$2""#, "sh"])
        .args([layout, bundle])
        .output()
        .expect("sh is needed to run this test");
    assert!(output.status.success(), "umoci: {}", String::from_utf8_lossy(&output.stderr));
    let mut listing = Listing::new();
    list_unpacked(&bundle.join("rootfs"), "", &mut listing);
    listing
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compare(seed: u64) {
    let mut random = Random(seed);
    let mut model = Model::new();
    let changesets: Vec<_> = (0..1 + random.below(5)).map(|_| changeset(&mut random, &mut model)).collect();
    let archives: Vec<_> = changesets.iter().map(|changeset| archive(&mut random, changeset)).collect();
    let diff_ids: Vec<_> = archives.iter().map(|archive| Digest::sha256(archive)).collect();
    let blobs: Vec<_> = archives
        .into_iter()
        .map(|archive| match random.below(2) {
            0 => (Compression::None, archive),
            _ => (Compression::Gzip, gzip(&archive)),
        })
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    let (layout, bundle) = (scratch.path().join("layout"), scratch.path().join("bundle"));
    write_layout(&layout, &blobs, &diff_ids);
    let unpacked = unpack(&layout, &bundle);
    assert_eq!(flatten(&blobs, Permission::Allow), unpacked, "seed {seed}: {changesets:?}");
    let has_links = changesets.iter().flatten().any(|(_, ask)| matches!(ask, Ask::HardLink { .. }));
    if !has_links {
        // What is hidden is not read then; nothing else may change.
        assert_eq!(flatten(&blobs, Permission::Refuse), unpacked, "seed {seed}: {changesets:?}");
    }
}

#[test]
fn random_stacks_flatten_as_umoci_unpacks_them() {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || (thread..STACKS).step_by(THREADS as usize).for_each(compare));
        }
    });
}
