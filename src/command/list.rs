//! `plywood list`: the extensions of the running system.
//!
//! In: `/run/plywood/boot.json`, which the boot wrote, and the services for
//! Talos in the root. Out: a table, or the same as JSON; where plywood did not
//! boot the machine, that there is no generation.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::services;
use crate::cli;
use crate::error::Error;
use crate::oci::Digest;
use crate::store::Skipped;
use crate::text::Escaped;

/// Where the boot leaves its [`Report`].
pub const REPORT: &str = "/run/plywood/boot.json";

/// What a boot ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The generation that runs; none on the plain root.
    pub generation: Option<u32>,
    /// That this boot is an attempt; none if the generation is proven.
    #[serde(default)]
    pub trial: Option<Trial>,
    pub extensions: Vec<Running>,
    /// Extensions that are left out, and why.
    pub skipped: Vec<Skipped>,
    /// What was tried before, and why it did not boot.
    pub failures: Vec<String>,
}

/// A boot that has to be blessed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// From 1 on.
    pub attempt: u32,
    /// Attempts that the generation has in all.
    pub of: u32,
    /// Seconds after which the boot is ended unless it was blessed by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<u64>,
    /// Seconds after which the hardware watchdog resets the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<u64>,
}

/// One extension that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub number: u16,
    /// As in `/etc/extensions.yaml`.
    pub layer: String,
    pub name: String,
    pub version: String,
    /// Length of the layer in bytes.
    pub size: u64,
    /// Digest of the layer.
    pub digest: Digest,
    /// The image, as the configuration names it.
    pub source: String,
    /// What that name resolved to.
    pub image: Digest,
}

/// What the boot left.
pub fn report() -> Result<Report, Error> {
    let path = Path::new(REPORT);
    let bytes = fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::NotBooted { report: path.into() },
        _ => Error::Read { path: path.into(), source },
    })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Read { path: path.into(), source: source.into() })
}

/// Prints the running extensions.
pub fn run(arguments: &cli::List) -> Result<(), Error> {
    let report = match report() {
        Err(Error::NotBooted { .. }) if !arguments.json => {
            return super::print("no generation: plywood did not boot this machine");
        }
        // The same in JSON: none, and no extension.
        Err(Error::NotBooted { .. }) => Report::default(),
        report => report?,
    };
    let services = services::of_root(Path::new("/"))?;
    if arguments.json {
        let mut facts = serde_json::json!(report);
        facts["services"] = services::facts(&services);
        return super::print(format_args!("{facts:#}"));
    }
    let text = table(&report) + &services::lines(&services).join("\n");
    super::print(text.trim_end())
}

fn table(report: &Report) -> String {
    let mut text = match report.generation {
        Some(number) => format!("generation {number}\n"),
        None => "no generation: the plain root runs\n".into(),
    };
    if let Some(Trial { attempt, of, .. }) = report.trial {
        text += &format!("attempt {attempt} of {of}, until `plywood bless`\n");
    }
    let rows: Vec<_> = report
        .extensions
        .iter()
        .map(|e| {
            [
                format!("{:03}", e.number),
                Escaped::new(&e.name).to_string(),
                Escaped::new(&e.version).to_string(),
                size(e.size),
                Escaped::new(&e.source).to_string(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let header = ["NO", "NAME", "VERSION", "SIZE", "IMAGE"].map(String::from);
        text += &align(std::iter::once(header).chain(rows));
    }
    for skipped in &report.skipped {
        text += &format!("skipped: {}: {}\n", Escaped::new(&skipped.source), skipped.reason);
    }
    for failure in &report.failures {
        text += &format!("failed: {failure}\n");
    }
    text
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Cells as a table.
pub fn align<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_runs_and_what_does_not() {
        let running = |number, name: &str, size| Running {
            number,
            layer: format!("{number:03}.{name}.sqsh"),
            name: name.into(),
            version: "1.0".into(),
            size,
            digest: Digest::sha256(b""),
            source: format!("ghcr.io/a/{name}"),
            image: Digest::sha256(b""),
        };
        let report = Report {
            generation: Some(3),
            trial: None,
            extensions: vec![running(0, "tools", 4096), running(1, "gvisor", 3 << 20)],
            skipped: vec![Skipped { source: "ghcr.io/a/x".into(), reason: "not found".into() }],
            failures: vec![],
        };
        let expected = "generation 3\n\
            NO   NAME    VERSION  SIZE     IMAGE\n\
            000  tools   1.0      4.0 KiB  ghcr.io/a/tools\n\
            001  gvisor  1.0      3.0 MiB  ghcr.io/a/gvisor\n\
            skipped: ghcr.io/a/x: not found\n";
        assert_eq!(table(&report), expected);
        assert_eq!(table(&Report::default()), "no generation: the plain root runs\n");
    }
}
