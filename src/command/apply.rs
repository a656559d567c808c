//! `plywood apply`: on the running machine, the next generation.

use super::assemble::Assembly;
use super::credentials::add_auth_files;
use super::images::Scratch;
use super::machine::{self, Machine};
use crate::cli;
use crate::error::Error;
use crate::store::{Origin, Store};

/// Prepares the generation that `arguments` ask for; the next boot mounts it.
pub fn run(arguments: &cli::Apply) -> Result<(), Error> {
    let (config, sources) = machine::load_config(&arguments.files)?;
    let machine = Machine::running(std::path::Path::new("/"), &config)?;
    let directory = machine::state_directory(&arguments.state);
    // A dry run makes no store; without one it plans for an empty one.
    let scratch = match arguments.dry_run && !directory.exists() {
        true => Some(Scratch::beside(&std::env::temp_dir().join("plywood"))?),
        false => None,
    };
    let store = Store::open(scratch.as_ref().map_or(&directory, Scratch::path))?;
    let lock = store.lock()?;
    let recipe = machine::recipe(&config, &machine)?;
    let mut registries = config.registries().clone();
    if let Some(file) = &arguments.auth_file {
        add_auth_files(&mut registries, Some(file))?;
    }
    let assembly = Assembly {
        recipe: &recipe,
        store: &store,
        config: &config,
        sources: &sources,
        machine: &machine,
        registries: &registries,
        network: &machine::network_by_hand(&config)?,
        origin: Origin::Apply,
        proof: machine::proof(&config),
        now: machine::now(),
    };
    let before = store.current()?;
    let plan = assembly.plan(before.and_then(|number| store.generation_record(number).ok()));
    if arguments.dry_run {
        return super::print(plan.to_string().trim_end());
    }
    let generation = assembly.perform(&plan, &lock, &mut || Ok(()))?;
    let number = generation.number();
    if before == Some(number) {
        super::print(format_args!("nothing to do: generation {number} has it all"))
    } else {
        super::print(format_args!("generation {number} is ready; it runs after the next boot"))
    }
}
