//! Archives that Python's tarfile writes, in each of its formats, are read
//! here as tarfile and GNU tar read them; damaged ones too, or they are
//! refused. The same for what they extract and what `plywood unpack` does.
//! Needs `python3` and GNU `tar` in the path.

mod image;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
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

fn run_script(what: &str, arguments: &[PathBuf]) {
    let output = Command::new("python3")
        .args(["-c", SCRIPT, what])
        .args(arguments)
        .output()
        .expect("python3 is needed to run this test");
    assert!(output.status.success(), "python3: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs the script, which writes three files for each archive.
fn write_archives(directory: &Path, what: &str, count: u32) -> Vec<Written> {
    run_script(what, &[count.to_string().into(), directory.into()]);
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

/// An archive of an extension, and what was extracted from it.
struct Extracted {
    written: Written,
    /// Nothing if it was refused.
    unpacked: Option<Vec<String>>,
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_string).collect()
}

/// Unpacks each archive with the binary, as the only changeset of an image.
fn extract_archives(what: &str, count: u32) -> Vec<Extracted> {
    let scratch = tempfile::tempdir().unwrap();
    let archives = scratch.path().join("archives");
    fs::create_dir(&archives).unwrap();
    let written = write_archives(&archives, what, count);
    let tree = |name: &str| scratch.path().join(format!("tree-{name}"));
    let mut unpacked = Vec::new();
    for Written { name, archive, .. } in &written {
        let layout = scratch.path().join(format!("layout-{name}"));
        image::write_layout(&layout, "tar", |into| into.write_all(archive).unwrap());
        let output = Command::new(env!("CARGO_BIN_EXE_plywood"))
            .arg("unpack")
            .arg(format!("oci:{}", layout.display()))
            .arg(tree(name))
            .output()
            .unwrap();
        match output.status.code() {
            Some(0) => unpacked.push(tree(name)),
            Some(1) => assert!(!tree(name).exists(), "{name} left something behind"),
            code => panic!("{name}: exit code {code:?}"),
        }
    }
    run_script("walk", &unpacked);
    let result = written.into_iter().map(|written| {
        let list = fs::read_to_string(scratch.path().join(format!("tree-{}.list", written.name)));
        Extracted { written, unpacked: list.ok().map(|list| lines(&list)) }
    });
    result.collect()
}

/// Without modes and times of directories: damage may make them implied ones.
fn bare(list: &[String]) -> Vec<String> {
    let bare = |line: &String| match line.split(' ').collect::<Vec<_>>().as_slice() {
        [path, "d", ..] => format!("{path} d"),
        _ => line.clone(),
    };
    list.iter().map(bare).collect()
}

#[test]
fn extensions_are_unpacked_as_others_extract_them() {
    let mut files = 0;
    for Extracted { written: Written { name, tarfile, gnu, .. }, unpacked } in extract_archives("trees", 60) {
        let unpacked = unpacked.unwrap_or_else(|| panic!("{name} was refused"));
        let below =
            |list: &str| lines(list).into_iter().filter(|line| line.contains('/')).collect::<Vec<_>>();
        files += unpacked.len();
        // The directories above are the base's, not the archive's.
        assert_eq!(below(&unpacked.join("\n"))[1..], below(&tarfile)[1..], "{name}, tarfile");
        assert_eq!(below(&unpacked.join("\n"))[1..], below(&gnu)[1..], "{name}, GNU tar");
    }
    assert!(files > 300, "only {files}");
}

#[test]
fn damaged_extensions_are_refused_or_unpacked_as_others_extract_them() {
    let (mut read, mut refused) = (0, 0);
    for Extracted { written: Written { name, tarfile, gnu, .. }, unpacked } in
        extract_archives("damaged-trees", 300)
    {
        let Some(unpacked) = unpacked else {
            refused += 1;
            continue;
        };
        read += 1;
        // A global header changes nothing here, but tarfile wants an entry behind it.
        if !tarfile.contains("end of file header") {
            assert_eq!(bare(&unpacked), bare(&lines(&tarfile)), "{name}, tarfile");
        }
        assert_eq!(bare(&unpacked), bare(&lines(&gnu)), "{name}, GNU tar");
    }
    assert!(read > 30 && refused > 30, "{read} read, {refused} refused");
}
