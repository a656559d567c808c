//! Servers, certificates and images, made by the programs that people use.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use plywood::oci::Digest;
use serde_json::{Value, json};

/// Runs a program of a Debian package and returns what it prints.
pub fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program} ({error}): install the package {package}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A new directory below cargo's, emptied when the tests start anew.
fn new_directory() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let root = ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("registry");
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        root
    });
    let path = root.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    fs::create_dir_all(&path).unwrap();
    path
}

/// The same image in many packings.
pub struct Images {
    /// A layout with `amd64` (two changesets), `arm64` (one) and `multi`.
    pub layout: PathBuf,
    pub oci_archive: PathBuf,
    pub docker_archive: PathBuf,
    /// The storage of a registry with all of it as `tools`.
    storage: PathBuf,
}

/// Made once.
pub fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let directory = new_directory();
        let layout = directory.join("layout");
        let umoci = |arguments: &[&str]| run("umoci", "umoci", arguments);
        umoci(&["init", "--layout", text(&layout)]);
        for (architecture, files) in [("amd64", &["one", "two"][..]), ("arm64", &["one"])] {
            let image = format!("{}:{architecture}", text(&layout));
            umoci(&["new", "--image", &image]);
            umoci(&["config", "--image", &image, "--os", "linux", "--architecture", architecture]);
            for name in files {
                let file = directory.join(name);
                fs::write(&file, format!("{name} for {architecture}\n").repeat(5000)).unwrap();
                umoci(&["insert", "--rootless", "--image", &image, text(&file), &format!("/{name}")]);
            }
        }
        add_index(&layout);
        let images = Images {
            oci_archive: directory.join("oci.tar"),
            docker_archive: directory.join("docker.tar"),
            storage: directory.join("storage"),
            layout,
        };
        images.copy("amd64", &format!("oci-archive:{}", text(&images.oci_archive)), &[]);
        let docker = format!("docker-archive:{}:registry.test/tools:amd64", text(&images.docker_archive));
        images.copy("amd64", &docker, &[]);
        images.fill_storage();
        images
    })
}

impl Images {
    fn copy(&self, name: &str, to: &str, options: &[&str]) {
        let from = format!("oci:{}:{name}", text(&self.layout));
        let arguments = [&["--insecure-policy", "copy", "--dest-tls-verify=false"], options, &[&from, to]];
        run("skopeo", "skopeo", &arguments.concat());
    }

    fn fill_storage(&self) {
        let server = Server::start_on(&self.storage, &Access::Open);
        let push = |name: &str, tag: &str, options: &[&str]| {
            self.copy(name, &format!("docker://{}/tools:{tag}", server.authority()), options);
        };
        push("amd64", "amd64", &[]);
        push("arm64", "arm64", &[]);
        push("amd64", "docker", &["--format", "v2s2"]);
        push("multi", "multi", &["--all"]);
    }
}

/// Adds an index of both images to a layout, as `multi`.
fn add_index(layout: &Path) {
    let file = layout.join("index.json");
    let mut top: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let entries = top["manifests"].as_array_mut().unwrap();
    let manifests: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let architecture = &entry["annotations"]["org.opencontainers.image.ref.name"];
            json!({
                "mediaType": entry["mediaType"], "digest": entry["digest"], "size": entry["size"],
                "platform": {"os": "linux", "architecture": architecture},
            })
        })
        .collect();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).to_string();
    let digest = Digest::sha256(index.as_bytes());
    fs::write(layout.join("blobs/sha256").join(digest.hex()), &index).unwrap();
    entries.push(json!({
        "mediaType": media_type, "digest": digest, "size": index.len(),
        "annotations": {"org.opencontainers.image.ref.name": "multi"},
    }));
    fs::write(file, top.to_string()).unwrap();
}

/// A certificate and its key, as PEM files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    fn new() -> Self {
        let directory = new_directory();
        Self { certificate: directory.join("certificate.pem"), key: directory.join("key.pem") }
    }
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// A new certificate authority.
pub fn openssl_ca() -> Pair {
    let ca = Pair::new();
    let files = ["-keyout", text(&ca.key), "-out", text(&ca.certificate)];
    let subject = format!("/CN=CA in {}", ca.key.parent().unwrap().file_name().unwrap().display());
    let rest = ["-subj", &subject, "-days", "2"];
    run("openssl", "openssl", &[&["req", "-x509"], &NEW_KEY[..], &files, &rest].concat());
    ca
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub enum Validity {
    Now,
    /// In the year 2001.
    Past,
    /// In the year 2090.
    Future,
    /// From 2090 to 2001.
    Never,
}

impl Validity {
    /// First and last second, as `openssl ca` wants them.
    fn dates(self) -> [&'static str; 2] {
        match self {
            Self::Now => ["20010101000000Z", "20900101000000Z"],
            Self::Past => ["20010101000000Z", "20011231000000Z"],
            Self::Future => ["20900101000000Z", "20901231000000Z"],
            Self::Never => ["20900101000000Z", "20010101000000Z"],
        }
    }
}

/// What the signatures of a certificate are made with.
pub struct Signing<'a> {
    /// Its own key, as `openssl req -newkey` wants it.
    pub key: &'a [&'a str],
    /// What its issuer hashes it with.
    pub digest: &'a str,
}

/// A certificate for a server or client.
pub fn certificate(ca: &Pair, name: &str, validity: Validity) -> Pair {
    certificate_with(ca, name, validity, &Signing { key: &NEW_KEY, digest: "sha256" })
}

/// The same, signed in any way.
pub fn certificate_with(ca: &Pair, name: &str, validity: Validity, signing: &Signing<'_>) -> Pair {
    let pair = Pair::new();
    let directory = pair.key.parent().unwrap();
    let request = directory.join("request.csr");
    let files = ["-keyout", text(&pair.key), "-out", text(&request), "-subj", "/CN=test"];
    run("openssl", "openssl", &[&["req"], signing.key, &files].concat());
    let config = directory.join("ca.conf");
    let settings = format!(
        "[ca]\ndatabase={0}/index\nrand_serial=yes\nnew_certs_dir={0}\ndefault_md={1}\npolicy=any\n\
         x509_extensions=extensions\n[any]\ncommonName=supplied\n\
         [extensions]\nsubjectAltName={name}\nbasicConstraints=CA:FALSE\n",
        directory.display(),
        signing.digest
    );
    fs::write(&config, settings).unwrap();
    fs::write(directory.join("index"), "").unwrap();
    let [start, end] = validity.dates();
    let issuer = ["-cert", text(&ca.certificate), "-keyfile", text(&ca.key)];
    let files = ["-config", text(&config), "-in", text(&request), "-out", text(&pair.certificate)];
    let options = ["ca", "-batch", "-notext", "-name", "ca", "-startdate", start, "-enddate", end];
    run("openssl", "openssl", &[&options[..], &issuer, &files].concat());
    pair
}

/// Whom a server lets in.
pub enum Access<'a> {
    Open,
    /// Who has a token that `issuer` signed for `service`, from the server at
    /// `realm`.
    Token {
        realm: String,
        service: &'a str,
        issuer: &'a Pair,
    },
    /// `user` with this password.
    Password(&'a str),
    /// Over TLS, and with `clients` only those with a certificate from there.
    Tls {
        certificate: &'a Pair,
        clients: Option<&'a Pair>,
    },
}

/// A `docker-registry`, ended when dropped.
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// One that serves [`images`].
    pub fn start(access: &Access<'_>) -> Self {
        Self::start_on(&images().storage, access)
    }

    pub fn start_on(storage: &Path, access: &Access<'_>) -> Self {
        // Somebody else may take the free port before the server does.
        (0..5).find_map(|_| Self::try_start(storage, access)).expect("docker-registry does not start")
    }

    fn try_start(storage: &Path, access: &Access<'_>) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = new_directory();
        let config = directory.join("config.yml");
        fs::write(&config, configuration(storage, port, access, &directory).to_string()).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", text(&config)])
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run docker-registry ({error}): install the package docker-registry")
            });
        let mut server = Self { child, port };
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.authority())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's configuration; JSON is YAML too.
fn configuration(storage: &Path, port: u16, access: &Access<'_>, directory: &Path) -> Value {
    let mut config = json!({
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": storage}},
        "http": {"addr": format!("127.0.0.1:{port}")},
    });
    match access {
        Access::Open => {}
        Access::Token { realm, service, issuer } => {
            let bundle = &issuer.certificate;
            config["auth"] = json!({"token": {
                "realm": realm, "service": service, "issuer": "tests", "rootcertbundle": bundle,
            }});
        }
        Access::Password(password) => {
            let file = directory.join("htpasswd");
            fs::write(&file, run("apache2-utils", "htpasswd", &["-nbB", "user", password])).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "registry", "path": file}});
        }
        Access::Tls { certificate, clients } => {
            let mut tls = json!({"certificate": certificate.certificate, "key": certificate.key});
            if let Some(ca) = clients {
                tls["clientcas"] = json!([ca.certificate]);
            }
            config["http"]["tls"] = tls;
        }
    }
    config
}
