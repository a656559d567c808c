//! The indexes that depmod(8) makes, for a kernel whose modules come from
//! several layers.
//!
//! In: the roots of the layers and of the base. Out: [`Indexes`], files for a
//! layer above them. Invariant: they are those that depmod 30 writes for the
//! merged tree. The base's own indexes stand for its modules, so only the
//! layers' are read, and those of the base that a layer's stand between; what
//! a module of the base lacks in the base itself is not looked for in layers.
//!
//! | module | owns |
//! |---|---|
//! | [`elf`] | one module's facts |
//! | `tree` | the files of the kernel in roots that are not merged yet |
//! | `select` | which of several modules of one name counts |
//! | `stored` | what the base's indexes say |
//! | `order` | depmod's order |
//! | `write` | the files |
//! | `trie` | their `.bin` form |

pub mod elf;
mod order;
mod select;
mod stored;
mod tree;
mod trie;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use self::elf::Facts;
use self::select::Preference;
use self::stored::Stored;
use self::tree::{Entry, Tree};
use super::insert;
use crate::sys::kmsg::chain;
use crate::sys::roots::{Roots, RootsError};
use crate::text::Escaped;

/// Names of module files end in one of these.
const EXTENSIONS: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

/// Files for `/usr/lib/modules/RELEASE`: name and content.
pub type Indexes = Vec<(&'static str, Vec<u8>)>;

/// One module that counts.
#[derive(Debug)]
struct Module {
    /// In the kernel's form.
    name: Vec<u8>,
    /// Relative to the directory of the kernel.
    path: Vec<u8>,
    exports: Vec<Vec<u8>>,
    needs: Needs,
    aliases: Vec<Vec<u8>>,
    softdeps: Vec<Vec<u8>>,
    weakdeps: Vec<Vec<u8>>,
}

/// What a module needs.
#[derive(Debug)]
enum Needs {
    /// As its file says.
    Symbols(Vec<Vec<u8>>),
    /// As the base's index says, by path.
    Modules { direct: Vec<Vec<u8>>, all: Vec<Vec<u8>> },
}

/// The facts of the module file `path`, which is decompressed as it is named.
pub fn facts(path: &Path, content: impl Read) -> io::Result<Facts> {
    let bytes = insert::read(path, content)?;
    Facts::read(&bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// Makes the indexes of the kernel `release` for a root that has `roots` one
/// over another, the highest first. `None` if no root but the last, the base,
/// has modules for it: the base's indexes are right then.
pub fn index(roots: &[BorrowedFd], release: &str) -> Result<Option<Indexes>, RootsError> {
    let roots = Roots::new(roots);
    let preference = Preference::load(roots, release)?;
    let tree = Tree::new(roots, Path::new("usr/lib/modules").join(release));
    let files = tree.files(|name| preference.excludes(name))?;
    let is_new = |entry: &Entry| entry.root != tree.base();
    if !files.iter().any(|entry| is_new(entry) && is_module(&entry.path)) {
        return Ok(None);
    }
    let selected = select(files.iter().filter(|entry| is_module(&entry.path)), &preference);
    let stored = Stored::load(&tree)?;
    let writes_weakdeps = stored.as_ref().is_none_or(|stored| stored.has_weakdeps);
    let mut modules = gather(&tree, selected, stored.unwrap_or_default())?;
    let passed_on = write::PassedOn::load(&tree, &files)?;
    sort(&mut modules, passed_on.order());
    Ok(Some(write::files(&modules, passed_on, writes_weakdeps)))
}

impl Module {
    fn new(name: Vec<u8>, path: Vec<u8>) -> Self {
        let needs = Needs::Symbols(Vec::new());
        let (exports, aliases, softdeps, weakdeps) = Default::default();
        Self { name, path, exports, needs, aliases, softdeps, weakdeps }
    }

    /// Reads a module's file. One that is damaged is kept without facts, as
    /// depmod keeps it: it was chosen, so the next best does not count.
    fn read(tree: &Tree, entry: &Entry) -> Result<Self, RootsError> {
        let bytes = tree.module(entry)?;
        let facts = Facts::read(&bytes).unwrap_or_else(|error| {
            log::warn!("kernel module {} is damaged: {error}", Escaped::new(&entry.path));
            Facts::default()
        });
        let values = |key: &'static str| facts.values(key).map(<[u8]>::to_vec).collect();
        let (aliases, softdeps, weakdeps) = (values("alias"), values("softdep"), values("weakdep"));
        let name = module_name(&entry.path);
        let needs = Needs::Symbols(facts.needs);
        Ok(Self {
            name,
            path: entry.path.clone(),
            exports: facts.exports,
            needs,
            aliases,
            softdeps,
            weakdeps,
        })
    }
}

/// The file that counts for each name. Of equally good ones it is the first by
/// path; with depmod it is any.
fn select<'a>(
    files: impl Iterator<Item = &'a Entry>,
    preference: &Preference,
) -> BTreeMap<Vec<u8>, &'a Entry> {
    let mut selected: BTreeMap<Vec<u8>, &Entry> = BTreeMap::new();
    for entry in files {
        let best = selected.entry(module_name(&entry.path)).or_insert(entry);
        if preference.rank(&entry.path) > preference.rank(&best.path) {
            *best = entry;
        }
    }
    selected
}

/// Reads what the base's indexes do not know, or no longer know rightly.
fn gather(
    tree: &Tree,
    selected: BTreeMap<Vec<u8>, &Entry>,
    mut stored: Stored,
) -> Result<Vec<Module>, RootsError> {
    let mut modules = Vec::with_capacity(selected.len());
    let mut kept = Vec::new();
    for entry in selected.into_values() {
        match stored.modules.remove(&entry.path).filter(|_| entry.root == tree.base()) {
            Some(module) => kept.push((entry, module)),
            None => modules.extend(readable(tree, entry)),
        }
    }
    let doubtful = doubtful(&modules, &kept);
    for (entry, module) in kept {
        let is_right = match &module.needs {
            Needs::Modules { all, .. } => all.iter().all(|path| !doubtful.contains(path)),
            Needs::Symbols(_) => true,
        };
        match is_right {
            true => modules.push(module),
            false => modules.extend(readable(tree, entry)),
        }
    }
    Ok(modules)
}

/// A module, unless its file cannot be read: one bad file must not take the
/// others' indexes away.
fn readable(tree: &Tree, entry: &Entry) -> Option<Module> {
    let read = Module::read(tree, entry);
    read.inspect_err(|error| log::warn!("left out of the module indexes: {}", chain(error))).ok()
}

/// Paths that dependencies in the base's index may not rest on: of modules
/// that do not count any more, and of those whose symbols a new one has too.
fn doubtful(new: &[Module], kept: &[(&Entry, Module)]) -> HashSet<Vec<u8>> {
    let exported: HashSet<&[u8]> = new.iter().flat_map(|module| &module.exports).map(Vec::as_slice).collect();
    let is_disputed = |module: &Module| module.exports.iter().any(|name| exported.contains(name.as_slice()));
    let sound: HashSet<&[u8]> = kept
        .iter()
        .filter(|(_, module)| !is_disputed(module))
        .map(|(_, module)| module.path.as_slice())
        .collect();
    let needed = kept.iter().flat_map(|(_, module)| match &module.needs {
        Needs::Modules { all, .. } => all.as_slice(),
        Needs::Symbols(_) => &[],
    });
    needed.filter(|path| !sound.contains(path.as_slice())).cloned().collect()
}

/// Puts modules in depmod's order: those of `modules.order` first, in its
/// order, then the others.
fn sort(modules: &mut [Module], order: &[u8]) {
    // depmod takes a file whose last line is not ended for a damaged one.
    let lines = if order.ends_with(b"\n") { order } else { b"" };
    let places: HashMap<&[u8], usize> =
        lines.split(|&byte| byte == b'\n').enumerate().map(|(at, line)| (line, at)).collect();
    let place = |module: &Module| places.get(uncompressed(&module.path)).copied().unwrap_or(usize::MAX);
    modules.sort_by(|a, b| {
        place(a).cmp(&place(b)).then_with(|| order::by_bucket(&a.name, &b.name, order::MODULE_BUCKETS))
    });
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// Whether a file is a module, by its name.
pub fn is_module(path: &[u8]) -> bool {
    let name = file_name(path);
    EXTENSIONS.iter().any(|end| name.len() > end.len() && name.ends_with(end.as_bytes()))
}

/// A module's name as the kernel has it: the file's up to its first dot.
fn module_name(path: &[u8]) -> Vec<u8> {
    let name = file_name(path).split(|&byte| byte == b'.').next().unwrap_or_default();
    name.iter().map(|&byte| if byte == b'-' { b'_' } else { byte }).collect()
}

/// `kernel/m.ko` for `kernel/m.ko.xz`.
fn uncompressed(path: &[u8]) -> &[u8] {
    let end = [".gz", ".xz", ".zst"].iter().find_map(|end| path.strip_suffix(end.as_bytes()));
    end.unwrap_or(path)
}

#[cfg(test)]
mod tests;
