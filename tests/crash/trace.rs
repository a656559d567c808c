//! The calls of a command that change files, out of a trace by strace with
//! `-y -xx`: paths beside descriptors, and every string in hexadecimal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One call that succeeded.
#[derive(Debug)]
pub enum Call {
    /// Opened a file that may be new, with `O_CREAT`.
    Create(PathBuf),
    MakeDirectory(PathBuf),
    Symlink {
        target: Vec<u8>,
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    /// Wrote at an offset; none is where the last one ended.
    Write {
        path: PathBuf,
        offset: Option<usize>,
        bytes: Vec<u8>,
    },
    Truncate {
        path: PathBuf,
        length: usize,
    },
    Sync(PathBuf),
}

impl Call {
    /// The same with paths below one of `places` put below what that is known
    /// as; none elsewhere.
    pub fn below(self, places: &[(&Path, &str)]) -> Option<Self> {
        let known = |path: PathBuf| {
            places.iter().find_map(|(place, name)| Some(Path::new(name).join(path.strip_prefix(place).ok()?)))
        };
        Some(match self {
            Self::Create(path) => Self::Create(known(path)?),
            Self::MakeDirectory(path) => Self::MakeDirectory(known(path)?),
            Self::Symlink { target, path } => Self::Symlink { target, path: known(path)? },
            Self::Rename { from, to } => Self::Rename { from: known(from)?, to: known(to)? },
            Self::Remove(path) => Self::Remove(known(path)?),
            Self::Write { path, offset, bytes } => Self::Write { path: known(path)?, offset, bytes },
            Self::Truncate { path, length } => Self::Truncate { path: known(path)?, length },
            Self::Sync(path) => Self::Sync(known(path)?),
        })
    }
}

/// What is traced: the calls that [`calls`] knows.
pub const TRACED: &str = "openat,mkdir,mkdirat,symlink,symlinkat,rename,renameat,renameat2,unlink,unlinkat,rmdir,\
                          write,pwrite64,ftruncate,truncate,fallocate,copy_file_range,sendfile,link,linkat,fsync,fdatasync";

/// Reads a trace. A call that it does not know makes it fail: a model that
/// leaves something out proves nothing.
pub fn calls(trace: &str) -> Vec<Call> {
    trace.lines().filter_map(call).collect()
}

fn call(line: &str) -> Option<Call> {
    let (_, rest) = line.split_once(' ')?;
    let (name, rest) = rest.trim_start().split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ").unwrap_or_else(|| panic!("cut in two: {line}"));
    if result.starts_with('-') {
        return None;
    }
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let words: Vec<&str> = arguments.split(", ").collect();
    let call = match (name, &words[..]) {
        ("openat", [directory, path, flags, ..]) if flags.contains("O_CREAT") => {
            Call::Create(at(directory, path))
        }
        ("openat", _) => return None,
        ("mkdir", [path, _]) => Call::MakeDirectory(plain(path)),
        ("mkdirat", [directory, path, _]) => Call::MakeDirectory(at(directory, path)),
        ("symlink", [target, path]) => Call::Symlink { target: text(target), path: plain(path) },
        ("rename", [from, to]) => Call::Rename { from: plain(from), to: plain(to) },
        ("unlink" | "rmdir", [path]) => Call::Remove(plain(path)),
        ("unlinkat", [directory, path, _]) => Call::Remove(at(directory, path)),
        ("write", [file, bytes, _]) => Call::Write { path: of(file), offset: None, bytes: text(bytes) },
        ("pwrite64", [file, bytes, _, offset]) => {
            Call::Write { path: of(file), offset: Some(offset.parse().unwrap()), bytes: text(bytes) }
        }
        ("ftruncate", [file, length]) => Call::Truncate { path: of(file), length: length.parse().unwrap() },
        ("fsync" | "fdatasync", [file]) => Call::Sync(of(file)),
        _ => panic!("a call that the model does not know: {line}"),
    };
    Some(call)
}

/// `"\x61\x62"`
fn text(word: &str) -> Vec<u8> {
    let hex = word.trim_matches('"').split("\\x").skip(1);
    hex.map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("not a whole string: {word}")))
        .collect()
}

fn plain(word: &str) -> PathBuf {
    PathBuf::from(OsString::from_vec(text(word)))
}

/// `4</path>`, the path in hexadecimal too.
fn of(word: &str) -> PathBuf {
    let inner = word.split_once('<').and_then(|(_, path)| path.strip_suffix('>'));
    let inner = inner.unwrap_or_else(|| panic!("no descriptor: {word}"));
    if inner.starts_with("\\x") { plain(inner) } else { PathBuf::from(inner) }
}

fn at(directory: &str, path: &str) -> PathBuf {
    let path = plain(path);
    if path.is_absolute() { path } else { of(directory).join(Path::new(&path)) }
}
