//! What becomes of generations that are committed, pointed to and damaged.

use super::*;
use crate::store::LayerRecord;

fn draft(store: &Store, config: &str) -> Draft {
    let staged = store.stage_layer().unwrap();
    let record = LayerRecord {
        digest: Digest::sha256(b""),
        size: 0,
        inodes: 1,
        verity_root: None,
        name: "tools".into(),
        version: "1".into(),
        manifest: String::new(),
        places: vec![],
        kernel_release: None,
    };
    let layer = store.commit_layer(staged, LayerKey::of("chain"), record).unwrap();
    let entry = LayerEntry {
        number: 0,
        source: "ghcr.io/a/tools:1".into(),
        image: Digest::sha256(b"manifest"),
        key: *layer.key(),
        digest: layer.record().digest,
    };
    Draft {
        origin: Origin::Boot,
        created: 1_700_000_000,
        proof: Proof { attempts: 3, time_limit: None },
        config: config.into(),
        extensions: "layers: []\n".into(),
        layers: vec![(entry, layer)],
        skipped: vec![],
    }
}

#[test]
fn a_committed_generation_is_current_and_the_last_one_previous() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.current().unwrap(), None);
    let lock = store.lock().unwrap();
    let first = store.commit_generation(&lock, draft(&store, "one")).unwrap();
    assert_eq!((store.current().unwrap(), store.generation(1).unwrap()), (Some(1), first));
    let second = store.commit_generation(&lock, draft(&store, "two")).unwrap();
    assert_eq!((store.current().unwrap(), store.previous().unwrap()), (Some(2), Some(1)));
    assert_eq!(second.config().unwrap(), "two");
    store.activate(&lock, 1).unwrap();
    assert_eq!((store.current().unwrap(), store.previous().unwrap()), (Some(1), Some(2)));
    assert_eq!(fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
}

#[test]
fn a_number_is_not_given_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let lock = store.lock().unwrap();
    let mut trials = crate::store::Trials::default();
    trials.condemn(6, "hung".into(), false);
    store.put_trials(&lock, &trials).unwrap();
    assert_eq!(store.commit_generation(&lock, draft(&store, "one")).unwrap().number(), 7);
    fs::remove_dir_all(directory.path().join("generations/7")).unwrap();
    assert_eq!(store.commit_generation(&lock, draft(&store, "one")).unwrap().number(), 8);
}

#[test]
fn an_applied_configuration_outlives_its_layers() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let lock = store.lock().unwrap();
    store.commit_generation(&lock, draft(&store, "one")).unwrap();
    assert_eq!(store.applied_config(), None);
    let applied = Draft { origin: Origin::Apply, ..draft(&store, "two") };
    store.commit_generation(&lock, applied).unwrap();
    fs::remove_dir_all(directory.path().join("layers")).unwrap();
    assert!(store.generation(2).is_err());
    assert_eq!(store.applied_config(), Some((2, "two".into())));
    fs::write(directory.path().join("generations/2/config.yaml"), "three").unwrap();
    assert_eq!(store.applied_config(), None);
    let trials = crate::store::Trials { chosen: Some(1), ..Default::default() };
    store.put_trials(&lock, &trials).unwrap();
    store.activate(&lock, 1).unwrap();
    assert_eq!(store.applied_config(), Some((1, "one".into())));
}

#[test]
fn a_choice_that_cannot_be_read_is_lost() {
    type Damage = fn(&Path);
    let rows: [(&str, Damage, bool); 4] = [
        ("none", |_| {}, false),
        ("pointer gone", |state| fs::remove_file(state.join("current")).unwrap(), true),
        ("pointed to gone", |state| fs::remove_dir_all(state.join("generations/2")).unwrap(), true),
        ("record cut", |state| fs::write(state.join("generations/2/record.json"), "{").unwrap(), true),
    ];
    for (name, damage, expected) in rows {
        for origin in [Origin::Boot, Origin::Apply] {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path()).unwrap();
            let lock = store.lock().unwrap();
            for config in ["one", "two"] {
                store.commit_generation(&lock, Draft { origin, ..draft(&store, config) }).unwrap();
            }
            damage(directory.path());
            assert_eq!(store.has_lost_choice(), expected && origin == Origin::Apply, "{name} {origin:?}");
        }
    }
}

#[test]
fn a_generation_with_something_missing_or_changed_does_not_open() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("layer gone", |state| fs::remove_dir_all(state.join("layers")).unwrap()),
        ("record cut", |state| {
            fs::write(state.join("generations/1/record.json"), "{\"format\":1").unwrap();
        }),
        ("config changed", |state| fs::write(state.join("generations/1/config.yaml"), "x").unwrap()),
        ("list changed", |state| fs::write(state.join("generations/1/extensions.yaml"), "x").unwrap()),
        ("generation gone", |state| fs::remove_dir_all(state.join("generations/1")).unwrap()),
        ("a symlink in its place", |state| {
            fs::rename(state.join("generations/1"), state.join("elsewhere")).unwrap();
            std::os::unix::fs::symlink("../elsewhere", state.join("generations/1")).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lock = store.lock().unwrap();
        store.commit_generation(&lock, draft(&store, "one")).unwrap();
        damage(directory.path());
        assert!(store.generation(1).unwrap_err().is_damage(), "{name}");
    }
}

#[test]
fn a_pointer_that_is_no_pointer_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let current = directory.path().join("current");
    std::os::unix::fs::symlink("../../etc", &current).unwrap();
    store.current().unwrap_err();
    fs::remove_file(&current).unwrap();
    fs::write(&current, [0; 4096]).unwrap();
    store.current().unwrap_err();
    let lock = store.lock().unwrap();
    store.commit_generation(&lock, draft(&store, "one")).unwrap();
    assert_eq!(store.current().unwrap(), Some(1));
}

#[test]
fn a_generation_of_a_newer_format_is_refused_by_that_name_and_nothing_is_committed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let lock = store.lock().unwrap();
    store.commit_generation(&lock, draft(&store, "one")).unwrap();
    let path = directory.path().join("generations/1/record.json");
    fs::write(&path, record::encode(2, &"of a later kind").unwrap()).unwrap();
    let expected = "generation 1 was written by a newer plywood (format 2)";
    assert_eq!(store.generation(1).unwrap_err().to_string(), expected);
    let error = store.commit_generation(&lock, draft(&store, "two")).unwrap_err();
    assert_eq!(error.to_string(), expected);
}
