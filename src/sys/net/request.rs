//! What the kernel command line asks of the network: `ip=` as the kernel
//! (Documentation/admin-guide/nfs/nfsroot.rst) and dracut.cmdline(7) have it.
//!
//! In: parameters of the command line. Out: [`Requests`]. Invariant: no
//! request is guessed; what is not understood is an error that quotes the
//! parameter.
//!
//! ```text
//! ip=METHOD
//! ip=DEVICE:METHOD[:[MTU][:MAC]]
//! ip=ADDRESS:[PEER]:GATEWAY:NETMASK:HOSTNAME:DEVICE:METHOD[:[DNS1][:[DNS2]] | :[MTU][:MAC]]
//! METHOD   dhcp | on | any | auto6 | off | none | static      IPv6 addresses in [ ]
//! nameserver=ADDRESS   BOOTIF=01-MAC   rd.route=NET/PREFIX:[GATEWAY][:DEVICE]
//! rd.net.timeout.dhcp=SECONDS   rd.net.timeout.carrier=SECONDS
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::MacAddress;
use crate::sys::dhcp::{class_prefix, mask_prefix};
use crate::text::Escaped;

/// Everything the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// At most one for each device, and one for those that none names. Empty
    /// if there is no `ip=`; DHCP on any device is then meant.
    pub interfaces: Vec<IpRequest>,
    /// Come before those that DHCP names.
    pub nameservers: Vec<IpAddr>,
    pub routes: Vec<RouteRequest>,
    /// The device the boot loader used: the one for a request without device.
    pub boot_device: Option<MacAddress>,
    pub timeouts: Timeouts,
}

/// How long to wait within the deadline of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For an answer of a DHCP server or an IPv6 router, once there is carrier.
    pub dhcp: Duration,
    /// For a device to appear and to have carrier.
    pub carrier: Duration,
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
    #[error("kernel parameter `{}`: another ip= is for the same device", Escaped::new(.parameter))]
    Duplicate { parameter: String },
}

impl Default for Timeouts {
    /// A switch may keep a port closed for 30 s after carrier (IEEE 802.1D).
    fn default() -> Self {
        Self { dhcp: Duration::from_secs(60), carrier: Duration::from_secs(10) }
    }
}

impl Requests {
    /// Reads the parameters that concern the network; others are passed over.
    pub fn parse(parameters: &[(&str, &str)]) -> Result<Self, RequestError> {
        let mut requests = Self::default();
        for (key, value) in parameters {
            let field = Field { parameter: &format!("{key}={value}"), text: value };
            match *key {
                "ip" => {
                    let request = IpRequest::parse(field)?;
                    if requests.interfaces.iter().any(|other| other.device == request.device) {
                        return Err(RequestError::Duplicate { parameter: field.parameter.into() });
                    }
                    requests.interfaces.push(request);
                }
                "nameserver" => requests.nameservers.push(field.address()?),
                "rd.route" => requests.routes.push(RouteRequest::parse(field)?),
                "BOOTIF" => requests.boot_device = Some(field.boot_device()?),
                "rd.net.timeout.dhcp" => requests.timeouts.dhcp = field.seconds()?,
                "rd.net.timeout.carrier" => requests.timeouts.carrier = field.seconds()?,
                _ => {}
            }
        }
        Ok(requests)
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
            "dhcp" | "on" | "any" => Ok(Some(Method::Dhcp)),
            "auto6" => Ok(Some(Method::Auto6)),
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
