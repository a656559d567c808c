//! The command line: arguments as types, and nothing else.
//!
//! In: the process's arguments. Out: an [`Invocation`]. Usage errors end the
//! process with exit code 2 here, before anything was done.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::oci::ImageSource;

/// What the process was asked to do.
#[derive(Debug, Parser)]
#[command(name = "plywood", version, about, max_term_width = 100)]
pub struct Invocation {
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order of the flow.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// In an initramfs: assemble the extensions and hand off to init
    Boot(Boot),
    /// On a running machine: prepare the next generation from a configuration
    #[command(after_help = "Exit codes: 0 done (the text and --json say whether a reboot is needed), \
        3 nothing to do, 1 failed (nothing was changed), 2 wrong use. A dry run exits as the real one would.")]
    Apply(Apply),
    /// Show the extensions of the running system
    List(List),
    /// Show what runs, what boots next, every generation, and why
    Status(Status),
    /// Make another generation the one that boots next
    Rollback(Rollback),
    /// Remove what no generation that is kept needs
    Gc(Gc),
    /// Hash everything in the store, and repair it if asked to
    Verify(Verify),
    /// Mark the running generation as good, so that its boots are no longer counted
    Bless(Bless),
    /// Wait for the end of a generation's time limit, and reboot unless it was blessed
    Expire(Expire),
    /// Fetch images into the store
    Pull(Pull),
    /// Build an image into a layer file
    Pack(Pack),
    /// Write what would be in an image's layer into a directory
    Unpack(Unpack),
    /// Check an image, a directory or a configuration against every rule
    Validate(Validate),
    /// Show what an image is made of
    Inspect(Inspect),
    /// Make an extension image from a directory
    Build(Build),
    /// Add plywood, a configuration and its images to an initramfs
    Initramfs(Initramfs),
    /// After init has ended, as process 1: unmount everything and end the
    /// machine as this verb of systemd says
    #[command(skip)]
    Shutdown(Option<OsString>),
}

#[derive(Debug, Default, Args)]
pub struct Boot {
    /// Assemble over the root mounted at DIR and leave it there for the
    /// initramfs that called, instead of handing off to init
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Apply {
    /// The machine configuration, `-` for standard input; may be given several times
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// A containers-auth.json or Docker's config.json with passwords of
    /// registries
    #[arg(long = "authfile", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// When what was applied runs
    #[arg(long, value_enum, default_value_t = Mode::Staged)]
    pub mode: Mode,
    /// With --mode=try: how long the boot of it may last unless it is blessed by hand
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub timeout: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: State,
}

/// When what was applied runs. The names are those of Talos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Reboot into it now if the running system is not like it
    Auto,
    /// Refuse what needs a reboot
    NoReboot,
    /// Reboot into it now
    Reboot,
    /// From the next boot on, whenever that is
    Staged,
    /// From the next boot on, which has one attempt and a time limit: unless
    /// `plywood bless` is run by hand in time, the machine goes back
    Try,
}

#[derive(Debug, Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: State,
}

#[derive(Debug, Args)]
pub struct Rollback {
    /// The generation to boot [default: the last good one, else the previous one]
    #[arg(value_name = "N")]
    pub generation: Option<u32>,
    #[command(flatten)]
    pub state: State,
}

#[derive(Debug, Args)]
pub struct Gc {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: State,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Make damaged layers again from the images they came from
    #[arg(long)]
    pub repair: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: State,
}

#[derive(Debug, Args)]
pub struct Bless {
    /// The generation to mark [default: the one that runs]
    #[arg(value_name = "N")]
    pub generation: Option<u32>,
    /// For services: leave generations alone that were applied with --mode=try
    #[arg(long)]
    pub automatic: bool,
    #[command(flatten)]
    pub state: State,
}

#[derive(Debug, Args)]
pub struct Expire {
    #[command(flatten)]
    pub state: State,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// What to fetch, e.g. ghcr.io/siderolabs/gvisor:20260101.0 or oci:DIR
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<ImageSource>,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub state: State,
}

#[derive(Debug, Args)]
pub struct Pack {
    /// What to build, e.g. oci-archive:FILE
    pub image: ImageSource,
    /// The squashfs file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The file for its dm-verity tree, in the same directory
    #[arg(long, value_name = "FILE")]
    pub verity: Option<PathBuf>,
    #[command(flatten)]
    pub layer: Layer,
    #[command(flatten)]
    pub machine: Machine,
}

/// How a layer is written, where not as the configuration says.
#[derive(Debug, Default, Args)]
pub struct Layer {
    /// none, lz4, xz, gzip[:1-9] or zstd[:1-22] [default: zstd:3]
    #[arg(long)]
    pub compression: Option<String>,
    /// A power of two from 4KiB to 1MiB [default: 128KiB]
    #[arg(long, value_name = "SIZE")]
    pub block_size: Option<String>,
}

#[derive(Debug, Args)]
pub struct Unpack {
    /// What to look into, e.g. squashfs:FILE
    pub image: ImageSource,
    /// Where to write to: a directory that is empty or not there yet
    pub directory: PathBuf,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Debug, Args)]
pub struct Validate {
    /// An image or a directory holding manifest.yaml and rootfs/
    #[arg(required_unless_present = "config", value_name = "IMAGE|DIR")]
    pub target: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Debug, Args)]
pub struct Inspect {
    pub image: ImageSource,
    /// List what refers to it in its registry: signatures and the like
    #[arg(long)]
    pub referrers: bool,
    /// List the services for Talos that it brings; reads the whole image
    #[arg(long)]
    pub services: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Debug, Args)]
pub struct Build {
    /// A directory holding manifest.yaml and rootfs/
    pub directory: PathBuf,
    /// Where to write the image: oci:DIR[:TAG]
    #[arg(short, long, value_name = "oci:DIR[:TAG]")]
    pub output: ImageSource,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Debug, Args)]
pub struct Initramfs {
    /// A machine configuration to add, with the images that it names by path;
    /// may be given several times
    #[arg(long = "config", value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Copy a file or directory to a path of the initramfs; may be given
    /// several times
    #[arg(long, value_name = "SRC:DEST")]
    pub add: Vec<String>,
    /// Write this initramfs first, whatever it is compressed with
    #[arg(long, value_name = "FILE")]
    pub append: Option<PathBuf>,
    /// The initramfs, or the archive to append to one; mode 0600
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// What a command needs to know of the machine that an image is for.
#[derive(Debug, Default, Args)]
pub struct Machine {
    /// A host's version that `compatibility` is matched against
    #[arg(long = "host", value_name = "NAME=VERSION", value_parser = parse_host)]
    pub hosts: Vec<(String, String)>,
    /// The machine's architecture in OCI words [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// A machine configuration; may be given several times
    #[arg(long = "config", value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// A containers-auth.json or Docker's config.json with passwords of
    /// registries [default: $REGISTRY_AUTH_FILE, else the usual ones]
    #[arg(long = "authfile", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct State {
    /// The state directory [default: the booted one, else /var/lib/plywood]
    #[arg(long = "state", value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

fn parse_host(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, version)) if !name.is_empty() && !version.is_empty() => Ok((name.into(), version.into())),
        _ => Err("want NAME=VERSION, as in talos=v1.9.0".into()),
    }
}

/// Parses the process's arguments. As PID 1, or called `init`, the process is
/// the initramfs' init whatever the arguments, which are the kernel's; unless
/// systemd, which was PID 1 until then, has executed it as `/shutdown`.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, pid: u32) -> Invocation {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let called = arguments.first().map(Path::new).and_then(Path::file_name);
    if pid == 1 && called.is_some_and(|name| name == "shutdown") {
        return Invocation { verbose: 0, command: Command::Shutdown(arguments.into_iter().nth(1)) };
    }
    if pid == 1 || called.is_some_and(|name| name == "init") {
        return Invocation { verbose: 0, command: Command::Boot(Boot::default()) };
    }
    Invocation::parse_from(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Invocation::command().debug_assert();
    }

    #[test]
    fn init_boots_whatever_the_arguments() {
        for (arguments, pid) in [(&["/init", "quiet", "--x"][..], 1), (&["/sbin/init"], 7), (&["plywood"], 1)]
        {
            let arguments = arguments.iter().map(OsString::from);
            assert!(matches!(parse(arguments, pid).command, Command::Boot(Boot { root: None })));
        }
    }

    #[test]
    fn only_process_1_shuts_down() {
        let arguments = ["/shutdown", "poweroff", "--log-level", "6"].map(OsString::from);
        let Command::Shutdown(verb) = parse(arguments, 1).command else { panic!("no shutdown") };
        assert_eq!(verb, Some("poweroff".into()));
        for arguments in [["/shutdown", "poweroff"], ["plywood", "shutdown"]] {
            Invocation::try_parse_from(arguments).unwrap_err();
        }
    }
}
