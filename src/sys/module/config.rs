//! What the administrator says about modules: modprobe.d(5) and the kernel
//! command line.
//!
//! In: `*.conf` in `etc/modprobe.d` and the other directories below a root,
//! and the parameters the kernel was started with. Out: [`Config`].
//! Invariant: no command is ever run; an `install` line counts only where it
//! forbids the module.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::ModuleError;
use super::index::{Aliases, Softdeps, canonical, read_optional};

/// Directories below the root, the most important first: a file hides those of
/// the same name in later ones.
const DIRECTORIES: [&str; 5] =
    ["etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"];

/// Rules for loading modules.
#[derive(Debug, Default)]
pub struct Config {
    pub aliases: Aliases,
    pub softdeps: Softdeps,
    /// Modules to load before any device asks, from `rd.driver.pre=`.
    pub early: Vec<String>,
    options: HashMap<String, Vec<String>>,
    blacklist: HashSet<String>,
    forbidden: HashSet<String>,
}

impl Config {
    /// Loads the rules below `root`; those of the kernel command line come on
    /// top. In `parameters`, a bare word has an empty value.
    pub fn load(root: &Path, parameters: &[(&str, &str)]) -> Result<Self, ModuleError> {
        let mut config = Self::default();
        for path in files(root)? {
            let text = read_optional(&path)?.replace("\\\n", " ");
            text.lines().for_each(|line| config.add_line(line));
        }
        parameters.iter().for_each(|(key, value)| config.add_parameter(key, value));
        Ok(config)
    }

    /// Whether the module may not be loaded because an alias names it.
    pub fn is_blacklisted(&self, module: &str) -> bool {
        self.blacklist.contains(module)
    }

    /// Whether the module may not be loaded whoever asks for it.
    pub fn is_forbidden(&self, module: &str) -> bool {
        self.forbidden.contains(module)
    }

    /// The module's parameters, as the kernel takes them.
    pub fn options(&self, module: &str) -> String {
        self.options.get(module).map(|options| options.join(" ")).unwrap_or_default()
    }

    fn add_line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["alias", pattern, module] => self.aliases.add(pattern, module),
            ["blacklist", module] => self.forbid_aliases(module),
            ["options", module, ref options @ ..] => self.add_option(module, options.join(" ")),
            ["softdep", ..] => self.softdeps.add(line),
            // The customary way to forbid a module altogether.
            ["install", module, command] if command.ends_with("/false") || command.ends_with("/true") => {
                self.forbidden.insert(canonical(module));
            }
            ["install", module, ..] => {
                log::debug!("the install command of module {module} is not run");
            }
            _ => {}
        }
    }

    fn add_parameter(&mut self, key: &str, value: &str) {
        let names = || value.split(',').filter(|name| !name.is_empty());
        // The kernel takes - and _ in its own parameters for the same.
        match key.replace('-', "_").as_str() {
            "module_blacklist" => self.forbidden.extend(names().map(canonical)),
            "modprobe.blacklist" | "rd.driver.blacklist" => {
                names().for_each(|name| self.forbid_aliases(name));
            }
            "rd.driver.pre" => self.early.extend(names().map(str::to_owned)),
            _ => {
                if let Some((module, option)) = key.split_once('.') {
                    self.add_option(module, option_text(option, value));
                }
            }
        }
    }

    fn forbid_aliases(&mut self, module: &str) {
        self.blacklist.insert(canonical(module));
    }

    fn add_option(&mut self, module: &str, option: String) {
        self.options.entry(canonical(module)).or_default().push(option);
    }
}

/// One module parameter as the kernel's own parser takes it.
fn option_text(name: &str, value: &str) -> String {
    match value {
        "" => name.to_owned(),
        value if value.contains(char::is_whitespace) => format!("{name}=\"{value}\""),
        value => format!("{name}={value}"),
    }
}

/// The configuration files in the order of their names, whatever directory
/// they are in.
fn files(root: &Path) -> Result<Vec<PathBuf>, ModuleError> {
    let mut files = BTreeMap::new();
    for directory in DIRECTORIES.map(|directory| root.join(directory)) {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(ModuleError::Read { path: directory, source }),
            Ok(entries) => entries,
        };
        for entry in entries {
            let entry = entry.map_err(|source| ModuleError::Read { path: directory.clone(), source })?;
            if entry.path().extension().is_some_and(|extension| extension == "conf") {
                files.entry(entry.file_name()).or_insert(entry.path());
            }
        }
    }
    Ok(files.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lines: &str, parameters: &[(&str, &str)]) -> Config {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/modprobe.d")).unwrap();
        fs::write(root.path().join("etc/modprobe.d/test.conf"), lines).unwrap();
        Config::load(root.path(), parameters).unwrap()
    }

    #[test]
    fn options_of_a_module_are_joined() {
        for (lines, parameters, expected) in [
            ("options dm-mod a=1", &[][..], "a=1"),
            ("options dm_mod a=1 b\noptions dm-mod c=\"x y\"", &[], "a=1 b c=\"x y\""),
            ("options dm_mod \\\n a=1", &[], "a=1"),
            ("#options dm_mod a=1\n  # x", &[], ""),
            ("options dm_mod a=1", &[("dm-mod.a", "2")], "a=1 a=2"),
            ("", &[("dm_mod.flag", "")], "flag"),
            ("", &[("dm_mod.text", "x y")], "text=\"x y\""),
            ("", &[("dm_mod_other.a", "1"), ("dm_mod", "1")], ""),
        ] {
            assert_eq!(config(lines, parameters).options("dm_mod"), expected, "{lines} {parameters:?}");
        }
    }

    #[test]
    fn a_module_is_blacklisted_for_aliases_or_forbidden_for_all() {
        for (lines, parameters, blacklisted, forbidden) in [
            ("blacklist pc-speaker", &[][..], true, false),
            ("", &[("modprobe.blacklist", "other,pc_speaker")], true, false),
            ("", &[("rd.driver.blacklist", "pc-speaker")], true, false),
            ("", &[("module_blacklist", "pc-speaker,other")], false, true),
            ("", &[("module-blacklist", "pc_speaker")], false, true),
            ("install pc-speaker /bin/false", &[], false, true),
            ("install pc-speaker /usr/bin/true", &[], false, true),
            ("install pc-speaker /sbin/modprobe --ignore-install pc-speaker", &[], false, false),
            ("blacklist pc", &[("module_blacklist", "")], false, false),
        ] {
            let config = config(lines, parameters);
            assert_eq!(config.is_blacklisted("pc_speaker"), blacklisted, "{lines} {parameters:?}");
            assert_eq!(config.is_forbidden("pc_speaker"), forbidden, "{lines} {parameters:?}");
        }
    }

    #[test]
    fn a_file_hides_its_namesake_in_a_later_directory() {
        let root = tempfile::tempdir().unwrap();
        for (path, line) in [
            ("etc/modprobe.d/b.conf", "options m from=etc-b"),
            ("lib/modprobe.d/b.conf", "options m from=lib-b"),
            ("lib/modprobe.d/a.conf", "options m from=lib-a"),
            ("etc/modprobe.d/c.conf.old", "options m from=old"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, line).unwrap();
        }
        assert_eq!(Config::load(root.path(), &[]).unwrap().options("m"), "from=lib-a from=etc-b");
    }

    #[test]
    fn early_drivers_keep_their_order() {
        let config = config("", &[("rd.driver.pre", "b,a"), ("rd.driver.pre", "c")]);
        assert_eq!(config.early, ["b", "a", "c"]);
    }
}
