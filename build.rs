//! Tells the program when it was built, for a clock that knows nothing better.
//!
//! In: `SOURCE_DATE_EPOCH`, else the date of the commit that last changed a
//! source, else the newest of the files that every release changes. Out:
//! `PLYWOOD_BUILD_TIME`, seconds since 1970. Invariant: the time of the build
//! itself plays no part, so the same sources give the same binary.

use std::fs;
use std::process::Command;
use std::time::UNIX_EPOCH;

const SOURCES: [&str; 4] = ["build.rs", "src", "Cargo.toml", "Cargo.lock"];
const FILES: [&str; 2] = ["Cargo.toml", "Cargo.lock"];

fn main() {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    for path in SOURCES {
        println!("cargo:rerun-if-changed={path}");
    }
    let time = from_environment().or_else(of_commit).or_else(of_files).unwrap_or(0);
    println!("cargo:rustc-env=PLYWOOD_BUILD_TIME={time}");
}

fn from_environment() -> Option<u64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.trim().parse().ok()
}

/// Nothing outside of a repository, or where there is no git.
fn of_commit() -> Option<u64> {
    let output = Command::new("git").args(["log", "-1", "--format=%ct", "--"]).args(SOURCES).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Archives keep the times of files.
fn of_files() -> Option<u64> {
    let modified = |path: &&str| fs::metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok();
    FILES.iter().filter_map(modified).max().map(|time| time.as_secs())
}
