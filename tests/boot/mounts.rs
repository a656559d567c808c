//! A boot whose mounts fail, from one call on: the base boots, and no mount
//! and no loop device is left of what was tried.

use std::fs;

use plywood::store::Store;

use crate::machine::{Case, Home, Machine, text};

/// Its last good generation has a layer that no other test mounts.
const CASE: Case =
    Case { name: "mounts", before: &[&["apply", "-f", "large.yaml"], &["bless", "1"]], command: &["boot"] };

/// The calls that mount, and errors that a kernel gives for them.
const CALLS: [&str; 6] = ["fsopen", "fsconfig", "fsmount", "open_tree", "move_mount", "ioctl"];
const ERRORS: [&str; 4] = ["ENODEV", "ENOMEM", "EINVAL", "ENOSPC"];

/// What a boot of the base mounts.
const ALLOWED: [&str; 2] = ["/run/plywood/state", "/run/plywood/base"];

/// The mount points that came with the boot.
fn mounts(said: &str) -> Vec<&str> {
    let lines = |prefix| said.lines().filter_map(move |line| line.strip_prefix(prefix));
    let before: Vec<_> = lines("BEFORE: ").collect();
    lines("MOUNT: ").filter(|line| !before.contains(line)).filter_map(|line| line.split(' ').nth(4)).collect()
}

/// Boots, and says what was mounted before and is after it, a line of
/// mountinfo behind each `BEFORE: ` and `MOUNT: `, and which files are loop devices, behind each `LOOP: `. The one
/// that is awaited gets time to go.
const SCRIPT: &str = r#"
    echo; sed 's/^/BEFORE: /' /proc/self/mountinfo
    "$@"; code=$?
    sed 's/^/MOUNT: /' /proc/self/mountinfo
    loops() { cat /sys/block/loop*/loop/backing_file 2>/dev/null; }
    for try in $(seq 100); do loops | grep -q $awaited && sleep 0.02 || break; done
    loops | sed 's/^/LOOP: /'
    exit $code"#;

/// What a boot with a fault came to.
struct Booted {
    /// Whether the fault came about.
    is_reached: bool,
    said: String,
    /// Mount points that came with it, but for those that a base has.
    mounts: Vec<String>,
    /// Whether a loop device has the layer of the last good generation.
    has_loop: bool,
}

fn boot(before: &Machine<'_>, fault: &[&str]) -> Booted {
    let machine = Machine::like(before);
    let good = Store::open_existing(&machine.state()).unwrap().unwrap().generation(1).unwrap();
    let layer = good.layers()[0].0.key.to_string();
    let log = machine.root.path().join("log");
    let tracer = [&["strace", "-f", "-qq", "-o", log.to_str().unwrap()], fault].concat();
    let tracer: Vec<_> = tracer.into_iter().map(String::from).collect();
    let output = machine.boot(&tracer, &format!("awaited={layer}\n{SCRIPT}"));
    let said = text(&output);
    assert!(output.status.success(), "{fault:?}: {said}");
    Booted {
        is_reached: fs::read_to_string(&log).unwrap().contains("(INJECTED)"),
        mounts: mounts(&said).into_iter().filter(|point| !ALLOWED.contains(point)).map(Into::into).collect(),
        has_loop: said.lines().any(|line| line.starts_with("LOOP: ") && line.contains(&layer)),
        said,
    }
}

#[test]
fn whatever_fails_to_mount_leaves_the_base_alone() {
    assert!(rustix::process::geteuid().is_root(), "boots mount filesystems: run this test as root");
    let home = Home::new();
    let before = Machine::prepared(&home, &CASE);
    // Where nothing fails, there is something to be seen.
    let whole = boot(&before, &["-e", "trace=ioctl"]);
    assert!(!whole.mounts.is_empty(), "{}", whole.said);
    let mut reached = 0;
    for call in CALLS {
        // Each time one call more is let through.
        for ordinal in 1.. {
            let fault = format!("inject={call}:error={}:when={ordinal}+", ERRORS[ordinal % ERRORS.len()]);
            let Booted { is_reached, said, mounts, has_loop } = boot(&before, &["-e", &fault]);
            if !is_reached {
                break;
            }
            if said.contains("the plain root, without extensions") {
                assert!(mounts.is_empty() && !has_loop, "{fault}: {mounts:?}\n{said}");
            }
            reached += 1;
        }
    }
    println!("{reached} calls failed");
    assert!(reached > 20, "{reached}");
}

#[test]
fn the_lack_of_loop_devices_is_named() {
    let home = Home::new();
    let before = Machine::prepared(&home, &CASE);
    let Booted { said, has_loop, .. } = boot(&before, &["-e", "inject=ioctl:error=ENOSPC:when=1+"]);
    for expected in
        ["cannot mount layer 000", "LOOP_CTL_GET_FREE", "No space left on device", "the plain root"]
    {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!has_loop, "{said}");
}
