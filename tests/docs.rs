//! What the pages say can be followed: their links lead somewhere, and the
//! configurations in them are ones.

use std::fs;
use std::path::{Path, PathBuf};

use plywood::config::Config;
use plywood::yaml::Source;

/// README, changelog and `docs`.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    for directory in ["docs", "docs/initramfs"] {
        paths.extend(fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The targets of `[text](target)` that are not on other hosts.
fn links(page: &str) -> Vec<&str> {
    let targets = page.split("](").skip(1).filter_map(|after| after.split_once(')'));
    targets.map(|(target, _)| target).filter(|target| !target.contains("://")).collect()
}

/// The fragments by which the headings of a page are found.
fn fragments(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let kept = |c: char| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
    };
    headings.map(|line| line.trim_start_matches('#').trim().chars().filter_map(kept).collect()).collect()
}

#[test]
fn links_lead_somewhere() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, page) in pages() {
        for link in links(&page) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = path.parent().unwrap().join(file);
            let found = match (file, fragment) {
                (_, "") => target.exists(),
                ("", fragment) => fragments(&page).contains(&fragment.into()),
                (_, fragment) => fs::read_to_string(&target)
                    .is_ok_and(|other| fragments(&other).contains(&fragment.into())),
            };
            seen += 1;
            if !found {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 30, "{seen} links");
}

#[test]
fn whole_configurations_in_pages_are_configurations() {
    let mut seen = 0;
    for (path, page) in pages() {
        let blocks = page.split("```yaml\n").skip(1).filter_map(|after| after.split("```").next());
        for block in blocks.filter(|block| !block.starts_with([' ', '#'])) {
            let source = Source { name: path.display().to_string(), text: block.into() };
            if let Err(problems) = Config::parse(&[source]) {
                panic!("{problems}\n{block}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen} configurations");
}
