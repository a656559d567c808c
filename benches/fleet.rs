//! A fleet that boots at once, in one process: what each machine asks a
//! registry for, and when.
//!
//! `cargo bench --bench fleet -- [MACHINES] [REQUESTS_PER_SECOND]`. Every
//! machine is the program's own registry client with a store of its own; the
//! registry is on loopback and counts. Times are scaled: pauses begin at 50 ms
//! where a machine's begin at 500 ms.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use plywood::fetch::{Fetcher, Machine, Network, Selection, Silent, Timeouts};
use plywood::oci::manifest::{CONFIG, LAYER_GZIP, MANIFEST};
use plywood::oci::registries::{Mirror, MirrorEndpoint};
use plywood::oci::{Digest, ImageSource, Platform, Registries};
use plywood::store::Store;
use serde_json::json;

/// Machines that are at work at a time; the others wait, as they would for
/// their firmware.
const AT_ONCE: usize = 250;
const EXTENSIONS: usize = 5;
const CHANGESET: usize = 64 * 1024;

/// What the registry does with a request.
#[derive(Clone, Copy)]
enum Mood {
    Willing,
    /// 503 to everything for this long.
    DownFor(Duration),
    /// 429 to what goes beyond so many requests a second.
    Limited(usize),
}

/// Every request: when, and the status it got.
type Log = Vec<(Duration, u16)>;

struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    content: Mutex<BTreeMap<String, (&'static str, Vec<u8>)>>,
    mood: Mutex<(Instant, Mood)>,
    /// Requests that were granted in each second.
    granted: Mutex<BTreeMap<u64, usize>>,
    log: Mutex<Log>,
}

impl Registry {
    fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            mood: Mutex::new((Instant::now(), Mood::Willing)),
            granted: Mutex::default(),
            log: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = accepting.clone();
                // A machine that goes away in the middle is no fault here.
                thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn(move || drop(shared.serve(stream)))
                    .unwrap();
            }
        });
        Ok(Self { address, shared })
    }

    fn add(&self, media_type: &'static str, bytes: Vec<u8>) -> Digest {
        let digest = Digest::sha256(&bytes);
        self.shared.content.lock().unwrap().insert(digest.to_string(), (media_type, bytes));
        digest
    }

    /// An image of one changeset, as most extensions are.
    fn add_image(&self, seed: u8) -> Digest {
        let content = vec![seed; CHANGESET];
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&content)]},
        })
        .to_string()
        .into_bytes();
        let config_size = config.len();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.add(CONFIG, config), "size": config_size},
            "layers": [{"mediaType": LAYER_GZIP, "digest": self.add(LAYER_GZIP, content), "size": CHANGESET}],
        });
        self.add(MANIFEST, manifest.to_string().into_bytes())
    }

    fn begin(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = (Instant::now(), mood);
        self.shared.granted.lock().unwrap().clear();
        self.shared.log.lock().unwrap().clear();
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let path = line.split(' ').nth(1).unwrap_or_default().to_string();
            while line.trim() != "" {
                line.clear();
                reader.read_line(&mut line)?;
            }
            let (status, body, media_type) = self.answer(&path);
            let extra = if status == 429 { "Retry-After: 1\r\n" } else { "" };
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n{extra}\r\n",
                body.len()
            );
            stream.write_all(&[head.as_bytes(), &body].concat())?;
        }
    }

    fn answer(&self, path: &str) -> (u16, Vec<u8>, &'static str) {
        let (since, mood) = *self.mood.lock().unwrap();
        let at = since.elapsed();
        let status = match mood {
            Mood::DownFor(time) if at < time => 503,
            Mood::Limited(most) => {
                let mut granted = self.granted.lock().unwrap();
                let count = granted.entry(at.as_secs()).or_default();
                *count += 1;
                if *count > most { 429 } else { 200 }
            }
            _ => 200,
        };
        self.log.lock().unwrap().push((at, status));
        let name = path.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        match self.content.lock().unwrap().get(name) {
            Some((media_type, bytes)) if status == 200 => (200, bytes.clone(), media_type),
            None if status == 200 => (404, Vec::new(), "text/plain"),
            _ => (status, Vec::new(), "text/plain"),
        }
    }
}

/// One machine: its store outlives its boots.
struct Node {
    store: Store,
}

impl Node {
    fn boot(&self, registries: &Registries, images: &[ImageSource]) -> Result<(), String> {
        let timeouts = Timeouts {
            backoff: Duration::from_millis(50),
            longest_pause: Duration::from_secs(6),
            total: Duration::from_secs(600),
            ..Timeouts::default()
        };
        let fetcher = Fetcher::new(Machine {
            store: &self.store,
            registries,
            selection: Selection::of(Platform::linux("amd64")),
            network: Network { timeouts, ..Network::default() },
            progress: &Silent,
        });
        for image in images {
            let result = fetcher.resolve(image).and_then(|resolved| fetcher.fetch(resolved).map(drop));
            result.map_err(|error| plywood::sys::kmsg::chain(&error))?;
        }
        Ok(())
    }
}

struct Fleet {
    registry: Registry,
    registries: Registries,
    nodes: Vec<Node>,
}

impl Fleet {
    fn new(directory: &Path, machines: usize) -> io::Result<Self> {
        let registry = Registry::start()?;
        let endpoint = MirrorEndpoint { url: format!("http://{}", registry.address), override_path: false };
        let mirror = Mirror { endpoints: vec![endpoint], skip_fallback: true };
        let registries =
            Registries { mirrors: BTreeMap::from([("fleet.test".into(), mirror)]), ..Registries::default() };
        let nodes = (0..machines).map(|number| {
            let store = Store::open(&directory.join(number.to_string())).map_err(io::Error::other)?;
            Ok(Node { store })
        });
        let nodes = nodes.collect::<io::Result<_>>()?;
        Ok(Self { registry, registries, nodes })
    }

    /// All machines boot; prints one line of figures.
    fn boot(&self, name: &str, mood: Mood, images: &[ImageSource]) {
        self.registry.begin(mood);
        let (next, failed, started) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(self.nodes.len()) {
                scope.spawn(|| {
                    while let Some(node) = self.nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = node.boot(&self.registries, images) {
                            failed.fetch_add(1, Ordering::Relaxed);
                            eprintln!("{error}");
                        }
                    }
                });
            }
        });
        let took = started.elapsed();
        let log = self.registry.shared.log.lock().unwrap();
        let machines = self.nodes.len() as f64;
        let refused = log.iter().filter(|(_, status)| *status != 200).count();
        let mut busiest = BTreeMap::<u128, usize>::new();
        log.iter().for_each(|(at, _)| *busiest.entry(at.as_millis() / 100).or_default() += 1);
        println!(
            "{name:42} {:>9.2} {:>9.2} {:>8} {:>8.1} s {:>8}",
            (log.len() - refused) as f64 / machines,
            refused as f64 / machines,
            failed.load(Ordering::Relaxed),
            took.as_secs_f64(),
            busiest.values().max().copied().unwrap_or_default()
        );
    }

    /// How the machines come back after the registry was down.
    fn print_return(&self, slot: Duration) {
        let log = self.registry.shared.log.lock().unwrap();
        let mut slots = BTreeMap::<u128, usize>::new();
        log.iter().for_each(|(at, _)| *slots.entry(at.as_millis() / slot.as_millis()).or_default() += 1);
        let most = slots.values().max().copied().unwrap_or(1);
        for (number, count) in slots {
            let bar = "#".repeat((count * 60).div_ceil(most));
            println!("{:>6.2} s {count:>6} {bar}", (number * slot.as_millis()) as f64 / 1000.0);
        }
    }
}

fn pinned(digests: &[Digest]) -> Vec<ImageSource> {
    let reference = |(number, digest)| format!("fleet.test/extension{number}@{digest}");
    digests.iter().enumerate().map(reference).map(|text: String| text.parse().unwrap()).collect()
}

fn main() -> io::Result<()> {
    // Cargo adds `--bench`.
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let machines = numbers.first().copied().unwrap_or(1000);
    let limit = numbers.get(1).copied().unwrap_or(1000);
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
    let fresh = |name: &str| -> io::Result<Fleet> {
        let below = directory.path().join(name);
        fs::create_dir(&below)?;
        Fleet::new(&below, machines)
    };
    println!(
        "{machines} machines, {EXTENSIONS} extensions each, {AT_ONCE} at a time; requests are per machine\n"
    );
    println!(
        "{:42} {:>9} {:>9} {:>8} {:>10} {:>8}",
        "", "answered", "refused", "failed", "all done", "in 0.1 s"
    );
    let fleet = fresh("one")?;
    let mut digests: Vec<Digest> = (0..EXTENSIONS).map(|seed| fleet.registry.add_image(seed as u8)).collect();
    fleet.boot("cold", Mood::Willing, &pinned(&digests));
    fleet.boot("nothing changed", Mood::Willing, &pinned(&digests));
    digests[0] = fleet.registry.add_image(200);
    fleet.boot("one extension changed", Mood::Willing, &pinned(&digests));
    let limited = fresh("two")?;
    let digests: Vec<Digest> = (0..EXTENSIONS).map(|seed| limited.registry.add_image(seed as u8)).collect();
    limited.boot(
        &format!("cold, 429 beyond {limit} requests a second"),
        Mood::Limited(limit),
        &pinned(&digests),
    );
    let down = fresh("three")?;
    let digest = down.registry.add_image(0);
    down.boot(
        "one extension, registry down for 0.3 s",
        Mood::DownFor(Duration::from_millis(300)),
        &pinned(&[digest]),
    );
    println!("\nrequests after the registry was down, in slots of 50 ms:");
    down.print_return(Duration::from_millis(50));
    Ok(())
}
