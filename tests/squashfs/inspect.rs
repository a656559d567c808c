//! What others see in an image: unsquashfs, and the kernel.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use plywood::layer::tree::Attributes;

use super::tree::{Image, Item, Kind, ROOT, Tree};

/// Runs a program that has to succeed; returns what it prints.
pub fn run(program: &str, arguments: &[&OsStr]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    assert_eq!(errors, "", "{program} {arguments:?}");
    output.stdout
}

/// Extracts the image with unsquashfs, beside it.
pub fn extract(image: &Image) -> PathBuf {
    let path = image.beside("extracted");
    let flags = ["-quiet", "-no-progress", "-no-xattrs", "-dest"].map(OsStr::new);
    run("unsquashfs", &[&flags[..], &[path.as_os_str(), image.path().as_os_str()]].concat());
    path
}

/// unsquashfs' listing without the sizes of directories, which are a matter
/// of how inodes happen to lie.
pub fn listing(image: &Path) -> Vec<String> {
    let flags = ["-lln", "-UTC", "-dest", ""].map(OsStr::new);
    let listed = run("unsquashfs", &[&flags[..], &[image.as_os_str()]].concat());
    let lines = listed.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| normalize(&line.escape_ascii().to_string())).collect()
}

/// `mode owner size date time path` with single spaces.
fn normalize(line: &str) -> String {
    let mut rest = line;
    let mut columns: Vec<&str> = Vec::new();
    while columns.len() < 5 {
        let (column, later) = rest.trim_start().split_once(' ').unwrap_or((rest, ""));
        columns.push(column);
        rest = later;
    }
    if columns[0].starts_with('d') {
        columns[2] = "-";
    }
    format!("{} {rest}", columns.join(" "))
}

/// The listing that `tree` has to have, without times.
pub fn expected_listing(tree: &Tree) -> Vec<String> {
    let mut lines = vec![format!("{} 0/0 - ", mode_text('d', ROOT.mode))];
    list(tree, &[], &mut lines);
    lines
}

fn list(tree: &Tree, parent: &[u8], lines: &mut Vec<String>) {
    for (name, item) in tree {
        let path = [parent, b"/", name].concat();
        let shown = path.escape_ascii();
        let Attributes { mode, uid, gid, .. } = item.attributes;
        lines.push(match &item.kind {
            Kind::Directory(_) => format!("{} {uid}/{gid} - {shown}", mode_text('d', mode)),
            Kind::File(bytes) => format!("{} {uid}/{gid} {} {shown}", mode_text('-', mode), bytes.len()),
            Kind::Symlink(target) => {
                let (length, target) = (target.len(), target.escape_ascii());
                format!("{} {uid}/{gid} {length} {shown} -> {target}", mode_text('l', mode))
            }
        });
        if let Kind::Directory(tree) = &item.kind {
            list(tree, &path, lines);
        }
    }
}

/// As `ls -l` shows it.
fn mode_text(kind: char, mode: u16) -> String {
    let mut text = String::from(kind);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Drops date and time.
pub fn without_times(lines: &[String]) -> Vec<String> {
    let drop = |line: &String| {
        let columns: Vec<_> = line.splitn(6, ' ').collect();
        [columns[0], columns[1], columns[2], columns[5]].join(" ")
    };
    lines.iter().map(drop).collect()
}

/// Compares listings line by line: the first difference is enough to read.
pub fn assert_lines(found: &[String], expected: &[String]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

/// What of a file's attributes can be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// What an ordinary user gets when extracting.
    ModesAndTimes,
    All,
}

/// Compares what is at `path` with `tree`, in both directions.
pub fn assert_same(tree: &Tree, path: &Path, compare: Compare) {
    let mut found: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    found.sort();
    let names: Vec<_> = tree.keys().map(|name| OsStr::from_bytes(name)).collect();
    assert_eq!(found, names, "{}", path.display());
    for (name, item) in tree {
        assert_item(item, &path.join(OsStr::from_bytes(name)), compare);
    }
}

fn assert_item(item: &Item, path: &Path, compare: Compare) {
    let found = fs::symlink_metadata(path).unwrap();
    let Attributes { mode, uid, gid, mtime } = item.attributes;
    let shown = path.display();
    assert_eq!(found.mtime(), i64::from(mtime), "{shown}");
    if compare == Compare::All {
        assert_eq!((found.uid(), found.gid()), (uid, gid), "{shown}");
        assert_eq!(found.mode() & 0o7777, u32::from(mode), "{shown}");
        assert_eq!(found.nlink(), links(&item.kind), "{shown}");
        assert_xattrs(item, path);
    } else if !found.is_symlink() {
        // unsquashfs applies the umask, and only root gets set-ID bits.
        assert_eq!(found.mode() & 0o755, u32::from(mode) & 0o755, "{shown}");
    }
    match &item.kind {
        Kind::Directory(tree) => assert_same(tree, path, compare),
        Kind::File(bytes) => assert!(&fs::read(path).unwrap() == bytes, "{shown}"),
        Kind::Symlink(target) => {
            assert_eq!(fs::read_link(path).unwrap().as_os_str().as_bytes(), target, "{shown}");
        }
    }
}

fn links(kind: &Kind) -> u64 {
    match kind {
        Kind::Directory(tree) => {
            2 + tree.values().filter(|item| matches!(item.kind, Kind::Directory(_))).count() as u64
        }
        Kind::File(_) | Kind::Symlink(_) => 1,
    }
}

fn assert_xattrs(item: &Item, path: &Path) {
    let mut names = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        // The whole image has none.
        Err(rustix::io::Errno::NOTSUP) => 0,
        listed => listed.unwrap(),
    };
    let mut found: Vec<_> = names[..length].split_inclusive(|&byte| byte == 0).collect();
    found.sort_unstable();
    let expected: Vec<_> = item.xattrs.keys().map(|name| [name.as_slice(), b"\0"].concat()).collect();
    assert_eq!(found, expected, "{}", path.display());
    for (name, value) in &item.xattrs {
        let mut room = vec![0; (64 << 10) + 1];
        let length = rustix::fs::lgetxattr(path, name.as_slice(), &mut room[..]).unwrap();
        assert!(room[..length] == *value, "{} {}", path.display(), name.escape_ascii());
    }
}

/// An image mounted by the kernel, in a mount namespace that ends with it.
pub struct Mount {
    child: Child,
}

impl Mount {
    pub fn new(image: &Image) -> Self {
        Self::with("mount -t squashfs -o loop,ro \"$1\" /mnt/image", image)
    }

    /// Mounts the image, `$1`, with this command of the shell's.
    pub fn with(command: &str, image: &Image) -> Self {
        let script = format!(
            "mount -t tmpfs none /mnt && mkdir /mnt/image && {command} && echo mounted && read -r end"
        );
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
            .arg(image.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mount = Self { child };
        assert_eq!(line, "mounted\n", "{command}");
        mount
    }

    /// The mounted image's root, as seen from outside of the namespace.
    pub fn root(&self) -> PathBuf {
        format!("/proc/{}/root/mnt/image", self.child.id()).into()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Without its input the shell ends, and with it the namespace.
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}
