//! The modules use one another only as `src/lib.rs` says.

use std::fs;
use std::path::{Path, PathBuf};

/// Who may use whom. `text` and `limits` are open to all, `yaml` to those who
/// read YAML.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cli", &["oci"]),
    (
        "command",
        &["cli", "config", "error", "fetch", "layer", "mount", "oci", "plan", "store", "sys", "yaml"],
    ),
    ("config", &["oci", "yaml"]),
    ("error", &["command", "config", "fetch", "layer", "mount", "oci", "plan", "store", "sys"]),
    ("fetch", &["oci", "store"]),
    ("layer", &["fetch", "oci", "store", "yaml"]),
    ("lib", &[]),
    ("limits", &[]),
    ("main", &[]),
    ("mount", &["store", "sys"]),
    ("oci", &[]),
    ("plan", &["config", "oci", "store"]),
    ("store", &["oci", "sys"]),
    ("sys", &[]),
    ("text", &[]),
    ("yaml", &[]),
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The module below `src/` that a file belongs to.
fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(root()).unwrap();
    let first = relative.components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_string()
}

/// The first names after `crate::` in code, comments aside.
fn used_modules(text: &str) -> Vec<String> {
    let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut used = Vec::new();
    for after in code.join("\n").split("crate::").skip(1) {
        let name = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        };
        match after.strip_prefix('{') {
            Some(group) => used.extend(group.split('}').next().unwrap().split(',').map(name)),
            None => used.push(name(after)),
        }
    }
    used
}

#[test]
fn modules_use_only_what_they_may() {
    let mut wrong = Vec::new();
    for path in sources(&root()) {
        let module = module_of(&path);
        let (_, may) = MAY_USE.iter().find(|(name, _)| *name == module).expect(&module);
        for used in used_modules(&fs::read_to_string(&path).unwrap()) {
            let is_open = matches!(used.as_str(), "text" | "limits");
            if used != module && !is_open && !may.contains(&used.as_str()) && !used.is_empty() {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_and_sockets_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for path in sources(&root()) {
        let module = module_of(&path);
        let text = fs::read_to_string(&path).unwrap();
        for (line, words) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            let socket =
                words.contains("TcpStream") || words.contains("UdpSocket") || words.contains("ureq::");
            let misplaced = (words.contains("unsafe ") && module != "sys")
                || (socket && module != "sys" && module != "fetch");
            if misplaced {
                wrong.push(format!("{}:{}: {words}", path.display(), line + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
