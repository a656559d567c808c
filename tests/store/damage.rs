//! What is done about damage of every kind.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::Home;

#[test]
fn gc_removes_nothing_if_anything_is_unreadable() {
    type Damage = fn(&Home);
    let damages: [(&str, Damage); 9] = [
        ("a strange file of a layer", |home| {
            fs::write(home.path(&format!("state/layers/{}.x", "0".repeat(64))), "").unwrap();
        }),
        ("a number that is not written so", |home| {
            fs::create_dir(home.path("state/generations/01")).unwrap()
        }),
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
    if fs::symlink_metadata(path).is_ok() {
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
        let damages: [fn(&Path); 2] = [|marks| fs::write(marks, [0; 100]).unwrap(), put_directory];
        for damage in damages {
            let home = Home::with_three();
            home.apply(0, &["a"]);
            home.apply(0, &["b"]);
            damage(&home.path("state/attempts"));
            assert_eq!(home.status()["next"], 2);
            home.expect(1, &["verify"]);
            home.expect(0, arguments);
            home.expect(0, &["verify"]);
            assert_eq!(home.status()["next"], next, "{arguments:?}");
        }
    }
}

#[test]
fn a_directory_in_the_place_of_a_pointer_is_not_in_the_way() {
    for name in ["current", "previous"] {
        let home = Home::with_three();
        home.apply(0, &["a"]);
        home.apply(0, &["b"]);
        put_directory(&home.path("state").join(name));
        home.expect(1, &["verify"]);
        home.apply(0, &["c"]);
        home.apply(0, &["a"]);
        home.expect(0, &["verify"]);
        assert_eq!(home.status()["next"], 4, "{name}");
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
