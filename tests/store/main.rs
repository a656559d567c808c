//! The store as commands keep it: what applying, going back, cleaning up and
//! damage do to a state directory.

mod apply;
mod collisions;
mod damage;
mod generations;
mod status;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory with extensions, a configuration and a state directory.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An extension with one file, below `rootfs`.
    fn extension(&self, name: &str, file: &str, content: &str) {
        let file = self.path(name).join("rootfs").join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
        let manifest = format!("version: v1alpha1\nmetadata: {{name: {name}, version: \"1\"}}\n");
        fs::write(self.path(name).join("manifest.yaml"), manifest).unwrap();
    }

    /// Three extensions that have nothing to do with each other.
    fn with_three() -> Self {
        let home = Self::new();
        for name in ["a", "b", "c"] {
            home.extension(name, &format!("usr/local/share/plywood-test/{name}"), name);
        }
        home
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
        command.args(arguments).args(["--state", "state"]).current_dir(self.0.path());
        command.env("TMPDIR", self.0.path()).output().unwrap()
    }

    /// Runs a command that has to end with `code`; returns all it said.
    fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }

    /// Writes a configuration; `more` are lines of an extension each.
    fn configure(&self, extensions: &[&str], more: &str) {
        let lines: String = extensions.iter().map(|one| format!("      - image: \"dir:{one}\"\n")).collect();
        let yaml = format!("version: v1alpha1\nmachine:\n  install:\n    extensions:\n{lines}{more}");
        fs::write(self.path("machine.yaml"), yaml).unwrap();
    }

    fn apply(&self, code: i32, extensions: &[&str]) -> String {
        self.configure(extensions, "");
        self.expect(code, &["apply", "-f", "machine.yaml"])
    }

    fn status(&self) -> serde_json::Value {
        let output = self.run(&["status", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn layers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("state/layers")).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "sqsh"));
        paths.sort();
        paths
    }

    /// Every file of the state directory with its content, but the lock.
    fn content(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(path: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap();
                if kind.is_dir() {
                    walk(&path, found);
                } else if kind.is_symlink() {
                    let target = fs::read_link(&path).unwrap();
                    found.push((path, target.into_os_string().into_encoded_bytes()));
                } else if !path.ends_with("lock") {
                    let content = fs::read(&path).unwrap();
                    found.push((path, content));
                }
            }
        }
        let mut found = Vec::new();
        if self.path("state").exists() {
            walk(&self.path("state"), &mut found);
        }
        found.sort();
        found
    }
}
