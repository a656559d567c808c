//! The `dir:` transport: a directory as one deterministic tar.
//!
//! In: a directory tree on this machine. Out: a ustar stream (with PAX records
//! where ustar is too short) whose bytes depend only on names, contents,
//! symlink targets and permission bits. Symlinks are never followed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Selection;
use super::docker_archive::LAYER;
use super::document::Chosen;
use super::error::Cause;
use super::synthetic;
use crate::oci::Descriptor;
use crate::store::{Blob, Store};
use crate::text::Escaped;

const BLOCK: usize = 512;
/// Largest size that eleven octal digits hold.
const MAX_OCTAL: u64 = 0o77_777_777_777;

/// Why a directory could not be packed. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("cannot read {}", Escaped::path(.path))]
    Read { path: PathBuf, source: io::Error },
    #[error("{} changed while it was read", Escaped::path(.path))]
    Changed { path: PathBuf },
    #[error("{} cannot be packed: in an image, names with .wh. remove files of lower changesets", Escaped::path(.path))]
    Whiteout { path: PathBuf },
    #[error("cannot write the archive of {}", Escaped::path(.path))]
    Write { path: PathBuf, source: io::Error },
}

/// Packs the directory into the store, as an image of one changeset.
pub(super) fn resolve(store: &Store, directory: &Path, selection: &Selection) -> Result<Chosen, Cause> {
    let mut failure = None;
    let packed = store.import_blob(|out| {
        write_tar(directory, 0, out).map_err(|error| {
            failure = Some(error);
            io::ErrorKind::Other.into()
        })
    });
    let blob = match (packed, failure) {
        (_, Some(error)) => return Err(Cause::Directory(error)),
        (Err(error), None) => return Err(Cause::Store(error)),
        (Ok(blob), None) => blob,
    };
    let mut config = json!(selection.platform);
    config["rootfs"] = json!({ "type": "layers", "diff_ids": [blob.digest()] });
    let layer = Descriptor {
        media_type: LAYER.into(),
        digest: *blob.digest(),
        size: blob.size(),
        platform: None,
        annotations: BTreeMap::new(),
    };
    synthetic::image(config.to_string().into_bytes(), &[layer], selection)
}

/// The changesets that [`resolve`] has put into the store.
pub(super) fn locate(store: &Store, wanted: &[&Descriptor]) -> Result<Vec<Blob>, Cause> {
    let stored =
        |wanted: &&Descriptor| store.blob(&wanted.digest).ok_or(Cause::NotStored { digest: wanted.digest });
    wanted.iter().map(stored).collect()
}

/// Writes everything below `directory` as a tar: parents first, names in byte
/// order, owner 0:0, `mtime` (seconds since 1970) on every entry. Group write
/// permission is dropped from ordinary modes, because it follows the umask of
/// whoever checked the files out; everything else is left for the rules to
/// judge, except names of whiteouts: the rules would see only what is missing.
pub fn write_tar(directory: &Path, mtime: u32, out: &mut dyn Write) -> Result<(), DirectoryError> {
    // Not recursive: depth is the author's choice, the stack is not.
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = directory.join(&relative);
        let metadata = read(&path, fs::symlink_metadata(&path))?;
        if !relative.as_os_str().is_empty() {
            write_entry(&path, &relative, &Attributes { metadata: &metadata, mtime }, out)?;
        }
        if metadata.is_dir() {
            let mut names = list(&path)?;
            names.reverse();
            pending.extend(names.into_iter().map(|name| relative.join(name)));
        }
    }
    out.write_all(&[0; 2 * BLOCK]).map_err(|source| DirectoryError::Write { path: directory.into(), source })
}

struct Attributes<'a> {
    metadata: &'a Metadata,
    mtime: u32,
}

fn read<T>(path: &Path, result: io::Result<T>) -> Result<T, DirectoryError> {
    result.map_err(|source| DirectoryError::Read { path: path.into(), source })
}

fn list(path: &Path) -> Result<Vec<OsString>, DirectoryError> {
    let mut names = Vec::new();
    for entry in read(path, fs::read_dir(path))? {
        let name = read(path, entry)?.file_name();
        if name.as_bytes().starts_with(b".wh.") {
            return Err(DirectoryError::Whiteout { path: path.join(name) });
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

fn write_entry(
    path: &Path,
    relative: &Path,
    attributes: &Attributes,
    out: &mut dyn Write,
) -> Result<(), DirectoryError> {
    let kind = attributes.metadata.file_type();
    let mut name = relative.as_os_str().as_bytes().to_vec();
    let mut target = Vec::new();
    let typeflag = if kind.is_dir() {
        name.push(b'/');
        b'5'
    } else if kind.is_symlink() {
        target = read(path, fs::read_link(path))?.into_os_string().as_bytes().to_vec();
        b'2'
    } else if kind.is_file() {
        b'0'
    } else if kind.is_char_device() {
        b'3'
    } else if kind.is_block_device() {
        b'4'
    } else {
        // A socket has no place in a tar; as a FIFO the rules refuse it too.
        b'6'
    };
    let size = if kind.is_file() { attributes.metadata.len() } else { 0 };
    let header = Header { name: &name, target: &target, typeflag, size, attributes };
    let written = |source| DirectoryError::Write { path: path.into(), source };
    header.write(out).map_err(written)?;
    if kind.is_file() { write_content(path, size, out) } else { Ok(()) }
}

fn write_content(path: &Path, size: u64, out: &mut dyn Write) -> Result<(), DirectoryError> {
    let file = read(path, File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path))?;
    let copied = io::copy(&mut file.take(size), out)
        .map_err(|source| DirectoryError::Write { path: path.into(), source })?;
    if copied != size {
        return Err(DirectoryError::Changed { path: path.into() });
    }
    write_padding(size, out).map_err(|source| DirectoryError::Write { path: path.into(), source })
}

fn write_padding(size: u64, out: &mut dyn Write) -> io::Result<()> {
    let used = (size % BLOCK as u64) as usize;
    if used == 0 { Ok(()) } else { out.write_all(&[0; BLOCK][used..]) }
}

/// One ustar header (POSIX.1-2017, pax, "ustar Interchange Format").
struct Header<'a> {
    name: &'a [u8],
    target: &'a [u8],
    typeflag: u8,
    size: u64,
    attributes: &'a Attributes<'a>,
}

impl Header<'_> {
    /// Writes the header, after a PAX header for what does not fit into it.
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut records = Vec::new();
        if self.name.len() > 100 {
            records.extend(pax_record(b"path", self.name));
        }
        if self.target.len() > 100 {
            records.extend(pax_record(b"linkpath", self.target));
        }
        if self.size > MAX_OCTAL {
            records.extend(pax_record(b"size", self.size.to_string().as_bytes()));
        }
        if !records.is_empty() {
            out.write_all(&self.block(b"./PaxHeaders/entry", b"", b'x', records.len() as u64))?;
            out.write_all(&records)?;
            write_padding(records.len() as u64, out)?;
        }
        let size = if self.size > MAX_OCTAL { 0 } else { self.size };
        out.write_all(&self.block(self.name, self.target, self.typeflag, size))
    }

    fn block(&self, name: &[u8], target: &[u8], typeflag: u8, size: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        let mode = mode(self.attributes.metadata.mode());
        put(0, &name[..name.len().min(100)]);
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, format!("{:011o}\0", self.attributes.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[typeflag]);
        put(157, &target[..target.len().min(100)]);
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// Permission bits without group write, unless the rules will have to tell of
/// the mode: then it is shown as it is on disk.
fn mode(on_disk: u32) -> u32 {
    const JUDGED: u32 = 0o6002;
    let mode = on_disk & 0o7777;
    if mode & JUDGED == 0 { mode & !0o020 } else { mode }
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let deep = root.join("rootfs").join("d".repeat(90)).join("e".repeat(90));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "deep").unwrap();
        fs::write(root.join("manifest.yaml"), "version: v1alpha1\n").unwrap();
        fs::write(root.join("rootfs/run"), vec![7; 1000]).unwrap();
        fs::set_permissions(root.join("rootfs/run"), fs::Permissions::from_mode(0o775)).unwrap();
        symlink("t".repeat(200), root.join("rootfs/link")).unwrap();
        directory
    }

    fn tar_of(directory: &Path) -> Vec<u8> {
        let mut tar = Vec::new();
        write_tar(directory, 0, &mut tar).unwrap();
        tar
    }

    #[test]
    fn the_archive_depends_only_on_the_tree() {
        assert_eq!(tar_of(tree().path()), tar_of(tree().path()));
    }

    #[test]
    fn a_name_that_would_become_a_whiteout_is_refused() {
        for name in [".wh.file", ".wh..wh..opq", ".wh."] {
            let directory = tree();
            fs::write(directory.path().join("rootfs").join(name), "").unwrap();
            let refused = write_tar(directory.path(), 0, &mut Vec::new());
            assert!(matches!(refused, Err(DirectoryError::Whiteout { .. })), "{name}");
        }
    }

    #[test]
    fn tar_extracts_the_same_tree() {
        let (directory, extracted) = (tree(), tempfile::tempdir().unwrap());
        let archive = extracted.path().join("a.tar");
        fs::write(&archive, tar_of(directory.path())).unwrap();
        let out = extracted.path().join("out");
        fs::create_dir(&out).unwrap();
        let status =
            Command::new("tar").args(["--no-same-owner", "-pxf"]).arg(&archive).arg("-C").arg(&out).status();
        assert!(status.unwrap().success());
        let diff =
            Command::new("diff").args(["-r", "--no-dereference"]).arg(directory.path()).arg(&out).status();
        assert!(diff.unwrap().success());
        assert_eq!(fs::metadata(out.join("rootfs/run")).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_mode_that_the_rules_refuse_is_packed_as_it_is() {
        for (on_disk, packed) in [
            (0o100_644, 0o644),
            (0o100_664, 0o644),
            (0o040_775, 0o755),
            (0o041_775, 0o1755),
            (0o040_777, 0o777),
            (0o041_777, 0o1777),
            (0o100_666, 0o666),
            (0o104_775, 0o4775),
            (0o102_775, 0o2775),
        ] {
            assert_eq!(mode(on_disk), packed, "{on_disk:o}");
        }
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        for length in [1, 2, 3, 89, 90, 91, 92, 988, 989, 990, 991] {
            let record = pax_record(b"path", &vec![b'a'; length]);
            let digits = record.split(|byte| *byte == b' ').next().unwrap();
            assert_eq!(digits, record.len().to_string().as_bytes());
        }
    }
}
