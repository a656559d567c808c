//! Several images at a time: the layers are those that each image makes by
//! itself, and what fails is reported in the configuration's order.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use plywood::store::Store;
use tempfile::TempDir;

/// More than are built at a time.
const IMAGES: usize = 9;

/// A directory with the extensions `0` to `8`, each of another size: the first
/// are the largest, so that the last are done before them.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    for number in 0..IMAGES {
        let files = home.path().join(format!("{number}/rootfs/usr/local/share/{number}"));
        fs::create_dir_all(&files).unwrap();
        let manifest = format!("version: v1alpha1\nmetadata: {{name: e{number}, version: \"1\"}}\n");
        fs::write(home.path().join(format!("{number}/manifest.yaml")), manifest).unwrap();
        for file in 0..(IMAGES - number) * 20 {
            let line = format!("{number} {} ", file * file);
            fs::write(files.join(file.to_string()), line.repeat(file * 100)).unwrap();
        }
    }
    home
}

/// Makes an extension one that no rule allows.
fn spoil(home: &Path, number: usize) {
    fs::create_dir_all(home.join(format!("{number}/rootfs/usr/local-evil"))).unwrap();
}

fn plywood(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.args(arguments).current_dir(home).env("TMPDIR", home).output().unwrap()
}

/// Applies all extensions; those in `optional` may be left out.
fn apply(home: &Path, optional: &[usize]) -> Output {
    let mut config = String::from("version: v1alpha1\nmachine:\n  install:\n    extensions:\n");
    for number in 0..IMAGES {
        let on_failure = if optional.contains(&number) { "skip" } else { "fail" };
        let image = home.join(number.to_string());
        config += &format!("      - {{image: \"dir:{}\", onFailure: {on_failure}}}\n", image.display());
    }
    fs::write(home.join("config.yaml"), config).unwrap();
    plywood(home, &["apply", "-f", "config.yaml", "--state", "state"])
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Number and digest of each layer of the current generation.
fn layers(home: &Path) -> Vec<(usize, String)> {
    let store = Store::open_existing(&home.join("state")).unwrap().unwrap();
    let current = store.current().unwrap().unwrap();
    let record = store.generation_record(current).unwrap();
    record.layers.iter().map(|layer| (layer.number.into(), layer.digest.to_string())).collect()
}

/// Manifests and image configs are all that is in the store of blobs.
fn assert_no_changesets(home: &Path) {
    assert_eq!(fs::read_dir(home.join("state/blobs/sha256")).unwrap().count(), 2 * IMAGES);
}

#[test]
fn layers_are_the_same_together_as_one_by_one() {
    let home = home();
    let output = apply(home.path(), &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let together = layers(home.path());
    assert_eq!(together.len(), IMAGES);
    for (place, (number, digest)) in together.iter().enumerate() {
        assert_eq!(place, *number);
        let image = format!("dir:{number}");
        let packed = plywood(home.path(), &["pack", &image, "-o", &format!("{number}.sqsh")]);
        let said = String::from_utf8(packed.stdout).unwrap();
        assert!(said.contains(digest.as_str()), "{number}: {digest}, alone {said}");
    }
    assert_no_changesets(home.path());
}

#[test]
fn the_first_failure_that_counts_is_the_one_reported() {
    for (bad, optional, reported) in [
        (&[3, 8][..], &[][..], Some(3)),
        (&[0, 1, 2], &[], Some(0)),
        (&[8], &[], Some(8)),
        (&[2, 5], &[2], Some(5)),
        (&[0, 4, 7], &[0, 4, 7], None),
    ] {
        let home = home();
        bad.iter().for_each(|number| spoil(home.path(), *number));
        let output = apply(home.path(), optional);
        let said = stderr(&output);
        let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        match reported {
            Some(number) => {
                assert_eq!(output.status.code(), Some(1), "{bad:?}: {said}");
                let [error] = errors[..] else { panic!("{bad:?}: {said}") };
                assert!(error.contains(&format!("/{number}: ")), "{bad:?}: {error}");
            }
            None => {
                assert!(output.status.success(), "{said}");
                let kept: Vec<_> = (0..IMAGES).filter(|number| !bad.contains(number)).collect();
                let found: Vec<_> = layers(home.path()).into_iter().map(|(number, _)| number).collect();
                assert_eq!(found, kept);
                assert_no_changesets(home.path());
            }
        }
    }
}
