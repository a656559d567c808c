//! `plywood verify --repair` fetches from the registry what is damaged: the
//! very image that a layer came from, whatever its tag stands for by now.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::stage::{Access, Server, run};

/// A machine that has applied `registry.test/tool:1`, and its registry.
struct Machine {
    directory: TempDir,
    server: Server,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start_on(&directory.path().join("storage"), &Access::Open);
        let machine = Self { directory, server };
        machine.push("one");
        let yaml = format!(
            "version: v1alpha1\nmachine:\n  install: {{extensions: [{{image: 'registry.test/tool:1'}}]}}\n  \
             registries: {{mirrors: {{registry.test: {{endpoints: ['{}'], skipFallback: true}}}}}}\n",
            machine.server.url("http")
        );
        fs::write(machine.path("machine.yaml"), yaml).unwrap();
        machine.expect(0, &["apply", "-f", "machine.yaml"]);
        machine.expect(0, &["verify"]);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes `tool:1` of the registry an extension whose file has `content`.
    fn push(&self, content: &str) {
        let source = self.path("source");
        fs::create_dir_all(source.join("rootfs/usr/local/share")).unwrap();
        fs::write(source.join("rootfs/usr/local/share/tool"), content).unwrap();
        let manifest = "version: v1alpha1\nmetadata: {name: tool, version: \"1\"}\n";
        fs::write(source.join("manifest.yaml"), manifest).unwrap();
        let layout = format!("oci:layout:{}", content.len());
        let output = self.command(&["build", "source", "-o", &layout]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let from = format!("oci:{}:{}", self.path("layout").display(), content.len());
        let to = format!("docker://{}/tool:1", self.server.authority());
        run("skopeo", "skopeo", &["--insecure-policy", "copy", "--dest-tls-verify=false", &from, &to]);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
        command.args(arguments).current_dir(self.directory.path());
        command
    }

    fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.command(arguments).args(["--state", "state"]).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    fn layer(&self) -> PathBuf {
        let entries = fs::read_dir(self.path("state/layers")).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.extension().is_some_and(|it| it == "sqsh")).unwrap()
    }
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_damaged_is_fetched_again() {
    type Damage = fn(&Machine);
    let damages: [(&str, Damage); 4] = [
        ("flipped", |machine| flip(&machine.layer())),
        ("missing", |machine| fs::remove_file(machine.layer()).unwrap()),
        ("flipped, and its documents gone", |machine| {
            flip(&machine.layer());
            fs::remove_dir_all(machine.path("state/blobs/sha256")).unwrap();
            fs::create_dir(machine.path("state/blobs/sha256")).unwrap();
        }),
        ("flipped, and its tag moved", |machine| {
            flip(&machine.layer());
            machine.push("two");
        }),
    ];
    for (name, damage) in damages {
        let machine = Machine::new();
        let before = fs::read(machine.layer()).unwrap();
        damage(&machine);
        machine.expect(1, &["verify"]);
        let said = machine.expect(0, &["verify", "--repair"]);
        assert!(said.contains("is repaired"), "{name}: {said}");
        machine.expect(0, &["verify"]);
        assert_eq!(fs::read(machine.layer()).unwrap(), before, "{name}");
    }
}

/// Applies `again.yaml` where `machine.yaml` was applied and little is left.
const LITTLE_ROOM: &str = r#"
set -e
mount -t tmpfs -o size=2500k,mode=0700 state state
"$0" apply -f machine.yaml --state state
"$0" apply -f again.yaml --state state
"#;

#[test]
fn an_image_that_is_a_layer_by_another_name_needs_no_room() {
    let machine = Machine::new();
    // No two bytes go together, so that it does not become shorter.
    let mut state = 1_u32;
    let content: String = (0..2_000_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b' ' + (state >> 24) as u8 % 64)
        })
        .collect();
    machine.push(&content);
    let yaml = fs::read_to_string(machine.path("machine.yaml")).unwrap();
    let [from, to] = [1, 2].map(|tag| format!("docker://{}/tool:{tag}", machine.server.authority()));
    let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    run("skopeo", "skopeo", &[&["--insecure-policy", "copy"], &insecure[..], &[&from, &to]].concat());
    fs::write(machine.path("again.yaml"), yaml.replace("tool:1", "tool:2")).unwrap();
    fs::remove_dir_all(machine.path("state")).unwrap();
    fs::create_dir(machine.path("state")).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        LITTLE_ROOM,
        env!("CARGO_BIN_EXE_plywood"),
    ]);
    let output = unshare.current_dir(machine.directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_the_registry_the_damage_stays_and_is_told() {
    let machine = Machine::new();
    flip(&machine.layer());
    let Machine { directory, server } = machine;
    drop(server);
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    let output = command
        .args(["verify", "--repair", "--state", "state"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not repaired") && said.contains("the store is damaged in "), "{said}");
}
