//! Chooses the command, runs it, and is the only place that prints an error.

use std::process::ExitCode;

use plywood::{cli, command};

fn main() -> ExitCode {
    let invocation = cli::parse(std::env::args_os(), std::process::id());
    match command::run(invocation) {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            log::error!("{}", error.chain());
            error.exit_code()
        }
    }
}
