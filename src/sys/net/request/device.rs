//! Devices that the command line renames, or puts on top of others.
//!
//! In: the values of `ifname=` and `vlan=`. Out: [`Rename`], [`VlanRequest`].
//! Invariant: names are names that the kernel accepts.

use super::{Field, MacAddress, RequestError};

/// One `ifname=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    pub name: String,
    /// Of the device that gets the name.
    pub mac: MacAddress,
}

/// One `vlan=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanRequest {
    pub name: String,
    /// IEEE 802.1Q, 1 to 4094.
    pub id: u16,
    /// What carries it.
    pub device: String,
}

impl Rename {
    pub(super) fn parse(value: Field) -> Result<Self, RequestError> {
        let (name, mac) = value.text.split_once(':').ok_or_else(|| value.malformed("NAME:MAC"))?;
        Ok(Self { name: Field { text: name, ..value }.device()?, mac: Field { text: mac, ..value }.mac()? })
    }
}

impl VlanRequest {
    pub(super) fn parse(value: Field) -> Result<Self, RequestError> {
        let [name, device] = value.split()[..] else { return Err(value.malformed("NAME:DEVICE")) };
        let id = vlan_id(name.text)
            .ok_or_else(|| name.malformed("a name that ends in a VLAN number from 1 to 4094"))?;
        Ok(Self { name: name.device()?, id, device: device.device()? })
    }
}

/// The number at the end of a name in one of dracut's four forms: `vlan5`,
/// `vlan0005`, `eth0.5`, `eth0.0005`.
fn vlan_id(name: &str) -> Option<u16> {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (_, digits) = name.split_at_checked(name.len().checked_sub(digits)?)?;
    digits.parse().ok().filter(|id| (1..=4094).contains(id))
}
