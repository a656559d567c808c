//! Block devices as `/sys` and `/dev` show them.
//!
//! In: `/sys/class/block`, and the devices' own bytes. Out: [`BlockDevice`].
//! Invariant: nothing is opened for writing, and a device that vanishes or
//! cannot be read does not hide the others.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, major, minor};

use super::partition::{Geometry, Table};
use super::{BlockDevice, Content, DeviceError, Partition, Superblock};
use crate::sys::sysfs::attribute;

/// Major number of floppy drives. Looking for a medium takes them seconds.
const FLOPPY: u32 = 2;

/// Unit of the `size` attribute in bytes, whatever the sector size.
const SIZE_UNIT: u64 = 512;

/// Where sysfs and the device nodes are.
pub(super) struct System {
    sys: PathBuf,
    dev: PathBuf,
}

/// Partition tables of the disks seen so far, by kernel name.
type Tables = BTreeMap<String, Table>;

impl System {
    pub fn running() -> Self {
        Self::at("/sys", "/dev")
    }

    pub fn at(sys: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self { sys: sys.into(), dev: dev.into() }
    }

    /// All devices that have a size, by name.
    pub fn scan(&self) -> Result<Vec<BlockDevice>, DeviceError> {
        let path = self.sys.join("class/block");
        let names = fs::read_dir(&path).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().into_string().ok())).collect::<io::Result<Vec<_>>>()
        });
        let names = names.map_err(|source| DeviceError::List { path, source })?;
        let mut tables = Tables::new();
        let found = names.iter().flatten().filter_map(|name| self.describe(name, &mut tables));
        let mut devices: Vec<_> = found.filter(|device| device.size > 0).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(devices)
    }

    /// The device with this number.
    pub fn by_number(&self, major: u32, minor: u32) -> Option<BlockDevice> {
        let link = fs::read_link(self.sys.join(format!("dev/block/{major}:{minor}"))).ok()?;
        self.describe(link.file_name()?.to_str()?, &mut Tables::new())
    }

    /// `None` if the device is gone.
    fn describe(&self, name: &str, tables: &mut Tables) -> Option<BlockDevice> {
        let directory = self.sys.join("class/block").join(name);
        let number = attribute(&directory.join("dev")).ok()?;
        let (major, minor) = number.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let size = attribute(&directory.join("size")).ok()?.parse::<u64>().ok()?.saturating_mul(SIZE_UNIT);
        let path = self.node(name);
        let content = if size == 0 || major == FLOPPY { Content::Unknown } else { content(&path) };
        let partition = self.partition(&directory, tables);
        let held = fs::read_dir(directory.join("holders")).is_ok_and(|mut holders| holders.next().is_some());
        Some(BlockDevice { name: name.into(), path, major, minor, size, content, partition, held })
    }

    /// `None` for a whole disk.
    fn partition(&self, directory: &Path, tables: &mut Tables) -> Option<Partition> {
        let number = attribute(&directory.join("partition")).ok()?.parse().ok()?;
        // The class holds symlinks into the device tree, where a partition
        // lies below its disk.
        let place = directory.canonicalize().ok()?;
        let disk = place.parent()?.file_name()?.to_str()?.to_owned();
        let table = tables.entry(disk.clone()).or_insert_with(|| self.table(&disk));
        let (uuid, label) = table.names(number);
        Some(Partition { disk, number, uuid, label })
    }

    fn table(&self, disk: &str) -> Table {
        let read = |name: &str| {
            attribute(&self.sys.join("class/block").join(disk).join(name)).ok()?.parse::<u64>().ok()
        };
        let size = read("size").unwrap_or(0).saturating_mul(SIZE_UNIT);
        let sector = read("queue/logical_block_size").unwrap_or(512);
        let table = open(&self.node(disk)).and_then(|file| Table::read(&file, Geometry { size, sector }));
        table.unwrap_or_else(|error| {
            log::debug!("cannot read the partition table of {disk}, ignored: {error}");
            Table::None
        })
    }

    /// The node of a device; `!` in a kernel name stands for `/`.
    fn node(&self, name: &str) -> PathBuf {
        self.dev.join(name.replace('!', "/"))
    }
}

/// The number of the block device that a path leads to.
pub(super) fn number_of(path: &Path) -> Option<(u32, u32)> {
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_block_device())?;
    Some((major(metadata.rdev()), minor(metadata.rdev())))
}

fn content(path: &Path) -> Content {
    match open(path).and_then(|device| Superblock::probe(&device)) {
        Ok(Some(superblock)) => Content::Filesystem(superblock),
        Ok(None) => Content::Unknown,
        Err(error) => Content::Unreadable(error.to_string()),
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK an optical drive closes its tray and waits.
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}
