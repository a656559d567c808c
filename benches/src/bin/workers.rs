//! Builds a layer as on a machine with more cores than this one:
//! `workers COUNT LAYOUT STATE`, with so many threads that compress.
//!
//! Out: the digest of the layer, which is the same for any count.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;

use plywood::fetch::{Fetcher, Machine, Network, Selection, Silent};
use plywood::layer::manifest::Host;
use plywood::layer::rules::{Rules, RulesHost};
use plywood::layer::squashfs::{Compression, Options, Workers};
use plywood::layer::{Builder, Recipe, Verity};
use plywood::limits::Limits;
use plywood::oci::{ImageSource, Platform, Registries};
use plywood::store::Store;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [count, layout, state] = &arguments[..] else {
        return Err("usage: workers COUNT LAYOUT STATE".into());
    };
    let store = Store::open(Path::new(state))?;
    let registries = Registries::default();
    let fetcher = Fetcher::new(Machine {
        store: &store,
        registries: &registries,
        selection: Selection::of(Platform::linux("amd64")),
        network: Network::default(),
        progress: &Silent,
    });
    let source: ImageSource = format!("oci:{layout}").parse()?;
    let image = fetcher.stream(fetcher.resolve(&source)?)?;
    let recipe = Recipe {
        rules: Rules::default(),
        compression: Compression::default(),
        block_size: Options::DEFAULT_BLOCK_SIZE,
        verity: Verity::Write,
        limits: Limits::default(),
        host: Host::default(),
        kernel: RulesHost::default(),
    };
    let workers = Workers::new(count.parse::<NonZeroUsize>()?);
    let layer = Builder::new(&recipe, &store).with_workers(workers).build(&image)?;
    println!("{}", layer.record().digest);
    Ok(())
}
