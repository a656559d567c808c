//! The commands as a person calls them: what they print, and how they end.
//! Needs no privileges.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The example extension of this repository.
fn example() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/examples/extensions/hello").into()
}

fn plywood(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.current_dir(directory).args(arguments).output().unwrap()
}

fn succeeds(directory: &Path, arguments: &[&str]) -> String {
    let output = plywood(directory, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the command prints to standard error before it ends with code 1.
fn fails(directory: &Path, arguments: &[&str]) -> String {
    let output = plywood(directory, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn pull_refuses_a_damaged_changeset_of_a_layout() {
    let directory = tempfile::tempdir().unwrap();
    succeeds(directory.path(), &["build", &example(), "-o", "oci:image"]);
    succeeds(directory.path(), &["pull", "oci:image", "--state", "state"]);
    for blob in fs::read_dir(directory.path().join("image/blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // The documents are JSON; the changeset begins as gzip does.
        if bytes.starts_with(&[0x1f, 0x8b]) {
            bytes[30] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let error = fails(directory.path(), &["pull", "oci:image", "--state", "state"]);
    assert!(error.starts_with("error: cannot fetch oci:image: changeset 0 "), "{error}");
    assert!(error.contains("has digest"), "{error}");
}

#[test]
fn validate_prints_json_whatever_the_verdict() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("good.yaml"), "version: v1alpha1\n").unwrap();
    fs::write(directory.path().join("bad.yaml"), "version: v2\n").unwrap();
    fs::create_dir(directory.path().join("empty")).unwrap();
    for (target, valid) in [
        (&[example().as_str()][..], true),
        (&["empty"], false),
        (&["ghcr.io/A"], false),
        (&["--config", "good.yaml"], true),
        (&["--config", "bad.yaml"], false),
    ] {
        let output = plywood(directory.path(), &[&["validate", "--json"], target].concat());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["valid"], valid, "{target:?}");
        assert_eq!(report["error"].is_string(), !valid, "{target:?}");
        assert_eq!(output.status.success(), valid, "{target:?}");
    }
}
