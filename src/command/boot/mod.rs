//! `plywood boot`: from the initramfs to the machine's own init.
//!
//! In: devices, the kernel command line, a configuration. Out: the merged
//! root, and init running in it. Invariants: what fails on the way is decided
//! on in one place, [`Boot::mount_first_that_works`]; process 1 never returns
//! and never panics out.

mod clock;
mod emergency;
mod hook;
mod network;
mod overlay;
mod remote;
mod report;
mod root;
mod sources;
mod state;
mod timeline;
mod top;
mod trial;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::assemble::{self, Assembly};
use super::generations::source_of;
use super::list::Report;
use super::machine::{self, Machine};
use super::shutdown;
use crate::config::cmdline::{BootParameters, CommandLine, Parameter};
use crate::config::{AfterBoot, Config, KernelModule, Source};
use crate::error::Error;
use crate::layer;
use crate::mount::Attached;
use crate::oci::Digest;
use crate::store::{Generation, GenerationRecord, LayerKey, Origin, Store, Trials};
use crate::sys::firmware::SearchPath;
use crate::sys::kmsg::{self, Target};
use crate::sys::loopdev::LoopDevice;
use crate::sys::module::Modules;
use crate::sys::switch_root::{NewRoot, Pivot};
use emergency::Fate;
pub use hook::hook;
use network::Connection;
pub use overlay::BASE;
use root::SYSROOT;
pub use state::STATE;
use timeline::Timeline;
use trial::{Candidate, Failure};

/// What the kernel tries when the command line names no init.
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// What every overlay of layers needs.
const NEEDED_MODULES: [&str; 3] = ["loop", "squashfs", "overlay"];

/// A machine on its way up.
pub struct Boot {
    line: CommandLine,
    parameters: BootParameters,
    modules: Modules,
    timeline: Timeline,
    /// Loop devices that have to outlive the mounts made on them.
    kept: Vec<LoopDevice>,
    /// Where the base is, and then the merged root.
    root: PathBuf,
    /// The open state directory, once it was needed.
    store: Option<Rc<Store>>,
    /// Opening the state directory failed; to try again would be to wait again.
    has_no_store: bool,
    /// What boots have shown of generations.
    trials: Trials,
    /// How long an attempt of the booted generation may take.
    watchdog: Option<Duration>,
    /// What the booted generation's configuration asks for.
    configured_modules: Vec<KernelModule>,
    /// What it wants done with the network in the end.
    after_boot: AfterBoot,
    connection: Connection,
    has_asked_time: bool,
    /// Firmware of the layers, for drivers that start before init does.
    firmware: Option<SearchPath>,
}

/// Process 1 in an initramfs. Never returns: a boot that cannot go on ends in
/// an emergency.
pub fn init() -> ! {
    let parameters = wake();
    let fate = Fate::of(&parameters.1);
    std::panic::set_hook(Box::new(move |panic| {
        // The default hook would return, and process 1 with it.
        emergency::end(&format!("this is a bug in plywood: {panic}"), fate);
    }));
    let Err(error) = Boot::new(parameters).and_then(Boot::run);
    emergency::end(&error.chain(), fate)
}

/// Makes the process able to see and say something.
fn wake() -> (CommandLine, BootParameters) {
    let mounts = crate::sys::mount::mount_api_filesystems(Path::new("/"));
    let line = read_command_line();
    let parameters = BootParameters::new(&line);
    kmsg::init(parameters.log_level, Target::Kernel);
    for error in mounts.err().into_iter().flatten() {
        log::warn!("{error}");
    }
    log::info!("plywood {} is init", env!("CARGO_PKG_VERSION"));
    (line, parameters)
}

fn read_command_line() -> CommandLine {
    match fs::read("/proc/cmdline") {
        Ok(text) => CommandLine::parse(&text),
        Err(error) => {
            log::warn!("cannot read /proc/cmdline, taken as empty: {error}");
            CommandLine::parse(b"")
        }
    }
}

/// The parameters of the command line as other modules take them.
fn pairs(line: &CommandLine) -> Vec<(&str, &str)> {
    fn pair(parameter: &Parameter) -> (&str, &str) {
        (&parameter.key, parameter.value.as_deref().unwrap_or_default())
    }
    line.parameters().iter().map(pair).collect()
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

impl Boot {
    fn new((line, parameters): (CommandLine, BootParameters)) -> Result<Self, Error> {
        for warning in &parameters.warnings {
            log::warn!("{warning}");
        }
        let modules = Modules::open(Path::new("/"), &kernel_release(), &pairs(&line))
            .map_err(|error| Error::Boot { what: "read the kernel modules".into(), source: error.into() })?;
        let timeline = Timeline::start();
        Ok(Self {
            line,
            parameters,
            modules,
            timeline,
            kept: Vec::new(),
            root: SYSROOT.into(),
            store: None,
            has_no_store: false,
            trials: Trials::default(),
            watchdog: None,
            configured_modules: Vec::new(),
            after_boot: AfterBoot::default(),
            connection: Connection::Untried,
            has_asked_time: false,
            firmware: None,
        })
    }

    /// The whole boot, in order.
    fn run(mut self) -> Result<Infallible, Error> {
        self.load_modules();
        self.timeline.done("modules");
        // Later than the driver of the hardware clock, which sets it too.
        clock::settle();
        self.mount_root()?;
        self.timeline.done("root");
        self.bring_up_needed_network();
        let Mounted { new_root, report, overlays } = self.mount_first_that_works()?;
        self.load_configured_modules();
        self.leave_network();
        self.firmware = None;
        shutdown::prepare(&self.root, &overlays, &[STATE, BASE]);
        self.keep_report(&report);
        // What the kernel made of its command line for its first process:
        // words it does not know, and what follows `--`.
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let environment: Vec<_> = std::env::vars_os().collect();
        log::info!("handing off");
        let failed = |error| Error::Boot { what: "hand off".into(), source: Box::new(error) };
        new_root.perform(&arguments, &environment, Pivot::Auto).map_err(failed)
    }

    fn load_modules(&mut self) {
        for error in self.modules.load_early() {
            log::warn!("{error}");
        }
        let loaded = self.modules.coldplug();
        log::info!("loaded drivers for {loaded} devices");
        for module in NEEDED_MODULES {
            self.load_module(module);
        }
    }

    /// Loads a module that something later needs; if it is really missing,
    /// that later step fails with its own reason.
    fn load_module(&mut self, name: &str) {
        if let Err(error) = self.modules.load(name, "") {
            log::debug!("{error}");
        }
    }

    /// Loads `machine.kernel.modules` in their order, from the merged root,
    /// so that extensions can bring them.
    fn load_configured_modules(&mut self) {
        if self.configured_modules.is_empty() {
            return;
        }
        let pairs = pairs(&self.line);
        let modules = Modules::open(&self.root, &kernel_release(), &pairs);
        let mut modules = match modules {
            Ok(modules) => modules,
            Err(error) => return log::warn!("machine.kernel.modules: {}", kmsg::chain(&error)),
        };
        for module in &self.configured_modules {
            match modules.load(&module.name, &module.parameters.join(" ")) {
                Ok(_) => log::info!("loaded module {}", module.name),
                Err(error) => log::warn!("machine.kernel.modules: {}", kmsg::chain(&error)),
            }
        }
        self.timeline.done("kernel modules");
    }

    /// Tries what is to boot, best first, and takes what works: the only
    /// place that decides what to do about a failure. What is at `root` when
    /// this returns has an init that can start.
    fn mount_first_that_works(&mut self) -> Result<Mounted, Error> {
        let mut failures = Vec::new();
        for candidate in self.candidates(&mut failures) {
            match self.attempt(candidate) {
                Ok(mut mounted) => {
                    if candidate == Candidate::Plain && !failures.is_empty() {
                        log::warn!("booting the plain root, without extensions");
                    }
                    self.conclude(&failures);
                    mounted.report.failures = failures.into_iter().map(|failure| failure.text).collect();
                    self.timeline.done("mount");
                    return Ok(mounted);
                }
                Err(error) => failures.push(Failure::of(candidate, &error)),
            }
        }
        Err(Error::NotBootable("nothing that may be booted works; see above".into()))
    }

    /// Mounts what `candidate` stands for at the root. Nothing of a failed
    /// attempt is left.
    fn attempt(&mut self, candidate: Candidate) -> Result<Mounted, Error> {
        self.forget_wishes();
        let Candidate::Generation(choice) = candidate else {
            return self.finish(Report::default(), None, &INITS);
        };
        let mut generation = self.store()?.generation(choice.number)?;
        let config = machine::parse_config(&[source_of(choice.number, generation.config()?)])?;
        self.check_fits(&generation, &config)?;
        self.count(choice)?;
        let inits = self.own_inits();
        let mut overlay = self.mount(&generation, &config);
        if trial::is_wanted(choice)
            && let Err(Error::Layer(error)) = &overlay
            && let Some(key) = error.damaged()
        {
            log::warn!("{}; making it again", kmsg::chain(error));
            match self.remake(&generation, key) {
                Ok(()) => {
                    generation = self.store()?.generation(choice.number)?;
                    overlay = self.mount(&generation, &config);
                }
                // The damage is the reason then, and stays.
                Err(error) => log::warn!("it cannot be made again: {}", error.chain()),
            }
        }
        let mut report = report::of(&generation, |entry, layer| self.is_skipped(entry, layer));
        report.trial = report::trial(choice.count, &generation.record().proof);
        if let Some(trial) = &mut report.trial {
            trial.watchdog = self.watchdog.map(|time| time.as_secs());
        }
        self.finish(report, overlay?, &inits)
    }

    /// What an earlier attempt asked for must not outlive its root.
    fn forget_wishes(&mut self) {
        self.firmware = None;
        self.configured_modules.clear();
        self.watchdog = None;
        self.after_boot = AfterBoot::default();
    }

    /// Fails unless the base is still one that the extensions of `generation`
    /// are for: it may have been upgraded since.
    fn check_fits(&self, generation: &Generation, config: &Config) -> Result<(), Error> {
        let recipe = machine::recipe(config, &Machine::running(&self.root, config)?)?;
        let mounted = generation.layers().iter().filter(|(entry, layer)| !self.is_skipped(entry, layer));
        for (entry, layer) in mounted {
            layer::check_fits(layer, &recipe)
                .map_err(|source| Error::Unfit { image: entry.source.clone(), source })?;
        }
        Ok(())
    }

    /// Makes a damaged layer of `generation` again, from its configuration
    /// wherever that came from: without all its layers the store does not
    /// open it any more.
    fn remake(&mut self, generation: &Generation, key: &LayerKey) -> Result<(), Error> {
        self.remove_layer(key)?;
        let source = source_of(generation.number(), generation.config()?);
        let record = generation.record();
        self.assemble(record.origin, &[source], Some(record.clone())).map(drop)
    }

    fn remove_layer(&mut self, key: &LayerKey) -> Result<(), Error> {
        let store = self.store()?;
        Ok(store.remove_layer(&store.lock()?, key)?)
    }

    /// Checks that the root at hand can be handed off to; takes the overlay
    /// away again if it cannot.
    fn finish(&self, report: Report, overlay: Option<Attached>, inits: &[&str]) -> Result<Mounted, Error> {
        match self.find_init(inits) {
            Ok(new_root) => {
                let overlays = overlay.map(|overlay| overlay.mount_points().to_vec()).unwrap_or_default();
                Ok(Mounted { new_root, report, overlays })
            }
            Err(error) => {
                overlay.into_iter().for_each(Attached::detach);
                Err(error)
            }
        }
    }

    /// The generation that the configuration asks for, assembled now if it is
    /// not in the store. `None` without a configuration.
    fn configured(&mut self) -> Result<Option<u32>, Error> {
        let store = self.store()?;
        let current = store.current_if_readable();
        // Neither a damaged generation nor its missing layers keep a new one
        // from being made.
        let record = current.and_then(|number| store.generation_record(number).ok());
        let applied = store.applied_config();
        if applied.is_none() && self.parameters.config.is_none() && store.has_lost_choice() {
            let lost = "what was applied last cannot be read, and what came before it is booted instead";
            return Err(Error::NotBootable(lost.into()));
        }
        let (origin, sources) = self.find_config(applied)?;
        if sources.is_empty() {
            log::info!("no configuration found");
            return Ok(None);
        }
        let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
        log::info!("configuration: {}", names.join(", "));
        // Others may be of the same configuration; which one is meant is known.
        let bad = match origin {
            Origin::Apply => {
                current.filter(|number| store.trials().is_ok_and(|it| it.why_bad(*number).is_some()))
            }
            Origin::Boot => bad_generation_of(&store, &sources),
        };
        if let Some(number) = bad {
            return Ok(Some(number));
        }
        self.assemble(origin, &sources, record).map(|generation| Some(generation.number()))
    }

    /// Who asked for the generation stays its origin when it is made again,
    /// so that an applied configuration keeps the last word.
    fn assemble(
        &mut self,
        origin: Origin,
        sources: &[Source],
        current: Option<GenerationRecord>,
    ) -> Result<Generation, Error> {
        let config = machine::parse_config(sources)?;
        let machine = Machine::running(&self.root, &config)?;
        let store = self.store()?;
        let lock = store.lock()?;
        let recipe = machine::recipe(&config, &machine)?;
        // What is made again is on trial as before.
        let proof = match (origin, &current) {
            (Origin::Apply, Some(record)) => record.proof,
            _ => machine::proof(&config),
        };
        let assembly = Assembly {
            recipe: &recipe,
            store: &store,
            config: &config,
            sources,
            machine: &machine,
            registries: config.registries(),
            network: &machine::network(&config),
            base: &self.root.clone(),
            notes: &store,
            origin,
            proof,
            now: machine::now(),
        };
        let plan = assembly.plan(current.as_ref(), BTreeMap::new());
        self.timeline.done("plan");
        let generation = assembly.perform(&plan, &lock, &mut || self.connect(config.network()))?;
        self.timeline.done("layers");
        Ok(generation)
    }

    /// The init of the root at hand, before anything is mounted over it: what
    /// extensions make of it has to start, too. Without one they have to
    /// bring one, but the kernel's last resort is no system.
    fn own_inits(&self) -> Vec<&'static str> {
        let starts = |init: &&&str| NewRoot::check(&self.root, Path::new(init)).is_ok();
        match INITS.iter().find(starts) {
            Some(init) => vec![init],
            None => INITS[..INITS.len() - 1].to_vec(),
        }
    }

    /// The init that will run, checked inside the root at hand.
    fn find_init(&self, inits: &[&str]) -> Result<NewRoot, Error> {
        let failed = Error::NoInit;
        if let Some(init) = &self.parameters.init {
            return NewRoot::check(&self.root, init).map_err(failed);
        }
        let mut checked = inits.iter().map(|init| NewRoot::check(&self.root, Path::new(init)));
        // The first failure is the telling one: the others are fallbacks.
        match checked.next() {
            Some(Err(error)) => checked.find_map(Result::ok).ok_or_else(|| failed(error)),
            Some(Ok(found)) => Ok(found),
            None => Err(Error::NotBootable("no init is known".into())),
        }
    }
}

/// A root that can be handed off to, and what is in it.
struct Mounted {
    new_root: NewRoot,
    report: Report,
    /// Where overlays are mounted.
    overlays: Vec<PathBuf>,
}

/// The newest generation of this configuration, if it is bad: then nothing is
/// fetched for it either.
fn bad_generation_of(store: &Store, sources: &[Source]) -> Option<u32> {
    let digest = Digest::sha256(assemble::joined(sources).as_bytes());
    let trials = store.trials().ok()?;
    let asks_for =
        |number: &u32| store.generation_record(*number).is_ok_and(|record| record.config == digest);
    let newest = store.generations().ok()?.into_iter().rev().find(asks_for)?;
    trials.why_bad(newest).map(|_| newest)
}
