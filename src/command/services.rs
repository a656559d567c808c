//! Talos' extension services, as far as this system is concerned: named.
//!
//! In: a layer, or the running root. Out: every description of a service in
//! it, read or with what is wrong with it, for people and as JSON. Invariant:
//! nothing is started and no unit is written; that is said with each.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::unpack::limits_of_a_layer;
use crate::error::Error;
use crate::layer::rules::Permission;
use crate::layer::service::{DIRECTORY, MAX_BYTES, Service, is_description};
use crate::layer::squashfs::reader::{ReadError, Reader};
use crate::layer::tree::Content;
use crate::limits::read_at_most;
use crate::store::Layer;
use crate::text::Escaped;

/// One file of [`DIRECTORY`], and what is in it or wrong with it.
pub struct Description {
    file: String,
    read: Result<Service, String>,
}

/// The services that a layer brings, in the order of their files.
pub fn of_layer(layer: &Layer) -> Result<Vec<Description>, Error> {
    let file = layer.open()?;
    let failed = |source: io::Error| Error::Read { path: PathBuf::from(layer.key().to_string()), source };
    let size = layer.record().size;
    read_layer(file, size).map_err(|error| failed(io::Error::other(error)))
}

fn read_layer(squashfs: File, size: u64) -> Result<Vec<Description>, ReadError> {
    // Its size was checked, and so was what made it.
    let mut reader = Reader::open(squashfs, 0..size, limits_of_a_layer())?;
    let tree = reader.tree(Permission::Refuse)?;
    let directory = tree.root.children().and_then(|root| root.walk(DIRECTORY.split('/').map(str::as_bytes)));
    let mut found = Vec::new();
    for (name, node) in directory.and_then(|node| node.children()).into_iter().flatten() {
        if !is_description(name) {
            continue;
        }
        let bytes = match node.content {
            Content::File(id) => match reader.content(&tree, id)? {
                Some(content) => bounded(content),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            _ => Err(not_regular()),
        };
        found.push(describe(Escaped::new(name).to_string(), bytes));
    }
    Ok(without_repeated_names(found))
}

/// The services that the running root has; none if it has no place for them.
pub fn of_root(root: &Path) -> Result<Vec<Description>, Error> {
    let directory = root.join(DIRECTORY);
    let failed = |source| Error::Read { path: directory.clone(), source };
    let mut names = match fs::read_dir(&directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    names.retain(|name| is_description(name.as_encoded_bytes()));
    names.sort();
    let describe_file = |name: &std::ffi::OsString| {
        describe(
            Escaped::path(Path::new(name)).to_string(),
            open_regular(&directory.join(name)).and_then(bounded),
        )
    };
    Ok(without_repeated_names(names.iter().map(describe_file).collect()))
}

fn open_regular(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path)?.is_file() { File::open(path) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}

/// All bytes, unless there are more than a description may have.
fn bounded(content: impl Read) -> io::Result<Vec<u8>> {
    read_at_most(content, MAX_BYTES as u64)
}

fn describe(file: String, bytes: io::Result<Vec<u8>>) -> Description {
    let read = match bytes {
        Ok(bytes) => Service::parse(&file, &bytes).map_err(|problems| problems.to_string().trim_end().into()),
        Err(error) => Err(format!("{file}: {error}")),
    };
    Description { file, read }
}

/// As in Talos, the first of one name counts.
fn without_repeated_names(mut found: Vec<Description>) -> Vec<Description> {
    let mut names = std::collections::BTreeSet::new();
    for description in &mut found {
        if let Ok(service) = &description.read
            && !names.insert(service.name.clone())
        {
            let file = &description.file;
            description.read = Err(format!("{file}: another file describes the service {}", service.name));
        }
    }
    found
}

/// A line for each.
pub fn lines(services: &[Description]) -> Vec<String> {
    let line = |description: &Description| match &description.read {
        Ok(service) => format!(
            "service: {}: {} (started by Talos only, {})",
            service.name,
            Escaped::new(&service.entrypoint),
            description.file
        ),
        Err(problem) => format!("service: not usable: {problem}"),
    };
    services.iter().map(line).collect()
}

/// The same for programs: the file, with the service or the problem.
pub fn facts(services: &[Description]) -> Value {
    let fact = |description: &Description| match &description.read {
        Ok(service) => json!({ "file": description.file, "service": service }),
        Err(problem) => json!({ "file": description.file, "problem": problem }),
    };
    services.iter().map(fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_description_of_a_root_is_named_or_what_is_wrong_with_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(lines(&of_root(root.path()).unwrap()), [""; 0]);
        let directory = root.path().join(DIRECTORY);
        fs::create_dir_all(directory.join("dir.yaml")).unwrap();
        let good = "name: a\ncontainer: {entrypoint: /bin/a}\nrestart: always\n";
        let large = format!("{good}#{}", "x".repeat(MAX_BYTES));
        for (name, text) in [
            ("a.yaml", good),
            ("again.yaml", good),
            ("bad.yaml", "name: b\nrestart: always\n"),
            ("large.yaml", &large),
            ("notes.txt", "name: c"),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("a.yaml", directory.join("link.yaml")).unwrap();
        let found = of_root(root.path()).unwrap();
        assert_eq!(
            lines(&found),
            [
                "service: a: /bin/a (started by Talos only, a.yaml)",
                "service: not usable: again.yaml: another file describes the service a",
                "service: not usable: bad.yaml:1:1: the key container is missing",
                "service: not usable: dir.yaml: it is not a regular file",
                "service: not usable: large.yaml: it is longer than 65536 bytes",
                "service: not usable: link.yaml: it is not a regular file",
            ]
        );
        assert_eq!(
            facts(&found[..1]),
            json!([{ "file": "a.yaml", "service":
                { "name": "a", "entrypoint": "/bin/a", "restart": "always", "depends": [] } }])
        );
    }
}
