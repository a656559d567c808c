//! What the commands know of the machine: its configuration, its versions,
//! its architecture and its clock, read once and passed on.

use std::fs;
use std::io::{ErrorKind, Read};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::boot::{BASE, STATE};
use crate::cli;
use crate::config::{self, Compression, Config, Permission, Source};
use crate::error::Error;
use crate::fetch;
use crate::layer::changeset::ElfMachine;
use crate::layer::manifest::{Host, HostError};
use crate::layer::rules::{self, Rules, RulesHost};
use crate::layer::{Recipe, Verity, squashfs};
use crate::limits::read_at_most;
use crate::oci::Platform;
use crate::oci::registries::{Authorities, PROXY_VARIABLES, Proxies, ProxyError};
use crate::store::{Proof, open_regular};
use crate::sys::kmsg;
use crate::sys::mount;

/// What messages call a configuration that was given as `-`.
const STANDARD_INPUT: &str = "standard input";

/// Facts about the machine that extensions are for.
#[derive(Clone, Debug)]
pub struct Machine {
    pub platform: Platform,
    /// What `compatibility` is matched against.
    pub host: Host,
    /// What kernel modules are matched against.
    pub kernel: RulesHost,
}

impl Machine {
    /// The machine that a command's arguments describe: this one, except for
    /// what they say.
    pub fn from_arguments(arguments: &cli::Machine, config: &Config) -> Result<Self, Error> {
        let mut machine = Self::running(Path::new("/"), config)?;
        if let Some(architecture) = &arguments.arch {
            machine.platform = Platform::linux(architecture);
            machine.kernel = kernel(architecture, None);
        }
        for (name, version) in &arguments.hosts {
            let wrong_use = |error: HostError| Error::Usage(format!("--host: {}", kmsg::chain(&error)));
            machine.host.declare(name, version).map_err(wrong_use)?;
            // Another host has another kernel, which nobody has named.
            machine.kernel.kernel_release = None;
        }
        Ok(machine)
    }

    /// This machine with the base system at `root`: `plywood.host` of the
    /// configuration, else the base's os-release(5).
    pub fn running(root: &Path, config: &Config) -> Result<Self, Error> {
        let mut host = Host::default();
        for (name, version) in config.host() {
            host.declare(name, version)?;
        }
        if host.is_empty() {
            host = base_host(root);
        }
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let platform = Platform::host();
        let kernel = kernel(&platform.architecture, Some(release));
        Ok(Self { platform, host, kernel })
    }
}

fn kernel(architecture: &str, release: Option<String>) -> RulesHost {
    RulesHost { kernel_release: release, machine: ElfMachine::of_architecture(architecture) }
}

/// What os-release(5) says of the base; nothing where there is none.
fn base_host(root: &Path) -> Host {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        match fs::read(root.join(path)) {
            Ok(text) => return Host::from_os_release(&String::from_utf8_lossy(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => log::warn!("/{path} does not tell what the base is: {error}"),
        }
    }
    Host::default()
}

/// Reads configuration files that together are one configuration; `-` is what
/// standard input has.
pub fn load_config(paths: &[PathBuf]) -> Result<(Config, Vec<Source>), Error> {
    let is_input = |path: &&PathBuf| path.as_os_str() == "-";
    if paths.iter().filter(is_input).count() > 1 {
        return Err(Error::Usage("standard input can be read only once".into()));
    }
    let load = |path: &PathBuf| match is_input(&path) {
        true => Ok(Source { name: STANDARD_INPUT.into(), text: read_input(std::io::stdin().lock())? }),
        false => Ok(Source { name: path.display().to_string(), text: read_bounded(path)? }),
    };
    let sources = paths.iter().map(load).collect::<Result<Vec<_>, Error>>()?;
    let config = parse_config(&sources)?;
    Ok((config, sources))
}

/// Parses `sources` and says once what in them is for others.
pub fn parse_config(sources: &[Source]) -> Result<Config, Error> {
    let config = Config::parse(sources).map_err(Error::Config)?;
    if !config.passed_over().is_empty() {
        log::debug!("passed over in the configuration: {}", config.passed_over().join(", "));
    }
    Ok(config)
}

/// A file of configuration, if it is a regular one of bounded size.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let content = open_regular(path).and_then(|file| read_at_most(file, config::MAX_BYTES as u64));
    content.map_err(|source| Error::Read { path: path.into(), source })
}

/// What comes in until its end, of no more bytes than a file may have.
fn read_input(input: impl Read) -> Result<Vec<u8>, Error> {
    let content = read_at_most(input, config::MAX_BYTES as u64);
    content.map_err(|source| Error::Read { path: STANDARD_INPUT.into(), source })
}

/// What a configuration and a machine mean for the layers built for them.
pub fn recipe(config: &Config, machine: &Machine) -> Result<Recipe, Error> {
    Ok(Recipe {
        rules: rules(config)?,
        compression: compression(config.layer().compression),
        block_size: config.layer().block_size,
        verity: Verity::Write,
        limits: *config.limits(),
        host: machine.host.clone(),
        kernel: machine.kernel.clone(),
    })
}

/// Puts what the command line says about layers in place of what the
/// configuration says.
pub fn override_layer(recipe: &mut Recipe, arguments: &cli::Layer) -> Result<(), Error> {
    let wrong = |option| move |problem| Error::Usage(format!("{option}: {problem}"));
    if let Some(text) = &arguments.compression {
        recipe.compression = compression(config::parse_compression(text).map_err(wrong("--compression"))?);
    }
    if let Some(text) = &arguments.block_size {
        recipe.block_size = config::parse_block_size(text).map_err(wrong("--block-size"))?;
    }
    Ok(())
}

fn compression(configured: Compression) -> squashfs::Compression {
    match configured {
        Compression::None => squashfs::Compression::None,
        Compression::Gzip { level } => squashfs::Compression::Gzip { level },
        Compression::Lz4 => squashfs::Compression::Lz4,
        Compression::Xz => squashfs::Compression::Xz,
        Compression::Zstd { level } => squashfs::Compression::Zstd { level: level.cast_signed() },
    }
}

fn rules(config: &Config) -> Result<Rules, Error> {
    let permission = |permission| match permission {
        Permission::Deny => rules::Permission::Refuse,
        Permission::Allow => rules::Permission::Allow,
    };
    let mut rules = Rules::default();
    rules.hard_links = permission(config.rules().hard_links);
    rules.set_id = permission(config.rules().setuid);
    for path in &config.rules().allow {
        rules.allow(&path.to_string_lossy())?;
    }
    for name in &config.rules().xattrs {
        rules.allow_xattr(name)?;
    }
    Ok(rules)
}

/// How a generation of this configuration has to prove itself.
pub fn proof(config: &Config) -> Proof {
    Proof { attempts: config.boot_attempts(), time_limit: None }
}

/// Which image of several is for a machine, within its configuration's limits.
pub fn selection(config: &Config, machine: &Machine) -> fetch::Selection {
    fetch::Selection { platform: machine.platform.clone(), limits: *config.limits() }
}

/// How to reach registries: as the configuration says, with the system's root
/// certificates where there are any.
pub fn network(config: &Config) -> fetch::Network {
    let config::Timeouts { connect, first_byte, idle, total, longest_pause } = *config.timeouts();
    let config::Downloads { parallel, minimum_rate } = *config.downloads();
    let trusted = config.registries().trusted_roots.clone();
    let roots = fetch::Roots::new(|| {
        let mut roots = system_roots();
        roots.extend(trusted);
        roots
    });
    fetch::Network {
        timeouts: fetch::Timeouts {
            connect,
            first_byte,
            idle,
            total,
            longest_pause,
            ..fetch::Timeouts::default()
        },
        roots,
        proxies: config.proxies().clone(),
        downloads: fetch::Downloads { parallel, minimum_rate },
        images: NonZeroU32::MIN,
    }
}

/// The same for a command that a person runs: where the configuration says
/// nothing of proxies, the environment may.
pub fn network_by_hand(config: &Config) -> Result<fetch::Network, Error> {
    let mut network = network(config);
    if network.proxies == Proxies::default() {
        network.proxies = proxies_of_environment()?;
    }
    Ok(network)
}

fn proxies_of_environment() -> Result<Proxies, Error> {
    let mut proxies = Proxies::default();
    for variable in PROXY_VARIABLES {
        let upper = variable.to_ascii_uppercase();
        let Some(value) = std::env::var_os(variable).or_else(|| std::env::var_os(upper)) else { continue };
        let wrong = |error: ProxyError| Error::Usage(format!("the variable {variable}: {error}"));
        let value = value.to_str().ok_or_else(|| wrong(ProxyError::Url))?;
        proxies.set(variable, value).map_err(wrong)?;
    }
    Ok(proxies)
}

/// The same where no configuration is known yet.
pub fn network_before_config() -> fetch::Network {
    fetch::Network { roots: fetch::Roots::new(system_roots), ..fetch::Network::default() }
}

/// The certificates of the first bundle there is (Debian, Fedora, SUSE), else
/// the ones compiled in.
fn system_roots() -> Authorities {
    const BUNDLES: [&str; 3] =
        ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
    for path in BUNDLES {
        let Ok(pem) = fs::read_to_string(path) else { continue };
        let roots = Authorities::parse_bundle(&pem);
        if !roots.is_empty() {
            return roots;
        }
        log::warn!("{path} holds no usable certificate, ignored");
    }
    Authorities::compiled_in()
}

/// Where the store of a running machine is: where the command line says, else
/// where the boot found it, else where distributions keep state.
pub fn state_directory(arguments: &cli::State) -> PathBuf {
    let booted = Path::new(STATE);
    match &arguments.directory {
        Some(directory) => directory.clone(),
        None if booted.is_dir() => booted.into(),
        None => "/var/lib/plywood".into(),
    }
}

/// The base system of a running machine: below the overlay, where the boot
/// has kept it in view.
pub fn base() -> PathBuf {
    let base = Path::new(BASE);
    if mount::is_mount_point(base).unwrap_or(false) { base.into() } else { "/".into() }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
