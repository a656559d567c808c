//! `plywood initramfs`: adds plywood to an initramfs that somebody else made.
//!
//! In: a configuration, and what it names on this machine. Out: an archive
//! with plywood, the configuration, those images, and the hooks by which
//! initramfs-tools, dracut and systemd call it; alone, or behind the given
//! initramfs. The kernel unpacks one archive after the other. Invariant: the
//! same inputs give the same bytes.

mod cpio;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::images::{Scratch, check_output};
use super::machine;
use crate::cli;
use crate::error::Error;
use crate::text::Escaped;
use cpio::{Archive, CopyError, Entry, copy, padding};

/// The hooks, as packages install them too: where they go, their mode, and
/// what they are.
const HOOKS: [(&str, u32, &str); 6] = [
    (
        "usr/lib/systemd/system/plywood-initramfs.service",
        0o644,
        include_str!("../../../initramfs/systemd/plywood-initramfs.service"),
    ),
    (
        "scripts/local-bottom/plywood",
        0o755,
        include_str!("../../../initramfs/initramfs-tools/scripts/local-bottom/plywood"),
    ),
    (
        "scripts/nfs-bottom/plywood",
        0o755,
        include_str!("../../../initramfs/initramfs-tools/scripts/local-bottom/plywood"),
    ),
    ("conf/conf.d/plywood", 0o644, include_str!("../../../initramfs/initramfs-tools/appended")),
    ("usr/lib/plywood/pre-pivot.sh", 0o755, include_str!("../../../initramfs/dracut/50plywood/plywood.sh")),
    ("etc/conf.d/plywood.conf", 0o644, include_str!("../../../initramfs/dracut/appended.conf")),
];

/// What enables the unit.
const WANTED: &str = "usr/lib/systemd/system/initrd-root-fs.target.requires/plywood-initramfs.service";

/// Symlinks in the initramfs of most distributions. The kernel replaces one by
/// a directory of the same name in a later archive, and with it all it led to.
const LINKED: [&str; 6] = ["bin", "lib", "lib32", "lib64", "sbin", "var/run"];

/// How an initramfs may begin: the archive itself, or what the kernel knows to
/// decompress (kernel source, lib/decompress.c).
const MAGIC: [(&[u8], &str); 9] = [
    (b"070701", "cpio"),
    (b"070702", "cpio"),
    (&[0x1f, 0x8b], "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (b"BZh", "bzip2"),
    (&[0x5d, 0, 0], "lzma"),
    (&[0x89, b'L', b'Z', b'O'], "lzo"),
];

/// `plywood initramfs [--append FILE] -o OUT`
pub fn run(arguments: &cli::Initramfs) -> Result<(), Error> {
    check_output(&arguments.output)?;
    let mut archive = Archive::default();
    add_plywood(&mut archive)?;
    for argument in &arguments.add {
        let (from, to) = parse_addition(argument)?;
        add_tree(&mut archive, &from, &to)?;
    }
    add_configuration(&mut archive, &arguments.config)?;
    let scratch = Scratch::beside(&arguments.output)?;
    let staged = scratch.path().join("initramfs");
    let size = write(&archive, arguments.append.as_deref(), &staged)?;
    fs::rename(&staged, &arguments.output).map_err(write_failed(&arguments.output))?;
    super::print(format_args!(
        "{}: {size} bytes, {} files added",
        Escaped::path(&arguments.output),
        archive.paths().count()
    ))
}

fn read_failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Read { path, source }
}

fn write_failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Write { path, source }
}

fn add_plywood(archive: &mut Archive) -> Result<(), Error> {
    let program = Path::new("/proc/self/exe");
    let mut start = Vec::new();
    let file = File::open(program).map_err(read_failed(program))?;
    file.take(4096).read_to_end(&mut start).map_err(read_failed(program))?;
    // The name of its loader stands in the first page of a dynamic program.
    if start.windows(4).any(|bytes| bytes == b"/ld-") {
        return Err(Error::NotBootable(
            "this plywood is not a static program and would not run in an initramfs; `make build` makes one"
                .into(),
        ));
    }
    archive.add(Path::new("usr/bin/plywood"), Entry::Copy { mode: 0o755, from: program.into() });
    for (path, mode, text) in HOOKS {
        archive.add(Path::new(path), Entry::File { mode, content: text.into() });
    }
    archive.add(Path::new(WANTED), Entry::Symlink { target: "../plywood-initramfs.service".into() });
    Ok(())
}

/// The configuration as it was read, and the images that it names on this
/// machine, unless they were added from elsewhere.
fn add_configuration(archive: &mut Archive, files: &[PathBuf]) -> Result<(), Error> {
    let (config, sources) = machine::load_config(files)?;
    archive.add(Path::new("etc/plywood"), Entry::Directory { mode: 0o700 });
    for (number, source) in sources.into_iter().enumerate() {
        // Their order is that of their names.
        let path = format!("etc/plywood/config-{number:03}.yaml");
        archive.add(Path::new(&path), Entry::File { mode: 0o600, content: source.text });
    }
    for extension in config.extensions() {
        let Some(path) = extension.image.path() else { continue };
        let Ok(inside) = path.strip_prefix("/") else {
            return Err(Error::NotBootable(format!(
                "the image {} has no absolute path, so it is in no certain place of the initramfs",
                extension.image
            )));
        };
        if !archive.paths().any(|added| added == inside) {
            add_tree(archive, path, inside)?;
        }
    }
    Ok(())
}

/// `SRC:DEST`, where DEST is absolute and leads nowhere else.
fn parse_addition(argument: &str) -> Result<(PathBuf, PathBuf), Error> {
    let is_plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    match argument.rsplit_once(":/") {
        Some((from, to)) if !from.is_empty() && !to.is_empty() && is_plain(Path::new(to)) => {
            Ok((from.into(), Path::new(to).components().collect()))
        }
        _ => Err(Error::Usage(format!(
            "--add: want SRC:DEST with an absolute DEST, not {}",
            Escaped::new(argument)
        ))),
    }
}

/// Adds a file, or a directory with all that is in it. Symlinks inside stay
/// what they are.
fn add_tree(archive: &mut Archive, from: &Path, to: &Path) -> Result<(), Error> {
    if let Some(top) = LINKED.iter().find(|top| to.starts_with(top)) {
        return Err(Error::NotBootable(format!(
            "{} cannot be at /{} of the initramfs: a directory /{top} would take the place of the usual symlink",
            Escaped::path(from),
            Escaped::path(to)
        )));
    }
    let metadata = fs::metadata(from).map_err(read_failed(from))?;
    add_entry(archive, from, to, &metadata)?;
    if !metadata.is_dir() {
        return Ok(());
    }
    let mut directories = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = directories.pop() {
        for entry in fs::read_dir(&from).map_err(read_failed(&from))? {
            let path = entry.map_err(read_failed(&from))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(read_failed(&path))?;
            let inside = to.join(path.file_name().unwrap_or_default());
            add_entry(archive, &path, &inside, &metadata)?;
            if metadata.is_dir() {
                directories.push((path, inside));
            }
        }
    }
    Ok(())
}

fn add_entry(archive: &mut Archive, from: &Path, to: &Path, metadata: &fs::Metadata) -> Result<(), Error> {
    let kind = metadata.file_type();
    let mode = metadata.permissions().mode() & 0o777;
    let entry = if kind.is_dir() {
        Entry::Directory { mode }
    } else if kind.is_symlink() {
        Entry::Symlink { target: fs::read_link(from).map_err(read_failed(from))?.into() }
    } else if kind.is_file() {
        Entry::Copy { mode, from: from.into() }
    } else {
        let what = if kind.is_fifo() { "a FIFO" } else { "a socket or device" };
        let source = io::Error::other(format!("it is {what}, which is not copied"));
        return Err(Error::Read { path: from.into(), source });
    };
    archive.add(to, entry);
    Ok(())
}

/// Writes `before` and the archive; for its owner alone, as a configuration may
/// hold passwords. Returns the size in bytes.
fn write(archive: &Archive, before: Option<&Path>, path: &Path) -> Result<u64, Error> {
    let failed = || write_failed(path);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed())?;
    let mut out = BufWriter::new(file);
    if let Some(before) = before {
        let length = copy_initramfs(before, path, &mut out)?;
        // The kernel finds an archive behind a compressed one only there.
        out.write_all(padding(length as usize)).map_err(failed())?;
    }
    archive.write(&mut out).map_err(copy_failed(path))?;
    let file = out.into_inner().map_err(|error| failed()(error.into_error()))?;
    file.sync_all().map_err(failed())?;
    Ok(file.metadata().map_err(failed())?.len())
}

/// For `map_err` where `to` is written.
fn copy_failed(to: &Path) -> impl Fn(CopyError) -> Error {
    move |error| match error {
        CopyError::Read(path, source) => Error::Read { path, source },
        CopyError::Write(source) => Error::Write { path: to.into(), source },
    }
}

/// Copies what the kernel can unpack to the beginning of `to`; returns its
/// length in bytes.
fn copy_initramfs(path: &Path, to: &Path, out: &mut impl Write) -> Result<u64, Error> {
    let file = File::open(path).map_err(read_failed(path))?;
    let mut start = Vec::new();
    (&file).take(6).read_to_end(&mut start).map_err(read_failed(path))?;
    if !MAGIC.iter().any(|(magic, _)| start.starts_with(magic)) {
        let formats: Vec<_> = MAGIC[1..].iter().map(|(_, name)| *name).collect();
        let source =
            io::Error::other(format!("it is no initramfs: none of {} begins it", formats.join(", ")));
        return Err(Error::Read { path: path.into(), source });
    }
    copy(path, start.as_slice().chain(file), out).map_err(copy_failed(to))
}
