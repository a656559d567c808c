//! The files of an index, from modules in their order.
//!
//! In: modules, and what the kernel's own build says about them. Out: text
//! and `.bin` files. Invariant: a module's place in the order is its priority
//! in every `.bin` file.

use std::collections::HashMap;

use super::order::{self, by_bucket};
use super::tree::{Entry, Tree};
use super::trie::Trie;
use super::{Indexes, Module, Needs, module_name};
use crate::sys::roots::RootsError;

/// What the kernel's build wrote, in the order in which it is passed on.
const FROM_BUILD: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];

/// The files of the kernel's build. Layers may bring copies of their own; the
/// base knows better what its kernel is.
pub struct PassedOn {
    /// None if no root has it.
    contents: [Option<Vec<u8>>; FROM_BUILD.len()],
    /// Whether a layer has the file, so that it must be shown above it.
    is_hidden: [bool; FROM_BUILD.len()],
}

impl PassedOn {
    pub fn load(tree: &Tree, files: &[Entry]) -> Result<Self, RootsError> {
        let mut passed_on = Self { contents: Default::default(), is_hidden: Default::default() };
        for (at, name) in FROM_BUILD.into_iter().enumerate() {
            let highest = files.iter().find(|entry| entry.path == name.as_bytes()).map(|entry| entry.root);
            let base = tree.read(tree.base(), name)?;
            passed_on.is_hidden[at] = highest != Some(tree.base()) && base.is_some();
            passed_on.contents[at] = match (base, highest) {
                (None, Some(root)) => tree.read(root, name)?,
                (base, _) => base,
            };
        }
        Ok(passed_on)
    }

    pub fn order(&self) -> &[u8] {
        self.contents[0].as_deref().unwrap_or_default()
    }
}

/// All files, `modules.weakdep` only where it is wanted.
pub fn files(modules: &[Module], passed_on: PassedOn, writes_weakdeps: bool) -> Indexes {
    let (dependencies, dependencies_bin) = dependencies(modules);
    let (symbols, symbols_bin) = symbols(modules);
    let [_, builtin, modinfo] = &passed_on.contents;
    let mut files = vec![
        ("modules.dep", dependencies),
        ("modules.alias", aliases(modules)),
        ("modules.softdep", softdeps(modules)),
        ("modules.symbols", symbols),
        ("modules.devname", devnames(modules)),
    ];
    if writes_weakdeps {
        files.push(("modules.weakdep", weakdeps(modules)));
    }
    let tries = [
        ("modules.dep.bin", Some(dependencies_bin)),
        ("modules.alias.bin", Some(aliases_bin(modules))),
        ("modules.symbols.bin", Some(symbols_bin)),
        ("modules.builtin.bin", builtin.as_deref().map(builtin_bin)),
        ("modules.builtin.alias.bin", modinfo.as_deref().map(builtin_alias_bin)),
    ];
    // Without its source, depmod leaves an empty file.
    files.extend(tries.map(|(name, trie)| match trie.map(|trie| trie.finish()) {
        None => (name, Vec::new()),
        Some(Some(bytes)) => (name, bytes),
        Some(None) => {
            log::warn!("{name} would be too long and is left empty");
            (name, Vec::new())
        }
    }));
    let hidden = FROM_BUILD.into_iter().zip(passed_on.contents).zip(passed_on.is_hidden);
    files.extend(hidden.filter_map(|((name, content), is_hidden)| is_hidden.then_some((name, content?))));
    files
}

fn dependencies(modules: &[Module]) -> (Vec<u8>, Trie) {
    let needs = resolve(modules);
    let ranks = order::rank(&needs);
    let (mut text, mut trie) = (Vec::new(), Trie::default());
    for (at, module) in modules.iter().enumerate() {
        let mut line = [&module.path[..], b":"].concat();
        for need in order::closure(at, &needs, &ranks) {
            line.push(b' ');
            line.extend(&modules[need].path);
        }
        trie.insert(&module.name, &line, at as u32);
        text.extend(line);
        text.push(b'\n');
    }
    (text, trie)
}

/// The direct dependencies of each module, as places among the modules.
fn resolve(modules: &[Module]) -> Vec<Vec<usize>> {
    let owners = owners(modules);
    let paths: HashMap<&[u8], usize> =
        modules.iter().enumerate().map(|(at, module)| (module.path.as_slice(), at)).collect();
    let resolved = modules.iter().enumerate().map(|(at, module)| {
        let mut direct = Vec::new();
        let mut add = |need: Option<&usize>| match need {
            Some(&need) if need != at && !direct.contains(&need) => direct.push(need),
            _ => {}
        };
        match &module.needs {
            // On PowerPC a function's name has a dot before it.
            Needs::Symbols(names) => {
                names.iter().for_each(|name| add(owners.get(name.strip_prefix(b".").unwrap_or(name))));
            }
            Needs::Modules { direct, .. } => direct.iter().for_each(|path| add(paths.get(path.as_slice()))),
        }
        direct
    });
    resolved.collect()
}

/// The module that each symbol is from; of several the last.
fn owners(modules: &[Module]) -> HashMap<&[u8], usize> {
    let exports = modules.iter().enumerate();
    exports.flat_map(|(at, module)| module.exports.iter().map(move |name| (name.as_slice(), at))).collect()
}

fn symbols(modules: &[Module]) -> (Vec<u8>, Trie) {
    let mut owners: Vec<_> = owners(modules).into_iter().collect();
    owners.sort_by(|(a, _), (b, _)| by_bucket(a, b, order::SYMBOL_BUCKETS));
    let mut text = b"# Aliases for symbols, used by symbol_request().\n".to_vec();
    let mut trie = Trie::default();
    for (name, owner) in owners {
        let symbol = [b"symbol:", name].concat();
        let module = &modules[owner].name;
        text.extend([b"alias ", &symbol[..], b" ", module, b"\n"].concat());
        trie.insert(&symbol, module, owner as u32);
    }
    (text, trie)
}

fn aliases(modules: &[Module]) -> Vec<u8> {
    let mut text = b"# Aliases extracted from modules themselves.\n".to_vec();
    for (module, alias) in each(modules, |module| &module.aliases) {
        text.extend([b"alias ", alias, b" ", &module.name, b"\n"].concat());
    }
    text
}

fn aliases_bin(modules: &[Module]) -> Trie {
    let mut trie = Trie::default();
    for (at, module) in modules.iter().enumerate() {
        for alias in module.aliases.iter().filter_map(|alias| normal_alias(alias)) {
            trie.insert(&alias, &module.name, at as u32);
        }
    }
    trie
}

fn softdeps(modules: &[Module]) -> Vec<u8> {
    let mut text = b"# Soft dependencies extracted from modules themselves.\n".to_vec();
    for (module, softdep) in each(modules, |module| &module.softdeps) {
        text.extend([b"softdep ", &module.name[..], b" ", softdep, b"\n"].concat());
    }
    text
}

fn weakdeps(modules: &[Module]) -> Vec<u8> {
    let mut text = b"# Weak dependencies extracted from modules themselves.\n".to_vec();
    for (module, weakdep) in each(modules, |module| &module.weakdeps) {
        text.extend([b"weakdep ", &module.name[..], b" ", weakdep, b"\n"].concat());
    }
    text
}

/// What each module says about itself, one after the other.
fn each(
    modules: &[Module],
    values: impl Fn(&Module) -> &Vec<Vec<u8>>,
) -> impl Iterator<Item = (&Module, &[u8])> {
    modules.iter().flat_map(move |module| values(module).iter().map(move |value| (module, value.as_slice())))
}

/// `MODULE NODE TYPE MAJOR:MINOR` for modules that say how their device node
/// is called and numbered.
fn devnames(modules: &[Module]) -> Vec<u8> {
    let mut lines = Vec::new();
    for module in modules {
        let (mut name, mut number) = (None, None);
        for alias in &module.aliases {
            name = alias.strip_prefix(b"devname:").or(name);
            number = device_number(alias).or(number);
            if name.is_some() && number.is_some() {
                break;
            }
        }
        if let (Some(name), Some(number)) = (name, number) {
            lines.extend([&module.name[..], b" ", name, b" ", number.as_bytes(), b"\n"].concat());
        }
    }
    match lines.is_empty() {
        true => lines,
        false => [&b"# Device nodes to trigger on-demand module loading.\n"[..], &lines].concat(),
    }
}

/// `c10:229` for `char-major-10-229`.
fn device_number(alias: &[u8]) -> Option<String> {
    let alias = std::str::from_utf8(alias).ok()?;
    let (kind, rest) = match alias.strip_prefix("char-major-") {
        Some(rest) => ('c', rest),
        None => ('b', alias.strip_prefix("block-major-")?),
    };
    let (major, minor) = rest.split_once('-')?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).map_or(minor, |end| &minor[..end]);
    let (major, minor): (u32, u32) = (major.parse().ok()?, digits.parse().ok()?);
    Some(format!("{kind}{major}:{minor}"))
}

/// `modules.builtin` has the path of one module a line.
fn builtin_bin(text: &[u8]) -> Trie {
    let mut trie = Trie::default();
    for line in
        text.split(|&byte| byte == b'\n').filter(|line| line.first().is_some_and(u8::is_ascii_alphabetic))
    {
        trie.insert(&module_name(line), b"", 0);
    }
    trie
}

/// `modules.builtin.modinfo` has `MODULE.KEY=VALUE`, each ended by a zero byte.
fn builtin_alias_bin(text: &[u8]) -> Trie {
    let mut trie = Trie::default();
    for entry in text.split(|&byte| byte == 0) {
        let mut parts = entry.splitn(2, |&byte| byte == b'.');
        let (Some(module), Some(rest)) = (parts.next(), parts.next()) else { continue };
        let alias = rest.strip_prefix(b"alias=").filter(|alias| !alias.is_empty());
        if let Some(alias) = alias.and_then(normal_alias) {
            trie.insert(&alias, module, 0);
        }
    }
    trie
}

/// An alias with `_` for `-`, but in its bracketed sets. `None` if a bracket
/// is not closed or not opened.
fn normal_alias(alias: &[u8]) -> Option<Vec<u8>> {
    let mut in_set = false;
    let normal = alias.iter().map(|&byte| {
        match (byte, in_set) {
            (b'[', false) => in_set = true,
            (b']', true) => in_set = false,
            (b']', false) => return None,
            (b'-', false) => return Some(b'_'),
            _ => {}
        }
        Some(byte)
    });
    let normal = normal.collect::<Option<Vec<u8>>>()?;
    (!in_set).then_some(normal)
}
