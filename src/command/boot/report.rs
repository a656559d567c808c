//! What a boot leaves behind for those who ask later: `/run/plywood/boot.json`
//! for `plywood list`, `timeline.json`, and the log.

use std::fs;
use std::path::Path;

use super::timeline::Timeline;
use crate::command::decision::Count;
use crate::command::extensions_yaml::layer_name;
use crate::command::list::{REPORT, Report, Running, Trial};
use crate::store::{Generation, Layer, LayerEntry, Proof, Skipped};
use crate::sys::kmsg;

/// What the root with `generation` mounted holds, less what `is_skipped`.
pub fn of(generation: &Generation, is_skipped: impl Fn(&LayerEntry, &Layer) -> bool) -> Report {
    let mut skipped = generation.record().skipped.clone();
    let mut extensions = Vec::new();
    for (entry, layer) in generation.layers() {
        if is_skipped(entry, layer) {
            skipped.push(Skipped { source: entry.source.clone(), reason: "plywood.skip= names it".into() });
        } else {
            extensions.push(running(entry, layer));
        }
    }
    Report { generation: Some(generation.number()), trial: None, extensions, skipped, failures: Vec::new() }
}

/// The attempt that this boot is, if it has to be blessed.
pub fn trial(count: Count, proof: &Proof) -> Option<Trial> {
    match count {
        Count::Attempt { number: attempt, of } => {
            Some(Trial { attempt, of, time_limit: proof.time_limit, watchdog: None })
        }
        Count::Free => None,
    }
}

fn running(entry: &LayerEntry, layer: &Layer) -> Running {
    Running {
        number: entry.number,
        layer: layer_name(entry.number, &entry.source),
        name: layer.record().name.clone(),
        version: layer.record().version.clone(),
        size: layer.record().size,
        digest: layer.record().digest,
        source: entry.source.clone(),
        image: entry.image,
    }
}

/// Writes everything to `/run/plywood`. A machine whose report cannot be
/// written boots all the same.
pub fn save(report: &Report, timeline: &Timeline) {
    log::info!("timeline: {}", timeline.summary());
    let write = |path: &Path, json: serde_json::Result<String>| -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, json? + "\n")
    };
    let results = [
        write(Path::new(REPORT), serde_json::to_string_pretty(report)),
        write(Path::new("/run/plywood/timeline.json"), serde_json::to_string_pretty(timeline)),
        kmsg::save(Path::new("/run/plywood/log")),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        log::warn!("cannot write the report of this boot, ignored: {error}");
    }
}
