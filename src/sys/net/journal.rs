//! Changes to the network that can be taken back.
//!
//! In: changes. Out: the kernel's network, and in the end nothing of them.
//! Invariant: a change that succeeded is noted before the next is tried, and
//! taking back goes from the last to the first.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Address, Change, Link, MacAddress, NetError, NewDevice, Route, Rtnetlink};
use crate::sys::Error;

/// The network and what was changed in it.
#[derive(Debug)]
pub struct Journal {
    pub netlink: Rtnetlink,
    undo: Vec<Undo>,
}

/// How to take one change back.
#[derive(Debug)]
enum Undo {
    Up(Link),
    Down(Link),
    Name(Link),
    Member(Link),
    Device { index: u32, name: String },
    Mtu(Link, u32),
    Mac(Link, MacAddress),
    Address(Address),
    Route(Route),
    Setting { link: u32, path: PathBuf, before: Vec<u8> },
    File { path: PathBuf, saved: Option<PathBuf> },
}

impl Journal {
    pub fn open() -> Result<Self, NetError> {
        let netlink = Rtnetlink::open().map_err(NetError::Kernel)?;
        Ok(Self { netlink, undo: Vec::new() })
    }

    /// Puts the link up unless it is.
    pub fn set_up(&mut self, link: &Link) -> Result<(), NetError> {
        if !link.up {
            self.netlink.set_up(link).map_err(NetError::Kernel)?;
            self.undo.push(Undo::Down(link.clone()));
        }
        Ok(())
    }

    /// Takes the link down unless it is.
    pub fn set_down(&mut self, link: &Link) -> Result<(), NetError> {
        if link.up {
            self.netlink.set_down(link).map_err(NetError::Kernel)?;
            self.undo.push(Undo::Up(link.clone()));
        }
        Ok(())
    }

    /// Gives the link, which must be down, another name.
    pub fn rename(&mut self, link: &Link, name: &str) -> Result<(), NetError> {
        self.netlink.rename(link, name).map_err(NetError::Kernel)?;
        self.undo.push(Undo::Name(link.clone()));
        Ok(())
    }

    /// Makes a device. One that has the name already is taken as it is.
    pub fn create(&mut self, device: &NewDevice) -> Result<Link, NetError> {
        let is_new = is_new(self.netlink.create(device))?;
        let links = self.netlink.links().map_err(NetError::Kernel)?;
        let link = links.into_iter().find(|link| link.name == device.name);
        let link = link.ok_or_else(|| NetError::NoDevice { wanted: device.name.into() })?;
        if is_new {
            self.undo.push(Undo::Device { index: link.index, name: link.name.clone() });
        }
        Ok(link)
    }

    /// Makes the link, which must be down, a member of a bond.
    pub fn join(&mut self, link: &Link, bond: &Link) -> Result<(), NetError> {
        self.netlink.set_master(link, Some(bond.index)).map_err(NetError::Kernel)?;
        self.undo.push(Undo::Member(link.clone()));
        Ok(())
    }

    /// Takes over what another journal has noted, as if noted now.
    pub fn append(&mut self, other: Self) {
        self.undo.extend(other.undo);
    }

    /// Sets the largest packet, in bytes.
    pub fn set_mtu(&mut self, link: &Link, mtu: u32) -> Result<(), NetError> {
        if link.mtu != mtu {
            self.netlink.set_mtu(link, mtu).map_err(NetError::Kernel)?;
            self.undo.push(Undo::Mtu(link.clone(), link.mtu));
        }
        Ok(())
    }

    /// Sets the hardware address.
    pub fn set_mac(&mut self, link: &Link, mac: MacAddress) -> Result<(), NetError> {
        let Some(before) = link.mac.filter(|&before| before != mac) else { return Ok(()) };
        self.netlink.set_mac(link, mac).map_err(NetError::Kernel)?;
        self.undo.push(Undo::Mac(link.clone(), before));
        Ok(())
    }

    /// Adds the address unless it is there.
    pub fn add_address(&mut self, address: Address) -> Result<(), NetError> {
        if is_new(self.netlink.change_address(Change::Add, &address))? {
            self.undo.push(Undo::Address(address));
        }
        Ok(())
    }

    /// Adds the route. One to the same destination that is there stays: of
    /// two default routes the first serves.
    pub fn add_route(&mut self, route: Route) -> Result<(), NetError> {
        if is_new(self.netlink.change_route(Change::Add, &route))? {
            self.undo.push(Undo::Route(route));
        }
        Ok(())
    }

    /// Writes a setting below `/proc/sys` that belongs to `link`.
    pub fn write_setting(&mut self, link: &Link, path: PathBuf, value: &str) -> Result<(), NetError> {
        let before = fs::read(&path).map_err(|source| NetError::Write { path: path.clone(), source })?;
        if before.trim_ascii() != value.as_bytes() {
            fs::write(&path, value).map_err(|source| NetError::Write { path: path.clone(), source })?;
            self.undo.push(Undo::Setting { link: link.index, path, before });
        }
        Ok(())
    }

    /// Writes a file in place of what has its name, a link as well, which
    /// comes back in the end.
    pub fn replace_file(&mut self, path: &Path, content: &str) -> Result<(), NetError> {
        let failed = |source| NetError::Write { path: path.into(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let beside = path.with_extension("plywood-saved");
        let saved = match fs::rename(path, &beside) {
            Ok(()) => Some(beside),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(failed(source)),
        };
        self.undo.push(Undo::File { path: path.into(), saved });
        fs::write(path, content).map_err(failed)
    }

    /// Takes back what was done to one link.
    pub fn release(&mut self, link: u32) -> Result<(), NetError> {
        self.take_back(|undo| undo.link() == Some(link))
    }

    /// Takes everything back, as far as it goes; the error is the first.
    pub fn release_all(&mut self) -> Result<(), NetError> {
        self.take_back(|_| true)
    }

    fn take_back(&mut self, concerned: impl Fn(&Undo) -> bool) -> Result<(), NetError> {
        let (mut mine, others) = std::mem::take(&mut self.undo).into_iter().partition::<Vec<_>, _>(concerned);
        self.undo = others;
        let mut result = Ok(());
        while let Some(undo) = mine.pop() {
            result = result.and(self.revert(undo));
        }
        result
    }

    fn revert(&mut self, undo: Undo) -> Result<(), NetError> {
        let result = match undo {
            Undo::Up(link) => self.netlink.set_up(&link),
            Undo::Down(link) => self.netlink.set_down(&link),
            Undo::Name(link) => self.netlink.rename(&link, &link.name),
            Undo::Member(link) => self.netlink.set_master(&link, link.master),
            Undo::Device { index, name } => self.netlink.delete(index, &name),
            Undo::Mtu(link, mtu) => self.netlink.set_mtu(&link, mtu),
            Undo::Mac(link, mac) => self.netlink.set_mac(&link, mac),
            Undo::Address(address) => self.netlink.change_address(Change::Remove, &address),
            Undo::Route(route) => self.netlink.change_route(Change::Remove, &route),
            Undo::Setting { path, before, .. } => return write_back(path, |path| fs::write(path, before)),
            Undo::File { path, saved: Some(saved) } => {
                return write_back(path, |path| fs::rename(saved, path));
            }
            Undo::File { path, saved: None } => return write_back(path, |path| fs::remove_file(path)),
        };
        match result {
            // Gone with its link, or with an address that carried it.
            Err(Error { source: Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL, .. }) => Ok(()),
            result => result.map_err(NetError::Kernel),
        }
    }
}

impl Undo {
    fn link(&self) -> Option<u32> {
        match self {
            Self::Up(link)
            | Self::Down(link)
            | Self::Name(link)
            | Self::Member(link)
            | Self::Mtu(link, _)
            | Self::Mac(link, _) => Some(link.index),
            Self::Device { index, .. } => Some(*index),
            Self::Address(address) => Some(address.link),
            Self::Route(route) => Some(route.link),
            Self::Setting { link, .. } => Some(*link),
            Self::File { .. } => None,
        }
    }
}

/// Whether something was added: what is there already is not ours to remove.
fn is_new(result: Result<(), Error>) -> Result<bool, NetError> {
    match result {
        Ok(()) => Ok(true),
        Err(Error { source: Errno::EXIST, .. }) => Ok(false),
        Err(error) => Err(NetError::Kernel(error)),
    }
}

/// Puts a file back; one that is gone, as the settings of a link that was
/// pulled out, needs nothing.
fn write_back(path: PathBuf, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), NetError> {
    match write(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| NetError::Write { path, source }),
    }
}
