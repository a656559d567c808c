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
        let until = self.device_deadline();
        let link = self.wait_for_device(|link| link.mac == Some(rename.mac), wanted, until)?;
        if link.name == rename.name {
            return Ok(());
        }
        self.journal.set_down(&link)?;
        self.journal.rename(&link, &rename.name)
    }

    /// A member that is missing or refused is told of: a bond works with
    /// those it has.
    fn make_bond(&mut self, bond: &BondRequest) -> Result<(), NetError> {
        let device = NewDevice { name: &bond.name, kind: DeviceKind::Bond(&bond.options) };
        let made = self.journal.create(&device)?;
        let until = self.device_deadline();
        let (mut joined, mut failure) = (Vec::new(), None);
        for name in &bond.members {
            match self.join_bond(name, &made, until) {
                Ok(member) => joined.push(member),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(primary) = joined.iter().find(|member| bond.primary.as_ref() == Some(&member.name)) {
            self.journal.netlink.set_primary(&made, primary).map_err(NetError::Kernel)?;
        }
        if let Some(mtu) = bond.mtu {
            self.journal.set_mtu(&made, mtu)?;
        }
        failure.map_or(Ok(()), Err)
    }

    fn join_bond(&mut self, name: &str, bond: &Link, until: Instant) -> Result<Link, NetError> {
        let member = self.wait_for_device(|link| link.name == name, || name.into(), until)?;
        self.journal.set_down(&member)?;
        self.journal.join(&member, bond)?;
        Ok(member)
    }

    fn make_vlan(&mut self, vlan: &VlanRequest) -> Result<(), NetError> {
        let until = self.device_deadline();
        let below = self.wait_for_device(|link| link.name == vlan.device, || vlan.device.clone(), until)?;
        // It has carrier only while the device below is up.
        self.journal.set_up(&below)?;
        let kind = DeviceKind::Vlan { id: vlan.id, on: below.index };
        self.journal.create(&NewDevice { name: &vlan.name, kind }).map(drop)
    }

    fn device_deadline(&self) -> Instant {
        self.deadline.min(Instant::now() + self.requests.timeouts.device)
    }

    fn wait_for_device(
        &mut self,
        fits: impl Fn(&Link) -> bool,
        wanted: impl Fn() -> String,
        until: Instant,
    ) -> Result<Link, NetError> {
        loop {
            if let Some(link) = self.links()?.into_iter().find(&fits) {
                return Ok(link);
            }
            if Instant::now() >= until {
                return Err(NetError::NoDevice { wanted: wanted() });
            }
            thread::sleep(LOOK);
        }
    }
}
