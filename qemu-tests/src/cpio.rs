//! Writes newc cpio archives, as the kernel unpacks them (kernel
//! documentation, "initramfs buffer format"). In: paths with their content.
//! Out: bytes that may follow another archive, since the kernel unpacks one
//! after the other and later files replace earlier ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// An archive in the making. Parent directories come by themselves.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a regular file; `path` is absolute, `mode` its permissions.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_start_matches('/');
        for (slash, _) in path.match_indices('/') {
            self.entry(&path[..slash], S_IFDIR | 0o755, &[]);
        }
        self.entry(path, S_IFREG | mode, content);
    }

    /// Adds the files below the host's `dir` at `path`, with their modes.
    pub fn tree(&mut self, path: &str, dir: &Path) {
        let mut entries: Vec<_> = fs::read_dir(dir)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", dir.display()))
            .flatten()
            .map(|entry| entry.path())
            .collect();
        entries.sort();
        for entry in entries {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            let path = format!("{path}/{name}");
            if entry.is_dir() {
                self.tree(&path, &entry);
                continue;
            }
            let content =
                fs::read(&entry).unwrap_or_else(|error| panic!("cannot read {}: {error}", entry.display()));
            let mode = fs::metadata(&entry).map_or(0o644, |metadata| metadata.permissions().mode() & 0o777);
            self.file(&path, mode, &content);
        }
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("newc holds files below 4 GiB");
        let name_size = name.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_their_files_and_everything_is_aligned() {
        let mut archive = Archive::default();
        archive.file("/etc/plywood/config.yaml", 0o600, b"abc");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let place = |name: &str| text.find(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(place("etc\0") < place("etc/plywood\0"));
        assert!(place("etc/plywood\0") < place("etc/plywood/config.yaml\0"));
        assert!(text.contains("00008180"), "a regular file with mode 0600");
        assert_eq!(bytes.len() % 4, 0);
    }
}
