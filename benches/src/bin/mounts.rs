//! What the layers of a store take at boot: `mounts bare|plywood STATE TARGET
//! cold|warm`, in a mount namespace of its own.
//!
//! `bare` makes the system calls that cannot be avoided, one after another:
//! hash, loop device, squashfs, overlay. `plywood` is what the binary does.
//! Out: milliseconds of each step, as JSON. Needs Linux 6.15 and root.

use std::error::Error;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use plywood::mount::{Cover, Form, LayerFile, Overlay, Writable};
use plywood::store::{Generation, Layer, Store, open_layers};
use rustix::fs::{Advice, CWD, fadvise};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [way, state, target, caches] = &arguments[..] else {
        return Err("usage: mounts bare|plywood STATE TARGET cold|warm".into());
    };
    let (state, target) = (Path::new(state), Path::new(target));
    let layers = layers(state)?;
    for (path, _) in &layers {
        match caches.as_str() {
            "cold" => fadvise(File::open(path)?, 0, None, Advice::DontNeed)?,
            _ => drop(fs::read(path)?),
        }
    }
    let steps = match way.as_str() {
        "bare" => bare(&layers, target)?,
        _ => plywood(state, target)?,
    };
    let steps: Vec<_> =
        steps.iter().map(|(name, milliseconds)| format!(r#""{name}": {milliseconds}"#)).collect();
    println!("{{{}}}", steps.join(", "));
    Ok(())
}

fn current(state: &Path) -> Result<Generation> {
    let store = Store::open(state)?;
    let number = store.current()?.ok_or("no current generation")?;
    Ok(store.generation(number)?)
}

/// The current generation's squashfs files and their digests, lowest first.
fn layers(state: &Path) -> Result<Vec<(PathBuf, String)>> {
    let path = |layer: &Layer| state.join(format!("layers/{}.sqsh", layer.key()));
    let layers = current(state)?;
    let layers = layers.layers().iter().map(|(_, layer)| (path(layer), layer.record().digest.to_string()));
    Ok(layers.collect())
}

/// A step's name and how many milliseconds it took.
type Steps = Vec<(&'static str, f64)>;

fn timed<T>(steps: &mut Steps, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let result = work()?;
    steps.push((name, started.elapsed().as_secs_f64() * 1e3));
    Ok(result)
}

fn plywood(state: &Path, target: &Path) -> Result<Steps> {
    let mut steps = Vec::new();
    let generation = timed(&mut steps, "records", || current(state))?;
    let layers: Vec<_> = generation.layers().iter().map(|(_, layer)| layer).collect();
    let files = timed(&mut steps, "hash", || Ok(open_layers(&layers)?))?;
    let files = files.into_iter().zip(generation.layers());
    let files = files.map(|(file, (entry, _))| LayerFile {
        number: entry.number,
        name: entry.number.to_string(),
        file,
    });
    let form = Form { cover: Cover::Root, writable: Writable::No, top: None };
    let overlay = Overlay::over(target, files.collect(), form)?.ok_or("no layers")?;
    let _attached = timed(&mut steps, "mount", || Ok(overlay.attach(target)?))?;
    Ok(steps)
}

fn bare(layers: &[(PathBuf, String)], target: &Path) -> Result<Steps> {
    let mut steps = Vec::new();
    let files = timed(&mut steps, "hash", || layers.iter().map(hash).collect::<Result<Vec<_>>>())?;
    let loops = timed(&mut steps, "loop", || files.iter().map(attach_loop).collect::<Result<Vec<_>>>())?;
    let mounts = timed(&mut steps, "mount", || {
        loops.iter().map(|(path, _)| mount_squashfs(path)).collect::<Result<Vec<_>>>()
    })?;
    timed(&mut steps, "overlay", || mount_overlay(&mounts, target))?;
    Ok(steps)
}

fn hash((path, digest): &(PathBuf, String)) -> Result<File> {
    let mut file = File::open(path)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    let hex: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if digest.ends_with(&hex) { Ok(file) } else { Err(format!("{} is not {digest}", path.display()).into()) }
}

/// `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE` of linux/loop.h; read-only, freed
/// with its last user, direct I/O. Someone else may take a free device first.
fn attach_loop(file: &File) -> Result<(String, File)> {
    const GET_FREE: libc::Ioctl = 0x4c82;
    const CONFIGURE: libc::Ioctl = 0x4c0a;
    const FLAGS: u32 = 1 | 4 | 16;
    let control = File::open("/dev/loop-control")?;
    loop {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
        let path = format!("/dev/loop{number}");
        let device = File::open(&path)?;
        // `struct loop_config`: the descriptor first, the flags at byte 60.
        let mut config = [0_u32; 76];
        config[0] = file.as_raw_fd().cast_unsigned();
        config[15] = FLAGS;
        // SAFETY: LOOP_CONFIGURE reads 304 bytes, the size of `config`.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, config.as_ptr()) };
        match std::io::Error::last_os_error() {
            _ if result == 0 => return Ok((path, device)),
            error if error.kind() == ErrorKind::ResourceBusy => {}
            error => return Err(error.into()),
        }
    }
}

fn mount_squashfs(device: &str) -> Result<OwnedFd> {
    let context = fsopen("squashfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", device)?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}

fn mount_overlay(mounts: &[OwnedFd], target: &Path) -> Result<()> {
    let base = File::open(target)?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for mount in mounts.iter().rev() {
        fsconfig_set_fd(context.as_fd(), "lowerdir+", mount.as_fd())?;
    }
    fsconfig_set_fd(context.as_fd(), "lowerdir+", base.as_fd())?;
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(move_mount(mount.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
