//! What the kernel command line asks of the network: `ip=` as the kernel
//! (Documentation/admin-guide/nfs/nfsroot.rst) and dracut.cmdline(7) have it.
//!
//! In: parameters of the command line. Out: [`Requests`]. Invariant: no
//! request is guessed; what is not understood is left out and comes back as an
//! error that quotes the parameter.
//!
//! ```text
//! ip=METHOD
//! ip=DEVICE:METHOD[:[MTU][:MAC]]
//! ip=ADDRESS:[PEER]:GATEWAY:NETMASK:HOSTNAME:DEVICE:METHOD[:[DNS1][:[DNS2]] | :[MTU][:MAC]]
//! METHOD   dhcp | on | any | single-dhcp | auto6 | either6 | off | none | static      IPv6 addresses in [ ]
//! nameserver=ADDRESS   rd.route=NET/PREFIX:[GATEWAY][:DEVICE]   bootdev=DEVICE   BOOTIF=01-MAC
//! ifname=NAME:MAC   vlan=NAME:DEVICE   bond=NAME[:MEMBERS[:OPTIONS[:MTU]]]
//! rd.peerdns=0   rd.bootif=0   rd.net.dhcp.retry=N   rd.net.timeout.WHAT=SECONDS
//! ```

mod bond;
mod device;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub use self::bond::{BondOption, BondRequest};
pub use self::device::{Rename, VlanRequest};
use super::MacAddress;
use crate::sys::dhcp::{class_prefix, mask_prefix};
use crate::text::Escaped;

/// Everything the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// At most one for each device, and one for those that none names. Empty
    /// if there is no `ip=`; DHCP on any device is then meant.
    pub interfaces: Vec<IpRequest>,
    /// Come before those that DHCP servers and routers name.
    pub nameservers: Vec<IpAddr>,
    pub peer_nameservers: PeerNameservers,
    pub routes: Vec<RouteRequest>,
    /// The device for a request without device. The request for it is the
    /// first of `interfaces`, so that it has the default route.
    pub boot_device: Option<BootDevice>,
    pub renames: Vec<Rename>,
    pub bonds: Vec<BondRequest>,
    pub vlans: Vec<VlanRequest>,
    pub timeouts: Timeouts,
}

/// The device that counts where several could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootDevice {
    /// `BOOTIF=`: the one that the boot loader used.
    Address(MacAddress),
    /// `bootdev=`
    Name(String),
}

/// What is done with name servers that DHCP servers and routers name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerNameservers {
    #[default]
    Use,
    /// `rd.peerdns=0`
    Ignore,
}

/// How long to wait within the deadline of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a device to appear.
    pub device: Duration,
    /// For a device that is there to have carrier.
    pub carrier: Duration,
    /// For an answer of a DHCP server, once there is carrier.
    pub dhcp: Duration,
    /// For an address from an IPv6 router, once there is carrier.
    pub router: Duration,
    /// For duplicate detection to pass an IPv6 address (RFC 4862, section
    /// 5.4), which takes a second or two.
    pub duplicates: Duration,
}

/// One `ip=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpRequest {
    /// None is any Ethernet device that no other request names.
    pub device: Option<String>,
    pub method: Method,
    /// What the machine calls itself when it asks a DHCP server.
    pub hostname: Option<String>,
    pub nameservers: Vec<IpAddr>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// Hardware address to set before the device goes up.
    pub mac: Option<MacAddress>,
}

/// How a device gets its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    Off,
    Dhcp,
    /// By IPv6 router advertisements.
    Auto6,
    Static(StaticAddress),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticAddress {
    pub address: IpAddr,
    pub prefix: u8,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
}

/// One `rd.route=`; it has a gateway, a device or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRequest {
    pub destination: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    pub device: Option<String>,
}

/// Why a parameter cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("kernel parameter `{}`: `{}` is not {what}", Escaped::new(.parameter), Escaped::new(.field))]
    Malformed { parameter: String, field: String, what: &'static str },
    #[error("kernel parameter `{}`: {what} missing", Escaped::new(.parameter))]
    Missing { parameter: String, what: &'static str },
    #[error("kernel parameter `{}`: another one is for the same device", Escaped::new(.parameter))]
    Duplicate { parameter: String },
    #[error("kernel parameter `{}`: not supported", Escaped::new(.parameter))]
    Unsupported { parameter: String },
}

/// What dracut.cmdline(7) knows of the network and we do not.
const UNSUPPORTED: [&str; 5] = ["bridge", "team", "netroot", "rd.znet", "rd.net.dhcp.vendor-class"];

impl Default for Timeouts {
    /// A switch may keep a port closed for 30 s after carrier (IEEE 802.1D).
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            device: seconds(10),
            carrier: seconds(10),
            dhcp: seconds(60),
            router: seconds(40),
            duplicates: seconds(10),
        }
    }
}

impl Requests {
    /// Reads the parameters that concern the network; others are passed over.
    /// Each error is about one that is left out.
    pub fn parse(parameters: &[(&str, &str)]) -> (Self, Vec<RequestError>) {
        let mut requests = Self::default();
        let mut errors = Vec::new();
        // What changes the meaning of others is read after them.
        let modifies = |key: &str| matches!(key, "rd.bootif" | "rd.net.dhcp.retry");
        let (last, first) = parameters.iter().partition::<Vec<_>, _>(|(key, _)| modifies(key));
        for (key, value) in first.into_iter().chain(last) {
            let field = Field { parameter: &format!("{key}={value}"), text: value };
            errors.extend(requests.read(key, field).err());
        }
        if let Some(BootDevice::Name(device)) = &requests.boot_device {
            requests.interfaces.sort_by_key(|request| request.device.as_ref() != Some(device));
        }
        (requests, errors)
    }

    fn read(&mut self, key: &str, value: Field) -> Result<(), RequestError> {
        match key {
            "ip" => self.add_interface(value)?,
            "nameserver" => self.nameservers.push(value.address()?),
            "rd.peerdns" if !value.flag()? => self.peer_nameservers = PeerNameservers::Ignore,
            "rd.route" => self.routes.push(RouteRequest::parse(value)?),
            "BOOTIF" => self.boot_device = Some(BootDevice::Address(value.boot_device()?)),
            "rd.bootif" if !value.flag()? => {
                self.boot_device.take_if(|device| matches!(device, BootDevice::Address(_)));
            }
            "bootdev" => self.boot_device = Some(BootDevice::Name(value.device()?)),
            "ifname" => self.renames.push(Rename::parse(value)?),
            "vlan" => self.vlans.push(VlanRequest::parse(value)?),
            "bond" => self.bonds.push(BondRequest::parse(value)?),
            "rd.net.dhcp.retry" => self.timeouts.dhcp = self.timeouts.dhcp.saturating_mul(value.tries()?),
            "rd.net.timeout.dhcp" => self.timeouts.dhcp = value.seconds()?,
            "rd.net.timeout.carrier" | "rd.net.timeout.ifup" => self.timeouts.carrier = value.seconds()?,
            "rd.net.timeout.iflink" => self.timeouts.device = value.seconds()?,
            "rd.net.timeout.ipv6auto" => self.timeouts.router = value.seconds()?,
            "rd.net.timeout.ipv6dad" => self.timeouts.duplicates = value.seconds()?,
            // Routes are there when the kernel says so; there is no wait to limit.
            "rd.net.timeout.route" => drop(value.seconds()?),
            _ if UNSUPPORTED.contains(&key) => {
                return Err(RequestError::Unsupported { parameter: value.parameter.into() });
            }
            _ => {}
        }
        Ok(())
    }

    fn add_interface(&mut self, value: Field) -> Result<(), RequestError> {
        let request = IpRequest::parse(value)?;
        if self.interfaces.iter().any(|other| other.device == request.device) {
            return Err(RequestError::Duplicate { parameter: value.parameter.into() });
        }
        self.interfaces.push(request);
        Ok(())
    }

    /// Kernel modules that the devices asked for need, each with parameters.
    pub fn modules(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        // Unasked, the first one makes a device bond0.
        let bonding = (!self.bonds.is_empty()).then_some(("bonding", "max_bonds=0"));
        bonding.into_iter().chain((!self.vlans.is_empty()).then_some(("8021q", "")))
    }

    /// Whether a device only carries another one, and has no address of its own.
    pub(super) fn is_part(&self, device: &str) -> bool {
        let in_bond = self.bonds.iter().flat_map(|bond| &bond.members).any(|member| member == device);
        in_bond || self.vlans.iter().any(|vlan| vlan.device == device)
    }
}

impl IpRequest {
    /// DHCP on whatever device there is, what a bare `ip=dhcp` asks for.
    pub fn dhcp() -> Self {
        let method = Method::Dhcp;
        Self { device: None, method, hostname: None, nameservers: Vec::new(), mtu: None, mac: None }
    }

    fn parse(value: Field) -> Result<Self, RequestError> {
        let fields = value.split();
        let mut request = Self::dhcp();
        match fields[..] {
            [only] if only.address().is_err() => request.method = only.method()?.unwrap_or(Method::Off),
            [device, method, ref rest @ ..] if !method.text.is_empty() && device.is_no_address() => {
                request.device = Some(device.device()?);
                request.method = method.method()?.unwrap_or(Method::Dhcp);
                request.parse_mtu_and_mac(rest)?;
            }
            _ => request.parse_long(&fields)?,
        }
        Ok(request)
    }

    /// The form that begins with the machine's address. What is left out at
    /// the end is empty.
    fn parse_long(&mut self, fields: &[Field]) -> Result<(), RequestError> {
        let field = |number: usize| fields.get(number).copied().filter(|field| !field.text.is_empty());
        self.hostname = field(4).map(|field| field.hostname()).transpose()?;
        self.device = field(5).map(|field| field.device()).transpose()?;
        let method = field(6).map(|field| field.method()).transpose()?.flatten();
        self.method = match (field(0), method) {
            (None, method) => method.unwrap_or(Method::Dhcp),
            (Some(_), Some(automatic @ (Method::Dhcp | Method::Auto6))) => automatic,
            (Some(address), _) => {
                Method::Static(StaticAddress::parse(address, [field(1), field(2), field(3)])?)
            }
        };
        match fields.get(7..).unwrap_or_default() {
            rest @ [mtu, ..] if mtu.is_number() => self.parse_mtu_and_mac(rest),
            rest @ [mtu, mac @ ..] if mtu.text.is_empty() && mac.len() == 6 => self.parse_mtu_and_mac(rest),
            // Behind two name servers the kernel knows a time server, which is of no use here.
            rest => {
                for field in rest.iter().take(2).filter(|field| !field.text.is_empty()) {
                    self.nameservers.push(field.address()?);
                }
                Ok(())
            }
        }
    }

    fn parse_mtu_and_mac(&mut self, fields: &[Field]) -> Result<(), RequestError> {
        let [mtu, mac @ ..] = fields else { return Ok(()) };
        if !mtu.text.is_empty() {
            self.mtu = Some(mtu.number("an MTU")?);
        }
        if !mac.is_empty() {
            let joined = mac.iter().map(|field| field.text).collect::<Vec<_>>().join(":");
            self.mac = Some(Field { parameter: mtu.parameter, text: &joined }.mac()?);
        }
        Ok(())
    }
}

impl StaticAddress {
    /// `others` are the peer, the gateway and the netmask.
    fn parse(address: Field, others: [Option<Field>; 3]) -> Result<Self, RequestError> {
        let [peer, gateway, netmask] = others;
        let ip = address.address()?;
        let same_family = |field: Field| match field.address()? {
            other if other.is_ipv4() == ip.is_ipv4() => Ok(other),
            _ => Err(field.malformed("an address of the same family as the machine's")),
        };
        let gateway = gateway.map(same_family).transpose()?;
        let prefix = match (netmask, ip) {
            (Some(netmask), _) => netmask.prefix(ip)?,
            (None, IpAddr::V4(ip)) => class_prefix(ip),
            (None, IpAddr::V6(_)) => {
                return Err(RequestError::Missing {
                    parameter: address.parameter.into(),
                    what: "the prefix length is",
                });
            }
        };
        // dracut means the other end of the link, the kernel an NFS server. Only
        // where the prefix covers nothing else can it be the former.
        let peer = peer.map(same_family).transpose()?.filter(|_| prefix == host_prefix(ip));
        Ok(Self { address: ip, prefix, peer, gateway })
    }
}

impl RouteRequest {
    fn parse(value: Field) -> Result<Self, RequestError> {
        let fields = value.split();
        let (destination, rest) = match fields[..] {
            [destination, ref rest @ ..] if rest.len() <= 2 => (destination, rest),
            _ => return Err(value.malformed("NET/PREFIX:[GATEWAY][:DEVICE]")),
        };
        let field = |number: usize| rest.get(number).copied().filter(|field| !field.text.is_empty());
        let text = destination.text.trim_start_matches('[').trim_end_matches(']');
        let (network, prefix) =
            text.split_once('/').ok_or_else(|| destination.malformed("a network and its prefix"))?;
        let network = Field { text: network, ..destination }.address()?;
        let prefix = Field { text: prefix, ..destination }.prefix(network)?;
        let gateway = field(0).map(|field| field.address()).transpose()?;
        let device = field(1).map(|field| field.device()).transpose()?;
        match (gateway, &device) {
            (None, None) => Err(RequestError::Missing {
                parameter: value.parameter.into(),
                what: "the gateway or the device is",
            }),
            (Some(gateway), _) if gateway.is_ipv4() != network.is_ipv4() => {
                Err(value.malformed("a route whose gateway is of the same family as its network"))
            }
            _ => Ok(Self { destination: masked(network, prefix), prefix, gateway, device }),
        }
    }
}

/// A part of a parameter, with the whole for the error.
#[derive(Clone, Copy)]
struct Field<'a> {
    parameter: &'a str,
    text: &'a str,
}

impl<'a> Field<'a> {
    fn malformed(self, what: &'static str) -> RequestError {
        RequestError::Malformed { parameter: self.parameter.into(), field: self.text.into(), what }
    }

    /// The parts between colons, those inside brackets aside.
    fn split(self) -> Vec<Self> {
        let mut depth = 0;
        let parts = self.text.split(move |c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            c == ':' && depth <= 0
        });
        parts.map(|text| Field { text, ..self }).collect()
    }

    fn address(self) -> Result<IpAddr, RequestError> {
        let bare = self.text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(self.text);
        match bare.parse::<IpAddr>() {
            Ok(address) if !address.is_multicast() => Ok(address),
            _ => Err(self.malformed("an IP address")),
        }
    }

    fn is_no_address(self) -> bool {
        !self.text.is_empty() && self.address().is_err()
    }

    fn is_number(self) -> bool {
        !self.text.is_empty() && self.text.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// A netmask, or the length of a prefix.
    fn prefix(self, address: IpAddr) -> Result<u8, RequestError> {
        let by_mask =
            || self.text.parse::<Ipv4Addr>().ok().filter(|_| address.is_ipv4()).and_then(mask_prefix);
        let prefix = self.text.parse::<u8>().ok().or_else(by_mask);
        prefix
            .filter(|&prefix| prefix <= host_prefix(address))
            .ok_or_else(|| self.malformed("a netmask or prefix length"))
    }

    /// None for no word at all.
    fn method(self) -> Result<Option<Method>, RequestError> {
        match self.text {
            "" => Ok(None),
            "dhcp" | "on" | "any" | "single-dhcp" => Ok(Some(Method::Dhcp)),
            "auto6" | "either6" => Ok(Some(Method::Auto6)),
            "off" | "none" | "static" => Ok(Some(Method::Off)),
            _ => Err(self.malformed("one of dhcp, on, any, auto6, off, none, static")),
        }
    }

    /// A name that the kernel accepts for a device (`dev_valid_name`).
    fn device(self) -> Result<String, RequestError> {
        let valid = (1..16).contains(&self.text.len())
            && !matches!(self.text, "." | "..")
            && self.text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
        if valid { Ok(self.text.into()) } else { Err(self.malformed("the name of a network device")) }
    }

    fn hostname(self) -> Result<String, RequestError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let valid = self.text.len() <= 64 && self.text.bytes().all(is_allowed);
        if valid { Ok(self.text.into()) } else { Err(self.malformed("a host name")) }
    }

    /// `01-52-54-00-12-34-56`, as PXELINUX writes it: the type of hardware,
    /// which may be left out, and the address.
    fn boot_device(self) -> Result<MacAddress, RequestError> {
        let address = self.text.get(3..).filter(|_| self.text.len() == 20 && self.text.starts_with("01"));
        Field { text: address.unwrap_or(self.text), ..self }.mac()
    }

    fn mac(self) -> Result<MacAddress, RequestError> {
        self.text.parse().map_err(|_| self.malformed("an Ethernet address"))
    }

    fn seconds(self) -> Result<Duration, RequestError> {
        self.number("a number of seconds").map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn tries(self) -> Result<u32, RequestError> {
        self.number("a number of tries from 1 on").and_then(|tries| match tries {
            0 => Err(self.malformed("a number of tries from 1 on")),
            tries => Ok(tries),
        })
    }

    /// A boolean of dracut's; the bare key is on.
    fn flag(self) -> Result<bool, RequestError> {
        match self.text {
            "" | "1" | "yes" | "on" => Ok(true),
            "0" | "no" | "off" => Ok(false),
            _ => Err(self.malformed("0 or 1")),
        }
    }

    fn number(self, what: &'static str) -> Result<u32, RequestError> {
        self.text.parse().map_err(|_| self.malformed(what))
    }
}

/// The length of a prefix that covers one address.
pub fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with the bits behind the prefix cleared. The kernel refuses
/// routes with others.
pub fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

#[cfg(test)]
mod tests;
