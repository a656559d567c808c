//! What commands leave behind when they are interrupted: nothing.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PLYWOOD: &str = env!("CARGO_BIN_EXE_plywood");

fn extension() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("e/rootfs/usr/local")).unwrap();
    fs::write(directory.path().join("e/manifest.yaml"), "version: v1alpha1\nmetadata: {name: e}\n").unwrap();
    directory
}

fn plywood(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PLYWOOD);
    command.args(arguments).current_dir(directory).env("TMPDIR", directory);
    command
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_signal_leaves_nothing_behind() {
    let commands: [&[&str]; 3] =
        [&["pack", "dir:e", "-o", "e.sqsh"], &["validate", "e"], &["build", "e", "-o", "oci:out"]];
    for arguments in commands {
        let home = extension();
        // Takes far longer to read than this test runs.
        File::create(home.path().join("e/rootfs/usr/local/big")).unwrap().set_len(64 << 30).unwrap();
        let mut running = plywood(home.path(), arguments).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_dir(home.path()).unwrap().any(|entry| entry.unwrap().path().join("staging").is_dir())
        {
            assert!(Instant::now() < deadline, "{arguments:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = rustix::process::Pid::from_child(&running);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(running.wait().unwrap().signal(), Some(libc::SIGTERM), "{arguments:?}");
        assert_eq!(names(home.path()), ["e"], "{arguments:?}");
    }
}

#[test]
fn a_limit_for_files_is_an_error_like_a_full_disk() {
    let home = extension();
    File::create(home.path().join("e/rootfs/usr/local/big")).unwrap().set_len(4 << 20).unwrap();
    let mut limited = Command::new("prlimit");
    limited.args(["--fsize=2000", PLYWOOD, "pack", "dir:e", "-o", "e.sqsh"]).current_dir(home.path());
    let output = limited.env("TMPDIR", home.path()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("File too large"), "{errors}");
    assert_eq!(names(home.path()), ["e"]);
}

#[test]
fn what_a_killed_pull_left_goes_with_the_next_command() {
    let nothing: &[&str] = &["apply", "-f", "nothing.yaml", "--state", "state"];
    for next in [&["pull", "dir:small", "--state", "state"], nothing] {
        let home = extension();
        fs::create_dir_all(home.path().join("small/rootfs/usr/local")).unwrap();
        fs::copy(home.path().join("e/manifest.yaml"), home.path().join("small/manifest.yaml")).unwrap();
        fs::write(home.path().join("nothing.yaml"), "version: v1alpha1\n").unwrap();
        File::create(home.path().join("e/rootfs/usr/local/big")).unwrap().set_len(64 << 30).unwrap();
        let mut running = plywood(home.path(), &["pull", "dir:e", "--state", "state"]).spawn().unwrap();
        let staging = home.path().join("state/staging");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_dir(&staging).is_ok_and(|mut names| names.next().is_some()) {
            assert!(Instant::now() < deadline, "{next:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(names(&staging).len(), 1, "{next:?}");
        let output = plywood(home.path(), next).output().unwrap();
        assert!(output.status.success(), "{next:?}: {output:?}");
        assert_eq!(names(&staging), [] as [&str; 0], "{next:?}");
    }
}

#[test]
fn what_a_killed_process_left_is_in_nobodys_way() {
    let home = extension();
    let script = format!("mkdir .plywood-$$-0 && exec {PLYWOOD} pack dir:e -o e.sqsh");
    let output = Command::new("sh").args(["-c", &script]).current_dir(home.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
