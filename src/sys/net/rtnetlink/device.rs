//! Devices that are made, renamed and joined: VLANs and bonds.
//!
//! In: what is to be made, its options as attributes. Out: what the kernel
//! has. Invariant: an error names the device it is about.

use super::{IFINFOMSG, IFLA_IFNAME, IFLA_MASTER, Link, RTM_NEWLINK, Rtnetlink, unchanged_link};
use crate::sys::Error;
use crate::sys::net::netlink::{Message, NLM_F_CREATE, NLM_F_EXCL, nested};
use crate::sys::net::request::BondOption;

const RTM_DELLINK: u16 = 17;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_BOND_PRIMARY: u16 = 11;

/// A device to make.
#[derive(Clone, Debug)]
pub struct NewDevice<'a> {
    pub name: &'a str,
    pub kind: DeviceKind<'a>,
}

/// What a new device is.
#[derive(Clone, Debug)]
pub enum DeviceKind<'a> {
    /// A VLAN of this number on the link with the index `on`.
    Vlan {
        id: u16,
        on: u32,
    },
    Bond(&'a [BondOption]),
}

impl Rtnetlink {
    /// Makes a device; one of this name that is there is EEXIST.
    pub fn create(&mut self, device: &NewDevice) -> Result<(), Error> {
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &[0; IFINFOMSG])
            .attribute(IFLA_IFNAME, &terminated(device.name));
        let info = match device.kind {
            DeviceKind::Vlan { id, on } => {
                message = message.attribute(IFLA_LINK, &on.to_ne_bytes());
                info("vlan", &nested([(IFLA_VLAN_ID, &id.to_ne_bytes()[..])].into_iter()))
            }
            DeviceKind::Bond(options) => info("bond", &bond_data(options)),
        };
        self.change_link(&message.attribute(IFLA_LINKINFO, &info), "RTM_NEWLINK", device.name)
    }

    /// Removes a device that was made.
    pub fn delete(&mut self, index: u32, name: &str) -> Result<(), Error> {
        let message = Message::new(RTM_DELLINK, 0, &[[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat());
        self.change_link(&message, "RTM_DELLINK", name)
    }

    /// Renames a link, which must be down.
    pub fn rename(&mut self, link: &Link, name: &str) -> Result<(), Error> {
        let message = unchanged_link(link.index).attribute(IFLA_IFNAME, &terminated(name));
        self.change_link(&message, "RTM_NEWLINK name", format_args!("{} as {name}", link.name))
    }

    /// Makes a link, which must be down, a member of the bond with the index
    /// `master`, or of none.
    pub fn set_master(&mut self, link: &Link, master: Option<u32>) -> Result<(), Error> {
        let message = unchanged_link(link.index).attribute(IFLA_MASTER, &master.unwrap_or(0).to_ne_bytes());
        self.change_link(&message, "RTM_NEWLINK master", &link.name)
    }

    /// Has a bond prefer one of its members.
    pub fn set_primary(&mut self, bond: &Link, member: &Link) -> Result<(), Error> {
        let data = nested([(IFLA_BOND_PRIMARY, &member.index.to_ne_bytes()[..])].into_iter());
        let message = unchanged_link(bond.index).attribute(IFLA_LINKINFO, &info("bond", &data));
        let what = format_args!("{} with {}", bond.name, member.name);
        self.change_link(&message, "RTM_NEWLINK primary", what)
    }
}

fn info(kind: &str, data: &[u8]) -> Vec<u8> {
    nested([(IFLA_INFO_KIND, kind.as_bytes()), (IFLA_INFO_DATA, data)].into_iter())
}

fn bond_data(options: &[BondOption]) -> Vec<u8> {
    nested(options.iter().map(|option| (option.attribute, &option.value[..])))
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}
