//! Raw squashfs and sysext images, from file or artifact to layer, and layers
//! back to files, as the binary does it.

mod random;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plywood::oci::Digest;
use random::Random;
use tempfile::TempDir;

/// A directory with an image in the making.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path("source").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn release(&self, name: &str, content: &str) {
        self.write(&format!("usr/lib/extension-release.d/extension-release.{name}"), content);
    }

    fn squashfs(&self, image: &str, flags: &[&str]) {
        let mut command = Command::new("mksquashfs");
        command.arg(self.path("source")).arg(self.path(image)).args([
            "-noappend",
            "-no-progress",
            "-all-root",
        ]);
        let output = command.args(flags).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn plywood(&self, arguments: &[&str]) -> Output {
        self.run(Command::new(env!("CARGO_BIN_EXE_plywood")), arguments)
    }

    /// With a limit of prlimit(1).
    fn plywood_within(&self, limit: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("prlimit");
        command.args([limit, env!("CARGO_BIN_EXE_plywood")]);
        self.run(command, arguments)
    }

    fn run(&self, mut command: Command, arguments: &[&str]) -> Output {
        command.args(arguments).args(["--arch", "amd64", "--host", "debian=12"]);
        command.current_dir(self.directory.path()).env("TMPDIR", self.directory.path()).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.plywood(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.plywood(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn extension(&self) {
        self.write("manifest.yaml", "version: v1alpha1\nmetadata: {name: tool, version: \"1\"}\n");
        self.write("rootfs/usr/local/bin/tool", "#!/bin/sh\n");
        self.write("rootfs/usr/local/share/large", &"content ".repeat(100_000));
        self.write("rootfs/usr/local/share/empty", "");
        std::os::unix::fs::symlink("tool", self.path("source/rootfs/usr/local/bin/link")).unwrap();
        let mode = fs::Permissions::from_mode(0o555);
        fs::set_permissions(self.path("source/rootfs/usr/local/bin/tool"), mode).unwrap();
        fs::set_permissions(self.path("source/rootfs/usr/local/share"), fs::Permissions::from_mode(0o700))
            .unwrap();
    }
}

/// `kind mode mtime content` by path.
fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "directory".to_string()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            Digest::sha256(&fs::read(&path).unwrap()).to_string()
        };
        let name = path.strip_prefix(root).unwrap().display();
        let owner = (metadata.uid(), metadata.gid());
        lines.push(format!("{name} {:o} {} {owner:?} {content}", metadata.mode(), metadata.mtime()));
    }
    lines.sort();
    lines
}

#[test]
fn a_squashfs_and_the_directory_it_was_made_of_give_the_same_tree() {
    let bench = Bench::new();
    bench.extension();
    for (image, flags) in [
        ("gzip", &["-comp", "gzip"][..]),
        ("zstd", &["-comp", "zstd", "-b", "4096"]),
        ("xz", &["-comp", "xz"]),
        ("lz4", &["-comp", "lz4"]),
        ("none", &["-noI", "-noD", "-noF", "-noX"]),
    ] {
        bench.squashfs(image, flags);
        bench.succeed(&["pack", &format!("squashfs:{image}"), "-o", "out.sqsh"]);
        bench.succeed(&["unpack", &format!("squashfs:{image}"), "unpacked"]);
        let extract = Command::new("unsquashfs")
            .args(["-q", "-n", "-d", "extracted", "out.sqsh"])
            .current_dir(bench.directory.path())
            .output()
            .unwrap();
        assert!(extract.status.success(), "{}", String::from_utf8_lossy(&extract.stderr));
        let unpacked = listing(&bench.path("unpacked"));
        assert_eq!(unpacked, listing(&bench.path("extracted")), "{image}");
        assert!(unpacked.iter().any(|line| line.starts_with("usr/local/bin/tool 100555")), "{unpacked:?}");
        assert!(unpacked.iter().any(|line| line.starts_with("usr/local/share 40700")), "{unpacked:?}");
        for made in ["unpacked", "extracted"] {
            fs::remove_dir_all(bench.path(made)).unwrap();
        }
    }
}

#[test]
fn a_directory_is_filled_only_if_it_is_empty() {
    let bench = Bench::new();
    bench.extension();
    bench.squashfs("image", &[]);
    fs::create_dir_all(bench.path("filled/x")).unwrap();
    fs::create_dir(bench.path("empty")).unwrap();
    let error = bench.fail(&["unpack", "squashfs:image", "filled"]);
    assert!(error.starts_with("error: cannot write filled: "), "{error}");
    bench.succeed(&["unpack", "squashfs:image", "empty"]);
    assert!(bench.path("empty/usr/local/bin/tool").exists());
    bench.write("rootfs/usr/evil", "");
    bench.squashfs("bad", &[]);
    let error = bench.fail(&["unpack", "squashfs:bad", "gone"]);
    assert!(error.contains("rootfs/usr/evil: is outside the allowed paths"), "{error}");
    let mut left: Vec<_> =
        fs::read_dir(bench.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["bad", "empty", "filled", "image", "source"]);
}

#[test]
fn the_rules_see_what_is_in_a_squashfs() {
    let bench = Bench::new();
    bench.extension();
    fs::hard_link(
        bench.path("source/rootfs/usr/local/bin/tool"),
        bench.path("source/rootfs/usr/local/bin/twin"),
    )
    .unwrap();
    bench.write("rootfs/usr/local/su", "");
    fs::set_permissions(bench.path("source/rootfs/usr/local/su"), fs::Permissions::from_mode(0o4755))
        .unwrap();
    bench.squashfs("image", &["-p", "rootfs/usr/local/null c 666 0 0 1 3"]);
    let error = bench.fail(&["pack", "squashfs:image", "-o", "out.sqsh"]);
    for expected in [
        "rootfs/usr/local/bin/twin: hard link to `rootfs/usr/local/bin/tool`, which is not allowed",
        "rootfs/usr/local/null: special files are not allowed",
        "rootfs/usr/local/su: set-user-ID and set-group-ID are not allowed (mode 4755)",
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert!(!error.contains("changeset"), "a squashfs has none: {error}");
    assert!(!bench.path("out.sqsh").exists());
}

#[test]
fn a_sysext_is_an_extension() {
    let bench = Bench::new();
    bench.write("usr/local/bin/tool", "x");
    bench.release("tool", "ID=debian\nVERSION_ID=12\nARCHITECTURE=x86-64\n");
    bench.squashfs("other-name.raw", &["-comp", "zstd"]);
    let packed = bench.succeed(&["pack", "squashfs:other-name.raw", "-o", "out.sqsh"]);
    assert!(packed.contains("out.sqsh: tool, "), "{packed}");
    bench.succeed(&["unpack", "squashfs:other-name.raw", "unpacked"]);
    assert!(bench.path("unpacked/usr/lib/extension-release.d/extension-release.tool").exists());
    assert!(bench.path("unpacked/usr/local/bin/tool").exists());
}

#[test]
fn bad_sysexts_are_refused() {
    for (what, releases, expected) in [
        (
            "none",
            &[][..],
            "it has neither manifest.yaml nor usr/lib/extension-release.d/extension-release.NAME",
        ),
        (
            "two",
            &[("a", "ID=_any"), ("b", "ID=_any")],
            "usr/lib/extension-release.d has several releases: a, b",
        ),
        (
            "another system",
            &[("a", "ID=fedora\nVERSION_ID=40")],
            "extension a is made for fedora and not for this host",
        ),
        (
            "another version",
            &[("a", "ID=debian\nVERSION_ID=11")],
            "version constraint `= 11` can't be satisfied with debian version 12.0.0",
        ),
        (
            "another architecture",
            &[("a", "ID=_any\nARCHITECTURE=arm64")],
            "it is for the architecture `arm64`, this machine is amd64",
        ),
        ("no system", &[("a", "VERSION_ID=12")], "its extension-release has no ID"),
        ("a name that is none", &[("-\x1b[31m", "ID=_any")], "has control characters"),
        ("a name that is no name", &[("-x", "ID=_any")], "is not of the form"),
    ] {
        let bench = Bench::new();
        bench.write("usr/local/bin/tool", "x");
        for (name, content) in releases {
            bench.release(name, content);
        }
        bench.squashfs("image.raw", &[]);
        let error = bench.fail(&["pack", "squashfs:image.raw", "-o", "out.sqsh"]);
        assert!(error.contains(expected), "{what}: {error}");
        assert!(!error.contains('\x1b'), "{what}");
    }
    let bench = Bench::new();
    bench.write("etc/extension-release.d/extension-release.a", "ID=_any");
    bench.squashfs("image.raw", &[]);
    let error = bench.fail(&["pack", "squashfs:image.raw", "-o", "out.sqsh"]);
    assert!(error.contains("it is a confext: extensions of /etc are not supported"), "{error}");
}

#[test]
fn a_partitioned_sysext_is_an_extension() {
    let bench = Bench::new();
    bench.write("lib/extension-release.d/extension-release.tool", "ID=_any\n");
    bench.write("local/bin/tool", "x");
    bench.squashfs("usr", &[]);
    let usr = fs::read(bench.path("usr")).unwrap();
    let mut disk = vec![0; 4 << 20];
    disk[1 << 20..][..usr.len()].copy_from_slice(&usr);
    fs::write(bench.path("disk.raw"), disk).unwrap();
    let script = "label: gpt\nstart=2048, size=2048, type=8484680C-9521-48C6-9C11-B0720656F69E\n";
    fs::write(bench.path("script"), script).unwrap();
    let output = Command::new("/usr/sbin/sfdisk")
        .arg("-q")
        .arg(bench.path("disk.raw"))
        .stdin(fs::File::open(bench.path("script")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bench.succeed(&["unpack", "squashfs:disk.raw", "unpacked"]);
    assert!(bench.path("unpacked/usr/local/bin/tool").exists());
    assert!(bench.path("unpacked/usr/lib/extension-release.d/extension-release.tool").exists());
}

/// A layout with one artifact whose only blob is `bytes`.
fn artifact(bench: &Bench, media_type: &str, title: &str, bytes: &[u8]) {
    let layout = bench.path("layout");
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let add = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let config = add("application/vnd.oci.empty.v1+json", b"{}");
    let mut layer = add(media_type, bytes);
    layer["annotations"] = serde_json::json!({ "org.opencontainers.image.title": title });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "artifactType": "application/vnd.unknown.artifact.v1",
        "config": config, "layers": [layer],
    });
    let manifest = add("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[test]
fn artifacts_of_one_blob_are_images() {
    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    let bench = Bench::new();
    bench.extension();
    bench.squashfs("image", &["-comp", "xz"]);
    let source = bench.path("source");
    let tar = |flags: &str| {
        let output = Command::new("tar")
            .args(["-C", source.to_str().unwrap(), flags, "-", "manifest.yaml", "rootfs"])
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let squashfs = fs::read(bench.path("image")).unwrap();
    for (what, media_type, title, bytes) in [
        ("squashfs by type", "application/vnd.squashfs", "x", &squashfs),
        ("squashfs by name", "application/octet-stream", "tool.raw", &squashfs),
        ("squashfs that ORAS calls a tar", TAR, "tool.raw", &squashfs),
        ("tar", TAR, "tool.tar", &tar("-cf")),
        ("packed tar", "application/vnd.oci.image.layer.v1.tar+gzip", "tool.tar.gz", &tar("-czf")),
    ] {
        artifact(&bench, media_type, title, bytes);
        let packed = bench.succeed(&["pack", "oci:layout", "-o", "out.sqsh"]);
        assert!(packed.contains("out.sqsh: tool 1"), "{what}: {packed}");
        bench.succeed(&["inspect", "oci:layout"]);
    }
    artifact(&bench, TAR, "tool.tar", &squashfs);
    let error = bench.fail(&["pack", "oci:layout", "-o", "out.sqsh"]);
    assert!(error.contains("tar: header checksum mismatch at byte 0"), "{error}");
    artifact(&bench, "application/vnd.squashfs", "x", &tar("-cf"));
    let error = bench.fail(&["pack", "oci:layout", "-o", "out.sqsh"]);
    assert!(error.contains("it is neither a squashfs nor a partitioned image of one"), "{error}");
    artifact(&bench, "text/plain", "tool.txt", b"text");
    let error = bench.fail(&["pack", "oci:layout", "-o", "out.sqsh"]);
    assert!(error.contains("is of the type `text/plain`"), "{error}");
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_refused() {
    let bench = Bench::new();
    bench.extension();
    bench.squashfs("image", &[]);
    let squashfs = fs::read(bench.path("image")).unwrap();
    artifact(&bench, "application/vnd.squashfs", "x", &squashfs);
    let blob = bench.path("layout/blobs/sha256").join(Digest::sha256(&squashfs).hex());
    let mut changed = squashfs;
    *changed.last_mut().unwrap() ^= 1;
    fs::write(blob, changed).unwrap();
    let error = bench.fail(&["pack", "oci:layout", "-o", "out.sqsh"]);
    assert!(error.contains("cannot read its file, or it is not what its digest says"), "{error}");
}

#[test]
fn files_that_are_no_images_are_refused_at_once() {
    let bench = Bench::new();
    fs::write(bench.path("text"), "hello").unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, bench.path("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for (image, expected) in [
        ("squashfs:text", "it is neither a squashfs nor a partitioned image of one"),
        ("squashfs:fifo", "it is not a regular file"),
        ("squashfs:.", "cannot read ."),
        ("squashfs:missing", "No such file or directory"),
    ] {
        let error = bench.fail(&["pack", image, "-o", "out.sqsh"]);
        assert!(error.contains(expected), "{image}: {error}");
    }
}

/// Memory that a damaged image may take, in bytes. What a good one takes is
/// measured elsewhere; most of this is threads' buffers.
const DAMAGED_MEMORY: &str = "--data=268435456";

#[test]
fn damaged_images_are_read_or_refused_and_leave_nothing() {
    let bench = Bench::new();
    bench.extension();
    let mut flips = Random(0x9e37_79b9);
    let (mut read, mut refused) = (0, 0);
    for flags in [
        &["-comp", "gzip", "-b", "4096"][..],
        &["-comp", "lz4"],
        &["-comp", "xz", "-b", "1M"],
        &["-comp", "zstd"],
        &["-noI", "-noD", "-noF", "-noX"],
    ] {
        bench.squashfs("image", flags);
        let good = fs::read(bench.path("image")).unwrap();
        for _ in 0..60 {
            let mut damaged = good.clone();
            for _ in 0..=flips.below(3) {
                // Padding and contents are long: half of the damage is elsewhere.
                let at = match flips.below(2) {
                    0 => flips.below(damaged.len()),
                    _ => flips.below(damaged.len().min(1024)),
                };
                damaged[at] ^= 1 << flips.below(8);
            }
            fs::write(bench.path("damaged"), damaged).unwrap();
            let output =
                bench.plywood_within(DAMAGED_MEMORY, &["pack", "squashfs:damaged", "-o", "out.sqsh"]);
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(error.chars().all(|c| c == '\n' || !c.is_control()), "{flags:?}: {error:?}");
            match output.status.code() {
                Some(0) => read += 1,
                Some(1) => {
                    assert!(error.starts_with("error: squashfs:damaged"), "{flags:?}: {error}");
                    refused += 1;
                }
                code => panic!("{flags:?}: exit code {code:?}: {error}"),
            }
            assert_eq!(bench.path("out.sqsh").exists(), output.status.success(), "{flags:?}");
            let _ = fs::remove_file(bench.path("out.sqsh"));
            assert_eq!(fs::read_dir(bench.directory.path()).unwrap().count(), 3, "{flags:?}");
        }
    }
    assert!(read > 10 && refused > 100, "{read} read, {refused} refused");
}
