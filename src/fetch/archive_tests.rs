use super::*;
use std::fs;

/// A header block with a right checksum.
fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    checksummed(block)
}

fn checksummed(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// A header and its data, padded.
pub(in crate::fetch) fn entry(name: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, data.len() as u64);
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = String::new();
    for (key, value) in records {
        let tail = format!(" {key}={value}\n");
        let digits = (1..5).find(|digits| (tail.len() + digits).to_string().len() == *digits).unwrap();
        data += &format!("{}{tail}", tail.len() + digits);
    }
    entry("pax", b'x', data.as_bytes())
}

fn open(bytes: &[u8]) -> Result<Archive, String> {
    open_within(bytes, Limits::default())
}

fn open_within(bytes: &[u8], limits: Limits) -> Result<Archive, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    fs::write(&path, bytes).unwrap();
    Archive::open(&path, &limits).map_err(|cause| match cause {
        Cause::Archive { source, .. } => source.to_string(),
        cause => cause.to_string(),
    })
}

/// `entry` with bytes of its header replaced.
fn patched(entry: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut block = entry;
    let rest = block.split_off(512);
    block[offset..offset + bytes.len()].copy_from_slice(bytes);
    [checksummed(block), rest].concat()
}

#[test]
fn files_are_found_in_place_whatever_the_tar_format() {
    const DATA: &[u8] = b"data";
    let long = "d/".repeat(120) + "name";
    let file = |name: &str| entry(name, b'0', DATA);
    let end = vec![0; 1024];
    for (what, parts, name) in [
        ("plain", vec![file("name")], "name"),
        ("a leading dot", vec![entry("./", b'5', b""), file("./name")], "name"),
        ("a prefix", vec![patched(file("name"), 345, b"dir")], "dir/name"),
        ("from before POSIX", vec![patched(entry("name", 0, DATA), 257, &[0; 8])], "name"),
        ("a size in base 256", vec![patched(file("name"), 124, b"\x80\0\0\0\0\0\0\0\0\0\0\x04")], "name"),
        ("a GNU long name", vec![entry("long", b'L', format!("{long}\0").as_bytes()), file("x")], &long),
        ("a pax path", vec![pax(&[("path", &long), ("mtime", "1")]), file("x")], &long),
        ("a pax size", vec![pax(&[("size", "4")]), patched(file("name"), 124, b"00000000000")], "name"),
        ("a global comment", vec![entry("pax", b'g', b"14 comment=no\n"), file("name")], "name"),
        (
            "a symlink",
            vec![file("dir/real"), patched(entry("o/name", b'2', b""), 157, b"../dir/real")],
            "o/name",
        ),
        ("the second", vec![entry("first", b'0', &[7; 600]), file("name")], "name"),
        ("zeros at the end", vec![file("name"), end], "name"),
        ("one block at the end", vec![file("name"), vec![0; 512]], "name"),
        ("many zeros at the end", vec![file("name"), vec![0; 10_240 * 7 + 100]], "name"),
        ("no padding", vec![file("name")[..516].to_vec()], "name"),
    ] {
        let archive = open(&parts.concat()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(archive.read(name).unwrap(), DATA, "{what}");
    }
}

#[test]
fn what_readers_could_differ_on_is_refused() {
    let file = |name: &str| entry(name, b'0', b"data");
    let gnu = || entry("long", b'L', b"name\0");
    for (bytes, error) in [
        (b"\x1f\x8b\x08".to_vec(), "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd".to_vec(), "compressed with zstd"),
        ([file("a"), file("./a")].concat(), "lists `a` twice"),
        (file("../a"), "unusable name"),
        (file("a/../b"), "unusable name"),
        (file("/a"), "unusable name"),
        (file(""), "unusable name"),
        (file("a")[..514].to_vec(), "announces more than the file holds"),
        (file("a")[..300].to_vec(), "is cut off"),
        ([file("a"), vec![1; 512]].concat(), "has no checksum"),
        ([file("a"), vec![0; 1024], file("b")].concat(), "other than zero after its end, at byte 2048"),
        ([file("a"), vec![0; 512], file("b")].concat(), "other than zero after its end, at byte 1536"),
        ([file("a"), vec![0; 20_000], vec![1]].concat(), "other than zero after its end, at byte 21024"),
        ([file("a"), vec![0; (16 << 20) + 512]].concat(), "more than the limit of 16MiB for zeros after"),
        (
            {
                let mut bytes = file("a");
                bytes[0] = b'b';
                bytes
            },
            "wrong checksum",
        ),
        (patched(file("a"), 257, b"ustar\x0099"), "unknown tar format"),
        (patched(file("a"), 124, b"-0000000004"), "unreadable size"),
        (patched(file("a"), 124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "unreadable size"),
        (patched(file("a"), 124, b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), "announces more"),
        (entry("a", b'S', b""), "of a kind that no image archive has"),
        (entry("a", b'3', b""), "of a kind that no image archive has"),
        ([pax(&[("GNU.sparse.map", "0,1")]), file("a")].concat(), "sparse"),
        ([pax(&[("path", "a"), ("path", "b")]), file("a")].concat(), "malformed pax record"),
        ([pax(&[("path", "")]), file("a")].concat(), "malformed pax record"),
        ([pax(&[("size", "+4")]), file("a")].concat(), "malformed pax record"),
        ([entry("pax", b'x', b"99 path=a\n"), file("a")].concat(), "malformed pax record"),
        ([entry("pax", b'x', b"1 path=a\n"), file("a")].concat(), "malformed pax record"),
        ([entry("pax", b'g', b"10 path=a\n"), file("a")].concat(), "malformed pax record"),
        ([pax(&[("path", "b")]), gnu(), file("a")].concat(), "second extension"),
        ([gnu(), pax(&[("path", "b")]), file("a")].concat(), "second extension"),
        ([gnu(), gnu(), file("a")].concat(), "second extension"),
        (gnu(), "extends an entry that does not follow"),
        (entry("long", b'L', &[b'a'; 65_537]), "for one GNU long name in a tar (plywood.limits.longName)"),
        ([entry("long", b'L', &[b'a'; 5000]), file("a")].concat(), "unusable name"),
    ] {
        let result = open(&bytes).map(|archive| archive.entries).unwrap_err();
        assert!(result.contains(error), "{error}: {result}");
    }
}

#[test]
fn symlinks_are_followed_once_and_not_out_of_the_archive() {
    let link = |name, target: &[u8]| patched(entry(name, b'2', b""), 157, target);
    for target in [&b"../../etc/shadow"[..], b"/etc/shadow", b"missing", b"c", b"a"] {
        let bytes = [link("d/a", target), link("d/c", b"real"), entry("d/real", b'0', b"data")].concat();
        assert!(open(&bytes).unwrap().read("d/a").is_err(), "{target:?}");
    }
}

/// They are kept in memory, and a pax header holds a long one.
#[test]
fn names_and_link_targets_together_are_bounded() {
    let link = |name: &str| [pax(&[("linkpath", &"t".repeat(500))]), entry(name, b'2', b"")].concat();
    let archive = [link("a"), link("b"), entry("c", b'0', b"")].concat();
    let limits = |names| Limits::default().with(Bound::Names, names);
    open_within(&archive, limits(1003)).unwrap();
    let error = open_within(&archive, limits(1002)).unwrap_err();
    assert!(error.starts_with("the tar has more than the limit of 1002 bytes for all names"), "{error}");
}
