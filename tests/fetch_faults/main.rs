//! What the registry client does when registries, token servers and networks
//! misbehave. Every server is on loopback; every fetch leaves a clean store.

mod auth;
mod by_hand;
mod dns;
mod file;
mod fixture;
mod proxy;
mod referrers;
mod rows;
mod server;
mod stream;
#[allow(dead_code)]
#[path = "../../src/layer/tar/fixture.rs"]
mod tar;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fixture::{Bench, LAYER_SIZE, Registry};
use plywood::oci::manifest::{INDEX, MANIFEST};
use rows::{LASTING, MIRROR_FAULTS, PASSING, Worsen};
use server::{Fault, Reply, Server, nobody};

/// A server for one image with two changesets.
fn serve(worsen: Worsen) -> Server {
    serve_varied(0, worsen)
}

fn serve_varied(seed: u64, worsen: Worsen) -> Server {
    let registry = Registry::with_image(2);
    Server::varied(seed, move |request| {
        let layer = registry.is_layer(request);
        worsen(request, layer, registry.answer(request))
    })
}

/// Checks every row with some seeds, 2 or as many as `FAULT_SEEDS` says;
/// several at a time, because they mostly wait. Prints what took longest.
fn each<R: Sync>(name: &str, rows: &[R], check: impl Fn(&R, u64) + Sync) {
    let seeds = std::env::var("FAULT_SEEDS").map_or(2, |text| text.parse().expect("FAULT_SEEDS is a number"));
    let (next, longest) = (AtomicUsize::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = rows.get(number / seeds) else { return };
                    let started = Instant::now();
                    check(row, (number % seeds) as u64);
                    longest.fetch_max(started.elapsed().as_millis() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let longest = longest.into_inner();
    println!("{name}: {} rows with {seeds} seeds, the longest in {longest} ms", rows.len());
}

fn good() -> Server {
    serve(|_, _, reply| reply)
}

#[test]
fn a_fetch_survives_what_passes() {
    each("passing faults", PASSING, |(name, worsen), seed| {
        let server = serve_varied(seed, *worsen);
        let bench = Bench::new(&[server.url()]);
        let image = bench.fetch(":v1").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(image.changesets().len(), 2, "{name}");
        for changeset in image.changesets() {
            assert_eq!(changeset.blob().read().unwrap().len(), LAYER_SIZE, "{name}");
        }
    });
}

#[test]
fn a_broken_download_goes_on_where_it_was() {
    let server = serve(|_, layer, reply| match layer {
        true => reply.failing(Fault::Reset(LAYER_SIZE / 4)),
        false => reply,
    });
    let image = Bench::new(&[server.url()]).fetch(":v1").unwrap();
    let blob = image.changesets()[0].blob().digest().to_string();
    let requests = server.requests().into_iter().filter(|request| request.path.ends_with(&blob));
    let ranges: Vec<_> = requests.map(|request| request.header("range").map(str::to_string)).collect();
    let expected = [None, Some("bytes=10000-"), Some("bytes=20000-"), Some("bytes=30000-")];
    assert_eq!(ranges.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
}

#[test]
fn what_does_not_pass_ends_with_its_cause() {
    each("lasting faults", LASTING, |(name, worsen, says, most), seed| {
        let server = serve_varied(seed, *worsen);
        let mut bench = Bench::new(&[server.url()]);
        bench.network.timeouts.total = Duration::from_secs(8);
        let started = Instant::now();
        let error = bench.fetch(":v1").err().unwrap_or_else(|| panic!("{name}: fetched"));
        assert!(
            error.starts_with("cannot fetch registry.test/tools:v1: no endpoint delivered"),
            "{name}: {error}"
        );
        assert!(error.contains(says), "{name}: {error}");
        assert!(started.elapsed() < Duration::from_secs(12), "{name}: {:?}", started.elapsed());
        for request in server.requests() {
            assert!(request.nth < *most, "{name}: {} asked {} times", request.path, request.nth + 1);
        }
    });
}

#[test]
fn attempts_end_where_any_rate_is_good_enough() {
    let server = serve(|_, layer, reply| if layer { reply.failing(Fault::Reset(0)) } else { reply });
    let mut bench = Bench::new(&[server.url()]);
    bench.network.downloads.minimum_rate = 0;
    let error = bench.fetch(":v1").unwrap_err();
    assert!(error.contains("the connection failed"), "{error}");
    for request in server.requests() {
        assert!(request.nth < 25, "{} asked {} times", request.path, request.nth + 1);
    }
}

#[test]
fn an_answer_may_take_longer_than_a_body_may_pause() {
    let server = serve(|_, layer, reply| {
        if layer {
            std::thread::sleep(std::time::Duration::from_millis(1500));
        }
        reply
    });
    let bench = Bench::new(&[server.url()]);
    bench.fetch(":v1").unwrap();
    assert!(!bench.saw("Failed"), "{:?}", bench.events);
}

#[test]
fn what_no_endpoint_has_is_not_asked_for_twice() {
    let server = serve(|_, layer, mut reply| {
        if layer {
            reply.body[7] ^= 1;
        }
        reply
    });
    let bench = Bench::new(&[server.url()]);
    let error = bench.with_fetcher(|fetcher| {
        let stream = || {
            let image = fetcher.stream(fetcher.resolve(&fixture::source(":v1"))?)?;
            image.blobs()[0].read().unwrap_err();
            Err::<(), _>(image.interrupted().expect("a failed reader says why").error)
        };
        stream().unwrap_err();
        stream()
    });
    let error = error.unwrap_err();
    assert!(
        error.contains("every endpoint has already delivered something else for blob sha256:"),
        "{error}"
    );
}

#[test]
fn a_server_without_tls_is_named_so() {
    let server = good();
    let bench = Bench::new(&[server.url().replace("http:", "https:")]);
    let error = bench.fetch(":v1").unwrap_err();
    assert!(error.contains("it does not speak TLS on this port"), "{error}");
}

#[test]
fn another_endpoint_helps_out() {
    each("faults of a mirror", MIRROR_FAULTS, |(name, worsen), seed| {
        let (mirror, upstream) = (serve_varied(seed, *worsen), good());
        let bench = Bench::new(&[mirror.url(), upstream.url()]);
        bench.fetch(":v1").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(bench.saw("Failed"), "{name}");
    });
    let upstream = good();
    let bench = Bench::new(&[format!("http://{}", nobody()), upstream.url()]);
    bench.fetch(":v1").unwrap();
}

#[test]
fn an_endpoint_is_not_asked_before_the_time_that_it_said() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let times = asked.clone();
    let (good, bad) = (Registry::with_image(1), serve(|_, _, _| Reply::new(503, "")));
    let busy = Server::start(move |request| {
        if request.path.ends_with("/v1") {
            times.lock().unwrap().push(Instant::now());
        }
        // More often than anything else is tried.
        match request.path.ends_with("/v1") && request.nth < 6 {
            true => Reply::new(429, "").with("Retry-After", "1"),
            false => good.answer(request),
        }
    });
    let mut bench = Bench::new(&[busy.url(), bad.url()]);
    // Else the pauses of our own might use up the time for the whole pull.
    bench.network.timeouts.longest_pause = Duration::from_secs(1);
    bench.fetch(":v1").unwrap();
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 7);
    for pair in asked.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(990), "{:?}", pair[1] - pair[0]);
    }
}

#[test]
fn when_all_fail_each_is_listed_with_its_cause() {
    let (missing, denied) = (serve(|_, _, _| Reply::new(404, "")), serve(|_, _, _| Reply::new(403, "")));
    let down = format!("http://{}", nobody());
    let error = Bench::new(&[down.clone(), missing.url(), denied.url()]).fetch(":v1").unwrap_err();
    for part in [
        format!("{down}/v2: the connection failed: "),
        format!("{}/v2: not found", missing.url()),
        format!("{}/v2: access denied", denied.url()),
    ] {
        assert!(error.contains(&part), "{error}");
    }
}

#[test]
fn a_mirror_is_told_the_registry_and_the_repository() {
    let server = good();
    Bench::new(&[server.url()]).fetch(":v1").unwrap();
    for request in server.requests() {
        assert!(request.path.starts_with("/v2/tools/"), "{}", request.path);
        assert_eq!(request.query, "ns=registry.test");
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
}

#[test]
fn what_is_stored_is_never_asked_for() {
    let server = good();
    let bench = Bench::new(&[server.url()]);
    let image = bench.fetch(":v1").unwrap();
    let before = server.requests().len();
    assert_eq!(before, 4);
    let pinned = format!(":v1@{}", image.digest());
    assert_eq!(bench.fetch(&pinned).unwrap().changesets(), image.changesets());
    assert_eq!(server.requests().len(), before);
    // A tag must be asked for, and nothing else.
    bench.fetch(":v1").unwrap();
    assert_eq!(server.requests().len(), before + 1);
    // Nor does it need an endpoint.
    let mut alone = Bench::new(&[]);
    alone.store = bench.reopen();
    assert_eq!(alone.fetch(&pinned).unwrap().changesets(), image.changesets());
    assert!(alone.fetch(":v1").unwrap_err().contains("no endpoint is configured"));
    let blob = *image.changesets()[1].blob().digest();
    bench.store.remove_blob(&blob).unwrap();
    bench.fetch(&pinned).unwrap();
    assert_eq!(server.requests().len(), before + 2);
    assert_eq!(server.count(&blob.to_string()), 2);
}

#[test]
fn a_damaged_document_is_fetched_again() {
    let server = good();
    let bench = Bench::new(&[server.url()]);
    let image = bench.fetch(":v1").unwrap();
    let before = server.requests().len();
    bench.damage(image.digest());
    bench.fetch(&format!("@{}", image.digest())).unwrap();
    assert_eq!(server.requests().len(), before + 1);
}

#[test]
fn a_pinned_digest_counts_whatever_the_headers_say() {
    let mut other = Registry::with_image(1);
    let wanted = format!("sha256:{}", "ab".repeat(32));
    let digest = other.tags["v1"].clone();
    other.tags.insert(wanted.clone(), digest);
    let claimed = wanted.clone();
    let server = Server::start(move |request| other.answer(request).with("Docker-Content-Digest", &claimed));
    let error = Bench::new(&[server.url()]).fetch(&format!("@{wanted}")).unwrap_err();
    assert!(error.contains(&format!("content expected to have digest {wanted}")), "{error}");
}

#[test]
fn a_tag_that_moves_does_not_mix_images() {
    let (old, mut new) = (Registry::with_image(2), Registry::with_image(1));
    new.blobs.extend(old.blobs.clone());
    let digest = old.tags["v1"].clone();
    let server = Server::start(move |request| match request.nth {
        0 => old.answer(request),
        _ => new.answer(request),
    });
    let image = Bench::new(&[server.url()]).fetch(":v1").unwrap();
    assert_eq!(image.digest().to_string(), digest);
    assert_eq!(server.count("/manifests/v1"), 1);
}

#[test]
fn an_index_leads_to_this_platform() {
    let mut registry = Registry::with_image(2);
    let amd64 = registry.tags["v1"].clone();
    let arm64 = registry.add_image("arm64", &[b"other".to_vec()]);
    let both = registry.add_index(&[(&arm64, MANIFEST, Some("arm64")), (&amd64, MANIFEST, Some("amd64"))]);
    let only = registry.add_index(&[(&arm64, MANIFEST, Some("arm64"))]);
    let nested = registry.add_index(&[(&only, INDEX, None), (&both, INDEX, None)]);
    let deep = (0..3).fold(both.clone(), |inner, _| registry.add_index(&[(&inner, INDEX, None)]));
    let mislabelled = registry.add_index(&[(&amd64, INDEX, Some("amd64"))]);
    for (tag, digest, result) in [
        ("both", both, Ok(())),
        ("nested", nested, Ok(())),
        ("only", only, Err("no image for linux/amd64; it has linux/arm64")),
        ("deep", deep, Err("(plywood.limits.indexDepth)")),
        ("mislabelled", mislabelled, Err("where the index says")),
        ("arm64", arm64, Err("it is for linux/arm64, this machine needs linux/amd64")),
    ] {
        registry.tags.insert("tag".into(), digest);
        let serving = registry.clone();
        let server = Server::start(move |request| serving.answer(request));
        let bench = Bench::new(&[server.url()]);
        match (bench.fetch(":tag"), result) {
            (Ok(image), Ok(())) => {
                assert_eq!(image.digest().to_string(), amd64, "{tag}");
                let index = registry.tags["tag"].clone();
                let before = server.requests().len();
                bench.fetch(&format!("@{index}")).unwrap();
                assert_eq!(server.requests().len(), before, "{tag}: its index is stored");
            }
            (Err(error), Err(says)) => assert!(error.contains(says), "{tag}: {error}"),
            (result, _) => panic!("{tag}: {result:?}"),
        }
    }
}

#[test]
fn an_index_bomb_is_cut_short() {
    let mut registry = Registry::with_image(1);
    let leaves: Vec<String> = (0..100)
        .map(|n| {
            let arm = registry.add_image("arm64", &[vec![n]]);
            registry.add_index(&[(&arm, MANIFEST, Some("arm64"))])
        })
        .collect();
    let entries: Vec<_> = leaves.iter().map(|leaf| (leaf.as_str(), INDEX, None)).collect();
    let bomb = registry.add_index(&entries);
    registry.tags.insert("bomb".into(), bomb);
    let server = Server::start(move |request| registry.answer(request));
    let error = Bench::new(&[server.url()]).fetch(":bomb").unwrap_err();
    assert!(error.contains("(plywood.limits.documents)"), "{error}");
    assert!(server.requests().len() <= 64);
}
