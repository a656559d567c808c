//! Extensions that the base does not go with.

use std::fs;

use plywood::store::{Store, Verdict};

use crate::machine::{Home, Machine, text};

const PLAIN: &str = "booting the plain root, without extensions";

/// Lets boots ask for one extension of this name, with `lines` of its entry.
fn ask_for(home: &Home, name: &str, lines: &str) {
    let image = home.path(name);
    let yaml = format!(
        "version: v1alpha1\nmachine:\n  install:\n    extensions:\n      - image: \"dir:{}\"\n{lines}",
        image.display()
    );
    home.file("asked.yaml", yaml);
    let config = home.path("asked.yaml");
    home.file("cmdline", format!("plywood.state=/var/lib/plywood plywood.config={}", config.display()));
}

fn boot(machine: &Machine<'_>) -> String {
    let output = machine.run(&[], &["boot"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn what_collides_with_the_base_is_not_mounted() {
    let home = Home::new();
    let machine = Machine::new(&home);
    fs::create_dir_all(machine.root.path().join("usr/local/share")).unwrap();
    fs::write(machine.root.path().join("usr/local/share/a"), "of the base").unwrap();
    let rows = [
        ("", "/usr/local/share/a: dir:* and the base have different content", true),
        ("        overrides: [/usr/local/share/a]\n", "mounting generation 1", false),
    ];
    for (lines, expected, is_plain) in rows {
        ask_for(&home, "a", lines);
        let said = boot(&machine);
        let (before, after) = expected.split_once('*').unwrap_or((expected, ""));
        assert!(said.contains(before) && said.contains(after), "{said}");
        assert_eq!(said.contains(PLAIN), is_plain, "{said}");
    }
}

#[test]
fn a_generation_that_an_upgraded_base_is_not_for_is_not_mounted() {
    let home = Home::new();
    let machine = Machine::new(&home);
    home.file("picky/rootfs/usr/local/share/picky", "");
    home.file(
        "picky/manifest.yaml",
        "version: v1alpha1\nmetadata: {name: picky, version: \"1\", compatibility: {test: {version: \">= 1\"}}}\n",
    );
    ask_for(&home, "picky", "");
    let rows =
        [("1", "mounting generation 1"), ("0.9", "generation 1: *picky"), ("1.1", "mounting generation 1")];
    for (version, expected) in rows {
        let release = format!("ID=test\nVERSION_ID={version}\n");
        fs::write(machine.root.path().join("etc/os-release"), release).unwrap();
        let said = boot(&machine);
        let (before, after) = expected.split_once('*').unwrap_or((expected, ""));
        let found = said.lines().any(|line| line.contains(before) && line.contains(after));
        assert!(found, "{version}: {said}");
        assert_eq!(said.contains(PLAIN), version == "0.9", "{version}: {said}");
    }
    // Only what was mounted was an attempt, and the base is not its fault.
    let trials = Store::open_existing(&machine.state()).unwrap().unwrap().trials().unwrap();
    assert_eq!((trials.mark(1).attempts, trials.mark(1).verdict), (2, Verdict::Untried));
}
