//! Whether the kernel modules of a new layer fit the kernel that will boot.
//!
//! In: a layer whose directory of modules is already known to be the kernel's.
//! Out: the first module that says otherwise. Invariant: a layer that is
//! refused can be built again, since nothing about it is recorded.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::unpack::limits_of_a_layer;
use crate::error::Error;
use crate::layer::rules::Permission;
use crate::layer::squashfs::FileId;
use crate::layer::squashfs::reader::{ReadError, Reader};
use crate::layer::tree::{Content, Node};
use crate::store::Layer;
use crate::sys::module::depmod;
use crate::text::Escaped;

/// Why the modules of a layer are refused.
#[derive(Debug, thiserror::Error)]
pub enum KernelModuleError {
    #[error("cannot read back the layer")]
    Layer(#[from] ReadError),
    #[error("cannot read kernel module {}", Escaped::new(.path))]
    Module { path: Vec<u8>, source: io::Error },
    #[error(
        "kernel module {} was built for `{}`, this machine runs {kernel}",
        Escaped::new(.path), Escaped::new(.vermagic)
    )]
    Vermagic { path: Vec<u8>, vermagic: Vec<u8>, kernel: String },
}

/// Checks every module of `layer` for the kernel `release`.
pub fn check(layer: &Layer, release: &str) -> Result<(), Error> {
    if layer.record().kernel_release.is_none() {
        return Ok(());
    }
    let file = layer.open()?;
    check_modules(layer, file, release)
        .map_err(|source| Error::KernelModule { extension: layer.record().title(), source })
}

fn check_modules(layer: &Layer, file: File, release: &str) -> Result<(), KernelModuleError> {
    let mut reader = Reader::open(file, 0..layer.record().size, limits_of_a_layer())?;
    let tree = reader.tree(Permission::Allow)?;
    let mut modules = Vec::new();
    if let Some(directory) = directory(&tree.root) {
        collect(b"usr/lib/modules", directory, &mut modules);
    }
    for (path, id) in modules {
        let Some(content) = reader.content(&tree, id)? else { continue };
        let facts = depmod::facts(Path::new(OsStr::from_bytes(&path)), content)
            .map_err(|source| KernelModuleError::Module { path: path.clone(), source })?;
        if let Some(vermagic) = facts.misfit(release) {
            let vermagic = vermagic.to_vec();
            return Err(KernelModuleError::Vermagic { path, vermagic, kernel: release.into() });
        }
    }
    Ok(())
}

fn directory(root: &Node) -> Option<&Node> {
    [&b"usr"[..], b"lib", b"modules"].iter().try_fold(root, |node, name| node.children()?.get(name))
}

/// The modules below a directory, as deep as the reader lets paths be.
fn collect(path: &[u8], node: &Node, found: &mut Vec<(Vec<u8>, FileId)>) {
    for (name, child) in node.children().into_iter().flatten() {
        let path = [path, b"/", name].concat();
        match &child.content {
            Content::File(id) if depmod::is_module(&path) => found.push((path, *id)),
            _ => collect(&path, child, found),
        }
    }
}
