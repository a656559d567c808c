//! Superblocks as the filesystems' own tools write them, read here and by
//! `blkid`. Needs no privileges, but e2fsprogs, xfsprogs, btrfs-progs,
//! dosfstools, squashfs-tools and util-linux.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use plywood::sys::block::Superblock;

fn run(command: &str, image: &Path) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    let output = shell.args(["-ec", command]).env("PATH", path).env("IMAGE", image).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `blkid` says: `TYPE`, `UUID`, `LABEL`, …
fn blkid(image: &Path) -> BTreeMap<String, String> {
    let output = run("blkid -p -o export $IMAGE", image);
    // `export` escapes for the shell: a space is `\ `.
    let pairs = output.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.replace('\\', ""))).collect()
}

#[test]
fn superblocks_are_read_as_blkid_reads_them() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    for (size, make) in [
        ("8M", "mkfs.ext2 -q -L 'my label' $IMAGE"),
        ("8M", "mkfs.ext3 -q -L x $IMAGE"),
        ("16M", "mkfs.ext4 -q -L 0123456789abcdef $IMAGE"),
        ("16M", "mkfs.ext4 -q -O ^has_journal $IMAGE"),
        ("320M", "mkfs.xfs -q -L twelve-chars $IMAGE"),
        ("320M", "mkfs.xfs -q $IMAGE"),
        ("128M", "mkfs.btrfs -q -L 'a long label with spaces' $IMAGE"),
        ("128M", "mkfs.btrfs -q $IMAGE"),
        ("4M", "mkfs.vfat -n PLYWOOD $IMAGE"),
        ("4M", "mkfs.vfat $IMAGE"),
        ("64M", "mkfs.vfat -F 32 -n 'STATE DISK' $IMAGE"),
        ("64M", "mkfs.vfat -F 32 -S 4096 $IMAGE"),
        ("16M", "mkfs.vfat -F 16 -n cidata $IMAGE"),
        ("0", "mksquashfs /bin/sh $IMAGE -noappend -quiet -no-progress"),
    ] {
        run(&format!("rm -f $IMAGE; truncate -s {size} $IMAGE; {make}"), &image);
        let expected = blkid(&image);
        let found = Superblock::probe(&File::open(&image).unwrap()).unwrap().expect(make);
        let expect = |key: &str| expected.get(key).map(String::as_str);
        assert_eq!(Some(found.kind), expect("TYPE"), "{make}");
        assert_eq!(found.uuid.as_deref(), expect("UUID"), "{make}");
        assert_eq!(found.label.as_deref(), expect("LABEL"), "{make}");
        assert_eq!(found.member.as_deref(), expect("UUID_SUB"), "{make}");
    }
}
