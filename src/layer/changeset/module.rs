//! Kernel modules among the files of an image.
//!
//! In: a file's path and the start of its content. Out: the machine that the
//! module is for. Invariant: of a compressed module no more than [`HEAD`] bytes
//! are looked at and [`ElfMachine::HEAD`] bytes made; what they do not show,
//! the module does not say.

use std::io::{self, Read};

use super::elf::ElfMachine;
use crate::layer::decompress::Decompressor;
use crate::layer::tar::EntryPath;
use crate::limits::{Bound, Limits};
use crate::oci::Compression;

/// Where images have modules.
const DIRECTORIES: [&[u8]; 2] = [b"rootfs/usr/lib/modules/", b"rootfs/lib/modules/"];

/// Bytes of a module as stored that hold the start of it: more than the
/// largest block of zstd and of xz, and the longest header of gzip.
const HEAD: u64 = 256 << 10;

/// Memory for decoding xz, in KiB: what `xz -9` asks for. Of its dictionary
/// only the start is touched.
const XZ_MEMORY: u32 = 65 << 10;

/// How a module is stored, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Blob(Compression),
    Xz,
}

impl Packing {
    /// Of `rootfs/[usr/]lib/modules/…/*.ko[.gz|.xz|.zst]`; of nothing else.
    pub(super) fn of(path: &EntryPath) -> Option<Self> {
        let path = path.as_bytes();
        if !DIRECTORIES.iter().any(|directory| path.starts_with(directory)) {
            return None;
        }
        let suffixes: [(&[u8], Self); 4] = [
            (b".ko", Self::Blob(Compression::None)),
            (b".ko.gz", Self::Blob(Compression::Gzip)),
            (b".ko.xz", Self::Xz),
            (b".ko.zst", Self::Blob(Compression::Zstd)),
        ];
        suffixes.into_iter().find(|(suffix, _)| path.ends_with(suffix)).map(|(_, packing)| packing)
    }

    /// Bytes of the module as stored that [`machine`](Self::machine) needs.
    pub(super) fn head(self) -> u64 {
        match self {
            Self::Blob(Compression::None) => ElfMachine::HEAD as u64,
            Self::Blob(_) | Self::Xz => HEAD,
        }
    }

    /// The machine of the module that starts with `stored`.
    pub(super) fn machine(self, stored: &[u8]) -> ElfMachine {
        // What cannot be decompressed is no module of any machine.
        self.start(stored).map_or(ElfMachine::NONE, |start| ElfMachine::read(&start))
    }

    fn start(self, stored: &[u8]) -> io::Result<Vec<u8>> {
        let mut start = Vec::new();
        let head = ElfMachine::HEAD as u64;
        match self {
            Self::Blob(compression) => {
                let largest = Limits::default().with(Bound::ZstdWindow, Bound::ZstdWindow.most());
                Decompressor::new(compression, stored, &largest)?.take(head).read_to_end(&mut start)?;
            }
            Self::Xz => {
                let reader = lzma_rust2::XzReader::new_mem_limit(stored, false, XZ_MEMORY);
                reader.take(head).read_to_end(&mut start)?;
            }
        }
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn elf(machine: u8) -> Vec<u8> {
        let mut module = [&b"\x7fELF\x02\x01"[..], &[0; 10], &[1, 0, machine, 0]].concat();
        // Larger than one block of any format, and not easily compressed.
        let mut state = 1u32;
        module.extend(
            std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .take(700_000),
        );
        module
    }

    fn packed(name: &str, content: &[u8]) -> Vec<u8> {
        match name.rsplit('.').next() {
            Some("gz") => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            Some("zst") => zstd::encode_all(content, 19).unwrap(),
            Some("xz") => {
                let options = lzma_rust2::XzOptions::with_preset(9);
                let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
                writer.write_all(content).unwrap();
                writer.finish().unwrap()
            }
            _ => content.to_vec(),
        }
    }

    fn machine(name: &str, stored: &[u8]) -> String {
        let path = format!("rootfs/usr/lib/modules/6.1/{name}");
        let packing = Packing::of(&EntryPath::parse(path.as_bytes()).unwrap()).unwrap();
        packing.machine(&stored[..stored.len().min(packing.head() as usize)]).to_string()
    }

    #[test]
    fn the_machine_is_read_through_every_compression() {
        for name in ["a.ko", "a.ko.gz", "a.ko.xz", "a.ko.zst"] {
            assert_eq!(machine(name, &packed(name, &elf(62))), "amd64", "{name}");
            assert_eq!(machine(name, &packed(name, &elf(183))), "arm64", "{name}");
            assert_eq!(machine(name, &packed(name, b"text")), "ELF machine 0", "{name}");
            assert_eq!(machine(name, b"\xfd7zXZ"), "ELF machine 0", "{name}");
            assert_eq!(machine(name, b""), "ELF machine 0", "{name}");
        }
    }

    #[test]
    fn modules_are_known_by_place_and_name() {
        for (path, expected) in [
            ("rootfs/usr/lib/modules/6.1/a.ko", Some(Packing::Blob(Compression::None))),
            ("rootfs/lib/modules/6.1/a.ko.gz", Some(Packing::Blob(Compression::Gzip))),
            ("rootfs/usr/lib/modules/6.1/b/a.ko.xz", Some(Packing::Xz)),
            ("rootfs/usr/lib/modules/6.1/a.ko.zst", Some(Packing::Blob(Compression::Zstd))),
            ("rootfs/usr/lib/modules/6.1/modules.dep", None),
            ("rootfs/usr/lib/modules/6.1/a.ko.bz2", None),
            ("rootfs/usr/local/a.ko", None),
        ] {
            assert_eq!(Packing::of(&EntryPath::parse(path.as_bytes()).unwrap()), expected, "{path}");
        }
    }
}
