//! What a guest wrote to a disk, in its order: the format of the kernel's
//! dm-log-writes target (kernel documentation, "dm-log-writes"), which QEMU's
//! driver `blklogwrites` writes too.
//!
//! In: the log. Out: [`Write`]s and flushes, to be replayed over a copy that
//! was taken before. All numbers are little-endian; a sector has 512 bytes:
//!
//! ```text
//! sector 0      magic u64 · version u64 = 1 · entries u64 · sector size u32
//! then, each    sector u64 · sectors u64 · flags u64 · length u64, in a
//!               sector of its own; and the sectors, unless it is a discard
//! ```

const SECTOR: usize = 512;
const MAGIC: u64 = 0x6a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// One write, and whether everything before it had to be on the disk first.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    pub flushed_before: bool,
    offset: usize,
    bytes: Vec<u8>,
}

impl Write {
    /// Puts it on `disk`.
    pub fn apply(&self, disk: &mut [u8]) {
        disk[self.offset..][..self.bytes.len()].copy_from_slice(&self.bytes);
    }
}

/// Reads a whole log. Panics where it is not one: a test cannot go on then.
pub fn read(log: &[u8]) -> Vec<Write> {
    assert_eq!((number(log, 0), number(log, 1)), (MAGIC, VERSION), "no log of writes");
    let size = u32::from_le_bytes(log[24..28].try_into().expect("four bytes"));
    assert_eq!(size as usize, SECTOR, "the log's sectors");
    let mut rest = &log[SECTOR..];
    let entries = (0..number(log, 2)).map(|_| take(&mut rest));
    entries.filter(|write| write.flushed_before || !write.bytes.is_empty()).collect()
}

/// Takes an entry from the start of `rest`. A discarded block may keep what
/// it has, so nothing is made of a discard.
fn take(rest: &mut &[u8]) -> Write {
    let [sector, sectors, flags] = [0, 1, 2].map(|index| number(rest, index));
    let length = if flags & DISCARD == 0 { sectors as usize * SECTOR } else { 0 };
    let bytes = rest[SECTOR..][..length].to_vec();
    *rest = &rest[SECTOR + length..];
    Write { flushed_before: flags & FLUSH != 0, offset: sector as usize * SECTOR, bytes }
}

fn number(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..][..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(numbers: &[u64]) -> Vec<u8> {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.resize(SECTOR, 0);
        bytes
    }

    #[test]
    fn writes_come_in_their_order() {
        let log = [
            sector(&[MAGIC, VERSION, 3, SECTOR as u64]),
            sector(&[1, 1, 0, 0]),
            vec![7; SECTOR],
            sector(&[0, 9, DISCARD, 0]),
            sector(&[0, 0, FLUSH, 0]),
            sector(&[5, 1, 0, 0]),
        ]
        .concat();
        let writes = read(&log);
        let mut disk = vec![0; 3 * SECTOR];
        writes.iter().for_each(|write| write.apply(&mut disk));
        assert_eq!(writes.iter().map(|write| write.flushed_before).collect::<Vec<_>>(), [false, true]);
        assert_eq!(disk, [vec![0; SECTOR], vec![7; SECTOR], vec![0; SECTOR]].concat());
    }
}
