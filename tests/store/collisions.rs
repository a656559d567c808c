//! Extensions that want the same path, or one that the base has.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use plywood::command::collisions::{Claim, Collisions, find};
use plywood::store::Store;

use crate::Home;

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

/// What is found where the layers that were applied lie over `base`, and may
/// override `overrides`.
fn over_base(home: &Home, overrides: &[PathBuf]) -> String {
    let store = Store::open(&home.path("state")).unwrap();
    let generation = store.generation(store.current().unwrap().unwrap()).unwrap();
    let claims: Vec<_> = generation
        .layers()
        .iter()
        .map(|(entry, layer)| Claim { number: entry.number, source: &entry.source, layer, overrides })
        .collect();
    match find(&claims, &home.path("base")).unwrap() {
        none if none.is_empty() => String::new(),
        found => Collisions(found).to_string(),
    }
}

#[test]
fn what_collides_with_the_base_is_found() {
    const SHARE: &str = "usr/local/share/plywood-test";
    const HINT: &str = "\n  (`overrides` of the extension named first may allow it)";
    type Base = fn(&Path);
    let rows: [(&str, Base, &str); 9] = [
        ("nothing there", |_| {}, ""),
        ("a directory", |at| fs::create_dir_all(at.parent().unwrap()).unwrap(), ""),
        ("the same file", |at| put(at, "one"), ""),
        ("another file", |at| put(at, "two"), "dir:a and the base have different content"),
        ("a longer file", |at| put(at, "one and more"), "dir:a and the base have different content"),
        (
            "a directory in its place",
            |at| fs::create_dir_all(at).unwrap(),
            "dir:a and the base have different types of file",
        ),
        ("a symlink in its place", |at| link(at), "dir:a and the base have different types of file"),
        (
            "a file for its directory",
            |at| put(at.parent().unwrap(), ""),
            "dir:a and the base have different types of file",
        ),
        (
            "a symlink for its directory",
            |at| link(at.parent().unwrap()),
            "a directory of dir:a would hide a symlink of the base and all it leads to",
        ),
    ];
    for (name, base, expected) in rows {
        let home = Home::new();
        home.extension("a", &format!("{SHARE}/file"), "one");
        fs::create_dir(home.path("base")).unwrap();
        base(&home.path("base").join(SHARE).join("file"));
        home.apply(0, &["a"]);
        let found = over_base(&home, &[]);
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{name}: {found}");
        let is_symlink = expected.contains("symlink");
        assert_eq!(found.ends_with(HINT), !expected.is_empty() && !is_symlink, "{name}: {found}");
        // All may be overridden, but for what hides more than itself.
        let allowed = over_base(&home, &[PathBuf::from("/usr/local")]);
        assert_eq!(allowed.contains("a symlink of the base"), is_symlink, "{name}: {allowed}");
    }
}

#[test]
fn a_long_list_of_collisions_is_cut_and_says_what_may_allow_them() {
    let home = Home::new();
    for number in 0..25 {
        let file = format!("usr/local/share/plywood-test/{number}");
        home.extension("a", &file, "one");
        put(&home.path("base").join(file), "two");
    }
    home.apply(0, &["a"]);
    let found = over_base(&home, &[]);
    assert!(found.contains("and 5 more\n  (`overrides`"), "{found}");
}

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn link(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink("/elsewhere", path).unwrap();
}
