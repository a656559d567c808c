//! The store as commands keep it: what applying, going back, cleaning up and
//! damage do to a state directory.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{FlockOperation, flock};
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

#[test]
fn applying_the_same_twice_changes_nothing_and_says_so() {
    let home = Home::with_three();
    home.apply(0, &["a", "b"]);
    let before = home.content();
    assert!(home.apply(3, &["a", "b"]).contains("nothing to do"));
    assert_eq!(home.content(), before);
}

#[test]
fn another_order_is_another_generation_of_the_same_layers() {
    let home = Home::with_three();
    home.apply(0, &["a", "b"]);
    let layers = home.layers();
    assert!(home.apply(0, &["b", "a"]).contains("the order changes"));
    assert_eq!(home.layers(), layers);
    let said = home.apply(0, &["b", "a", "c"]);
    assert!(said.contains("added: dir:c") && !said.contains("dir:a ("), "{said}");
    assert_eq!(home.layers().len(), 3);
}

#[test]
fn one_bad_image_of_several_leaves_nothing_behind() {
    let home = Home::with_three();
    home.extension("bad", "usr/local/share/plywood-test/bad", "");
    let open = home.path("bad/rootfs/usr/local/share/plywood-test/bad");
    fs::set_permissions(open, fs::Permissions::from_mode(0o666)).unwrap();
    home.apply(0, &["a"]);
    let before = home.content();
    let said = home.apply(1, &["a", "b", "c", "bad"]);
    assert!(said.contains("dir:bad") && said.contains("world-writable"), "{said}");
    assert_eq!(home.content(), before);
}

#[test]
fn a_dry_run_leaves_the_store_alone() {
    let home = Home::with_three();
    home.apply(0, &["a"]);
    let before = home.content();
    home.configure(&["b", "a"], "");
    let said = home.expect(0, &["apply", "-f", "machine.yaml", "--dry-run"]);
    for part in ["added: dir:b", "to fetch and build", "in the store as layer", "a reboot is needed"] {
        assert!(said.contains(part), "{said}");
    }
    let json = home.run(&["apply", "-f", "machine.yaml", "--dry-run", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["result"], &json["rebootNeeded"]), (&"planned".into(), &true.into()));
    assert_eq!(json["changes"]["added"][0]["source"], "dir:b");
    assert_eq!(home.content(), before);
}

#[test]
fn extensions_that_collide_are_found_before_the_commit() {
    let share = "usr/local/share/plywood-test";
    let rows: [(&str, &str, &str, i32, &str); 4] = [
        // file of the second, its content, its line in the configuration
        (&format!("{share}/same"), "one", "", 0, "is ready"),
        (&format!("{share}/same"), "two", "", 1, "dir:second and dir:first have different content"),
        (&format!("{share}/same/below"), "", "", 1, "dir:second and dir:first have different types"),
        (
            &format!("{share}/same"),
            "two",
            "        overrides: [/usr/local/share/plywood-test]\n",
            0,
            "is ready",
        ),
    ];
    for (file, content, line, code, expected) in rows {
        let home = Home::new();
        home.extension("first", &format!("{share}/same"), "one");
        home.extension("second", file, content);
        home.configure(&["first", "second"], line);
        let said = home.expect(code, &["apply", "-f", "machine.yaml"]);
        assert!(said.contains(expected), "{file} {content}: {said}");
        if code == 1 {
            assert!(home.content().is_empty(), "{:?}", home.content());
        }
    }
}

#[test]
fn an_extension_that_collides_and_may_be_skipped_is_skipped() {
    let home = Home::new();
    home.extension("first", "usr/local/share/plywood-test/same", "one");
    home.extension("second", "usr/local/share/plywood-test/same", "two");
    home.configure(&["first", "second"], "        onFailure: skip\n");
    home.expect(0, &["apply", "-f", "machine.yaml"]);
    let status = home.status();
    assert_eq!(status["generations"][0]["layers"].as_array().unwrap().len(), 1);
    let reason = status["generations"][0]["skipped"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("different content"), "{reason}");
    home.expect(3, &["apply", "-f", "machine.yaml"]);
}

#[test]
fn a_store_that_is_locked_says_by_whom() {
    let home = Home::with_three();
    home.apply(0, &["a"]);
    fs::write(home.path("state/lock"), "4711\n").unwrap();
    let lock = File::open(home.path("state/lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let said = home.apply(1, &["b"]);
    assert!(said.contains("is locked by pid 4711"), "{said}");
}

#[test]
fn a_store_of_a_newer_plywood_is_not_changed() {
    let home = Home::with_three();
    home.apply(0, &["a"]);
    home.apply(0, &["b"]);
    let record = home.path("state/generations/2/record.json");
    let body = "{}";
    let digest = plywood::oci::Digest::sha256(format!("2\n{body}").as_bytes());
    fs::write(&record, format!("{{\"format\":2,\"digest\":\"{digest}\",\"record\":\n{body}\n}}\n")).unwrap();
    let writers: [&[&str]; 5] = [
        &["apply", "-f", "machine.yaml"],
        &["gc"],
        &["rollback", "1"],
        &["verify", "--repair"],
        &["pull", "dir:c"],
    ];
    // Not even what the last writer left half-written is touched.
    fs::write(home.path("state/staging/1-0"), "half").unwrap();
    let before = home.content();
    for arguments in writers {
        let said = home.expect(1, arguments);
        assert!(said.contains("generation 2 was written by a newer plywood"), "{said}");
        assert_eq!(home.content(), before, "{arguments:?}");
    }
    assert_eq!(home.status()["generations"][1]["state"], "damaged");
}

#[test]
fn rollback_goes_to_the_last_good_generation_or_where_it_is_told() {
    let home = Home::with_three();
    home.apply(0, &["a"]);
    let said = home.expect(1, &["rollback"]);
    assert!(said.contains("there is no other generation"), "{said}");
    home.expect(0, &["bless", "1"]);
    home.apply(0, &["b"]);
    home.apply(0, &["c"]);
    assert_eq!(home.status()["next"], 3);
    home.expect(0, &["rollback"]);
    assert_eq!((home.status()["next"].as_u64(), home.status()["lastGood"].as_u64()), (Some(1), Some(1)));
    home.expect(0, &["rollback", "2"]);
    assert_eq!(home.status()["next"], 2);
    home.expect(1, &["rollback", "9"]);
    assert_eq!(home.status()["next"], 2);
}

#[test]
fn gc_keeps_what_it_is_told_and_what_is_good() {
    let home = Home::with_three();
    home.apply(0, &["a"]);
    home.expect(0, &["bless", "1"]);
    home.apply(0, &["b"]);
    home.configure(&["c"], "plywood: {keepGenerations: 1}\n");
    home.expect(0, &["apply", "-f", "machine.yaml"]);
    let numbers: Vec<_> = home.status()["generations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["number"].as_u64().unwrap())
        .collect();
    assert_eq!((numbers, home.layers().len()), (vec![1, 3], 2));
    home.expect(0, &["gc"]);
    home.expect(0, &["verify"]);
}

#[test]
fn gc_removes_nothing_if_anything_is_unreadable() {
    type Damage = fn(&Home);
    let damages: [(&str, Damage); 7] = [
        ("a record", |home| fs::write(home.path("state/generations/1/record.json"), "{").unwrap()),
        ("a stranger", |home| fs::write(home.path("state/generations/x"), "").unwrap()),
        ("a strange layer", |home| fs::write(home.path("state/layers/x.sqsh"), "").unwrap()),
        ("the marks", |home| fs::write(home.path("state/attempts"), "").unwrap()),
        ("a document of an image that is kept", |home| {
            let record = fs::read_to_string(home.path("state/generations/3/record.json")).unwrap();
            let (_, image) = record.split_once("\"image\": \"sha256:").unwrap();
            fs::write(home.path(&format!("state/blobs/sha256/{}", &image[..64])), "{").unwrap();
        }),
        ("the pointer", |home| {
            fs::remove_file(home.path("state/current")).unwrap();
            fs::write(home.path("state/current"), [0; 4096]).unwrap();
        }),
        ("what it points to", |home| {
            fs::remove_file(home.path("state/current")).unwrap();
            symlink("generations/999", home.path("state/current")).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let home = Home::with_three();
        for extension in ["a", "b", "c"] {
            home.apply(0, &[extension]);
        }
        damage(&home);
        let before = home.content();
        home.expect(1, &["gc"]);
        assert_eq!(home.content(), before, "{name}");
    }
}

#[test]
fn verify_finds_every_kind_of_damage_and_repairs_layers() {
    type Damage = fn(&Home);
    let damages: [(&str, Damage); 11] = [
        ("flipped", |home| {
            let path = &home.layers()[0];
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(path, bytes).unwrap();
        }),
        ("short", |home| {
            fs::set_permissions(&home.layers()[0], fs::Permissions::from_mode(0o600)).unwrap();
            File::options().write(true).open(&home.layers()[0]).unwrap().set_len(100).unwrap();
        }),
        ("missing", |home| fs::remove_file(&home.layers()[0]).unwrap()),
        ("swapped", |home| {
            let layers = home.layers();
            fs::rename(&layers[0], home.path("state/other")).unwrap();
            fs::rename(&layers[1], &layers[0]).unwrap();
            fs::rename(home.path("state/other"), &layers[1]).unwrap();
        }),
        ("symlink", |home| {
            let path = &home.layers()[0];
            fs::rename(path, home.path("elsewhere")).unwrap();
            symlink(home.path("elsewhere"), path).unwrap();
        }),
        ("a directory", |home| put_directory(&home.layers()[0])),
        ("a directory for its record", |home| put_directory(&home.layers()[0].with_extension("json"))),
        ("a flipped hash tree", |home| {
            let path = home.layers()[0].with_extension("verity");
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(path, bytes).unwrap();
        }),
        ("a missing hash tree", |home| {
            fs::remove_file(home.layers()[0].with_extension("verity")).unwrap();
        }),
        ("a directory for a hash tree", |home| put_directory(&home.layers()[0].with_extension("verity"))),
        ("a directory for a blob", |home| {
            put_directory(&home.path(&format!("state/blobs/sha256/{}", "0".repeat(64))));
        }),
    ];
    for (name, damage) in damages {
        let home = Home::with_three();
        home.apply(0, &["a", "b"]);
        home.expect(0, &["verify"]);
        damage(&home);
        let said = home.expect(1, &["verify"]);
        assert!(said.contains("the store is damaged in"), "{name}: {said}");
        home.expect(0, &["verify", "--repair"]);
        home.expect(0, &["verify"]);
    }
}

/// Puts a directory with something in it in the place of a file.
fn put_directory(path: &Path) {
    if path.exists() {
        fs::remove_file(path).unwrap();
    }
    fs::create_dir(path).unwrap();
    fs::write(path.join("x"), "").unwrap();
}

#[test]
fn verify_tells_of_pointers_to_nothing_and_of_strangers() {
    let rows = [
        ("current", "it names generation 999, which is not there"),
        ("previous", "it names generation 999, which is not there"),
        ("generations/x", "it is not known here"),
        ("layers/x.sqsh", "it is not known here"),
        ("blobs/sha256/x", "it is no blob"),
    ];
    for (name, expected) in rows {
        let home = Home::with_three();
        home.apply(0, &["a"]);
        home.apply(0, &["b"]);
        let path = home.path("state").join(name);
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        symlink("generations/999", path).unwrap();
        for arguments in [&["verify"][..], &["verify", "--repair"]] {
            let said = home.expect(1, arguments);
            assert!(said.contains(name) && said.contains(expected), "{name}: {said}");
        }
    }
}

#[test]
fn damaged_marks_are_replaced_by_whoever_writes_marks() {
    let rows: [(&[&str], u64); 3] =
        [(&["bless", "2"], 2), (&["rollback", "1"], 1), (&["verify", "--repair"], 2)];
    for (arguments, next) in rows {
        let home = Home::with_three();
        home.apply(0, &["a"]);
        home.apply(0, &["b"]);
        fs::write(home.path("state/attempts"), [0; 100]).unwrap();
        assert_eq!(home.status()["next"], 2);
        home.expect(1, &["verify"]);
        home.expect(0, arguments);
        home.expect(0, &["verify"]);
        assert_eq!(home.status()["next"], next, "{arguments:?}");
    }
}

#[test]
fn what_is_tried_for_a_while_can_be_applied_to_stay() {
    let home = Home::with_three();
    home.configure(&["a"], "");
    let attempt = ["apply", "-f", "machine.yaml", "--mode=try", "--timeout=1m"];
    home.expect(0, &attempt);
    home.expect(3, &attempt);
    home.apply(0, &["a"]);
    home.apply(3, &["a"]);
    home.expect(3, &attempt);
    assert_eq!(home.status()["current"], 2);
}

#[test]
fn where_there_is_no_store_there_is_no_generation() {
    type Place = fn(&Home);
    let places: [(&str, Place); 3] = [
        ("nothing", |_| {}),
        ("an empty directory", |home| fs::create_dir(home.path("state")).unwrap()),
        ("an empty store", |home| drop(plywood::store::Store::open(&home.path("state")).unwrap())),
    ];
    for (name, place) in places {
        let home = Home::new();
        place(&home);
        let before = home.content();
        assert!(home.expect(0, &["status"]).contains("no generation"), "{name}");
        let status = home.status();
        for key in ["next", "current", "lastGood"] {
            assert!(status[key].is_null(), "{name}: {key}");
        }
        assert_eq!(status["generations"], serde_json::json!([]), "{name}");
        assert_eq!(home.content(), before, "{name}");
    }
    let home = Home::new();
    fs::write(home.path("state"), "").unwrap();
    assert!(home.expect(1, &["status"]).contains("cannot read"), "a file is no store");
}

#[test]
fn a_machine_that_plywood_did_not_boot_lists_no_generation() {
    let list = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_plywood")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert!(list(&["list"]).starts_with(b"no generation"));
    let json: serde_json::Value = serde_json::from_slice(&list(&["list", "--json"])).unwrap();
    assert_eq!(
        (&json["generation"], &json["extensions"]),
        (&serde_json::Value::Null, &serde_json::json!([]))
    );
}

#[test]
fn a_configuration_may_come_from_standard_input() {
    let home = Home::with_three();
    home.configure(&["a"], "");
    let yaml = fs::read(home.path("machine.yaml")).unwrap();
    let too_long = vec![b' '; plywood::config::MAX_BYTES + 1];
    rustix::fs::mknodat(rustix::fs::CWD, home.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let rows: [(&[&str], &[u8], i32, &str); 6] = [
        (&["-f", "-"], &yaml, 0, "generation 1 is ready"),
        (&["-f", "-"], &yaml, 3, "nothing to do"),
        (&["-f", "-"], b"", 1, "standard input:1:1: this file holds no configuration"),
        (&["-f", "-"], &too_long, 1, "cannot read standard input"),
        (&["-f", "-", "-f", "-"], &yaml, 2, "standard input can be read only once"),
        (&["-f", "fifo"], &yaml, 1, "it is not a regular file"),
    ];
    for (files, input, code, expected) in rows {
        fs::write(home.path("input"), input).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
        command.arg("apply").args(files).args(["--state", "state"]).current_dir(home.0.path());
        let output = command.stdin(File::open(home.path("input")).unwrap()).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{files:?}: {said}");
        assert!(said.contains(expected), "{files:?}: {said}");
    }
}

#[test]
fn what_is_damaged_is_not_next() {
    let home = Home::with_three();
    for extension in ["a", "b"] {
        home.apply(0, &[extension]);
    }
    fs::write(home.path("state/generations/2/extensions.yaml"), "").unwrap();
    let status = home.status();
    assert_eq!((&status["generations"][1]["state"], &status["next"]), (&"damaged".into(), &1.into()));
    fs::remove_dir_all(home.path("state/layers")).unwrap();
    assert_eq!(home.status()["next"], serde_json::Value::Null);
}

/// The JSON of `status` has what its schema asks for, and nothing else.
#[test]
fn status_is_as_its_schema_says() {
    let home = Home::with_three();
    home.apply(0, &["a"]);
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.schema.json");
    let schema: serde_json::Value = serde_json::from_slice(&fs::read(schema).unwrap()).unwrap();
    let keys =
        |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let status = home.status();
    for (value, schema) in [
        (&status, &schema),
        (&status["generations"][0], &schema["$defs"]["generation"]),
        (&status["generations"][0]["layers"][0], &schema["$defs"]["layer"]),
    ] {
        assert_eq!(keys(value), keys(&schema["properties"]));
    }
}
