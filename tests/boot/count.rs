//! As many extensions as a machine takes, and one more.

use std::fs;

use plywood::limits::MAX_EXTENSIONS;

use crate::machine::{Home, Machine, text};

/// Lets boots ask for so many extensions, with a file each.
fn ask_for(home: &Home, count: usize) {
    let mut yaml = String::from("version: v1alpha1\nmachine:\n  install:\n    extensions:\n");
    for number in 0..count {
        let name = format!("n{number}");
        home.file(&format!("{name}/rootfs/usr/local/share/many/{name}"), &name);
        let manifest = format!("version: v1alpha1\nmetadata: {{name: {name}, version: \"1\"}}\n");
        home.file(&format!("{name}/manifest.yaml"), manifest);
        yaml += &format!("      - image: \"dir:{}\"\n", home.path(&name).display());
    }
    home.file("asked.yaml", yaml);
    let config = home.path("asked.yaml");
    home.file("cmdline", format!("plywood.state=/var/lib/plywood plywood.config={}", config.display()));
}

/// The files of extensions that are seen after a boot, and what it said.
fn boot(machine: &Machine<'_>) -> (usize, String) {
    let seen = "\"$@\"; code=$?; echo; echo SEEN $(ls \"$ROOT/usr/local/share/many\" | wc -l); exit $code";
    let output = machine.boot(&[], seen);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let seen = said.lines().find_map(|line| line.strip_prefix("SEEN ")).unwrap();
    (seen.parse().unwrap(), said)
}

#[test]
fn as_many_as_a_machine_takes_are_mounted_and_one_more_is_not() {
    let home = Home::new();
    let machine = Machine::new(&home);
    ask_for(&home, MAX_EXTENSIONS);
    let (seen, said) = boot(&machine);
    assert_eq!(seen, MAX_EXTENSIONS, "{said}");

    let before = fs::read_dir(machine.state().join("layers")).unwrap().count();
    ask_for(&home, MAX_EXTENSIONS + 1);
    let (seen, said) = boot(&machine);
    assert!(said.contains("501 extensions are more than the 500 that a machine takes"), "{said}");
    // What was there before runs.
    assert_eq!(seen, MAX_EXTENSIONS, "{said}");
    assert_eq!(fs::read_dir(machine.state().join("layers")).unwrap().count(), before);
}
