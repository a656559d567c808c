//! What the base's own indexes say about its modules, so that their files
//! need not be read again.
//!
//! In: `modules.dep` and the other text indexes of the base. Out: a
//! [`Module`] for each of its lines. Invariant: indexes made from these
//! modules alone are the same as those they were read from.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::tree::Tree;
use super::{Module, Needs, module_name};
use crate::sys::roots::RootsError;

/// The modules of the base, by path.
#[derive(Default)]
pub struct Stored {
    pub modules: BTreeMap<Vec<u8>, Module>,
    /// Whether the base's depmod wrote weak dependencies; older ones do not.
    pub has_weakdeps: bool,
}

impl Stored {
    /// Loads the base's indexes. `None` if it has none.
    pub fn load(tree: &Tree) -> Result<Option<Self>, RootsError> {
        let read = |name: &str| tree.read(tree.base(), name);
        let Some(text) = read("modules.dep")? else { return Ok(None) };
        let mut modules = dependencies(&text);
        let mut by_name: HashMap<Vec<u8>, &mut Module> =
            modules.values_mut().map(|module| (module.name.clone(), module)).collect();
        let mut add = |text: Option<Vec<u8>>, add: &dyn Fn(&mut Module, &[u8]), split: Split| {
            for (name, value) in text.as_deref().unwrap_or_default().split(is_newline).filter_map(split) {
                if let Some(module) = by_name.get_mut(name) {
                    add(module, value);
                }
            }
        };
        add(read("modules.alias")?, &|module, value| module.aliases.push(value.into()), alias);
        add(read("modules.softdep")?, &|module, value| module.softdeps.push(value.into()), softdep);
        add(read("modules.symbols")?, &|module, value| module.exports.push(value.into()), symbol);
        let weakdeps = read("modules.weakdep")?;
        let has_weakdeps = weakdeps.is_some();
        add(weakdeps, &|module, value| module.weakdeps.push(value.into()), weakdep);
        Ok(Some(Self { modules, has_weakdeps }))
    }
}

/// A line's module name, and what the line says about it.
type Split = for<'a> fn(&'a [u8]) -> Option<(&'a [u8], &'a [u8])>;

/// `alias PATTERN MODULE`; a pattern may have spaces.
fn alias(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_prefix(b"alias ")?;
    let at = rest.iter().rposition(|&byte| byte == b' ')?;
    Some((&rest[at + 1..], &rest[..at]))
}

/// `alias symbol:NAME MODULE`.
fn symbol(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (module, symbol) = alias(line)?;
    Some((module, symbol.strip_prefix(b"symbol:")?))
}

/// `softdep MODULE TEXT`.
fn softdep(line: &[u8]) -> Option<(&[u8], &[u8])> {
    split_once(line.strip_prefix(b"softdep ")?, b' ')
}

/// `weakdep MODULE TEXT`.
fn weakdep(line: &[u8]) -> Option<(&[u8], &[u8])> {
    split_once(line.strip_prefix(b"weakdep ")?, b' ')
}

fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

fn is_newline(byte: &u8) -> bool {
    *byte == b'\n'
}

/// `PATH: DEPENDENCY…`, where a line has all dependencies, also those of
/// dependencies, and who needs another comes before it.
fn dependencies(text: &[u8]) -> BTreeMap<Vec<u8>, Module> {
    let lines = text.split(is_newline).filter_map(|line| split_once(line, b':'));
    let closures: HashMap<&[u8], Vec<&[u8]>> = lines
        .map(|(path, rest)| {
            (path, rest.split(|&byte| byte == b' ').filter(|path| !path.is_empty()).collect())
        })
        .collect();
    let of = |path: &[u8]| closures.get(path).map(Vec::as_slice).unwrap_or_default();
    let module = |(path, all): (&&[u8], &Vec<&[u8]>)| {
        // What another one brings anyhow does not change the order of things.
        let indirect: HashSet<&[u8]> = all.iter().flat_map(|need| of(need)).copied().collect();
        // Of those that become free together, the one met last is taken first.
        let direct = all.iter().rev().filter(|need| !indirect.contains(*need));
        let needs = Needs::Modules {
            direct: direct.map(|path| path.to_vec()).collect(),
            all: all.iter().map(|path| path.to_vec()).collect(),
        };
        (path.to_vec(), Module { needs, ..Module::new(module_name(path), path.to_vec()) })
    };
    closures.iter().map(module).collect()
}
