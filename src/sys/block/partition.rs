//! Partition tables, for the names that partitions have in them.
//!
//! In: a whole disk. Out: for a partition's number its PARTUUID and
//! PARTLABEL. GPT is UEFI 2.10, 5.3; MBR is its 5.2. Invariant: where a
//! partition begins and ends is the kernel's to say, not read here, so a
//! wrong table can at worst give a partition no name.

use std::io;
use std::os::unix::fs::FileExt;

use flate2::Crc;

use super::bytes::{Fields, read_at};

/// Length of a GPT entry, in bytes. The kernel takes no other.
const ENTRY_LEN: usize = 128;

/// Most entries that are read: 1 MiB. Usual are 128.
const MAX_ENTRIES: u32 = 8192;

/// A partition's place and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Kernel name of the disk it is on.
    pub disk: String,
    /// Counted from 1, as the kernel does.
    pub number: u32,
    /// PARTUUID, in lower case.
    pub uuid: Option<String>,
    /// PARTLABEL; an MBR has none.
    pub label: Option<String>,
}

/// What a disk says about its partitions.
#[derive(Debug, PartialEq, Eq)]
pub enum Table {
    /// The verified entry array.
    Gpt(Vec<u8>),
    Mbr {
        signature: u32,
    },
    None,
}

/// Size of a disk, and of its logical sectors, both in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub size: u64,
    pub sector: u64,
}

impl Table {
    pub fn read(disk: &impl FileExt, geometry: Geometry) -> io::Result<Self> {
        let sector = read_at(disk, 0, 512)?;
        let mbr = Fields(&sector);
        let (Some(()), Some(signature)) = (mbr.has(510, &[0x55, 0xaa]), mbr.u32(440)) else {
            return Ok(Self::None);
        };
        // A protective MBR says in one of its four entries that a GPT counts.
        if !(0..4).any(|entry| mbr.u8(446 + entry * 16 + 4) == Some(0xee)) {
            return Ok(Self::Mbr { signature });
        }
        let last = (geometry.size / geometry.sector.max(1)).saturating_sub(1);
        let gpt = [1, last].into_iter().find_map(|block| gpt_entries(disk, geometry.sector, block));
        Ok(gpt.map_or(Self::None, Self::Gpt))
    }

    /// PARTUUID and PARTLABEL of a partition.
    pub fn names(&self, number: u32) -> (Option<String>, Option<String>) {
        match self {
            Self::Gpt(entries) => {
                let index = (number as usize).checked_sub(1);
                match index.and_then(|index| entries.chunks_exact(ENTRY_LEN).nth(index)).map(Fields) {
                    Some(entry) => (entry.guid(16), entry.text_utf16(56, 72)),
                    None => (None, None),
                }
            }
            Self::Mbr { signature } => (Some(format!("{signature:08x}-{number:02x}")), None),
            Self::None => (None, None),
        }
    }
}

/// The entries that the header in `block` points to, if both checksums are
/// right. The header: `EFI PART`, its length at 12, its checksum at 16 (taken
/// with this field zero), first block of the entries at 72, their number at
/// 80, length at 84 and checksum at 88.
fn gpt_entries(disk: &impl FileExt, sector: u64, block: u64) -> Option<Vec<u8>> {
    let mut header = read_at(disk, block.checked_mul(sector)?, 512).ok()?;
    let fields = Fields(&header);
    fields.has(0, b"EFI PART")?;
    let (len, wanted) = (fields.u32(12)? as usize, fields.u32(16)?);
    let (first, count, entry_len, checksum) =
        (fields.u64(72)?, fields.u32(80)?, fields.u32(84)? as usize, fields.u32(88)?);
    header.get_mut(16..20)?.fill(0);
    if len < 92 || crc32(header.get(..len)?) != wanted || entry_len != ENTRY_LEN || count > MAX_ENTRIES {
        return None;
    }
    let entries = read_at(disk, first.checked_mul(sector)?, count as usize * ENTRY_LEN).ok()?;
    (crc32(&entries) == checksum).then_some(entries)
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const GEOMETRY: Geometry = Geometry { size: 1 << 20, sector: 512 };

    /// A disk of 1 MiB with one partition, number 2, named `state`.
    fn gpt_disk() -> Vec<u8> {
        let mut disk = vec![0; GEOMETRY.size as usize];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[446 + 4] = 0xee;
        let mut entries = vec![0; 4 * ENTRY_LEN];
        entries[ENTRY_LEN + 16..ENTRY_LEN + 32].copy_from_slice(&[0x11; 16]);
        for (i, c) in "state".bytes().enumerate() {
            entries[ENTRY_LEN + 56 + 2 * i] = c;
        }
        for (header, first) in [(512, 2), (disk.len() - 512, 2040)] {
            disk[first * 512..first * 512 + entries.len()].copy_from_slice(&entries);
            let field = &mut disk[header..header + 92];
            field[..8].copy_from_slice(b"EFI PART");
            field[12..16].copy_from_slice(&92_u32.to_le_bytes());
            field[72..80].copy_from_slice(&(first as u64).to_le_bytes());
            field[80..84].copy_from_slice(&4_u32.to_le_bytes());
            field[84..88].copy_from_slice(&(ENTRY_LEN as u32).to_le_bytes());
            field[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
            let checksum = crc32(field);
            field[16..20].copy_from_slice(&checksum.to_le_bytes());
        }
        disk
    }

    fn read(disk: &[u8]) -> Table {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, disk).unwrap();
        Table::read(&file, GEOMETRY).unwrap()
    }

    #[test]
    fn a_gpt_names_its_partitions() {
        let table = read(&gpt_disk());
        let uuid = "11111111-1111-1111-1111-111111111111";
        assert_eq!(table.names(2), (Some(uuid.into()), Some("state".into())));
        for number in [0, 1, 5, u32::MAX] {
            assert_eq!(table.names(number), (None, None), "{number}");
        }
    }

    #[test]
    fn an_mbr_gives_its_signature_and_the_number_in_hexadecimal() {
        let mut disk = vec![0; 512];
        disk[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(read(&disk).names(1), (Some("1234abcd-01".into()), None));
        assert_eq!(read(&disk).names(12), (Some("1234abcd-0c".into()), None));
    }

    #[test]
    fn the_backup_gpt_counts_where_the_first_is_broken() {
        let mut disk = gpt_disk();
        disk[512] = 0;
        assert_eq!(read(&disk).names(2).1, Some("state".into()));
    }

    #[test]
    fn a_broken_table_names_nothing() {
        type Break = fn(&mut [u8]);
        let both = |disk: &mut Vec<u8>, change: Break| {
            let end = disk.len() - 512;
            change(&mut disk[512..604]);
            change(&mut disk[end..end + 92]);
        };
        for (what, change) in [
            ("magic", (|header| header[0] = b'e') as Break),
            ("checksum", |header| header[16] ^= 1),
            ("length of the header", |header| header[12..16].fill(0xff)),
            ("place of the entries", |header| header[72..80].fill(0xff)),
            ("number of entries", |header| header[80..84].fill(0xff)),
        ] {
            let mut disk = gpt_disk();
            both(&mut disk, change);
            assert_eq!(read(&disk), Table::None, "{what}");
            // The same with a checksum that fits.
            if what != "magic" && what != "checksum" && what != "length of the header" {
                both(&mut disk, |header| {
                    header[16..20].fill(0);
                    let checksum = crc32(header);
                    header[16..20].copy_from_slice(&checksum.to_le_bytes());
                });
                assert_eq!(read(&disk), Table::None, "{what}");
            }
        }
        let mut disk = gpt_disk();
        disk[2 * 512 + ENTRY_LEN] ^= 1;
        disk[2040 * 512 + ENTRY_LEN] ^= 1;
        assert_eq!(read(&disk), Table::None, "entries");
        assert_eq!(read(&[]), Table::None, "an empty disk");
        assert_eq!(read(&gpt_disk()[..600]), Table::None, "a cut disk");
    }

    #[test]
    fn a_disk_that_cannot_be_read_is_an_error() {
        let directory = File::open("/").unwrap();
        Table::read(&directory, GEOMETRY).unwrap_err();
    }
}
