//! Loop devices: a file as a read-only block device.
//!
//! In: a file that is open and was checked through that descriptor. Out: a
//! [`LoopDevice`]. Invariant: the kernel is given the descriptor, never a
//! path, so what was checked is what is mounted; and the device frees itself
//! when its last user is gone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::{Error, failed};

const CONTROL: &str = "/dev/loop-control";

/// `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE` of linux/loop.h, which predates
/// numbers that say the argument's size.
const GET_FREE: libc::Ioctl = 0x4c82;
const CONFIGURE: libc::Ioctl = 0x4c0a;

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// How often a device that is not there yet, or just going, is tried again,
/// and how long to wait in between.
const ATTEMPTS: u32 = 64;
const PAUSE: Duration = Duration::from_millis(2);

/// How many devices in a row others may take first. Each time one of them
/// went on, so there is nothing to wait for.
const LOST_RACES: u32 = 4096;

/// Block sizes that a device may have, in bytes: from a sector to a page.
const BLOCK_SIZES: RangeInclusive<u32> = 512..=4096;

/// Longest name that the kernel keeps, in bytes.
const NAME_LEN: usize = 63;

/// `struct loop_config` of linux/loop.h, with its `struct loop_info64` in
/// place.
#[repr(C)]
struct Config {
    fd: u32,
    /// 0 lets the kernel choose.
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 304);

/// A loop device with a file in it. It is freed when this and all that is
/// mounted from it are gone.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    fd: OwnedFd,
}

impl LoopDevice {
    /// Makes `file` a read-only block device. `name` is shown by `losetup`.
    pub fn attach(file: &File, name: &str) -> Result<Self, Error> {
        let control = open(Path::new(CONTROL))?;
        let (mut pauses, mut races) = (0..ATTEMPTS, 0..LOST_RACES);
        loop {
            match Self::try_attach(&control, file, name) {
                Err(Error { source: Errno::BUSY, .. }) if races.next().is_some() => {}
                Err(Error { source: Errno::BUSY | Errno::AGAIN | Errno::NXIO | Errno::NOENT, .. })
                    if pauses.next().is_some() =>
                {
                    thread::sleep(PAUSE);
                }
                result => return result,
            }
        }
    }

    fn try_attach(control: &File, file: &File, name: &str) -> Result<Self, Error> {
        let number = free_device(control)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        let mut config = Config::new(file, name, READ_ONLY | AUTOCLEAR | DIRECT_IO);
        let configured = match configure(device.as_fd(), &config) {
            // A filesystem without direct I/O; most kernels ignore the wish.
            Err(Errno::INVAL) => {
                config.flags &= !DIRECT_IO;
                config.block_size = 0;
                configure(device.as_fd(), &config)
            }
            result => result,
        };
        configured.map_err(failed("ioctl LOOP_CONFIGURE", path.display()))?;
        Ok(Self { path, fd: device.into() })
    }

    /// Its node, made by devtmpfs.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Names of the loop devices that have a file, from sysfs.
pub fn in_use() -> io::Result<Vec<String>> {
    let devices = fs::read_dir("/sys/block")?.map(|entry| Ok(entry?.path()));
    let devices = devices.collect::<io::Result<Vec<_>>>()?;
    let attached = devices.iter().filter(|device| device.join("loop/backing_file").exists());
    Ok(attached.filter_map(|device| device.file_name()).map(|name| name.to_string_lossy().into()).collect())
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Config {
    fn new(file: &File, name: &str, flags: u32) -> Self {
        let mut file_name = [0; 64];
        file_name.iter_mut().zip(name.bytes().take(NAME_LEN)).for_each(|(to, from)| *to = from);
        Self {
            fd: file.as_raw_fd().cast_unsigned(),
            block_size: direct_io_block(file),
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
            reserved: [0; 8],
        }
    }
}

/// The block size that lets a device read `file` with direct I/O, or 0 where
/// the kernel is to choose. KERNEL(6.15): older ones choose a sector, and read
/// through the cache where the disk below has larger ones.
fn direct_io_block(file: &File) -> u32 {
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::SIZE | StatxFlags::DIOALIGN) {
        Ok(status) => fitting_block(status.stx_dio_offset_align, status.stx_size),
        Err(_) => 0,
    }
}

/// A device ends with its last whole block, so that `align` is of no use for a
/// file of another length.
fn fitting_block(align: u32, size: u64) -> u32 {
    let fits = BLOCK_SIZES.contains(&align) && align.is_power_of_two() && size.is_multiple_of(align.into());
    if fits { align } else { 0 }
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new().read(true).open(path).map_err(|error| {
        let source = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let missing = "; the kernel needs loop devices, built in or loaded as a module";
        let hint = if path == Path::new(CONTROL) { missing } else { "" };
        failed("open", format!("{}{hint}", path.display()))(source)
    })
}

/// The number of a device that is free at this moment; makes one if need be.
fn free_device(control: &File) -> Result<i32, Error> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument, so the kernel reads and
    // writes no memory of ours; `control` is open during the call.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
    if number >= 0 { Ok(number) } else { Err(failed("ioctl LOOP_CTL_GET_FREE", CONTROL)(last_error())) }
}

fn configure(device: BorrowedFd, config: &Config) -> Result<(), Errno> {
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config`
    // is in layout and size (asserted above), and writes nothing; the
    // reference and both descriptors live until the call has returned.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, std::ptr::from_ref(config)) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_size_is_taken_where_it_loses_no_bytes() {
        for (align, size, expected) in [
            (0, 8192, 0),
            (512, 8192, 512),
            (4096, 8192, 4096),
            (4096, 8192 + 512, 0),
            (8192, 8192, 0),
            (256, 8192, 0),
            (1000, 8000, 0),
        ] {
            assert_eq!(fitting_block(align, size), expected, "{align} {size}");
        }
    }
}
