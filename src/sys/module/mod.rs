//! Kernel modules, as modprobe(8) loads them.
//!
//! In: names, aliases and the modaliases of devices; depmod's index, modprobe.d
//! and the kernel command line below a root. Out: modules in the kernel, their
//! dependencies first. Invariant: what is forbidden is never inserted, and no
//! file is given to the kernel that the index does not name.

mod config;
pub mod depmod;
mod index;
mod insert;
mod pattern;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use self::config::Config;
use self::index::{Index, canonical};
use super::kmsg::chain;
use crate::text::Escaped;
pub(super) use pattern::matches;

/// The modules of the running kernel.
#[derive(Debug)]
pub struct Modules {
    root: PathBuf,
    /// None if the kernel has no directory of modules: everything is built in.
    index: Option<Index>,
    config: Config,
    /// Modules known to be in the kernel, so as not to read their files again.
    live: HashSet<String>,
}

/// What became of a request to load something, the most telling last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loaded {
    /// Nothing answers to the alias.
    NoModule,
    /// A blacklist or `module_blacklist=` forbids it.
    Blacklisted,
    /// Part of the kernel itself. Taken to be so when the kernel has no
    /// directory of modules.
    Builtin,
    /// In the kernel before.
    AlreadyLoaded,
    Inserted,
}

/// Why modules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("no kernel module is named `{}` in {}", Escaped::new(.name), .directory.display())]
    NotFound { name: String, directory: PathBuf },
    #[error("the kernel refuses module {} ({}): {reason}", Escaped::new(.module), .path.display())]
    Refused { module: String, path: PathBuf, reason: &'static str, source: Errno },
}

/// What a name or an alias stands for.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Modules(Vec<String>),
    Blacklisted,
    Builtin,
    Nothing,
}

/// One module of a plan.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    module: String,
    path: PathBuf,
    /// Without it the wanted module cannot work. The others come from
    /// `softdep` and may fail.
    need: Need,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

impl Modules {
    /// Opens the modules of the kernel `release` (as `uname -r` has it) below
    /// `root`, which is `/` at boot. `parameters` is the kernel command line;
    /// a bare word has an empty value.
    pub fn open(root: &Path, release: &str, parameters: &[(&str, &str)]) -> Result<Self, ModuleError> {
        let directories = ["lib/modules", "usr/lib/modules"].map(|modules| root.join(modules).join(release));
        let index = match directories.iter().find(|directory| directory.is_dir()) {
            Some(directory) => Some(Index::load(directory)?),
            None => None,
        };
        let config = Config::load(root, parameters)?;
        Ok(Self { root: root.into(), index, config, live: HashSet::new() })
    }

    /// Where the modules lie; None if the kernel has none and all is built in.
    pub fn directory(&self) -> Option<&Path> {
        self.index.as_ref().map(|index| index.directory.as_path())
    }

    /// Loads a module by its name, or all that answer to an alias, with what
    /// they depend on. `parameters` (`name=value`, separated by spaces) come
    /// after those from modprobe.d and the command line, so they win.
    pub fn load(&mut self, name_or_alias: &str, parameters: &str) -> Result<Loaded, ModuleError> {
        let Some(index) = &self.index else { return Ok(Loaded::Builtin) };
        if self.find(index, name_or_alias) == Found::Nothing {
            let directory = index.directory.clone();
            return Err(ModuleError::NotFound { name: name_or_alias.into(), directory });
        }
        self.load_found(name_or_alias, parameters)
    }

    /// Loads what drives the device with this modalias, as a uevent or sysfs
    /// gives it. Most devices need nothing.
    pub fn load_alias(&mut self, modalias: &str) -> Result<Loaded, ModuleError> {
        self.load_found(modalias, "")
    }

    /// Loads the modules that `rd.driver.pre=` asks for, in that order, and
    /// returns what failed. Comes before [`Modules::coldplug`].
    pub fn load_early(&mut self) -> Vec<ModuleError> {
        let early = self.config.early.clone();
        early.iter().filter_map(|name| self.load(name, "").err()).collect()
    }

    /// Loads drivers for all devices that are there, and for those that appear
    /// with their drivers. Returns how many requests brought a module in;
    /// failures are logged only, since a device without its driver is missed,
    /// if at all, by a later step that knows what for.
    pub fn coldplug(&mut self) -> usize {
        let devices = self.root.join("sys/devices");
        let mut seen = HashSet::new();
        let mut inserted = 0;
        // A bus driver brings new devices, so look again until there is nothing new.
        loop {
            let mut new = modaliases(&devices);
            new.retain(|modalias| seen.insert(modalias.clone()));
            if new.is_empty() {
                return inserted;
            }
            for modalias in new {
                match self.load_alias(&modalias) {
                    Ok(Loaded::Inserted) => inserted += 1,
                    Ok(_) => {}
                    Err(error) => log::debug!("no driver for {}: {}", Escaped::new(&modalias), chain(&error)),
                }
            }
        }
    }

    /// Loads everything that `name` stands for. One module that works is
    /// enough; an error is one that left the name without any.
    fn load_found(&mut self, name: &str, parameters: &str) -> Result<Loaded, ModuleError> {
        let Some(index) = &self.index else { return Ok(Loaded::NoModule) };
        let modules = match self.find(index, name) {
            Found::Modules(modules) => modules,
            Found::Blacklisted => return Ok(Loaded::Blacklisted),
            Found::Builtin => return Ok(Loaded::Builtin),
            Found::Nothing => return Ok(Loaded::NoModule),
        };
        let mut best = Ok(Loaded::NoModule);
        for module in modules {
            best = match (best, self.load_module(&module, parameters)) {
                (Ok(Loaded::NoModule), result) => result,
                (Ok(before), Ok(now)) => Ok(before.max(now)),
                (Ok(loaded), Err(error)) | (Err(error), Ok(loaded)) => {
                    log::debug!("for {} another module serves: {}", Escaped::new(name), chain(&error));
                    Ok(loaded)
                }
                (Err(first), Err(_)) => Err(first),
            };
        }
        best
    }

    /// Loads one module of the index and what belongs around it.
    fn load_module(&mut self, module: &str, parameters: &str) -> Result<Loaded, ModuleError> {
        let Some(index) = &self.index else { return Ok(Loaded::NoModule) };
        let mut plan = self.plan(index, module);
        let forbidden = |step: &Step| self.config.is_forbidden(&step.module);
        if plan.iter().any(|step| step.need == Need::Required && forbidden(step)) {
            return Ok(Loaded::Blacklisted);
        }
        plan.retain(|step| !forbidden(step));
        let mut loaded = Loaded::NoModule;
        for step in &plan {
            let wanted = step.module == module;
            match self.insert(step, if wanted { parameters } else { "" }) {
                Ok(result) if wanted => loaded = result,
                Ok(_) => {}
                Err(error) if step.need == Need::Required => return Err(error),
                Err(error) => log::debug!("loading {module} without a softdep: {}", chain(&error)),
            }
        }
        Ok(loaded)
    }

    fn insert(&mut self, step: &Step, parameters: &str) -> Result<Loaded, ModuleError> {
        if self.live.contains(&step.module) || self.is_live(&step.module) {
            return Ok(Loaded::AlreadyLoaded);
        }
        let options = [&self.config.options(&step.module), parameters].join(" ");
        let loaded = insert::insert(&step.module, &step.path, options.trim())?;
        self.live.insert(step.module.clone());
        Ok(loaded)
    }

    /// Whether sysfs shows the module as loaded; without sysfs the kernel
    /// itself says so, after it has read the file.
    fn is_live(&self, module: &str) -> bool {
        let state = self.root.join("sys/module").join(module).join("initstate");
        fs::read(state).is_ok_and(|state| state.starts_with(b"live"))
    }

    /// What `name` stands for, in modprobe's order: alias of the
    /// configuration, module, alias of the index, built into the kernel.
    fn find(&self, index: &Index, name: &str) -> Found {
        let by_config = self.config.aliases.find(name);
        let direct = canonical(name);
        let modules = if !by_config.is_empty() {
            by_config
        } else if index.file(&direct).is_some() {
            return Found::Modules(vec![direct]);
        } else {
            index.by_alias(name)
        };
        let (builtin, modules): (Vec<_>, Vec<_>) = modules
            .into_iter()
            .filter(|module| is_known(index, module))
            .partition(|m| index.file(m).is_none());
        let allowed: Vec<_> =
            modules.iter().filter(|m| !self.config.is_blacklisted(m)).map(|&m| m.to_owned()).collect();
        if !allowed.is_empty() {
            Found::Modules(allowed)
        } else if !builtin.is_empty() || modules.is_empty() && index.is_builtin(name) {
            Found::Builtin
        } else if !modules.is_empty() {
            Found::Blacklisted
        } else {
            Found::Nothing
        }
    }

    /// What is to be inserted for `module`, in order, each once.
    fn plan(&self, index: &Index, module: &str) -> Vec<Step> {
        let mut planner = Planner { modules: self, index, visited: HashSet::new(), steps: Vec::new() };
        planner.visit(module);
        let mut required = HashSet::new();
        collect_dependencies(index, module, &mut required);
        for step in &mut planner.steps {
            if required.contains(&step.module) {
                step.need = Need::Required;
            }
        }
        planner.steps
    }
}

/// Walks dependencies depth first. A module that is on its way already is not
/// entered again, so cycles end.
struct Planner<'a> {
    modules: &'a Modules,
    index: &'a Index,
    visited: HashSet<String>,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn visit(&mut self, module: &str) {
        let Some(file) = self.index.file(module) else { return };
        if !self.visited.insert(module.to_owned()) {
            return;
        }
        for dependency in &file.dependencies {
            self.visit(dependency);
        }
        let softdep = self.modules.config.softdeps.get(module).or_else(|| self.index.softdeps.get(module));
        for name in softdep.iter().flat_map(|softdep| &softdep.pre) {
            self.visit_soft(name);
        }
        let path = self.index.directory.join(&file.path);
        self.steps.push(Step { module: module.to_owned(), path, need: Need::Optional });
        for name in softdep.iter().flat_map(|softdep| &softdep.post) {
            self.visit_soft(name);
        }
    }

    /// A softdep may name an alias, such as that of an algorithm.
    fn visit_soft(&mut self, name: &str) {
        if let Found::Modules(modules) = self.modules.find(self.index, name) {
            modules.iter().for_each(|module| self.visit(module));
        }
    }
}

/// `module` and everything without which it cannot be inserted.
fn collect_dependencies(index: &Index, module: &str, all: &mut HashSet<String>) {
    if all.insert(module.to_owned()) {
        for dependency in index.file(module).iter().flat_map(|file| &file.dependencies) {
            collect_dependencies(index, dependency, all);
        }
    }
}

fn is_known(index: &Index, module: &str) -> bool {
    index.file(module).is_some() || index.is_builtin(module)
}

/// Every modalias below sysfs' tree of devices, in the order of the devices'
/// paths, so that interfaces and disks are numbered alike at every boot.
/// Devices may vanish meanwhile.
fn modaliases(devices: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut directories = vec![devices.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // Not through links, which lead back up.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            } else if entry.file_name() == "modalias" {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    let texts = files.into_iter().map(|file| fs::read_to_string(file).unwrap_or_default());
    texts.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests;
