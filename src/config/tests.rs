use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::oci::registries::{Credentials, Secret, Target};
use crate::yaml::Report;

const VERSION: &str = "version: v1alpha1\n";
const CERTIFICATE: &str = include_str!("../oci/registries/testdata/certificate.pem");
const KEY: &str = include_str!("../oci/registries/testdata/key.pem");
const OTHER_KEY: &str = include_str!("../oci/registries/testdata/other-key.pem");
/// PEM of bytes that are no certificate.
const BROKEN: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

/// The configuration of one file with `version` and `text`.
fn config(text: &str) -> Config {
    Config::parse(&[source("f", &format!("{VERSION}{text}"))]).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

/// The problems of files, as they are shown.
fn problems(texts: &[&str]) -> Vec<String> {
    let names = ["f", "g"];
    let sources: Vec<_> = texts.iter().zip(names).map(|(text, name)| source(name, text)).collect();
    Config::parse(&sources).expect_err(&texts.concat()).iter().map(ToString::to_string).collect()
}

fn examples() -> Vec<Source> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| Source { name: path.display().to_string(), text: fs::read(&path).unwrap() }).collect()
}

#[test]
fn every_example_is_a_configuration() {
    let examples = examples();
    assert!(examples.len() >= 5);
    for example in examples {
        if let Err(problems) = Config::parse(std::slice::from_ref(&example)) {
            panic!("{problems}");
        }
    }
}

#[test]
fn the_reference_shows_every_key() {
    let full = examples().into_iter().find(|example| example.name.ends_with("/full.yaml")).unwrap();
    let report = Report::new("full.yaml");
    Draft::default().read_documents(&full, &report);
    let mut shown: BTreeMap<String, bool> = BTreeMap::new();
    for (path, is_there) in report.asked.borrow().iter() {
        *shown.entry(without_names(path)).or_default() |= is_there;
    }
    let missing: Vec<_> = shown.iter().filter(|(_, shown)| !**shown).map(|(path, _)| path).collect();
    assert!(shown.len() > 60, "{}", shown.len());
    assert!(missing.is_empty(), "configs/full.yaml does not show {missing:?}");
}

#[test]
fn the_documentation_names_every_key() {
    let report = Report::new("full.yaml");
    for example in examples() {
        Draft::default().read_documents(&example, &report);
    }
    let documentation = without_names(include_str!("../../docs/configuration.md"));
    for (path, _) in report.asked.borrow().iter() {
        let path = without_names(path);
        assert!(documentation.contains(&format!("`{path}")), "docs/configuration.md does not name {path}");
    }
}

/// `a["b"].c[0]` → `a[].c[]`
fn without_names(path: &str) -> String {
    let parts = path.split('[').enumerate();
    let part = |(index, part): (usize, &str)| match part.split_once(']') {
        Some((_, rest)) if index > 0 => format!("[]{rest}"),
        _ => part.to_string(),
    };
    parts.map(part).collect()
}

#[test]
fn defaults_hold_where_nothing_is_said() {
    for config in
        [config(""), config("machine:\nplywood:"), config("plywood: {overlay: {}, rules: {allow: []}}")]
    {
        assert!(config.extensions().is_empty() && config.modules().is_empty() && config.host().is_empty());
        assert_eq!(config.overlay().hierarchies, Hierarchies::default());
        assert_eq!(config.overlay().writable, Writable::No);
        assert_eq!(config.rules(), &Rules::default());
        assert_eq!(config.layer(), &LayerOptions::default());
        assert_eq!(config.keep_generations().get(), 3);
        assert_eq!(config.limits(), &Limits::default());
    }
}

#[test]
fn extensions_are_in_mount_order_with_their_failure_policy() {
    let config = config(
        "machine: {install: {disk: /dev/sda, extensions: [
           {image: 'ghcr.io/a/b:1.10'}, {image: 'oci:/c', onFailure: fail, overrides: [/etc/x/]}]}}
plywood: {onFailure: skip}",
    );
    let shown: Vec<_> = config.extensions().iter().map(|e| (e.image.to_string(), e.on_failure)).collect();
    assert_eq!(shown, [("ghcr.io/a/b:1.10".into(), OnFailure::Skip), ("oci:/c".into(), OnFailure::Fail)]);
    assert_eq!(config.extensions()[1].overrides, [std::path::PathBuf::from("/etc/x")]);
    assert_eq!(config.passed_over(), ["machine.install.disk"]);
}

#[test]
fn settings_are_read_as_meant() {
    let config = config(
        "plywood:
  host: {talos: v1.9.0-beta.1, debian: 12}
  overlay: {hierarchies: root, writable: persistent}
  rules: {allow: [/opt/cni/bin], setuid: allow, hardLinks: allow, xattrs: [security.capability]}
  layer: {compression: 'gzip:6', blockSize: 1MiB}
  limits: {bytes: 2GiB, entries: 1000, buildTime: 1h}
  timeouts: {connect: 500ms, firstByte: 7s, idle: 1m, total: 1h30m, longestPause: 2m}
  downloads: {parallel: 5, minimumRate: 0}
  keepGenerations: 1",
    );
    let host: Vec<_> =
        config.host().iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
    assert_eq!(host, [("debian", "12"), ("talos", "v1.9.0-beta.1")]);
    assert_eq!(config.overlay(), &Overlay { hierarchies: Hierarchies::Root, writable: Writable::Persistent });
    let rules = Rules {
        allow: vec!["/opt/cni/bin".into()],
        setuid: Permission::Allow,
        hard_links: Permission::Allow,
        xattrs: vec!["security.capability".into()],
    };
    assert_eq!(config.rules(), &rules);
    let layer = LayerOptions { compression: Compression::Gzip { level: 6 }, block_size: 1 << 20 };
    assert_eq!(config.layer(), &layer);
    let expected = [(Bound::ImageBytes, 2 << 30), (Bound::Entries, 1000), (Bound::BuildTime, 3600)];
    let expected =
        expected.iter().fold(Limits::default(), |limits, (bound, value)| limits.with(*bound, *value));
    assert_eq!(config.limits(), &expected);
    assert_eq!(config.timeouts().connect, Duration::from_millis(500));
    assert_eq!(config.timeouts().total, Duration::from_secs(5400));
    assert_eq!(config.timeouts().first_byte, Duration::from_secs(7));
    assert_eq!(config.timeouts().longest_pause, Duration::from_secs(120));
    assert_eq!((config.downloads().parallel.get(), config.downloads().minimum_rate), (5, 0));
    assert_eq!(config.keep_generations().get(), 1);
}

#[test]
fn nothing_is_writable_in_every_spelling_of_no() {
    for no in ["no", "'no'", "off", "false", "False", "FALSE", "No", "'NO'", "OFF"] {
        let found = config(&format!("plywood: {{overlay: {{writable: {no}}}}}"));
        assert_eq!(found.overlay().writable, Writable::No, "{no}");
    }
}

#[test]
fn both_forms_of_registries_mean_the_same() {
    let legacy = config(&format!(
        "machine:
  registries:
    mirrors: {{ghcr.io: {{endpoints: [https://Mirror.lan/x], overridePath: true, skipFallback: true}}}}
    config:
      Mirror.lan: {{auth: {{username: u, password: p}}, tls: {{ca: {}, insecureSkipVerify: true}}}}
      a.lan:1: {{auth: {{auth: dTpw}}}}
      b.lan: {{auth: {{identityToken: t}}}}
  kernel: {{modules: [{{name: x, parameters: [a=1, b]}}]}}",
        base64(CERTIFICATE)
    ));
    let documents = config(&format!(
        "---
{{apiVersion: v1alpha1, kind: RegistryMirrorConfig, name: ghcr.io, endpoints: [{{url: https://mirror.lan/x, overridePath: true}}], skipFallback: true}}
---
{{apiVersion: v1alpha1, kind: RegistryAuthConfig, name: mirror.lan, username: u, password: p}}
---
{{apiVersion: v1alpha1, kind: RegistryAuthConfig, name: a.lan:1, auth: dTpw}}
---
{{apiVersion: v1alpha1, kind: RegistryAuthConfig, name: b.lan, identityToken: t}}
---
{{apiVersion: v1alpha1, kind: RegistryTLSConfig, name: mirror.lan, insecureSkipVerify: true, ca: {CERTIFICATE:?}}}
---
{{apiVersion: v1alpha1, kind: KernelModuleConfig, name: x, parameters: [a=1, b]}}"
    ));
    assert_eq!(legacy, documents);
    let basic = Credentials::Basic { username: "u".into(), password: Secret::new("p".into()) };
    assert_eq!(legacy.registries().credentials["mirror.lan"], basic);
    assert_eq!(legacy.registries().credentials["a.lan:1"], basic);
    assert_eq!(legacy.registries().credentials["b.lan"], Credentials::Identity(Secret::new("t".into())));
    assert_eq!(legacy.registries().endpoints("ghcr.io")[0].to_string(), "https://mirror.lan/x");
    assert_eq!(legacy.modules()[0].parameters, ["a=1", "b"]);
}

#[test]
fn the_environment_names_proxies_in_both_forms_and_both_cases() {
    let https = |host| Target { https: true, host, port: 443 };
    for text in [
        "machine: {env: {https_proxy: 'http://u:p@proxy.lan:3128', no_proxy: 'a.io', GODEBUG: x}}",
        "machine: {env: {HTTPS_PROXY: 'u:p@proxy.lan:3128/', NO_PROXY: '.a.io'}}",
        "machine: {env: {https_proxy: 'http://u:p@proxy.lan:3128'}}\n---\n\
         {apiVersion: v1alpha1, kind: EnvironmentConfig, variables: {no_proxy: '*.a.io'}}",
    ] {
        let config = config(text);
        let proxy = config.proxies().proxy(https("b.io")).unwrap();
        assert_eq!((proxy.to_string().as_str(), proxy.username.as_str()), ("proxy.lan:3128", "u"), "{text}");
        assert_eq!(config.proxies().proxy(https("x.a.io")), None, "{text}");
        assert_eq!(config.proxies().proxy(Target { https: false, ..https("b.io") }), None, "{text}");
    }
}

#[test]
fn what_is_for_talos_is_passed_over_and_named() {
    let config = config(
        "debug: false
persist: true
machine: {type: worker, network: {hostname: x}, install: {disk: /dev/sda, wipe: false}, kernel: {x: 1}}
cluster: {controlPlane: {endpoint: https://x}}
---
apiVersion: v1alpha1
kind: HostnameConfig
hostname: x
---
",
    );
    let expected = [
        "machine.install.disk",
        "machine.install.wipe",
        "machine.kernel.x",
        "machine.type",
        "machine.network",
        "cluster",
        "debug",
        "persist",
        "kind HostnameConfig",
    ];
    assert_eq!(config.passed_over(), expected);
}

#[test]
fn several_files_add_up() {
    let texts = [
        "machine: {install: {extensions: [{image: 'oci:/a'}]}}\nplywood: {rules: {allow: [/a]}, keepGenerations: 5}",
        "machine: {install: {extensions: [{image: 'oci:/b'}]}}\nplywood: {rules: {allow: [/b]}, onFailure: skip}",
    ];
    let config = Config::parse(&texts.map(|text| source("f", &format!("{VERSION}{text}")))).unwrap();
    let images: Vec<_> = config.extensions().iter().map(|e| e.image.to_string()).collect();
    assert_eq!(images, ["oci:/a", "oci:/b"]);
    assert_eq!(config.rules().allow.len(), 2);
    assert_eq!((config.keep_generations().get(), config.extensions()[0].on_failure), (5, OnFailure::Skip));
}

#[test]
fn nothing_is_said_twice() {
    for (first, second, expected) in [
        (
            "plywood: {keepGenerations: 1}",
            "plywood: {keepGenerations: 2}",
            "g:2:28: plywood.keepGenerations: this is already set at f:2:28",
        ),
        (
            "plywood: {host: {a: 1}}",
            "plywood: {host: {a: 1}}",
            "g:2:21: plywood.host.a: a is already set at f:2:21",
        ),
        (
            "machine: {install: {extensions: [{image: 'oci:/a'}]}}",
            "machine: {install: {extensions: [{image: 'oci:/a'}]}}",
            "g:2:42: machine.install.extensions[0].image: this image is already at f:2:42",
        ),
        (
            "machine: {kernel: {modules: [{name: a-b}]}}",
            "machine: {kernel: {modules: [{name: a_b}]}}",
            "g:2:37: machine.kernel.modules[0].name: this module is already at f:2:37",
        ),
        (
            "machine: {registries: {mirrors: {a.io: {}}}}",
            "---\n{apiVersion: v1alpha1, kind: RegistryMirrorConfig, name: a.io}",
            "g:3:58: name: a.io is already set at f:2:40",
        ),
        (
            "machine: {registries: {config: {a.io: {auth: {auth: YTpi}}}}}",
            "---\n{apiVersion: v1alpha1, kind: RegistryAuthConfig, name: A.io, identityToken: x}",
            "g:3:56: name: a.io is already set at f:2:46",
        ),
        (
            "machine: {registries: {config: {a.io: {tls: {}}}}}",
            "---\n{apiVersion: v1alpha1, kind: RegistryTLSConfig, name: a.io}",
            "g:3:55: name: a.io is already set at f:2:45",
        ),
    ] {
        let texts = [first, second].map(|text| format!("{VERSION}{text}"));
        assert_eq!(problems(&[&texts[0], &texts[1]]), [expected]);
    }
}

#[test]
fn every_mistake_has_its_message() {
    let image = |rest: &str| format!("machine: {{install: {{extensions: [{rest}]}}}}");
    let mirrors = |rest: &str| format!("machine: {{registries: {{mirrors: {{{rest}}}}}}}");
    let endpoint = |rest: &str| format!("machine: {{registries: {{config: {{{rest}}}}}}}");
    let identity = |certificate: &str, key: Option<&str>| {
        let key = key.map(|key| format!(", key: {}", base64(key))).unwrap_or_default();
        endpoint(&format!("a: {{tls: {{clientIdentity: {{crt: {}{key}}}}}}}", base64(certificate)))
    };
    let plywood = |rest: &str| format!("plywood: {{{rest}}}");
    let either = "expected either username and password, or auth, or identityToken";
    for (text, expected) in [
        ("plywoood: {}".into(), "f:2:1: plywoood: unknown key, expected one of version, machine, plywood, cluster, debug, persist; did you mean plywood?"),
        ("machine: []".into(), "machine: expected a mapping, found a list"),
        (image("{}"), "extensions[0]: the key image is missing"),
        (image("{image: tools}"), "extensions[0].image: image `tools`: name the registry, as in ghcr.io/tools"),
        (image("oci:/a"), "extensions[0]: expected a mapping, found a string"),
        (image("{image: 'oci:/a', onfailure: skip}"), "extensions[0].onfailure: unknown key, expected one of image, onFailure, overrides; did you mean onFailure?"),
        (image("{image: 'oci:/a', onFailure: ignore}"), "extensions[0].onFailure: expected one of fail, skip, found `ignore`"),
        (image("{image: 'oci:/a', overrides: [etc]}"), "extensions[0].overrides[0]: the path `etc` is not absolute"),
        (image("{image: 'oci:/a'}, {image: 'oci:/a'}"), "extensions[1].image: this image is already at f:2:42"),
        (
            image(&(0..501).map(|number| format!("{{image: 'oci:/{number}'}}")).collect::<Vec<_>>().join(", ")),
            "machine.install.extensions: 501 extensions are more than the 500 that a machine takes",
        ),
        ("machine: {kernel: {modules: [{name: '../x'}]}}".into(), "modules[0].name: `../x` is not the name of a kernel module"),
        ("machine: {kernel: {modules: [{name: x, parameters: ['=']}]}}".into(), "parameters[0]: `=` is not a parameter of a kernel module"),
        ("machine: {kernel: {modules: [{nam: x}]}}".into(), "modules[0]: the key name is missing"),
        ("machine: {registries: {mirror: {}}}".into(), "machine.registries.mirror: unknown key, expected one of mirrors, config; did you mean mirrors?"),
        (mirrors("'a b': {}"), "mirrors[\"a b\"]: `a b` is not a registry: expected host, host:port or *"),
        (mirrors("a.io: {endpoints: [mirror.lan]}"), "mirrors[\"a.io\"].endpoints[0]: the endpoint `mirror.lan` does not begin with http:// or https://"),
        (mirrors("a.io: {endpoints: [], skipFallback: yes}"), "mirrors[\"a.io\"].skipFallback: expected true or false, found a string"),
        (endpoint("'*': {auth: {}}"), "config[\"*\"]: `*` is not an endpoint: expected host or host:port (settings are for one endpoint each, not for all)"),
        (endpoint("'https://a': {}"), "`https://a` is not an endpoint: expected host or host:port"),
        (endpoint("a: {auth: {}}"), either),
        (endpoint("a: {auth: {password: hunter2}}"), either),
        (endpoint("a: {auth: {username: u, password: hunter2, identityToken: hunter2}}"), either),
        (endpoint("a: {auth: {auth: dTpw, username: u}}"), either),
        (endpoint("a: {auth: {auth: aHVudGVyMg==}}"), "auth.auth: this is not base64 of user:password"),
        (endpoint("a: {auth: {auth: 'hunter2:'}}"), "auth.auth: this is not base64 of user:password"),
        (endpoint("a: {auth: {username: u, password: [hunter2]}}"), "password: expected a string, found a list"),
        (endpoint("a: {auth: {username: u, password:hunter2}}"), "unknown key"),
        (endpoint("a: {auth: {auth: dTpw, hunter2: x}}"), "config.a.auth: unknown key, expected one of username, password, auth, identityToken"),
        (endpoint("a: {tls: {ca: '-----BEGIN CERTIFICATE-----'}}"), "tls.ca: this is PEM as it is, here it has to be in base64 once more"),
        (endpoint("a: {tls: {ca: aHVudGVyMg==}}"), "tls.ca: this is of no use as a CA: it holds no certificate"),
        (endpoint("a: {tls: {ca: hunter2}}"), "tls.ca: this is not base64 of PEM"),
        (endpoint(&format!("a: {{tls: {{ca: {}}}}}", base64(BROKEN))), "tls.ca: this is of no use as a CA: its certificate 1 is not"),
        (identity(CERTIFICATE, None), "tls.clientIdentity: the key key is missing"),
        (identity(CERTIFICATE, Some("hunter2")), "clientIdentity.key: this is of no use as a client identity: its key is not PEM"),
        (identity(CERTIFICATE, Some(OTHER_KEY)), "clientIdentity.key: this is of no use as a client identity: its key is not that of"),
        (identity("hunter2", Some(KEY)), "clientIdentity.crt: this is of no use as a client identity: its certificate is not PEM"),
        (identity(BROKEN, Some(KEY)), "clientIdentity.crt: this is of no use as a client identity"),
        ("---\n{apiVersion: v1alpha1, kind: RegistryTLSConfig, name: a, clientIdentity: {cert: hunter2, key: '-----BEGIN EC PRIVATE KEY-----'}}".into(), "clientIdentity.cert: this is of no use"),
        ("---\n{apiVersion: v1alpha1, kind: RegistryTLSConfig, name: a, ca: hunter2}".into(), "f:3:62: ca: this is of no use as a CA: it holds no certificate"),
        ("---\n{apiVersion: v1alpha1, kind: TrustedRootsConfig, name: a}".into(), "the key certificates is missing"),
        ("---\n{apiVersion: v1alpha1, kind: TrustedRootsConfig, name: a, certificates: x}".into(), "certificates: this is of no use as a CA"),
        ("machine: {registries: {mirrors: {a.io: {endpoints: ['http://m:5/x']}}, config: {'m:5': {tls: {}}}}}".into(), "config[\"m:5\"].tls: the endpoint http://m:5 does not use TLS"),
        (plywood("host: {talos: latest}"), "plywood.host.talos: `latest` is not a version (as in 1.2.3, v1.2 or 12)"),
        (plywood("host: {talos: 1.2.3.4}"), "`1.2.3.4` is not a version"),
        (plywood("host: {../x: 1}"), "plywood.host[\"../x\"]: the name of a host is of the form"),
        (plywood("overlay: {hierarchies: usr}"), "plywood.overlay.hierarchies: expected a list, found a string"),
        (plywood("overlay: {hierarchies: [/]}"), "hierarchies[0]: the path `/` is the whole root"),
        (plywood("overlay: {hierarchies: [/usr, /usr/local]}"), "hierarchies[1]: this overlaps /usr"),
        (plywood("overlay: {hierarchies: [/etc, /etc/]}"), "hierarchies[1]: this overlaps /etc"),
        (plywood("overlay: {writable: yes}"), "writable: expected one of no, tmpfs, persistent, found `yes`"),
        (plywood("overlay: {writable: true}"), "writable: expected one of no, tmpfs, persistent, found `true`"),
        (plywood("rules: {allow: [/opt/../etc]}"), "rules.allow[0]: the path `/opt/../etc` has an empty"),
        (plywood("rules: {setuid: true}"), "rules.setuid: expected one of deny, allow, found `true`"),
        (plywood("rules: {hardlinks: allow}"), "rules.hardlinks: unknown key, expected one of allow, xattrs, setuid, hardLinks; did you mean hardLinks?"),
        (plywood("rules: {xattrs: [trusted.overlay.opaque]}"), "rules.xattrs[0]: `trusted.overlay.opaque` steers overlayfs"),
        (plywood("layer: {compression: 'zstd:99'}"), "layer.compression: the level of zstd is 1 to 22, not `99`"),
        (plywood("layer: {blockSize: 100KiB}"), "layer.blockSize: a block is a power of two from 4KiB to 1MiB"),
        (plywood("layer: {blockSize: 2MiB}"), "layer.blockSize: a block is a power of two"),
        (plywood("layer: {blockSize: 128kB}"), "layer.blockSize: `128kB` is not a size"),
        (plywood("limits: {bytes: 0}"), "limits.bytes: a limit of nothing"),
        (plywood("limits: {names: 2GiB}"), "limits.names: this is at most 1GiB: it takes memory"),
        (
            plywood("limits: {component: 256}"),
            "limits.component: this is at most 255 bytes: Linux has no longer ones",
        ),
        (plywood("limits: {depth: 513}"), "limits.depth: this is at most 512: recursion takes stack"),
        (plywood("limits: {entries: -1}"), "limits.entries: expected a number from 1 to 4294967295, found `-1`"),
        ("machine: {env: {https_proxy: 'socks5://u:hunter2@p'}}".into(), "f:2:30: machine.env.https_proxy: only proxies at http:// are supported"),
        ("machine: {env: {HTTP_PROXY: 'http://u:hunter2@p:x'}}".into(), "machine.env.HTTP_PROXY: this is not the URL of a proxy"),
        ("machine: {env: {no_proxy: a, NO_PROXY: b}}".into(), "machine.env.NO_PROXY: no_proxy is already set at f:2:27"),
        ("machine: {env: {no_proxy: a}}\n---\n{apiVersion: v1alpha1, kind: EnvironmentConfig, variables: {no_proxy: b}}".into(), "variables.no_proxy: no_proxy is already set at f:2:27"),
        (plywood("downloads: {parallel: 17}"), "downloads.parallel: this is at most 16"),
        (plywood("downloads: {parallel: 0}"), "downloads.parallel: expected a number from 1"),
        (plywood("downloads: {minimumRate: fast}"), "downloads.minimumRate: `fast` is not a size"),
        (plywood("timeouts: {connect: 10}"), "timeouts.connect: `10` is not a duration"),
        (plywood("timeouts: {idle: 0s}"), "timeouts.idle: a timeout is longer than nothing"),
        (plywood("keepGenerations: 0"), "plywood.keepGenerations: expected a number from 1"),
        (plywood("kepGenerations: 3"), "did you mean keepGenerations?"),
        (plywood("onFailure: shell"), "plywood.onFailure: expected one of fail, skip, found `shell`"),
        ("---\nkind: KernelModuleConfig\nname: x".into(), "the key apiVersion is missing"),
        ("---\n{apiVersion: v2, kind: KernelModuleConfig, name: x}".into(), "apiVersion: unsupported version `v2`, expected v1alpha1"),
        ("kind:".into(), "kind: unknown key, expected one of version, machine, plywood, cluster, debug, persist"),
        ("---\n[]".into(), "expected a mapping, found a list"),
    ] {
        let found = problems(&[&format!("{VERSION}{text}")]);
        let first = found.first().expect(&text);
        assert!(first.contains(expected), "{text}\n  {first}\n  {expected}");
        assert!(!found.concat().contains("hunter2"), "{found:?}");
    }
}

#[test]
fn a_file_without_a_configuration_is_refused() {
    for (text, expected) in [
        ("", "f:1:1: this file holds no configuration"),
        ("# nothing\n---\n", "f:1:1: this file holds no configuration"),
        ("machine: {}", "f:1:1: the key version is missing"),
        ("version: v1beta1", "f:1:10: version: unsupported version `v1beta1`, expected v1alpha1"),
        ("version: v1alpha1\n\tmachine: {}", "f:2:1: a tab may not indent, use spaces"),
    ] {
        assert_eq!(problems(&[text]), [expected]);
    }
}

#[test]
fn all_problems_of_all_files_are_reported_in_order() {
    let first = "version: v1\nmachine:\n  install:\n    extensions: [{image: x}, {imag: 'oci:/a'}]\nplywood: {a: 1, a: 2}";
    let second = "version: v1alpha1\nplywood: {keepGenerations: many}";
    let found = problems(&[first, second]);
    let places: Vec<_> = found.iter().map(|problem| problem.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(places, ["f:1:10", "f:4:26", "f:4:30", "f:4:31", "f:5:11", "f:5:17", "g:2:28"], "{found:#?}");
}

#[test]
fn secrets_are_never_printed() {
    let text = "version: v1alpha1
machine:
  registries:
    config:
      a: {auth: {username: u, password: hunter2}}
      b: {auth: {auth: dTpodW50ZXIy}}
      c: {auth: {identityToken: hunter2}}
";
    let config = Config::parse(&[source("f", text)]).unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && shown.contains("(secret)"), "{shown}");
    for position in 0..text.len() {
        for replacement in
            ["[", "\"", "\t", ": ", "\n", "@", "\u{0}", "!", "*", "&", "%", "|", "`", ",", "? ", "- "]
        {
            let mut mutant = text.to_string();
            mutant.insert_str(position, replacement);
            if let Err(problems) = Config::parse(&[source("f", &mutant)]) {
                assert!(!problems.to_string().contains("nter2"), "{problems}\n{mutant}");
            }
        }
    }
}
