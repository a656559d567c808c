//! What has to be there before any device can get an address: names as the
//! command line wants them, bonds, and VLANs, which may be on a bond.
//!
//! In: `ifname=`, `bond=`, `vlan=`. Out: links. Invariant: each change is in
//! the journal, and one that fails does not hinder the others.

use std::thread;
use std::time::Instant;

use super::{LOOK, Setup};
use crate::sys::net::request::{BondRequest, Rename, VlanRequest};
use crate::sys::net::{DeviceKind, Link, NetError, NewDevice};

impl Setup<'_> {
    /// Makes all devices; what comes back are the failures.
    pub(super) fn make_devices(&mut self) -> Vec<NetError> {
        let requests = self.requests;
        let renamed: Vec<_> = requests.renames.iter().map(|rename| self.rename(rename)).collect();
        let bonds: Vec<_> = requests.bonds.iter().map(|bond| self.make_bond(bond)).collect();
        let vlans: Vec<_> = requests.vlans.iter().map(|vlan| self.make_vlan(vlan)).collect();
        renamed.into_iter().chain(bonds).chain(vlans).filter_map(Result::err).collect()
    }

    fn rename(&mut self, rename: &Rename) -> Result<(), NetError> {
        let wanted = || format!("with address {}", rename.mac);
        let link = self.wait_for_device(|link| link.mac == Some(rename.mac), wanted)?;
        if link.name == rename.name {
            return Ok(());
        }
        self.journal.set_down(&link)?;
        self.journal.rename(&link, &rename.name)
    }

    /// The first member that is missing ends the wait for all: a bond works
    /// with those it has.
    fn make_bond(&mut self, bond: &BondRequest) -> Result<(), NetError> {
        let device = NewDevice { name: &bond.name, kind: DeviceKind::Bond(&bond.options) };
        let made = self.journal.create(&device)?;
        let (mut joined, mut missing) = (Vec::new(), None);
        for name in &bond.members {
            match self.wait_for_device(|link| link.name == *name, || name.clone()) {
                Ok(member) => {
                    self.journal.set_down(&member)?;
                    self.journal.join(&member, &made)?;
                    joined.push(member);
                }
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        if let Some(primary) = joined.iter().find(|member| bond.primary.as_ref() == Some(&member.name)) {
            self.journal.netlink.set_primary(&made, primary).map_err(NetError::Kernel)?;
        }
        if let Some(mtu) = bond.mtu {
            self.journal.set_mtu(&made, mtu)?;
        }
        missing.map_or(Ok(()), Err)
    }

    fn make_vlan(&mut self, vlan: &VlanRequest) -> Result<(), NetError> {
        let below = self.wait_for_device(|link| link.name == vlan.device, || vlan.device.clone())?;
        // It has carrier only while the device below is up.
        self.journal.set_up(&below)?;
        let kind = DeviceKind::Vlan { id: vlan.id, on: below.index };
        self.journal.create(&NewDevice { name: &vlan.name, kind }).map(drop)
    }

    fn wait_for_device(
        &mut self,
        fits: impl Fn(&Link) -> bool,
        wanted: impl Fn() -> String,
    ) -> Result<Link, NetError> {
        let started = Instant::now();
        loop {
            if let Some(link) = self.links()?.into_iter().find(&fits) {
                return Ok(link);
            }
            if started.elapsed() >= self.requests.timeouts.device || Instant::now() >= self.deadline {
                return Err(NetError::NoDevice { wanted: wanted() });
            }
            thread::sleep(LOOK);
        }
    }
}
