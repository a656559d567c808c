//! The commands about single images: `pull`, `pack`, `unpack`, `validate`,
//! `inspect` and `build`.
//!
//! Each is the boot's flow, cut somewhere: `pull` stops after the image, `pack`
//! after the layer, `validate` prints what the rules say.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::slice::from_ref;

use super::build::{ImageOptions, write_image};
use super::credentials::add_auth_files;
use super::generations;
use super::list;
use super::machine::{self, Machine, recipe};
use super::obtain::Obtain;
use super::progress::Console;
use super::services;
use super::unpack;
use crate::cli;
use crate::config::Config;
use crate::error::Error;
use crate::fetch::{self, Content, Fetcher, Network, Resolved};
use crate::layer::rules::Violations;
use crate::layer::{self, BuildError, Builder, Cause, Recipe, Unfit, Verity};
use crate::oci::referrers::Referrer;
use crate::oci::{ImageSource, Registries, manifest};
use crate::store::{Layer, Store};
use crate::sys::leftover::Leftover;
use crate::text::Escaped;

/// A configuration, the machine it is for and a store to work in.
struct Workshop {
    config: Config,
    machine: Machine,
    recipe: Recipe,
    store: Store,
    registries: Registries,
    network: Network,
    console: Console,
}

impl Workshop {
    /// For work on `images`: the person's passwords are looked for only if one
    /// of them is in a registry.
    fn open(arguments: &cli::Machine, state: &Path, images: &[ImageSource]) -> Result<Self, Error> {
        let (config, _) = machine::load_config(&arguments.config)?;
        let machine = Machine::from_arguments(arguments, &config)?;
        // No layer is kept in the store that is made here.
        let recipe = Recipe { verity: Verity::Omit, ..recipe(&config, &machine)? };
        let network = machine::network_by_hand(&config)?;
        let mut registries = config.registries().clone();
        if images.iter().any(|image| matches!(image, ImageSource::Registry(_))) {
            add_auth_files(&mut registries, arguments.auth_file.as_deref())?;
        }
        Ok(Self {
            config,
            machine,
            recipe,
            store: Store::open(state)?,
            registries,
            network,
            console: Console::by_hand(),
        })
    }

    fn fetcher(&self) -> Fetcher<'_> {
        Fetcher::new(fetch::Machine {
            store: &self.store,
            registries: &self.registries,
            selection: machine::selection(&self.config, &self.machine),
            network: self.network.clone(),
            progress: &self.console,
        })
    }

    fn layer(&self, image: &ImageSource) -> Result<Layer, Error> {
        let fetcher = self.fetcher();
        let resolved = fetcher.resolve(image)?;
        let builder = Builder::new(&self.recipe, &self.store);
        Obtain::new(&fetcher, builder, &self.console, []).layer(resolved)
    }
}

/// How many names are tried for a scratch directory. One that is taken was
/// left by a process that was killed and had the same number.
const SCRATCH_ATTEMPTS: u32 = 100;

/// A store that is gone when the command ends.
pub struct Scratch(Leftover);

impl Scratch {
    /// In the directory for temporary files.
    pub fn temporary() -> Result<Self, Error> {
        Self::beside(&std::env::temp_dir().join("plywood"))
    }

    /// Beside `neighbour`, so that what is made there can be renamed to it.
    pub fn beside(neighbour: &Path) -> Result<Self, Error> {
        let directory = match neighbour.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut attempts = 0;
        loop {
            let path = directory.join(format!(".plywood-{}-{attempts}", std::process::id()));
            attempts += 1;
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(Leftover::new(path))),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempts < SCRATCH_ATTEMPTS => {}
                Err(source) => return Err(Error::Write { path, source }),
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// `plywood pull IMAGE…`: every blob verified, and what a registry has in the
/// store; changesets of a layout or archive stay where they are.
pub fn pull(arguments: &cli::Pull) -> Result<(), Error> {
    let state = machine::state_directory(&arguments.state);
    generations::refuse_newer(&state)?;
    let workshop = Workshop::open(&arguments.machine, &state, &arguments.images)?;
    let _lock = workshop.store.lock()?;
    workshop.store.check_formats()?;
    let fetcher = workshop.fetcher();
    for source in &arguments.images {
        let image = fetcher.fetch(fetcher.resolve(source)?)?;
        image.verify()?;
        let bytes = image.blobs().iter().map(|blob| blob.size()).sum();
        super::print(format_args!("{source}: {} ({})", image.digest(), list::size(bytes)))?;
    }
    Ok(())
}

/// `plywood pack IMAGE -o FILE`: the layer that a machine would build.
pub fn pack(arguments: &cli::Pack) -> Result<(), Error> {
    check_output(&arguments.output)?;
    if let Some(tree) = &arguments.verity {
        check_output(tree)?;
        if *tree == arguments.output {
            return Err(Error::Usage("the layer and its hash tree cannot be one file".into()));
        }
    }
    let scratch = Scratch::beside(&arguments.output)?;
    let mut workshop = Workshop::open(&arguments.machine, scratch.path(), from_ref(&arguments.image))?;
    machine::override_layer(&mut workshop.recipe, &arguments.layer)?;
    if arguments.verity.is_some() {
        workshop.recipe.verity = Verity::Write;
    }
    let layer = workshop.layer(&arguments.image)?;
    if let Some(tree) = &arguments.verity {
        layer.export_verity(tree)?;
    }
    layer.export(&arguments.output)?;
    let record = layer.record();
    super::print(format_args!(
        "{}: {}, {} inodes, {}, {}",
        arguments.output.display(),
        record.title(),
        record.inodes,
        list::size(record.size),
        record.digest,
    ))?;
    match (&arguments.verity, &record.verity_root) {
        (Some(tree), Some(root)) => {
            super::print(format_args!("{}: root hash {}", tree.display(), root.hex()))
        }
        _ => Ok(()),
    }
}

/// The layer is renamed to its place, which would take a device's node away
/// from the whole system, or `/dev/stdout`, which is a symlink.
pub fn check_output(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let source = io::Error::other("it is there and is not a regular file");
            Err(Error::Write { path: path.into(), source })
        }
        _ => Ok(()),
    }
}

/// `plywood unpack IMAGE DIR`: what `pack` would put into the layer, as files.
pub fn unpack(arguments: &cli::Unpack) -> Result<(), Error> {
    let directory = &arguments.directory;
    let failed = |source| Error::Write { path: directory.clone(), source };
    refuse_filled(directory).map_err(failed)?;
    let scratch = Scratch::beside(directory)?;
    let store = scratch.path().join("store");
    let workshop = Workshop::open(&arguments.machine, &store, from_ref(&arguments.image))?;
    let layer = workshop.layer(&arguments.image)?;
    let staged = scratch.path().join("tree");
    fs::create_dir(&staged).map_err(failed)?;
    let image = || arguments.image.to_string();
    unpack::unpack(&layer, layer.open()?, &staged)
        .map_err(|source| Error::Unpack { image: image(), source })?;
    // Takes the place of an empty directory only.
    fs::rename(&staged, directory).map_err(failed)?;
    super::print(format_args!("{}: {}", directory.display(), layer.record().title()))
}

/// Fails where something is in the way, before anything is fetched.
fn refuse_filled(directory: &Path) -> std::io::Result<()> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(std::io::ErrorKind::DirectoryNotEmpty.into()),
        },
    }
}

/// `plywood validate IMAGE|DIR|--config FILE`: every rule, all violations.
pub fn validate(arguments: &cli::Validate) -> Result<(), Error> {
    let result = match &arguments.target {
        Some(target) => validate_image(target, arguments),
        None => validate_config(&arguments.machine),
    };
    if arguments.json {
        let verdict = match &result {
            Ok(Valid { facts, .. }) => facts.clone(),
            Err(error) => refusal(error),
        };
        super::print(format_args!("{verdict:#}"))?;
    } else if let Ok(valid) = &result {
        super::print(&valid.text)?;
    }
    result.map(drop)
}

/// What is said of something valid: for people, and as JSON.
struct Valid {
    text: String,
    facts: serde_json::Value,
}

fn validate_config(machine: &cli::Machine) -> Result<Valid, Error> {
    let (config, _) = machine::load_config(&machine.config)?;
    let extensions = config.extensions().len();
    Ok(Valid {
        text: format!("the configuration is valid; extensions: {extensions}"),
        facts: serde_json::json!({ "valid": true, "extensions": extensions }),
    })
}

fn validate_image(target: &str, arguments: &cli::Validate) -> Result<Valid, Error> {
    let is_path = Path::new(target).is_dir() || target.starts_with(['.', '/']);
    let image = if is_path {
        ImageSource::Directory(target.into())
    } else {
        let not_either = |error| Error::Usage(format!("{target} is no directory, and as an image: {error}"));
        target.parse().map_err(not_either)?
    };
    let scratch = Scratch::temporary()?;
    let workshop = Workshop::open(&arguments.machine, scratch.path(), from_ref(&image))?;
    let layer = workshop.layer(&image)?;
    let record = layer.record();
    let mut text = format!("{image}: {} is valid", record.title());
    let states_compatibility =
        layer::manifest_of(&layer).is_ok_and(|m| !m.metadata().compatibility.is_empty());
    if !states_compatibility {
        text += "\nnote: it does not say what it is compatible with";
    }
    let services = services::of_layer(&layer)?;
    for line in services::lines(&services) {
        text += "\n";
        text += &line;
    }
    let facts = serde_json::json!({
        "valid": true,
        "name": record.name,
        "version": record.version,
        "statesCompatibility": states_compatibility,
        "services": services::facts(&services),
    });
    Ok(Valid { text, facts })
}

/// Why an image is not valid, for machines: every violation, if it got as far
/// as the rules. Paths and messages are escaped.
fn refusal(error: &Error) -> serde_json::Value {
    let violations = match error {
        Error::Build(BuildError {
            source: Cause::Rules(violations) | Cause::RulesAndManifest(violations, _),
            ..
        }) => Some(violations),
        _ => None,
    };
    let listed: Vec<_> = violations
        .into_iter()
        .flat_map(Violations::iter)
        .map(|violation| {
            serde_json::json!({
                "path": Escaped::new(&violation.path).to_string(),
                "rule": violation.rule.id(),
                "message": violation.rule.to_string(),
                "changeset": violation.changeset,
            })
        })
        .collect();
    serde_json::json!({
        "valid": false,
        "error": error.chain(),
        "violations": listed,
        "omitted": violations.map_or(0, Violations::omitted),
    })
}

/// `plywood inspect IMAGE`: what an image is made of.
pub fn inspect(arguments: &cli::Inspect) -> Result<(), Error> {
    let scratch = Scratch::temporary()?;
    let workshop = Workshop::open(&arguments.machine, scratch.path(), from_ref(&arguments.image))?;
    let fetcher = workshop.fetcher();
    let resolved = fetcher.resolve(&arguments.image)?;
    let referrers = match arguments.referrers {
        true => Some(referrers(&fetcher, &resolved)?),
        false => None,
    };
    let image = fetcher.fetch(resolved)?;
    let services = match arguments.services {
        true => Some(services::of_layer(&workshop.layer(&arguments.image)?)?),
        false => None,
    };
    let changesets: Vec<_> = image
        .changesets()
        .iter()
        .map(|changeset| {
            serde_json::json!({
                "digest": changeset.blob().digest(),
                "size": changeset.blob().size(),
                "diffId": changeset.diff_id(),
                "compression": changeset.compression(),
            })
        })
        .collect();
    let squashfs = match image.content() {
        Content::Squashfs(blob) => Some(blob),
        Content::Changesets(_) => None,
    };
    let mut report = serde_json::json!({
        "image": image.source().to_string(),
        "digest": image.digest(),
        "platform": workshop.machine.platform,
        "chainId": image.chain_id(),
        "layerKey": workshop.recipe.key(image.chain_id()),
        "changesets": changesets,
        "squashfs": squashfs.map(|blob| serde_json::json!({ "digest": blob.digest(), "size": blob.size() })),
    });
    if let Some(referrers) = &referrers {
        report["referrers"] = serde_json::json!(referrers);
    }
    if let Some(services) = &services {
        report["services"] = services::facts(services);
    }
    if arguments.json {
        return super::print(format_args!("{report:#}"));
    }
    let mut lines = vec![
        image.source().to_string(),
        format!("  manifest   {}", image.digest()),
        format!("  platform   {}", workshop.machine.platform),
        format!("  chain ID   {}", image.chain_id()),
        format!("  layer key  {}", workshop.recipe.key(image.chain_id())),
    ];
    for changeset in image.changesets() {
        let size = list::size(changeset.blob().size());
        lines.push(format!("  changeset  {} ({size})", changeset.blob().digest()));
        lines.extend(changeset.diff_id().map(|diff_id| format!("    diff ID  {diff_id}")));
    }
    if let Some(blob) = squashfs {
        lines.push(format!("  squashfs   {} ({})", blob.digest(), list::size(blob.size())));
    }
    for referrer in referrers.into_iter().flatten() {
        let kind = referrer.artifact_type.as_deref().unwrap_or(&referrer.media_type);
        lines.push(format!("  referrer   {} {}", referrer.digest, Escaped::new(kind)));
    }
    lines.extend(
        services.iter().flat_map(|services| services::lines(services)).map(|line| format!("  {line}")),
    );
    super::print(lines.join("\n"))
}

/// What refers to the manifest of an image, or to the index that leads there.
fn referrers(fetcher: &Fetcher, resolved: &Resolved) -> Result<Vec<Referrer>, Error> {
    let mut subjects = vec![resolved.digest()];
    subjects.extend(resolved.documents().first().filter(|top| *top != resolved.digest()));
    let mut found = Vec::new();
    for subject in subjects {
        found.extend(fetcher.referrers(resolved.source(), subject)?);
    }
    Ok(found)
}

/// `plywood build DIR -o oci:OUT[:TAG]`: a directory into an image, after
/// every rule was checked.
pub fn build(arguments: &cli::Build) -> Result<(), Error> {
    let ImageSource::OciLayout { directory: layout, name } = &arguments.output else {
        return Err(Error::Usage(format!(
            "cannot write {}: an image is written to oci:DIR[:TAG]",
            arguments.output
        )));
    };
    let scratch = Scratch::temporary()?;
    let image = ImageSource::Directory(arguments.directory.clone());
    let workshop = Workshop::open(&arguments.machine, scratch.path(), from_ref(&image))?;
    let layer = workshop.layer(&image)?;
    let unfit = |problems| Error::Unfit {
        image: arguments.directory.display().to_string(),
        source: Unfit::Manifest(problems),
    };
    let metadata = layer::manifest_of(&layer).map_err(unfit)?.metadata().clone();
    let options = ImageOptions {
        platform: &workshop.machine.platform,
        mtime: source_date_epoch()?,
        tag: name.as_deref().unwrap_or("latest"),
        annotations: vec![
            (manifest::ANNOTATION_TITLE, metadata.name.clone()),
            (manifest::ANNOTATION_VERSION, metadata.version.clone()),
            (manifest::ANNOTATION_DESCRIPTION, metadata.description.clone()),
        ],
    };
    let digest = write_image(&arguments.directory, layout, &options)?;
    super::print(format_args!("{}: {}, {digest}", arguments.output, layer.record().title()))
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), else 1970.
fn source_date_epoch() -> Result<u32, Error> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Ok(0),
        Ok(text) => text.parse().map_err(|_| {
            Error::Usage(format!("SOURCE_DATE_EPOCH `{}` is not a number of seconds", Escaped::new(&text)))
        }),
    }
}
