//! Whether a program can be started inside another root.
//!
//! In: the root's descriptor and the program's path in it. Out: yes, or what
//! is missing. Invariant: nothing is resolved outside that root, and nothing
//! is run. A layer that hides `/lib64` is found here, not by a kernel panic.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, StatVfsMountFlags, fstatvfs};
use rustix::io::Errno;

use crate::sys::directory::{Symlinks, resolve};
use crate::text::Escaped;

/// What is read of a program to find its interpreter: the kernel reads 256
/// bytes for `#!`, and program headers follow an ELF header of 64 bytes.
const HEAD_LEN: usize = 4096;

/// Longest path, with its NUL (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// Interpreters of interpreters that the kernel follows.
const MAX_SCRIPTS: u32 = 4;

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("it cannot be opened")]
    Open { source: Errno },
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it is not executable: its mode is {mode:04o}")]
    NotExecutable { mode: u32 },
    #[error("it is on a filesystem that is mounted noexec")]
    NoExec,
    #[error("it is neither an ELF program nor a script")]
    NotAProgram,
    #[error("it cannot be read")]
    Read { source: io::Error },
    #[error("its interpreter {} cannot be started", Escaped::new(.interpreter.as_os_str().as_bytes()))]
    Interpreter { interpreter: PathBuf, source: Box<InitError> },
}

/// Finds out whether the kernel would start `program`.
pub(super) fn check(root: &OwnedFd, program: &Path) -> Result<(), InitError> {
    check_nested(root, program, MAX_SCRIPTS)
}

fn check_nested(root: &OwnedFd, program: &Path, left: u32) -> Result<(), InitError> {
    let file = resolve(root, program, OFlags::RDONLY | OFlags::NONBLOCK, Symlinks::Follow);
    let file = File::from(file.map_err(|source| InitError::Open { source })?);
    let metadata = file.metadata().map_err(|source| InitError::Read { source })?;
    if !metadata.is_file() {
        return Err(InitError::NotAFile);
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(InitError::NotExecutable { mode: metadata.mode() & 0o7777 });
    }
    if fstatvfs(&file).is_ok_and(|status| status.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
        return Err(InitError::NoExec);
    }
    let Some(interpreter) = interpreter(&file)? else { return Ok(()) };
    match left.checked_sub(1) {
        None => Err(InitError::NotAProgram),
        Some(left) => check_nested(root, &interpreter, left)
            .map_err(|source| InitError::Interpreter { interpreter, source: Box::new(source) }),
    }
}

/// The program that has to be there to run this one.
fn interpreter(program: &impl FileExt) -> Result<Option<PathBuf>, InitError> {
    let read = |offset, len| read_at(program, offset, len).map_err(|source| InitError::Read { source });
    let head = read(0, HEAD_LEN)?;
    if let Some(rest) = head.strip_prefix(b"#!") {
        let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        return words.next().map(|word| Some(path(word))).ok_or(InitError::NotAProgram);
    }
    let elf = Elf::parse(&head).ok_or(InitError::NotAProgram)?;
    let Some((offset, len)) = elf.interpreter() else { return Ok(None) };
    let name = read(offset, len)?;
    Ok(Some(path(name.split(|&byte| byte == 0).next().unwrap_or_default())))
}

fn path(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}

/// Up to `len` bytes from `offset` on.
fn read_at(file: &impl FileExt, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len.min(HEAD_LEN.max(MAX_PATH))];
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The start of an ELF file (System V ABI, "Object Files"): class at 4, byte
/// order at 5; program headers' place at 28 or 32, their length at 42 or 54
/// and number at 44 or 56, in 32 or 64 bits.
struct Elf<'a> {
    head: &'a [u8],
    wide: bool,
    big_endian: bool,
}

impl<'a> Elf<'a> {
    fn parse(head: &'a [u8]) -> Option<Self> {
        let [0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2), ..] = head else { return None };
        Some(Self { head, wide: *class == 2, big_endian: *order == 2 })
    }

    /// Where `PT_INTERP` is and how long; `None` for a static program, or if
    /// the program headers are not where linkers put them.
    fn interpreter(&self) -> Option<(u64, usize)> {
        const PT_INTERP: u64 = 3;
        let (table, entry_len, count) = match self.wide {
            true => (self.word(32, 8)?, self.word(54, 2)?, self.word(56, 2)?),
            false => (self.word(28, 4)?, self.word(42, 2)?, self.word(44, 2)?),
        };
        let entries = (0..count).map(|i| table.saturating_add(i * entry_len));
        let entry = entries.into_iter().find(|&at| self.word(at, 4) == Some(PT_INTERP))?;
        let (offset, len) = match self.wide {
            true => (self.word(entry + 8, 8)?, self.word(entry + 32, 8)?),
            false => (self.word(entry + 4, 4)?, self.word(entry + 16, 4)?),
        };
        Some((offset, usize::try_from(len).unwrap_or(MAX_PATH).min(MAX_PATH)))
    }

    /// An unsigned number of `len` bytes.
    fn word(&self, offset: u64, len: usize) -> Option<u64> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.head.get(start..start.checked_add(len)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// An ELF header with one program header at 64, and its PT_INTERP at 128.
    fn elf(interpreter: &str) -> Vec<u8> {
        let mut file = vec![0; 128];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        if !interpreter.is_empty() {
            file[56] = 1;
            file[64] = 3;
            file[72] = 128;
            file[96] = interpreter.len() as u8 + 1;
            file.extend(interpreter.bytes().chain([0]));
        }
        file
    }

    /// A root with programs of all kinds. Absolute symlinks point to where
    /// they lead inside it.
    fn root() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("sbin")).unwrap();
        fs::create_dir_all(path("lib")).unwrap();
        for (name, mode, content) in [
            ("lib/ld.so", 0o755, elf("")),
            ("sbin/static", 0o755, elf("")),
            ("sbin/dynamic", 0o755, elf("/lib/ld.so")),
            ("sbin/no-ld", 0o755, elf("/lib64/ld.so")),
            ("sbin/script", 0o755, b"#! /sbin/dynamic -e\nx".to_vec()),
            ("sbin/no-shell", 0o755, b"#!/bin/sh".to_vec()),
            ("sbin/itself", 0o755, b"#!/sbin/itself".to_vec()),
            ("sbin/empty", 0o755, Vec::new()),
            ("sbin/text", 0o755, b"text".to_vec()),
            ("sbin/bare", 0o755, b"#!  \n/bin/sh".to_vec()),
            ("sbin/0644", 0o644, elf("")),
        ] {
            fs::write(path(name), content).unwrap();
            fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
        }
        symlink("/sbin/dynamic", path("init")).unwrap();
        symlink("../../../sbin/static", path("sbin/init")).unwrap();
        symlink("loop", path("sbin/loop")).unwrap();
        let fd = File::open(directory.path()).unwrap().into();
        (directory, fd)
    }

    #[test]
    fn what_the_kernel_would_start_is_accepted() {
        let (_directory, root) = root();
        for program in ["/sbin/static", "/sbin/dynamic", "/sbin/script", "/init", "/sbin/init", "sbin/init"] {
            check(&root, Path::new(program)).expect(program);
        }
    }

    #[test]
    fn what_the_kernel_would_not_start_is_refused_and_why() {
        let (_directory, root) = root();
        for (program, expected) in [
            ("/sbin/missing", "it cannot be opened: No such file or directory (os error 2)"),
            ("/sbin/loop", "it cannot be opened: Too many levels of symbolic links (os error 40)"),
            ("/sbin", "it is not a regular file"),
            ("/sbin/0644", "it is not executable: its mode is 0644"),
            ("/sbin/empty", "it is neither an ELF program nor a script"),
            ("/sbin/text", "it is neither an ELF program nor a script"),
            ("/sbin/bare", "it is neither an ELF program nor a script"),
            (
                "/sbin/no-ld",
                "its interpreter /lib64/ld.so cannot be started: it cannot be opened: \
                 No such file or directory (os error 2)",
            ),
            (
                "/sbin/no-shell",
                "its interpreter /bin/sh cannot be started: it cannot be opened: \
                 No such file or directory (os error 2)",
            ),
        ] {
            let error = check(&root, Path::new(program)).unwrap_err();
            let chain: Vec<_> =
                std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
                    .map(ToString::to_string)
                    .collect();
            assert_eq!(chain.join(": "), expected, "{program}");
        }
        check(&root, Path::new("/sbin/itself")).unwrap_err();
    }

    #[test]
    fn an_elf_header_is_read_in_both_widths_and_byte_orders() {
        let mut file = vec![0; 128];
        file[..6].copy_from_slice(b"\x7fELF\x01\x02");
        file[28..32].copy_from_slice(&52_u32.to_be_bytes());
        file[42..46].copy_from_slice(&[0, 32, 0, 1]);
        file[52..56].copy_from_slice(&3_u32.to_be_bytes());
        file[56..60].copy_from_slice(&100_u32.to_be_bytes());
        file[68..72].copy_from_slice(&7_u32.to_be_bytes());
        assert_eq!(Elf::parse(&file).unwrap().interpreter(), Some((100, 7)));
        assert_eq!(Elf::parse(&elf("/lib/ld.so")).unwrap().interpreter(), Some((128, 11)));
    }

    #[test]
    fn a_hostile_header_is_read_without_panic() {
        for at in 0..128 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut file = elf("/lib/ld.so");
                file[at] = byte;
                for len in [file.len(), 16, 40, 60, 70] {
                    Elf::parse(&file[..len]).and_then(|elf| elf.interpreter());
                }
            }
        }
    }
}
