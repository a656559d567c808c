//! What depmod(8) wrote about one kernel's modules, in its text forms.
//!
//! In: `modules.dep`, `.alias`, `.softdep`, `.builtin` and
//! `.builtin.modinfo` of one directory; all but the first may be missing.
//! Out: [`Index`], in memory. Invariant: names are in the kernel's form,
//! with `_` for `-`, wherever they are stored or looked up.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{ModuleError, pattern};

/// The modules of one kernel, and what else it answers to.
#[derive(Debug, Default)]
pub struct Index {
    pub directory: PathBuf,
    files: HashMap<String, ModuleFile>,
    builtin: HashSet<String>,
    aliases: Aliases,
    builtin_aliases: Aliases,
    pub softdeps: Softdeps,
}

/// One line of `modules.dep`.
#[derive(Debug, Default)]
pub struct ModuleFile {
    /// Relative to the directory of the index.
    pub path: String,
    /// Names of the modules it needs, in the order in which they are inserted.
    pub dependencies: Vec<String>,
}

/// Patterns and the modules they stand for (`alias PATTERN MODULE`), grouped
/// by what stands before the first colon: a kernel has 25,000 of them, and a
/// device asks for one bus.
#[derive(Debug, Default)]
pub struct Aliases(HashMap<String, Vec<(String, String)>>);

/// What should be loaded around a module, if it can be (`softdep`).
#[derive(Debug, Default)]
pub struct Softdeps(HashMap<String, Softdep>);

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Softdep {
    pub pre: Vec<String>,
    pub post: Vec<String>,
}

impl Index {
    /// Loads the index from `directory`, as in `/lib/modules/6.12.0`.
    pub fn load(directory: &Path) -> Result<Self, ModuleError> {
        let mut index = Self { directory: directory.into(), ..Self::default() };
        let dependencies = directory.join("modules.dep");
        let text = fs::read_to_string(&dependencies)
            .map_err(|source| ModuleError::Read { path: dependencies, source })?;
        text.lines().for_each(|line| index.add_dependencies(line));
        for line in read_optional(&directory.join("modules.alias"))?.lines() {
            if let ["alias", pattern, module] = words(line)[..] {
                index.aliases.add(pattern, module);
            }
        }
        for line in read_optional(&directory.join("modules.softdep"))?.lines() {
            index.softdeps.add(line);
        }
        let builtin = read_optional(&directory.join("modules.builtin"))?;
        index.builtin = builtin.lines().map(module_name).collect();
        for entry in read_optional(&directory.join("modules.builtin.modinfo"))?.split('\0') {
            if let Some((module, alias)) = entry.split_once(".alias=") {
                index.builtin_aliases.add(alias, module);
            }
        }
        Ok(index)
    }

    /// The module with this name, which must be in the kernel's form.
    pub fn file(&self, name: &str) -> Option<&ModuleFile> {
        self.files.get(name)
    }

    /// Names of the modules that answer to `alias`.
    pub fn by_alias(&self, alias: &str) -> Vec<&str> {
        self.aliases.find(alias)
    }

    /// Whether the kernel itself holds the module with this name or alias.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&canonical(name)) || !self.builtin_aliases.find(name).is_empty()
    }

    /// `PATH: DEPENDENCY…`, where depmod puts the one to insert first last.
    fn add_dependencies(&mut self, line: &str) {
        let Some((path, dependencies)) = line.split_once(':') else { return };
        let paths: Vec<&str> = dependencies.split_whitespace().rev().collect();
        for path in &paths {
            // An index that is written by hand may have no line for a module without dependencies.
            let file = self.files.entry(module_name(path)).or_default();
            file.path = (*path).into();
        }
        let dependencies = paths.into_iter().map(module_name).collect();
        self.files.insert(module_name(path), ModuleFile { path: path.into(), dependencies });
    }
}

impl Aliases {
    pub fn add(&mut self, pattern: &str, module: &str) {
        let pattern = canonical_alias(pattern);
        let bus = match pattern.split_once(':') {
            Some((bus, _)) if !bus.contains(['*', '?', '[', '\\']) => bus.to_owned(),
            _ => String::new(),
        };
        self.0.entry(bus).or_default().push((pattern, canonical(module)));
    }

    /// The modules whose pattern matches, each once, in the order of their lines.
    pub fn find(&self, alias: &str) -> Vec<&str> {
        let alias = canonical_alias(alias);
        let bus = alias.split_once(':').map(|(bus, _)| bus).filter(|bus| !bus.is_empty());
        let mut found = Vec::new();
        for group in [bus, Some("")].into_iter().flatten() {
            for (pattern, module) in self.0.get(group).into_iter().flatten() {
                if pattern::matches(pattern.as_bytes(), alias.as_bytes()) && !found.contains(&module.as_str())
                {
                    found.push(module);
                }
            }
        }
        found
    }
}

impl Softdeps {
    /// `softdep MODULE pre: NAME… post: NAME…`; other lines are passed over.
    /// The first line for a module counts, as in modprobe.
    pub fn add(&mut self, line: &str) {
        let ["softdep", module, ref rest @ ..] = words(line)[..] else { return };
        let mut softdep = Softdep::default();
        let mut list: Option<&mut Vec<String>> = None;
        for word in rest {
            match (*word, &mut list) {
                ("pre:", _) => list = Some(&mut softdep.pre),
                ("post:", _) => list = Some(&mut softdep.post),
                (name, Some(list)) => list.push(name.to_owned()),
                (_, None) => {}
            }
        }
        self.0.entry(canonical(module)).or_insert(softdep);
    }

    pub fn get(&self, module: &str) -> Option<&Softdep> {
        self.0.get(module)
    }
}

/// A module's name as the kernel has it: `-` is `_`.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The same for an alias, whose bracketed sets keep their ranges.
fn canonical_alias(alias: &str) -> String {
    let mut in_set = false;
    let replace = |c| {
        in_set = (in_set || c == '[') && c != ']';
        if c == '-' && !in_set { '_' } else { c }
    };
    alias.chars().map(replace).collect()
}

/// `kernel/fs/ext4.ko.xz` → `ext4`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split_once(".ko").map_or(file, |(name, _)| name))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// A file's text, empty if there is no such file. Descriptions of modules
/// need not be UTF-8.
pub fn read_optional(path: &Path) -> Result<String, ModuleError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(ModuleError::Read { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_the_kernels_form() {
        for (path, expected) in [
            ("kernel/fs/ext4/ext4.ko", "ext4"),
            ("kernel/drivers/md/dm-mod.ko.xz", "dm_mod"),
            ("kernel/crypto/sha256-ssse3.ko.zst", "sha256_ssse3"),
            ("loop.ko.gz", "loop"),
            ("kernel/x/y", "y"),
        ] {
            assert_eq!(module_name(path), expected);
        }
        assert_eq!(canonical_alias("of:N*T*Ca-b[0-9]c-d"), "of:N*T*Ca_b[0-9]c_d");
    }

    #[test]
    fn aliases_match_within_their_bus_and_across() {
        let mut aliases = Aliases::default();
        for (pattern, module) in [
            ("virtio:d00000001v*", "virtio-net"),
            ("virtio:d0000000[1-2]v*", "second"),
            ("fs-ext3", "ext4"),
            ("*:anything", "any"),
            ("virtio:d*", "virtio_net"),
        ] {
            aliases.add(pattern, module);
        }
        for (alias, expected) in [
            ("virtio:d00000001v00001AF4", &["virtio_net", "second"][..]),
            ("virtio:d00000009v00001AF4", &["virtio_net"]),
            ("fs_ext3", &["ext4"]),
            ("fs-ext3", &["ext4"]),
            ("usb:anything", &["any"]),
            (":anything", &["any"]),
            ("nothing", &[]),
            ("", &[]),
        ] {
            assert_eq!(aliases.find(alias), expected, "{alias}");
        }
    }

    #[test]
    fn softdeps_name_what_comes_before_and_after() {
        let mut softdeps = Softdeps::default();
        for line in [
            "softdep dm-mod pre: a b post: c",
            "softdep dm_mod pre: second-line-is-ignored",
            "softdep lost stray",
            "# softdep comment pre: x",
        ] {
            softdeps.add(line);
        }
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let expected = Softdep { pre: strings(&["a", "b"]), post: strings(&["c"]) };
        assert_eq!(softdeps.get("dm_mod"), Some(&expected));
        assert_eq!(softdeps.get("lost"), Some(&Softdep::default()));
        assert_eq!(softdeps.get("comment"), None);
    }
}
