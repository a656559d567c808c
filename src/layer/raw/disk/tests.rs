use super::*;
use std::io::Write;

const ROOT_AMD64: u128 = 0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709;
const ROOT_ARM64: u128 = 0xb921b045_1df0_41c3_af44_4c6f280d3fae;
const USR_AMD64: u128 = 0x8484680c_9521_48c6_9c11_b0720656f69e;
const VERITY: u128 = 0x2c7357ed_ebd2_46d9_aec1_23d437ec2bf5;

/// A disk of 64 sectors with these partitions: type, first and last sector.
fn disk(sector: usize, partitions: &[(u128, u64, u64)]) -> Vec<u8> {
    let mut entries = vec![0; 128 * 8];
    for (number, (kind, first, last)) in partitions.iter().enumerate() {
        let entry = &mut entries[number * 128..];
        entry[..16].copy_from_slice(&guid(*kind));
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
    }
    let mut disk = vec![0; sector * 64];
    disk[2 * sector..][..entries.len()].copy_from_slice(&entries);
    let header = &mut disk[sector..sector + 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&8_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
    seal(&mut disk, sector);
    disk
}

fn seal(disk: &mut [u8], sector: usize) {
    disk[sector + 16..sector + 20].fill(0);
    let length = u32::from_le_bytes(disk[sector + 12..sector + 16].try_into().unwrap());
    let checksum = crc32(&disk[sector..][..(length as usize).min(sector)]);
    disk[sector + 16..sector + 20].copy_from_slice(&checksum.to_le_bytes());
}

fn with(mut disk: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
    disk
}

fn found(disk: &[u8], architecture: Option<&str>) -> Result<(u64, u64, Hierarchy), String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(disk).unwrap();
    let machine = architecture.and_then(ElfMachine::of_architecture);
    match find(&file, 0..disk.len() as u64, machine) {
        Ok(Squashfs { range, hierarchy }) => Ok((range.start, range.end, hierarchy)),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_partition_for_the_machine_is_found() {
    use Hierarchy::{Root, Usr};
    let both = [(VERITY, 30, 40), (ROOT_ARM64, 20, 23), (ROOT_AMD64, 10, 15)];
    let filled = with(with(disk(512, &both), 10 * 512, b"hsqs"), 20 * 512, b"hsqs");
    let mut longer = with(filled.clone(), 512 + 12, &[0, 2]);
    seal(&mut longer, 512);
    for (what, disk, architecture, expected) in [
        ("no table", with(vec![0; 8192], 0, b"hsqs"), Some("amd64"), Ok((0, 8192, Root))),
        ("root", filled.clone(), Some("amd64"), Ok((5120, 8192, Root))),
        ("a longer header", longer, Some("amd64"), Ok((5120, 8192, Root))),
        ("root of arm64", filled.clone(), Some("arm64"), Ok((10240, 12288, Root))),
        (
            "usr in large sectors",
            with(disk(4096, &[(USR_AMD64, 10, 11)]), 40960, b"hsqs"),
            Some("amd64"),
            Ok((40960, 49152, Usr)),
        ),
        (
            "an unknown machine",
            filled,
            None,
            Err("it has 2 root and usr partitions, of which only one can be meant"),
        ),
        (
            "two",
            disk(512, &[(ROOT_AMD64, 10, 15), (USR_AMD64, 20, 25)]),
            Some("amd64"),
            Err("it has 2 root and usr partitions, of which only one can be meant"),
        ),
        (
            "another machine",
            disk(512, &[(ROOT_ARM64, 10, 15)]),
            Some("amd64"),
            Err("its root or usr partition is for arm64, this machine is amd64"),
        ),
        ("none", disk(512, &[(VERITY, 10, 15)]), Some("amd64"), Err("it has no root or usr partition")),
        (
            "erofs in a partition",
            with(disk(512, &[(ROOT_AMD64, 10, 15)]), 5120 + 1024, b"\xe2\xe1\xf5\xe0"),
            Some("amd64"),
            Err("it holds erofs, which cannot be read; make it a squashfs"),
        ),
        (
            "erofs alone",
            with(vec![0; 8192], 1024, b"\xe2\xe1\xf5\xe0"),
            Some("amd64"),
            Err("it holds erofs, which cannot be read; make it a squashfs"),
        ),
        (
            "nothing in a partition",
            disk(512, &[(ROOT_AMD64, 10, 15)]),
            Some("amd64"),
            Err("it is neither a squashfs nor a partitioned image of one"),
        ),
        (
            "a text",
            b"hello".to_vec(),
            Some("amd64"),
            Err("it is neither a squashfs nor a partitioned image of one"),
        ),
        (
            "nothing",
            Vec::new(),
            Some("amd64"),
            Err("it is neither a squashfs nor a partitioned image of one"),
        ),
    ] {
        assert_eq!(found(&disk, architecture), expected.map_err(str::to_string), "{what}");
    }
}

#[test]
fn a_broken_table_is_refused() {
    let good = disk(512, &[(ROOT_AMD64, 10, 15)]);
    let header = |at: usize, bytes: &[u8]| {
        let mut disk = with(good.clone(), 512 + at, bytes);
        seal(&mut disk, 512);
        disk
    };
    for (what, disk, expected) in [
        ("header", with(good.clone(), 512 + 30, b"x"), "has a header whose checksum does not match"),
        ("entries", with(good.clone(), 1024 + 60, b"x"), "has entries whose checksum does not match"),
        (
            "a header that is too long",
            header(12, &[0, 16]),
            "has a header shorter than 92 bytes, or longer than a sector",
        ),
        (
            "a header that is too short",
            header(12, &[91]),
            "has a header shorter than 92 bytes, or longer than a sector",
        ),
        ("place of entries", header(72, &[0xff; 8]), "is outside the image"),
        ("place of entries behind the end", header(72, &[64, 0, 0, 0]), "is outside the image"),
        ("number of entries", header(80, &[0xff; 4]), "has entries that are too many or too short"),
        ("length of entries", header(84, &[127, 0, 0, 0]), "has entries that are too many or too short"),
        ("end", disk(512, &[(ROOT_AMD64, 10, 64)]), "has a partition outside the image"),
        ("overflow", disk(512, &[(ROOT_AMD64, 10, u64::MAX)]), "has a partition outside the image"),
        ("start behind the end", disk(512, &[(ROOT_AMD64, 16, 14)]), "has a partition outside the image"),
        ("cut", good[..600].to_vec(), "is outside the image"),
    ] {
        assert_eq!(found(&disk, Some("amd64")), Err(format!("its partition table {expected}")), "{what}");
    }
}
