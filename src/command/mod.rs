//! The commands: the only orchestration, and the only info and warn logging.
//!
//! In: an [`Invocation`]. Out: what the command is for, or one [`Error`].
//! Clock, environment and kernel command line are read here and passed on.
//! Each command is the flow of `lib.rs`, cut somewhere.

mod apply;
pub mod assemble;
mod bless;
pub mod boot;
pub mod build;
pub mod collisions;
mod credentials;
mod decision;
mod extensions_yaml;
mod generations;
mod images;
mod initramfs;
pub mod kernel_modules;
mod list;
pub mod machine;
mod obtain;
mod progress;
mod services;
mod shutdown;
mod status;
pub mod unpack;
mod verify;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use log::LevelFilter;

use crate::cli::{Command, Invocation};
use crate::error::Error;
use crate::sys::kmsg::{self, Target};
use crate::sys::process;

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// What `apply` was asked for is there already.
    NothingToDo,
}

impl Outcome {
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::NothingToDo => ExitCode::from(3),
        }
    }
}

/// Does what the process was asked to.
pub fn run(invocation: Invocation) -> Result<Outcome, Error> {
    let is_process_1 = std::process::id() == 1;
    // Process 1 knows best when, and where to.
    if !is_process_1 {
        kmsg::init(log_level(invocation.verbose, &invocation.command), Target::Stderr);
    }
    process::keep_memory_private()?;
    process::outlive_file_size_limit()?;
    let done = match &invocation.command {
        Command::Apply(arguments) => return apply::run(arguments),
        Command::Boot(arguments) => match &arguments.root {
            Some(root) => boot::hook(root),
            // On a running machine it would mount over it, and in the end reboot it.
            None if !is_process_1 => Err(Error::Usage(
                "boot without --root is for process 1 of an initramfs; --root DIR assembles over a mounted root".into(),
            )),
            None => boot::init(),
        },
        Command::Shutdown(verb) => shutdown::run(verb.as_deref()),
        Command::List(arguments) => list::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Rollback(arguments) => generations::rollback(arguments),
        Command::Gc(arguments) => generations::gc(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Bless(arguments) => bless::run(arguments),
        Command::Expire(arguments) => bless::expire(arguments),
        Command::Pull(arguments) => images::pull(arguments),
        Command::Pack(arguments) => images::pack(arguments),
        Command::Unpack(arguments) => images::unpack(arguments),
        Command::Validate(arguments) => images::validate(arguments),
        Command::Inspect(arguments) => images::inspect(arguments),
        Command::Build(arguments) => images::build(arguments),
        Command::Initramfs(arguments) => initramfs::run(arguments),
    };
    done.map(|()| Outcome::Done)
}

/// Prints a command's result. Whoever closes the pipe has read enough.
fn print(text: impl fmt::Display) -> Result<(), Error> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|source| Error::Write { path: "standard output".into(), source }),
    }
}

/// Boot, apply and pull say what they do; other commands only what went wrong, unless
/// asked.
fn log_level(verbose: u8, command: &Command) -> LevelFilter {
    match (verbose, command) {
        (0, Command::Boot(_) | Command::Apply(_) | Command::Pull(_)) => LevelFilter::Info,
        (0, _) => LevelFilter::Warn,
        (1, _) => LevelFilter::Info,
        _ => LevelFilter::Debug,
    }
}
