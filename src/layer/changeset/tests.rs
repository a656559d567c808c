use super::*;
use crate::layer::squashfs::FileId;
use crate::layer::tar::fixture::{Header, Tar};
use crate::layer::tree::{Content, Directory};
use crate::limits::Limits;

/// Reads archives, lowest first, as the builder does, and keeps the contents.
fn read(archives: &[Tar], hard_links: Permission) -> Result<(Stack<'static>, Vec<Vec<u8>>), ChangesetError> {
    let mut stack = Stack::new(Limits::default(), hard_links);
    let mut contents = Vec::new();
    for archive in archives.iter().rev() {
        stack.read(&archive.clone().finish()[..], &mut |_, size, data| {
            let mut content = Vec::new();
            data.read_to_end(&mut content)?;
            assert_eq!(content.len() as u64, size);
            contents.push(content);
            Ok(FileId::new(contents.len() as u32 - 1))
        })?;
    }
    Ok((stack, contents))
}

/// `path mode changeset content`, a line each.
fn list(directory: &Directory, prefix: &str, contents: &[Vec<u8>], lines: &mut Vec<String>) {
    for (name, node) in directory {
        let path = format!("{prefix}{}", name.escape_ascii());
        let content = match &node.content {
            Content::Directory(_) => "/".to_string(),
            Content::File(id) => {
                let content = (0..).zip(contents).find(|(number, _)| FileId::new(*number) == *id).unwrap().1;
                format!("= {}", content.escape_ascii())
            }
            Content::Symlink(target) => format!("-> {}", target.escape_ascii()),
            Content::HardLink(target) => format!("=> {}", target.escape_ascii()),
            Content::Device => "device".into(),
            Content::Fifo => "fifo".into(),
        };
        let changeset = node.changeset.unwrap();
        lines.push(format!("{path} {:o} {changeset} {content}", node.attributes.mode));
        if let Some(children) = node.children() {
            list(children, &format!("{path}/"), contents, lines);
        }
    }
}

fn flatten(archives: &[Tar], hard_links: Permission) -> Result<Vec<String>, String> {
    let (stack, contents) = read(archives, hard_links).map_err(|error| error.to_string())?;
    let tree = stack.flatten().map_err(|error| error.to_string())?;
    let mut lines = Vec::new();
    list(&tree.root, "", &contents, &mut lines);
    Ok(lines)
}

fn assert_flattens(rows: &[(&str, &[Tar], &[&str])]) {
    for (what, archives, expected) in rows {
        // What is skipped because it is hidden must not change the result.
        for hard_links in [Permission::Refuse, Permission::Allow] {
            let lines = flatten(archives, hard_links).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(lines, *expected, "{what}");
        }
    }
}

fn tar() -> Tar {
    Tar::new()
}

/// `a` with a file and a directory in it.
fn lower() -> Tar {
    tar().directory_with("a", 0o700).file("a/f", b"1").directory("a/d").file("a/d/g", b"1")
}

#[test]
fn upper_changesets_win() {
    assert_flattens(&[
        ("no changeset", &[], &[]),
        ("one", &[lower()], &["a 700 0 /", "a/d 755 0 /", "a/d/g 644 0 = 1", "a/f 644 0 = 1"]),
        ("a file over a file", &[tar().file("f", b"1"), tar().file("f", b"2")], &["f 644 1 = 2"]),
        ("a file over a directory", &[lower(), tar().file("a", b"2")], &["a 644 1 = 2"]),
        ("a symlink over a directory", &[lower(), tar().symlink("a", "/b")], &["a 777 1 -> /b"]),
        ("a directory over a file", &[tar().file("a", b"1"), tar().directory("a")], &["a 755 1 /"]),
        (
            "a directory over a symlink",
            &[tar().symlink("a", "/b"), tar().directory("a").file("a/f", b"2")],
            &["a 755 1 /", "a/f 644 1 = 2"],
        ),
        (
            "a directory over a directory: its attributes, all children",
            &[lower(), tar().directory("a").file("a/h", b"2")],
            &["a 755 1 /", "a/d 755 0 /", "a/d/g 644 0 = 1", "a/f 644 0 = 1", "a/h 644 1 = 2"],
        ),
        (
            "an implied directory over a directory changes nothing",
            &[tar().directory_with("a", 0o700), tar().file("a/f", b"2")],
            &["a 700 0 /", "a/f 644 1 = 2"],
        ),
        (
            "implied directories",
            &[tar().file("a/b/f", b"1")],
            &["a 755 0 /", "a/b 755 0 /", "a/b/f 644 0 = 1"],
        ),
        (
            "a directory behind its children, and twice",
            &[tar().file("a/f", b"1").directory_with("a", 0o711).directory_with("a", 0o700)],
            &["a 700 0 /", "a/f 644 0 = 1"],
        ),
        (
            "a file, then nothing, then a directory",
            &[tar().file("a", b"1"), tar(), tar().directory("a"), tar().file("a/f", b"3")],
            &["a 755 2 /", "a/f 644 3 = 3"],
        ),
        (
            "names that share a start",
            &[tar().file("a.b", b"1").file("a/c", b"1").file("ab", b"1"), tar().file("a/b", b"2")],
            &["a 755 0 /", "a/b 644 1 = 2", "a/c 644 0 = 1", "a.b 644 0 = 1", "ab 644 0 = 1"],
        ),
        ("the root is no entry", &[tar().directory_with("./", 0o700).file("./f", b"1")], &["f 644 0 = 1"]),
        (
            "special files are kept to be reported",
            &[tar().header(Header::new(b'6', b"p")).header(Header::new(b'3', b"c"))],
            &["c 644 0 device", "p 644 0 fifo"],
        ),
    ]);
}

#[test]
fn whiteouts_act_on_lower_changesets_only() {
    let opaque = || tar().file("a/.wh..wh..opq", b"");
    assert_flattens(&[
        (
            "a whiteout of a file",
            &[lower(), tar().file("a/.wh.f", b"")],
            &["a 700 0 /", "a/d 755 0 /", "a/d/g 644 0 = 1"],
        ),
        ("a whiteout of a directory", &[lower(), tar().file(".wh.a", b"")], &[]),
        (
            "a whiteout before its own entry",
            &[tar().file("f", b"1"), tar().file(".wh.f", b"").file("f", b"2")],
            &["f 644 1 = 2"],
        ),
        (
            "a whiteout behind its own entry",
            &[tar().file("f", b"1"), tar().file("f", b"2").file(".wh.f", b"")],
            &["f 644 1 = 2"],
        ),
        (
            "a whiteout of a directory that is made anew",
            &[lower(), tar().directory("a").file(".wh.a", b"").file("a/h", b"2")],
            &["a 755 1 /", "a/h 644 1 = 2"],
        ),
        (
            "a whiteout of what is in no lower one",
            &[tar().file(".wh.f", b"").file("f", b"1")],
            &["f 644 0 = 1"],
        ),
        (
            "a whiteout of what is missing",
            &[lower(), tar().file("x/.wh.y", b"")],
            &["a 700 0 /", "a/d 755 0 /", "a/d/g 644 0 = 1", "a/f 644 0 = 1"],
        ),
        ("a whiteout below a file", &[tar().file("a", b"1"), tar().file("a/.wh.f", b"")], &["a 644 0 = 1"]),
        (
            "markers in a directory that takes a symlink's place",
            &[
                tar().directory("b").file("b/f", b"1").symlink("a", "b"),
                tar().directory("a").file("a/.wh..wh..opq", b"").file("a/.wh.f", b""),
            ],
            &["a 755 1 /", "b 755 0 /", "b/f 644 0 = 1"],
        ),
        (
            "markers below a symlink that is whited out",
            &[tar().file("b/f", b"1").symlink("a", "b"), tar().file("a/.wh.f", b"").file(".wh.a", b"")],
            &["b 755 0 /", "b/f 644 0 = 1"],
        ),
        (
            "a whiteout that a higher one undoes",
            &[tar().file("f", b"1"), tar().file(".wh.f", b""), tar().file("f", b"3")],
            &["f 644 2 = 3"],
        ),
        ("a whiteout that is a directory", &[tar().file("f", b"1"), tar().directory(".wh.f")], &[]),
        (
            "an opaque directory",
            &[lower(), tar().directory("a").file("a/.wh..wh..opq", b"").file("a/h", b"2")],
            &["a 755 1 /", "a/h 644 1 = 2"],
        ),
        (
            "an opaque marker at the end",
            &[lower(), tar().file("a/h", b"2").file("a/.wh..wh..opq", b"")],
            &["a 700 0 /", "a/h 644 1 = 2"],
        ),
        ("an opaque marker alone", &[lower(), opaque()], &["a 700 0 /"]),
        ("an opaque root", &[lower(), tar().file(".wh..wh..opq", b"").file("h", b"2")], &["h 644 1 = 2"]),
        (
            "directories that only hidden entries imply",
            &[
                tar().file("a/b/f", b"1").file("c/d/f", b"1"),
                tar().file("a/.wh.b", b"").file("c/.wh..wh..opq", b""),
            ],
            &["a 755 0 /", "c 755 0 /"],
        ),
        (
            "a directory that hidden entries imply and an entry describes",
            &[
                tar().file("a/f", b"1").directory_with("a", 0o700).file("a/g", b"1"),
                tar().file("a/.wh.f", b"").file("a/.wh.g", b""),
            ],
            &["a 700 0 /"],
        ),
        ("an opaque file", &[tar().file("a", b"1"), opaque()], &["a 644 0 = 1"]),
        (
            "two opaque markers",
            &[lower(), opaque().file("a/x", b"2"), opaque().file("a/y", b"3")],
            &["a 700 0 /", "a/y 644 2 = 3"],
        ),
        (
            "what aufs left",
            &[tar().file(".wh..wh.plnk/1.2", b"x").directory(".wh..wh.orph").file(".wh..wh.aufs", b"")],
            &[],
        ),
        (
            "a directory with a whiteout's name",
            &[tar().file(".wh.x/y", b"1")],
            &[".wh.x 755 0 /", ".wh.x/y 644 0 = 1"],
        ),
    ]);
}

#[test]
fn hidden_content_is_not_stored() {
    let count = |archives: &[Tar]| read(archives, Permission::Refuse).unwrap().1.len();
    for (what, upper, stored) in [
        ("nothing", tar(), 2),
        ("a file", tar().file("a/f", b"2"), 2),
        ("a whiteout", tar().file("a/.wh.d", b""), 1),
        ("a whiteout of the parent", tar().file(".wh.a", b""), 0),
        ("an opaque parent", tar().file("a/.wh..wh..opq", b""), 0),
        ("an opaque root", tar().file(".wh..wh..opq", b""), 0),
        ("a symlink for the parent", tar().symlink("a", "b"), 0),
        ("a whiteout of a longer name", tar().file("a/.wh.dd", b""), 2),
    ] {
        assert_eq!(count(&[lower(), upper]), stored, "{what}");
    }
    assert_eq!(count(&[lower(), tar().file(".wh.a", b""), tar(), tar()]), 0, "from further above");
}

#[test]
fn hard_links_become_names_of_the_same_file() {
    let base = || tar().file_with("a", 0o755, b"1");
    for (what, archives, expected) in [
        ("in one changeset", vec![base().hard_link("b", "a")], vec!["a 755 0 = 1", "b 755 0 = 1"]),
        (
            "a chain",
            vec![base().hard_link("b", "a").hard_link("c", "b")],
            vec!["a 755 0 = 1", "b 755 0 = 1", "c 755 0 = 1"],
        ),
        (
            "to a lower changeset",
            vec![base(), tar().hard_link("b", "./a")],
            vec!["a 755 0 = 1", "b 755 1 = 1"],
        ),
        (
            "to what is replaced later",
            vec![base().hard_link("b", "a"), tar().file("a", b"2")],
            vec!["a 644 1 = 2", "b 755 0 = 1"],
        ),
        (
            "to what is removed later",
            vec![base().hard_link("b", "a"), tar().file(".wh.a", b"")],
            vec!["b 755 0 = 1"],
        ),
        (
            "to what stands behind it",
            vec![tar().hard_link("b", "a").file("a", b"1")],
            vec!["a 644 0 = 1", "b 644 0 => a"],
        ),
        ("to what is missing", vec![tar().hard_link("b", "a")], vec!["b 644 0 => a"]),
        ("to itself", vec![tar().hard_link("b", "b")], vec!["b 644 0 => b"]),
        ("to a directory", vec![tar().directory("d").hard_link("b", "d")], vec!["b 644 0 => d", "d 755 0 /"]),
        (
            "to a symlink",
            vec![tar().symlink("s", "a").hard_link("b", "s")],
            vec!["b 644 0 => s", "s 777 0 -> a"],
        ),
        (
            "through a symlink",
            vec![tar().symlink("s", "d").file("d/f", b"1").hard_link("b", "s/f")],
            vec!["b 644 0 => s/f", "d 755 0 /", "d/f 644 0 = 1", "s 777 0 -> d"],
        ),
        (
            "to what it whites out",
            vec![base(), tar().file(".wh.a", b"").hard_link("b", "a")],
            vec!["b 644 1 => a"],
        ),
    ] {
        assert_eq!(flatten(&archives, Permission::Allow).unwrap(), expected, "{what}");
    }
    let refused = flatten(&[base().hard_link("b", "a")], Permission::Refuse);
    assert_eq!(refused.unwrap(), ["a 755 0 = 1", "b 644 0 => a"]);
}

#[test]
fn changesets_that_tools_unpack_differently_are_refused() {
    for (archives, expected) in [
        (vec![tar().file("a/.wh.", b"")], "`a/.wh.` is a whiteout of nothing"),
        (vec![tar().file(".wh..", b"")], "`.wh..` is a whiteout of nothing"),
        (vec![tar().file("a/.wh...", b"")], "`a/.wh...` is a whiteout of nothing"),
        (vec![tar().file("f", b"1").file("./f", b"2")], "`f` is in the changeset more than once"),
        (vec![tar().directory("f").symlink("f", "x")], "`f` is in the changeset more than once"),
        (vec![tar().symlink("f", "x").directory("f")], "`f` is in the changeset more than once"),
        (vec![tar().directory("f").directory("f").file("f", b"")], "`f` is in the changeset more than once"),
        (
            vec![tar().symlink("s", "/etc").file("s/passwd", b"")],
            "`s/passwd` is below something that is not a directory in the same changeset",
        ),
        (
            vec![tar().file("s/a/b", b"").file("s", b"")],
            "`s/a/b` is below something that is not a directory in the same changeset",
        ),
        (
            vec![tar().symlink("s", "/etc"), tar().file("s/passwd", b"")],
            "changeset 1 has entries below `s`, which is not a directory in changeset 0",
        ),
        (
            vec![tar().file("a/f", b""), tar(), tar().file("a/f/g/h", b"")],
            "changeset 2 has entries below `a/f`, which is not a directory in changeset 0",
        ),
        (
            vec![tar().symlink("s", "/etc").file("s/passwd", b""), tar().file(".wh.s", b"")],
            "`s/passwd` is below something that is not a directory in the same changeset",
        ),
        (
            vec![tar().symlink("s", "/etc"), tar().file("s/passwd", b""), tar().file(".wh..wh..opq", b"")],
            "changeset 1 has entries below `s`, which is not a directory in changeset 0",
        ),
        (
            vec![tar().symlink("a/s", "b").file("a/b/f", b""), tar().file("a/s/d/.wh.f", b"")],
            "changeset 1 has entries below `a/s`, which is not a directory in changeset 0",
        ),
        (
            vec![tar().symlink("s", "b").file("b/f", b""), tar().file("s/.wh..wh..opq", b"")],
            "changeset 1 has entries below `s`, which is not a directory in changeset 0",
        ),
        (
            vec![
                tar().symlink("s", "b").file("b/f", b""),
                tar().file("s/.wh.f", b""),
                tar().file(".wh.s", b""),
            ],
            "changeset 1 has entries below `s`, which is not a directory in changeset 0",
        ),
        (
            vec![tar().symlink("s", "b").file("s/d/.wh.f", b"")],
            "the changeset has whiteouts below `s`, which is not a directory in it",
        ),
        (
            vec![tar().file("s/.wh..wh..opq", b"").symlink("s", "b")],
            "the changeset has whiteouts below `s`, which is not a directory in it",
        ),
        (vec![tar().file("a\nb", b"")], "tar entry `a\\nb` at byte 0: the name has control characters"),
    ] {
        assert_eq!(flatten(&archives, Permission::Refuse).unwrap_err(), expected);
    }
}

#[test]
fn kernel_modules_are_known_by_machine() {
    let elf = |machine: u8| [&b"\x7fELF\x02\x01"[..], &[0; 10], &[1, 0, machine, 0], b"rest"].concat();
    let archives = [tar()
        .file("rootfs/lib/modules/6.1/a.ko", &elf(62))
        .file("rootfs/usr/lib/modules/6.1/b/c.ko", &elf(183))
        .file("rootfs/usr/lib/modules/6.1/text.ko", b"short")
        .file("rootfs/usr/lib/modules/6.1/a.ko.xz", b"")
        .file("rootfs/usr/local/d.ko", &elf(62))];
    let (stack, contents) = read(&archives, Permission::Refuse).unwrap();
    assert_eq!(contents, [elf(62), elf(183), b"short".to_vec(), vec![], elf(62)]);
    let modules = stack.flatten().unwrap().modules;
    let machines: Vec<_> = modules.iter().map(|(id, machine)| (*id, machine.to_string())).collect();
    let expected = ["amd64", "arm64", "ELF machine 0", "ELF machine 0"].map(str::to_string);
    assert_eq!(machines, [0, 1, 2, 3].map(FileId::new).into_iter().zip(expected).collect::<Vec<_>>());
}

#[test]
fn memory_is_limited_for_the_whole_image() {
    let deep = "d/".repeat(127) + "f";
    let long = "x".repeat(99);
    let entries = |value| Limits::default().with(Bound::Entries, value);
    let names = |value| Limits::default().with(Bound::Names, value);
    let bytes = |value| Limits::default().with(Bound::ImageBytes, value);
    let changeset = |value| Limits::default().with(Bound::ChangesetBytes, value);
    let two = || vec![tar().file("a", b"abc"), tar().file("b", b"abc")];
    for (what, limits, archives, fits) in [
        ("entries", entries(4), vec![lower()], true),
        ("one entry more", entries(3), vec![lower()], false),
        ("over all changesets", entries(7), vec![lower(), lower()], false),
        ("implied directories", entries(127), vec![tar().file(&deep, b"")], false),
        ("names", names(99), vec![tar().file(&long, b"")], true),
        ("longer names", names(98), vec![tar().file(&long, b"")], false),
        ("targets", names(99), vec![tar().symlink("s", &long)], false),
        ("whiteouts", names(90), vec![tar().file(&format!(".wh.{}", &long[4..]), b"")], false),
        ("xattrs", names(99), vec![tar().pax(&[("SCHILY.xattr.a", &[0; 99])]).file("f", b"")], false),
        (
            "pax headers",
            Limits::default().with(Bound::PaxHeader, 512),
            vec![tar().pax(&[("comment", &[b'x'; 512])]).file("f", b"")],
            false,
        ),
        ("bytes of each changeset", changeset(3), two(), true),
        ("one byte more", changeset(2), two(), false),
        ("bytes of all changesets", bytes(6), two(), true),
        ("one byte more of all", bytes(5), two(), false),
        // No data follows: the header's claim is enough.
        ("claimed bytes", bytes(6), vec![tar().header(Header::new(b'0', b"f").size(7))], false),
    ] {
        let mut stack = Stack::new(limits, Permission::Refuse);
        let result = archives
            .into_iter()
            .try_for_each(|archive| stack.read(&archive.finish()[..], &mut |_, _, _| Ok(FileId::new(0))));
        assert_eq!(result.is_ok(), fits, "{what}");
    }
}
