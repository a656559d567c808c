//! Loop devices, and block devices found by what is on them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use plywood::sys::block::{self, DeviceSpec};
use plywood::sys::deadline::Deadline;
use plywood::sys::loopdev::LoopDevice;

use crate::{Namespace, read, turn, wait_until};

#[test]
fn loop_devices_are_read_only_and_free_themselves() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let layer = namespace.layer(7, &[("usr/x", "one")]);
    let device = LoopDevice::attach(&layer.file, "007-test").unwrap();
    assert_eq!(namespace.loops().len(), 1);
    let sys = Path::new("/sys/class/block").join(device.path().file_name().unwrap());
    assert_eq!(read(&sys.join("ro")).as_deref(), Some("1\n"));
    assert_eq!(read(&sys.join("loop/autoclear")).as_deref(), Some("1\n"));
    let mut magic = [0; 4];
    File::open(device.path()).unwrap().read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"hsqs");
    let written =
        File::options().write(true).open(device.path()).and_then(|file| file.write_at(&[0; 512], 0));
    written.expect_err("read-only");
    drop(device);
    wait_until(|| namespace.loops().is_empty(), "the loop device is freed");
}

#[test]
fn a_block_device_is_found_by_what_is_on_it_even_if_it_comes_late() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let image = namespace.path("image");
    let label = format!("ply-{}", std::process::id());
    File::create(&image).unwrap().set_len(4 << 20).unwrap();
    let made = Command::new("/sbin/mkfs.ext4").args(["-q", "-L", &label]).arg(&image).status();
    assert!(made.expect("mkfs.ext4 of e2fsprogs").success());
    let spec = DeviceSpec::parse(&format!("LABEL={label}")).unwrap();
    let error = block::find(&spec).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("no block device is LABEL={label}; seen: /dev/")),
        "{error}"
    );
    let device = std::thread::scope(|scope| {
        let waiting = scope
            .spawn(|| block::wait_for(&spec, Deadline::after(Duration::from_secs(20)), &mut |_| {}).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        let device = LoopDevice::attach(&File::open(&image).unwrap(), "late").unwrap();
        assert_eq!(waiting.join().unwrap().path, device.path());
        device
    });
    let found = block::find(&spec).unwrap();
    assert_eq!((found.superblock().unwrap().kind, found.size), ("ext4", 4 << 20));
    for same in [format!("{}:{}", found.major, found.minor), device.path().display().to_string()] {
        assert_eq!(block::find(&DeviceSpec::parse(&same).unwrap()).unwrap(), found, "{same}");
    }
    let twin = LoopDevice::attach(&File::open(&image).unwrap(), "twin").unwrap();
    let error = block::find(&spec).unwrap_err().to_string();
    for path in [device.path(), twin.path()] {
        assert!(error.contains(&format!("{} (ext4 LABEL={label} ", path.display())), "{error}");
    }
}

#[test]
fn many_loop_devices_are_attached_at_once() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let layer = namespace.layer(8, &[("usr/x", "one")]);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| (0..4).map(|_| LoopDevice::attach(&layer.file, "008")).collect::<Vec<_>>())
            })
            .collect();
        let devices: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let paths: BTreeSet<_> =
            devices.iter().map(|device| device.as_ref().unwrap().path().to_owned()).collect();
        assert_eq!(paths.len(), 32);
    });
    wait_until(|| namespace.loops().is_empty(), "loop devices are freed");
}
