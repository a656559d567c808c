//! Who is told which secret.

use std::sync::atomic::{AtomicUsize, Ordering};

use plywood::oci::registries::{Credentials, Secret};

use crate::fixture::{Bench, Registry};
use crate::server::{Fault, Framing, Reply, Request, Server};

/// `user:right` in base64.
const RIGHT: &str = "Basic dXNlcjpyaWdodA==";

pub fn basic(request: &Request, reply: Reply) -> Reply {
    match request.header("authorization") {
        Some(RIGHT) => reply,
        _ => Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#)
            .with("WWW-Authenticate", r#"Basic realm="registry""#),
    }
}

fn challenge(realm: &str) -> Reply {
    let value = format!(r#"Bearer realm="{realm}",service="s",scope="repository:tools:pull,push""#);
    Reply::new(401, "").with("WWW-Authenticate", &value)
}

/// A registry that wants `Bearer <wanted>` and hands out tokens at `/token` of
/// its own.
fn bearer(token_reply: fn(&Request) -> Reply, wanted: &str) -> Server {
    let registry = Registry::with_image(5);
    let wanted = format!("Bearer {wanted}");
    Server::start(move |request| {
        if request.path == "/token" {
            return token_reply(request);
        }
        match request.header("authorization") {
            Some(has) if has == wanted.as_str() => registry.answer(request),
            _ => challenge(&format!("http://{}/token", request.header("host").unwrap())),
        }
    })
}

fn token(request: &Request) -> Reply {
    Reply::new(200, format!(r#"{{"token":"token{}"}}"#, request.nth))
}

#[test]
fn a_password_opens_a_registry_and_is_told_to_no_other() {
    let registry = Registry::with_image(2);
    let server = Server::start(move |request| basic(request, registry.answer(request)));
    for (password, result) in
        [("right", Ok(())), ("wrong", Err("not authorized: UNAUTHORIZED, who are you?"))]
    {
        let bench = Bench::new(&[server.url()]).with_password(&server.authority(), password);
        match (bench.fetch(":v1"), result) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(says)) => {
                assert!(error.contains(says), "{error}");
                assert!(!error.contains("wrong"), "{error}");
            }
            (result, _) => panic!("{result:?}"),
        }
    }
    let elsewhere = Bench::new(&[server.url()]).with_password("other.test", "right");
    elsewhere.fetch(":v1").unwrap_err();
    assert_eq!(server.requests().last().unwrap().header("authorization"), None);
}

#[test]
fn a_token_is_asked_for_once_and_for_pulling_only() {
    let server = bearer(token, "token0");
    let bench = Bench::new(&[server.url()]).with_password(&server.authority(), "right");
    bench.fetch(":v1").unwrap();
    let tokens: Vec<_> = server.requests().into_iter().filter(|r| r.path == "/token").collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].query, "scope=repository%3Atools%3Apull&service=s");
    assert_eq!(tokens[0].header("authorization"), Some(RIGHT));
    let anonymous = Bench::new(&[server.url()]);
    anonymous.fetch(":v1").unwrap_err();
    assert_eq!(server.requests().iter().rfind(|r| r.path == "/token").unwrap().header("authorization"), None);
}

#[test]
fn an_identity_token_is_posted_not_put_into_a_url() {
    let server = bearer(
        |request| {
            assert_eq!(request.method, "POST");
            Reply::new(200, r#"{"access_token":"token0"}"#)
        },
        "token0",
    );
    let mut bench = Bench::new(&[server.url()]);
    let identity = Credentials::Identity(Secret::new("refresh&me".into()));
    bench.registries.credentials.insert(server.authority(), identity);
    bench.fetch(":v1").unwrap();
    let request = server.requests().into_iter().find(|r| r.path == "/token").unwrap();
    assert_eq!(request.query, "");
    assert!(request.body.contains("grant_type=refresh_token&"), "{}", request.body);
    assert!(request.body.ends_with("refresh_token=refresh%26me"), "{}", request.body);
}

#[test]
fn an_identity_token_that_is_replaced_is_not_sent_again() {
    let registry = Registry::with_image(5);
    let served = AtomicUsize::new(0);
    // Each identity token is good for one token, each token for two answers.
    let server = Server::start(move |request| {
        if request.path == "/token" {
            let sent = format!("refresh_token=refresh{}", request.nth);
            if !request.body.split('&').any(|pair| pair == sent) {
                return Reply::new(401, r#"{"error":"invalid_grant"}"#);
            }
            let next = request.nth + 1;
            let granted = format!(r#"{{"access_token":"token{next}","refresh_token":"refresh{next}"}}"#);
            return Reply::new(200, granted);
        }
        let wanted = format!("Bearer token{}", served.load(Ordering::SeqCst) / 2 + 1);
        if request.header("authorization") != Some(&wanted) {
            return challenge(&format!("http://{}/token", request.header("host").unwrap()));
        }
        served.fetch_add(1, Ordering::SeqCst);
        registry.answer(request)
    });
    let mut bench = Bench::new(&[server.url()]);
    bench.network.downloads.parallel = std::num::NonZeroU32::MIN;
    let identity = Credentials::Identity(Secret::new("refresh0".into()));
    bench.registries.credentials.insert(server.authority(), identity);
    bench.fetch(":v1").unwrap();
    assert_eq!(server.count("/token"), 4);
    assert!(!bench.saw("refresh"));
}

#[test]
fn a_token_that_expires_mid_pull_is_renewed_once() {
    let registry = Registry::with_image(5);
    let served = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.path == "/token" {
            return token(request);
        }
        // Manifest, image config and two blobs, then the token is worth nothing.
        let wanted = if served.load(Ordering::SeqCst) < 4 { "Bearer token0" } else { "Bearer token1" };
        if request.header("authorization") != Some(wanted) {
            return challenge(&format!("http://{}/token", request.header("host").unwrap()));
        }
        served.fetch_add(1, Ordering::SeqCst);
        registry.answer(request)
    });
    Bench::new(&[server.url()]).fetch(":v1").unwrap();
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn a_challenge_without_end_is_answered_once() {
    let server = bearer(token, "no such");
    let error = Bench::new(&[server.url()]).fetch(":v1").unwrap_err();
    assert!(error.contains("not authorized"), "{error}");
    assert_eq!((server.count("/manifests/"), server.count("/token")), (2, 1));
}

#[test]
fn token_answers_are_bounded_and_must_hold_a_token() {
    type Answer = fn(&Request) -> Reply;
    let cases: &[(Answer, &str)] = &[
        (|_| Reply::new(200, "<html>"), "not the JSON of a token"),
        (|_| Reply::new(200, "{}"), "holds no token"),
        (|_| Reply::new(200, r#"{"token":""}"#), "holds no token"),
        (|_| Reply::new(200, r#"{"token":"a\nb"}"#), "characters that no token has"),
        (
            |_| Reply::new(200, "").framed(Framing::Chunked).failing(Fault::Endless(1 << 20)),
            "more than the limit of 64KiB",
        ),
        (
            |_| Reply::new(302, "").with("Location", "https://169.254.169.254/"),
            "it redirects, which is not followed",
        ),
        (|_| Reply::new(401, ""), "/token does not help: it answers 401 Unauthorized"),
        (
            |_| Reply::new(400, r#"{"error":"invalid_grant","error_description":"\u001b[2J"}"#),
            r"/token does not help: it answers 400 Bad Request: invalid_grant, \x1b[2J",
        ),
        (|_| Reply::new(404, ""), "404"),
        (
            |_| Reply::new(503, r#"{"details":"later"}"#).with("Retry-After", "99999"),
            "/token does not help: it is not able to answer now: 503 Service Unavailable: later",
        ),
        (
            |_| Reply::new(200, "").failing(Fault::StallHeaders),
            "/token does not help: timeout while waiting for",
        ),
    ];
    for (answer, says) in cases {
        let server = bearer(*answer, "token0");
        let error = Bench::new(&[server.url()]).fetch(":v1").unwrap_err();
        assert!(error.contains(says), "{says}: {error}");
        assert!(error.contains(&format!("http://{}/token", server.authority())), "{error}");
        // A timeout may pass.
        let most = if says.contains("timeout") { 5 } else { 1 };
        assert!(server.count("/token") <= most, "{says}");
    }
}

#[test]
fn no_credentials_leave_for_a_realm_of_a_strangers_choice() {
    let stranger = Server::start(|_| Reply::new(200, r#"{"token":"x"}"#));
    // The other port of the same host is ours only because the endpoint is
    // plain http on it; `localhost` is another host.
    let port = stranger.authority().rsplit(':').next().unwrap().to_string();
    for (realm, says) in [
        (format!("http://localhost:{port}/token"), "it is not https"),
        (format!("https://localhost:{port}/token"), "its address is local"),
        ("https://169.254.169.254/latest".into(), "its address is local"),
        ("http://auth.example.com/token".into(), "it is not https"),
        (format!("http://user:hidden@127.0.0.1:{port}/token"), "not a plain http or https URL"),
        ("file:///etc/shadow".into(), "not a plain http or https URL"),
    ] {
        let sent = realm.clone();
        let server = Server::start(move |_| challenge(&sent));
        let bench = Bench::new(&[server.url()]).with_password(&server.authority(), "right");
        let error = bench.fetch(":v1").unwrap_err();
        assert!(error.contains(says), "{realm}: {error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    assert_eq!(stranger.requests().len(), 0);
}

#[test]
fn a_redirect_carries_the_password_to_its_own_origin_only() {
    let registry = Registry::with_image(2);
    let other = registry.clone();
    let storage = Server::start(move |request| other.answer(request));
    let target = storage.url();
    let server = Server::start(move |request| {
        let layer = registry.is_layer(request);
        match (layer, basic(request, registry.answer(request))) {
            (true, reply) if reply.status == 200 && !request.query.contains("again") => {
                let location = format!("{}?again", request.path);
                Reply::new(307, "").with("Location", &location)
            }
            (true, reply) if reply.status == 200 => {
                Reply::new(307, "").with("Location", &format!("{target}{}?signature=hidden", request.path))
            }
            (_, reply) => reply,
        }
    });
    let bench = Bench::new(&[server.url()]).with_password(&server.authority(), "right");
    bench.fetch(":v1").unwrap();
    assert_eq!(storage.requests().len(), 2);
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None);
    }
    assert!(!bench.saw("hidden"));
}

#[test]
fn a_challenge_from_where_a_redirect_led_is_not_answered() {
    let stranger = Server::start(|_| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"));
    let target = stranger.url();
    let server = Server::start(move |_| Reply::new(307, "").with("Location", &format!("{target}/x")));
    let bench = Bench::new(&[server.url()]).with_password(&server.authority(), "right");
    let error = bench.fetch(":v1").unwrap_err();
    assert!(error.contains("not authorized"), "{error}");
    assert_eq!(stranger.requests().len(), 1);
    assert_eq!(stranger.requests()[0].header("authorization"), None);
}
