//! What has to be done so that the machine has what its configuration asks.
//!
//! In: a [`Config`] and an [`Inventory`] of what is in the store already. Out:
//! a [`Plan`], one step an extension, in mount order. Pure: making a plan
//! reads nothing and changes nothing, and its `Display` is the dry run.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::{Config, OnFailure};
use crate::oci::{Digest, ImageSource};
use crate::store::{GenerationRecord, Layer};

/// What the store has for the extensions of a configuration.
#[derive(Debug, Default)]
pub struct Inventory {
    /// By an extension's image, as written: what the name is known to stand
    /// for, and the layer made from that.
    pub layers: BTreeMap<String, (Digest, Layer)>,
    pub current: Option<GenerationRecord>,
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
}

/// The steps for all extensions, in mount order.
#[derive(Debug)]
pub struct Plan {
    steps: Vec<Step>,
    changes: Changes,
}

/// What tells the planned generation from the current one.
#[derive(Debug, Default)]
struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    reordered: bool,
}

impl Plan {
    /// Plans `config` with what `inventory` has. Extension n of the
    /// configuration gets layer number n.
    pub fn new(config: &Config, inventory: &Inventory) -> Self {
        let steps: Vec<_> = (0u16..)
            .zip(config.extensions())
            .map(|(number, extension)| Step {
                number,
                source: extension.image.clone(),
                on_failure: extension.on_failure,
                action: match inventory.layers.get(&extension.image.to_string()) {
                    Some((image, layer)) => Action::Reuse { image: *image, layer: layer.clone() },
                    None => Action::Obtain,
                },
            })
            .collect();
        let changes = Changes::between(inventory.current.as_ref(), &steps);
        Self { steps, changes }
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

impl Changes {
    fn between(current: Option<&GenerationRecord>, steps: &[Step]) -> Self {
        let before: Vec<_> =
            current.iter().flat_map(|record| &record.layers).map(|entry| entry.source.clone()).collect();
        let after: Vec<_> = steps.iter().map(|step| step.source.to_string()).collect();
        let missing_from = |these: &[String], others: &[String]| {
            these.iter().filter(|s| !others.contains(s)).cloned().collect()
        };
        let kept = |these: &[String], others: &[String]| -> Vec<String> {
            these.iter().filter(|s| others.contains(s)).cloned().collect()
        };
        Self {
            reordered: kept(&before, &after) != kept(&after, &before),
            added: missing_from(&after, &before),
            removed: missing_from(&before, &after),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let action = match &step.action {
                Action::Reuse { layer, .. } => format!("in the store as layer {}", layer.key()),
                Action::Obtain => "to fetch and build".into(),
            };
            writeln!(f, "{:03} {}: {action}", step.number, step.source)?;
        }
        for source in &self.changes.added {
            writeln!(f, "added: {source}")?;
        }
        for source in &self.changes.removed {
            writeln!(f, "removed: {source}")?;
        }
        if self.changes.reordered {
            writeln!(f, "the order changes")?;
        }
        Ok(())
    }
}
