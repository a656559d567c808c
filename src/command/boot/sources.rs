//! Where a booting machine finds its configuration. The first place that has
//! one wins, and the log says which.
//!
//! 1. `plywood.config=` on the kernel command line
//! 2. the stored copy of the current generation, if `apply` made it: then the
//!    running machine has the last word
//! 3. `/etc/plywood/*.yaml` in the initramfs
//! 4. a volume labelled `PLYWOOD` (`config.yaml`) or `cidata` (`user-data`)
//! 5. QEMU's fw_cfg (`opt/org.plywood/config`)
//! 6. an SMBIOS OEM string (type 11), `plywood.config=` and base64

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Boot;
use super::root::device_deadline;
use super::state::STATE;
use crate::command::generations::source_of;
use crate::config::cmdline::{ConfigLocation, ConfigRequest};
use crate::config::{MAX_BYTES, Source};
use crate::error::Error;
use crate::oci::Digest;
use crate::store::Origin;
use crate::sys::block::{self, DeviceError, DeviceSpec};
use crate::sys::mount::{self, Options};
use crate::text::Escaped;

/// Where a volume with a configuration is mounted while it is read.
const VOLUME: &str = "/run/plywood/volume";

const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.plywood/config/raw";

/// Volumes that are looked at unasked: label and file.
const VOLUMES: [(&str, &str); 2] = [("PLYWOOD", "config.yaml"), ("cidata", "user-data")];

impl Boot {
    /// The machine's configuration files, and whether they were applied; none
    /// if no place has any.
    pub(super) fn find_config(
        &mut self,
        applied: Option<(u32, String)>,
    ) -> Result<(Origin, Vec<Source>), Error> {
        if let Some(request) = self.parameters.config.clone() {
            let source = self.requested_config(&request)?;
            return Ok((Origin::Boot, vec![source]));
        }
        if let Some((number, text)) = applied {
            return Ok((Origin::Apply, vec![source_of(number, text)]));
        }
        self.config_around().map(|sources| (Origin::Boot, sources))
    }

    /// What the initramfs, volumes and firmware bring.
    fn config_around(&mut self) -> Result<Vec<Source>, Error> {
        let files = initramfs_files()?;
        if !files.is_empty() {
            return files.iter().map(|path| read(path)).collect();
        }
        for (label, file) in VOLUMES {
            let device = match block::find(&DeviceSpec::Label(label.into())) {
                Ok(device) => device,
                Err(DeviceError::NotFound { .. }) => continue,
                Err(error) => {
                    let what = format!("find the configuration volume {label}");
                    return Err(Error::Boot { what, source: error.into() });
                }
            };
            match self.read_from(&device, Path::new(file)) {
                Ok(source) if is_for_cloud_init(&source.text) => {
                    log::info!("{}: {file} is for cloud-init, passed over", device.path.display());
                }
                Err(error) if is_absent(&error) => {
                    log::info!("{}: there is no {file}, passed over", device.path.display());
                }
                result => return result.map(|source| vec![source]),
            }
        }
        self.load_module("qemu_fw_cfg");
        if Path::new(FW_CFG).exists() {
            return read(Path::new(FW_CFG)).map(|source| vec![source]);
        }
        Ok(oem_string().into_iter().collect())
    }

    /// What `plywood.config=` names, if it is what its digest says.
    fn requested_config(&mut self, request: &ConfigRequest) -> Result<Source, Error> {
        let source = self.config_at(request)?;
        match (request.digest, Digest::sha256(&source.text)) {
            (Some(expected), actual) if expected != actual => Err(Error::NotBootable(format!(
                "the configuration {} has the digest {actual}, not {expected} as plywood.config.digest= says",
                Escaped::new(&source.name),
            ))),
            _ => Ok(source),
        }
    }

    fn config_at(&mut self, request: &ConfigRequest) -> Result<Source, Error> {
        match &request.location {
            ConfigLocation::Path(path) => read(path),
            ConfigLocation::Inline(text) => {
                Ok(Source { name: "plywood.config=inline".into(), text: text.reveal().into() })
            }
            ConfigLocation::Label { label, path } => {
                let spec = DeviceSpec::Label(label.clone());
                let deadline = device_deadline(self.parameters.timeout);
                let device = self.wait_for(&spec, deadline).map_err(|error| Error::Boot {
                    what: format!("find the configuration volume {label}"),
                    source: error.into(),
                })?;
                let path = path.clone().unwrap_or_else(|| "config.yaml".into());
                self.read_from(&device, &path)
            }
            ConfigLocation::Url(template) => self.config_by_network(template, request),
        }
    }

    /// Reads one file of a volume, mounted read-only for the moment unless the
    /// boot has mounted it already: the kernel refuses to mount a filesystem
    /// read-only that is mounted for writing.
    fn read_from(&mut self, device: &block::BlockDevice, file: &Path) -> Result<Source, Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Boot {
            what: format!("read the configuration from {}", device.path.display()),
            source,
        };
        if let Some(mounted) = self.mounted_at(device) {
            return read(&mounted.join(file));
        }
        let kind = device.superblock().map(|superblock| superblock.kind).unwrap_or_default();
        self.load_module(kind);
        fs::create_dir_all(VOLUME).map_err(|error| failed(error.into()))?;
        mount::mount(kind, &device.path, Path::new(VOLUME), &Options::parse("ro,nodev,nosuid,noexec"))
            .map_err(|error| failed(error.into()))?;
        let source = read(&Path::new(VOLUME).join(file));
        mount::detach(Path::new(VOLUME)).map_err(|error| failed(error.into()))?;
        source
    }

    /// Where the whole of a volume is mounted. The root comes first, because
    /// the state may be a directory on it.
    fn mounted_at(&self, device: &block::BlockDevice) -> Option<PathBuf> {
        let number = rustix::fs::makedev(device.major, device.minor);
        [self.root.as_path(), Path::new(STATE)]
            .into_iter()
            .find(|path| rustix::fs::stat(*path).is_ok_and(|status| status.st_dev == number))
            .map(Into::into)
    }
}

/// Whether a volume simply has no configuration.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Whether user data is in a format of cloud-init's, which reads the same
/// volume: it tells them apart by the first line.
fn is_for_cloud_init(text: &[u8]) -> bool {
    const FORMATS: [&[u8]; 6] =
        [b"#cloud-", b"#!", b"#include", b"#part-handler", b"## template:", b"Content-Type:"];
    FORMATS.iter().any(|format| text.starts_with(format))
}

fn initramfs_files() -> Result<Vec<PathBuf>, Error> {
    let directory = Path::new("/etc/plywood");
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(source) => return Err(Error::Read { path: directory.into(), source }),
        Ok(entries) => entries,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| Error::Read { path: directory.into(), source })?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Source, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    let mut text = Vec::new();
    // One byte more than allowed, so that the parser says that it is too much.
    let limit = MAX_BYTES as u64 + 1;
    fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text)).map_err(failed)?;
    Ok(Source { name: path.display().to_string(), text })
}

/// The configuration among the SMBIOS OEM strings (DMTF DSP0134, type 11).
fn oem_string() -> Option<Source> {
    let entries = fs::read_dir("/sys/firmware/dmi/entries").ok()?;
    let tables = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("11-"));
    let text = tables.flat_map(|entry| fs::read(entry.path().join("raw"))).find_map(|raw| config_in(&raw))?;
    Some(Source { name: "SMBIOS OEM string".into(), text })
}

/// The strings follow the formatted part, whose length is the second byte.
fn config_in(table: &[u8]) -> Option<Vec<u8>> {
    let strings = table.get(usize::from(*table.get(1)?)..)?;
    let encoded = strings.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"plywood.config="))?;
    STANDARD.decode(encoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cloud_init_reads_is_not_ours() {
        for text in ["#cloud-config\nusers: []\n", "#!/bin/sh\n", "Content-Type: multipart/mixed\n"] {
            assert!(is_for_cloud_init(text.as_bytes()), "{text}");
        }
        for text in ["version: v1alpha1\n", "# a comment\nversion: v1alpha1\n", ""] {
            assert!(!is_for_cloud_init(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::os::unix::fs::symlink("loop", path("loop")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        fs::File::create(path("large")).unwrap().set_len(64 << 20).unwrap();
        fs::write(path("good"), "a").unwrap();
        for (name, expected) in [
            ("fifo", Err("it is not a regular file")),
            ("directory", Err("it is not a regular file")),
            ("loop", Err("Too many levels of symbolic links")),
            ("missing", Err("No such file or directory")),
            // The parser says that it is one byte too many.
            ("large", Ok(MAX_BYTES + 1)),
            ("good", Ok(1)),
        ] {
            match (read(&path(name)), expected) {
                (Ok(source), Ok(length)) => assert_eq!(source.text.len(), length, "{name}"),
                (Err(error), Err(part)) => assert!(error.chain().contains(part), "{}", error.chain()),
                (result, _) => panic!("{name}: {:?}", result.map(|source| source.text.len())),
            }
        }
    }

    #[test]
    fn an_oem_string_holds_a_configuration() {
        let encoded = STANDARD.encode("version: v1alpha1\n");
        let table = [b"\x0b\x05\0\x0b\x02other=1\0plywood.config=", encoded.as_bytes(), b"\0\0"].concat();
        assert_eq!(config_in(&table).as_deref(), Some(&b"version: v1alpha1\n"[..]));
        for other in [&b""[..], b"\x0b", b"\x0b\xff", b"\x0b\x05\0\x0b\x01plywood.config=%%\0\0"] {
            assert_eq!(config_in(other), None);
        }
    }
}
