//! What images and configurations are made of.

use std::io::{self, Read};

use plywood::config::{Config, Source};
use plywood::layer::decompress::Decompressor;
use plywood::layer::manifest::{Host, Manifest};
use plywood::layer::tar::{Archive, Entry, Kind, TarError};
use plywood::layer::version::{Constraint, parse_version};
use plywood::limits::Limits;
use plywood::oci::{
    Compression, Document, ImageConfig, ImageSource, Platform, Reference, chain_id, manifest as oci,
};

use super::assert_printable;

/// Most bytes that are decompressed.
const PLENTY: u64 = 4 << 20;

/// The archive as it is, and with the checksums of its headers put right, so
/// that changes get past them.
pub fn tar(data: &[u8]) {
    read_archive(data);
    read_archive(&with_checksums(data.to_vec()));
}

/// Puts the checksums of an archive's headers right.
pub(super) fn with_checksums(mut archive: Vec<u8>) -> Vec<u8> {
    for header in archive.chunks_exact_mut(512).filter(|block| block[257..].starts_with(b"ustar")) {
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

/// Entries are the same whether their data is read or skipped, their data is
/// as long as they say, and their paths are plain.
fn read_archive(data: &[u8]) {
    let (read, skipped) = (entries(data, true), entries(data, false));
    match (read, skipped) {
        (Ok(read), Ok(skipped)) => assert_eq!(read, skipped),
        (Err(read), Err(skipped)) => {
            assert_printable(&read.to_string());
            assert_printable(&skipped.to_string());
        }
        (read, skipped) => panic!("{read:?} but {skipped:?}"),
    }
}

fn entries(data: &[u8], with_data: bool) -> Result<Vec<Entry>, TarError> {
    let mut archive = Archive::new(data);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        for path in std::iter::once(&entry.path).chain(match &entry.kind {
            Kind::HardLink(target) => Some(target),
            _ => None,
        }) {
            assert!(path.components().all(|name| name != b".." && name != b"." && !name.contains(&0)));
        }
        if with_data {
            let size = io::copy(&mut archive.data(), &mut io::sink());
            let size = size.map_err(|source| TarError::Read { at: entry.at, source })?;
            assert_eq!(size, entry.size);
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The first byte chooses the compression.
pub fn decompress(data: &[u8]) {
    let Some((choice, blob)) = data.split_first() else { return };
    let compression = [Compression::Gzip, Compression::Zstd, Compression::None][usize::from(choice % 3)];
    let read = |chunk: u64| {
        let mut plain = Vec::new();
        let decompressor = Decompressor::new(compression, blob.take(u64::MAX), &Limits::default())?;
        let mut bounded = decompressor.take(PLENTY);
        while bounded.by_ref().take(chunk).read_to_end(&mut plain)? > 0 {}
        Ok::<_, io::Error>(plain)
    };
    match (read(PLENTY), read(1000)) {
        (Ok(whole), Ok(parts)) => assert_eq!(whole, parts),
        (Err(error), Err(_)) => assert_printable(&error.to_string()),
        (whole, parts) => panic!("{:?} but {:?}", whole.map(|b| b.len()), parts.map(|b| b.len())),
    }
}

/// A manifest or an index, and what is looked for in it.
pub fn document(data: &[u8]) {
    for announced in [oci::MANIFEST, oci::INDEX, "application/vnd.docker.distribution.manifest.v2+json"] {
        match Document::parse(data, announced, &Limits::default()) {
            Ok(Document::Manifest(manifest)) => {
                assert!(!manifest.layers.is_empty());
                if let Err(error) = manifest.compressions() {
                    assert_printable(&error.to_string());
                }
            }
            Ok(Document::Index(index)) => {
                if let Err(error) = index.select(&Platform::linux("amd64")) {
                    assert_printable(&error.to_string());
                }
            }
            Err(error) => assert_printable(&error.to_string()),
        }
    }
}

pub fn image_config(data: &[u8]) {
    match ImageConfig::parse(data) {
        Ok(config) => {
            assert_eq!(chain_id(&config.diff_ids).is_some(), !config.diff_ids.is_empty());
            if let Err(error) = config.check(1, &Platform::linux("amd64")) {
                assert_printable(&error.to_string());
            }
        }
        Err(error) => assert_printable(&error.to_string()),
    }
}

/// One file, or two that a byte 0xff divides.
pub fn config(data: &[u8]) {
    let texts = data.splitn(2, |&byte| byte == 0xff).enumerate();
    let sources: Vec<_> =
        texts.map(|(number, text)| Source { name: format!("f{number}"), text: text.into() }).collect();
    if let Err(problems) = Config::parse(&sources) {
        assert!(problems.iter().next().is_some());
        assert_printable(&problems.to_string());
    }
}

pub fn manifest(data: &[u8]) {
    match Manifest::parse("manifest.yaml", data) {
        Ok(manifest) => {
            assert!(manifest.name().bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
            let mut host = Host::default();
            host.declare("talos", "v1.9.0").unwrap();
            if let Err(error) = manifest.check(&host) {
                assert_printable(&error.to_string());
            }
        }
        Err(problems) => assert_printable(&problems.to_string()),
    }
}

/// A line with a constraint, and one with a version.
pub fn constraint(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (constraint, version) = text.split_once('\n').unwrap_or((&text, "1.9.0"));
    match (constraint.parse::<Constraint>(), parse_version(version)) {
        (Ok(constraint), Ok(version)) => drop(constraint.admits(&version)),
        (Err(error), _) => assert_printable(&error.to_string()),
        (_, Err(error)) => assert_printable(&error.to_string()),
    }
}

/// What is read is written as what is read again.
pub fn reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Reference>() {
        Ok(reference) => assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference),
        Err(error) => assert_printable(&error.to_string()),
    }
    match text.parse::<ImageSource>() {
        Ok(source) => assert_eq!(source.to_string().parse::<ImageSource>().unwrap(), source),
        Err(error) => assert_printable(&error.to_string()),
    }
}
