//! What applying changes, and what it leaves alone.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::Home;

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
fn a_failure_keeps_what_was_fetched_ahead() {
    let home = Home::with_three();
    home.extension("bad", "usr/local/share/plywood-test/bad", "");
    let open = home.path("bad/rootfs/usr/local/share/plywood-test/bad");
    fs::set_permissions(open, fs::Permissions::from_mode(0o666)).unwrap();
    home.expect(0, &["pull", "dir:a"]);
    home.apply(1, &["a", "b", "bad"]);
    // Its changeset has become a layer, and may be nowhere else.
    assert!(!home.layers().is_empty());
    home.apply(0, &["a", "b"]);
}

#[test]
fn an_image_of_two_names_leaves_no_changeset() {
    let home = Home::with_three();
    std::os::unix::fs::symlink("a", home.path("same")).unwrap();
    home.apply(0, &["a", "same"]);
    let blobs = fs::read_dir(home.path("state/blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 2, "a manifest and an image config");
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
fn what_is_tried_for_a_while_can_be_applied_to_stay() {
    let home = Home::with_three();
    home.configure(&["a"], "");
    let stay = ["apply", "-f", "machine.yaml"];
    let attempt = ["apply", "-f", "machine.yaml", "--mode=try", "--timeout=1m"];
    for (code, arguments) in [(0, &attempt[..]), (3, &attempt), (0, &stay), (3, &stay), (3, &attempt)] {
        // A dry run ends as what it stands for would.
        home.expect(code, &[arguments, &["--dry-run"]].concat());
        home.expect(code, arguments);
    }
    assert_eq!(home.status()["current"], 2);
}

#[test]
fn an_apply_that_fails_takes_no_generation_away() {
    let home = Home::with_three();
    for (extension, keep) in [("a", 1), ("b", 9), ("c", 9)] {
        home.configure(&[extension], &format!("plywood: {{keepGenerations: {keep}}}\n"));
        home.expect(0, &["apply", "-f", "machine.yaml"]);
    }
    home.expect(0, &["rollback", "1"]);
    let before = home.content();
    home.extension("bad", "usr/local/share/plywood-test/bad", "");
    let open = home.path("bad/rootfs/usr/local/share/plywood-test/bad");
    fs::set_permissions(open, fs::Permissions::from_mode(0o666)).unwrap();
    home.extension("new", "usr/local/share/plywood-test/new", "");
    home.apply(1, &["new", "bad"]);
    assert_eq!(home.content(), before);
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
