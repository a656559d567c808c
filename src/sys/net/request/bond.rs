//! `bond=` (dracut.cmdline(7)) and the options of the kernel's bonding driver
//! (Documentation/networking/bonding.rst).
//!
//! In: the value of `bond=`. Out: [`BondRequest`], its options as the
//! attributes that rtnetlink takes. Invariant: an option that is not in the
//! table is an error.

use std::net::Ipv4Addr;

use super::{Field, RequestError};
use crate::sys::net::netlink::nested;

/// One `bond=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BondRequest {
    pub name: String,
    pub members: Vec<String>,
    /// In the order of the command line; the kernel sets the mode first.
    pub options: Vec<BondOption>,
    /// The member to prefer.
    pub primary: Option<String>,
    /// In bytes.
    pub mtu: Option<u32>,
}

/// An attribute of a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BondOption {
    /// `IFLA_BOND_…` of linux/if_link.h.
    pub attribute: u16,
    pub value: Vec<u8>,
}

const MODE: u16 = 1;
const MIIMON: u16 = 3;
const ARP_INTERVAL: u16 = 7;
const ARP_IP_TARGET: u16 = 8;

/// Milliseconds between two looks at the members' links where nothing is
/// said. Without any, a member whose cable is pulled would go on being used.
const DEFAULT_MIIMON: u32 = 100;

/// Bytes of a value.
#[derive(Clone, Copy)]
enum Width {
    One,
    Two,
    Four,
}

use Width::{Four, One, Two};

/// Option, attribute, and the words for its values from 0 on.
const OPTIONS: &[(&str, u16, Width, &[&str])] = &[
    (
        "mode",
        MODE,
        One,
        &["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"],
    ),
    ("miimon", MIIMON, Four, &[]),
    ("updelay", 4, Four, &[]),
    ("downdelay", 5, Four, &[]),
    ("use_carrier", 6, One, &[]),
    ("arp_interval", ARP_INTERVAL, Four, &[]),
    (
        "arp_validate",
        9,
        Four,
        &["none", "active", "backup", "all", "filter", "filter_active", "filter_backup"],
    ),
    ("arp_all_targets", 10, Four, &["any", "all"]),
    ("primary_reselect", 12, One, &["always", "better", "failure"]),
    ("fail_over_mac", 13, One, &["none", "active", "follow"]),
    ("xmit_hash_policy", 14, One, &["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"]),
    ("resend_igmp", 15, Four, &[]),
    ("num_grat_arp", 16, One, &[]),
    ("num_unsol_na", 16, One, &[]),
    ("all_slaves_active", 17, One, &[]),
    ("min_links", 18, Four, &[]),
    ("lp_interval", 19, Four, &[]),
    ("packets_per_slave", 20, Four, &[]),
    ("lacp_rate", 21, One, &["slow", "fast"]),
    ("ad_select", 22, One, &["stable", "bandwidth", "count"]),
    ("ad_actor_sys_prio", 24, Two, &[]),
    ("ad_user_port_key", 25, Two, &[]),
    ("tlb_dynamic_lb", 27, One, &[]),
    ("peer_notif_delay", 28, Four, &[]),
];

impl BondRequest {
    /// dracut's defaults are `bond0` of `eth0` and `eth1`.
    pub(super) fn parse(value: Field) -> Result<Self, RequestError> {
        let fields = value.split();
        if fields.len() > 4 {
            return Err(value.malformed("NAME[:MEMBERS[:OPTIONS[:MTU]]]"));
        }
        let field = |number: usize, default| match fields.get(number) {
            Some(field) if !field.text.is_empty() => *field,
            _ => Field { text: default, ..value },
        };
        let members = field(1, "eth0,eth1").list(',').map(Field::device).collect::<Result<_, _>>()?;
        let mut bond = Self {
            name: field(0, "bond0").device()?,
            members,
            options: Vec::new(),
            primary: None,
            mtu: fields.get(3).map(|field| field.number("an MTU")).transpose()?,
        };
        for option in field(2, "mode=balance-rr").list(',') {
            bond.read_option(option)?;
        }
        let watched = |option: &BondOption| matches!(option.attribute, MIIMON | ARP_INTERVAL);
        if !bond.options.iter().any(watched) {
            bond.options.push(BondOption { attribute: MIIMON, value: DEFAULT_MIIMON.to_ne_bytes().into() });
        }
        Ok(bond)
    }

    fn read_option(&mut self, option: Field) -> Result<(), RequestError> {
        let unknown = || option.malformed("an option of a bond");
        let (name, text) = option.text.split_once('=').ok_or_else(unknown)?;
        let value = Field { text, ..option };
        let option = match name {
            "primary" => {
                self.primary = Some(value.device()?);
                return Ok(());
            }
            "arp_ip_target" => BondOption { attribute: ARP_IP_TARGET, value: targets(value)? },
            _ => {
                let (_, attribute, width, words) =
                    OPTIONS.iter().find(|row| row.0 == name).ok_or_else(unknown)?;
                BondOption { attribute: *attribute, value: number(value, *width, words)? }
            }
        };
        self.options.push(option);
        Ok(())
    }
}

/// A word's place in `words`, or a number.
fn number(field: Field, width: Width, words: &[&str]) -> Result<Vec<u8>, RequestError> {
    let word = words.iter().position(|word| *word == field.text);
    let number = word.and_then(|place| u32::try_from(place).ok()).or_else(|| field.text.parse().ok());
    let bytes = number.and_then(|number: u32| match width {
        One => u8::try_from(number).ok().map(|number| vec![number]),
        Two => u16::try_from(number).ok().map(|number| number.to_ne_bytes().into()),
        Four => Some(number.to_ne_bytes().into()),
    });
    bytes.ok_or_else(|| field.malformed("a value of this option of a bond"))
}

/// Addresses with semicolons between them, as numbered attributes.
fn targets(field: Field) -> Result<Vec<u8>, RequestError> {
    let mut attributes = Vec::new();
    for (number, target) in (0..).zip(field.list(';')) {
        let address: Ipv4Addr = target.text.parse().map_err(|_| target.malformed("an IPv4 address"))?;
        attributes.push((number, address.octets()));
    }
    Ok(nested(attributes.iter().map(|(number, octets)| (*number, &octets[..]))))
}

impl<'a> Field<'a> {
    fn list(self, separator: char) -> impl Iterator<Item = Self> {
        self.text.split(separator).map(move |text| Field { text, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bond(value: &str) -> Result<BondRequest, String> {
        let parameter = format!("bond={value}");
        BondRequest::parse(Field { parameter: &parameter, text: value }).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_attributes() {
        let miimon = |value: u32| (3, value.to_ne_bytes().to_vec());
        for (value, expected) in [
            ("", vec![(1, vec![0]), miimon(100)]),
            ("bond0:eth0,eth1", vec![(1, vec![0]), miimon(100)]),
            ("bond0:eth0:miimon=50,mode=active-backup", vec![miimon(50), (1, vec![1])]),
            ("bond0:eth0:mode=4,lacp_rate=fast", vec![(1, vec![4]), (21, vec![1]), miimon(100)]),
            (
                "bond0:eth0:mode=1,arp_interval=9,arp_ip_target=10.0.0.1;10.0.0.2",
                vec![
                    (1, vec![1]),
                    (7, 9_u32.to_ne_bytes().to_vec()),
                    (8, nested([(0, &[10, 0, 0, 1][..]), (1, &[10, 0, 0, 2])].into_iter())),
                ],
            ),
        ] {
            let bond = bond(value).unwrap();
            assert_eq!((bond.name.as_str(), bond.members[0].as_str()), ("bond0", "eth0"), "{value}");
            let options: Vec<_> = bond.options.into_iter().map(|o| (o.attribute, o.value)).collect();
            assert_eq!(options, expected, "{value}");
        }
        let bond = bond("team1:ens3,ens4:mode=active-backup,primary=ens4:9000").unwrap();
        assert_eq!((bond.name.as_str(), bond.mtu), ("team1", Some(9000)));
        assert_eq!(bond.members, ["ens3", "ens4"]);
        assert_eq!(bond.primary.as_deref(), Some("ens4"));
    }

    #[test]
    fn what_the_driver_does_not_know_is_refused() {
        for (value, expected) in [
            ("bond0:eth0:mode", "`mode` is not an option of a bond"),
            ("bond0:eth0:modus=1", "`modus=1` is not an option of a bond"),
            ("bond0:eth0:mode=fast", "`fast` is not a value of this option of a bond"),
            ("bond0:eth0:mode=256", "`256` is not a value of this option of a bond"),
            (
                "bond0:eth0:arp_ip_target=::1",
                "`bond0:eth0:arp_ip_target=::1` is not NAME[:MEMBERS[:OPTIONS[:MTU]]]",
            ),
            ("bond0:eth0:arp_ip_target=1.2.3", "`1.2.3` is not an IPv4 address"),
            ("bond0:eth0,:mode=0", "`` is not the name of a network device"),
            ("bond0:eth0:mode=0:large", "`large` is not an MTU"),
            ("a/b:eth0", "`a/b` is not the name of a network device"),
        ] {
            assert_eq!(bond(value).unwrap_err(), format!("kernel parameter `bond={value}`: {expected}"));
        }
    }
}
