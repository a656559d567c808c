//! Modules made by hand, whole and broken; whole kernels are compared with
//! depmod's own files in `tests/depmod.rs`.

use std::fs::{self, File};
use std::os::fd::AsFd;

use super::elf::{ElfError, Facts};
use super::*;

/// A module with these sections: name and content.
fn elf(wide: bool, big: bool, sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let number = |value: usize, size: usize| {
        let bytes = (value as u64).to_le_bytes();
        let mut bytes = bytes[..size].to_vec();
        if big {
            bytes.reverse();
        }
        bytes
    };
    let word = if wide { 8 } else { 4 };
    let header_size = if wide { 64 } else { 52 };
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut body = Vec::new();
    let mut table = vec![0; if wide { 64 } else { 40 }];
    let mut add = |name: usize, content: &[u8], body: &mut Vec<u8>| {
        let mut entry = [number(name, 4), number(1, 4), vec![0; 2 * word]].concat();
        entry.extend([number(header_size + body.len(), word), number(content.len(), word)].concat());
        entry.resize(if wide { 64 } else { 40 }, 0);
        table.extend(entry);
        body.extend(content);
    };
    let mut places = Vec::new();
    for (name, _) in sections {
        places.push(names.len());
        names.extend([name.as_bytes(), b"\0"].concat());
    }
    add(1, &names, &mut body);
    for ((_, content), place) in sections.iter().zip(places) {
        add(place, content, &mut body);
    }
    let mut file = [b"\x7fELF", &[1 + u8::from(wide), 1 + u8::from(big), 1][..], &[0; 9]].concat();
    file.resize(if wide { 0x28 } else { 0x20 }, 0);
    file.extend(number(header_size + body.len(), word));
    file.resize(if wide { 0x3a } else { 0x2e }, 0);
    let size = if wide { 64 } else { 40 };
    file.extend([number(size, 2), number(sections.len() + 2, 2), number(1, 2)].concat());
    [file, body, table].concat()
}

/// A little endian module of 64 bits that exports, needs and says these.
fn module(exports: &[&str], needs: &[&str], info: &[&str]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut symbols = vec![0; 24];
    for name in needs {
        symbols.extend((strings.len() as u32).to_le_bytes());
        symbols.extend([0; 20]);
        strings.extend([name.as_bytes(), b"\0"].concat());
    }
    let joined = |texts: &[&str]| texts.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
    elf(
        true,
        false,
        &[
            (".modinfo", joined(info)),
            ("__ksymtab_strings", joined(exports)),
            (".strtab", strings),
            (".symtab", symbols),
        ],
    )
}

#[test]
fn facts_are_read_in_either_class_and_byte_order() {
    for (wide, big) in [(true, false), (true, true), (false, false), (false, true)] {
        let number = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let symbol = |name: u32, section: u16| match wide {
            true => [&number(name)[..], &[0; 2], &half(section), &[0; 16]].concat(),
            false => [&number(name)[..], &[0; 10], &half(section)].concat(),
        };
        let mut version = vec![0; if wide { 8 } else { 4 }];
        version.extend(b"module_layout\0");
        version.resize(64, 0);
        let symbols = [symbol(0, 0), symbol(1, 0), symbol(8, 3), symbol(20, 3)].concat();
        let bytes = elf(
            wide,
            big,
            &[
                (".strtab", b"\0needed\0__crc_given\0local\0".to_vec()),
                (".symtab", symbols),
                ("__versions", version),
                ("__ksymtab_strings", b"not\0looked\0at\0".to_vec()),
                (".modinfo", b"\0alias=a-b\0\0alias=c=d\0vermagic=6.1 SMP \0bare".to_vec()),
            ],
        );
        let facts = Facts::read(&bytes).unwrap();
        assert_eq!(facts.needs, [b"needed".to_vec(), b"module_layout".to_vec()]);
        assert_eq!(facts.exports, [b"given".to_vec()]);
        assert_eq!(facts.values("alias").collect::<Vec<_>>(), [&b"a-b"[..], b"c=d"]);
        assert_eq!((facts.misfit("6.1"), facts.misfit("6.2")), (None, Some(&b"6.1 SMP "[..])));
        assert!(facts.has_versions);
        assert_eq!(facts.values("bare").collect::<Vec<_>>(), [b""]);
    }
}

#[test]
fn what_is_no_module_is_refused() {
    let good = module(&["e"], &["n"], &["license=GPL"]);
    let with = |at: usize, bytes: &[u8]| {
        let mut broken = good.clone();
        broken[at..at + bytes.len()].copy_from_slice(bytes);
        broken
    };
    for (name, bytes, expected) in [
        ("empty", vec![], ElfError::NotElf),
        ("compressed", b"\xfd7zXZ\0 and so on".to_vec(), ElfError::NotElf),
        ("only the magic", b"\x7fELF".to_vec(), ElfError::UnknownForm),
        ("class 3", with(4, &[3]), ElfError::UnknownForm),
        ("byte order 0", with(5, &[0]), ElfError::UnknownForm),
        ("half a header", good[..40].to_vec(), ElfError::Header),
        ("sections of another size", with(0x3a, &[40]), ElfError::Sections),
        ("sections behind the end", with(0x28, &[0xff; 8]), ElfError::Sections),
        ("more sections than there are", with(0x3c, &[0xff; 2]), ElfError::Sections),
        ("cut short", good[..good.len() - 1].to_vec(), ElfError::Sections),
        ("names in no section", with(0x3e, &[0xff; 2]), ElfError::Names),
    ] {
        assert_eq!(Facts::read(&bytes), Err(expected), "{name}");
    }
}

#[test]
fn no_damage_is_read_past() {
    let good = module(&["e", "f"], &["n", "m"], &["alias=x", "depends="]);
    for at in 0..good.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut damaged = good.clone();
            damaged[at] = byte;
            let _ = Facts::read(&damaged);
        }
    }
    for length in 0..good.len() {
        Facts::read(&good[..length]).unwrap_err();
    }
}

#[test]
fn a_module_is_for_the_kernel_that_its_vermagic_names() {
    for (vermagic, has_versions, fits) in [
        ("6.1.0-1-amd64 SMP preempt mod_unload modversions ", false, true),
        ("6.1.0-2-amd64 SMP preempt mod_unload modversions ", false, false),
        ("6.1.0-2-amd64 SMP preempt mod_unload modversions ", true, true),
        ("6.1.0-2-amd64 SMP preempt mod_unload ", true, false),
        ("6.1.0-1-amd64", false, true),
        ("6.1.0-1", false, false),
        ("", false, false),
    ] {
        let info = vec![(b"vermagic".to_vec(), vermagic.as_bytes().to_vec())];
        let facts = Facts { info, has_versions, ..Facts::default() };
        assert_eq!(facts.misfit("6.1.0-1-amd64"), (!fits).then_some(vermagic.as_bytes()), "{vermagic}");
    }
    assert_eq!(Facts::default().misfit("6.1.0-1-amd64"), None);
}

#[test]
fn names_that_many_symbols_share_do_not_fill_memory() {
    let name = [b"\0".as_slice(), &[b'n'; 1000], b"\0"].concat();
    let symbol = [&1_u32.to_le_bytes()[..], &[0; 20]].concat();
    for (symbols, expected) in [(20, 20), (2000, 0)] {
        let table = [vec![0; 24], symbol.repeat(symbols)].concat();
        let bytes =
            elf(true, false, &[(".strtab", name.clone()), (".symtab", table), ("pad", vec![0; 20_000])]);
        assert_eq!(Facts::read(&bytes).unwrap().needs.len(), expected);
    }
    let endless = elf(true, false, &[(".strtab", vec![b'n'; 5000]), (".symtab", symbol.repeat(2))]);
    assert_eq!(Facts::read(&endless).unwrap().needs.len(), 0);
}

/// Files of a base and a layer, as the files of an index.
fn indexes(base: &[(&str, Vec<u8>)], layer: &[(&str, Vec<u8>)]) -> Option<HashMap<&'static str, String>> {
    let directory = tempfile::tempdir().unwrap();
    for (root, files) in [("layer", layer), ("base", base)] {
        let modules = directory.path().join(root).join("usr/lib/modules/6.1");
        fs::create_dir_all(&modules).unwrap();
        for (name, content) in files {
            fs::create_dir_all(modules.join(name).parent().unwrap()).unwrap();
            fs::write(modules.join(name), content).unwrap();
        }
    }
    let roots = ["layer", "base"].map(|root| File::open(directory.path().join(root)).unwrap());
    let made = index(&roots.each_ref().map(AsFd::as_fd), "6.1").unwrap()?;
    Some(made.into_iter().map(|(name, text)| (name, String::from_utf8_lossy(&text).into_owned())).collect())
}

#[test]
fn a_layers_module_is_added_to_what_the_base_has() {
    let base = [
        ("kernel/a.ko", b"not read".to_vec()),
        ("modules.dep", b"kernel/a.ko:\n".to_vec()),
        ("modules.symbols", b"# Comment\nalias symbol:of_a a\n".to_vec()),
        ("modules.alias", b"alias pci:v-x a\n".to_vec()),
        ("modules.softdep", b"softdep a pre: b c\n".to_vec()),
        ("modules.order", b"kernel/a.ko\n".to_vec()),
    ];
    let info = ["alias=devname:new/node", "alias=char-major-10-229", "softdep=post: d", "weakdep=e"];
    let layer = [
        ("extra/my-b.ko", module(&["of_b"], &["of_a", "of_nobody"], &info)),
        ("extra/broken.ko", b"\x7fELF".to_vec()),
        ("modules.order", b"extra/my-b.ko\n".to_vec()),
    ];
    assert_eq!(indexes(&base, &[]), None);
    let made = indexes(&base, &layer).unwrap();
    for (name, expected) in [
        ("modules.dep", "kernel/a.ko:\nextra/broken.ko:\nextra/my-b.ko: kernel/a.ko\n"),
        (
            "modules.softdep",
            "# Soft dependencies extracted from modules themselves.\nsoftdep a pre: b c\nsoftdep my_b post: d\n",
        ),
        ("modules.devname", "# Device nodes to trigger on-demand module loading.\nmy_b new/node c10:229\n"),
        ("modules.order", "kernel/a.ko\n"),
    ] {
        assert_eq!(made[name], expected, "{name}");
    }
    assert!(made["modules.symbols"].contains("alias symbol:of_a a\n"));
    assert!(made["modules.symbols"].contains("alias symbol:of_b my_b\n"));
    assert!(
        made["modules.alias"]
            .ends_with("alias pci:v-x a\nalias devname:new/node my_b\nalias char-major-10-229 my_b\n")
    );
    // The base's depmod does not write them, so its modprobe does not know them.
    assert!(!made.contains_key("modules.weakdep"));
    assert!(indexes(&[], &layer).unwrap()["modules.weakdep"].ends_with("weakdep my_b e\n"));
}

#[test]
fn a_module_of_the_base_is_read_again_when_what_it_rests_on_changes() {
    let base = [
        ("kernel/a.ko", module(&["of_a"], &[], &[])),
        ("kernel/user.ko", module(&[], &["of_a"], &[])),
        ("modules.dep", b"kernel/a.ko:\nkernel/user.ko: kernel/a.ko\n".to_vec()),
        ("modules.symbols", b"alias symbol:of_a a\n".to_vec()),
        ("modules.order", b"kernel/a.ko\nkernel/user.ko\n".to_vec()),
    ];
    for (name, path, exports, expected) in [
        ("replaced", "extra/a.ko", "of_a", "extra/a.ko"),
        ("replaced without the symbol", "extra/a.ko", "other", ""),
        ("the symbol has a second owner", "extra/z.ko", "of_a", "extra/z.ko"),
        ("another module", "extra/z.ko", "other", "kernel/a.ko"),
    ] {
        let made = indexes(&base, &[(path, module(&[exports], &[], &[]))]).unwrap();
        let line = made["modules.dep"].lines().find_map(|line| line.strip_prefix("kernel/user.ko:")).unwrap();
        assert_eq!(line.trim(), expected, "{name}");
    }
}

#[test]
fn modules_in_a_cycle_are_listed_all_the_same() {
    let layer =
        [("a.ko", module(&["of_a"], &["of_b"], &[])), ("b.ko", module(&["of_b"], &["of_a", "of_b"], &[]))];
    let mut lines: Vec<_> = indexes(&[], &layer).unwrap()["modules.dep"].lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["a.ko: b.ko", "b.ko: a.ko"]);
}

#[test]
fn names_are_those_that_depmod_takes() {
    for (path, is_one, name, plain) in [
        ("kernel/fs/ext4.ko", true, "ext4", "kernel/fs/ext4.ko"),
        ("dm-mod.ko.xz", true, "dm_mod", "dm-mod.ko"),
        ("x/a.b.ko.zst", true, "a", "x/a.b.ko"),
        ("x/.ko", false, "", "x/.ko"),
        ("modules.dep", false, "modules", "modules.dep"),
    ] {
        let path = path.as_bytes();
        assert_eq!(
            (is_module(path), module_name(path), uncompressed(path)),
            (is_one, name.into(), plain.as_bytes())
        );
    }
}
