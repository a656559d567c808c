//! Mount options as `fstab(5)` and `rootflags=` write them.
//!
//! In: words with commas between them. Out: [`Options`], which tells apart
//! what is for the mount, for the superblock and for the filesystem itself.
//! Invariant: the last of contradicting words wins, and a word that is not
//! known here goes to the filesystem, which may refuse it.

use rustix::mount::{MountAttrFlags, MountFlags};

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub(super) attributes: MountAttrFlags,
    /// `ro`, `sync`, `dirsync`, `lazytime`: of the superblock, for any
    /// filesystem.
    pub(super) superblock: Vec<&'static str>,
    /// Of this filesystem: words, or keys with values.
    pub(super) data: Vec<(String, Option<String>)>,
}

/// A word's effect: set or clear attributes of the mount.
const ATTRIBUTES: &[(&str, MountAttrFlags, MountAttrFlags)] = {
    const NONE: MountAttrFlags = MountAttrFlags::empty();
    const ATIME: MountAttrFlags = MountAttrFlags::MOUNT_ATTR__ATIME;
    &[
        ("ro", NONE, MountAttrFlags::MOUNT_ATTR_RDONLY),
        ("rw", MountAttrFlags::MOUNT_ATTR_RDONLY, NONE),
        ("nodev", NONE, MountAttrFlags::MOUNT_ATTR_NODEV),
        ("dev", MountAttrFlags::MOUNT_ATTR_NODEV, NONE),
        ("nosuid", NONE, MountAttrFlags::MOUNT_ATTR_NOSUID),
        ("suid", MountAttrFlags::MOUNT_ATTR_NOSUID, NONE),
        ("noexec", NONE, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        ("exec", MountAttrFlags::MOUNT_ATTR_NOEXEC, NONE),
        ("nodiratime", NONE, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        ("diratime", MountAttrFlags::MOUNT_ATTR_NODIRATIME, NONE),
        ("nosymfollow", NONE, MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        ("symfollow", MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, NONE),
        // One field with three values, of which relatime is zero.
        ("noatime", ATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        ("strictatime", ATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        ("relatime", ATIME, NONE),
        ("atime", ATIME, NONE),
        ("norelatime", NONE, NONE),
        ("nostrictatime", ATIME, NONE),
    ]
};

/// A word's effect on the superblock: the words it removes, the one it adds.
const SUPERBLOCK: &[(&str, &str, Option<&str>)] = &[
    ("ro", "ro", Some("ro")),
    ("rw", "ro", None),
    ("sync", "sync", Some("sync")),
    ("async", "sync", None),
    ("dirsync", "dirsync", Some("dirsync")),
    ("lazytime", "lazytime", Some("lazytime")),
    ("nolazytime", "lazytime", None),
];

/// Words for `mount(8)` and systemd, which no filesystem knows.
const USER_SPACE: &[&str] = &[
    "defaults", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group", "_netdev", "comment",
];

/// `mount(2)` flags for the same.
const FLAGS: &[(MountAttrFlags, MountFlags)] = &[
    (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
    (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
    (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
    (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
    (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
    (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
];

impl Options {
    /// The kernel's defaults: writable, `relatime`.
    pub const DEFAULT: Self =
        Self { attributes: MountAttrFlags::empty(), superblock: Vec::new(), data: Vec::new() };

    /// Reads words such as `ro,noatime,subvol=@`. A value may stand in double
    /// quotes, within which a comma is no end.
    pub fn parse(text: &str) -> Self {
        let mut options = Self::DEFAULT;
        let mut quoted = false;
        let words = text.split(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        words.filter(|word| !word.is_empty()).for_each(|word| options.apply(word));
        options
    }

    /// The same, with these words applied after them.
    pub fn and(mut self, text: &str) -> Self {
        let Self { attributes, superblock, data } = Self::parse(text);
        self.attributes |= attributes;
        self.superblock.extend(superblock);
        self.data.extend(data);
        self
    }

    fn apply(&mut self, word: &str) {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value.replace('"', ""))),
            None => (word, None),
        };
        if USER_SPACE.contains(&key) || key.starts_with("x-") || key.starts_with("X-") {
            return;
        }
        let attribute = ATTRIBUTES.iter().find(|(name, ..)| *name == word);
        let superblock = SUPERBLOCK.iter().find(|(name, ..)| *name == word);
        if let Some((_, cleared, set)) = attribute {
            self.attributes = self.attributes.difference(*cleared).union(*set);
        }
        if let Some((_, removed, added)) = superblock {
            self.superblock.retain(|word| word != removed);
            self.superblock.extend(*added);
        }
        if attribute.is_none() && superblock.is_none() {
            self.data.push((key.to_owned(), value));
        }
    }

    /// As `mount(2)` takes them.
    pub(super) fn flags(&self) -> MountFlags {
        let attributes = FLAGS.iter().filter(|(attribute, _)| self.attributes.contains(*attribute));
        let superblock = self.superblock.iter().map(|word| match *word {
            "ro" => MountFlags::RDONLY,
            "sync" => MountFlags::SYNCHRONOUS,
            "dirsync" => MountFlags::DIRSYNC,
            "lazytime" => MountFlags::LAZYTIME,
            _ => MountFlags::empty(),
        });
        attributes.map(|(_, flag)| *flag).chain(superblock).collect()
    }

    /// The filesystem's own options with commas between them.
    pub(super) fn data(&self) -> String {
        let word = |(key, value): &(String, Option<String>)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        };
        self.data.iter().map(word).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_mount_are_told_from_the_filesystems() {
        for (text, flags, data) in [
            ("", MountFlags::empty(), ""),
            ("defaults", MountFlags::empty(), ""),
            ("ro", MountFlags::RDONLY, ""),
            ("ro,rw", MountFlags::empty(), ""),
            ("rw,ro", MountFlags::RDONLY, ""),
            ("nodev,nosuid,noexec", MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC, ""),
            ("noatime", MountFlags::NOATIME, ""),
            ("noatime,relatime", MountFlags::empty(), ""),
            ("noatime,strictatime", MountFlags::STRICTATIME, ""),
            (
                "sync,dirsync,lazytime",
                MountFlags::SYNCHRONOUS | MountFlags::DIRSYNC | MountFlags::LAZYTIME,
                "",
            ),
            ("sync,async", MountFlags::empty(), ""),
            ("subvol=@,compress=zstd:3", MountFlags::empty(), "subvol=@,compress=zstd:3"),
            ("ro,data=ordered,,discard", MountFlags::RDONLY, "data=ordered,discard"),
            ("context=\"a,b\",ro", MountFlags::RDONLY, "context=a,b"),
            ("x-systemd.growfs,_netdev,nofail,comment=x,k", MountFlags::empty(), "k"),
            ("ro=1", MountFlags::empty(), "ro=1"),
        ] {
            let options = Options::parse(text);
            assert_eq!((options.flags(), options.data().as_str()), (flags, data), "{text}");
        }
    }
}
