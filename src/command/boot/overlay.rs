//! From a committed generation to its overlay over the root.
//!
//! In: a generation, the base at hand. Out: the merged root, at the same
//! place. Invariant: a layer is checked through the descriptor that is
//! mounted.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::Boot;
use super::state::STATE;
use super::top::{self, EXTENSIONS, TOP};
use crate::command::assemble;
use crate::command::extensions_yaml::layer_name;
use crate::config::{self, Config, Hierarchies};
use crate::error::Error;
use crate::mount::{Attached, Cover, Form, LayerFile, Overlay, Writable, builder};
use crate::store::{self, Generation, Layer, LayerEntry};
use crate::sys::directory::{self, Symlinks};
use crate::sys::firmware::SearchPath;
use crate::sys::mount::{self, Options, Submounts};
use crate::sys::process::ManyFiles;

/// Where layers have firmware.
const FIRMWARE: &str = "usr/lib/firmware";

/// Where the base stays in view below the overlay, for `apply` to compare
/// extensions with.
pub const BASE: &str = "/run/plywood/base";

impl Boot {
    /// Mounts `generation` over the root. `None` if it has no layers: then
    /// the base is the root, without an overlay.
    pub(super) fn mount(
        &mut self,
        generation: &Generation,
        config: &Config,
    ) -> Result<Option<Attached>, Error> {
        self.configured_modules = config.modules().to_vec();
        self.watchdog = config.watchdog();
        self.after_boot = config.network().after_boot;
        let (skipped, layers): (Vec<_>, Vec<_>) =
            generation.layers().iter().partition(|(entry, layer)| self.is_skipped(entry, layer));
        for (_, layer) in skipped {
            log::warn!("plywood.skip: leaving out {}", layer.record().name);
        }
        if layers.is_empty() {
            log::info!("generation {} has no extensions: no overlay", generation.number());
            return Ok(None);
        }
        let cover = self.cover(config, &layers)?;
        self.make_hierarchies(&cover)?;
        let extensions = match layers.len() == generation.layers().len() {
            true => generation.extensions()?,
            false => assemble::extensions_of(layers.iter().copied())?,
        };
        let shown_by_overlay = covers_etc(&cover);
        let form = Form { writable: writable(config), top: Some(TOP.into()), cover };
        let _limit = ManyFiles::allow()?;
        let files = open(&layers)?;
        let labels: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        log::info!("mounting generation {}: {}", generation.number(), labels.join(", "));
        let Some(overlay) = Overlay::over(&self.root, files, form)? else { return Ok(None) };
        let builder = builder(&self.root)?;
        let mounted = overlay.mount(&builder)?;
        let roots = mounted.roots();
        top::write(&roots, &extensions)?;
        if shown_by_overlay {
            top::write_linker_cache(&roots)?;
        }
        let with_firmware = have_firmware(&roots);
        self.show_base();
        let attached = mounted.attach(&self.root)?;
        if with_firmware {
            self.offer_firmware();
        }
        if !shown_by_overlay {
            self.show_extensions(&extensions);
        }
        Ok(Some(attached))
    }

    /// Lets the kernel find the firmware of the layers before the root is
    /// where it looks for it.
    fn offer_firmware(&mut self) {
        match SearchPath::set(Path::new("/"), &self.root.join(FIRMWARE)) {
            Ok(path) => self.firmware = Some(path),
            Err(error) => log::warn!("drivers find no firmware of extensions before init starts: {error}"),
        }
    }

    /// Keeps the base in view, once.
    fn show_base(&self) {
        let base = Path::new(BASE);
        let shown = fs::create_dir_all(base)
            .map_err(|source| Error::Write { path: base.into(), source })
            .and_then(|()| {
                if !mount::is_mount_point(base)? {
                    mount::bind(&self.root, base, Submounts::Leave)?;
                }
                Ok(())
            });
        if let Err(error) = shown {
            log::warn!("the base is not kept in view: {}", error.chain());
        }
    }

    /// Whether `plywood.skip=` leaves a layer out, by its name, number or image.
    pub(super) fn is_skipped(&self, entry: &LayerEntry, layer: &Layer) -> bool {
        let number = format!("{:03}", entry.number);
        let mut names = self.parameters.skip.iter();
        names.any(|name| *name == layer.record().name || *name == number || *name == entry.source)
    }

    /// What the overlay covers. Every file of every layer has to be inside.
    fn cover(&self, config: &Config, layers: &[&(LayerEntry, Layer)]) -> Result<Cover, Error> {
        let (hierarchies, reason) = match &config.overlay().hierarchies {
            Hierarchies::Root => {
                log::info!("overlay: the whole root, as plywood.overlay.hierarchies says");
                return Ok(Cover::Root);
            }
            Hierarchies::Auto if is_image(&self.root) => {
                log::info!("overlay: the whole root, which is an image that nothing writes to");
                return Ok(Cover::Root);
            }
            Hierarchies::Auto => {
                (hierarchies_of(layers), "all that extensions touch; the rest of the root stays as it is")
            }
            Hierarchies::Paths(paths) => (paths.clone(), "as plywood.overlay.hierarchies says"),
        };
        for (entry, layer) in layers {
            for place in &layer.record().places {
                if !hierarchies.iter().any(|hierarchy| Path::new(place).starts_with(hierarchy)) {
                    return Err(Error::NotBootable(format!(
                        "extension {} ({}) has files in {place}, which no directory of plywood.overlay.hierarchies contains",
                        layer.record().name,
                        entry.source
                    )));
                }
            }
        }
        let paths: Vec<_> = hierarchies.iter().map(|path| path.to_string_lossy()).collect();
        log::info!("overlay: {}: {reason}; {}", paths.join(", "), access(config));
        Ok(Cover::Hierarchies(hierarchies))
    }

    /// Shows the list of extensions where no overlay does: a file in memory
    /// over one on the base. A symlink there is the base's own way to show it.
    fn show_extensions(&self, extensions: &str) {
        let memory = Path::new("/run/plywood/extensions.yaml");
        let shown = fs::write(memory, extensions).and_then(|()| {
            let etc = self.on_writable_base(|| directory_on(&self.root, Path::new("etc")))?;
            let target = path_of(&etc).join("extensions.yaml");
            match fs::symlink_metadata(&target) {
                Ok(metadata) if metadata.is_symlink() => return Ok(()),
                Ok(_) => {}
                Err(_) => self.on_writable_base(|| fs::write(&target, ""))?,
            }
            Ok(mount::bind(memory, &target, Submounts::Leave)?)
        });
        if let Err(error) = shown {
            log::warn!("/{EXTENSIONS} is not shown, see {} instead: {error}", memory.display());
        }
    }

    /// Makes the directories of the base that are to become overlays.
    fn make_hierarchies(&self, cover: &Cover) -> Result<(), Error> {
        let Cover::Hierarchies(hierarchies) = cover else { return Ok(()) };
        for hierarchy in hierarchies {
            let relative = hierarchy.strip_prefix("/").unwrap_or(hierarchy);
            self.on_writable_base(|| directory_on(&self.root, relative))
                .map_err(|source| Error::Write { path: hierarchy.clone(), source })?;
        }
        Ok(())
    }

    /// Makes a change to the base; if the base is mounted read-only, it is
    /// remounted for the moment. Only for what has to be there once to mount
    /// something over it, and stays.
    fn on_writable_base<T>(&self, change: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match change() {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            result => return result,
        }
        let flags = self.parameters.root_flags.as_deref().unwrap_or_default();
        log::info!("remounting the root read-write to make a mount point on it, once");
        mount::remount(&self.root, &Options::parse(flags).and("rw"))?;
        let result = change();
        mount::remount(&self.root, &Options::parse(flags).and("ro"))?;
        result
    }
}

/// Opens a directory of the base, and makes it if it is missing. Symlinks on
/// the way stay inside the base.
pub(super) fn directory_on(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let root = directory::open(root)?;
    let mut found = directory::open_in_root(&root, Path::new(""), Symlinks::Follow)?;
    let mut leading: Vec<_> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    leading.reverse();
    for part in leading {
        let parent = found.take().ok_or(io::ErrorKind::NotFound)?;
        found = match (directory::open_in_root(&root, part, Symlinks::Follow)?, part.file_name()) {
            (None, Some(name)) => Some(directory::make(&parent, Path::new(name), &parent)?),
            (there, _) => there,
        };
    }
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn path_of(directory: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", directory.as_raw_fd()).into()
}

fn open(layers: &[&(LayerEntry, Layer)]) -> Result<Vec<LayerFile>, Error> {
    let files = store::open_layers(&layers.iter().map(|(_, layer)| layer).collect::<Vec<_>>())?;
    let named = layers.iter().zip(files).map(|((entry, _), file)| LayerFile {
        number: entry.number,
        name: layer_name(entry.number, &entry.source),
        file,
    });
    Ok(named.collect())
}

/// Whether the base is an image that nothing writes to.
pub(super) fn is_image(root: &Path) -> bool {
    // From linux/magic.h: squashfs, erofs, isofs.
    const IMAGES: [u64; 3] = [0x7371_7368, 0xe0f5_e1e2, 0x9660];
    rustix::fs::statfs(root).is_ok_and(|status| IMAGES.contains(&(status.f_type as u64)))
}

/// The hierarchies that layers need on a base that is written to: `/usr` and
/// `/opt` as wholes, elsewhere only the directories that layers touch, so that
/// the rest of `/etc` stays as it is.
fn hierarchies_of(layers: &[&(LayerEntry, Layer)]) -> Vec<PathBuf> {
    let places: BTreeSet<PathBuf> = layers
        .iter()
        .flat_map(|(_, layer)| &layer.record().places)
        .map(|place| match Path::new(place) {
            place if place.starts_with("/usr") => "/usr".into(),
            place if place.starts_with("/opt") => "/opt".into(),
            place => place.to_path_buf(),
        })
        .collect();
    let inside = |place: &PathBuf| places.iter().any(|other| other != place && place.starts_with(other));
    places.iter().filter(|place| !inside(place)).cloned().collect()
}

fn access(config: &Config) -> &'static str {
    match config.overlay().writable {
        config::Writable::No => "read-only",
        config::Writable::Tmpfs => "writes go to memory",
        config::Writable::Persistent => "writes go to the state directory",
    }
}

fn writable(config: &Config) -> Writable {
    let upper = Path::new(STATE).join("overlay");
    match config.overlay().writable {
        config::Writable::No => Writable::No,
        config::Writable::Tmpfs => Writable::Tmpfs,
        config::Writable::Persistent => {
            Writable::Persistent { upperdir: upper.join("upper"), workdir: upper.join("work") }
        }
    }
}

/// Whether a layer, that is, a root before the last, has firmware.
fn have_firmware(roots: &[BorrowedFd]) -> bool {
    let layers = roots.split_last().map(|(_, layers)| layers).unwrap_or_default();
    let mut found =
        layers.iter().map(|root| directory::open_in_root(root, Path::new(FIRMWARE), Symlinks::Refuse));
    found.any(|directory| matches!(directory, Ok(Some(_))))
}

/// Whether files of the top layer in `/etc` are seen.
fn covers_etc(cover: &Cover) -> bool {
    match cover {
        Cover::Root => true,
        Cover::Hierarchies(paths) => paths.iter().any(|path| path == Path::new("/etc")),
    }
}
