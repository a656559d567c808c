//! Directory listings.
//!
//! ```text
//! header: u32 entries - 1 · u32 metadata block of their inodes · u32 inode number
//! entry:  u16 place in that block · i16 inode number from the header's ·
//!         u16 type · u16 length of name - 1 · name
//! ```
//!
//! Entries are in the byte order of their names. Invariant: all entries below
//! one header have their inodes in the same metadata block.

use super::error::WriteError;
use super::format::{DIRECTORY_RUN, Record, Reference};
use super::inode::FileType;
use super::metadata::MetadataWriter;

/// One name in a directory.
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) inode: Reference,
    pub(super) number: u32,
    pub(super) file_type: FileType,
}

/// What a directory's inode says about its listing.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) start: Reference,
    /// In bytes.
    pub(super) size: u32,
    pub(super) subdirectories: u32,
    /// One entry for each metadata block that a header starts in, the first
    /// aside: a name is found without reading all before it.
    pub(super) index: Vec<IndexEntry>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// Byte of the listing at which a header starts.
    pub(super) offset: u32,
    /// Metadata block that the header starts in.
    pub(super) block: u32,
    /// First name below the header.
    pub(super) name: Box<[u8]>,
}

/// Appends the listing of `entries` to the directory table.
pub(super) fn append(table: &mut MetadataWriter, mut entries: &[Entry]) -> Result<Listing, WriteError> {
    let subdirectories = entries.iter().filter(|entry| entry.file_type == FileType::Directory).count();
    let mut listing =
        Listing { start: table.position()?, subdirectories: subdirectories as u32, ..Listing::default() };
    let mut indexed = listing.start.block;
    while let [first, ..] = entries {
        let (run, rest) = entries.split_at(run_length(entries));
        let block = table.position()?.block;
        // More index entries than an inode can count would not make it faster.
        if block != indexed && listing.index.len() < usize::from(u16::MAX) {
            listing.index.push(IndexEntry { offset: listing.size, block, name: first.name.into() });
            indexed = block;
        }
        let bytes = encode_run(first, run);
        table.write(&bytes)?;
        let size = listing.size.checked_add(bytes.len() as u32);
        listing.size = size.ok_or(WriteError::TooMany("entries in one directory"))?;
        entries = rest;
    }
    Ok(listing)
}

/// How many entries, at least one, can share a header.
fn run_length(entries: &[Entry]) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let fits = |entry: &&Entry| entry.inode.block == first.inode.block && delta(first, entry).is_some();
    entries.iter().take(DIRECTORY_RUN).take_while(fits).count()
}

fn delta(first: &Entry, entry: &Entry) -> Option<i16> {
    i16::try_from(i64::from(entry.number) - i64::from(first.number)).ok()
}

fn encode_run(first: &Entry, run: &[Entry]) -> Vec<u8> {
    let header = Record::default().u32(run.len() as u32 - 1).u32(first.inode.block).u32(first.number);
    let append = |record: Record, entry: &Entry| {
        record
            .u16(entry.inode.offset)
            .u16(delta(first, entry).unwrap_or(0).cast_unsigned())
            .u16(entry.file_type as u16)
            .u16(entry.name.len() as u16 - 1)
            .bytes(entry.name)
    };
    run.iter().fold(header, append).finish()
}

#[cfg(test)]
mod tests {
    use super::super::codec::Compression;
    use super::*;

    fn entry(block: u32, number: u32) -> Entry<'static> {
        Entry { name: b"name", inode: Reference { block, offset: 9 }, number, file_type: FileType::File }
    }

    #[test]
    fn a_header_ends_where_its_entries_no_longer_fit() {
        let many: Vec<_> = (1..=300).map(|number| entry(0, number)).collect();
        for (entries, length, why) in [
            (&many[..], 256, "at most 256 entries"),
            (&many[200..], 100, "all are below one header"),
            (&[entry(0, 1), entry(0, 2), entry(7, 3)], 2, "another metadata block"),
            (&[entry(0, 1), entry(0, 32_768)], 2, "the largest step up"),
            (&[entry(0, 1), entry(0, 32_769)], 1, "too large a step up"),
            (&[entry(0, 40_000), entry(0, 7232)], 2, "the largest step down"),
            (&[entry(0, 40_000), entry(0, 7231)], 1, "too large a step down"),
            (&[], 0, "nothing"),
        ] {
            assert_eq!(run_length(entries), length, "{why}");
        }
    }

    #[test]
    fn a_run_is_a_header_and_its_entries() {
        let entries = [
            Entry {
                name: b"a",
                inode: Reference { block: 3, offset: 4 },
                number: 9,
                file_type: FileType::Directory,
            },
            Entry {
                name: b"bcd",
                inode: Reference { block: 3, offset: 0x1f },
                number: 8,
                file_type: FileType::Symlink,
            },
        ];
        let expected = [
            &[1, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0][..],
            &[4, 0, 0, 0, 1, 0, 0, 0, b'a'],
            &[0x1f, 0, 0xff, 0xff, 3, 0, 2, 0, b'b', b'c', b'd'],
        ]
        .concat();
        assert_eq!(encode_run(&entries[0], &entries), expected);
    }

    #[test]
    fn a_long_listing_has_an_index_of_headers() {
        let mut table = MetadataWriter::new(Compression::None).unwrap();
        table.write(&[0; 8000]).unwrap();
        let entries: Vec<_> = (1..=2048).map(|number| entry(0, number)).collect();
        let listing = append(&mut table, &entries).unwrap();
        let run = 12 + 256 * (8 + 4);
        assert_eq!(listing.start, Reference { block: 0, offset: 8000 });
        assert_eq!(listing.size, 8 * run);
        let places: Vec<_> = listing.index.iter().map(|entry| (entry.offset, entry.block)).collect();
        assert_eq!(places, [(run, 8194), (3 * run, 2 * 8194), (6 * run, 3 * 8194)]);
        for (offset, block) in places {
            assert_eq!((8000 + offset) / 8192 * 8194, block);
        }
    }

    #[test]
    fn an_empty_directory_has_an_empty_listing() {
        let mut table = MetadataWriter::new(Compression::None).unwrap();
        let listing = append(&mut table, &[]).unwrap();
        assert_eq!((listing.size, listing.subdirectories, listing.index.len()), (0, 0, 0));
    }
}
