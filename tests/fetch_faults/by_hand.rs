//! The binary as a person runs it: passwords and proxies that the environment
//! leads to, and nothing secret in what it prints.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::auth::basic;
use crate::fixture::{REGISTRY, Registry};
use crate::proxy::tunnel;
use crate::server::Server;

/// A directory with a configuration that leads `registry.test` to `server`.
pub fn workplace(server: &Server) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let config = format!(
        "version: v1alpha1\nmachine: {{registries: {{mirrors: {{{REGISTRY}: \
         {{endpoints: ['{}'], skipFallback: true}}}}}}}}\n",
        server.url()
    );
    fs::write(directory.path().join("config.yaml"), config).unwrap();
    directory
}

/// `plywood -vv inspect --json` of the image, with these variables and no
/// others.
pub fn inspect(directory: &Path, variables: &[(&str, String)], options: &[&str]) -> Output {
    let image = format!("{REGISTRY}/tools:v1");
    let arguments = ["-vv", "inspect", "--json", "--arch", "amd64", "--config", "config.yaml", &image];
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.env_clear().env("TMPDIR", directory).envs(variables.iter().cloned());
    command.args(arguments).args(options).current_dir(directory).output().unwrap()
}

pub fn shown(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap()
}

#[test]
fn stored_passwords_are_found_where_people_keep_them() {
    let registry = Registry::with_image(2);
    let server = Server::start(move |request| basic(request, registry.answer(request)));
    // `user:right`, and one that is of no use.
    let entry = |auth: &str| format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, server.authority());
    let (right, wrong) = (entry("dXNlcjpyaWdodA=="), entry("dXNlcjp3cm9uZw=="));
    for (files, variables, options, opens) in [
        (&[(".docker/config.json", &right)][..], &[("HOME", ".")][..], &[][..], Ok(())),
        (&[("d/config.json", &right)], &[("DOCKER_CONFIG", "d")], &[], Ok(())),
        (&[("run/containers/auth.json", &right)], &[("XDG_RUNTIME_DIR", "run")], &[], Ok(())),
        (&[(".config/containers/auth.json", &right)], &[("HOME", ".")], &[], Ok(())),
        (&[("any.json", &right)], &[("REGISTRY_AUTH_FILE", "any.json")], &[], Ok(())),
        (&[("any.json", &right)], &[], &["--authfile", "any.json"], Ok(())),
        (
            &[("any.json", &right), ("env.json", &wrong)],
            &[("REGISTRY_AUTH_FILE", "env.json")],
            &["--authfile", "any.json"],
            Ok(()),
        ),
        (
            &[("run/containers/auth.json", &right), (".docker/config.json", &wrong)],
            &[("XDG_RUNTIME_DIR", "run"), ("HOME", ".")],
            &[],
            Ok(()),
        ),
        (
            &[("any.json", &right), (".docker/config.json", &wrong)],
            &[("REGISTRY_AUTH_FILE", "any.json"), ("HOME", ".")],
            &[],
            Ok(()),
        ),
        (&[("any.json", &wrong)], &[], &["--authfile", "any.json"], Err("not authorized")),
        (&[("any.json", &right)], &[("HOME", ".")], &[], Err("not authorized")),
        (&[], &[("REGISTRY_AUTH_FILE", "missing.json")], &[], Err("missing.json")),
    ] {
        let directory = workplace(&server);
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.to_string())).collect();
        let output = inspect(directory.path(), &variables, options);
        let text = shown(&output);
        assert_eq!(output.status.success(), opens.is_ok(), "{files:?} {variables:?}: {text}");
        match opens {
            Ok(()) => assert_eq!(text.matches("are sent UNENCRYPTED").count(), 1, "{text}"),
            Err(says) => assert!(text.contains(says), "{text}"),
        }
        for secret in ["dXNlcj", "right", "wrong"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn an_auth_file_that_is_broken_or_needs_a_helper_says_so() {
    let registry = Registry::with_image(1);
    let server = Server::start(move |request| registry.answer(request));
    for (text, succeeds, says) in [
        (r#"{"credsStore": "desktop"}"#, true, "a helper has the credentials of all registries"),
        (
            r#"{"credHelpers": {"b.io": "ecr"}}"#,
            true,
            "a helper has the credentials of b.io; helpers are other programs and are not run",
        ),
        (
            "{\"auths\": \"hunter2\"}",
            false,
            "cannot read a.json: it is not JSON of the right form, at line 1 column 19",
        ),
        (r#"{"auths": {"b.io": {"auth": "hunter2"}}}"#, false, "the auth of its entry 1 is not base64"),
    ] {
        let directory = workplace(&server);
        fs::write(directory.path().join("a.json"), text).unwrap();
        let output = inspect(directory.path(), &[], &["--authfile", "a.json"]);
        let found = shown(&output);
        assert_eq!(output.status.success(), succeeds, "{text}: {found}");
        assert!(found.contains(says), "{text}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn the_environment_names_proxies_in_both_cases() {
    let registry = Registry::with_image(1);
    let server = Server::start(move |request| registry.answer(request));
    let (address, seen) = tunnel();
    let proxy = format!("http://me:hidden@{address}");
    for (variables, proxied) in [
        (&[("http_proxy", proxy.as_str())][..], Some(true)),
        (&[("HTTP_PROXY", &proxy)], Some(true)),
        (&[("http_proxy", ""), ("HTTP_PROXY", &proxy)], Some(false)),
        (&[("https_proxy", &proxy)], Some(false)),
        (&[("http_proxy", &proxy), ("NO_PROXY", "127.0.0.1")], Some(false)),
        (&[("http_proxy", "socks5://me:hidden@localhost")], None),
    ] {
        let directory = workplace(&server);
        seen.lock().unwrap().clear();
        let owned: Vec<_> = variables.iter().map(|(name, value)| (*name, value.to_string())).collect();
        let output = inspect(directory.path(), &owned, &[]);
        let text = shown(&output);
        assert_eq!(output.status.success(), proxied.is_some(), "{variables:?}: {text}");
        assert_eq!(!seen.lock().unwrap().is_empty(), proxied == Some(true), "{variables:?}: {text}");
        assert!(!text.contains("hidden"), "{text}");
        if proxied.is_none() {
            assert!(
                text.contains("the variable http_proxy: only proxies at http:// are supported"),
                "{text}"
            );
        }
    }
}
