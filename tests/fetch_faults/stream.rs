//! Blobs that are read while they are downloaded: the same faults, the same
//! ends, and nothing kept but documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{LASTING, MIRROR_FAULTS, PASSING, Worsen, good, serve};
use crate::fixture::{Bench, LAYER_SIZE, REGISTRY, Registry, noise};
use crate::server::{Fault, Reply, Server};
use crate::tar::Tar;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

#[test]
fn a_stream_survives_what_passes() {
    for (name, worsen) in PASSING {
        let server = serve(*worsen);
        let contents = Bench::new(&[server.url()]).stream(":v1");
        let contents = contents.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(contents.iter().map(Vec::len).collect::<Vec<_>>(), [LAYER_SIZE; 2], "{name}");
    }
}

#[test]
fn what_does_not_pass_ends_a_stream_with_its_cause() {
    for (name, worsen, says, most) in LASTING {
        let server = serve(*worsen);
        let mut bench = Bench::new(&[server.url()]);
        bench.network.timeouts.total = Duration::from_secs(8);
        let (error, again) = bench.stream(":v1").err().unwrap_or_else(|| panic!("{name}: streamed"));
        assert!(
            error.starts_with("cannot fetch registry.test/tools:v1: no endpoint delivered"),
            "{name}: {error}"
        );
        assert!(error.contains(says), "{name}: {error}");
        assert!(!again, "{name}: there is nobody else to ask");
        for request in server.requests() {
            assert!(request.nth < *most, "{name}: {} asked {} times", request.path, request.nth + 1);
        }
    }
}

#[test]
fn another_endpoint_goes_on_with_a_stream() {
    for (name, worsen) in MIRROR_FAULTS {
        let (mirror, upstream) = (serve(*worsen), good());
        let bench = Bench::new(&[mirror.url(), upstream.url()]);
        match bench.stream(":v1") {
            Ok(contents) => assert_eq!(contents.len(), 2, "{name}"),
            // What was passed on cannot be taken back.
            Err((error, again)) => {
                assert!(again && error.contains("not what was asked for"), "{name}: {error}");
            }
        }
    }
}

#[test]
fn the_next_endpoint_is_asked_for_the_rest_only() {
    let registry = Registry::with_image(1);
    let blob = registry.layers[0].clone();
    let first = {
        let registry = registry.clone();
        Server::start(move |request| match (registry.is_layer(request), request.nth) {
            (true, 0) => registry.answer(request).failing(Fault::Reset(LAYER_SIZE / 4)),
            (true, _) => Reply::new(404, ""),
            _ => registry.answer(request),
        })
    };
    let second = Server::start(move |request| registry.answer(request));
    let contents = Bench::new(&[first.url(), second.url()]).stream(":v1").unwrap();
    assert_eq!(contents[0].len(), LAYER_SIZE);
    let asked = second.requests().into_iter().filter(|request| request.path.ends_with(&blob));
    let ranges: Vec<_> = asked.map(|request| request.header("range").map(str::to_string)).collect();
    assert_eq!(ranges, [Some(format!("bytes={}-", LAYER_SIZE / 4))]);
}

#[test]
fn an_endpoint_without_ranges_can_go_on_with_a_stream() {
    let other_range: Worsen = |_, _, reply| reply.with("Content-Range", "bytes 0-39999/40000");
    for worsen in [(|_, _, _| Reply::new(416, "")) as Worsen, other_range] {
        let first = serve(|request, layer, reply| match (layer, request.nth) {
            (true, 0) => reply.failing(Fault::Reset(LAYER_SIZE / 4)),
            (true, _) => Reply::new(404, ""),
            _ => reply,
        });
        let registry = Registry::with_image(2);
        let second = Server::start(move |request| match request.header("range") {
            Some(_) => worsen(request, true, registry.answer(request)),
            None => registry.answer(request),
        });
        let contents = Bench::new(&[first.url(), second.url()]).stream(":v1").unwrap();
        assert_eq!(contents.iter().map(Vec::len).collect::<Vec<_>>(), [LAYER_SIZE; 2]);
    }
}

/// An extension of two changesets with 4 MiB that do not compress.
fn extension() -> Registry {
    let manifest = b"version: v1alpha1\nmetadata: {name: tools, version: \"1\"}\n";
    let file = |name: &str, seed| Tar::new().file(name, &noise(seed, 2 << 20)).finish();
    let lower = Tar::new().file("manifest.yaml", manifest).file("rootfs/usr/local/a", &noise(1, 2 << 20));
    let mut registry = Registry::default();
    let digest = registry.add_image_of("amd64", TAR, &[lower.finish(), file("rootfs/usr/local/b", 2)]);
    registry.tags.insert("v1".into(), digest);
    registry
}

fn serve_extension(worsen: Worsen) -> Server {
    let registry = extension();
    Server::start(move |request| worsen(request, registry.is_layer(request), registry.answer(request)))
}

/// Starts `plywood pack`, with these endpoints and no others.
fn start_packing(directory: &Path, endpoints: &[String]) -> Child {
    start_packing_with(directory, endpoints, "{}")
}

/// As [`start_packing`], with `plywood` in the configuration.
fn start_packing_with(directory: &Path, endpoints: &[String], plywood: &str) -> Child {
    let config = format!(
        "version: v1alpha1\nplywood: {plywood}\nmachine: {{registries: {{mirrors: {{{REGISTRY}: {{endpoints: [{}], skipFallback: true}}}}}}}}\n",
        endpoints.join(", "),
    );
    fs::write(directory.join("config.yaml"), config).unwrap();
    let image = format!("{REGISTRY}/tools:v1");
    let arguments = ["pack", &image, "--config", "config.yaml", "--arch", "amd64", "-o", "tools.sqsh"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command
        .args(arguments)
        .current_dir(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn corrupt(_: &crate::server::Request, layer: bool, mut reply: Reply) -> Reply {
    if layer {
        reply.body[1 << 20] ^= 1;
    }
    reply
}

#[test]
fn a_layer_is_the_same_however_its_image_came() {
    let part = |_: &crate::server::Request, layer: bool, reply: Reply| match layer {
        true => reply.failing(Fault::Reset(1 << 20)),
        false => reply,
    };
    let ways: [(&str, &[Worsen], Result<(), &str>); 5] = [
        ("at once", &[|_, _, reply| reply], Ok(())),
        ("in parts", &[part], Ok(())),
        ("from the second endpoint", &[|_, _, _| Reply::new(404, ""), |_, _, reply| reply], Ok(())),
        ("after a mirror that lies", &[corrupt, |_, _, reply| reply], Ok(())),
        (
            "from a registry that lies",
            &[corrupt],
            Err("not what was asked for: content expected to have digest"),
        ),
    ];
    let mut first = None;
    for (way, worsen, expected) in ways {
        let directory = tempfile::tempdir().unwrap();
        let servers: Vec<_> = worsen.iter().map(|worsen| serve_extension(*worsen)).collect();
        let urls: Vec<_> = servers.iter().map(Server::url).collect();
        let output = start_packing(directory.path(), &urls).wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        let mut left = vec!["config.yaml"];
        match expected {
            Ok(()) => {
                assert!(output.status.success(), "{way}: {errors}");
                let layer = fs::read(directory.path().join("tools.sqsh")).unwrap();
                assert!(*first.get_or_insert_with(|| layer.clone()) == layer, "{way}: another layer");
                left.push("tools.sqsh");
            }
            Err(says) => assert!(!output.status.success() && errors.contains(says), "{way}: {errors}"),
        }
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, left, "{way}");
        for server in servers {
            let layers = server.requests().into_iter().filter(|request| request.path.contains("/blobs/"));
            assert!(layers.map(|request| request.nth).max() < Some(6), "{way}");
        }
    }
}

/// Of each file below a directory whose path contains `part`, the length.
fn lengths(directory: &Path, part: &str) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let length = |path: &Path| match (path.is_dir(), path.to_string_lossy().contains(part)) {
        (true, _) => lengths(path, part),
        (false, true) => path.metadata().map_or(0, |metadata| metadata.len()),
        (false, false) => 0,
    };
    entries.flatten().map(|entry| length(&entry.path())).sum()
}

#[test]
fn a_layer_grows_before_its_image_has_come() {
    let server = serve_extension(|_, layer, reply| match layer {
        true => reply.failing(Fault::Stall(3 << 19)),
        false => reply,
    });
    let directory = tempfile::tempdir().unwrap();
    let mut packing = start_packing(directory.path(), &[server.url()]);
    let started = Instant::now();
    while lengths(directory.path(), "/staging/") < 1 << 20 {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is built of what has come");
        assert_eq!(packing.try_wait().unwrap(), None);
        sleep(Duration::from_millis(20));
    }
    assert!(lengths(directory.path(), "/blobs/") < 1 << 16, "changesets are kept");
    packing.kill().unwrap();
    packing.wait().unwrap();
}

#[test]
fn no_more_blobs_are_streamed_at_a_time_than_is_allowed() {
    for (parallel, asked) in [(1, 1), (2, 2), (3, 2)] {
        let server = serve_extension(|_, layer, reply| match layer {
            true => reply.failing(Fault::Stall(1000)),
            false => reply,
        });
        let directory = tempfile::tempdir().unwrap();
        let plywood = format!("{{timeouts: {{idle: 1s, total: 4s}}, downloads: {{parallel: {parallel}}}}}");
        let packing = start_packing_with(directory.path(), &[server.url()], &plywood);
        assert!(!packing.wait_with_output().unwrap().status.success());
        let layers: BTreeSet<_> = extension().layers.into_iter().collect();
        let streamed = layers.iter().filter(|layer| server.count(layer) > 0).count();
        assert_eq!((layers.len(), streamed), (2, asked), "downloads.parallel: {parallel}");
    }
}
