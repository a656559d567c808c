//! A state directory that has room for so much and no more: an apply is done,
//! or has changed nothing and given all its space back.

use std::path::Path;
use std::process::Command;

use super::machine::{AFTER_ANOTHER, Case, Home, MEMORY, Machine, PLYWOOD, Summary, summary, text};

const CASE: Case = Case { name: "full", before: AFTER_ANOTHER, command: &["apply", "-f", "large.yaml"] };

/// A copy of the state `$BEFORE` is applied to where `$LIMIT` holds, copied to
/// `$AFTER`, and applied to once more where there is room.
const SCRIPT: &str = r#"
set -e
left() { stat --file-system --format '%f %d' "$STATE"; }
mount -t tmpfs -o "mode=0700,$LIMIT" full "$STATE"
cp -a "$BEFORE/." "$STATE"
before=$(left)
"$PLYWOOD" apply -f large.yaml --state "$STATE" && code=0 || code=$?
echo "LEFT: $code $before $(left)"
"$PLYWOOD" verify --state "$STATE"
cp -a "$STATE/." "$AFTER"
mount -o remount,size=64M,nr_inodes=10000 "$STATE"
"$PLYWOOD" apply -f large.yaml --state "$STATE" || [ $? = 3 ]
"$PLYWOOD" gc --state "$STATE"
"$PLYWOOD" verify --state "$STATE"
"#;

/// How an apply ended.
struct Ended {
    code: u32,
    /// Free pages and inodes, before and after.
    left: [[u64; 2]; 2],
    after: Summary,
}

fn apply(home: &Home, before: &Path, limit: &str) -> Ended {
    let [state, after] = [(); 2].map(|()| tempfile::tempdir_in(MEMORY).unwrap());
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT]).current_dir(home.path(""));
    unshare.env("LIMIT", limit).env("PLYWOOD", PLYWOOD).env("BEFORE", before);
    let output = unshare.env("STATE", state.path()).env("AFTER", after.path()).output().unwrap();
    assert!(output.status.success(), "{limit}: {}", text(&output));
    let said = text(&output);
    let line = said.lines().find_map(|line| Some(line.split_once("LEFT: ")?.1)).unwrap();
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
    let [code, pages, inodes, pages_after, inodes_after] = numbers[..] else { panic!("{limit}: {line}") };
    if code == 1 {
        assert!(said.contains("No space left on device") || said.contains("bytes free"), "{limit}: {said}");
    }
    let left = [[pages, inodes], [pages_after, inodes_after]];
    Ended { code: code as u32, left, after: summary(after.path()) }
}

#[test]
fn a_full_store_is_as_before_and_has_its_space_back() {
    assert!(rustix::process::geteuid().is_root(), "tmpfs is mounted: run this test as root");
    let home = Home::new();
    let machine = Machine::prepared(&home, &CASE);
    let old = summary(&machine.state());
    const ROOM: [u64; 2] = [4096, 4096];
    let roomy = apply(&home, &machine.state(), "size=16M,nr_inodes=4096");
    let new = roomy.after.clone();
    let [pages, inodes] = [0, 1].map(|of| ROOM[of] - roomy.left[0][of]);
    // 50 sizes and 20 numbers of files, from no room at all.
    let sizes = (0..50).map(|step| format!("size={}k,nr_inodes=4096", 4 * (pages + step * 2)));
    let files = (0..20).map(|more| format!("size=16M,nr_inodes={}", inodes + more));
    let mut ended = [0; 2];
    for limit in sizes.chain(files) {
        let Ended { code, left: [before, after], after: found } = apply(&home, &machine.state(), &limit);
        match code {
            0 => assert_eq!(found, new, "{limit}"),
            1 => {
                assert_eq!(found, old, "{limit}");
                assert!(after[0] >= before[0] && after[1] >= before[1], "{limit}: {before:?} {after:?}");
            }
            other => panic!("{limit}: it ended with {other}"),
        }
        ended[code as usize] += 1;
    }
    println!("{} were done, {} found no room", ended[0], ended[1]);
    assert!(ended[0] >= 5 && ended[1] >= 20, "{ended:?}");
}
