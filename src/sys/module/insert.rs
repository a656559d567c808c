//! One module file into the kernel.
//!
//! In: a `.ko`, `.ko.gz`, `.ko.xz` or `.ko.zst` and its parameters. Out:
//! whether it went in or was there. Invariant: the kernel decompresses if it
//! can; if we must, no file takes more than [`MAX_SIZE`] bytes of memory.
//!
//! | kernel | way |
//! |---|---|
//! | any, `.ko` | finit_module |
//! | 5.17 with `MODULE_DECOMPRESS` for that format | finit_module, `MODULE_INIT_COMPRESSED_FILE` |
//! | others, compressed | decompressed here, init_module |

use std::ffi::{CString, c_int};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use rustix::io::Errno;
use rustix::system::{finit_module, init_module};

use super::{Loaded, ModuleError};

/// `MODULE_INIT_COMPRESSED_FILE` in linux/module.h.
const COMPRESSED_FILE: c_int = 4;

/// Largest module when decompressed, in bytes. amdgpu, the largest of a
/// distribution's kernel, has about 30 MiB.
const MAX_SIZE: u64 = 128 << 20;

/// Memory that decoding one xz file may take beside its content, in KiB;
/// the kernel's own build uses a dictionary of 2 MiB.
const MAX_XZ_MEMORY: u32 = 65 << 10;

/// How a module file is stored, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

/// Inserts the module `name` from `path`. `parameters` are in the kernel's
/// form, separated by spaces. That it is there already is no error.
pub fn insert(name: &str, path: &Path, parameters: &str) -> Result<Loaded, ModuleError> {
    let read = |source| ModuleError::Read { path: path.into(), source };
    let compression = Compression::of(path).map_err(read)?;
    let file = File::open(path).map_err(read)?;
    let parameters = CString::new(parameters).map_err(|_| read(ErrorKind::InvalidInput.into()))?;
    let flags = if compression == Compression::None { 0 } else { COMPRESSED_FILE };
    let mut result = finit_module(&file, &parameters, flags);
    if compression != Compression::None && result.is_err_and(kernel_cannot_decompress) {
        // The kernel read through its own offset, ours is still at the start.
        let image = compression.decompress(file).map_err(read)?;
        result = init_module(&image, &parameters);
    }
    match result {
        Ok(()) => Ok(Loaded::Inserted),
        Err(Errno::EXIST) => Ok(Loaded::AlreadyLoaded),
        Err(source) => {
            let reason = reason(source);
            Err(ModuleError::Refused { module: name.into(), path: path.into(), reason, source })
        }
    }
}

/// A module's bytes, decompressed as `path` is named.
pub fn read(path: &Path, content: impl Read) -> io::Result<Vec<u8>> {
    Compression::of(path)?.decompress(content)
}

impl Compression {
    fn of(path: &Path) -> io::Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => Ok(Self::None),
            Some("gz") => Ok(Self::Gzip),
            Some("xz") => Ok(Self::Xz),
            Some("zst") => Ok(Self::Zstd),
            _ => Err(io::Error::new(ErrorKind::Unsupported, "not named .ko, .ko.gz, .ko.xz or .ko.zst")),
        }
    }

    /// The whole content of a file, decompressed.
    fn decompress(self, stored: impl Read) -> io::Result<Vec<u8>> {
        match self {
            Self::None => read_bounded(stored, MAX_SIZE),
            Self::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(stored), MAX_SIZE),
            Self::Xz => {
                let reader = lzma_rust2::XzReader::new_mem_limit(stored, true, MAX_XZ_MEMORY);
                read_bounded(reader, MAX_SIZE)
            }
            Self::Zstd => read_bounded(zstd::Decoder::new(stored)?, MAX_SIZE),
        }
    }
}

fn read_bounded(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    if reader.take(limit + 1).read_to_end(&mut content)? as u64 > limit {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("longer than {limit} bytes")));
    }
    Ok(content)
}

/// Whether to try again with the file decompressed here. EINVAL is what
/// kernels before 5.17 answer to the flag, and newer ones to a format that they
/// were not built for or a dictionary that they find too large; they say
/// EOPNOTSUPP if they cannot decompress at all. It may also be the module's own
/// answer to a parameter, which the second try then repeats.
fn kernel_cannot_decompress(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOMEM)
}

/// What the kernel means by its answer, in words. It says more in its log.
fn reason(errno: Errno) -> &'static str {
    match errno {
        Errno::NOEXEC => "built for another kernel version or architecture (vermagic), or damaged",
        Errno::KEYREJECTED => "signature not accepted",
        Errno::NOKEY => "signed with a key that the kernel does not know",
        Errno::BADMSG => "signature damaged",
        Errno::NOENT => "a symbol that it needs is in no loaded module",
        Errno::NODEV => "its hardware is absent",
        Errno::PERM => "the kernel accepts no modules (lockdown, modules_disabled, no CAP_SYS_MODULE)",
        Errno::INVAL => "a parameter or the file is not valid",
        Errno::NOMEM => "out of memory",
        _ => "loading it did not succeed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const CONTENT: &[u8] = b"\x7fELF and so on";

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// `CONTENT`, made by xz 5.4 with `--check=crc32`, as the kernel's build calls it.
    const XZ: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x0d\x7f\x45\x4c\x46\x20\x61\x6e\x64\x20\x73\x6f\x20\x6f\x6e\x00\x00\x00\xf2\x3c\x12\xd2\x00\x01\x22\x0e\x0c\xde\x8c\x60\x90\x42\x99\x0d\x01\x00\x00\x00\x00\x01\x59\x5a";

    #[test]
    fn every_format_is_decompressed_here_if_the_kernel_cannot() {
        for (name, stored) in [
            ("m.ko", CONTENT.to_vec()),
            ("m.ko.gz", gzip(CONTENT)),
            ("m.ko.xz", XZ.to_vec()),
            ("m.ko.zst", zstd::encode_all(CONTENT, 1).unwrap()),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(name);
            std::fs::write(&path, &stored).unwrap();
            let decompress = || Compression::of(&path).unwrap().decompress(File::open(&path).unwrap());
            assert_eq!(decompress().unwrap(), CONTENT, "{name}");

            std::fs::write(&path, &stored[..stored.len() - 1]).unwrap();
            assert!(name == "m.ko" || decompress().is_err(), "{name} cut");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["m.ko.bz2", "m", "m.so", ""] {
            Compression::of(Path::new(name)).unwrap_err();
        }
    }

    #[test]
    fn a_module_that_grows_too_large_is_refused() {
        assert_eq!(read_bounded(&b"12345"[..], 5).unwrap(), b"12345");
        assert_eq!(read_bounded(&b"123456"[..], 5).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn the_kernels_refusal_names_module_and_file() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["m.ko", "m.ko.zst"] {
            let path = directory.path().join(name);
            std::fs::write(&path, zstd::encode_all(CONTENT, 1).unwrap()).unwrap();
            let error = insert("m", &path, "a=1").unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("the kernel refuses module m ({}):", path.display())),
                "{error}"
            );
        }
        let missing = directory.path().join("none.ko");
        let error = insert("none", &missing, "").unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}", missing.display()));
    }
}
