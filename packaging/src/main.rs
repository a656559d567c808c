//! Writes what a package of plywood holds beside the program.
//!
//! In: the definition of the command line that the program itself uses, and
//! `docs/configuration.md`. Out: manual pages and completions for bash, zsh and
//! fish. Invariant: nothing here knows an argument or a key, so no page can
//! say what the program does not.

mod markdown;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use clap::CommandFactory;
use clap_complete::Shell;
use plywood::cli::Invocation;
use plywood::text::Utc;

const CONFIGURATION: &str = include_str!("../../docs/configuration.md");
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let written = match arguments.as_slice() {
        [what, directory] if what == OsStr::new("man") => manual(Path::new(directory)),
        [what, directory] if what == OsStr::new("completions") => completions(Path::new(directory)),
        _ => Err("usage: packaging man|completions DIR".into()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// plywood.1, a page per command, plywood.yaml.5.
fn manual(directory: &Path) -> Result<(), String> {
    in_directory(directory, |directory| {
        let command = Invocation::command().after_help(
            "Configuration and kernel command line: plywood.yaml(5). \
             Called init, or as process 1, plywood does what plywood-boot(1) says.",
        );
        let date = date().map_err(io::Error::other)?;
        let source = format!("plywood {}", command.get_version().unwrap_or_default());
        write_pages(command.disable_help_subcommand(true), (&date, &source), directory)?;
        let page = markdown::page("plywood.yaml", "5", &date, CONFIGURATION);
        fs::write(directory.join("plywood.yaml.5"), page)
    })
}

/// The page of a command, and of each below it.
fn write_pages(mut command: clap::Command, of: (&str, &str), directory: &Path) -> io::Result<()> {
    command.build();
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(below.clone(), of, directory)?;
    }
    let (date, source) = of;
    let man = clap_mangen::Man::new(command).date(date).source(source);
    let mut page = Vec::new();
    man.render(&mut page)?;
    // Between two breaks the generator leaves a line empty, which is one more.
    let page = String::from_utf8_lossy(&page).replace(".br\n\n.br\n", ".sp\n");
    fs::write(directory.join(man.get_filename()), page)
}

/// The day of `SOURCE_DATE_EPOCH`, else today, as `2026-12-31`.
fn date() -> Result<String, String> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|error| format!("SOURCE_DATE_EPOCH: {error}"))?,
        Err(_) => UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?.as_secs(),
    };
    let time = Utc(seconds).to_string();
    Ok(time.split(' ').next().unwrap_or_default().into())
}

/// One file a shell, named as the shell wants it.
fn completions(directory: &Path) -> Result<(), String> {
    in_directory(directory, |directory| {
        for shell in SHELLS {
            clap_complete::generate_to(shell, &mut Invocation::command(), "plywood", directory)?;
        }
        Ok(())
    })
}

fn in_directory(directory: &Path, write: impl Fn(&PathBuf) -> io::Result<()>) -> Result<(), String> {
    let directory = directory.to_path_buf();
    fs::create_dir_all(&directory)
        .and_then(|()| write(&directory))
        .map_err(|error| format!("cannot write to {}: {error}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `write` makes: file names and contents.
    fn made(write: impl Fn(&Path) -> Result<(), String>) -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let entries = fs::read_dir(directory.path()).unwrap().map(Result::unwrap);
        let text = |path: PathBuf| fs::read_to_string(path).unwrap();
        let mut files: Vec<_> =
            entries.map(|entry| (entry.file_name().into_string().unwrap(), text(entry.path()))).collect();
        files.sort();
        files
    }

    fn visible(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
        command.get_subcommands().filter(|command| !command.is_hide_set())
    }

    #[test]
    fn every_command_has_a_page_that_names_its_options() {
        let pages = made(manual);
        for command in visible(&Invocation::command()) {
            let name = format!("plywood-{}.1", command.get_name());
            let (_, page) = pages.iter().find(|(file, _)| *file == name).expect(&name);
            for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                let option = format!("\\-\\-{}", option.replace('-', "\\-"));
                assert!(page.contains(&option), "{name} lacks {option}");
            }
        }
    }

    #[test]
    fn every_key_of_the_configuration_is_in_its_page() {
        let pages = made(manual);
        let (_, page) = pages.iter().find(|(file, _)| file == "plywood.yaml.5").unwrap();
        // The code spans of the first column: a row may be about several keys.
        let cells = CONFIGURATION.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        let keys: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert!(keys.contains(&"plywood.limits.changesetBytes"), "{keys:?}");
        for key in keys {
            let key = markdown::escape(&key.replace("\\|", "|"));
            assert!(page.contains(&format!("\\fB{key}\\fR")), "{key}");
        }
    }

    #[test]
    fn every_shell_completes_every_command() {
        let files = made(completions);
        assert_eq!(
            files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["_plywood", "plywood.bash", "plywood.fish"]
        );
        for command in visible(&Invocation::command()) {
            for (name, text) in &files {
                assert!(text.contains(command.get_name()), "{name} lacks {}", command.get_name());
            }
        }
    }
}
