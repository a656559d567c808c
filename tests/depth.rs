//! The deepest trees that any configuration allows, on a small stack.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use plywood::limits::Bound;
use tempfile::TempDir;

/// A directory `image` with paths of so many components, two of which meet
/// when `lib` becomes a part of `usr`; and its squashfs `image.raw`.
fn image(depth: usize) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let image = home.path().join("image");
    for start in ["rootfs/usr/local", "rootfs/lib/firmware", "rootfs/usr/lib/firmware"] {
        let below = depth - start.split('/').count();
        fs::create_dir_all(image.join(start).join(vec!["d"; below].join("/"))).unwrap();
    }
    fs::write(image.join("manifest.yaml"), "version: v1alpha1\nmetadata: {name: deep}\n").unwrap();
    let most = Bound::Depth.most();
    fs::write(
        home.path().join("c.yaml"),
        format!("version: v1alpha1\nplywood: {{limits: {{depth: {most}}}}}\n"),
    )
    .unwrap();
    let made = Command::new("mksquashfs")
        .args(["image", "image.raw", "-noappend", "-no-progress", "-all-root"])
        .current_dir(home.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    home
}

/// Runs the binary with the stack of a thread.
fn plywood(home: &Path, arguments: &str) -> Output {
    let script =
        format!("ulimit -s 2048 && exec {} {arguments} --config c.yaml", env!("CARGO_BIN_EXE_plywood"));
    Command::new("sh").args(["-c", &script]).current_dir(home).env("TMPDIR", home).output().unwrap()
}

#[test]
fn the_deepest_tree_fits_a_small_stack() {
    let most = usize::try_from(Bound::Depth.most()).unwrap();
    let home = image(most);
    for arguments in
        ["pack dir:image -o out.sqsh", "pack squashfs:image.raw -o out.sqsh", "unpack squashfs:image.raw out"]
    {
        let output = plywood(home.path(), arguments);
        assert!(output.status.success(), "{arguments}: {output:?}");
    }
    let deepest = home.path().join("out/usr/local").join(vec!["d"; most - 3].join("/"));
    assert!(deepest.is_dir());
    let deeper = image(most + 1);
    for arguments in ["pack dir:image -o out.sqsh", "pack squashfs:image.raw -o out.sqsh"] {
        let output = plywood(deeper.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("for components of one path (recursion takes stack)"), "{error}");
    }
}
