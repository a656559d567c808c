//! The base: finds what `root=` names and mounts it.
//!
//! In: the kernel command line, devices as they appear. Out: the base system
//! mounted at [`SYSROOT`]. Invariant: the root is read-only unless `rw` says
//! otherwise.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Boot;
use crate::config::cmdline::{BootParameters, RootAccess, RootWait};
use crate::error::Error;
use crate::sys::block::{self, BlockDevice, DeviceSpec};
use crate::sys::deadline::Deadline;
use crate::sys::loopdev::LoopDevice;
use crate::sys::mount::{self, Options};

/// Where the base is mounted, as dracut and systemd have it.
pub const SYSROOT: &str = "/sysroot";

/// How long to wait for a device when nothing else is said.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the root is on.
enum Base {
    Device(BlockDevice),
    /// An image file in the initramfs.
    Image(PathBuf),
}

impl Boot {
    /// Mounts the base at [`SYSROOT`].
    pub(super) fn mount_root(&mut self) -> Result<(), Error> {
        let Some(spec) = self.parameters.root.clone() else {
            return Err(Error::NotBootable("the kernel command line has no root=".into()));
        };
        thread::sleep(self.parameters.root_delay);
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Boot {
            what: format!("mount root={spec}"),
            source,
        };
        let base = self.find_base(&spec).map_err(&failed)?;
        let (device, kinds) = match &base {
            Base::Device(device) => (device.path.clone(), self.kinds(device)),
            Base::Image(path) => {
                self.load_module("loop");
                let file = File::open(path).map_err(|error| failed(error.into()))?;
                let loop_device = LoopDevice::attach(&file, "root").map_err(|error| failed(error.into()))?;
                let path = loop_device.path().to_path_buf();
                let device = block::find(&DeviceSpec::Path(path.clone())).map_err(|e| failed(e.into()))?;
                let kinds = self.kinds(&device);
                // The mount keeps the loop device from here on.
                self.kept.push(loop_device);
                (path, kinds)
            }
        };
        self.mount_as_any_of(&device, &kinds).map_err(failed)?;
        log::info!("mounted root={spec} ({}) at {SYSROOT}", device.display());
        Ok(())
    }

    /// A path that is a regular file in the initramfs is an image, everything
    /// else a device, which may come late.
    fn find_base(&mut self, spec: &str) -> Result<Base, Box<dyn std::error::Error + Send + Sync>> {
        let path = Path::new(spec);
        if spec.starts_with('/') && path.is_file() {
            return Ok(Base::Image(path.into()));
        }
        let spec = DeviceSpec::parse(spec)?;
        log::info!("waiting for {spec}");
        Ok(Base::Device(self.wait_for(&spec, root_deadline(&self.parameters))?))
    }

    /// Waits for a device, loading modules for whatever appears meanwhile.
    pub(super) fn wait_for(
        &mut self,
        spec: &DeviceSpec,
        deadline: Deadline,
    ) -> Result<BlockDevice, block::DeviceError> {
        let modules = &mut self.modules;
        block::wait_for(spec, deadline, &mut |event| {
            if let Some(alias) = event.modalias()
                && let Err(error) = modules.load_alias(alias)
            {
                log::debug!("{error}");
            }
        })
    }

    /// The file system types to try: what `rootfstype=` says, else what is on
    /// the device.
    fn kinds(&self, device: &BlockDevice) -> Vec<String> {
        match &self.parameters.root_type {
            Some(kinds) => kinds.split(',').map(Into::into).collect(),
            None => device.superblock().map(|superblock| superblock.kind.into()).into_iter().collect(),
        }
    }

    fn mount_as_any_of(
        &mut self,
        device: &Path,
        kinds: &[String],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let access = match self.parameters.root_access {
            RootAccess::ReadWrite => "rw",
            RootAccess::ReadOnly => "ro",
        };
        let options = Options::parse(self.parameters.root_flags.as_deref().unwrap_or_default()).and(access);
        let mut failure = format!("no known file system is on {}", device.display()).into();
        for kind in kinds {
            self.load_module(kind);
            match mount::mount(kind, device, Path::new(SYSROOT), &options) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }
}

/// `rootwait` waits for ever, `rootwait=N` and `rd.timeout=N` for N seconds
/// (0 for ever).
fn root_deadline(parameters: &BootParameters) -> Deadline {
    match (parameters.root_wait, parameters.timeout) {
        (RootWait::Forever, _) => Deadline::NEVER,
        (RootWait::AtMost(limit), _) => Deadline::after(limit),
        (RootWait::Usual, timeout) => device_deadline(timeout),
    }
}

/// How long to wait for any other device.
pub fn device_deadline(timeout: Option<Duration>) -> Deadline {
    match timeout {
        Some(Duration::ZERO) => Deadline::NEVER,
        Some(limit) => Deadline::after(limit),
        None => Deadline::after(DEVICE_TIMEOUT),
    }
}
