//! The completions in the shells that load them, and the manual as programs
//! that show it judge it. Needs bash, zsh, fish, mandoc and man-db (`make
//! deps`), and fails without them.

use std::path::Path;
use std::process::{Command, Output};

/// What completing `plywood a` and `plywood apply --js` has to give.
const ASKED: [(&str, &str); 2] = [("plywood a", "apply"), ("plywood apply --js", "--json")];

/// Sources the file, then does what bash does for a word of a command line.
const BASH: &str = r#"source "$1" || exit
COMP_WORDS=($2) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2 COMP_POINT=${#2}
_plywood plywood "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}""#;

/// A shell in a terminal of its own, where the tabulator is typed; it has one
/// word to offer, and so writes it out. Then the line is asked for.
const ZSH: &str = r#"zmodload zsh/zpty
zpty shell 'PS1=READY; exec zsh -f -i'
zpty -w shell "fpath=(${1:h} \$fpath); autoload -Uz compinit && compinit -D -u && echo LOADED-\$((6 * 7))"
zpty -r shell out '*LOADED-42*'
zpty -w -n shell "$2"$'\t'
zpty -r shell out "*$3*"
print -r -- "$out""#;

const FISH: &str = "source $argv[1]; and complete --do-complete $argv[2]";

fn made(what: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let output = run(Command::new(env!("CARGO_BIN_EXE_packaging")).arg(what).arg(directory.path()));
    assert!(output.status.success(), "{output:?}");
    directory
}

/// A shell that waits for what never comes is ended.
fn run(command: &mut Command) -> Output {
    let mut limited = Command::new("timeout");
    limited.arg("120").arg(command.get_program()).args(command.get_args());
    limited.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[test]
fn every_shell_completes_commands_and_options() {
    let directory = made("completions");
    for (shell, options, script, file) in [
        ("bash", &["--norc", "--noprofile", "-c"][..], BASH, "plywood.bash"),
        ("zsh", &["-f", "-c"], ZSH, "_plywood"),
        ("fish", &["--no-config", "-c"], FISH, "plywood.fish"),
    ] {
        for (typed, expected) in ASKED {
            let mut command = Command::new(shell);
            command.args(options).arg(script);
            if shell != "fish" {
                command.arg(shell);
            }
            let output = run(command.arg(directory.path().join(file)).args([typed, expected]));
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{shell}: {output:?} (make deps)");
            assert!(text.contains(expected), "{shell}: {typed}: {text:?}");
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}");
        }
    }
}

#[test]
fn nothing_is_wrong_with_a_page_of_the_manual() {
    let directory = made("man");
    let mut pages = 0;
    for page in std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let check = |program: &str, options: &[&str], page: &Path| {
            let output = run(Command::new(program).args(options).arg(page));
            assert!(output.status.success(), "{program}: {output:?} (make deps)");
            let said = [&output.stdout[..], &output.stderr].concat();
            assert_eq!(String::from_utf8_lossy(&said), "", "{program}: {}", page.display());
        };
        check("mandoc", &["-T", "lint", "-W", "warning"], &page);
        check("sh", &["-c", "man --warnings -E UTF-8 -l \"$0\" >/dev/null"], &page);
        pages += 1;
    }
    assert!(pages > 10, "{pages} pages");
}
