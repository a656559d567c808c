//! Where an image comes from: the transports of containers-transports(5) and
//! registry references (distribution-spec, "Pulling manifests").

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Digest;
use crate::text::Escaped;

/// A registry, a repository in it and what to take from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// An image as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// `registry/repository[:tag][@digest]`
    Registry(Reference),
    /// `oci:DIR[:REF]`, an image layout directory. `REF` is matched against
    /// the annotation `org.opencontainers.image.ref.name`.
    OciLayout { directory: PathBuf, name: Option<String> },
    /// `oci-archive:FILE[:REF]`, a tar of an image layout.
    OciArchive { file: PathBuf, name: Option<String> },
    /// `docker-archive:FILE[:REF]`, what `docker save` writes.
    DockerArchive { file: PathBuf, name: Option<String> },
    /// `squashfs:FILE`, a raw squashfs or sysext image.
    Squashfs(PathBuf),
    /// `dir:DIR`, a directory holding `manifest.yaml` and `rootfs/`.
    Directory(PathBuf),
}

/// Why a text does not name an image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    #[error("the image name is empty")]
    Empty,
    #[error("image `{}`: the transport `{}` is unknown (known: oci, oci-archive, docker-archive, squashfs, dir, docker)", Escaped::new(.image), Escaped::new(.transport))]
    Transport { image: String, transport: String },
    #[error("image `{}`: the path after `{transport}:` is empty", Escaped::new(.image))]
    EmptyPath { image: String, transport: &'static str },
    #[error("image `{}`: name the registry, as in ghcr.io/{}", Escaped::new(.image), Escaped::new(.image))]
    NoRegistry { image: String },
    #[error("image `{}`: {what} `{}` is not allowed by the distribution spec", Escaped::new(.image), Escaped::new(.part))]
    Malformed { image: String, what: &'static str, part: String },
}

impl Reference {
    /// `host[:port]`, as written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask the registry for: the digest if there is one, else the
    /// tag, else `latest`.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Parses `registry/repository[:tag][@digest]`. The registry must be
    /// written out: there is no default registry on a machine that boots.
    fn from_str(image: &str) -> Result<Self, ReferenceError> {
        let malformed =
            |what, part: &str| ReferenceError::Malformed { image: image.into(), what, part: part.into() };
        let (rest, digest) = match image.split_once('@') {
            None => (image, None),
            Some((rest, text)) => (rest, Some(text.parse().map_err(|_| malformed("digest", text))?)),
        };
        let Some((registry, path)) = rest.split_once('/') else {
            return Err(ReferenceError::NoRegistry { image: image.into() });
        };
        if !(registry.contains(['.', ':']) || registry == "localhost") {
            return Err(ReferenceError::NoRegistry { image: image.into() });
        }
        if !is_host_and_port(registry) {
            return Err(malformed("registry", registry));
        }
        let (repository, tag) = match path.split_once(':') {
            None => (path, None),
            Some((repository, tag)) => (repository, Some(tag)),
        };
        if repository.len() > 255 || !repository.split('/').all(is_path_component) {
            return Err(malformed("repository", repository));
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(malformed("tag", tag));
        }
        Ok(Self {
            registry: registry.into(),
            repository: repository.into(),
            tag: tag.map(Into::into),
            digest,
        })
    }
}

/// A DNS name, IPv4 address or bracketed IPv6 address, and perhaps a port.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match port.strip_prefix(':') {
            Some(port) => ("v6", Some(port)),
            None if port.is_empty() => ("v6", None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    host.len() <= 253 && host.split('.').all(is_label) && port.is_none_or(is_port)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !(bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric)) {
        return false;
    }
    bytes.split(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl ImageSource {
    /// The file or directory that holds the image, if it is on this machine.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Registry(_) => None,
            Self::OciLayout { directory: path, .. }
            | Self::OciArchive { file: path, .. }
            | Self::DockerArchive { file: path, .. }
            | Self::Squashfs(path)
            | Self::Directory(path) => Some(path),
        }
    }
}

impl FromStr for ImageSource {
    type Err = ReferenceError;

    fn from_str(image: &str) -> Result<Self, ReferenceError> {
        let Some((transport, rest)) = image.split_once(':') else {
            return if image.is_empty() {
                Err(ReferenceError::Empty)
            } else {
                image.parse().map(Self::Registry)
            };
        };
        match transport {
            "oci" => {
                path_and_name(image, "oci", rest).map(|(directory, name)| Self::OciLayout { directory, name })
            }
            "oci-archive" => {
                path_and_name(image, "oci-archive", rest).map(|(file, name)| Self::OciArchive { file, name })
            }
            "docker-archive" => path_and_name(image, "docker-archive", rest)
                .map(|(file, name)| Self::DockerArchive { file, name }),
            "squashfs" => whole_path(image, "squashfs", rest).map(Self::Squashfs),
            "dir" => whole_path(image, "dir", rest).map(Self::Directory),
            "docker" if rest.starts_with("//") => rest[2..].parse().map(Self::Registry),
            // `host:port/repository` has a colon too; a transport has no dot
            // and is not followed by a port.
            _ if transport.contains(['.', '/', '@', '['])
                || rest.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                image.parse().map(Self::Registry)
            }
            _ => Err(ReferenceError::Transport { image: image.into(), transport: transport.into() }),
        }
    }
}

fn whole_path(image: &str, transport: &'static str, path: &str) -> Result<PathBuf, ReferenceError> {
    if path.is_empty() {
        return Err(ReferenceError::EmptyPath { image: image.into(), transport });
    }
    Ok(path.into())
}

/// The first colon ends the path, as in containers-transports(5).
fn path_and_name(
    image: &str,
    transport: &'static str,
    rest: &str,
) -> Result<(PathBuf, Option<String>), ReferenceError> {
    match rest.split_once(':') {
        None => Ok((whole_path(image, transport, rest)?, None)),
        Some((_, "")) => {
            Err(ReferenceError::Malformed { image: image.into(), what: "reference", part: String::new() })
        }
        Some((path, name)) => Ok((whole_path(image, transport, path)?, Some(name.into()))),
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |f: &mut fmt::Formatter<'_>, transport, path: &PathBuf, name: &Option<String>| {
            write!(f, "{transport}:{}", path.display())?;
            name.iter().try_for_each(|name| write!(f, ":{name}"))
        };
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::OciLayout { directory, name } => named(f, "oci", directory, name),
            Self::OciArchive { file, name } => named(f, "oci-archive", file, name),
            Self::DockerArchive { file, name } => named(f, "docker-archive", file, name),
            Self::Squashfs(file) => write!(f, "squashfs:{}", file.display()),
            Self::Directory(directory) => write!(f, "dir:{}", directory.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_parse_and_print_as_written() {
        let pinned = format!("ghcr.io/a/b:v1@sha256:{}", "ab".repeat(32));
        for image in [
            "ghcr.io/siderolabs/gvisor:20260101.0",
            "ghcr.io/a/b",
            &pinned,
            "localhost/tools",
            "localhost:5000/tools:1",
            "10.0.2.2:5000/a/b__c/d-e.f:latest",
            "[::1]:5000/a",
            "registry.lan:443/x",
            "oci:/boot/extensions/tools",
            "oci:/boot/tools:v1",
            "oci-archive:a.tar",
            "docker-archive:a.tar:x/y:1",
            "squashfs:a.raw",
            "dir:.",
        ] {
            assert_eq!(image.parse::<ImageSource>().expect(image).to_string(), image);
        }
        assert_eq!("docker://ghcr.io/a".parse::<ImageSource>(), "ghcr.io/a".parse());
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for image in [
            "",
            "tools",
            "siderolabs/gvisor",
            "oci:",
            "oci::v1",
            "oci:/a:",
            "dir:",
            "ftp:/a",
            "https://ghcr.io/a",
            "ghcr.io/",
            "ghcr.io/A",
            "ghcr.io/a//b",
            "ghcr.io/../b",
            "ghcr.io/a:",
            "ghcr.io/a:-x",
            "ghcr.io/a@sha256:12",
            "ghcr.io/a@",
            "ghcr.io:0/a",
            "ghcr.io:99999/a",
            "-a.io/b",
            "a b.io/c",
            "ghcr.io/a___b",
            "ghcr.io/a:b/c",
        ] {
            assert!(image.parse::<ImageSource>().is_err(), "{image}");
        }
    }
}
