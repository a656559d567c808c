//! Fetching from Debian's `docker-registry`, filled with images that `umoci`
//! and `skopeo` made: what real tools write, over real TLS.

mod artifacts;
mod repair;
#[allow(dead_code)]
#[path = "../fetch_faults/server.rs"]
mod server;
mod stage;
mod tls;
mod token;

use std::io::Read;
use std::path::Path;

use plywood::fetch::{Fetcher, Image, Machine, Network, Roots, Selection, Silent, resolve_stored};
use plywood::oci::registries::{
    Authorities, ClientIdentity, Credentials, Mirror, MirrorEndpoint, Secret, Tls,
};
use plywood::oci::{Compression, Digest, ImageSource, Platform, Registries};
use plywood::store::Store;
use plywood::sys::kmsg::chain;
use stage::{Access, Pair, Server, Validity, certificate, images, openssl_ca};

/// A machine that reaches `registry.test` at one URL.
struct Bench {
    registries: Registries,
    network: Network,
    store: Store,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(url: &str) -> Self {
        let endpoint = MirrorEndpoint { url: url.into(), override_path: false };
        let mut registries = Registries::default();
        let mirror = Mirror { endpoints: vec![endpoint], skip_fallback: true };
        registries.mirrors.insert("registry.test".into(), mirror);
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        Self { registries, network: Network::default(), store, _directory: directory }
    }

    fn with_tls(mut self, authority: &str, tls: Tls) -> Self {
        self.registries.tls.insert(authority.into(), tls);
        self
    }

    fn with_password(mut self, authority: &str, password: &str) -> Self {
        let password = Secret::new(password.into());
        let credentials = Credentials::Basic { username: "user".into(), password };
        self.registries.credentials.insert(authority.into(), credentials);
        self
    }

    /// Fetches and checks every changeset; an error comes as its whole chain.
    fn fetch(&self, image: &str, architecture: &str) -> Result<Image<'static>, String> {
        let fetcher = Fetcher::new(Machine {
            store: &self.store,
            registries: &self.registries,
            selection: Selection::of(Platform::linux(architecture)),
            network: self.network.clone(),
            progress: &Silent,
        });
        let source: ImageSource = image.parse().unwrap();
        let result = fetcher.resolve(&source).and_then(|resolved| fetcher.fetch(resolved));
        let image = result.map_err(|error| chain(&error))?;
        for changeset in image.changesets() {
            let packed = changeset.blob().read().unwrap();
            let mut plain = Vec::new();
            match changeset.compression() {
                Compression::None => plain = packed,
                Compression::Gzip => {
                    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut plain).map(drop).unwrap();
                }
                Compression::Zstd => panic!("nothing here writes zstd"),
            }
            assert_eq!(Digest::sha256(&plain), *changeset.diff_id().unwrap());
        }
        Ok(image)
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn authorities(ca: &Pair) -> Authorities {
    Authorities::parse(&read(&ca.certificate)).unwrap()
}

#[test]
fn images_of_all_kinds_come_over_plain_http() {
    let server = Server::start(&Access::Open);
    let mut chains = Vec::new();
    for (image, architecture, changesets) in [
        ("registry.test/tools:amd64", "amd64", 2),
        ("registry.test/tools:docker", "amd64", 2),
        ("registry.test/tools:multi", "amd64", 2),
        ("registry.test/tools:multi", "arm64", 1),
        ("registry.test/tools:arm64", "arm64", 1),
    ] {
        let bench = Bench::new(&server.url("http"));
        let fetched = bench.fetch(image, architecture).unwrap_or_else(|error| panic!("{image}: {error}"));
        assert_eq!(fetched.changesets().len(), changesets, "{image}");
        let source: ImageSource = image.parse().unwrap();
        let selection = Selection::of(Platform::linux(architecture));
        let stored = resolve_stored(&bench.store, &selection, &source, fetched.digest()).unwrap().unwrap();
        assert_eq!(stored.chain_id(), fetched.chain_id(), "{image}");
        chains.push((architecture, *fetched.chain_id()));
    }
    chains.sort();
    chains.dedup();
    assert_eq!(chains.len(), 2, "one image for each architecture, however it is packed");
    let error = Bench::new(&server.url("http")).fetch("registry.test/tools:none", "amd64").unwrap_err();
    assert!(error.contains("not found: MANIFEST_UNKNOWN"), "{error}");
}

#[test]
fn layouts_and_archives_hold_the_same_image() {
    let images = images();
    let bench = Bench::new("http://127.0.0.1:1");
    let mut chains = Vec::new();
    for image in [
        format!("oci:{}:amd64", images.layout.display()),
        format!("oci:{}:multi", images.layout.display()),
        format!("oci-archive:{}", images.oci_archive.display()),
        format!("docker-archive:{}", images.docker_archive.display()),
        format!("docker-archive:{}:registry.test/tools:amd64", images.docker_archive.display()),
    ] {
        let fetched = bench.fetch(&image, "amd64").unwrap_or_else(|error| panic!("{image}: {error}"));
        chains.push(*fetched.chain_id());
    }
    chains.dedup();
    assert_eq!(chains.len(), 1);
    let error = bench.fetch(&format!("oci:{}", images.layout.display()), "amd64").unwrap_err();
    assert!(error.contains("name one of amd64, arm64, multi"), "{error}");
}

#[test]
fn tls_needs_the_right_ca_host_and_time() {
    let (ca, other) = (openssl_ca(), openssl_ca());
    let good = certificate(&ca, "IP:127.0.0.1", Validity::Now);
    let wrong_host = certificate(&ca, "DNS:other.test", Validity::Now);
    let [past, future, never] = [Validity::Past, Validity::Future, Validity::Never]
        .map(|validity| certificate(&ca, "IP:127.0.0.1", validity));
    for (certificate, trusted, result) in [
        (&good, Some(&ca), Ok(())),
        (&good, Some(&other), Err("its certificate is not accepted: no known CA issued it")),
        (&good, None, Err("its certificate is not accepted: no known CA issued it")),
        (&wrong_host, Some(&ca), Err("it is for another host: other.test")),
        (
            &past,
            Some(&ca),
            Err("it has expired: it was valid until 2001-12-31 00:00:00 UTC, and the clock says 20"),
        ),
        (
            &future,
            Some(&ca),
            Err("it is not valid yet: it will be from 2090-01-01 00:00:00 UTC, and the clock says 20"),
        ),
        (&never, Some(&ca), Err("it ends before it begins")),
    ] {
        let server = Server::start(&Access::Tls { certificate, clients: None });
        let authority = server.authority();
        let mut bench = Bench::new(&server.url("https"));
        if let Some(trusted) = trusted {
            let ca = Some(authorities(trusted));
            bench = bench.with_tls(&authority, Tls { ca, ..Tls::default() });
        }
        match (bench.fetch("registry.test/tools:amd64", "amd64"), result) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(says)) => {
                assert!(error.contains(says), "{error}")
            }
            (result, _) => panic!("{result:?}"),
        }
    }
}

#[test]
fn the_machines_roots_count_where_no_ca_is_configured() {
    let ca = openssl_ca();
    let certificate = certificate(&ca, "IP:127.0.0.1", Validity::Now);
    let server = Server::start(&Access::Tls { certificate: &certificate, clients: None });
    let mut bench = Bench::new(&server.url("https"));
    let trusted = authorities(&ca);
    bench.network.roots = Roots::new(|| trusted);
    bench.fetch("registry.test/tools:amd64", "amd64").unwrap();
}

#[test]
fn verification_is_skipped_only_where_the_configuration_says_so() {
    let ca = openssl_ca();
    let certificate = certificate(&ca, "DNS:other.test", Validity::Now);
    let server = Server::start(&Access::Tls { certificate: &certificate, clients: None });
    let skip = Tls { insecure_skip_verify: true, ..Tls::default() };
    let elsewhere = Bench::new(&server.url("https")).with_tls("other.test", skip.clone());
    elsewhere.fetch("registry.test/tools:amd64", "amd64").unwrap_err();
    let here = Bench::new(&server.url("https")).with_tls(&server.authority(), skip.clone());
    here.fetch("registry.test/tools:amd64", "amd64").unwrap();
    let plain = Server::start(&Access::Open);
    let bench = Bench::new(&plain.url("http")).with_tls(&plain.authority(), skip);
    let error = bench.fetch("registry.test/tools:amd64", "amd64").unwrap_err();
    assert!(error.contains("TLS settings are configured for its host, but its URL says http"), "{error}");
}

#[test]
fn a_client_identity_must_be_known() {
    let ca = openssl_ca();
    let certificate_of_server = certificate(&ca, "IP:127.0.0.1", Validity::Now);
    let server = Server::start(&Access::Tls { certificate: &certificate_of_server, clients: Some(&ca) });
    let (client, stranger) = (
        certificate(&ca, "DNS:client.test", Validity::Now),
        certificate(&openssl_ca(), "DNS:client.test", Validity::Now),
    );
    for (identity, result) in
        [(None, Err("it refuses us: ")), (Some(&client), Ok(())), (Some(&stranger), Err("it refuses us"))]
    {
        let parse = |pair: &Pair| ClientIdentity::parse(&read(&pair.certificate), &read(&pair.key)).unwrap();
        let tls = Tls { ca: Some(authorities(&ca)), client_identity: identity.map(parse), ..Tls::default() };
        let bench = Bench::new(&server.url("https")).with_tls(&server.authority(), tls);
        match (bench.fetch("registry.test/tools:amd64", "amd64"), result) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(says)) => {
                assert!(error.contains(says), "{error}")
            }
            (result, _) => panic!("{result:?}"),
        }
    }
}

#[test]
fn a_password_is_needed_and_must_be_right() {
    let server = Server::start(&Access::Password("right"));
    let bench = || Bench::new(&server.url("http"));
    let right = bench().with_password(&server.authority(), "right");
    right.fetch("registry.test/tools:amd64", "amd64").unwrap();
    for bench in [bench(), bench().with_password(&server.authority(), "wrong")] {
        let error = bench.fetch("registry.test/tools:amd64", "amd64").unwrap_err();
        assert!(error.contains("not authorized: UNAUTHORIZED"), "{error}");
    }
}
