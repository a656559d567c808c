//! The passwords of the person who runs a command: where Docker, Podman and
//! Skopeo keep them.
//!
//! In: a configuration's registries, and the environment. Out: the same with
//! more credentials. Invariant: a helper named in such a file is never run;
//! boot reads none of these files.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::machine::read_bounded;
use crate::config::auth_file::AuthFile;
use crate::error::Error;
use crate::oci::Registries;
use crate::text::Escaped;

/// Adds the credentials of the file that the command line names, else of
/// those that the environment leads to.
pub fn add_auth_files(registries: &mut Registries, named: Option<&Path>) -> Result<(), Error> {
    match named.map(Path::to_path_buf).or_else(|| variable("REGISTRY_AUTH_FILE")) {
        Some(path) => add_auth_file(registries, &path),
        None => usual_files()
            .iter()
            .filter(|path| is_there(path))
            .try_for_each(|path| add_auth_file(registries, path)),
    }
}

/// In the order in which they count, as containers-auth.json(5) says.
fn usual_files() -> Vec<PathBuf> {
    let home = |below: &str| variable("HOME").map(|home| home.join(below));
    let directories = [
        variable("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
        variable("XDG_CONFIG_HOME")
            .or_else(|| home(".config"))
            .map(|directory| directory.join("containers/auth.json")),
        variable("DOCKER_CONFIG").or_else(|| home(".docker")).map(|directory| directory.join("config.json")),
    ];
    directories.into_iter().flatten().collect()
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// One that may not be looked at is there: it is an error later.
fn is_there(path: &Path) -> bool {
    !fs::metadata(path)
        .is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

fn add_auth_file(registries: &mut Registries, path: &Path) -> Result<(), Error> {
    let invalid =
        |error| Error::Read { path: path.into(), source: io::Error::new(io::ErrorKind::InvalidData, error) };
    let text = String::from_utf8(read_bounded(path)?)
        .map_err(|_| Error::Read { path: path.into(), source: io::Error::other("it is not UTF-8") })?;
    let file = AuthFile::parse(&text).map_err(invalid)?;
    if !file.helpers().is_empty() {
        let whose: Vec<_> = file.helpers().iter().map(|name| Escaped::new(name).to_string()).collect();
        log::warn!(
            "{}: a helper has the credentials of {}; helpers are other programs and are not run",
            Escaped::path(path),
            whose.join(", ")
        );
    }
    file.add_to(registries);
    Ok(())
}
