//! Block devices: which there are, and which one is meant.
//!
//! In: a [`DeviceSpec`] and, for waiting, a [`Deadline`]. Out: a
//! [`BlockDevice`] with type, UUID and label, read here because an initramfs
//! has neither udev nor blkid. Invariant: where two devices fit, none is
//! chosen; a disk that a stranger plugged in cannot take another's place.

mod bytes;
mod partition;
mod spec;
mod superblock;
mod system;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use partition::{Geometry, Partition, Table};
pub use spec::{DeviceSpec, SpecError};
pub use superblock::Superblock;

use self::system::System;
use super::Error;
use super::deadline::Deadline;
use super::uevent::{Listener, Received, Uevent, coldplug};
use crate::text::Escaped;

/// How long to wait for events before looking again. Symlinks that an udev
/// makes have no event of the kernel.
const RESCAN: Duration = Duration::from_millis(500);

/// Most devices that an error lists.
const MAX_LISTED: usize = 32;

/// A block device as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's name: `vda1`, `nvme0n1p2`.
    pub name: String,
    /// Its node: `/dev/vda1`.
    pub path: PathBuf,
    pub major: u32,
    pub minor: u32,
    /// In bytes.
    pub size: u64,
    pub content: Content,
    /// `None` for a whole disk.
    pub partition: Option<Partition>,
    /// Part of another block device (RAID, device mapper) that shows the same
    /// content.
    held: bool,
}

/// What lies on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Filesystem(Superblock),
    /// Nothing that is known here.
    Unknown,
    /// The device cannot be read, and why.
    Unreadable(String),
}

/// Why no block device can be given.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("no block device is {spec}; seen: {present}")]
    NotFound { spec: DeviceSpec, present: Present },
    #[error("more than one block device is {spec}: {devices}")]
    Ambiguous { spec: DeviceSpec, devices: Present },
    #[error("cannot list block devices in {}", .path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot wait for {spec}")]
    Wait { spec: DeviceSpec, source: Error },
}

/// Block devices, to be shown to someone who looks for one.
#[derive(Debug)]
pub struct Present(Vec<BlockDevice>);

/// All block devices that have a size, in the order of their names.
pub fn scan() -> Result<Vec<BlockDevice>, DeviceError> {
    System::running().scan()
}

/// The one block device that is meant.
pub fn find(spec: &DeviceSpec) -> Result<BlockDevice, DeviceError> {
    let system = System::running();
    let number = match spec {
        DeviceSpec::Path(path) => system::number_of(path),
        DeviceSpec::Number { major, minor } => Some((*major, *minor)),
        _ => return select(spec, system.scan()?),
    };
    match number.and_then(|(major, minor)| system.by_number(major, minor)) {
        Some(device) => Ok(device),
        None => Err(DeviceError::NotFound { spec: spec.clone(), present: Present(system.scan()?) }),
    }
}

/// Finds a block device that may come later. Every event of the kernel until
/// then goes to `on_event`, which can load the modules that devices need; if
/// the device is not there at once, devices that are already there are
/// reported first.
pub fn wait_for(
    spec: &DeviceSpec,
    deadline: Deadline,
    on_event: &mut dyn FnMut(&Uevent),
) -> Result<BlockDevice, DeviceError> {
    let failed = |source| DeviceError::Wait { spec: spec.clone(), source };
    // Listen first: what comes between looking and listening would be missed.
    let listener = Listener::open().map_err(failed)?;
    let mut found = find(spec);
    if matches!(found, Err(DeviceError::NotFound { .. })) {
        coldplug(on_event);
        found = find(spec);
    }
    while matches!(found, Err(DeviceError::NotFound { .. })) && !deadline.is_over() {
        match listener.next(deadline.at_most(RESCAN)).map_err(failed)? {
            Received::Event(event) => on_event(&event),
            Received::Overrun => coldplug(on_event),
            Received::TimedOut => {}
        }
        listener.drain(on_event).map_err(failed)?;
        found = find(spec);
    }
    found
}

/// Picks the device that a tag means.
fn select(spec: &DeviceSpec, devices: Vec<BlockDevice>) -> Result<BlockDevice, DeviceError> {
    let fits: Vec<_> = devices.iter().filter(|device| device.fits(spec)).collect();
    let mut chosen = distinct(&fits).into_iter();
    match (chosen.next(), chosen.next()) {
        (Some(device), None) => match sibling(device, spec, &devices) {
            Some(device) => Ok(device.clone()),
            None => Err(DeviceError::NotFound { spec: spec.clone(), present: Present(devices) }),
        },
        (Some(_), Some(_)) => {
            let devices = Present(distinct(&fits).into_iter().cloned().collect());
            Err(DeviceError::Ambiguous { spec: spec.clone(), devices })
        }
        (None, _) => Err(DeviceError::NotFound { spec: spec.clone(), present: Present(devices) }),
    }
}

/// Leaves out devices that show what another one shows.
fn distinct<'a>(fits: &[&'a BlockDevice]) -> Vec<&'a BlockDevice> {
    let free = fits.iter().any(|device| !device.held);
    let mut kept: Vec<&BlockDevice> = fits.iter().copied().filter(|device| !(free && device.held)).collect();
    // On a hybrid ISO image the first partition begins where the disk does.
    let disks: Vec<_> = kept.iter().filter_map(|d| d.partition.as_ref()).map(|p| p.disk.clone()).collect();
    kept.retain(|device| !disks.contains(&device.name));
    if is_one_filesystem(&kept) {
        kept.truncate(1);
    }
    kept
}

/// Whether the devices are the members of one filesystem, of which any stands
/// for it. A copy of a member is not another member.
fn is_one_filesystem(devices: &[&BlockDevice]) -> bool {
    let members: Option<Vec<_>> = devices.iter().map(|device| device.member()).collect();
    let Some(members) = members else { return false };
    let filesystems: BTreeSet<_> = members.iter().map(|(uuid, _)| uuid).collect();
    let distinct: BTreeSet<_> = members.iter().map(|(_, member)| member).collect();
    filesystems.len() == 1 && distinct.len() == members.len()
}

/// The partition that `/PARTNROFF=` leads to; else the device itself.
fn sibling<'a>(
    device: &'a BlockDevice,
    spec: &DeviceSpec,
    devices: &'a [BlockDevice],
) -> Option<&'a BlockDevice> {
    let (DeviceSpec::PartUuid { offset, .. }, Some(from)) = (spec, &device.partition) else {
        return Some(device);
    };
    let number = from.number.checked_add_signed(*offset)?;
    devices.iter().find(|device| {
        device.partition.as_ref().is_some_and(|to| to.disk == from.disk && to.number == number)
    })
}

impl BlockDevice {
    /// The filesystem on it.
    pub fn superblock(&self) -> Option<&Superblock> {
        match &self.content {
            Content::Filesystem(superblock) => Some(superblock),
            Content::Unknown | Content::Unreadable(_) => None,
        }
    }

    fn member(&self) -> Option<(&str, &str)> {
        let superblock = self.superblock()?;
        Some((superblock.uuid.as_deref()?, superblock.member.as_deref()?))
    }

    fn fits(&self, spec: &DeviceSpec) -> bool {
        let (superblock, partition) = (self.superblock(), self.partition.as_ref());
        let same = |have: Option<&String>, want: &str| have.is_some_and(|have| have == want);
        let same_uuid =
            |have: Option<&String>, want: &str| have.is_some_and(|have| have.eq_ignore_ascii_case(want));
        match spec {
            DeviceSpec::Path(path) => *path == self.path,
            DeviceSpec::Number { major, minor } => (*major, *minor) == (self.major, self.minor),
            DeviceSpec::Uuid(uuid) => same_uuid(superblock.and_then(|s| s.uuid.as_ref()), uuid),
            DeviceSpec::Label(label) => same(superblock.and_then(|s| s.label.as_ref()), label),
            DeviceSpec::PartUuid { uuid, .. } => same_uuid(partition.and_then(|p| p.uuid.as_ref()), uuid),
            DeviceSpec::PartLabel(label) => same(partition.and_then(|p| p.label.as_ref()), label),
        }
    }
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.path.display())?;
        match &self.content {
            Content::Filesystem(superblock) => f.write_str(superblock.kind)?,
            Content::Unknown => f.write_str("no known filesystem")?,
            Content::Unreadable(why) => write!(f, "unreadable: {why}")?,
        }
        let (superblock, partition) = (self.superblock(), self.partition.as_ref());
        for (tag, value) in [
            ("LABEL", superblock.and_then(|s| s.label.as_ref())),
            ("UUID", superblock.and_then(|s| s.uuid.as_ref())),
            ("PARTLABEL", partition.and_then(|p| p.label.as_ref())),
            ("PARTUUID", partition.and_then(|p| p.uuid.as_ref())),
        ] {
            if let Some(value) = value {
                write!(f, " {tag}={}", Escaped::new(value))?;
            }
        }
        f.write_str(")")
    }
}

impl fmt::Display for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, device) in self.0.iter().take(MAX_LISTED).enumerate() {
            write!(f, "{}{device}", if i == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests;
