//! The binary as a person or a script sees it: exit codes, one error chain on
//! stderr, and nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The layer of `examples/extensions/hello` in layer format 1. It changes
/// only with the format version, and then the CHANGELOG says so.
const HELLO_LAYER: &str = "sha256:f0a4a705fa95f090d279a070c3da8850e4f719d76a82889d076d2760c2d210ce";

fn plywood(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.args(arguments).current_dir(directory).env("TMPDIR", directory).output().unwrap()
}

fn hello() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/extensions/hello")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// An extension with one file of a mode that no rule allows.
fn bad_extension(directory: &Path) {
    let bin = directory.join("bad/rootfs/usr/local/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(directory.join("bad/rootfs/usr/local-evil")).unwrap();
    fs::write(bin.join("open"), "").unwrap();
    fs::set_permissions(bin.join("open"), fs::Permissions::from_mode(0o4757)).unwrap();
    let manifest = "version: v1alpha1\nmetadata: {name: bad, version: \"1\"}\n";
    fs::write(directory.join("bad/manifest.yaml"), manifest).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_extension_goes_from_directory_to_layer() {
    let directory = TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let output = plywood(directory.path(), arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    };
    let hello = hello();
    run(&["build", hello.to_str().unwrap(), "-o", "oci:image:v1"]);
    assert!(run(&["validate", "oci:image:v1"]).contains("hello 1.0.0 is valid"));
    assert!(run(&["inspect", "--json", "oci:image"]).contains("\"chainId\""));
    assert!(run(&["pack", "oci:image:v1", "-o", "hello.sqsh"]).contains(HELLO_LAYER));
    assert!(run(&["pull", "oci:image", "--state", "state"]).contains("sha256:"));
    assert_eq!(names(directory.path()), ["hello.sqsh", "image", "state"]);
}

#[test]
fn a_packed_layer_comes_with_its_hash_tree() {
    let directory = TempDir::new().unwrap();
    let image = format!("dir:{}", hello().display());
    let output = plywood(directory.path(), &["pack", &image, "-o", "hello.sqsh", "--verity", "hello.verity"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains(HELLO_LAYER), "{text}");
    let root = text.lines().find_map(|line| line.strip_prefix("hello.verity: root hash ")).unwrap();
    let mut verify = Command::new("veritysetup");
    verify.args(["verify", "hello.sqsh", "hello.verity", root]).current_dir(directory.path());
    let verified = verify.output().expect("veritysetup, of the package cryptsetup-bin");
    assert!(verified.status.success(), "{}", stderr(&verified));
    assert_eq!(names(directory.path()), ["hello.sqsh", "hello.verity"]);
}

#[test]
fn a_layer_depends_on_nothing_around_it() {
    let image = format!("dir:{}", hello().display());
    for (around, script) in [
        ("another umask", "umask 077"),
        ("another time zone and locale", "export TZ=Asia/Kathmandu LC_ALL=tr_TR.UTF-8 LANG=C"),
        ("a time of its own", "export SOURCE_DATE_EPOCH=86400"),
        ("a single processor", "set -- taskset -c \"$(taskset -cp $$ | sed 's/.*[^0-9]//')\" \"$@\""),
        ("another directory", "mkdir -p below && cd below"),
    ] {
        let directory = TempDir::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{script}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_plywood")]);
        let output =
            command.args(["pack", &image, "-o", "o.sqsh"]).current_dir(directory.path()).output().unwrap();
        assert!(stdout(&output).contains(HELLO_LAYER), "{around}: {}{}", stdout(&output), stderr(&output));
    }
}

#[test]
fn every_violation_is_listed_and_nothing_is_left_behind() {
    let directory = TempDir::new().unwrap();
    bad_extension(directory.path());
    for arguments in
        [&["validate", "bad"][..], &["pack", "dir:bad", "-o", "bad.sqsh"], &["build", "bad", "-o", "oci:out"]]
    {
        let output = plywood(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
        let text = stderr(&output);
        assert_eq!(text.matches("error:").count(), 1, "{text}");
        for violation in [
            "rootfs/usr/local-evil: is outside the allowed paths",
            "rootfs/usr/local/bin/open: world-writable",
            "rootfs/usr/local/bin/open: set-user-ID",
        ] {
            assert!(text.contains(violation), "{arguments:?}: {text}");
        }
        assert_eq!(names(directory.path()), ["bad"], "{arguments:?}");
    }
}

#[test]
fn json_has_every_violation_whatever_their_number() {
    let directory = TempDir::new().unwrap();
    bad_extension(directory.path());
    for number in 0..100 {
        fs::write(directory.path().join(format!("bad/rootfs/usr/local-evil-{number:02}")), "").unwrap();
    }
    let output = plywood(directory.path(), &["validate", "--json", "bad"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).lines().count() <= 40, "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("error:").count(), 1, "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&report["valid"], &report["omitted"]), (&false.into(), &0.into()));
    let violations = report["violations"].as_array().unwrap();
    assert_eq!(violations.len(), 103);
    let expected = serde_json::json!({
        "path": "rootfs/usr/local/bin/open",
        "rule": "set-id",
        "message": "set-user-ID and set-group-ID are not allowed (mode 4757)",
        "changeset": 0,
    });
    assert!(violations.contains(&expected), "{report:#}");
    let output = plywood(directory.path(), &["validate", "--json", "dir:missing"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(report["error"].as_str().unwrap().contains("missing"), "{report:#}");
}

#[test]
fn exit_codes_tell_wrong_use_from_failure() {
    let directory = TempDir::new().unwrap();
    for (arguments, code, text) in [
        (&["validate", "dir:missing"][..], 1, "missing"),
        (&["pack", "oci:missing", "-o", "x.sqsh"], 1, "missing"),
        (&["validate", "--config", "missing.yaml"], 1, "missing.yaml"),
        (&["boot"], 2, "process 1"),
        (&["pack", "oci:x"], 2, "--output"),
        (&["pack", "ftp:x", "-o", "y"], 2, "transport"),
        (&["build", ".", "-o", "dir:x"], 2, "oci:DIR"),
        (&["frobnicate"], 2, "frobnicate"),
        (&[], 2, "Usage"),
    ] {
        let output = plywood(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(text), "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[test]
fn all_problems_of_a_configuration_have_their_place() {
    let directory = TempDir::new().unwrap();
    let yaml = "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      - imag: oci:/a\nplywood:\n  kep: 3\n";
    fs::write(directory.path().join("machine.yaml"), yaml).unwrap();
    let output = plywood(directory.path(), &["validate", "--config", "machine.yaml"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    for problem in
        ["machine.yaml:5:9: machine.install.extensions[0].imag: unknown key", "machine.yaml:7:3: plywood.kep"]
    {
        assert!(text.contains(problem), "{text}");
    }
}

#[test]
fn a_plan_is_shown_without_doing_anything() {
    let directory = TempDir::new().unwrap();
    let yaml = format!(
        "version: v1alpha1\nmachine: {{install: {{extensions: [{{image: \"dir:{}\"}}]}}}}\n",
        hello().display()
    );
    fs::write(directory.path().join("machine.yaml"), yaml).unwrap();
    let apply = |more: &[&str]| {
        let arguments = [&["apply", "-f", "machine.yaml", "--state", "state"], more].concat();
        let output = plywood(directory.path(), &arguments);
        (output.status.code(), stdout(&output) + &stderr(&output))
    };
    let shows = |(code, text): (Option<i32>, String), wanted: i32, part: &str| {
        assert!(code == Some(wanted) && text.contains(part), "{code:?} {text}");
    };
    shows(apply(&["--dry-run"]), 0, "to fetch and build");
    assert_eq!(names(directory.path()), ["machine.yaml"]);
    shows(apply(&["--mode=no-reboot"]), 1, "--mode=no-reboot does not allow");
    shows(apply(&["--mode=reboot"]), 2, "does not reboot it");
    shows(apply(&[]), 0, "generation 1 is ready");
    shows(apply(&["--dry-run"]), 3, "in the store");
    shows(apply(&[]), 3, "nothing to do");
    assert_eq!(names(&directory.path().join("state/generations")), ["1"]);
}

#[test]
fn pull_refuses_a_damaged_changeset_of_a_layout() {
    let directory = TempDir::new().unwrap();
    plywood(directory.path(), &["build", hello().to_str().unwrap(), "-o", "oci:image"]);
    assert!(plywood(directory.path(), &["pull", "oci:image", "--state", "state"]).status.success());
    for blob in fs::read_dir(directory.path().join("image/blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // The documents are JSON; the changeset begins as gzip does.
        if bytes.starts_with(&[0x1f, 0x8b]) {
            bytes[30] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let output = plywood(directory.path(), &["pull", "oci:image", "--state", "state"]);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("error: cannot fetch oci:image: changeset 0 "), "{error}");
    assert!(error.contains("has digest"), "{error}");
}

#[test]
fn validate_prints_json_whatever_the_verdict() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("good.yaml"), "version: v1alpha1\n").unwrap();
    fs::write(directory.path().join("bad.yaml"), "version: v2\n").unwrap();
    fs::create_dir(directory.path().join("empty")).unwrap();
    for (target, valid) in [
        (&[hello().to_str().unwrap()][..], true),
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

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let directory = TempDir::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.arg("inspect").arg(format!("dir:{}", hello().display())).env("TMPDIR", directory.path());
    let output = command.stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("error: cannot write standard output: No space"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_layer_takes_the_place_of_a_regular_file_only() {
    let directory = TempDir::new().unwrap();
    let places = directory.path().join("places");
    fs::create_dir_all(places.join("directory")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, places.join("fifo"), fifo, 0o600.into(), 0).unwrap();
    fs::write(places.join("file"), "").unwrap();
    // As `/dev/stdout` is one.
    std::os::unix::fs::symlink("file", places.join("symlink")).unwrap();
    let image = format!("dir:{}", hello().display());
    for (place, code) in [("directory", 1), ("fifo", 1), ("symlink", 1), ("file", 0)] {
        let output = plywood(directory.path(), &["pack", &image, "-o", &format!("places/{place}")]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(names(&places), ["directory", "fifo", "file", "symlink"]);
        assert!(places.join("symlink").is_symlink());
    }
}

#[test]
fn a_fifo_in_place_of_an_image_is_refused_at_once() {
    let directory = TempDir::new().unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, directory.path().join("fifo"), fifo, 0o600.into(), 0).unwrap();
    for transport in ["oci-archive", "docker-archive", "squashfs"] {
        let output = plywood(directory.path(), &["pack", &format!("{transport}:fifo"), "-o", "out"]);
        assert_eq!(output.status.code(), Some(1), "{transport}");
        assert!(stderr(&output).contains("it is not a regular file"), "{}", stderr(&output));
    }
}

#[test]
fn a_layer_is_packed_as_the_command_line_says() {
    let directory = TempDir::new().unwrap();
    let image = format!("dir:{}", hello().display());
    let pack = |options: &[&str]| {
        plywood(directory.path(), &[&["pack", &image, "-o", "out.sqsh"], options].concat())
    };
    for (options, compressor, block_size) in [
        (&[][..], 6, 128 << 10),
        (&["--compression", "zstd:19"], 6, 128 << 10),
        (&["--compression", "gzip"], 1, 128 << 10),
        (&["--compression", "xz"], 4, 128 << 10),
        (&["--compression", "lz4", "--block-size", "1MiB"], 5, 1 << 20),
        (&["--block-size", "4KiB", "--compression", "none"], 1, 4096),
    ] {
        let output = pack(options);
        assert!(output.status.success(), "{options:?}: {}", stderr(&output));
        let layer = fs::read(directory.path().join("out.sqsh")).unwrap();
        let found = (layer[20], u32::from_le_bytes(layer[12..16].try_into().unwrap()));
        assert_eq!(found, (compressor, block_size), "{options:?}");
        fs::remove_file(directory.path().join("out.sqsh")).unwrap();
    }
    for (options, expected) in [
        (["--compression", "lzo"], "error: --compression: expected none, lz4, xz,"),
        (["--compression", "zstd:23"], "error: --compression: the level of zstd is 1 to 22, not `23`"),
        (["--block-size", "2MiB"], "error: --block-size: a block is a power of two from 4KiB to 1MiB"),
        (["--block-size", "big"], "error: --block-size: `big` is not a size"),
    ] {
        let output = pack(&options);
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
        assert_eq!(names(directory.path()), [""; 0]);
    }
}
