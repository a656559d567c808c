//! What a name asks for (image-spec, layer.md, "Whiteouts").

use crate::layer::tar::EntryPath;
use crate::layer::tar::path::join;

/// What a changeset entry asks for, read from its name alone.
#[derive(Debug, PartialEq, Eq)]
pub enum EntryName<'a> {
    /// `dir/.wh..wh..opq`: hide everything below `dir` in lower changesets.
    Opaque { directory: &'a [u8] },
    /// `dir/.wh.name`: hide `dir/name` in lower changesets.
    Whiteout { target: Vec<u8> },
    /// Bookkeeping of aufs, which old versions of Docker left in images.
    Metadata,
    /// Anything else: create it.
    Create,
}

/// A whiteout of nothing, `.` or `..`.
#[derive(Debug, PartialEq, Eq)]
pub struct EmptyWhiteout;

const PREFIX: &[u8] = b".wh.";
const AUFS: [&[u8]; 3] = [b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph"];

impl<'a> EntryName<'a> {
    /// Only the last component counts: below a directory that happens to be
    /// called `.wh.x`, entries are ordinary.
    pub fn classify(path: &'a EntryPath) -> Result<Self, EmptyWhiteout> {
        if path.components().any(|component| AUFS.contains(&component)) {
            return Ok(Self::Metadata);
        }
        let Some((directory, name)) = path.split() else { return Ok(Self::Create) };
        match name.strip_prefix(PREFIX) {
            None => Ok(Self::Create),
            Some(b".wh..opq") => Ok(Self::Opaque { directory }),
            Some(b"" | b"." | b"..") => Err(EmptyWhiteout),
            Some(hidden) => Ok(Self::Whiteout { target: join(directory, hidden) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ask_for_what_the_specification_says() {
        use EntryName::{Create, Metadata, Opaque, Whiteout};
        for (path, expected) in [
            ("etc/hosts", Ok(Create)),
            (".", Ok(Create)),
            ("etc/.wh.hosts", Ok(Whiteout { target: b"etc/hosts".to_vec() })),
            (".wh.hosts", Ok(Whiteout { target: b"hosts".to_vec() })),
            (".wh.hosts/", Ok(Whiteout { target: b"hosts".to_vec() })),
            ("etc/.wh..hidden", Ok(Whiteout { target: b"etc/.hidden".to_vec() })),
            ("etc/.wh..wh.x", Ok(Whiteout { target: b"etc/.wh.x".to_vec() })),
            ("etc/.wh..wh..opq", Ok(Opaque { directory: b"etc" })),
            ("./.wh..wh..opq", Ok(Opaque { directory: b"" })),
            ("etc/.whx", Ok(Create)),
            ("etc/x.wh.y", Ok(Create)),
            (".wh.x/y", Ok(Create)),
            (".wh..wh.plnk", Ok(Metadata)),
            (".wh..wh.plnk/4.7", Ok(Metadata)),
            ("a/.wh..wh.aufs", Ok(Metadata)),
            (".wh..wh.orph/", Ok(Metadata)),
            ("etc/.wh.", Err(EmptyWhiteout)),
            (".wh.", Err(EmptyWhiteout)),
            ("etc/.wh..", Err(EmptyWhiteout)),
            ("etc/.wh...", Err(EmptyWhiteout)),
        ] {
            let parsed = EntryPath::parse(path.as_bytes()).unwrap();
            assert_eq!(EntryName::classify(&parsed), expected, "{path}");
        }
    }
}
