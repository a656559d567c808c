//! Where the store is while a machine boots: at [`STATE`], whatever it is on.
//!
//! In: the command line, the root. Out: an open store. Invariant: one that is
//! open is never on an overlay.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use super::Boot;
use super::clock;
use super::overlay::{directory_on, is_image};
use super::root::device_deadline;
use crate::error::Error;
use crate::store::{Store, StoreError};
use crate::sys::block::DeviceSpec;
use crate::sys::directory::{self, Symlinks};
use crate::sys::kmsg;
use crate::sys::mount::{self, Options, Submounts};

/// The state directory of a booted machine. `/run` moves along to the merged
/// root, so `apply` finds the store here too.
pub const STATE: &str = "/run/plywood/state";

impl Boot {
    /// Opens the store, at the first call: on the volume or at the path that
    /// `plywood.state=` names, else in memory.
    pub(super) fn store(&mut self) -> Result<Rc<Store>, Error> {
        if let Some(store) = &self.store {
            return Ok(Rc::clone(store));
        }
        let store = self.open_store();
        self.has_no_store = store.is_err();
        store
    }

    fn open_store(&mut self) -> Result<Rc<Store>, Error> {
        let target = Path::new(STATE);
        fs::create_dir_all(target).map_err(|source| Error::Write { path: target.into(), source })?;
        if !mount::is_mount_point(target)? {
            self.mount_state(target)?;
        }
        let store = Rc::new(open(target)?);
        self.store = Some(Rc::clone(&store));
        if let Some(time) = store.newest_change() {
            clock::advance(time, "the newest change of the store");
        }
        self.timeline.done("state");
        Ok(store)
    }

    fn mount_state(&mut self, target: &Path) -> Result<(), Error> {
        let Some(place) = self.parameters.state.clone().or_else(|| self.state_on_root()) else {
            log::warn!("no plywood.state=: layers are kept in memory and built again at the next boot");
            return mount_memory(target);
        };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Boot {
            what: format!("open plywood.state={place}"),
            source,
        };
        if place.starts_with('/') && !place.starts_with("/dev/") {
            return self.bind_state(Path::new(place.trim_start_matches('/')), target).map_err(failed);
        }
        let spec = DeviceSpec::parse(&place).map_err(|error| failed(error.into()))?;
        let deadline = device_deadline(self.parameters.timeout);
        let device = self.wait_for(&spec, deadline).map_err(|error| failed(error.into()))?;
        let Some(superblock) = device.superblock() else {
            return Err(failed(format!("no known file system is on {}", device.path.display()).into()));
        };
        let kind = superblock.kind;
        if kind == "vfat" {
            let what = format!("{} is vfat, which has no owners and no symlinks", device.path.display());
            return Err(failed(what.into()));
        }
        self.load_module(kind);
        let options = state_options(kind);
        let mount = |access| mount::mount(kind, &device.path, target, &options.clone().and(access));
        let Err(error) = mount("rw") else { return Ok(()) };
        // A journal cannot be replayed on a device that is read-only; what was
        // not finished then fails its digest instead.
        mount("ro").or_else(|_| mount("ro,norecovery")).map_err(|error| failed(error.into()))?;
        // What is complete there can boot; nothing new can be made.
        log::warn!("the state volume is used read-only: {}", kmsg::chain(&error));
        Ok(())
    }
}

impl Boot {
    /// The usual place, where somebody has made it on a root that is written to.
    fn state_on_root(&self) -> Option<String> {
        const USUAL: &str = "/var/lib/plywood";
        let root = directory::open(&self.root).ok()?;
        let there = directory::open_in_root(&root, Path::new(&USUAL[1..]), Symlinks::Follow);
        if is_image(&self.root) || !matches!(there, Ok(Some(_))) {
            return None;
        }
        log::info!("the state directory is {USUAL} of the root, as no plywood.state= names another");
        Some(USUAL.into())
    }

    /// Shows a directory of the root as the state directory. A store is
    /// written to, so a root that is mounted read-only does not stay so.
    fn bind_state(
        &self,
        place: &Path,
        target: &Path,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if !mount::is_writable(&self.root)? {
            log::info!("remounting the root read-write: the state directory is on it");
            let flags = self.parameters.root_flags.as_deref().unwrap_or_default();
            mount::remount(&self.root, &Options::parse(flags).and("rw"))?;
        }
        let directory = directory_on(&self.root, place)?;
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        Ok(mount::bind(Path::new(&path), target, Submounts::Leave)?)
    }
}

/// Options of a state volume, whatever access there is to it. A volume made to
/// panic the kernel where it is damaged would do so at each boot.
fn state_options(kind: &str) -> Options {
    let options = Options::parse("nodev,nosuid,noexec,noatime");
    if kind.starts_with("ext") { options.and("errors=remount-ro") } else { options }
}

/// Opens the store and completes it; one that is there and takes no writes is
/// used as it is.
fn open(directory: &Path) -> Result<Store, StoreError> {
    Store::open(directory).or_else(|error| match Store::open_existing(directory) {
        Ok(Some(store)) => {
            log::warn!("the state is used as it is: {}", kmsg::chain(&error));
            Ok(store)
        }
        Ok(None) | Err(_) => Err(error),
    })
}

/// Memory for the store, when there is nothing better to say where it is.
fn mount_memory(target: &Path) -> Result<(), Error> {
    let options = Options::parse("mode=0700,nodev,nosuid,noexec");
    mount::mount("tmpfs", Path::new("plywood"), target, &options)
        .map_err(|error| Error::Boot { what: "mount memory for the state".into(), source: error.into() })
}
