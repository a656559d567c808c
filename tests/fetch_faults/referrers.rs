//! What refers to an image, from registries of three kinds.

use serde_json::{Value, json};

use crate::auth::basic;
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
        (
            "pages without end",
            |path| {
                let link = format!("<{path}>; rel=\"next\"");
                path.contains("/referrers/").then(|| index("again").with("Link", &link))
            },
            Err("its list of referrers has more than 8 pages"),
        ),
        (
            "a page that is missing",
            |path| {
                let link = "</v2/none>; rel=\"next\"";
                path.contains("/referrers/").then(|| index("first").with("Link", link))
            },
            Err("its list of referrers lacks a page that it announces"),
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

/// The list is redirected elsewhere, and goes on there.
#[test]
fn a_list_that_leads_elsewhere_is_followed_without_credentials() {
    let stranger = Server::start(|request| match request.path.as_str() {
        "/list" => index("first").with("Link", "</more>; rel=\"next\""),
        _ => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"),
    });
    let registry = Registry::with_image(1);
    let list = format!("{}/list", stranger.url());
    let server = Server::start(move |request| match request.path.contains("/referrers/") {
        true => basic(request, Reply::new(302, "").with("Location", &list)),
        false => basic(request, registry.answer(request)),
    });
    let directory = workplace(&server);
    let auth = format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpyaWdodA=="}}}}}}"#, server.authority());
    std::fs::write(directory.path().join("auth.json"), auth).unwrap();
    let output = inspect(directory.path(), &[], &["--referrers", "--authfile", "auth.json"]);
    assert!(shown(&output).contains("its list of referrers goes on at another server"), "{}", shown(&output));
    let asked: Vec<_> = stranger.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/list"]);
    assert_eq!(stranger.requests()[0].header("authorization"), None);
}
