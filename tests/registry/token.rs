//! Debian's `docker-registry` behind a token server, as public registries
//! are: the server here checks who asks and signs what the registry checks.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use plywood::fetch::{Fetcher, Machine, Selection, Silent};
use plywood::oci::registries::{Credentials, Secret};
use plywood::oci::{ImageSource, Platform};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::server::{Reply, Request, Server};
use crate::stage::{self, Access, Pair, openssl_ca};
use crate::{Bench, chain};

const SERVICE: &str = "registry.test";
const IMAGE: &str = "registry.test/tools:amd64";
/// How long `docker-registry` goes on taking a token that has expired.
const LEEWAY: u64 = 60;

/// A token for pulling `tools` (distribution, "Token Authentication
/// Implementation") that expires at a time in seconds since 1970.
fn signed_token(issuer: &Pair, expires: u64) -> String {
    let der = |pem: &str| {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        STANDARD.decode(body).unwrap()
    };
    let certificate = der(&fs::read_to_string(&issuer.certificate).unwrap());
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(certificate)]});
    let claims = json!({
        "iss": "tests", "sub": "user", "aud": SERVICE, "jti": "1",
        "iat": expires - 3600, "nbf": expires - 3600, "exp": expires,
        "access": [{"type": "repository", "name": "tools", "actions": ["pull"]}],
    });
    let encode = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let random = SystemRandom::new();
    let key = der(&fs::read_to_string(&issuer.key).unwrap());
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random).unwrap();
    let signature = pair.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Lets in `user` with the password `right` and the identity token `refresh`.
fn may_pull(request: &Request) -> bool {
    match request.method.as_str() {
        "GET" => {
            request.header("authorization") == Some("Basic dXNlcjpyaWdodA==")
                && request.query == format!("scope=repository%3Atools%3Apull&service={SERVICE}")
        }
        _ => {
            let form: Vec<_> = request.body.split('&').collect();
            form.contains(&"grant_type=refresh_token") && form.contains(&"refresh_token=refresh")
        }
    }
}

/// A registry and its token server. The first `old` tokens expire in about
/// three seconds.
fn start(old: usize) -> (stage::Server, Server) {
    let issuer = Arc::new(openssl_ca());
    let (signer, given) = (issuer.clone(), AtomicUsize::new(0));
    let tokens = Server::start(move |request| {
        if !may_pull(request) {
            return Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#);
        }
        let expires = match given.fetch_add(1, Ordering::SeqCst) < old {
            true => now() + 3 - LEEWAY,
            false => now() + 600,
        };
        Reply::new(200, json!({"access_token": signed_token(&signer, expires)}).to_string())
    });
    let access =
        Access::Token { realm: format!("{}/token", tokens.url()), service: SERVICE, issuer: &issuer };
    (stage::Server::start(&access), tokens)
}

#[test]
fn a_token_server_is_told_who_asks_and_opens_the_registry() {
    let (registry, tokens) = start(0);
    let identity = |token: &str| Credentials::Identity(Secret::new(token.into()));
    let password = |password: &str| Credentials::Basic {
        username: "user".into(),
        password: Secret::new(password.into()),
    };
    for (credentials, result) in [
        (Some(password("right")), Ok(())),
        (Some(identity("refresh")), Ok(())),
        (
            Some(password("wrong")),
            Err("/token does not help: it answers 401 Unauthorized: UNAUTHORIZED, who are you?"),
        ),
        (
            Some(identity("wrong")),
            Err("/token does not help: it answers 401 Unauthorized: UNAUTHORIZED, who are you?"),
        ),
        (None, Err("/token does not help: it answers 401 Unauthorized: UNAUTHORIZED, who are you?")),
    ] {
        let mut bench = Bench::new(&registry.url("http"));
        bench.registries.credentials.extend(credentials.map(|known| (registry.authority(), known)));
        let before = tokens.requests().len();
        match (bench.fetch(IMAGE, "amd64"), result) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(says)) => assert!(error.contains(says), "{error}"),
            (result, _) => panic!("{result:?}"),
        }
        assert_eq!(tokens.requests().len(), before + 1, "one token, for however many requests");
    }
}

#[test]
fn a_token_that_expires_between_documents_and_blobs_is_renewed() {
    let (registry, tokens) = start(1);
    let bench = Bench::new(&registry.url("http")).with_password(&registry.authority(), "right");
    let fetcher = Fetcher::new(Machine {
        store: &bench.store,
        registries: &bench.registries,
        selection: Selection::of(Platform::linux("amd64")),
        network: bench.network.clone(),
        progress: &Silent,
    });
    let source: ImageSource = IMAGE.parse().unwrap();
    let resolved = fetcher.resolve(&source).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(tokens.requests().len(), 1);
    sleep(Duration::from_secs(5));
    fetcher.fetch(resolved).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(tokens.requests().len(), 2);
}
