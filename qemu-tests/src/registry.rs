//! A registry on the host's loopback, as guests meet it: TLS by a private CA,
//! basic authentication. In: extensions, copied by skopeo. Out: references
//! and the configuration that makes plywood trust it. Gone when dropped.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::asset::asset;
use crate::extension::{Extension, TAG};
use crate::program::{BASE64, HTPASSWD, REGISTRY, SKOPEO, run, scratch};

const USER: &str = "plywood";
const PASSWORD: &str = "correct horse";
/// Where QEMU's user network shows the host's loopback.
pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);

const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running registry.
pub struct Registry {
    dir: PathBuf,
    /// Where skopeo uploads to: it takes no IPv6 address in a reference.
    upload: SocketAddr,
    /// Where guests download from, as they see it.
    guest: SocketAddr,
    servers: Vec<Child>,
}

impl Registry {
    /// Starts an empty registry for the test `name`, which guests reach over
    /// IPv4.
    pub fn start(name: &str) -> Self {
        let dir = scratch(&format!("{name}-registry"));
        let (server, upload) = serve(&dir, Ipv4Addr::LOCALHOST.into());
        let guest = SocketAddr::new(HOST_V4.into(), upload.port());
        Self { dir, upload, guest, servers: vec![server] }
    }

    /// The same, but guests reach it over IPv6.
    pub fn start_v6(name: &str) -> Self {
        let mut registry = Self::start(name);
        // A second server for the same files.
        let (server, address) = serve(&registry.dir, Ipv6Addr::LOCALHOST.into());
        registry.guest = SocketAddr::new(HOST_V6.into(), address.port());
        registry.servers.push(server);
        registry
    }

    /// Uploads `extension` and returns its reference as a guest writes it.
    pub fn push(&self, extension: &Extension) -> String {
        let layout = extension.pack(&self.dir);
        let name = extension.name();
        run(SKOPEO
            .command()
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .arg(format!("--dest-creds={USER}:{PASSWORD}"))
            .arg(format!("oci:{}:{TAG}", layout.display()))
            .arg(format!("docker://{}/{name}:{TAG}", self.upload)));
        format!("{}/{name}:{TAG}", self.guest)
    }

    /// `machine.registries` of the configuration: whom to trust, and with
    /// which password, as lines below `machine:`.
    pub fn config(&self) -> String {
        self.config_with_password(PASSWORD)
    }

    /// The same with a password that is wrong.
    pub fn config_with_wrong_password(&self) -> String {
        self.config_with_password("battery staple")
    }

    fn config_with_password(&self, password: &str) -> String {
        let ca = run(BASE64.command().arg("-w0").arg(asset("certificates").join("ca.pem")));
        format!(
            "  registries:\n    config:\n      \"{}\":\n        auth: {{ username: {USER}, password: \"{password}\" }}\n        \
             tls: {{ ca: {ca} }}\n",
            self.guest
        )
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // Nothing is left to do when it has ended by itself.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Starts a server on a free port of `address` and waits until it answers.
fn serve(dir: &Path, address: IpAddr) -> (Child, SocketAddr) {
    let address = free_port(address);
    let passwords = run(HTPASSWD.command().args(["-Bbn", USER, PASSWORD]));
    let config = dir.join("config.yaml");
    let log = dir.join("log");
    let written = fs::write(dir.join("htpasswd"), passwords)
        .and_then(|()| fs::write(&config, server_config(dir, address)))
        .and_then(|()| File::create(&log));
    let written = written.unwrap_or_else(|error| panic!("cannot write to {}: {error}", dir.display()));
    let mut server = REGISTRY
        .tied_to_this_thread()
        .arg("serve")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(written)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start the registry: {error}"));
    let deadline = Instant::now() + READY_WITHIN;
    while TcpStream::connect(address).is_err() {
        let running = server.try_wait().is_ok_and(|status| status.is_none());
        let in_time = Instant::now() < deadline;
        assert!(running && in_time, "the registry does not answer on {address}; see {}", log.display());
        std::thread::sleep(Duration::from_millis(50));
    }
    (server, address)
}

fn free_port(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0));
    listener
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|error| panic!("no free port on {address}: {error}"))
}

fn server_config(dir: &Path, address: SocketAddr) -> String {
    let dir = dir.display();
    let certificates = asset("certificates");
    let certificates = certificates.display();
    format!(
        "version: 0.1\n\
         storage: {{ filesystem: {{ rootdirectory: \"{dir}/storage\" }} }}\n\
         auth: {{ htpasswd: {{ realm: plywood, path: \"{dir}/htpasswd\" }} }}\n\
         http:\n  addr: \"{address}\"\n  tls: {{ certificate: \"{certificates}/server.pem\", key: \"{certificates}/server.key\" }}\n"
    )
}
