//! Which filesystem lies on a device, read without the kernel.
//!
//! In: a device or image. Out: [`Superblock`] with type, UUID and label as
//! `blkid` shows them. The formats' layouts stand beside their readers;
//! numbers are little endian unless said otherwise. Invariant: at most
//! [`HEAD_LEN`] and one FAT root directory are read, and nothing in them can
//! make that more: the disk may be hostile.

use std::io;
use std::os::unix::fs::FileExt;

use super::bytes::{Fields, read_at};

/// All superblocks that are looked for lie in a device's first 68 KiB; the
/// last one, of btrfs, is 4 KiB at 64 KiB.
const HEAD_LEN: usize = 68 << 10;

/// Most that is read of a FAT root directory, in bytes. A label is nearly
/// always its first entry.
const MAX_FAT_ROOT: u64 = 64 << 10;

/// What a filesystem says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The name to mount it by: `ext4`, `vfat`, `iso9660`, …
    pub kind: &'static str,
    /// As `blkid` writes it: hexadecimal groups, for FAT `ABCD-1234`, for
    /// ISO 9660 a date.
    pub uuid: Option<String>,
    pub label: Option<String>,
    /// Identifies one device of several that make up a filesystem (btrfs).
    pub member: Option<String>,
}

impl Superblock {
    fn new(kind: &'static str, uuid: Option<String>, label: Option<String>) -> Option<Self> {
        Some(Self { kind, uuid, label, member: None })
    }

    /// Looks for a filesystem that plywood's users boot from. `None` means
    /// that there is none, or one that is not known here.
    pub fn probe(device: &impl FileExt) -> io::Result<Option<Self>> {
        let head = read_at(device, 0, HEAD_LEN)?;
        let head = Fields(&head);
        // Strong magics first: FAT has none, and boot sectors look like it.
        let found = [squashfs, xfs, ext, btrfs, f2fs, erofs, iso9660].iter().find_map(|probe| probe(head));
        Ok(found.or_else(|| vfat(head, device)))
    }
}

/// Magic at 0, major version at 28. No UUID, no label.
fn squashfs(head: Fields) -> Option<Superblock> {
    head.has(0, b"hsqs")?;
    (head.u16(28)? == 4).then_some(())?;
    Superblock::new("squashfs", None, None)
}

/// Magic at 0, big endian block size at 4, UUID at 32, label of 12 at 108.
fn xfs(head: Fields) -> Option<Superblock> {
    head.has(0, b"XFSB")?;
    let block_size = head.array(4).map(u32::from_be_bytes)?;
    (block_size.is_power_of_two() && (512..=65536).contains(&block_size)).then_some(())?;
    Superblock::new("xfs", head.uuid(32), head.text(108, 12))
}

/// At 1024: magic at 56, features (compatible, incompatible, read-only
/// compatible) at 92, 96 and 100, UUID at 104, label of 16 at 120.
fn ext(head: Fields) -> Option<Superblock> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    // What ext3 knows: filetype, recover, meta_bg; sparse_super, large_file, btree_dir.
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    let block = head.at(1024)?;
    block.has(56, &[0x53, 0xef])?;
    let (compatible, incompatible, read_only) = (block.u32(92)?, block.u32(96)?, block.u32(100)?);
    if incompatible & JOURNAL_DEVICE != 0 {
        return None;
    }
    let kind = if incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0 {
        "ext4"
    } else if compatible & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    Superblock::new(kind, block.uuid(104), block.text(120, 16))
}

/// At 64 KiB: UUID at 32, magic at 64, this device's own UUID at 267, label
/// of 256 at 299.
fn btrfs(head: Fields) -> Option<Superblock> {
    let block = head.at(64 << 10)?;
    block.has(64, b"_BHRfS_M")?;
    let found = Superblock::new("btrfs", block.uuid(32), block.text(299, 256))?;
    Some(Superblock { member: block.uuid(267), ..found })
}

/// At 1024: magic at 0, UUID at 108, label of 512 UTF-16 units at 124.
fn f2fs(head: Fields) -> Option<Superblock> {
    let block = head.at(1024)?;
    block.has(0, &0xf2f5_2010_u32.to_le_bytes())?;
    Superblock::new("f2fs", block.uuid(108), block.text_utf16(124, 1024))
}

/// At 1024: magic at 0, UUID at 48, label of 16 at 64.
fn erofs(head: Fields) -> Option<Superblock> {
    let block = head.at(1024)?;
    block.has(0, &0xe0f5_e1e2_u32.to_le_bytes())?;
    Superblock::new("erofs", block.uuid(48), block.text(64, 16))
}

/// Primary volume descriptor (ECMA-119, 8.4) at 32 KiB: type 1 and `CD001`,
/// label of 32 at 40, dates of creation and modification at 813 and 830. The
/// latter, or else the former, stands for the UUID that the format lacks.
fn iso9660(head: Fields) -> Option<Superblock> {
    let block = head.at(32 << 10)?;
    block.has(0, b"\x01CD001")?;
    let uuid = iso_date(block, 830).or_else(|| iso_date(block, 813));
    Superblock::new("iso9660", uuid, block.padded_text(40, 32))
}

/// Sixteen digits, year to hundredths of a second; all `0` when unset.
fn iso_date(block: Fields, offset: usize) -> Option<String> {
    let digits = std::str::from_utf8(block.bytes(offset, 16)?).ok()?;
    let set = digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.bytes().any(|byte| byte != b'0');
    let pair = |at: usize| digits.get(at..at + 2);
    let (year, month, day) = (digits.get(..4).filter(|_| set)?, pair(4)?, pair(6)?);
    Some(format!("{year}-{month}-{day}-{}-{}-{}-{}", pair(8)?, pair(10)?, pair(12)?, pair(14)?))
}

/// The boot sector of a FAT file system (Microsoft's specification 1.03):
/// bytes per sector at 11, sectors per cluster at 13, reserved sectors at 14,
/// number of FATs at 16, root entries at 17, media at 21, sectors per FAT at
/// 22; for FAT32 sectors per FAT at 36 and the root's cluster at 44. Then an
/// extension: signature 0x28 or 0x29, serial number, label of 11, at 38, 39
/// and 43, for FAT32 at 66, 67 and 71.
fn vfat(head: Fields, device: &impl FileExt) -> Option<Superblock> {
    head.has(510, &[0x55, 0xaa])?;
    let (sector, cluster) = (u64::from(head.u16(11)?), u64::from(head.u8(13)?));
    let (reserved, fats) = (u64::from(head.u16(14)?), u64::from(head.u8(16)?));
    let plausible = matches!(sector, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && reserved > 0
        && matches!(fats, 1 | 2)
        && matches!(head.u8(21)?, 0xf0 | 0xf8..=0xff);
    let (short, long) = (u64::from(head.u16(22)?), u64::from(head.u32(36)?));
    if !plausible || (short == 0 && long == 0) {
        return None;
    }
    // Widest: 2 FATs of 2³² sectors and 2³² clusters of 2⁷ sectors, in bytes
    // times 2¹²: far below 2⁶⁴.
    let (extension, root, len) = if short == 0 {
        let first = u64::from(head.u32(44)?).checked_sub(2)?;
        (66, (reserved + fats * long + first * cluster) * sector, cluster * sector)
    } else {
        (38, (reserved + fats * short) * sector, u64::from(head.u16(17)?) * 32)
    };
    let block = head.at(extension)?;
    let serial = matches!(block.u8(0)?, 0x28 | 0x29).then(|| block.u32(1)).flatten().filter(|&id| id != 0);
    let label = fat_root_label(device, root, len)
        .or_else(|| block.padded_text(5, 11).filter(|label| block.u8(0) == Some(0x29) && label != "NO NAME"));
    Superblock::new("vfat", serial.map(|id| format!("{:04X}-{:04X}", id >> 16, id & 0xffff)), label)
}

/// The label is an entry of the root directory; the boot sector's copy can
/// be stale. Entries have 32 bytes: name of 11, attributes at 11, first
/// cluster at 20 and 26.
fn fat_root_label(device: &impl FileExt, offset: u64, len: u64) -> Option<String> {
    const VOLUME: u8 = 0x08;
    const DIRECTORY: u8 = 0x10;
    const LONG_NAME: u8 = 0x0f;
    let root = read_at(device, offset, len.min(MAX_FAT_ROOT) as usize).ok()?;
    let entries = root.chunks_exact(32).map(Fields).take_while(|entry| entry.u8(0) != Some(0));
    entries
        .filter(|entry| entry.u8(0) != Some(0xe5) && entry.u16(20) == Some(0) && entry.u16(26) == Some(0))
        .find(|entry| {
            entry.u8(11).is_some_and(|bits| bits != LONG_NAME && bits & (VOLUME | DIRECTORY) == VOLUME)
        })
        .and_then(|entry| entry.padded_text(0, 11))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    const UUID: &str = "01020304-0506-0708-090a-0b0c0d0e0f10";
    const UUID_BYTES: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

    /// A device that holds just these bytes, at these offsets.
    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; HEAD_LEN];
        for (offset, bytes) in parts {
            image[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    fn probe(image: &[u8]) -> Option<Superblock> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        file.rewind().unwrap();
        Superblock::probe(&file).unwrap()
    }

    fn ext_image(features: [u32; 3]) -> Vec<u8> {
        let [compatible, incompatible, read_only] = features.map(u32::to_le_bytes);
        image(&[
            (1024 + 56, &[0x53, 0xef]),
            (1024 + 92, &compatible),
            (1024 + 96, &incompatible),
            (1024 + 100, &read_only),
            (1024 + 104, &UUID_BYTES),
            (1024 + 120, b"sixteen letters!beyond"),
        ])
    }

    /// FAT16: 512-byte sectors, 4 per cluster, 1 reserved, 2 FATs of 8
    /// sectors, 64 root entries; the root is at sector 17.
    fn fat16_image(boot_label: &[u8; 11], root: &[u8]) -> Vec<u8> {
        image(&[
            (11, &[0, 2, 4, 1, 0, 2, 64, 0]),
            (21, &[0xf8, 8, 0]),
            (38, &[0x29, 0xcd, 0xab, 0x34, 0x12]),
            (43, boot_label),
            (510, &[0x55, 0xaa]),
            (17 * 512, root),
        ])
    }

    /// FAT32: 512-byte sectors, 1 per cluster, 4 reserved, 1 FAT of 8
    /// sectors, root in cluster 3; so it is at sector 13.
    fn fat32_image(root: &[u8]) -> Vec<u8> {
        image(&[
            (11, &[0, 2, 1, 4, 0, 1, 0, 0]),
            (21, &[0xf8, 0, 0]),
            (36, &[8, 0, 0, 0]),
            (44, &[3, 0, 0, 0]),
            (66, &[0x29, 0xcd, 0xab, 0x34, 0x12]),
            (71, b"NO NAME    "),
            (510, &[0x55, 0xaa]),
            (13 * 512, root),
        ])
    }

    fn fat_entry(name: &[u8; 11], attributes: u8) -> Vec<u8> {
        let mut entry = name.to_vec();
        entry.push(attributes);
        entry.resize(32, 0);
        entry
    }

    /// What it is, the image, type, UUID, label.
    type Row = (&'static str, Vec<u8>, &'static str, Option<&'static str>, Option<&'static str>);

    fn images() -> Vec<Row> {
        let iso = |modified: &[u8]| {
            let (label, created) = (b"cidata                          ", b"2026010203040506\0");
            let parts: [(usize, &[u8]); 4] =
                [(0, b"\x01CD001"), (40, label), (813, created), (830, modified)];
            image(&parts.map(|(offset, bytes)| ((32 << 10) + offset, bytes)))
        };
        let root =
            [fat_entry(b"Aa.long.nam", 0x0f), fat_entry(b"\xe5LD        ", 8), fat_entry(b"STATE DISK ", 8)];
        vec![
            ("squashfs", image(&[(0, b"hsqs"), (28, &[4, 0])]), "squashfs", None, None),
            (
                "xfs",
                image(&[(0, b"XFSB\0\0\x10\0"), (32, &UUID_BYTES), (108, b"twelve chars")]),
                "xfs",
                Some(UUID),
                Some("twelve chars"),
            ),
            ("ext2", ext_image([0, 0x2, 0x3]), "ext2", Some(UUID), Some("sixteen letters!")),
            ("ext3", ext_image([0x4, 0x2, 0x3]), "ext3", Some(UUID), Some("sixteen letters!")),
            ("ext4", ext_image([0x4, 0x42, 0x3]), "ext4", Some(UUID), Some("sixteen letters!")),
            (
                "ext4 without a journal",
                ext_image([0, 0x42, 0x3]),
                "ext4",
                Some(UUID),
                Some("sixteen letters!"),
            ),
            (
                "erofs",
                image(&[(1024, &[0xe2, 0xe1, 0xf5, 0xe0]), (1072, &UUID_BYTES), (1088, b"x")]),
                "erofs",
                Some(UUID),
                Some("x"),
            ),
            (
                "f2fs",
                image(&[(1024, &[0x10, 0x20, 0xf5, 0xf2]), (1132, &UUID_BYTES), (1148, b"f\0\xfc\0")]),
                "f2fs",
                Some(UUID),
                Some("fü"),
            ),
            (
                "iso9660",
                iso(b"2026060708091011\0"),
                "iso9660",
                Some("2026-06-07-08-09-10-11"),
                Some("cidata"),
            ),
            (
                "iso9660 never modified",
                iso(b"0000000000000000\0"),
                "iso9660",
                Some("2026-01-02-03-04-05-06"),
                Some("cidata"),
            ),
            ("fat16", fat16_image(b"BOOT       ", &[]), "vfat", Some("1234-ABCD"), Some("BOOT")),
            (
                "fat16 with a newer label",
                fat16_image(b"BOOT       ", &root.concat()),
                "vfat",
                Some("1234-ABCD"),
                Some("STATE DISK"),
            ),
            ("fat32 without a label", fat32_image(&[]), "vfat", Some("1234-ABCD"), None),
            ("fat32", fat32_image(&root.concat()), "vfat", Some("1234-ABCD"), Some("STATE DISK")),
        ]
    }

    #[test]
    fn filesystems_say_type_uuid_and_label() {
        for (what, image, kind, uuid, label) in images() {
            let found = probe(&image).expect(what);
            assert_eq!(
                (found.kind, found.uuid.as_deref(), found.label.as_deref()),
                (kind, uuid, label),
                "{what}"
            );
        }
    }

    #[test]
    fn a_btrfs_also_says_which_member_it_is() {
        let offset = 64 << 10;
        let parts: [(usize, &[u8]); 4] =
            [(32, &UUID_BYTES), (64, b"_BHRfS_M"), (267, &[0xee; 16]), (299, b"pool")];
        let found = probe(&image(&parts.map(|(at, bytes)| (offset + at, bytes)))).unwrap();
        assert_eq!(
            (found.kind, found.uuid.as_deref(), found.label.as_deref()),
            ("btrfs", Some(UUID), Some("pool"))
        );
        assert_eq!(found.member.as_deref(), Some("eeeeeeee-eeee-eeee-eeee-eeeeeeeeeeee"));
    }

    #[test]
    fn what_only_looks_like_a_filesystem_is_none() {
        let broken = |offset: usize, byte: u8| {
            let mut image = fat32_image(&[]);
            image[offset] = byte;
            image
        };
        for (what, image) in [
            ("nothing", Vec::new()),
            ("zeros", image(&[])),
            ("squashfs 3", image(&[(0, b"hsqs"), (28, &[3, 0])])),
            ("xfs with blocks of 0", image(&[(0, b"XFSB")])),
            ("journal of an ext4", ext_image([0, 0x8, 0])),
            ("swap", image(&[(4086, b"SWAPSPACE2")])),
            ("an MBR", image(&[(510, &[0x55, 0xaa])])),
            ("fat with sectors of 513", broken(11, 1)),
            ("fat with clusters of 3", broken(13, 3)),
            ("fat with 0 reserved sectors", broken(14, 0)),
            ("fat with 0 tables (NTFS)", broken(16, 0)),
            ("fat with an unknown medium", broken(21, 0)),
            ("fat32 with tables of 0", broken(36, 0)),
            ("fat32 with its root in cluster 1", broken(44, 1)),
        ] {
            assert_eq!(probe(&image), None, "{what}");
        }
    }

    #[test]
    fn a_hostile_image_is_read_without_panic() {
        for (what, image, ..) in images() {
            for len in (0..2048).step_by(7).chain([33_000, 66_000]) {
                probe(&image[..len]);
            }
            // Every byte of a field at its extremes.
            for at in (0..128).chain(1024..1152) {
                for byte in [0, 0xff, image[at] ^ 0x80] {
                    let mut image = image.clone();
                    image[at] = byte;
                    let found = Superblock::probe(&Memory(&image)).unwrap();
                    assert!(found.is_none_or(|found| found.kind.len() < 9), "{what}");
                }
            }
        }
    }

    /// A device in memory.
    struct Memory<'a>(&'a [u8]);

    impl FileExt for Memory<'_> {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or(&[]);
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}
