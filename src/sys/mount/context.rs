//! One filesystem on its way to being mounted.
//!
//! In: a type, then parameters one by one. Out: a [`DetachedMount`], or an
//! error that carries what the kernel wrote about it. Invariant: dropped at
//! any step, nothing of it stays.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::path::Arg;

use super::{DetachedMount, MountError, Options};
use crate::text::Escaped;

/// Longest message that the kernel keeps, in bytes; it cuts longer ones.
const MESSAGE_LEN: usize = 4096;

/// Most messages that are read. The kernel keeps eight.
const MAX_MESSAGES: usize = 16;

/// A filesystem context (`fsopen(2)`).
pub(super) struct Context {
    fd: OwnedFd,
    /// For errors: the type, and on what.
    what: String,
}

impl Context {
    pub fn open(fstype: &str, source: &str) -> Result<Self, MountError> {
        let what = format!("{} on {}", Escaped::new(fstype), Escaped::new(source));
        let fd = match fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => fd,
            Err(Errno::NODEV) => return Err(MountError::UnknownFilesystem { fstype: fstype.to_owned() }),
            Err(source) => {
                return Err(MountError::Refused { call: "fsopen", what, said: KernelLog::default(), source });
            }
        };
        let context = Self { fd, what };
        context.string("source", source)?;
        Ok(context)
    }

    pub fn flag(&self, key: &str) -> Result<(), MountError> {
        fsconfig_set_flag(&self.fd, key).map_err(|error| self.refused(format!("option {key}"), error))
    }

    pub fn string(&self, key: &str, value: impl Arg) -> Result<(), MountError> {
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|error| self.refused(format!("option {key}="), error))
    }

    pub fn descriptor(&self, key: &str, value: BorrowedFd) -> Result<(), MountError> {
        fsconfig_set_fd(&self.fd, key, value)
            .map_err(|error| self.refused(format!("option {key} by descriptor"), error))
    }

    pub fn options(&self, options: &Options) -> Result<(), MountError> {
        options.superblock.iter().try_for_each(|word| self.flag(word))?;
        options.data.iter().try_for_each(|(key, value)| match value {
            Some(value) => self.string(key, value),
            None => self.flag(key),
        })
    }

    /// Makes the superblock and a mount of it, attached nowhere.
    pub fn mount(self, attributes: MountAttrFlags) -> Result<DetachedMount, MountError> {
        fsconfig_create(&self.fd).map_err(|error| self.refused("superblock".into(), error))?;
        match fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes) {
            Ok(fd) => Ok(DetachedMount { fd }),
            Err(error) => Err(self.refused("mount".into(), error)),
        }
    }

    fn refused(&self, part: String, source: Errno) -> MountError {
        let what = format!("{} of {}", Escaped::new(&part), self.what);
        let call = if part == "mount" { "fsmount" } else { "fsconfig" };
        MountError::Refused { call, what, said: KernelLog::read(self.fd.as_fd()), source }
    }
}

/// What the kernel wrote about a mount that it refused.
#[derive(Debug, Default)]
pub struct KernelLog(Vec<String>);

impl KernelLog {
    /// Each read of a filesystem context gives one message, `e `, `w ` or
    /// `i ` before its text, until there is none (ENODATA).
    fn read(context: BorrowedFd) -> Self {
        let mut messages = Vec::new();
        let mut buffer = [0; MESSAGE_LEN];
        while let Ok(len) = rustix::io::read(context, &mut buffer[..]) {
            let message = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
            let text = message.trim_end();
            messages.push(
                ["e ", "w ", "i "].iter().find_map(|mark| text.strip_prefix(mark)).unwrap_or(text).into(),
            );
            if len == 0 || messages.len() == MAX_MESSAGES {
                break;
            }
        }
        Self(messages)
    }
}

impl fmt::Display for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " (kernel: {})", Escaped::new(&self.0.join("; ")))
    }
}
