//! Archives that Python's tarfile writes, in each of its formats, are read
//! here as tarfile and GNU tar read them; damaged ones too, or they are
//! refused. Needs `python3` and GNU `tar` in the path.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use plywood::layer::tar::{Archive, Kind, TarError};

const SCRIPT: &str = include_str!("tar/archives.py");

/// `type mode uid:gid mtime size checksum path target`, a line each; names in
/// hexadecimal.
fn listing(archive: &[u8]) -> Result<Vec<String>, TarError> {
    let mut archive = Archive::new(archive);
    let mut lines = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut checksum = flate2::Crc::new();
        let mut data = Vec::new();
        archive.data().read_to_end(&mut data).map_err(|source| TarError::Read { at: entry.at, source })?;
        checksum.update(&data);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (kind, target) = match &entry.kind {
            Kind::Directory => ("directory", String::new()),
            Kind::File => ("file", String::new()),
            Kind::Symlink(target) => ("symlink", hex(target)),
            Kind::HardLink(target) => ("link", hex(target.as_bytes())),
            Kind::Device => ("device", String::new()),
            Kind::Fifo => ("fifo", String::new()),
        };
        let (a, path) = (entry.attributes, hex(entry.path.as_bytes()));
        let (size, checksum) = (entry.size, checksum.sum());
        lines.push(format!(
            "{kind} {:o} {}:{} {} {size} {checksum} {path} {target}",
            a.mode, a.uid, a.gid, a.mtime
        ));
    }
    Ok(lines)
}

/// An archive, and what others read from it.
struct Written {
    name: String,
    archive: Vec<u8>,
    tarfile: String,
    gnu: String,
}

/// GNU tar does not list contents.
fn without_checksums(lines: &[String]) -> Vec<String> {
    let without = |line: &String| {
        let fields = line.split(' ').enumerate().filter(|(place, _)| *place != 5).map(|(_, field)| field);
        fields.collect::<Vec<_>>().join(" ")
    };
    lines.iter().map(without).collect()
}

/// Runs the script, which writes three files for each archive.
fn write_archives(directory: &Path, what: &str, count: u32) -> Vec<Written> {
    let output = Command::new("python3")
        .args(["-c", SCRIPT, what, &count.to_string()])
        .arg(directory)
        .output()
        .expect("python3 is needed to run this test");
    assert!(output.status.success(), "python3: {}", String::from_utf8_lossy(&output.stderr));
    let mut archives = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            let list = |extension| fs::read_to_string(path.with_extension(extension)).unwrap();
            archives.push(Written {
                name: path.file_stem().unwrap().to_str().unwrap().to_string(),
                archive: fs::read(&path).unwrap(),
                tarfile: list("list"),
                gnu: list("gnu"),
            });
        }
    }
    assert_eq!(archives.len(), count as usize);
    archives
}

#[test]
fn archives_are_read_as_others_read_them() {
    let scratch = tempfile::tempdir().unwrap();
    for Written { name, archive, tarfile, gnu } in write_archives(scratch.path(), "good", 150) {
        let lines = listing(&archive).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(lines, tarfile.lines().collect::<Vec<_>>(), "{name}, tarfile");
        assert_eq!(without_checksums(&lines), gnu.lines().collect::<Vec<_>>(), "{name}, GNU tar");
    }
}

/// A parser that is not strict may see less than this one refuses, but
/// whatever is read here it must see too.
#[test]
fn damaged_archives_are_refused_or_read_as_others_read_them() {
    let scratch = tempfile::tempdir().unwrap();
    let mut read = 0;
    for Written { name, archive, tarfile, gnu } in write_archives(scratch.path(), "damaged", 2000) {
        let Ok(lines) = listing(&archive) else { continue };
        read += 1;
        // A global header changes nothing here, but tarfile wants an entry behind it.
        if !tarfile.contains("end of file header") {
            assert_eq!(lines, tarfile.lines().collect::<Vec<_>>(), "{name}, tarfile");
        }
        assert_eq!(without_checksums(&lines), gnu.lines().collect::<Vec<_>>(), "{name}, GNU tar");
    }
    assert!((100..1900).contains(&read), "{read} were read: the damage is too small or too large");
}
