//! Where in a raw image the squashfs is.
//!
//! ```text
//! 0 a squashfs, or a GUID partition table (UEFI, chapter 5) with sectors of 512 or 4096 bytes:
//! sector 1: "EFI PART" · 12 u32 length of header · 16 u32 its CRC-32 · 72 u64 sector of the entries
//!           · 80 u32 number of entries · 84 u32 length of an entry · 88 u32 CRC-32 of the entries
//! entry:    type 16 · UUID 16 · u64 first sector · u64 last sector · …
//! ```
//!
//! In: a file, and where in it the image is. Out: [`Squashfs`]. Types of
//! partitions are those of the discoverable partitions specification.
//! Invariant: what is found lies inside the image.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::layer::changeset::ElfMachine;
use crate::text::Escaped;

/// Most bytes of partition entries; ordinary tables have 16 KiB.
const MAX_ENTRIES: u64 = 256 << 10;
const SECTORS: [u64; 2] = [512, 4096];
/// Bytes of the header that are defined; a checksum may cover more.
const HEADER: u64 = 92;

/// Which part of the root a squashfs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hierarchy {
    Root,
    Usr,
}

/// A squashfs in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Squashfs {
    pub(super) range: Range<u64>,
    pub(super) hierarchy: Hierarchy,
}

/// Type UUIDs as they are on disk, OCI's architecture.
const TYPES: [([u8; 16], &str, Hierarchy); 4] = [
    (guid(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709), "amd64", Hierarchy::Root),
    (guid(0xb921b045_1df0_41c3_af44_4c6f280d3fae), "arm64", Hierarchy::Root),
    (guid(0x8484680c_9521_48c6_9c11_b0720656f69e), "amd64", Hierarchy::Usr),
    (guid(0xb0e01050_ee5f_4390_949a_9101b17104e9), "arm64", Hierarchy::Usr),
];

/// A UUID as UEFI stores it: the first three groups are little-endian.
const fn guid(uuid: u128) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = uuid.to_be_bytes();
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

/// Why there is no squashfs to be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("it holds {0}, which cannot be read; make it a squashfs")]
    FileSystem(&'static str),
    #[error("it is neither a squashfs nor a partitioned image of one")]
    Unknown,
    #[error("its partition table {0}")]
    Table(&'static str),
    #[error("it has no root or usr partition")]
    NoPartition,
    #[error("its root or usr partition is for {}, this machine is {wanted}", Escaped::new(.has))]
    Architecture { has: String, wanted: ElfMachine },
    #[error("it has {0} root and usr partitions, of which only one can be meant")]
    Several(usize),
}

/// Finds the squashfs for `machine`, any where that is not known.
pub(super) fn find(
    file: &File,
    range: Range<u64>,
    machine: Option<ElfMachine>,
) -> Result<Squashfs, DiskError> {
    let image = Image { file, range };
    if image.starts(0, b"hsqs")? {
        return Ok(Squashfs { range: image.range, hierarchy: Hierarchy::Root });
    }
    for sector in SECTORS {
        if image.starts(sector, b"EFI PART")? {
            let (first, hierarchy) = image.partition(sector, machine)?;
            let inside = Image { file, range: first };
            return match inside.starts(0, b"hsqs")? {
                true => Ok(Squashfs { range: inside.range, hierarchy }),
                false => Err(inside.other()?),
            };
        }
    }
    Err(image.other()?)
}

struct Image<'f> {
    file: &'f File,
    range: Range<u64>,
}

impl Image<'_> {
    fn read(&self, at: u64, length: u64) -> Result<Vec<u8>, DiskError> {
        let cut = || DiskError::Table("is outside the image");
        let place = self.range.start.checked_add(at).ok_or_else(cut)?;
        let end = place.checked_add(length).ok_or_else(cut)?;
        if end > self.range.end {
            return Err(cut());
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, place).map_err(DiskError::Read)?;
        Ok(bytes)
    }

    /// Whether these bytes are there; not behind the end.
    fn starts(&self, at: u64, magic: &[u8]) -> Result<bool, DiskError> {
        match self.read(at, magic.len() as u64) {
            Ok(found) => Ok(found == magic),
            Err(DiskError::Table(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is wrong with it, which is no squashfs.
    fn other(&self) -> Result<DiskError, DiskError> {
        for (at, magic, name) in [
            (1024, &b"\xe2\xe1\xf5\xe0"[..], "erofs"),
            (1024 + 56, b"\x53\xef", "ext4"),
            (0x1_0040, b"_BHRfS_M", "btrfs"),
            (0, b"XFSB", "xfs"),
        ] {
            if self.starts(at, magic)? {
                return Ok(DiskError::FileSystem(name));
            }
        }
        Ok(DiskError::Unknown)
    }

    /// Where the one partition is that this machine would use.
    fn partition(
        &self,
        sector: u64,
        machine: Option<ElfMachine>,
    ) -> Result<(Range<u64>, Hierarchy), DiskError> {
        let entries = self.entries(sector)?;
        let known = |entry: &Entry| TYPES.iter().find(|(guid, ..)| *guid == entry.kind);
        let (mut found, mut other) = (Vec::new(), None);
        for entry in &entries {
            let Some((_, architecture, hierarchy)) = known(entry) else { continue };
            match machine {
                Some(machine) if ElfMachine::of_architecture(architecture) != Some(machine) => {
                    let has = (*architecture).into();
                    other = Some(DiskError::Architecture { has, wanted: machine });
                }
                _ => found.push((entry, *hierarchy)),
            }
        }
        match found.as_slice() {
            [(entry, hierarchy)] => Ok((self.extent(entry, sector)?, *hierarchy)),
            [] => Err(other.unwrap_or(DiskError::NoPartition)),
            several => Err(DiskError::Several(several.len())),
        }
    }

    fn extent(&self, entry: &Entry, sector: u64) -> Result<Range<u64>, DiskError> {
        let place = |number: u64| number.checked_mul(sector)?.checked_add(self.range.start);
        let end = entry.last.checked_add(1).and_then(place).filter(|end| *end <= self.range.end);
        match (place(entry.first), end) {
            (Some(start), Some(end)) if start < end => Ok(start..end),
            _ => Err(DiskError::Table("has a partition outside the image")),
        }
    }

    fn entries(&self, sector: u64) -> Result<Vec<Entry>, DiskError> {
        let fields = self.read(sector, HEADER)?;
        let u32_at = |at: usize| u32::from_le_bytes(array(&fields, at));
        let (checksum, count, size) = (u32_at(16), u32_at(80), u32_at(84));
        let (length, entries_checksum) = (u64::from(u32_at(12)), u32_at(88));
        let first = u64::from_le_bytes(array(&fields, 72));
        if !(HEADER..=sector).contains(&length) {
            return Err(DiskError::Table("has a header shorter than 92 bytes, or longer than a sector"));
        }
        let mut header = self.read(sector, length)?;
        header.iter_mut().skip(16).take(4).for_each(|byte| *byte = 0);
        if crc32(&header) != checksum {
            return Err(DiskError::Table("has a header whose checksum does not match"));
        }
        let bytes = u64::from(count).saturating_mul(size.into());
        if size < 128 || bytes > MAX_ENTRIES {
            return Err(DiskError::Table("has entries that are too many or too short"));
        }
        let at = first.checked_mul(sector).ok_or(DiskError::Table("is outside the image"))?;
        let bytes = self.read(at, bytes)?;
        if crc32(&bytes) != entries_checksum {
            return Err(DiskError::Table("has entries whose checksum does not match"));
        }
        Ok(bytes.chunks_exact(size as usize).map(Entry::read).collect())
    }
}

struct Entry {
    kind: [u8; 16],
    first: u64,
    last: u64,
}

impl Entry {
    fn read(bytes: &[u8]) -> Self {
        let u64_at = |at| u64::from_le_bytes(array(bytes, at));
        Self { kind: array(bytes, 0), first: u64_at(32), last: u64_at(40) }
    }
}

/// `N` bytes from `at` on; zeros where there are none.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
    array
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests;
