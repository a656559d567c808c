use std::io::Read;

use super::*;
use crate::layer::changeset::Stack;
use crate::layer::squashfs::FileId;
use crate::layer::tar::fixture::{Header, Tar};
use crate::layer::tree::Directory;
use crate::limits::Limits;

fn tar() -> Tar {
    Tar::new()
}

/// What every extension has.
fn extension() -> Tar {
    tar().file("manifest.yaml", b"version: v1alpha1").directory("rootfs")
}

fn flatten(archives: Vec<Tar>, rules: &Rules) -> ImageTree {
    let mut stack = Stack::new(Limits::default(), rules.hard_links);
    let mut contents = Vec::new();
    for archive in archives.into_iter().rev() {
        let mut store = |_: &_, _: u64, data: &mut dyn Read| {
            let mut content = Vec::new();
            data.read_to_end(&mut content)?;
            let known = contents.iter().position(|held| *held == content);
            let number = known.unwrap_or(contents.len());
            contents.push(content);
            Ok(FileId::new(number as u32))
        };
        stack.read(&archive.finish()[..], &mut store).unwrap();
    }
    stack.flatten().unwrap()
}

fn host() -> RulesHost {
    RulesHost { kernel_release: Some("6.18.2".into()), machine: ElfMachine::of_architecture("amd64") }
}

/// The lines of the violations, none if the image passes.
fn violations(archives: Vec<Tar>, rules: &Rules) -> Vec<String> {
    let mut image = flatten(archives, rules);
    match check(&mut image, rules, &host()) {
        Ok(()) => Vec::new(),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    }
}

fn elf(machine: u8) -> Vec<u8> {
    [&b"\x7fELF\x02\x01"[..], &[0; 10], &[1, 0, machine, 0]].concat()
}

fn with(change: impl Fn(&mut Rules)) -> Rules {
    let mut rules = Rules::default();
    change(&mut rules);
    rules
}

#[test]
fn good_extensions_pass() {
    let x = extension;
    for (what, archive) in [
        ("nothing but the frame", x()),
        (
            "a file in each directory",
            x().file("rootfs/etc/cri/conf.d/10-a.part", b"")
                .file("rootfs/usr/lib/firmware/amd/cpu", b"")
                .file("rootfs/usr/lib/udev/rules.d/9.rules", b"")
                .file("rootfs/usr/etc/udev/rules.d/9.rules", b"")
                .file("rootfs/usr/local/lib/a.so", b"")
                .file("rootfs/usr/share/glvnd/egl.json", b"")
                .file("rootfs/usr/share/egl/egl.json", b"")
                .file("rootfs/etc/vulkan/icd.json", b""),
        ),
        (
            "single files and symlinks",
            x().file("rootfs/usr/lib/ld-linux-x86-64.so.2", b"")
                .symlink("rootfs/usr/bin/ldconfig", "../local/sbin/ldconfig")
                .file_with("rootfs/usr/bin/nvidia-smi", 0o755, b"")
                .file("rootfs/etc/ld.so.cache", b""),
        ),
        ("symlinks, whose mode is 0777", x().symlink("rootfs/usr/local/lib/a.so.1", "a.so")),
        ("an empty directory of a published image", x().directory("rootfs/etc/nvme")),
        ("a directory above allowed ones", x().directory("rootfs/usr/lib")),
        (
            "kernel modules of the host",
            x().file("rootfs/usr/lib/modules/6.18.2/a.ko", &elf(62))
                .file("rootfs/usr/lib/modules/6.18.2/b.ko.zst", &zstd::encode_all(&elf(62)[..], 1).unwrap()),
        ),
        ("kernel modules of an older image", x().file("rootfs/lib/modules/6.18.2/a.ko", &elf(62))),
        (
            "the same in both places",
            x().file("rootfs/lib/firmware/f", b"1").file("rootfs/usr/lib/firmware/f", b"1"),
        ),
        ("a program of an older image", x().file("rootfs/sbin/ldconfig", b"")),
        ("a loader of an older image", x().file("rootfs/lib64/ld-linux-x86-64.so.2", b"")),
        ("other owners", x().pax(&[("uid", b"1000"), ("gid", b"1000")]).file("rootfs/usr/local/f", b"")),
        ("a sticky directory", x().directory_with("rootfs/usr/local/d", 0o1755)),
    ] {
        assert_eq!(violations(vec![archive], &Rules::default()), Vec::<String>::new(), "{what}");
    }
}

fn assert_violates(rows: Vec<(Tar, &[&str])>) {
    for (archive, expected) in rows {
        let expected: Vec<_> = expected.iter().map(|line| format!("{line} (changeset 0)")).collect();
        assert_eq!(violations(vec![archive], &Rules::default()), expected);
    }
}

#[test]
fn only_manifest_and_rootfs_are_at_the_top() {
    let top = "only `manifest.yaml` and `rootfs` may be at the top of an extension";
    assert_violates(vec![
        (extension().file("a", b""), &[&format!("a: {top}")]),
        (extension().directory("usr"), &[&format!("usr: {top}")]),
        (tar().directory("rootfs").symlink("manifest.yaml", "a"), &["manifest.yaml: must be a regular file"]),
        (tar().directory("rootfs").directory("manifest.yaml"), &["manifest.yaml: must be a regular file"]),
        (
            tar().file("manifest.yaml", b"").symlink("rootfs", "/"),
            &["rootfs: must be a directory: it, or one below it, is shared with others"],
        ),
    ]);
    assert_eq!(
        violations(vec![tar()], &Rules::default()),
        ["manifest.yaml: is missing", "rootfs: is missing"]
    );
}

#[test]
fn content_stays_inside_the_allowed_paths() {
    let x = extension;
    let outside = |path: &str| format!("rootfs/{path}: is outside the allowed paths");
    let shared = |path: &str| {
        format!("rootfs/{path}: must be a directory: it, or one below it, is shared with others")
    };
    assert_violates(vec![
        (x().file("rootfs/boot/vmlinuz", b""), &[&outside("boot")]),
        (x().directory("rootfs/etc/ssl"), &[&outside("etc/ssl")]),
        (x().file("rootfs/usr/lib64/a.so", b""), &[&outside("usr/lib64")]),
        (x().file("rootfs/usr/local-evil/x", b""), &[&outside("usr/local-evil")]),
        (x().file("rootfs/usr/lib/firmware-evil/x", b""), &[&outside("usr/lib/firmware-evil")]),
        (x().file("rootfs/usr/bin/nvmeXYZ", b""), &[&outside("usr/bin/nvmeXYZ")]),
        (x().file("rootfs/lib/systemd/system/a.service", b""), &[&outside("usr/lib/systemd")]),
        (x().file("rootfs/lib", b""), &[&outside("lib")]),
        (x().symlink("rootfs/lib", "usr/lib"), &[&outside("lib")]),
        (x().symlink("rootfs/usr", "/etc"), &[&shared("usr")]),
        (x().symlink("rootfs/usr/local", "/etc"), &[&shared("usr/local")]),
        (x().file("rootfs/usr/lib/modules", b""), &[&shared("usr/lib/modules")]),
        (x().file("rootfs/etc/cri", b""), &[&shared("etc/cri")]),
        (
            x().directory("rootfs/usr/lib/ld-linux-x86-64.so.2/d"),
            &["rootfs/usr/lib/ld-linux-x86-64.so.2: must be a regular file"],
        ),
        (
            x().file("rootfs/lib/firmware/f", b"1").file("rootfs/usr/lib/firmware/f", b"2"),
            &["rootfs/usr/lib/firmware/f: is also at `/lib/firmware/f`, with another content"],
        ),
        (
            x().file("rootfs/lib/firmware/f", b"").directory("rootfs/usr/lib/firmware/f"),
            &["rootfs/usr/lib/firmware/f: is also at `/lib/firmware/f`, with another content"],
        ),
    ]);
    // Once each, however many directories would be moved there, and with what is in them.
    assert_violates(vec![(
        x().file("rootfs/lib/f", b"").file_with("rootfs/sbin/p", 0o666, b"").file("rootfs/usr", b""),
        &[
            &outside("lib"),
            &outside("sbin"),
            "rootfs/sbin/p: world-writable files and directories are not allowed (mode 0666)",
            &shared("usr"),
        ],
    )]);
}

#[test]
fn dangerous_inodes_are_refused() {
    let x = extension;
    let special = |typeflag| x().header(Header::new(typeflag, b"rootfs/usr/local/s"));
    let xattr =
        |name: &str| x().pax(&[(&format!("SCHILY.xattr.{name}"), b"y")]).directory("rootfs/usr/local");
    let special_files = "rootfs/usr/local/s: special files are not allowed";
    assert_violates(vec![
        (special(b'3'), &[special_files]),
        (special(b'4'), &[special_files]),
        (special(b'6'), &[special_files]),
        (
            x().file("rootfs/usr/local/a", b"").hard_link("rootfs/usr/local/b", "rootfs/usr/local/a"),
            &["rootfs/usr/local/b: hard link to `rootfs/usr/local/a`, which is not allowed"],
        ),
        (
            x().file_with("rootfs/usr/local/a", 0o666, b""),
            &["rootfs/usr/local/a: world-writable files and directories are not allowed (mode 0666)"],
        ),
        (
            x().directory_with("rootfs/usr/local/tmp", 0o1777),
            &["rootfs/usr/local/tmp: world-writable files and directories are not allowed (mode 1777)"],
        ),
        (
            x().directory_with("rootfs/usr", 0o777),
            &["rootfs/usr: world-writable files and directories are not allowed (mode 0777)"],
        ),
        (
            x().directory_with("rootfs", 0o757),
            &["rootfs: world-writable files and directories are not allowed (mode 0757)"],
        ),
        (
            x().file_with("rootfs/usr/local/su", 0o4755, b""),
            &["rootfs/usr/local/su: set-user-ID and set-group-ID are not allowed (mode 4755)"],
        ),
        (
            x().directory_with("rootfs/usr/local/d", 0o2755),
            &["rootfs/usr/local/d: set-user-ID and set-group-ID are not allowed (mode 2755)"],
        ),
        (xattr("security.capability"), &["rootfs/usr/local: the xattr `security.capability` is not allowed"]),
        (
            xattr("trusted.overlay.opaque"),
            &["rootfs/usr/local: the xattr `trusted.overlay.opaque` is not allowed"],
        ),
        (xattr("user.a"), &["rootfs/usr/local: the xattr `user.a` is not allowed"]),
        (
            x().file("rootfs/usr/local/.wh.x/y", b""),
            &["rootfs/usr/local/.wh.x: names of whiteouts are not allowed"],
        ),
        (
            x().file_with("rootfs/boot/su", 0o4777, b""),
            &[
                "rootfs/boot: is outside the allowed paths",
                "rootfs/boot/su: world-writable files and directories are not allowed (mode 4777)",
                "rootfs/boot/su: set-user-ID and set-group-ID are not allowed (mode 4777)",
            ],
        ),
    ]);
}

#[test]
fn kernel_modules_fit_the_host() {
    let x = extension;
    let path = "rootfs/usr/lib/modules/6.18.2/a.ko";
    assert_violates(vec![
        (x().file(path, &elf(183)), &[&format!("{path}: kernel module for arm64, the host is amd64")]),
        (
            x().file(&format!("{path}.zst"), &zstd::encode_all(&elf(183)[..], 1).unwrap()),
            &[&format!("{path}.zst: kernel module for arm64, the host is amd64")],
        ),
        (x().file(path, b"text"), &[&format!("{path}: kernel module for ELF machine 0, the host is amd64")]),
        (
            x().file("rootfs/lib/modules/6.18.2/a.ko", &elf(183)),
            &["rootfs/usr/lib/modules/6.18.2/a.ko: kernel module for arm64, the host is amd64"],
        ),
        (
            x().directory("rootfs/usr/lib/modules/6.18.1"),
            &["rootfs/usr/lib/modules/6.18.1: kernel modules for another kernel, the host's is 6.18.2"],
        ),
        (
            x().file("rootfs/lib/modules/5.4/modules.dep", b""),
            &["rootfs/usr/lib/modules/5.4: kernel modules for another kernel, the host's is 6.18.2"],
        ),
    ]);
    let mut image = flatten(vec![x().file("rootfs/usr/lib/modules/5.4/a.ko", b"")], &Rules::default());
    assert_eq!(check(&mut image, &Rules::default(), &RulesHost::default()), Ok(()), "an unknown host");
}

#[test]
fn a_violation_names_the_changeset_that_has_it() {
    let archives = vec![
        extension().file("rootfs/usr/local/a", b"").directory_with("rootfs/usr", 0o777),
        tar().file_with("rootfs/usr/local/a", 0o666, b""),
        tar().file("rootfs/boot/b", b""),
    ];
    assert_eq!(
        violations(archives, &Rules::default()),
        [
            "rootfs/boot: is outside the allowed paths (changeset 2)",
            "rootfs/usr: world-writable files and directories are not allowed (mode 0777) (changeset 0)",
            "rootfs/usr/local/a: world-writable files and directories are not allowed (mode 0666) (changeset 1)",
        ]
    );
}

#[test]
fn what_a_later_changeset_removes_is_no_violation() {
    let archives = vec![
        extension().file("rootfs/boot/vmlinuz", b"").header(Header::new(b'6', b"rootfs/usr/local/p")),
        tar().file("rootfs/.wh.boot", b"").file("rootfs/usr/local/.wh.p", b""),
    ];
    assert_eq!(violations(archives, &Rules::default()), Vec::<String>::new());
}

#[test]
fn switches_allow_what_they_say_and_no_more() {
    let x = extension;
    let opt = with(|rules| rules.allow("/opt/cni/bin").unwrap());
    let links = with(|rules| rules.hard_links = Permission::Allow);
    let set_id = with(|rules| rules.set_id = Permission::Allow);
    let capability = with(|rules| rules.allow_xattr("security.capability").unwrap());
    let xattr = |name| x().pax(&[(name, b"y")]).file("rootfs/usr/local/a", b"");
    let file = || x().file("rootfs/usr/local/a", b"");
    for (rules, archive, passes) in [
        (&opt, x().file("rootfs/opt/cni/bin/tool", b""), true),
        (&opt, x().file("rootfs/opt/cni/bin", b""), true),
        (&opt, x().directory_with("rootfs/opt/cni/bin", 0o700), true),
        (&opt, x().symlink("rootfs/opt/cni/bin", "/usr/bin"), false),
        (&opt, x().file("rootfs/opt/cni", b""), false),
        (&opt, x().file("rootfs/opt/cni/binary", b""), false),
        (&opt, x().file_with("rootfs/opt/cni/bin/su", 0o4755, b""), false),
        (&links, file().hard_link("rootfs/usr/local/b", "rootfs/usr/local/a"), true),
        (&links, x().hard_link("rootfs/usr/local/b", "rootfs/usr/local/a"), false),
        (
            &links,
            x().symlink("rootfs/usr/local/a", "x").hard_link("rootfs/usr/local/b", "rootfs/usr/local/a"),
            false,
        ),
        (&links, file().hard_link("rootfs/usr/local/b", "/etc/shadow"), false),
        (&set_id, x().file_with("rootfs/usr/local/su", 0o6755, b""), true),
        (&set_id, x().file_with("rootfs/usr/local/su", 0o4757, b""), false),
        (&capability, xattr("SCHILY.xattr.security.capability"), true),
        (&capability, xattr("SCHILY.xattr.security.selinux"), false),
        (&capability, xattr("RHT.security.selinux"), false),
        (&capability, xattr("SCHILY.xattr.trusted.overlay.redirect"), false),
    ] {
        let found = violations(vec![archive], rules);
        assert_eq!(found.is_empty(), passes, "{found:?}");
    }
}

#[test]
fn what_cannot_be_allowed_is_refused() {
    for path in ["", "/", "/.", "opt", "./opt", "/opt/../etc", "//opt", "/o\npt"] {
        assert_eq!(Rules::default().allow(path), Err(RulesError::Path(path.into())));
    }
    for name in ["", "user.", "system.posix_acl_access", "trusted.overlay.opaque", "user.overlay.opaque", "x"]
    {
        assert_eq!(Rules::default().allow_xattr(name), Err(RulesError::Xattr(name.into())));
    }
}

/// `path mode uid mtime`, a line each.
fn list(directory: &Directory, prefix: &str, lines: &mut Vec<String>) {
    for (name, node) in directory {
        let path = format!("{prefix}{}", name.escape_ascii());
        let a = node.attributes;
        lines.push(format!("{path} {:o} {}:{} {}", a.mode, a.uid, a.gid, a.mtime));
        if let Some(children) = node.children() {
            list(children, &format!("{path}/"), lines);
        }
    }
}

#[test]
fn the_tree_is_normalised() {
    let mut rules = Rules::default();
    rules.allow("/opt/own").unwrap();
    let directory = |tar: Tar, name: &[u8], mode| {
        tar.pax(&[("uid", b"7"), ("gid", b"8")]).header(Header::new(b'5', name).mode(mode).mtime(5))
    };
    let mut archive = extension().file("rootfs/lib/firmware/f", b"").file("rootfs/lib/firmware/d/g", b"");
    for (name, mode) in [
        (&b"rootfs"[..], 0o700),
        (b"rootfs/usr", 0o700),
        (b"rootfs/usr/local", 0o700),
        (b"rootfs/usr/local/own", 0o700),
        (b"rootfs/opt", 0o711),
        (b"rootfs/opt/own", 0o711),
    ] {
        archive = directory(archive, name, mode);
    }
    let mut image = flatten(vec![archive], &rules);
    assert_eq!(check(&mut image, &rules, &host()), Ok(()));
    let mut lines = Vec::new();
    list(&image.root, "", &mut lines);
    assert_eq!(
        lines[1..],
        [
            "rootfs 755 0:0 0",
            "rootfs/opt 755 0:0 0",
            "rootfs/opt/own 711 0:0 5",
            "rootfs/usr 755 0:0 0",
            "rootfs/usr/lib 755 0:0 0",
            "rootfs/usr/lib/firmware 755 0:0 0",
            "rootfs/usr/lib/firmware/d 755 0:0 0",
            "rootfs/usr/lib/firmware/d/g 644 0:0 0",
            "rootfs/usr/lib/firmware/f 644 0:0 0",
            "rootfs/usr/local 755 0:0 0",
            "rootfs/usr/local/own 700 0:0 5",
        ]
    );
}

#[test]
fn rules_that_differ_are_written_differently() {
    let written = [
        Rules::default(),
        with(|rules| rules.allow("/opt").unwrap()),
        with(|rules| rules.allow("/opt\\x").unwrap()),
        with(|rules| rules.allow_xattr("user.a").unwrap()),
        with(|rules| rules.hard_links = Permission::Allow),
        with(|rules| rules.set_id = Permission::Allow),
    ]
    .map(|rules| rules.to_string());
    let distinct: BTreeSet<_> = written.iter().collect();
    assert_eq!(distinct.len(), written.len());
    assert!(written[0].ends_with("Shared /usr/share/glvnd\nhard links Refuse\nset-ID Refuse\n"));
}
