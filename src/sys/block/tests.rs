use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// A device as a table writes it.
fn device(name: &str, superblock: (&'static str, &str, &str), partition: Option<(&str, u32)>) -> BlockDevice {
    let (kind, uuid, label) = superblock;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (uuid, label) = (text(uuid), text(label));
    BlockDevice {
        name: name.into(),
        path: Path::new("/dev").join(name),
        major: 8,
        minor: 0,
        size: 1 << 20,
        content: match kind {
            "" => Content::Unknown,
            kind => Content::Filesystem(Superblock { kind, uuid, label, member: None }),
        },
        partition: partition.map(|(disk, number)| Partition {
            disk: disk.into(),
            number,
            uuid: Some(format!("{disk}-{number:02x}")),
            label: Some(format!("part{number}")),
        }),
        held: false,
    }
}

fn machine() -> Vec<BlockDevice> {
    vec![
        device("sda", ("", "", ""), None),
        device("sda1", ("vfat", "12AB-34CD", "EFI"), Some(("sda", 1))),
        device("sda2", ("ext4", "0a1b", "root"), Some(("sda", 2))),
        device("sdb", ("xfs", "9999", "PLYWOOD"), None),
    ]
}

/// The name of the device that `spec` means, or what is wrong.
fn selected(spec: &str, devices: Vec<BlockDevice>) -> String {
    match select(&DeviceSpec::parse(spec).unwrap(), devices) {
        Ok(device) => device.name,
        Err(DeviceError::NotFound { .. }) => "not found".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_tag_means_the_one_device_that_has_it() {
    for (spec, expected) in [
        ("LABEL=root", "sda2"),
        ("LABEL=ROOT", "not found"),
        ("UUID=0A1B", "sda2"),
        ("UUID=12ab-34cd", "sda1"),
        ("PARTUUID=SDA-02", "sda2"),
        ("PARTUUID=sda-01/PARTNROFF=1", "sda2"),
        ("PARTUUID=sda-02/PARTNROFF=-1", "sda1"),
        ("PARTUUID=sda-02/PARTNROFF=1", "not found"),
        ("PARTUUID=sda-01/PARTNROFF=-2", "not found"),
        ("PARTLABEL=part1", "sda1"),
        ("PARTLABEL=Part1", "not found"),
        ("/dev/disk/by-label/PLYWOOD", "sdb"),
        ("UUID=0a1", "not found"),
    ] {
        assert_eq!(selected(spec, machine()), expected, "{spec}");
    }
}

#[test]
fn two_devices_with_one_label_are_refused_and_both_named() {
    let mut devices = machine();
    devices.push(device("sdc1", ("ext4", "ffff", "PLYWOOD"), Some(("sdc", 1))));
    assert_eq!(
        selected("LABEL=PLYWOOD", devices),
        "more than one block device is LABEL=PLYWOOD: /dev/sdb (xfs LABEL=PLYWOOD UUID=9999), \
         /dev/sdc1 (ext4 LABEL=PLYWOOD UUID=ffff PARTLABEL=part1 PARTUUID=sdc-01)"
    );
}

#[test]
fn devices_that_show_the_same_content_count_once() {
    let mut devices = machine();
    devices.push(device("sdc", ("iso9660", "2026", "cidata"), None));
    devices.push(device("sdc1", ("iso9660", "2026", "cidata"), Some(("sdc", 1))));
    assert_eq!(selected("LABEL=cidata", devices.clone()), "sdc1", "a hybrid image");
    devices.push(device("md0", ("ext4", "0a1b", "root"), None));
    devices[2].held = true;
    assert_eq!(selected("LABEL=root", devices.clone()), "md0", "a RAID and its member");
    devices.pop();
    assert_eq!(selected("LABEL=root", devices), "sda2", "nothing but a member");
}

#[test]
fn members_of_one_btrfs_count_once_but_a_copy_does_not() {
    let member = |name: &str, uuid: &str, member: &str| {
        let mut device = device(name, ("btrfs", uuid, "pool"), None);
        if let Content::Filesystem(superblock) = &mut device.content {
            superblock.member = Some(member.into());
        }
        device
    };
    for (devices, expected) in [
        ([("aa", "1"), ("aa", "2")], Ok("sda")),
        ([("aa", "1"), ("aa", "1")], Err(())),
        ([("aa", "1"), ("bb", "2")], Err(())),
    ] {
        let devices =
            ["sda", "sdb"].into_iter().zip(devices).map(|(name, (uuid, id))| member(name, uuid, id));
        let found = select(&DeviceSpec::Label("pool".into()), devices.collect());
        assert_eq!(found.as_ref().map(|device| device.name.as_str()).map_err(|_| ()), expected);
    }
}

#[test]
fn an_error_lists_what_is_there_and_escapes_it() {
    let hostile = device("sdx", ("ext4", "", "a\x1b[2J"), None);
    let error = select(&DeviceSpec::Label("x".into()), vec![hostile]).unwrap_err();
    assert_eq!(error.to_string(), "no block device is LABEL=x; seen: /dev/sdx (ext4 LABEL=a\\x1b[2J)");
    let error = select(&DeviceSpec::Label("x".into()), Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "no block device is LABEL=x; seen: none");
    let many = (0..40).map(|i| device(&format!("sd{i}"), ("", "", ""), None)).collect();
    let error = select(&DeviceSpec::Label("x".into()), many).unwrap_err();
    assert!(error.to_string().ends_with(" and 8 more"), "{error}");
}

/// A machine with an MBR disk `vda`, its partition `vda1` with a squashfs, an
/// unused loop device and something odd.
fn fake_machine(root: &Path) -> System {
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let devices = "sys/devices/virtio0/block/vda";
    for (path, text) in [
        ("sys/devices/virtio0/block/vda/dev", "254:0\n"),
        ("sys/devices/virtio0/block/vda/size", "2048\n"),
        ("sys/devices/virtio0/block/vda/vda1/dev", "254:1\n"),
        ("sys/devices/virtio0/block/vda/vda1/size", "1024\n"),
        ("sys/devices/virtio0/block/vda/vda1/partition", "1\n"),
        ("sys/devices/loop0/dev", "7:0\n"),
        ("sys/devices/loop0/size", "0\n"),
        ("sys/devices/odd/dev", "nonsense"),
    ] {
        write(path, text.as_bytes());
    }
    let mut disk = vec![0; 512];
    disk[440..444].copy_from_slice(&[0x78, 0x56, 0x34, 0x12]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    write("dev/vda", &disk);
    let mut squashfs = b"hsqs".to_vec();
    squashfs.resize(96, 0);
    squashfs[28] = 4;
    write("dev/vda1", &squashfs);
    for directory in ["sys/class/block", "sys/dev/block"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (link, target) in [
        ("class/block/vda", devices),
        ("class/block/vda1", "sys/devices/virtio0/block/vda/vda1"),
        ("class/block/loop0", "sys/devices/loop0"),
        ("class/block/odd", "sys/devices/odd"),
        ("dev/block/254:1", "sys/devices/virtio0/block/vda/vda1"),
    ] {
        symlink(root.join(target), root.join("sys").join(link)).unwrap();
    }
    System::at(root.join("sys"), root.join("dev"))
}

#[test]
fn devices_are_read_from_sysfs_and_their_own_bytes() {
    let root = tempfile::tempdir().unwrap();
    let system = fake_machine(root.path());
    let devices = system.scan().unwrap();
    assert_eq!(devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["vda", "vda1"]);
    let partition = &devices[1];
    assert_eq!((partition.major, partition.minor, partition.size), (254, 1, 1024 * 512));
    assert_eq!(partition.superblock().map(|superblock| superblock.kind), Some("squashfs"));
    let expected = Partition { disk: "vda".into(), number: 1, uuid: Some("12345678-01".into()), label: None };
    assert_eq!(partition.partition.as_ref(), Some(&expected));
    assert_eq!(system.by_number(254, 1).as_ref(), Some(partition));
    assert_eq!(system.by_number(8, 1), None);
}

#[test]
fn a_device_that_cannot_be_read_does_not_hide_the_others() {
    let root = tempfile::tempdir().unwrap();
    let system = fake_machine(root.path());
    fs::remove_file(root.path().join("dev/vda")).unwrap();
    let devices = system.scan().unwrap();
    assert!(matches!(&devices[0].content, Content::Unreadable(why) if why.contains("No such file")));
    assert_eq!(devices[1].superblock().map(|superblock| superblock.kind), Some("squashfs"));
}

#[test]
fn waiting_for_what_never_comes_ends_and_says_what_is_there() {
    let mut events = 0;
    let spec = DeviceSpec::parse("UUID=00000000-dead-beef-0000-000000000000").unwrap();
    let error = wait_for(&spec, Deadline::after(Duration::from_millis(50)), &mut |_| events += 1);
    assert!(matches!(error, Err(DeviceError::NotFound { .. })));
    assert!(events > 0, "devices that are there are reported");
}
