//! One entry: its header with what extensions say.
//!
//! In: a parsed header and the extensions before it. Out: an [`Entry`].
//! Invariant: pax wins over the header for every value, and its size is both
//! what the data reader gives and what is skipped to the next header.

use super::error::Problem;
use super::header::Header;
use super::path::EntryPath;
use super::pax::Pax;
use crate::layer::tree::{Attributes, Xattrs};
use crate::limits::{Bound, Limits};

/// One entry of an archive, extensions applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its header starts in the archive, in bytes.
    pub at: u64,
    pub path: EntryPath,
    pub kind: Kind,
    pub attributes: Attributes,
    /// From `SCHILY.xattr.*`, `LIBARCHIVE.xattr.*` and `RHT.security.selinux`.
    pub xattrs: Option<Box<Xattrs>>,
    /// Bytes of data; 0 for all but files.
    pub size: u64,
}

/// What an entry creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    /// The target as written: not empty, no control characters.
    Symlink(Box<[u8]>),
    HardLink(EntryPath),
    /// Character or block device.
    Device,
    Fifo,
}

/// Extensions that wait for their entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) pax: Option<Pax>,
    /// GNU long name and link.
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
}

impl Extensions {
    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }
}

/// Names the entry as far as that is possible, for messages about it.
pub(super) fn name(header: &Header, extensions: &Extensions) -> Vec<u8> {
    let pax = extensions.pax.as_ref().and_then(|pax| pax.path.as_ref());
    pax.or(extensions.name.as_ref()).unwrap_or(&header.name).clone()
}

impl Entry {
    pub(super) fn new(
        at: u64,
        header: Header,
        extensions: Extensions,
        limits: &Limits,
    ) -> Result<Self, Problem> {
        let name = name(&header, &extensions);
        // Whether it is a directory hangs on the name, and parsers differ on which.
        if header.typeflag == 0 && name != header.name {
            return Err(Problem::OldType);
        }
        let pax = extensions.pax.unwrap_or_default();
        let size = pax.size.unwrap_or(header.size);
        let path = EntryPath::within(&name, limits).map_err(Problem::Name)?;
        let is_directory_name = name.ends_with(b"/");
        let link = link(header.typeflag, pax.link.or(extensions.link), header.link)?;
        let kind = kind(header.typeflag, is_directory_name, &link, limits)?;
        match kind {
            Kind::Directory => {}
            _ if path.is_root() => return Err(Problem::Root),
            _ if is_directory_name => return Err(Problem::TrailingSlash),
            _ => {}
        }
        if kind != Kind::File && size != 0 {
            return Err(Problem::UnexpectedData(size));
        }
        let attributes = Attributes {
            mode: header.attributes.mode,
            uid: pax.uid.unwrap_or(header.attributes.uid),
            gid: pax.gid.unwrap_or(header.attributes.gid),
            mtime: pax.mtime.unwrap_or(header.attributes.mtime),
        };
        let xattrs = (!pax.xattrs.is_empty()).then(|| Box::new(pax.xattrs));
        Ok(Self { at, path, kind, attributes, xattrs, size })
    }
}

/// What a link links to, by its extension or its header.
fn link(typeflag: u8, extended: Option<Vec<u8>>, link: Vec<u8>) -> Result<Vec<u8>, Problem> {
    if extended.is_some() && !matches!(typeflag, b'1' | b'2') {
        return Err(Problem::DanglingLink);
    }
    Ok(extended.unwrap_or(link))
}

fn kind(typeflag: u8, is_directory_name: bool, link: &[u8], limits: &Limits) -> Result<Kind, Problem> {
    match typeflag {
        // V7 has no other mark for directories.
        0 if is_directory_name => Ok(Kind::Directory),
        0 | b'0' => Ok(Kind::File),
        b'1' => hard_link(link, limits),
        b'2' => symlink(link, limits),
        b'3' | b'4' => Ok(Kind::Device),
        b'5' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        b'S' => Err(Problem::Sparse),
        other => Err(Problem::Type(other)),
    }
}

fn hard_link(target: &[u8], limits: &Limits) -> Result<Kind, Problem> {
    let target = EntryPath::within(target, limits).map_err(Problem::LinkTarget)?;
    if target.is_root() { Err(Problem::Root) } else { Ok(Kind::HardLink(target)) }
}

fn symlink(target: &[u8], limits: &Limits) -> Result<Kind, Problem> {
    if target.is_empty() || target.iter().any(u8::is_ascii_control) {
        return Err(Problem::SymlinkTarget);
    }
    limits.check(Bound::SymlinkTarget, target.len() as u64).map_err(Problem::LongSymlinkTarget)?;
    Ok(Kind::Symlink(target.into()))
}
