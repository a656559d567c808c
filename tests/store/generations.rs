//! Who may change the store, going back, and cleaning up.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{FlockOperation, flock};

use crate::Home;

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
    let writers: [&[&str]; 6] = [
        &["bless", "1"],
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
fn what_needs_a_store_makes_none() {
    let home = Home::with_three();
    let commands: [&[&str]; 4] = [&["gc"], &["rollback"], &["bless", "1"], &["verify"]];
    for arguments in commands {
        let said = home.expect(1, arguments);
        assert!(said.contains("there is no store in state"), "{said}");
        assert!(!home.path("state").exists(), "{arguments:?}");
        fs::create_dir(home.path("state")).unwrap();
        fs::set_permissions(home.path("state"), fs::Permissions::from_mode(0o755)).unwrap();
        home.expect(1, arguments);
        assert_eq!(home.content(), []);
        assert_eq!(fs::metadata(home.path("state")).unwrap().permissions().mode() & 0o777, 0o755);
        fs::remove_dir(home.path("state")).unwrap();
    }
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
