use std::io::{self, Read};

use super::fixture::{Header, Tar};
use super::*;
use crate::limits::{Bound, Exceeded};

/// One line an entry: mode, owner, time, path, kind, data.
fn listing(archive: &[u8]) -> Result<Vec<String>, TarError> {
    let mut archive = Archive::new(archive);
    let mut lines = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut data = Vec::new();
        archive.data().read_to_end(&mut data).map_err(|source| TarError::Read { at: 0, source })?;
        assert_eq!(data.len() as u64, entry.size);
        let kind = match &entry.kind {
            Kind::Directory => "directory".to_string(),
            Kind::File => format!("file `{}`", data.escape_ascii()),
            Kind::Symlink(target) => format!("symlink `{}`", target.escape_ascii()),
            Kind::HardLink(target) => format!("hard link {target:?}"),
            Kind::Device => "device".to_string(),
            Kind::Fifo => "fifo".to_string(),
        };
        let a = entry.attributes;
        lines.push(format!("{:o} {}:{} {} {:?} {kind}", a.mode, a.uid, a.gid, a.mtime, entry.path));
    }
    Ok(lines)
}

fn file(name: &[u8]) -> Header {
    Header::new(b'0', name)
}

#[test]
fn archives_are_read() {
    let long = "long/".repeat(30) + "name";
    let prefixed = file(b"name").bytes(345, b"pre/fix");
    let high_mode = file(b"f").bytes(100, b"0104755\0");
    let big_owner = file(b"f").bytes(108, b"\x80\0\0\0\xff\xff\xff\xff").bytes(116, b"      7\0");
    let xattr = Tar::new().pax(&[("SCHILY.xattr.user.a", b"b")]).file("f", b"");
    let all = &[("path", &b"p"[..]), ("size", b"3"), ("uid", b"1"), ("gid", b"2"), ("mtime", b"9.9")];
    let star = format!("644 0:0 0 `{}/f` file ``", "a".repeat(130));
    for (what, archive, expected) in [
        (
            "a time",
            Tar::new().header(file(b"f").mtime(1_700_000_000)).finish(),
            vec!["644 0:0 1700000000 `f` file ``"],
        ),
        ("an empty archive", Tar::new().finish(), vec![]),
        ("nothing at all", vec![], vec![]),
        ("a file", Tar::new().file("a/b", b"data").finish(), vec!["644 0:0 0 `a/b` file `data`"]),
        ("no zero blocks", Tar::new().file("f", b"data").unfinished(), vec!["644 0:0 0 `f` file `data`"]),
        (
            "one zero block",
            Tar::new().file("f", b"").raw(&[0; 512]).unfinished(),
            vec!["644 0:0 0 `f` file ``"],
        ),
        ("zero padding", Tar::new().file("f", b"").raw(&[0; 10_001]).finish(), vec!["644 0:0 0 `f` file ``"]),
        (
            "a prefix as star writes it",
            Tar::new().header(file(b"f").bytes(345, &[b'a'; 130]).bytes(508, b"tar\0")).finish(),
            vec![&star],
        ),
        ("a directory", Tar::new().directory("./d/").finish(), vec!["755 0:0 0 `d` directory"]),
        ("the root", Tar::new().directory("./").finish(), vec!["755 0:0 0 `` directory"]),
        (
            "a V7 directory",
            Tar::new().header(Header::new(0, b"d/").v7()).finish(),
            vec!["644 0:0 0 `d` directory"],
        ),
        (
            "a V7 file",
            Tar::new().entry(Header::new(0, b"f").v7(), b"x").finish(),
            vec!["644 0:0 0 `f` file `x`"],
        ),
        ("a symlink", Tar::new().symlink("s", "../t/").finish(), vec!["777 0:0 0 `s` symlink `../t/`"]),
        ("a hard link", Tar::new().hard_link("h", "./a/f").finish(), vec!["644 0:0 0 `h` hard link `a/f`"]),
        (
            "a character device",
            Tar::new().header(Header::new(b'3', b"c")).finish(),
            vec!["644 0:0 0 `c` device"],
        ),
        ("a block device", Tar::new().header(Header::new(b'4', b"b")).finish(), vec!["644 0:0 0 `b` device"]),
        ("a fifo", Tar::new().header(Header::new(b'6', b"p")).finish(), vec!["644 0:0 0 `p` fifo"]),
        ("a ustar prefix", Tar::new().header(prefixed).finish(), vec!["644 0:0 0 `pre/fix/name` file ``"]),
        ("file type bits", Tar::new().header(high_mode).finish(), vec!["4755 0:0 0 `f` file ``"]),
        ("base-256", Tar::new().header(big_owner).finish(), vec!["644 4294967295:7 0 `f` file ``"]),
        ("a comment for all", Tar::new().entry(Header::new(b'g', b"g"), b"13 comment=x\n").finish(), vec![]),
        ("an xattr", xattr.finish(), vec!["644 0:0 0 `f` file ``"]),
        (
            "pax over header, for data and skip",
            Tar::new().pax(all).header(file(b"h").size(600)).data(b"abc").file("next", b"").finish(),
            vec!["644 1:2 9 `p` file `abc`", "644 0:0 0 `next` file ``"],
        ),
        (
            "a GNU name and link",
            Tar::new()
                .gnu_long(b'L', b"n")
                .gnu_long(b'K', b"t")
                .header(Header::new(b'2', b"x").gnu())
                .finish(),
            vec!["644 0:0 0 `n` symlink `t`"],
        ),
    ] {
        assert_eq!(listing(&archive).unwrap(), expected, "{what}");
    }
    let archive = Tar::new().gnu_long(b'L', long.as_bytes()).header(file(b"x").gnu()).finish();
    assert_eq!(listing(&archive).unwrap(), [format!("644 0:0 0 `{long}` file ``")]);
    let archive = Tar::new().file(&long, b"").finish();
    assert_eq!(listing(&archive).unwrap(), [format!("644 0:0 0 `{long}` file ``")]);
}

#[test]
fn data_that_nobody_reads_is_skipped() {
    let archive = Tar::new().file("a", &[b'x'; 1000]).file("b", b"").finish();
    let mut archive = Archive::new(&archive[..]);
    archive.next_entry().unwrap().unwrap();
    archive.data().read_exact(&mut [0; 10]).unwrap();
    assert_eq!(archive.next_entry().unwrap().unwrap().path.as_bytes(), b"b");
    assert!(archive.next_entry().unwrap().is_none());
}

#[test]
fn the_padding_may_be_missing_where_the_archive_ends() {
    let whole = Tar::new().file("a", b"data").finish();
    assert_eq!(listing(&whole[..516]).unwrap(), listing(&whole).unwrap());
}

type Row<'a> = (&'a str, Vec<u8>, Problem);

/// One row is one archive that must be refused, for this reason.
fn assert_refused(rows: impl IntoIterator<Item = Row<'static>>) {
    for (what, archive, expected) in rows {
        match listing(&archive) {
            Err(TarError::Archive { problem, .. } | TarError::Entry { problem, .. }) => {
                assert_eq!(problem, expected, "{what}");
            }
            Err(TarError::Read { source, .. }) => {
                assert_eq!(
                    (source.kind(), &expected),
                    (io::ErrorKind::UnexpectedEof, &Problem::Truncated),
                    "{what}"
                );
            }
            Ok(lines) => panic!("{what}: read as {lines:?}"),
        }
    }
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    Tar::new().pax(records).header(file(b"f")).finish()
}

#[test]
fn broken_headers_and_ends_are_refused() {
    use Problem::*;
    let tar = Tar::new;
    let f = || tar().file("f", b"data");
    let cut = |archive: Vec<u8>, length: usize| archive[..length].to_vec();
    let number = |field, problem| Number { field, problem };
    let mut checksum = f().finish();
    checksum[0] ^= 1;
    assert_refused([
        ("header cut", cut(f().finish(), 511), Truncated),
        ("data cut", cut(f().finish(), 515), Truncated),
        ("padding cut", cut(f().finish(), 1000), Truncated),
        ("extension cut", cut(tar().pax(&[("a", b"b")]).finish(), 514), Truncated),
        ("claimed size", tar().header(file(b"f").size(1 << 32)).finish(), Truncated),
        ("entry after the end", f().raw(&[0; 1024]).file("g", b"").finish(), AfterEnd),
        ("entry after one zero block", f().raw(&[0; 512]).file("g", b"").finish(), AfterEnd),
        ("garbage after the end", f().raw(&[0; 1024]).raw(b"x").unfinished(), AfterEnd),
        ("checksum", checksum, Checksum),
        ("no tar at all", b"#!/bin/sh\n".repeat(100), Checksum),
        ("unknown magic", tar().header(file(b"f").bytes(257, b"usrat\x0000")).finish(), Magic),
        ("GNU with a prefix", tar().header(file(b"f").gnu().bytes(345, b"a")).finish(), Prefix),
        (
            "GNU sparse with a map",
            tar().header(Header::new(b'S', b"f").gnu().bytes(386, b"0")).finish(),
            Sparse,
        ),
        (
            "GNU with a listing",
            tar().header(Header::new(b'D', b"d").gnu().bytes(345, b"1")).finish(),
            Type(b'D'),
        ),
        (
            "star with a full prefix",
            tar().header(file(b"f").bytes(345, &[b'a'; 131]).bytes(508, b"tar\0")).finish(),
            StarPrefix,
        ),
        ("V7 with a prefix", tar().header(file(b"f").v7().bytes(350, b"a")).finish(), Prefix),
        ("version NUL", tar().header(file(b"f").bytes(263, b"\0\0")).finish(), Magic),
        (
            "negative size",
            tar().header(file(b"f").bytes(124, &[0xff; 12])).finish(),
            number("the size", NumberProblem::Negative),
        ),
        (
            "signed size",
            tar().header(file(b"f").bytes(124, b"-0000000001\0")).finish(),
            number("the size", NumberProblem::Malformed),
        ),
        (
            "size of 2^63",
            tar().header(file(b"f").bytes(124, b"\x80\0\0\0\x80\0\0\0\0\0\0\0")).finish(),
            number("the size", NumberProblem::TooLarge),
        ),
        (
            "size with garbage",
            tar().header(file(b"f").bytes(124, b"1\0garbage\0\0\0")).finish(),
            number("the size", NumberProblem::Malformed),
        ),
        (
            "mode",
            tar().header(file(b"f").bytes(100, b"rwxr-xr-")).finish(),
            number("the mode", NumberProblem::Malformed),
        ),
        (
            "uid of 2^32",
            tar().header(file(b"f").bytes(108, b"\x80\0\0\x01\0\0\0\0")).finish(),
            number("the uid", NumberProblem::TooLarge),
        ),
        (
            "gid",
            tar().header(file(b"f").bytes(116, b"root\0\0\0\0")).finish(),
            number("the gid", NumberProblem::Malformed),
        ),
        (
            "mtime",
            tar().header(file(b"f").bytes(136, b"now\0")).finish(),
            number("the mtime", NumberProblem::Malformed),
        ),
    ]);
}

#[test]
fn unsupported_types_and_data_without_a_file_are_refused() {
    use Problem::*;
    let tar = Tar::new;
    let sparse = PaxProblem::Sparse(b"GNU.sparse.major".to_vec());
    assert_refused([
        ("contiguous file", tar().header(Header::new(b'7', b"f")).finish(), Type(b'7')),
        ("GNU dumpdir", tar().header(Header::new(b'D', b"f").gnu()).finish(), Type(b'D')),
        ("volume label", tar().header(Header::new(b'V', b"f").gnu()).finish(), Type(b'V')),
        ("GNU sparse", tar().header(Header::new(b'S', b"f").gnu()).finish(), Sparse),
        ("pax sparse", pax(&[("GNU.sparse.major", b"1")]), Pax(sparse)),
        ("directory with data", tar().entry(Header::new(b'5', b"d/"), b"data").finish(), UnexpectedData(4)),
        (
            "V7 directory with data",
            tar().entry(Header::new(0, b"d/").v7(), b"data").finish(),
            UnexpectedData(4),
        ),
        (
            "symlink with data",
            tar().entry(Header::new(b'2', b"s").link(b"t"), b"t").finish(),
            UnexpectedData(1),
        ),
        (
            "hard link with data",
            tar().entry(Header::new(b'1', b"h").link(b"t"), b"data").finish(),
            UnexpectedData(4),
        ),
        ("device with data", tar().entry(Header::new(b'3', b"c"), b"data").finish(), UnexpectedData(4)),
        ("symlink with pax size", tar().pax(&[("size", b"1")]).symlink("s", "t").finish(), UnexpectedData(1)),
    ]);
}

#[test]
fn names_that_parsers_may_read_differently_are_refused() {
    use Problem::*;
    let tar = Tar::new;
    assert_refused([
        ("empty name", tar().header(file(b"")).finish(), Name(PathProblem::Empty)),
        ("parent", tar().file("a/../b", b"").finish(), Name(PathProblem::Parent)),
        ("doubled slash", tar().file("a//b", b"").finish(), Name(PathProblem::EmptyComponent)),
        (
            "prefix with slash",
            tar().header(file(b"b").bytes(345, b"a/")).finish(),
            Name(PathProblem::EmptyComponent),
        ),
        ("newline", tar().file("a\nb", b"").finish(), Name(PathProblem::Control)),
        ("NUL in a pax path", pax(&[("path", b"a\0b")]), Name(PathProblem::Control)),
        (
            "NUL in a GNU name",
            tar().gnu_long(b'L', b"a\0b").header(file(b"f")).finish(),
            Name(PathProblem::Control),
        ),
        (
            "two NULs behind a GNU name",
            tar().gnu_long(b'L', b"a\0").header(file(b"f")).finish(),
            Name(PathProblem::Control),
        ),
        ("empty GNU name", tar().gnu_long(b'L', b"").header(file(b"f")).finish(), Name(PathProblem::Empty)),
        ("root as symlink", tar().symlink(".", "/etc").finish(), Root),
        ("root as file", tar().file("./", b"").finish(), Root),
        ("hard link to the root", tar().hard_link("h", "/").finish(), Root),
        ("file with a slash", tar().file("f/", b"").finish(), TrailingSlash),
        ("symlink with a slash", tar().symlink("s/", "t").finish(), TrailingSlash),
        ("hard link upwards", tar().hard_link("h", "../f").finish(), LinkTarget(PathProblem::Parent)),
        ("hard link to nothing", tar().hard_link("h", "").finish(), LinkTarget(PathProblem::Empty)),
        ("symlink to nothing", tar().symlink("s", "").finish(), SymlinkTarget),
        ("symlink with a newline", tar().symlink("s", "a\nb").finish(), SymlinkTarget),
        (
            "symlink of 4096 bytes",
            tar().pax(&[("linkpath", &[b'x'; 4096])]).symlink("s", "").finish(),
            LongSymlinkTarget(Exceeded { bound: Bound::SymlinkTarget, limit: 4095 }),
        ),
    ]);
}

#[test]
fn a_limit_ends_its_message() {
    let tar = Tar::new().pax(&[("linkpath", &[b'x'; 4096])]).symlink("s", "").finish();
    let error = listing(&tar).unwrap_err().to_string();
    assert!(error.ends_with("bytes for one symlink's target (Linux has no longer ones)"), "{error}");
}

#[test]
fn extensions_that_parsers_may_apply_differently_are_refused() {
    use Problem::*;
    let tar = Tar::new;
    let long_record = [b'x'; 1024 * 1024];
    let too_long =
        |size, bound: Bound| ExtensionTooLong { size, exceeded: Exceeded { bound, limit: bound.default() } };
    assert_refused([
        ("pax too long", pax(&[("comment", &long_record)]), too_long(1_048_593, Bound::PaxHeader)),
        (
            "pax claiming 2^40",
            tar().header(Header::new(b'x', b"x").size(1 << 32)).finish(),
            too_long(1 << 32, Bound::PaxHeader),
        ),
        (
            "GNU name too long",
            tar().gnu_long(b'L', &[b'x'; 65_536]).finish(),
            too_long(65_537, Bound::LongName),
        ),
        (
            "pax in GNU format",
            tar().entry(Header::new(b'x', b"x").gnu(), b"6 a=b\n").finish(),
            ExtensionFormat(b'x'),
        ),
        (
            "pax without magic",
            tar().entry(Header::new(b'x', b"x").v7(), b"6 a=b\n").finish(),
            ExtensionFormat(b'x'),
        ),
        (
            "GNU name in POSIX format",
            tar().entry(Header::new(b'L', b"x"), b"n\0").finish(),
            ExtensionFormat(b'L'),
        ),
        (
            "pax, then GNU name",
            tar().pax(&[("path", b"a")]).gnu_long(b'L', b"b").header(file(b"f")).finish(),
            ExtensionConflict,
        ),
        (
            "GNU name, then pax",
            tar().gnu_long(b'L', b"b").pax(&[("path", b"a")]).header(file(b"f")).finish(),
            ExtensionConflict,
        ),
        (
            "two pax headers",
            tar().pax(&[("path", b"a")]).pax(&[("uid", b"1")]).header(file(b"f")).finish(),
            ExtensionConflict,
        ),
        (
            "two GNU names",
            tar().gnu_long(b'L', b"a").gnu_long(b'L', b"b").header(file(b"f")).finish(),
            ExtensionConflict,
        ),
        (
            "global behind pax",
            tar().pax(&[("path", b"a")]).entry(Header::new(b'g', b"g"), b"").header(file(b"f")).finish(),
            ExtensionConflict,
        ),
        ("pax at the end", tar().pax(&[("path", b"a")]).finish(), DanglingExtension),
        ("GNU name at the end", tar().file("f", b"").gnu_long(b'L', b"a").unfinished(), DanglingExtension),
        (
            "GNU name for a V7 file",
            tar().gnu_long(b'L', b"d/").header(Header::new(0, b"d").v7()).finish(),
            OldType,
        ),
        (
            "pax name for a V7 directory",
            tar().pax(&[("path", b"d")]).header(Header::new(0, b"d/")).finish(),
            OldType,
        ),
        ("link name for a file", pax(&[("linkpath", b"a")]), DanglingLink),
        (
            "GNU link name for a file",
            tar().gnu_long(b'K', b"a").header(file(b"f").gnu()).finish(),
            DanglingLink,
        ),
        (
            "global path",
            tar().entry(Header::new(b'g', b"g"), b"9 path=a\n").finish(),
            Pax(PaxProblem::Global(b"path".to_vec())),
        ),
        (
            "a record in the padding",
            tar().header(Header::new(b'x', b"x").size(6)).data(b"6 a=b\n6 c=d\n").finish(),
            ExtensionPadding,
        ),
        (
            "GNU name without NUL",
            tar().entry(Header::new(b'L', b"x").gnu(), b"name").header(file(b"f")).finish(),
            Unterminated,
        ),
        ("nothing as GNU name", tar().entry(Header::new(b'L', b"x").gnu(), b"").finish(), Unterminated),
        ("pax record", tar().entry(Header::new(b'x', b"x"), b"7 a=b\n").finish(), Pax(PaxProblem::Record)),
    ]);
}

#[test]
fn messages_name_the_entry_and_the_place() {
    for (archive, expected) in [
        (
            Tar::new().file("ok", b"x").file("a/../\x1b[31m", b"").finish(),
            "tar entry `a/../\\x1b[31m` at byte 1024: the name contains `..`",
        ),
        (
            Tar::new().file("ok", b"x").pax(&[("size", b"-1")]).finish(),
            "tar: pax header: malformed value of `size` at byte 1024",
        ),
        (
            Tar::new().header(Header::new(7, b"f")).finish(),
            "tar entry `f` at byte 0: unsupported entry type `\\x07`",
        ),
    ] {
        assert_eq!(listing(&archive).unwrap_err().to_string(), expected);
    }
}

/// No change of a byte makes the reader panic, loop or read more than there is.
#[test]
fn damaged_archives_never_panic() {
    let good = Tar::new()
        .directory("d")
        .file("d/f", b"data")
        .pax(&[("path", b"d/p"), ("size", b"3"), ("SCHILY.xattr.user.a", b"x")])
        .header(file(b"x"))
        .data(b"abc")
        .gnu_long(b'L', b"name")
        .header(file(b"x").gnu())
        .symlink("s", "t")
        .finish();
    for at in 0..good.len() {
        for value in [0, 1, b' ', b'/', b'7', 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            if let Ok(lines) = listing(&bad) {
                assert!(lines.len() <= 5, "byte {at} as {value}: {lines:?}");
            }
        }
        let _ = listing(&good[..at]);
    }
}
