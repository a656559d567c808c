//! YAML and the kernel command line → [`Config`] and
//! [`BootParameters`](cmdline::BootParameters).
//!
//! In: the bytes of one or several files, in the words of Talos' `v1alpha1`
//! machine configuration. Out: a configuration that every later stage may
//! trust: references parse, names are unique, numbers are in range. Every
//! problem of every file is reported at once, with its place. Invariant: no
//! secret reaches a message or a debug print. `docs/configuration.md` lists
//! the keys, `configs/full.yaml` shows them all.

pub mod auth_file;
pub mod cmdline;
mod draft;
mod machine;
mod network;
mod plywood;
mod registries;
mod settings;
#[cfg(test)]
mod tests;
pub mod units;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::limits::{Bound, Limits};
use crate::oci::Registries;
use crate::oci::registries::Proxies;
pub use crate::yaml::{Place, Problem, Problems, Source};
use draft::Draft;
pub use network::{AfterBoot, Network};
pub use settings::{
    Compression, Downloads, Extension, Hierarchies, KernelModule, LayerOptions, OnFailure, Overlay,
    Permission, Rules, Timeouts, Writable, parse_block_size, parse_compression,
};

/// Largest configuration file, in bytes.
pub const MAX_BYTES: usize = Bound::Config.length();

/// What the machine is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    extensions: Vec<Extension>,
    registries: Registries,
    modules: Vec<KernelModule>,
    host: BTreeMap<String, String>,
    overlay: Overlay,
    rules: Rules,
    layer: LayerOptions,
    limits: Limits,
    timeouts: Timeouts,
    network: Network,
    downloads: Downloads,
    proxies: Proxies,
    keep_generations: NonZeroU32,
    boot_attempts: u32,
    watchdog: Option<Duration>,
    passed_over: Vec<String>,
}

impl Config {
    /// Reads files that together say what the machine is to be. Lists add up
    /// in the order of the files; a single value may be in one of them only.
    pub fn parse(sources: &[Source]) -> Result<Self, Problems> {
        let mut draft = Draft::default();
        let mut problems = Vec::new();
        for source in sources {
            draft.read(source, &mut problems);
        }
        draft.check(&mut problems);
        Problems::check(problems).map(|()| draft.finish())
    }

    /// In mount order: the last one is on top. No image occurs twice.
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    /// Whether it holds what is not for everybody to read.
    pub fn has_secrets(&self) -> bool {
        let Registries { credentials, tls, .. } = &self.registries;
        !credentials.is_empty()
            || tls.values().any(|tls| tls.client_identity.is_some())
            || self.proxies.has_password()
    }

    /// Kernel modules to load, in this order.
    pub fn modules(&self) -> &[KernelModule] {
        &self.modules
    }

    /// What `compatibility` of extensions is matched against, name to version.
    /// Empty where the base's os-release is to say it.
    pub fn host(&self) -> &BTreeMap<String, String> {
        &self.host
    }

    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn layer(&self) -> &LayerOptions {
        &self.layer
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    pub fn downloads(&self) -> &Downloads {
        &self.downloads
    }

    /// What the environment section says of proxies.
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The network and the clock of early boot.
    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn keep_generations(&self) -> NonZeroU32 {
        self.keep_generations
    }

    /// Boots of a generation that may be tried until one is blessed; 0 if
    /// none has to be.
    pub fn boot_attempts(&self) -> u32 {
        self.boot_attempts
    }

    /// How long an attempt may take before the hardware watchdog ends it.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Paths of what is for others and was not read, for one line of log.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }
}
