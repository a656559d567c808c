//! What has to be done so that the machine has what its configuration asks.
//!
//! In: a [`Config`] and an [`Inventory`] of what is in the store already. Out:
//! a [`Plan`], one step an extension, in mount order, and the [`Changes`] that
//! come of it. Pure: making a plan reads nothing and changes nothing, and its
//! `Display` is the dry run.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::config::{Config, OnFailure};
use crate::oci::{Digest, ImageSource};
use crate::store::Layer;
use crate::text::Escaped;

/// What the store has for the extensions of a configuration.
#[derive(Debug, Default)]
pub struct Inventory {
    /// By an extension's image, as written: what the name is known to stand
    /// for, and the layer made from that.
    pub layers: BTreeMap<String, (Digest, Layer)>,
    /// By an extension's image: what a registry says of it.
    pub downloads: BTreeMap<String, Download>,
    /// The extensions of the current generation, in mount order.
    pub current: Vec<Version>,
}

/// What would be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// What the name stands for now.
    pub image: Digest,
    /// Length of what has to be read, as packed.
    pub bytes: u64,
}

/// How one extension becomes a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its layer is in the store.
    Reuse { image: Digest, layer: Layer },
    /// It has to be fetched, or built, or both.
    Obtain,
}

/// One extension's part of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Position in mount order; a higher number hides a lower one.
    pub number: u16,
    pub source: ImageSource,
    pub on_failure: OnFailure,
    pub action: Action,
    download: Option<Download>,
}

/// The steps for all extensions, in mount order.
#[derive(Debug)]
pub struct Plan {
    steps: Vec<Step>,
    changes: Changes,
}

/// An extension as a generation has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// The image as the configuration names it.
    pub source: String,
    /// What that stands for, where it is known.
    pub image: Option<Digest>,
    /// Files, directories and symlinks, where the layer is there to count.
    pub files: Option<u64>,
}

/// One extension that is another than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub before: Version,
    pub after: Version,
}

/// What tells one list of extensions from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    pub added: Vec<Version>,
    pub removed: Vec<Version>,
    pub changed: Vec<Change>,
    /// Whether those that stay have another order.
    pub reordered: bool,
}

impl Plan {
    /// Plans `config` with what `inventory` has. Extension n of the
    /// configuration gets layer number n.
    pub fn new(config: &Config, inventory: &Inventory) -> Self {
        let steps: Vec<_> = (0u16..)
            .zip(config.extensions())
            .map(|(number, extension)| {
                let name = extension.image.to_string();
                Step {
                    number,
                    source: extension.image.clone(),
                    on_failure: extension.on_failure,
                    action: match inventory.layers.get(&name) {
                        Some((image, layer)) => Action::Reuse { image: *image, layer: layer.clone() },
                        None => Action::Obtain,
                    },
                    download: inventory.downloads.get(&name).cloned(),
                }
            })
            .collect();
        let after: Vec<_> = steps.iter().map(Step::version).collect();
        let changes = Changes::between(&inventory.current, &after);
        Self { steps, changes }
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Bytes that would be fetched, as far as registries were asked.
    pub fn download(&self) -> u64 {
        let of = |step: &Step| step.download.as_ref().map_or(0, |download| download.bytes);
        self.steps.iter().map(of).fold(0, u64::saturating_add)
    }
}

impl Step {
    fn version(&self) -> Version {
        let (image, files) = match (&self.action, &self.download) {
            (Action::Reuse { image, layer }, _) => (Some(*image), Some(layer.record().inodes)),
            (Action::Obtain, download) => (download.as_ref().map(|download| download.image), None),
        };
        Version { source: self.source.to_string(), image, files }
    }
}

impl Changes {
    /// Compares two lists in mount order.
    pub fn between(before: &[Version], after: &[Version]) -> Self {
        let names = |these: &[Version]| these.iter().map(|version| name(&version.source)).collect::<Vec<_>>();
        let (old, new) = (names(before), names(after));
        let without = |these: &[Version], others: &[String]| {
            these.iter().filter(|version| !others.contains(&name(&version.source))).cloned().collect()
        };
        let common = |these: &[String], others: &[String]| -> Vec<String> {
            these.iter().filter(|name| others.contains(name)).cloned().collect()
        };
        let pairs = after.iter().filter_map(|after| {
            let before = before.iter().find(|before| name(&before.source) == name(&after.source))?;
            Some(Change { before: before.clone(), after: after.clone() })
        });
        Self {
            added: without(after, &old),
            removed: without(before, &new),
            changed: pairs.filter(|pair| pair.before.is_another(&pair.after)).collect(),
            reordered: common(&old, &new) != common(&new, &old),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Version {
    fn is_another(&self, other: &Self) -> bool {
        self.source != other.source || self.image != other.image
    }
}

/// What stays of an image's name when its version changes.
fn name(source: &str) -> String {
    match source.parse() {
        Ok(ImageSource::Registry(reference)) => {
            format!("{}/{}", reference.registry(), reference.repository())
        }
        _ => source.into(),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{:03} {}: ", step.number, step.source)?;
            match (&step.action, &step.download) {
                (Action::Reuse { layer, .. }, _) => writeln!(f, "in the store as layer {}", layer.key())?,
                (Action::Obtain, None) => writeln!(f, "to fetch and build")?,
                (Action::Obtain, Some(Download { bytes, .. })) => {
                    writeln!(f, "to fetch and build, {bytes} bytes")?;
                }
            }
        }
        write!(f, "{}", self.changes)
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for version in &self.added {
            writeln!(f, "added: {version}")?;
        }
        for version in &self.removed {
            writeln!(f, "removed: {version}")?;
        }
        for Change { before, after } in &self.changed {
            writeln!(f, "changed: {before} -> {after}")?;
        }
        if self.reordered {
            writeln!(f, "the order changes")?;
        }
        Ok(())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped::new(&self.source))?;
        let image = self.image.map_or("not fetched yet".into(), |image| image.to_string());
        match self.files {
            Some(files) => write!(f, " ({image}, {files} files)"),
            None => write!(f, " ({image})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(list: &[(&str, &str)]) -> Vec<Version> {
        let version = |(source, image): &(&str, &str)| Version {
            source: (*source).into(),
            image: Some(Digest::sha256(image.as_bytes())),
            files: None,
        };
        list.iter().map(version).collect()
    }

    #[test]
    fn changes_are_told_apart() {
        type Row<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], [usize; 3], bool);
        let (a, b) = (("ghcr.io/x/a:1", "a"), ("ghcr.io/x/b:1", "b"));
        let rows: [Row<'_>; 8] = [
            // before · after · added, removed, changed · reordered
            (&[], &[a], [1, 0, 0], false),
            (&[a], &[], [0, 1, 0], false),
            (&[a, b], &[a, b], [0, 0, 0], false),
            (&[a, b], &[b, a], [0, 0, 0], true),
            (&[a, b], &[b], [0, 1, 0], false),
            (&[a], &[("ghcr.io/x/a:2", "a2")], [0, 0, 1], false),
            (&[a], &[("ghcr.io/x/a:1", "moved")], [0, 0, 1], false),
            (&[("dir:/a", "1"), a], &[("dir:/b", "1"), a], [1, 1, 0], false),
        ];
        for (before, after, [added, removed, changed], reordered) in rows {
            let changes = Changes::between(&versions(before), &versions(after));
            let counts = [changes.added.len(), changes.removed.len(), changes.changed.len()];
            assert_eq!(
                (counts, changes.reordered),
                ([added, removed, changed], reordered),
                "{before:?} {after:?}"
            );
        }
    }
}
