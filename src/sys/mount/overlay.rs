//! Overlays: one view of many directories.
//!
//! In: a [`Stack`] of open directories. Out: a [`DetachedMount`]. Invariant:
//! names never reach the kernel's option parser; every directory is given by
//! its descriptor or by that descriptor's number, so no name can contain a
//! separator or be too long.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, mkdirat, open as open_path, openat};
use rustix::io::Errno;
use rustix::process::{chdir, fchdir};

use super::context::Context;
use super::{DetachedMount, MountError, Options, Staging, Submounts, clone_tree, detach, open, shown};
use crate::sys::{Error, failed};

/// Most lower directories of one overlay (`OVL_MAX_STACK`).
pub const MAX_LOWER: usize = 500;

/// Shown as the overlay's source in the list of mounts.
const SOURCE: &str = "plywood";

/// A layer may not lead the kernel to other directories (`redirect_dir`,
/// `metacopy`), an upper directory may later meet other layers (`index`), and
/// all files should seem to be on one device (`xino`). The kernel's own
/// defaults depend on how it was configured.
const OPTIONS: &[(&str, &str)] =
    &[("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"), ("xino", "on")];

/// Room for options in `mount(2)`: a page with its NUL.
const MAX_DATA: usize = 4095;

/// `O_PATH`: a directory that is only passed on.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How the kernel is told of the directories, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Descriptors, also of detached mounts.
    Descriptors,
    /// `lowerdir+=/proc/self/fd/N`, one by one, of attached mounts.
    Paths,
    /// All in one `lowerdir=` of `mount(2)`, of attached mounts.
    Classic,
}

/// What an overlay is made of.
#[derive(Debug)]
pub struct Stack<'a> {
    /// Highest first: at least two, or one with `upper`.
    pub lower: Vec<BorrowedFd<'a>>,
    pub upper: Option<Upper<'a>>,
}

/// Where writes go. Both are on one mount, and neither is below the other.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    pub upperdir: BorrowedFd<'a>,
    pub workdir: BorrowedFd<'a>,
}

/// Makes overlays in the way that this kernel knows.
#[derive(Debug)]
pub struct OverlayBuilder {
    way: Way,
}

/// A method with what it needs.
#[derive(Debug)]
enum Way {
    Descriptors,
    Paths(Staging),
    Classic(Staging),
}

impl OverlayBuilder {
    /// Tries which method works, best first, on an overlay of two empty
    /// directories. `staging` is where mounts may be attached meanwhile.
    pub fn probe(staging: &Path) -> Result<Self, MountError> {
        for method in [Method::Descriptors, Method::Paths] {
            let builder = Self::with(method, staging)?;
            match builder.try_out() {
                Ok(_) => return Ok(builder),
                Err(error @ MountError::UnknownFilesystem { .. }) => return Err(error),
                // KERNEL(6.5): an overlay that takes no parameter by descriptor
                // is too old for `lowerdir+`; trying that would only put an
                // error on the console.
                Err(MountError::Refused { source: Errno::OPNOTSUPP, .. }) => break,
                Err(error) => log::debug!("no overlay with {method}: {error}"),
            }
        }
        Self::with(Method::Classic, staging)
    }

    /// Uses this method, whether it works or not.
    pub fn with(method: Method, staging: &Path) -> Result<Self, MountError> {
        let way = match method {
            Method::Descriptors => Way::Descriptors,
            Method::Paths => Way::Paths(Staging::mount(staging)?),
            Method::Classic => Way::Classic(Staging::mount(staging)?),
        };
        Ok(Self { way })
    }

    /// The method in use.
    pub fn method(&self) -> Method {
        match self.way {
            Way::Descriptors => Method::Descriptors,
            Way::Paths(_) => Method::Paths,
            Way::Classic(_) => Method::Classic,
        }
    }

    /// Makes a mount fit to be part of an overlay. Only those of this
    /// builder need it; a directory at some path is fit.
    pub fn admit(&self, mount: &DetachedMount) -> Result<(), Error> {
        match &self.way {
            Way::Descriptors => Ok(()),
            Way::Paths(staging) | Way::Classic(staging) => staging.attach(mount),
        }
    }

    /// Makes the overlay, attached nowhere.
    pub fn open(&self, stack: &Stack) -> Result<DetachedMount, MountError> {
        match &self.way {
            Way::Descriptors => by_context(stack, |context, key, fd| context.descriptor(key, fd)),
            Way::Paths(_) => by_context(stack, |context, key, fd| {
                context.string(key, format!("/proc/self/fd/{}", fd.as_raw_fd()))
            }),
            Way::Classic(staging) => classic(stack, staging),
        }
    }

    fn try_out(&self) -> Result<DetachedMount, MountError> {
        let tmpfs = open("tmpfs", Path::new(SOURCE), &Options::parse("mode=0700,size=64K"))?;
        self.admit(&tmpfs)?;
        let lower = ["a", "b"].into_iter().map(|name| make_directory(&tmpfs, name));
        let lower = lower.collect::<Result<Vec<_>, _>>()?;
        self.open(&Stack { lower: lower.iter().map(OwnedFd::as_fd).collect(), upper: None })
    }
}

/// Makes a directory in a mount's root, and opens it.
fn make_directory(mount: &DetachedMount, name: &str) -> Result<OwnedFd, Error> {
    mkdirat(mount, name, Mode::from_raw_mode(0o755)).map_err(failed("mkdirat", name))?;
    openat(mount, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(failed("openat", name))
}

fn by_context(
    stack: &Stack,
    set: impl Fn(&Context, &str, BorrowedFd) -> Result<(), MountError>,
) -> Result<DetachedMount, MountError> {
    let context = Context::open("overlay", SOURCE)?;
    for lower in &stack.lower {
        set(&context, "lowerdir+", *lower)?;
    }
    if let Some(upper) = stack.upper {
        set(&context, "upperdir", upper.upperdir)?;
        set(&context, "workdir", upper.workdir)?;
    }
    for (key, value) in OPTIONS {
        context.string(key, *value)?;
    }
    context.mount(Options::parse(attributes(stack)).attributes)
}

/// Options of the mount itself. No layer may bring devices.
fn attributes(stack: &Stack) -> &'static str {
    if stack.upper.is_some() { "nodev" } else { "nodev,ro" }
}

/// KERNEL(6.8): may go when no supported kernel lacks `lowerdir+`. In
/// `/proc/self/fd` a directory's name is its descriptor's number, which keeps
/// 500 of them within the page that `mount(2)` has for options.
fn classic(stack: &Stack, staging: &Staging) -> Result<DetachedMount, MountError> {
    const WHAT: &str = "overlay";
    let data = classic_data(stack);
    if data.len() > MAX_DATA {
        let what = format!("{WHAT}: {} lower directories", stack.lower.len());
        return Err(failed("mount", what)(Errno::TOOBIG).into());
    }
    let target = staging.directory()?;
    let directory = open_path(&target, DIRECTORY, Mode::empty()).map_err(failed("open", shown(&target)))?;
    let name = PathBuf::from(directory.as_raw_fd().to_string());
    let options = Options::parse(&data).and(attributes(stack));
    let back = open_path(".", DIRECTORY, Mode::empty()).map_err(failed("open", "the working directory"))?;
    chdir("/proc/self/fd").map_err(failed("chdir", "/proc/self/fd"))?;
    let mounted = super::mount_classic(WHAT, Path::new(SOURCE), &name, &options);
    fchdir(back).map_err(failed("fchdir", "the working directory"))?;
    mounted?;
    let overlay = clone_tree(&target, Submounts::Leave)?;
    detach(&target)?;
    Ok(overlay)
}

/// The options for `mount(2)`, directories by number.
fn classic_data(stack: &Stack) -> String {
    let lower: Vec<_> = stack.lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut data = format!("lowerdir={}", lower.join(":"));
    if let Some(Upper { upperdir, workdir }) = stack.upper {
        data += &format!(",upperdir={},workdir={}", upperdir.as_raw_fd(), workdir.as_raw_fd());
    }
    OPTIONS.iter().for_each(|(key, value)| data += &format!(",{key}={value}"));
    data
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "descriptors",
            Self::Paths => "lowerdir+",
            Self::Classic => "lowerdir",
        })
    }
}
