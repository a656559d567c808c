//! Layers over a base: planned, then mounted.
//!
//! In: the base's directory and layer files, checked through the descriptors
//! they come with. Out: [`Overlay`], pure; and once attached, one view in
//! which the higher layer wins. Invariant: every overlay is built detached
//! and attached last; on an error no mount and no loop device is left.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::limits::MAX_EXTENSIONS;
use crate::sys::directory::{self, Symlinks};
use crate::sys::loopdev::LoopDevice;
use crate::sys::mount::{
    self, DetachedMount, MAX_LOWER, MountError, Options, OverlayBuilder, Stack, Upper, mounts_below,
};
use crate::sys::threads;
use crate::text::Escaped;

/// Where mounts are attached while an overlay is built, on kernels that want
/// that. Empty before and after.
pub const STAGING: &str = "/run/plywood/staging";

/// How many layers are mounted at the same time. The kernel spends that time
/// waiting, for its own threads and for the disk, so that the number of cores
/// does not matter; `docs/performance.md` has the figures.
const MOUNTED_AT_ONCE: usize = 16;

/// Names of the directories in a tmpfs that takes writes.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// A squashfs image, open and checked.
#[derive(Debug)]
pub struct LayerFile {
    /// The higher number wins.
    pub number: u16,
    /// For messages, and for who looks at loop devices.
    pub name: String,
    pub file: File,
}

/// What the overlays cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// The base from its root on.
    Root,
    /// These directories of it, as absolute paths; one overlay for each. A
    /// layer's other directories are not shown.
    Hierarchies(Vec<PathBuf>),
}

/// Where writes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writable {
    /// Nowhere: the overlay is read-only.
    No,
    /// To memory, until the machine ends.
    Tmpfs,
    /// To a directory that stays. Both are on one filesystem, which is not an
    /// overlay; for hierarchies, directories of their names are made in them.
    Persistent { upperdir: PathBuf, workdir: PathBuf },
}

/// The form of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub cover: Cover,
    pub writable: Writable,
    /// A plain directory above all layers, not in the initramfs' own root,
    /// which kernels before 6.16 refuse.
    pub top: Option<PathBuf>,
}

/// Why layers cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    #[error("cannot mount {count} layers: the limit is {limit}")]
    TooMany { count: usize, limit: usize },
    #[error("layers {} and {} have the same number {number}", Escaped::new(.first), Escaped::new(.second))]
    SameNumber { number: u16, first: String, second: String },
    #[error("cannot overlay {}: not an absolute path of a directory below the root", shown(.path))]
    Hierarchy { path: PathBuf },
    #[error("cannot overlay both {} and {}: one is in the other", shown(.outer), shown(.inner))]
    Nested { outer: PathBuf, inner: PathBuf },
    #[error("cannot overlay {}: there is no such directory to mount on", shown(.place))]
    Missing { place: PathBuf },
    #[error("cannot overlay {}: {} is mounted below it and would be hidden", shown(.place), shown(.mount))]
    Submount { place: PathBuf, mount: PathBuf },
    #[error("cannot mount layer {number:03} {}", Escaped::new(.name))]
    Layer { number: u16, name: String, source: MountError },
    #[error("cannot overlay {}", shown(.place))]
    Overlay { place: PathBuf, source: MountError },
}

/// Layers over a base, highest first, in an order that cannot be wrong.
#[derive(Debug)]
pub struct Overlay {
    base: PathBuf,
    layers: Vec<LayerFile>,
    /// Relative to the base; the empty path is the base itself.
    places: Vec<PathBuf>,
    writable: Writable,
    top: Option<PathBuf>,
}

/// Overlays that are attached. They stay when this is dropped.
#[derive(Debug)]
#[must_use = "who does not keep this cannot detach"]
pub struct Attached {
    mount_points: Vec<PathBuf>,
}

impl Overlay {
    /// Stacks `layers` over `base`. `None` if there is nothing to stack: the
    /// base is then used as it is.
    pub fn over(base: &Path, mut layers: Vec<LayerFile>, form: Form) -> Result<Option<Self>, OverlayError> {
        if layers.is_empty() && form.top.is_none() {
            return Ok(None);
        }
        if layers.len() > MAX_EXTENSIONS {
            return Err(OverlayError::TooMany { count: layers.len(), limit: MAX_EXTENSIONS });
        }
        refuse_same_numbers(&layers)?;
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.number));
        let places = places(form.cover)?;
        Ok(Some(Self { base: base.into(), layers, places, writable: form.writable, top: form.top }))
    }

    /// Mounts everything and shows it at `target`, which is `base` or another
    /// view of it, in the best way that the kernel knows.
    pub fn attach(self, target: &Path) -> Result<Attached, OverlayError> {
        self.attach_with(&builder(target)?, target)
    }

    /// As [`Overlay::attach`], with a builder of the caller's choice.
    pub fn attach_with(self, builder: &OverlayBuilder, target: &Path) -> Result<Attached, OverlayError> {
        self.mount(builder)?.attach(target)
    }

    /// Mounts the layers where nobody sees them, for those who have to read
    /// them before they write the top directory.
    pub fn mount(mut self, builder: &OverlayBuilder) -> Result<Mounted<'_>, OverlayError> {
        let layers = std::mem::take(&mut self.layers);
        let layers = threads::for_all(layers, MOUNTED_AT_ONCE, |layer| layer.mount(builder));
        let layers = layers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let base = directory::open(&self.base).map_err(at(&self.base))?;
        Ok(Mounted { overlay: self, builder, layers, base })
    }
}

/// An overlay whose layers are mounted, but not yet one over another.
pub struct Mounted<'a> {
    overlay: Overlay,
    builder: &'a OverlayBuilder,
    layers: Vec<MountedLayer>,
    base: OwnedFd,
}

impl Mounted<'_> {
    /// The roots of all layers, the highest first, and of the base.
    pub fn roots(&self) -> Vec<BorrowedFd<'_>> {
        let layers = self.layers.iter().map(|layer| layer.mount.as_fd());
        layers.chain([self.base.as_fd()]).collect()
    }

    /// Stacks them and shows the result at `target`.
    pub fn attach(self, target: &Path) -> Result<Attached, OverlayError> {
        let Self { overlay, builder, layers, base } = self;
        let sources = Sources {
            top: overlay.top.as_deref().map(directory::open).transpose().map_err(at(target))?,
            layers: &layers,
            base,
            writes: Writes::open(overlay.writable, builder).map_err(at(target))?,
        };
        let mut overlays = Vec::with_capacity(overlay.places.len());
        for place in &overlay.places {
            let overlay = sources.overlay(place, builder)?;
            overlays.extend(overlay.map(|overlay| (place.as_path(), overlay)));
        }
        Attached::attach(target, &overlays)
    }
}

/// The best way to mount overlays that the kernel knows.
pub fn builder(target: &Path) -> Result<OverlayBuilder, OverlayError> {
    OverlayBuilder::probe(Path::new(STAGING)).map_err(at(target))
}

/// What the overlays are made of, all of it open.
struct Sources<'a> {
    top: Option<OwnedFd>,
    layers: &'a [MountedLayer],
    base: OwnedFd,
    writes: Option<Writes>,
}

impl Sources<'_> {
    /// One overlay. `None` if nothing would lie over the base there.
    fn overlay(&self, place: &Path, builder: &OverlayBuilder) -> Result<Option<DetachedMount>, OverlayError> {
        let mut lower = Vec::new();
        if let Some(top) = &self.top {
            lower.extend(directory::open_in_root(top, place, Symlinks::Refuse).map_err(at(place))?);
        }
        for layer in self.layers {
            lower.extend(layer.open(place)?);
        }
        if lower.is_empty() && self.writes.is_none() {
            return Ok(None);
        }
        let base = self.base_directory(place)?;
        if let Some(mount) = mounts_below(&base).map_err(at(place))?.into_iter().next() {
            return Err(OverlayError::Submount { place: absolute(place), mount });
        }
        let writes = self.writes.as_ref().map(|writes| writes.directories(place, base.as_fd()));
        let writes = writes.transpose().map_err(at(place))?;
        let nested = nest(&mut lower, &base, builder).map_err(at(place))?;
        let lowest = nested.as_ref().map_or(base.as_fd(), AsFd::as_fd);
        let lower = lower.iter().map(AsFd::as_fd).chain([lowest]).collect();
        let upper =
            writes.as_ref().map(|(upper, work)| Upper { upperdir: upper.as_fd(), workdir: work.as_fd() });
        builder.open(&Stack { lower, upper }).map(Some).map_err(at(place))
    }

    /// The base's directory, made if only layers have it.
    fn base_directory(&self, place: &Path) -> Result<OwnedFd, OverlayError> {
        let open =
            |path: &Path| directory::open_in_root(&self.base, path, Symlinks::Follow).map_err(at(place));
        if let Some(directory) = open(place)? {
            return Ok(directory);
        }
        match (place.parent().map(open).transpose()?.flatten(), place.file_name()) {
            (Some(parent), Some(name)) => {
                directory::make(&parent, Path::new(name), &parent).map_err(at(place))
            }
            _ => Err(OverlayError::Missing { place: absolute(place) }),
        }
    }
}

/// Where there are more directories than one overlay takes, makes the lowest
/// of them, and the base, an overlay by itself.
fn nest(
    lower: &mut Vec<OwnedFd>,
    base: &OwnedFd,
    builder: &OverlayBuilder,
) -> Result<Option<DetachedMount>, MountError> {
    if lower.len() < MAX_LOWER {
        return Ok(None);
    }
    let lowest = lower.split_off(MAX_LOWER - 1);
    let stack = Stack { lower: lowest.iter().chain([base]).map(AsFd::as_fd).collect(), upper: None };
    let nested = builder.open(&stack)?;
    builder.admit(&nested)?;
    Ok(Some(nested))
}

/// A layer's filesystem, attached nowhere that is seen.
struct MountedLayer {
    number: u16,
    name: String,
    mount: DetachedMount,
}

impl LayerFile {
    /// The loop device frees itself with the mount.
    fn mount(self, builder: &OverlayBuilder) -> Result<MountedLayer, OverlayError> {
        let Self { number, name, file } = self;
        let mounted = LoopDevice::attach(&file, &name).map_err(MountError::from).and_then(|device| {
            let mount = mount::open("squashfs", device.path(), &Options::parse("ro,nodev"))?;
            builder.admit(&mount)?;
            Ok(mount)
        });
        match mounted {
            Ok(mount) => Ok(MountedLayer { number, name, mount }),
            Err(source) => Err(OverlayError::Layer { number, name, source }),
        }
    }
}

impl MountedLayer {
    /// Its directory for one overlay; layers need not have all of them.
    fn open(&self, place: &Path) -> Result<Option<OwnedFd>, OverlayError> {
        directory::open_in_root(&self.mount, place, Symlinks::Refuse).map_err(|source| OverlayError::Layer {
            number: self.number,
            name: self.name.clone(),
            source: source.into(),
        })
    }
}

/// Where writes go, open.
enum Writes {
    Tmpfs(DetachedMount),
    Persistent { upperdir: PathBuf, workdir: PathBuf },
}

impl Writes {
    fn open(writable: Writable, builder: &OverlayBuilder) -> Result<Option<Self>, MountError> {
        match writable {
            Writable::No => Ok(None),
            Writable::Tmpfs => {
                let tmpfs = mount::open("tmpfs", Path::new("plywood"), &Options::parse("nodev,mode=0755"))?;
                builder.admit(&tmpfs)?;
                Ok(Some(Self::Tmpfs(tmpfs)))
            }
            Writable::Persistent { upperdir, workdir } => Ok(Some(Self::Persistent { upperdir, workdir })),
        }
    }

    /// upperdir and workdir for one overlay. The merged view takes its mode
    /// from upperdir, so a new one is made like the base's.
    fn directories(&self, place: &Path, base: BorrowedFd) -> Result<(OwnedFd, OwnedFd), crate::sys::Error> {
        let make = |parent: BorrowedFd, path: &Path| directory::make(parent, path, base);
        match self {
            Self::Tmpfs(tmpfs) => {
                let in_tmpfs = |name: &str| make(tmpfs.as_fd(), &Path::new(name).join(place));
                Ok((in_tmpfs(UPPER)?, in_tmpfs(WORK)?))
            }
            // An absolute path, so it does not matter below what.
            Self::Persistent { upperdir, workdir } => {
                Ok((make(base, &upperdir.join(place))?, make(base, &workdir.join(place))?))
            }
        }
    }
}

impl Attached {
    /// Attaches all overlays or none.
    fn attach(target: &Path, overlays: &[(&Path, DetachedMount)]) -> Result<Self, OverlayError> {
        let root = directory::open(target).map_err(at(target))?;
        let mut attached = Self { mount_points: Vec::new() };
        for (place, overlay) in overlays {
            if let Err(error) = attached.add(&root, place, overlay) {
                attached.detach();
                return Err(error);
            }
        }
        Ok(attached)
    }

    fn add(&mut self, root: &OwnedFd, place: &Path, overlay: &DetachedMount) -> Result<(), OverlayError> {
        let Some(directory) = directory::open_in_root(root, place, Symlinks::Follow).map_err(at(place))?
        else {
            return Err(OverlayError::Missing { place: absolute(place) });
        };
        let path = directory::path_of(&directory).map_err(at(place))?;
        overlay.attach_to(directory.as_fd(), &path).map_err(at(place))?;
        self.mount_points.push(path);
        Ok(())
    }

    /// Where the overlays are, in the order of their hierarchies.
    pub fn mount_points(&self) -> &[PathBuf] {
        &self.mount_points
    }

    /// Takes the overlays away again; the base shows as it was.
    pub fn detach(self) {
        for path in self.mount_points.iter().rev() {
            if let Err(error) = mount::detach(path) {
                log::warn!("cannot unmount {}, ignored: {error}: {}", shown(path), error.source);
            }
        }
    }
}

fn refuse_same_numbers(layers: &[LayerFile]) -> Result<(), OverlayError> {
    let mut names = BTreeMap::new();
    for LayerFile { number, name, .. } in layers {
        if let Some(first) = names.insert(*number, name) {
            return Err(OverlayError::SameNumber {
                number: *number,
                first: first.clone(),
                second: name.clone(),
            });
        }
    }
    Ok(())
}

/// The directories to overlay, relative to the base.
fn places(cover: Cover) -> Result<Vec<PathBuf>, OverlayError> {
    let Cover::Hierarchies(hierarchies) = cover else { return Ok(vec![PathBuf::new()]) };
    let mut places: Vec<PathBuf> = Vec::with_capacity(hierarchies.len());
    for path in hierarchies {
        let place = below_root(&path).ok_or_else(|| OverlayError::Hierarchy { path: path.clone() })?;
        if let Some(other) = places.iter().find(|other| other.starts_with(&place) || place.starts_with(other))
        {
            let (outer, inner) = if place.starts_with(other) { (other, &place) } else { (&place, other) };
            return Err(OverlayError::Nested { outer: absolute(outer), inner: absolute(inner) });
        }
        places.push(place);
    }
    Ok(places)
}

/// An absolute path without its root; `None` for the root, and for paths
/// with `..`.
fn below_root(path: &Path) -> Option<PathBuf> {
    let place = path.strip_prefix("/").ok()?;
    let plain = place.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && place.file_name().is_some()).then(|| place.components().collect())
}

fn absolute(place: &Path) -> PathBuf {
    Path::new("/").join(place)
}

/// For `map_err`: what failed was for the overlay at this place.
fn at<E: Into<MountError>>(place: &Path) -> impl FnOnce(E) -> OverlayError {
    move |source| OverlayError::Overlay { place: absolute(place), source: source.into() }
}

fn shown(path: &Path) -> String {
    Escaped::new(path.as_os_str().as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(number: u16) -> LayerFile {
        LayerFile { number, name: format!("layer{number}"), file: File::open("/dev/null").unwrap() }
    }

    fn form(cover: Cover) -> Form {
        Form { cover, writable: Writable::No, top: None }
    }

    fn hierarchies(paths: &[&str]) -> Cover {
        Cover::Hierarchies(paths.iter().map(PathBuf::from).collect())
    }

    fn over(numbers: impl IntoIterator<Item = u16>, form: Form) -> Result<Option<Overlay>, String> {
        let layers = numbers.into_iter().map(layer).collect();
        Overlay::over(Path::new("/sysroot"), layers, form).map_err(|error| error.to_string())
    }

    #[test]
    fn the_highest_number_is_on_top() {
        let overlay = over([10, 30, 20], form(Cover::Root)).unwrap().unwrap();
        assert_eq!(overlay.layers.iter().map(|layer| layer.number).collect::<Vec<_>>(), [30, 20, 10]);
    }

    #[test]
    fn nothing_to_stack_is_no_overlay() {
        assert!(over([], form(Cover::Root)).unwrap().is_none());
        let tmpfs = Form { writable: Writable::Tmpfs, ..form(Cover::Root) };
        assert!(over([], tmpfs).unwrap().is_none());
        let top = Form { top: Some("/run/top".into()), ..form(Cover::Root) };
        assert!(over([], top).unwrap().is_some());
        assert!(over([1], form(Cover::Root)).unwrap().is_some());
    }

    #[test]
    fn more_layers_than_a_machine_has_are_refused_before_any_mount() {
        over(0..500, form(Cover::Root)).unwrap();
        let expected = "cannot mount 501 layers: the limit is 500";
        assert_eq!(over(0..501, form(Cover::Root)).unwrap_err(), expected);
    }

    #[test]
    fn a_number_is_given_once() {
        let layers = vec![layer(1), LayerFile { name: "other".into(), ..layer(1) }];
        let error = Overlay::over(Path::new("/"), layers, form(Cover::Root)).unwrap_err();
        assert_eq!(error.to_string(), "layers layer1 and other have the same number 1");
    }

    #[test]
    fn hierarchies_are_separate_directories_below_the_root() {
        for (paths, expected) in [
            (&["/usr", "/etc", "/opt"][..], Ok(&["usr", "etc", "opt"][..])),
            (&["/usr/local/", "/usr//lib"], Ok(&["usr/local", "usr/lib"])),
            (&["/"], Err("cannot overlay /: not an absolute path of a directory below the root")),
            (&["usr"], Err("cannot overlay usr: not an absolute path of a directory below the root")),
            (
                &["/usr/../etc"],
                Err("cannot overlay /usr/../etc: not an absolute path of a directory below the root"),
            ),
            (&["/usr", "/usr/local"], Err("cannot overlay both /usr and /usr/local: one is in the other")),
            (&["/usr/local", "/usr"], Err("cannot overlay both /usr and /usr/local: one is in the other")),
            (&["/usr", "/usr/"], Err("cannot overlay both /usr and /usr: one is in the other")),
        ] {
            let places = over([1], form(hierarchies(paths))).map(|overlay| overlay.unwrap().places);
            let expected = expected.map(|places| places.iter().map(PathBuf::from).collect());
            assert_eq!(places, expected.map_err(String::from), "{paths:?}");
        }
    }
}
