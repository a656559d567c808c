//! Real mounts: layers, overlays, API filesystems, switch root. Each test has
//! a mount namespace of its own, so nothing is left on the machine. Needs root,
//! squashfs-tools and e2fsprogs, and fails without them.

mod devices;
mod filesystems;
mod overlay;
mod switch_root;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use plywood::mount::LayerFile;
use plywood::sys::mount::{self, Options, mounts_below};

/// A thread's own mount namespace with a tmpfs to work in, and its `/run`.
struct Namespace {
    directory: PathBuf,
}

impl Namespace {
    fn enter() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests mount filesystems: run them as root");
        // SAFETY: CLONE_NEWNS gives this thread copies of its mounts and of
        // its working directory; no memory and no descriptor is unshared.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        assert_eq!(unshared, 0, "unshare: {}", std::io::Error::last_os_error());
        mount::make_private(Path::new("/")).unwrap();
        let directory = PathBuf::from("/tmp");
        for target in ["/tmp", "/run"] {
            mount::mount("tmpfs", Path::new("test"), Path::new(target), &Options::DEFAULT).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes files with these contents, and the directories they are in.
    fn files(&self, directory: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.path(directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, content) in files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        directory
    }

    /// A squashfs of these files.
    fn layer(&self, number: u16, files: &[(&str, &str)]) -> LayerFile {
        let name = format!("{number:03}-test");
        let tree = self.files(&format!("tree-{name}"), files);
        let image = self.path(&format!("{name}.sqsh"));
        let mut command = Command::new("mksquashfs");
        command.args([&tree, &image]).args(["-quiet", "-no-progress", "-noappend", "-no-xattrs"]);
        let output = command.output().expect("mksquashfs of squashfs-tools");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        LayerFile { number, name, file: File::open(image).unwrap() }
    }

    /// What is mounted in the work directory, and in /run.
    fn mounts(&self) -> BTreeSet<PathBuf> {
        let below = |path: &Path| mounts_below(File::open(path).unwrap()).unwrap();
        below(&self.directory).into_iter().chain(below(Path::new("/run"))).collect()
    }

    /// Names that loop devices hold of files in this work directory.
    fn loops(&self) -> Vec<String> {
        let names = fs::read_dir("/sys/class/block")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("loop/backing_file")).ok());
        names.filter(|name| name.trim().ends_with("-test.sqsh")).collect()
    }
}

/// Tests that look at loop devices, which all namespaces share, take turns.
static LOOPS: Mutex<()> = Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    LOOPS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The kernel frees loop devices a moment after their last user.
fn wait_until(condition: impl Fn() -> bool, what: &str) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

fn chain(error: &dyn std::error::Error) -> String {
    let errors = std::iter::successors(Some(error), |error| error.source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
