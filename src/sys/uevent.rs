//! Device events of the kernel: what udev listens to, without udev.
//!
//! In: messages of the kernel's `NETLINK_KOBJECT_UEVENT` group, and the
//! `uevent` files below `/sys/devices` for devices that were there before
//! anyone listened. Out: [`Uevent`]. Invariant: only messages that the kernel
//! itself sent are read; other processes can send to the group too.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with, sockopt};

use super::deadline::Deadline;
use super::{Error, failed, sysfs};

/// The multicast group that the kernel sends to; udev's own is 2.
const KERNEL_GROUP: u32 = 1;

/// The kernel's limit for the variables of one event is 2 KiB, the header is
/// a path; a message that does not fit is cut, and parses as far as it goes.
const MESSAGE_LEN: usize = 8192;

/// Room for a burst of events while modules are being loaded, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Deepest directory below `/sys/devices` that is looked at.
const MAX_DEPTH: u32 = 32;

/// Something happened to a device, or one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    /// `KEY=value` as the kernel sent it, in its order.
    variables: Vec<(String, String)>,
}

impl Uevent {
    /// Reads a kernel message: `action@devpath`, then `KEY=value`, each ended
    /// by NUL. `None` for anything else, such as udev's binary messages.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut fields = message.split(|&byte| byte == 0);
        let header = fields.next()?;
        header.contains(&b'@').then(|| Self { variables: fields.filter_map(variable).collect() })
    }

    /// Reads a `uevent` file of sysfs: `KEY=value` lines of a device that is
    /// there already.
    fn present(text: &[u8]) -> Self {
        let action = [("ACTION".into(), "add".into())];
        Self {
            variables: action.into_iter().chain(text.split(|&b| b == b'\n').filter_map(variable)).collect(),
        }
    }

    /// A variable's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.variables.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// `add`, `remove`, `change`, …
    pub fn action(&self) -> Option<&str> {
        self.get("ACTION")
    }

    /// `block`, `net`, `pci`, …
    pub fn subsystem(&self) -> Option<&str> {
        self.get("SUBSYSTEM")
    }

    /// What module aliases are matched against, of a device that just came.
    pub fn modalias(&self) -> Option<&str> {
        self.get("MODALIAS").filter(|_| self.action() == Some("add"))
    }
}

fn variable(field: &[u8]) -> Option<(String, String)> {
    let (key, value) = std::str::from_utf8(field).ok()?.split_once('=')?;
    Some((key.to_owned(), value.to_owned()))
}

/// What listening brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Event(Uevent),
    /// Events came faster than they were read and some are lost: look at
    /// `/sys` again.
    Overrun,
    TimedOut,
}

/// A socket on which the kernel's events arrive.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Events are kept from this moment on.
    pub fn open() -> Result<Self, Error> {
        const WHAT: &str = "kernel device events";
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))
            .map_err(failed("socket", WHAT))?;
        // Only root may exceed the system's limit; the default also works.
        if let Err(error) = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER) {
            log::debug!("cannot enlarge the buffer for device events, ignored: {error}");
        }
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP)).map_err(failed("bind", WHAT))?;
        Ok(Self { socket })
    }

    /// Waits for the next event.
    pub fn next(&self, deadline: Deadline) -> Result<Received, Error> {
        let mut message = [0; MESSAGE_LEN];
        loop {
            match recvfrom(&self.socket, &mut message[..], RecvFlags::empty()) {
                Ok((len, _, sender)) => {
                    let sender = sender.and_then(|address| SocketAddrNetlink::try_from(address).ok());
                    if sender.is_some_and(|sender| sender.pid() == 0)
                        && let Some(event) = message.get(..len).and_then(Uevent::parse)
                    {
                        return Ok(Received::Event(event));
                    }
                }
                Err(Errno::NOBUFS) => return Ok(Received::Overrun),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if deadline.is_over() => return Ok(Received::TimedOut),
                Err(Errno::AGAIN) => self.wait(deadline)?,
                Err(error) => return Err(failed("recvfrom", "kernel device events")(error)),
            }
        }
    }

    /// Reads what has already arrived, without waiting. Returns whether it
    /// brought anything.
    pub fn drain(&self, on_event: &mut dyn FnMut(&Uevent)) -> Result<bool, Error> {
        let mut any = false;
        loop {
            match self.next(Deadline::after(Duration::ZERO))? {
                Received::Event(event) => on_event(&event),
                Received::Overrun => coldplug(on_event),
                Received::TimedOut => return Ok(any),
            }
            any = true;
        }
    }

    fn wait(&self, deadline: Deadline) -> Result<(), Error> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, deadline.timeout().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(failed("poll", "kernel device events")(error)),
        }
    }
}

/// Reports every device that is there as if it had just been added, parents
/// before children. What vanishes meanwhile is passed over.
pub fn coldplug(on_event: &mut dyn FnMut(&Uevent)) {
    walk(Path::new("/sys/devices"), 0, on_event);
}

fn walk(directory: &Path, depth: u32, on_event: &mut dyn FnMut(&Uevent)) {
    match sysfs::read(&directory.join("uevent")) {
        Ok(text) => on_event(&Uevent::present(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log::debug!("cannot read {}/uevent, ignored: {error}", directory.display()),
    }
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        // `is_dir` of an entry is false for symlinks, of which sysfs has loops.
        if depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), depth + 1, on_event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernel_messages_parse() {
        let message = b"add@/devices/pci0000:00/0000:00:04.0\0ACTION=add\0SUBSYSTEM=pci\0\
            MODALIAS=pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00\0SEQNUM=1203\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!(event.action(), Some("add"));
        assert_eq!(event.subsystem(), Some("pci"));
        assert_eq!(event.modalias(), Some("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00"));
        assert_eq!(event.get("SEQNUM"), Some("1203"));
        for other in [&b"libudev\0\xfe\xed\xca\xfe\0\0\0"[..], b"", b"\0", b"ACTION=add\0"] {
            assert_eq!(Uevent::parse(other), None);
        }
    }

    #[test]
    fn fields_that_are_not_variables_are_passed_over() {
        let event = Uevent::parse(b"add@/x\0\xff\xff=1\0NOVALUE\0A=b=c\0CUT=of").unwrap();
        assert_eq!(event.variables, [("A".into(), "b=c".into()), ("CUT".into(), "of".into())]);
    }

    #[test]
    fn a_removed_device_needs_no_module() {
        assert_eq!(Uevent::parse(b"remove@/x\0ACTION=remove\0MODALIAS=pci:v1\0").unwrap().modalias(), None);
    }

    #[test]
    fn devices_that_are_there_are_reported_as_added() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("pci0/virtio0/empty")).unwrap();
        fs::write(path("pci0/uevent"), "MODALIAS=pci:v1\n").unwrap();
        fs::write(path("pci0/virtio0/uevent"), "DRIVER=x\nMODALIAS=virtio:d2\n").unwrap();
        std::os::unix::fs::symlink("..", path("pci0/loop")).unwrap();
        let mut seen = Vec::new();
        walk(directory.path(), 0, &mut |event| seen.extend(event.modalias().map(str::to_owned)));
        assert_eq!(seen, ["pci:v1", "virtio:d2"]);
    }

    #[test]
    fn listening_ends_at_the_deadline() {
        let listener = Listener::open().unwrap();
        let deadline = Deadline::after(Duration::from_millis(20));
        while listener.next(deadline).unwrap() != Received::TimedOut {}
        assert!(deadline.is_over());
    }
}
