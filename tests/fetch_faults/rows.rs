//! The faults, as rows: those that a fetch survives, those that end it, and
//! those of a mirror that another endpoint makes up for.

use plywood::oci::manifest::INDEX;

use crate::fixture::{LAYER_SIZE, Registry};
use crate::server::{Fault, Framing, Reply, Request};

/// How a reply is made worse: from the request, whether it is for a
/// changeset, and the good reply.
pub type Worsen = fn(&Request, bool, Reply) -> Reply;

/// What may happen on the way to a good end.
pub const PASSING: &[(&str, Worsen)] = &[
    ("no fault", |_, _, reply| reply),
    ("503 three times", |request, _, reply| match request.nth {
        0..3 => Reply::new(503, ""),
        _ => reply,
    }),
    ("429 with Retry-After in seconds", |request, layer, reply| match (layer, request.nth) {
        (true, 0) => Reply::new(429, "").with("Retry-After", "1"),
        _ => reply,
    }),
    ("429 with Retry-After as a date", |request, layer, reply| match (layer, request.nth) {
        (true, 0) => Reply::new(429, "")
            .with("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .with("Retry-After", "Sun, 06 Nov 1994 08:49:38 GMT"),
        _ => reply,
    }),
    ("a reset before the first byte", |request, _, reply| match request.nth {
        0 => reply.failing(Fault::Reset(0)),
        _ => reply,
    }),
    ("a reset at each tenth of a blob", |_, layer, reply| match layer {
        true => reply.failing(Fault::Reset(LAYER_SIZE / 10)),
        false => reply,
    }),
    ("truncated bodies", |_, layer, reply| match layer {
        true => reply.failing(Fault::Cut(LAYER_SIZE / 3)),
        false => reply,
    }),
    ("a manifest cut off once", |request, layer, reply| match (layer, request.nth) {
        (false, 0) => reply.failing(Fault::Cut(50)),
        _ => reply,
    }),
    ("a body longer than the blob", |_, layer, mut reply| {
        if layer {
            reply.body.extend(b"excess");
        }
        reply
    }),
    ("a Content-Length that is too long", |_, layer, reply| match layer {
        true => reply.framed(Framing::Length(100)),
        false => reply,
    }),
    ("a Content-Length that is too short once", |request, layer, reply| match (layer, request.nth) {
        (true, 0) => reply.framed(Framing::Length(-100)),
        _ => reply,
    }),
    ("no Content-Length", |_, _, reply| reply.framed(Framing::UntilClose)),
    ("no Content-Length and a cut", |request, layer, reply| {
        let reply = reply.framed(Framing::UntilClose);
        if layer && request.nth == 0 { reply.failing(Fault::Cut(100)) } else { reply }
    }),
    ("chunks", |_, _, reply| reply.framed(Framing::Chunked)),
    ("chunks that end early", |request, layer, reply| {
        let reply = reply.framed(Framing::Chunked);
        if layer && request.nth == 0 { reply.failing(Fault::Cut(5000)) } else { reply }
    }),
    ("the whole blob in answer to a range", |request, layer, reply| {
        match (layer, request.nth, request.header("range")) {
            (true, 0, _) => reply.failing(Fault::Reset(5000)),
            (true, _, Some(_)) => {
                let registry = Registry::with_image(2);
                registry.answer(&Request { headers: Default::default(), ..request.clone() })
            }
            _ => reply,
        }
    }),
    ("another range than was asked for", |request, layer, reply| {
        match (layer, request.nth, request.header("range")) {
            (true, 0, _) => reply.failing(Fault::Reset(5000)),
            (true, _, Some(_)) => reply.with("Content-Range", "bytes 0-39999/40000"),
            _ => reply,
        }
    }),
    ("no ranges at all", |request, layer, reply| match (layer, request.nth, request.header("range")) {
        (true, 0, _) => reply.failing(Fault::Reset(5000)),
        (true, _, Some(_)) => Reply::new(416, ""),
        _ => reply,
    }),
    ("headers that stall once", |request, layer, reply| match (layer, request.nth) {
        (true, 0) => reply.failing(Fault::StallHeaders),
        _ => reply,
    }),
    ("a body that stalls", |request, layer, reply| match (layer, request.nth) {
        (true, 0) => reply.failing(Fault::Stall(5000)),
        _ => reply,
    }),
    ("a Docker-Content-Digest that lies", |_, _, reply| {
        reply.with("Docker-Content-Digest", &format!("sha256:{}", "0".repeat(64)))
    }),
    ("no Content-Type", |_, _, reply| reply.without("Content-Type")),
    ("a Content-Encoding that is none", |_, _, reply| reply.with("Content-Encoding", "gzip")),
    ("connections that stay open", |_, _, reply| reply.with("Connection", "keep-alive")),
    ("connections that close though said to stay open", |_, _, reply| {
        reply.with("Connection", "keep-alive").failing(Fault::HangUp)
    }),
    ("chunks on a connection that stays open", |_, _, reply| {
        reply.with("Connection", "keep-alive").framed(Framing::Chunked)
    }),
    ("an empty answer once", |request, _, reply| match request.nth {
        0 => Reply::new(200, "").framed(Framing::Raw),
        _ => reply,
    }),
    ("a redirect to a sibling", |request, layer, reply| match (layer, request.nth) {
        (true, 0) => Reply::new(307, "").with("Location", &request.path),
        _ => reply,
    }),
];

/// Name, fault, what the message says, most requests for one thing.
pub const LASTING: &[(&str, Worsen, &str, usize)] = &[
    (
        "404",
        |_, _, _| Reply::new(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"\u001b[2J"}]}"#),
        r": not found: NAME_UNKNOWN, \x1b[2J",
        1,
    ),
    ("404 for a blob", |_, layer, reply| if layer { Reply::new(404, "") } else { reply }, "not found", 1),
    ("403", |_, _, _| Reply::new(403, "<html>"), ": access denied", 1),
    ("418", |_, _, _| Reply::new(418, ""), "418", 1),
    ("502 as HTML for ever", |_, _, _| Reply::new(502, "<html>"), "502", 5),
    ("429 with an endless pause", |_, _, _| Reply::new(429, "").with("Retry-After", "99999"), "429", 1),
    ("a corrupt manifest", |_, _, reply| Reply { body: b"{".to_vec(), ..reply }, "no document", 1),
    (
        "HTML for a manifest",
        |_, _, reply| reply.with("Content-Type", "text/html"),
        "`text/html` is not a manifest",
        1,
    ),
    ("a Content-Type of another kind", |_, _, reply| reply.with("Content-Type", INDEX), "announced as", 1),
    (
        "429 without a pause for whoever goes on",
        |request, layer, reply| match (layer, request.nth) {
            (true, 0) => reply.failing(Fault::Reset(5000)),
            (true, _) => Reply::new(429, "").with("Retry-After", "0"),
            _ => reply,
        },
        "429",
        25,
    ),
    (
        "a corrupt blob",
        |_, layer, mut reply| {
            if layer {
                reply.body[7] ^= 1;
            }
            reply
        },
        "not what was asked for: content expected to have digest",
        1,
    ),
    (
        "an endless manifest",
        |_, _, reply| reply.framed(Framing::Chunked).failing(Fault::Endless(8 << 20)),
        "more than the limit of 4MiB",
        1,
    ),
    (
        "a redirect in a circle",
        |request, _, _| Reply::new(302, "").with("Location", &request.path),
        "(plywood.limits.redirects)",
        6,
    ),
    (
        "a redirect to a file",
        |_, _, _| Reply::new(302, "").with("Location", "file:///etc/shadow"),
        "not a plain http",
        1,
    ),
    ("a redirect to nowhere", |_, _, _| Reply::new(302, ""), "not a plain http", 1),
    (
        "1000 headers",
        |_, _, reply| (0..1000).fold(reply, |reply, number| reply.with(&format!("X-{number}"), "x")),
        "too many headers",
        1,
    ),
    (
        "headers of 80 KiB",
        |_, _, reply| reply.with("X-A", &"x".repeat(40_000)).with("X-B", &"x".repeat(40_000)),
        "longer than 65536",
        1,
    ),
    ("no content", |_, _, _| Reply::new(204, ""), "204", 1),
    (
        "a compressed manifest",
        |_, layer, reply| {
            let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0".to_vec();
            if layer { reply } else { Reply { body: gzip, ..reply }.with("Content-Encoding", "gzip") }
        },
        "no document of an image",
        1,
    ),
    (
        "HTTP/2 that says goodbye",
        |_, _, _| {
            let settings_and_goaway = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
            Reply::new(0, settings_and_goaway).framed(Framing::Raw)
        },
        "it answers outside HTTP",
        1,
    ),
    (
        "a first line that never ends",
        |_, _, _| Reply::new(0, [b"HTTP/1.1 200 ", &[b'a'; 200_000][..]].concat()).framed(Framing::Raw),
        "longer than 65536",
        5,
    ),
    (
        "interim answers without end",
        |_, _, _| Reply::new(0, b"HTTP/1.1 100 Continue\r\n\r\n".repeat(40_000)).framed(Framing::Raw),
        "longer than 65536",
        5,
    ),
    (
        "a header with a control character",
        |_, _, reply| reply.with("X-A", "x\rAuthorization: y\0"),
        "it answers outside HTTP",
        1,
    ),
    (
        "two lengths",
        |_, _, reply| Reply { framing: Framing::UntilClose, ..reply }.with("Content-Length", "5, 6"),
        "conflicting content-length headers",
        5,
    ),
    (
        "headers a byte at a time",
        |_, _, reply| reply.failing(Fault::DripHeaders(100)),
        "timeout while waiting for its answer",
        5,
    ),
    ("no answer at all", |_, _, _| Reply::new(0, "").framed(Framing::Raw), "the connection failed", 5),
    (
        "resets for ever",
        |_, layer, reply| if layer { reply.failing(Fault::Reset(0)) } else { reply },
        "the connection failed",
        25,
    ),
    (
        "a stall for ever",
        |_, layer, reply| if layer { reply.failing(Fault::Stall(0)) } else { reply },
        "timeout while waiting for the next byte",
        25,
    ),
];

/// What a mirror may do before its upstream is asked.
pub const MIRROR_FAULTS: &[(&str, Worsen)] = &[
    ("404", |_, _, _| Reply::new(404, "")),
    ("404 for blobs", |_, layer, reply| if layer { Reply::new(404, "") } else { reply }),
    ("500", |_, _, _| Reply::new(500, "")),
    ("401", |_, _, _| Reply::new(401, "")),
    ("an endless pause", |_, _, _| Reply::new(429, "").with("Retry-After", "99999")),
    ("a slow mirror", |_, _, reply| reply.failing(Fault::StallHeaders)),
    ("a byte now and then", |_, layer, reply| match layer {
        true => reply.failing(Fault::Drip(50)),
        false => reply,
    }),
    ("the header of a chunk that never ends", |_, layer, reply| match layer {
        true => Reply { body: [b"5;", &[b'x'; 40_000][..]].concat(), ..reply }
            .framed(Framing::Chunked)
            .failing(Fault::Drip(50)),
        false => reply,
    }),
    ("HTML", |_, _, reply| reply.with("Content-Type", "text/html")),
    ("corrupt blobs", |_, layer, mut reply| {
        if layer {
            reply.body[7] ^= 1;
        }
        reply
    }),
    ("half a blob", |_, layer, reply| match layer {
        true => Reply { body: reply.body[..5000].to_vec(), ..reply },
        false => reply,
    }),
];
