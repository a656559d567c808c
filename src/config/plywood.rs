//! The `plywood` key: what Talos has no word for.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::draft::{Draft, add, once};
use super::machine::ON_FAILURE;
use super::network;
use super::settings::{
    Hierarchies, Permission, Writable, parse_block_size, parse_compression, parse_path, parse_xattr_name,
};
use super::units::{parse_duration, parse_size};
use crate::limits::{Amount, Bound, Raised, Row, Unit};
use crate::text::Escaped;
use crate::yaml::{Cursor, Fields};

const WRITABLE: &[(&str, Writable)] =
    &[("no", Writable::No), ("tmpfs", Writable::Tmpfs), ("persistent", Writable::Persistent)];
const PERMISSION: &[(&str, Permission)] = &[("deny", Permission::Deny), ("allow", Permission::Allow)];
const MAX_BOOT_ATTEMPTS: u32 = 100;
const WATCHDOG_SECONDS: std::ops::RangeInclusive<u64> = 10..=3600;

/// More connections than this help nobody and burden registries.
const MAX_PARALLEL: u32 = 16;

pub(super) fn read(mut fields: Fields<'_>, draft: &mut Draft) {
    for (name, at) in fields.optional("host").and_then(|at| at.entries()).unwrap_or_default() {
        read_host(name, &at, draft);
    }
    if let Some(overlay) = section(&mut fields, "overlay") {
        read_overlay(overlay, draft);
    }
    if let Some(rules) = section(&mut fields, "rules") {
        read_rules(rules, draft);
    }
    if let Some(layer) = section(&mut fields, "layer") {
        read_layer(layer, draft);
    }
    if let Some(limits) = section(&mut fields, "limits") {
        read_limits(limits, draft);
    }
    if let Some(timeouts) = section(&mut fields, "timeouts") {
        read_timeouts(timeouts, draft);
    }
    if let Some(network) = section(&mut fields, "network") {
        network::read(network, draft);
    }
    once(&mut draft.keep_generations, fields.optional("keepGenerations"), read_count);
    once(&mut draft.boot_attempts, fields.optional("bootAttempts"), |at| at.parse_with(parse_attempts));
    once(&mut draft.watchdog, fields.optional("watchdog"), read_watchdog);
    if let Some(downloads) = section(&mut fields, "downloads") {
        read_downloads(downloads, draft);
    }
    once(&mut draft.on_failure, fields.optional("onFailure"), |at| at.one_of(ON_FAILURE));
    fields.finish();
}

fn section<'r>(fields: &mut Fields<'r>, key: &'static str) -> Option<Fields<'r>> {
    fields.optional(key)?.fields()
}

fn read_host(name: &str, at: &Cursor<'_>, draft: &mut Draft) {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_well || name.len() > 128 || !name.bytes().all(allowed) {
        return at.problem("the name of a host is of the form [A-Za-z0-9][A-Za-z0-9._-]*");
    }
    if let Some(version) = at.parse_with(check_version) {
        add(&mut draft.host, name.into(), at, version);
    }
}

/// One to three numbers, perhaps with `v` before and a pre-release after them.
fn check_version(text: &str) -> Result<String, String> {
    let number = text.strip_prefix('v').unwrap_or(text);
    let (core, suffix) = number.split_at(number.find(['-', '+']).unwrap_or(number.len()));
    let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u64>().is_ok();
    if core.split('.').count() <= 3
        && core.split('.').all(is_number)
        && suffix.len() <= 128
        && suffix.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
    {
        return Ok(text.into());
    }
    Err(format!("`{}` is not a version (as in 1.2.3, v1.2 or 12)", Escaped::new(text)))
}

fn read_overlay(mut fields: Fields<'_>, draft: &mut Draft) {
    once(&mut draft.hierarchies, fields.optional("hierarchies"), read_hierarchies);
    once(&mut draft.writable, fields.optional("writable"), |at| {
        // YAML 1.1 makes a boolean of `no`, so people write both.
        match at.text()?.to_ascii_lowercase().as_str() {
            "no" | "off" | "false" => Some(Writable::No),
            _ => at.one_of(WRITABLE),
        }
    });
    fields.finish();
}

/// `auto`, `root`, or paths of which none is inside another.
fn read_hierarchies(at: &Cursor<'_>) -> Option<Hierarchies> {
    if at.scalar() == Some("root") {
        return Some(Hierarchies::Root);
    }
    if at.scalar() == Some("auto") {
        return Some(Hierarchies::Auto);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for item in at.items()? {
        let Some(path) = item.parse_with(parse_path) else { continue };
        match paths.iter().find(|other| path.starts_with(other) || other.starts_with(&path)) {
            Some(other) => {
                item.problem(format!("this overlaps {}", Escaped::new(other.as_os_str().as_encoded_bytes())))
            }
            None => paths.push(path),
        }
    }
    Some(Hierarchies::Paths(paths))
}

fn read_rules(mut fields: Fields<'_>, draft: &mut Draft) {
    let allow = fields.optional("allow").and_then(|at| at.list(|item| item.parse_with(parse_path)));
    draft.allow.extend(allow.unwrap_or_default());
    let xattrs = fields.optional("xattrs").and_then(|at| at.list(|item| item.parse_with(parse_xattr_name)));
    draft.xattrs.extend(xattrs.unwrap_or_default());
    once(&mut draft.setuid, fields.optional("setuid"), |at| at.one_of(PERMISSION));
    once(&mut draft.hard_links, fields.optional("hardLinks"), |at| at.one_of(PERMISSION));
    fields.finish();
}

fn read_layer(mut fields: Fields<'_>, draft: &mut Draft) {
    once(&mut draft.compression, fields.optional("compression"), |at| at.parse_with(parse_compression));
    once(&mut draft.block_size, fields.optional("blockSize"), |at| at.parse_with(parse_block_size));
    fields.finish();
}

/// A key for each bound that may be moved, as the bounds' own table says.
fn read_limits(mut fields: Fields<'_>, draft: &mut Draft) {
    for (bound, slot) in Bound::ALL.into_iter().zip(&mut draft.limits) {
        let Row { unit, raised, .. } = bound.row();
        if let Raised::By { key, most, why } = raised {
            once(slot, fields.optional(key), |at| read_limit(at, unit, (most, why)));
        }
    }
    fields.finish();
}

/// `most` comes with its reason.
fn read_limit(at: &Cursor<'_>, unit: Unit, (most, why): (u64, &str)) -> Option<u64> {
    let value = match unit {
        Unit::Bytes => at.parse_with(parse_size)?,
        Unit::Count => at.parse_with(parse_count)?.into(),
        Unit::Seconds => at.parse_with(parse_duration)?.as_secs(),
    };
    if value == 0 {
        at.problem("a limit of nothing lets no extension through");
    } else if value > most {
        at.problem(format!("this is at most {}: {why}", Amount(most, unit)));
    }
    Some(value)
}

fn read_timeouts(mut fields: Fields<'_>, draft: &mut Draft) {
    once(&mut draft.connect, fields.optional("connect"), read_timeout);
    once(&mut draft.idle, fields.optional("idle"), read_timeout);
    once(&mut draft.total, fields.optional("total"), read_timeout);
    once(&mut draft.first_byte, fields.optional("firstByte"), read_timeout);
    once(&mut draft.longest_pause, fields.optional("longestPause"), read_timeout);
    fields.finish();
}

fn read_downloads(mut fields: Fields<'_>, draft: &mut Draft) {
    once(&mut draft.parallel, fields.optional("parallel"), |at| {
        let parallel = read_count(at)?;
        if parallel.get() <= MAX_PARALLEL {
            return Some(parallel);
        }
        at.problem(format!("this is at most {MAX_PARALLEL}"));
        None
    });
    once(&mut draft.minimum_rate, fields.optional("minimumRate"), |at| at.parse_with(parse_size));
    fields.finish();
}

fn read_count(at: &Cursor<'_>) -> Option<NonZeroU32> {
    NonZeroU32::new(at.parse_with(parse_count)?)
}

pub(super) fn read_timeout(at: &Cursor<'_>) -> Option<Duration> {
    let timeout = at.parse_with(parse_duration)?;
    if timeout.is_zero() {
        at.problem("a timeout is longer than nothing");
    }
    Some(timeout)
}

/// Attempts from none, which is to need no proof, to as many as anyone waits for.
fn parse_attempts(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| *count <= MAX_BOOT_ATTEMPTS);
    count.ok_or_else(|| {
        format!("expected a number from 0 to {MAX_BOOT_ATTEMPTS}, found `{}`", Escaped::new(text))
    })
}

/// A time that watchdogs can count in whole seconds.
fn read_watchdog(at: &Cursor<'_>) -> Option<Duration> {
    let time = at.parse_with(parse_duration)?;
    if !WATCHDOG_SECONDS.contains(&time.as_secs()) || time.subsec_nanos() != 0 {
        at.problem("a watchdog waits for 10s to 1h, in whole seconds");
    }
    Some(time)
}

/// A number from 1 on.
fn parse_count(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("expected a number from 1 to {}, found `{}`", u32::MAX, Escaped::new(text)))
}
