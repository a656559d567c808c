//! What the files said so far, each value with its place.
//!
//! A [`Draft`] is filled document by document and becomes the
//! [`Config`](super::Config) once nothing is wrong. Nothing is overridden
//! silently: what is given a second time is a problem that names the first.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::network::{AfterBoot, Network};
use super::settings::{
    Compression, Downloads, Extension, Hierarchies, KernelModule, LayerOptions, OnFailure, Overlay,
    Permission, Rules, Timeouts, Writable,
};
use super::{Config, MAX_BYTES, Problem, Source, machine, registries};
use crate::limits::{Bound, Limits};
use crate::oci::ImageSource;
use crate::oci::registries::{Authorities, Credentials, Mirror, Proxies, Registries, Tls};
use crate::text::Escaped;
use crate::yaml::{self, Cursor, Place, Report};

/// A value and where it was given.
pub(super) struct Given<T> {
    pub value: T,
    pub place: Place,
    pub path: String,
}

/// A value that may be given once over all files.
pub(super) type Setting<T> = Option<Given<T>>;

/// Values by a name that may be given once over all files.
pub(super) type Named<T> = BTreeMap<String, Given<T>>;

/// An extension whose defaults are not known yet.
pub(super) struct ExtensionDraft {
    pub image: ImageSource,
    pub on_failure: Option<OnFailure>,
    pub overrides: Vec<PathBuf>,
}

#[derive(Default)]
pub(super) struct Draft {
    pub extensions: Vec<Given<ExtensionDraft>>,
    pub mirrors: Named<Mirror>,
    pub credentials: Named<Credentials>,
    pub tls: Named<Tls>,
    pub trusted_roots: Named<Authorities>,
    pub modules: Vec<Given<KernelModule>>,
    pub host: Named<String>,
    pub hierarchies: Setting<Hierarchies>,
    pub writable: Setting<Writable>,
    pub allow: Vec<PathBuf>,
    pub setuid: Setting<Permission>,
    pub hard_links: Setting<Permission>,
    pub xattrs: Vec<String>,
    pub compression: Setting<Compression>,
    pub block_size: Setting<u32>,
    pub limits: [Setting<u64>; Bound::ALL.len()],
    pub connect: Setting<Duration>,
    pub idle: Setting<Duration>,
    pub total: Setting<Duration>,
    pub network_timeout: Setting<Duration>,
    pub after_boot: Setting<AfterBoot>,
    pub time_servers: Vec<String>,
    pub first_byte: Setting<Duration>,
    pub longest_pause: Setting<Duration>,
    pub parallel: Setting<NonZeroU32>,
    pub minimum_rate: Setting<u64>,
    pub environment: Named<()>,
    pub proxies: Proxies,
    pub keep_generations: Setting<NonZeroU32>,
    pub boot_attempts: Setting<u32>,
    pub watchdog: Setting<Duration>,
    pub on_failure: Setting<OnFailure>,
    pub passed_over: Vec<String>,
}

/// Reads a setting with `read`, unless it was given before.
pub(super) fn once<'r, T>(
    slot: &mut Setting<T>,
    at: Option<Cursor<'r>>,
    read: impl FnOnce(&Cursor<'r>) -> Option<T>,
) {
    let Some(at) = at else { return };
    match slot {
        Some(earlier) => at.problem(format!("this is already set at {}", earlier.place)),
        None => *slot = read(&at).map(|value| given(&at, value)),
    }
}

/// Adds a named value, unless the name was given before.
pub(super) fn add<T>(values: &mut Named<T>, name: String, at: &Cursor<'_>, value: T) {
    match values.get(&name) {
        Some(earlier) => at.problem(format!("{} is already set at {}", Escaped::new(&name), earlier.place)),
        None => drop(values.insert(name, given(at, value))),
    }
}

pub(super) fn given<T>(at: &Cursor<'_>, value: T) -> Given<T> {
    Given { value, place: at.place(), path: at.path().into() }
}

impl Draft {
    /// Reads all documents of a file.
    pub fn read(&mut self, source: &Source, problems: &mut Vec<Problem>) {
        let report = Report::new(&source.name);
        self.read_documents(source, &report);
        problems.extend(report.finish());
    }

    pub fn read_documents(&mut self, source: &Source, report: &Report) {
        let documents = yaml::parse(source, MAX_BYTES, report);
        if report.is_empty() && documents.iter().all(|document| document.is_null()) {
            // More likely a file cut short than a wish to have no extensions.
            report.problem((1, 1), "", "this file holds no configuration");
        }
        for document in documents.iter().filter(|document| !document.is_null()) {
            self.read_document(&Cursor::root(document, report));
        }
    }

    fn read_document(&mut self, document: &Cursor<'_>) {
        let Some(fields) = document.fields() else { return };
        match document.peek("kind") {
            None => machine::read(fields, self),
            Some("RegistryMirrorConfig") => registries::read_mirror_document(fields, self),
            Some("RegistryAuthConfig") => registries::read_auth_document(fields, self),
            Some("RegistryTLSConfig") => registries::read_tls_document(fields, self),
            Some("TrustedRootsConfig") => registries::read_trusted_roots(fields, self),
            Some("EnvironmentConfig") => machine::read_environment_document(fields, self),
            Some("KernelModuleConfig") => machine::read_module_document(fields, self),
            Some(kind) => self.passed_over.push(format!("kind {}", Escaped::new(kind))),
        }
    }

    /// Checks what single values cannot show.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        for (authority, tls) in &self.tls {
            let plain = format!("http://{authority}");
            let is_plain = |url: &str| {
                url.strip_prefix(&plain).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let endpoints = || self.mirrors.values().flat_map(|mirror| &mirror.value.endpoints);
            if endpoints().any(|endpoint| is_plain(&endpoint.url)) {
                let message = format!("the endpoint {} does not use TLS", Escaped::new(&plain));
                problems.push(Problem { place: tls.place.clone(), path: tls.path.clone(), message });
            }
        }
    }

    /// The configuration, with defaults where nothing was given.
    pub fn finish(self) -> Config {
        let on_failure = value_or_default(self.on_failure);
        let extension = |draft: ExtensionDraft| Extension {
            image: draft.image,
            on_failure: draft.on_failure.unwrap_or(on_failure),
            overrides: draft.overrides,
        };
        let mut trusted_roots = Authorities::default();
        for authorities in self.trusted_roots.into_values() {
            trusted_roots.extend(authorities.value);
        }
        let (layer, timeouts, downloads) =
            (LayerOptions::default(), Timeouts::default(), Downloads::default());
        Config {
            extensions: self.extensions.into_iter().map(|given| extension(given.value)).collect(),
            registries: Registries {
                mirrors: values(self.mirrors),
                credentials: values(self.credentials),
                tls: values(self.tls),
                trusted_roots,
            },
            modules: self.modules.into_iter().map(|given| given.value).collect(),
            host: values(self.host),
            overlay: Overlay {
                hierarchies: value_or_default(self.hierarchies),
                writable: value_or_default(self.writable),
            },
            rules: Rules {
                allow: self.allow,
                setuid: value_or_default(self.setuid),
                hard_links: value_or_default(self.hard_links),
                xattrs: self.xattrs,
            },
            layer: LayerOptions {
                compression: value_or(self.compression, layer.compression),
                block_size: value_or(self.block_size, layer.block_size),
            },
            limits: limits(self.limits),
            timeouts: Timeouts {
                connect: value_or(self.connect, timeouts.connect),
                idle: value_or(self.idle, timeouts.idle),
                total: value_or(self.total, timeouts.total),
                first_byte: value_or(self.first_byte, timeouts.first_byte),
                longest_pause: value_or(self.longest_pause, timeouts.longest_pause),
            },
            downloads: Downloads {
                parallel: value_or(self.parallel, downloads.parallel),
                minimum_rate: value_or(self.minimum_rate, downloads.minimum_rate),
            },
            proxies: self.proxies,
            network: Network {
                timeout: value_or(self.network_timeout, Network::default().timeout),
                after_boot: value_or_default(self.after_boot),
                time_servers: self.time_servers,
            },
            keep_generations: value_or(self.keep_generations, DEFAULT_KEEP_GENERATIONS),
            boot_attempts: value_or(self.boot_attempts, DEFAULT_BOOT_ATTEMPTS),
            watchdog: self.watchdog.map(|given| given.value),
            passed_over: self.passed_over,
        }
    }
}

const DEFAULT_BOOT_ATTEMPTS: u32 = 3;
const DEFAULT_KEEP_GENERATIONS: NonZeroU32 = NonZeroU32::new(3).unwrap();

fn values<T>(named: Named<T>) -> BTreeMap<String, T> {
    named.into_iter().map(|(name, given)| (name, given.value)).collect()
}

fn limits(given: [Setting<u64>; Bound::ALL.len()]) -> Limits {
    Bound::ALL.into_iter().zip(given).fold(Limits::default(), |limits, (bound, given)| match given {
        Some(given) => limits.with(bound, given.value),
        None => limits,
    })
}

fn value_or<T>(setting: Setting<T>, default: T) -> T {
    setting.map_or(default, |given| given.value)
}

fn value_or_default<T: Default>(setting: Setting<T>) -> T {
    value_or(setting, T::default())
}
