//! What a boot reads before it trusts anything: command line, network, disks.

use std::io;
use std::os::unix::fs::FileExt;

use plywood::config::cmdline::{BootParameters, CommandLine};
use plywood::sys::block::{DeviceSpec, Geometry, Superblock, Table};
use plywood::sys::dhcp::{Identity, Reply};
use plywood::sys::module::depmod::elf::Facts;
use plywood::sys::net::Requests;
use plywood::sys::uevent::Uevent;

use super::assert_printable;

pub fn command_line(data: &[u8]) {
    let line = CommandLine::parse(data);
    let _ = BootParameters::new(&line);
    for parameter in line.parameters() {
        if let Some(value) = &parameter.value
            && let Err(error) = DeviceSpec::parse(value)
        {
            assert_printable(&error.to_string());
        }
    }
}

/// `ip=`, `nameserver=` and the like, as they stand on a command line.
pub fn network_request(data: &[u8]) {
    let line = CommandLine::parse(data);
    let parameters: Vec<_> = line
        .parameters()
        .iter()
        .map(|parameter| (parameter.key.as_str(), parameter.value.as_deref().unwrap_or_default()))
        .collect();
    for error in Requests::parse(&parameters).1 {
        assert_printable(&error.to_string());
    }
}

/// The datagram as it is, and with the fields that make it ours.
pub fn dhcp(data: &[u8]) {
    let identity = Identity { xid: 0x0102_0304, mac: [2, 0, 0, 0, 0, 1], hostname: None };
    let mut ours = data.to_vec();
    for (at, bytes) in
        [(0, &[2, 1, 6][..]), (4, &[1, 2, 3, 4]), (28, &identity.mac), (236, &[0x63, 0x82, 0x53, 0x63])]
    {
        if let Some(field) = ours.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }
    for datagram in [data, &ours] {
        match identity.parse(datagram) {
            Ok(Reply::Offer(lease) | Reply::Ack(lease)) => {
                assert!((1..=32).contains(&lease.prefix));
                assert!(lease.routes.iter().all(|route| route.prefix <= 32));
                for name in lease.domain.iter().chain(&lease.hostname) {
                    assert_printable(name);
                }
            }
            Ok(Reply::Nak { .. }) => {}
            Err(error) => assert_printable(&error.to_string()),
        }
    }
}

pub fn uevent(data: &[u8]) {
    if let Some(event) = Uevent::parse(data) {
        let _ = (event.action(), event.subsystem(), event.modalias());
    }
}

/// The disk as it is, and with the checksums of its partition table put right.
pub fn block(data: &[u8]) {
    look_at(data);
    if let Some(repaired) = with_checksums(data) {
        look_at(&repaired);
    }
}

/// UEFI 2.10, 5.3.2: the header's checksum is at 16, that of the entries at 88.
fn with_checksums(data: &[u8]) -> Option<Vec<u8>> {
    let mut disk = data.to_vec();
    let header = disk.get(512..1024).filter(|header| header.starts_with(b"EFI PART"))?;
    let u32_at = |at: usize| header[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    let (length, first, count) = (u32_at(12)?, u32_at(72)?, u32_at(80)?);
    let start = first.checked_mul(512)?;
    let entries = disk.get(start..start.checked_add(count.checked_mul(128)?)?)?;
    let sum = checksum(entries);
    disk[600..604].copy_from_slice(&sum);
    disk[528..532].fill(0);
    let sum = checksum(disk.get(512..512 + length.min(512))?);
    disk[528..532].copy_from_slice(&sum);
    Some(disk)
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

/// Its partition table and its filesystem.
fn look_at(data: &[u8]) {
    let disk = Disk(data);
    for sector in [512, 4096] {
        if let Ok(table) = Table::read(&disk, Geometry { size: data.len() as u64, sector }) {
            for number in [0, 1, 2, 128, u32::MAX] {
                let _ = table.names(number);
            }
        }
    }
    let _ = Superblock::probe(&disk);
}

struct Disk<'a>(&'a [u8]);

impl FileExt for Disk<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// A kernel module: nothing that is kept is longer than what it was read from.
pub fn module(data: &[u8]) {
    match Facts::read(data) {
        Ok(facts) => {
            let info: usize = facts.info.iter().map(|(key, value)| key.len() + value.len()).sum();
            let names: usize = facts.exports.iter().chain(&facts.needs).map(Vec::len).sum();
            assert!(info <= data.len() && names <= 3 * data.len());
        }
        Err(error) => assert_printable(&error.to_string()),
    }
}
