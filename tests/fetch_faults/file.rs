//! A single file by its URL, as the configuration by network is fetched.

use std::time::{Duration, Instant};

use plywood::fetch::{self, Network, Silent, Timeouts};
use plywood::limits::Bound;
use plywood::text::Escaped;

use crate::server::{Fault, Framing, Reply, Request, Server, nobody};

const TEXT: &str = "version: v1alpha1\n";

fn network() -> Network {
    let short = Duration::from_millis(300);
    let timeouts = Timeouts {
        connect: Duration::from_secs(5),
        first_byte: short,
        idle: short,
        total: Duration::from_secs(20),
        backoff: Duration::from_millis(10),
        longest_pause: Duration::from_secs(2),
    };
    Network { timeouts, ..Network::default() }
}

/// The text of `/file` on a server that answers so, or the reason.
fn get(url: &str) -> Result<String, String> {
    let bytes = fetch::file(url, Bound::Config, network(), &Silent);
    bytes
        .map(|bytes| Escaped::new(&bytes).to_string())
        .map_err(|error| plywood::sys::kmsg::chain(&error).to_string())
}

#[test]
fn a_file_comes_whole_or_not_at_all() {
    type Answer = fn(&Request) -> Reply;
    let rows: &[(&str, Answer, Result<&str, &str>, usize)] = &[
        ("as it is", |_| Reply::new(200, TEXT), Ok(TEXT), 1),
        ("chunked", |_| Reply::new(200, TEXT).framed(Framing::Chunked), Ok(TEXT), 1),
        (
            "503 twice",
            |request| if request.nth < 2 { Reply::new(503, "") } else { Reply::new(200, TEXT) },
            Ok(TEXT),
            3,
        ),
        (
            "429 with Retry-After",
            |request| match request.nth {
                0 => Reply::new(429, "").with("Retry-After", "1"),
                _ => Reply::new(200, TEXT),
            },
            Ok(TEXT),
            2,
        ),
        (
            "a reset once",
            |request| match request.nth {
                0 => Reply::new(200, TEXT).failing(Fault::Reset(5)),
                _ => Reply::new(200, TEXT),
            },
            Ok(TEXT),
            2,
        ),
        (
            "a redirect",
            |request| match request.path.as_str() {
                "/file" => Reply::new(302, "").with("Location", "/other"),
                _ => Reply::new(200, TEXT),
            },
            Ok(TEXT),
            2,
        ),
        ("503 for ever", |_| Reply::new(503, ""), Err("not able to answer now: 503"), 5),
        ("404", |_| Reply::new(404, ""), Err("not found"), 1),
        ("403", |_| Reply::new(403, ""), Err("access denied"), 1),
        ("204", |_| Reply::new(204, ""), Err("it answers 204"), 1),
        ("cut short", |_| Reply::new(200, TEXT).failing(Fault::Cut(5)), Err("the connection failed"), 5),
        ("stalled", |_| Reply::new(200, TEXT).failing(Fault::Stall(5)), Err("timeout"), 5),
        (
            "endless",
            |_| Reply::new(200, TEXT).framed(Framing::UntilClose).failing(Fault::Endless(2 << 20)),
            Err("1MiB"),
            1,
        ),
        (
            "to a file of ours",
            |_| Reply::new(302, "").with("Location", "file:///etc/shadow"),
            Err("the redirect to file:///etc/shadow is refused: it is not a plain http or https URL"),
            1,
        ),
        (
            "in a circle",
            |_| Reply::new(302, "").with("Location", "/file"),
            Err("more than the limit of 5 for redirects"),
            6,
        ),
    ];
    for (rule, answer, expected, requests) in rows {
        let server = Server::start(answer);
        let started = Instant::now();
        match (get(&format!("{}/file?token=hunter2", server.url())), expected) {
            (Ok(text), Ok(expected)) => assert_eq!(text, Escaped::new(expected).to_string(), "{rule}"),
            (Err(error), Err(expected)) => {
                assert!(error.contains(expected), "{rule}: {error}");
                assert!(error.starts_with("cannot fetch http://127.0.0.1:"), "{rule}: {error}");
                assert!(!error.contains("hunter2"), "{rule}: {error}");
            }
            (result, _) => panic!("{rule}: {result:?}"),
        }
        assert_eq!(server.count("/"), *requests, "{rule}");
        assert!(started.elapsed() < Duration::from_secs(25), "{rule}");
    }
}

#[test]
fn where_nobody_answers_the_reason_is_told() {
    for (url, expected) in [
        (format!("http://{}/file", nobody()), "the connection failed"),
        ("file:///etc/shadow".into(), "its URL cannot be used"),
        ("https://user:hunter2@h/".into(), "its URL cannot be used"),
    ] {
        let error = get(&url).unwrap_err();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}
