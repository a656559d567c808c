//! What refers to an image, from registries of three kinds.

use serde_json::{Value, json};

use crate::by_hand::{inspect, shown, workplace};
use crate::fixture::Registry;
use crate::server::{Reply, Server};
use plywood::oci::Digest;
use plywood::oci::manifest::INDEX;

/// An index of one referrer of some type.
fn listing(artifact_type: &str) -> Vec<u8> {
    let entry = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::sha256(artifact_type.as_bytes()),
        "size": 3,
        "artifactType": artifact_type,
    });
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string().into_bytes()
}

fn index(artifact_type: &str) -> Reply {
    Reply::new(200, listing(artifact_type)).with("Content-Type", INDEX)
}

#[test]
fn referrers_are_listed_by_api_or_by_tag() {
    type Answer = fn(&str) -> Option<Reply>;
    type Case = (&'static str, Answer, Result<&'static [&'static str], &'static str>);
    let cases: &[Case] = &[
        (
            "two pages of the API",
            |path| match path.rsplit_once('/')? {
                (api, "next") if api.contains("/referrers/") => Some(index("second")),
                (api, digest) if api.ends_with("/referrers") => {
                    Some(index("first").with("Link", &format!("<{digest}/next>; rel=\"next\"")))
                }
                _ => None,
            },
            Ok(&["first", "second"]),
        ),
        ("the tag", |path| path.contains("/manifests/sha256-").then(|| index("tagged")), Ok(&["tagged"])),
        (
            "a page for everything, and the tag",
            |path| match path.contains("/manifests/sha256-") {
                true => Some(index("tagged")),
                false if path.contains("/referrers/") => {
                    Some(Reply::new(200, "<html>").with("Content-Type", "text/html"))
                }
                false => None,
            },
            Ok(&["tagged"]),
        ),
        ("neither", |_| None, Ok(&[])),
        (
            "a broken list",
            |path| path.contains("/referrers/").then(|| Reply::new(200, "{}").with("Content-Type", INDEX)),
            Err("no document of an image"),
        ),
        ("a refusal", |path| path.contains("/referrers/").then(|| Reply::new(403, "")), Err("access denied")),
    ];
    for (name, answer, expected) in cases {
        let registry = Registry::with_image(1);
        let answer = *answer;
        let server =
            Server::start(move |request| answer(&request.path).unwrap_or_else(|| registry.answer(request)));
        let directory = workplace(&server);
        let output = inspect(directory.path(), &[], &["--referrers"]);
        match expected {
            Ok(expected) => {
                assert!(output.status.success(), "{name}: {}", shown(&output));
                let report: Value = serde_json::from_slice(&output.stdout).unwrap();
                let listed = report["referrers"].as_array().unwrap().iter();
                let types: Vec<_> =
                    listed.map(|referrer| referrer["artifactType"].as_str().unwrap()).collect();
                assert_eq!(types, *expected, "{name}");
            }
            Err(says) => assert!(shown(&output).contains(says), "{name}: {}", shown(&output)),
        }
    }
}
