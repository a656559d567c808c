//! Indexes of kernel modules, compared with those of depmod(8) for the same
//! merged tree, over all modules of two Debian kernels. Needs kmod and the
//! kernels that `qemu-tests/assets/make` fetches, and fails without them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use plywood::sys::module::depmod;
use tempfile::TempDir;

/// What the kernel's build leaves beside the modules; all else is depmod's.
const FROM_BUILD: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];

/// A kernel's modules, below `lib/modules/RELEASE` of `root`.
struct Kernel {
    release: String,
    root: PathBuf,
}

impl Kernel {
    fn get(version: &str) -> Self {
        let asset = output(
            Command::new(source_tree().join("qemu-tests/assets/make")).arg(format!("kernel-{version}")),
        );
        let asset = PathBuf::from(asset.trim());
        let release = fs::read_to_string(asset.join("release")).unwrap().trim().to_owned();
        Self { release, root: asset.join("root") }
    }

    fn directory(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }
}

/// A base and layers over it, each a directory.
struct Trees {
    release: String,
    directory: TempDir,
    /// Lowest first; the base is the first.
    names: Vec<&'static str>,
}

impl Trees {
    /// The base has the kernel's modules, but none of depmod's indexes.
    fn over(kernel: &Kernel) -> Self {
        let directory = TempDir::new_in(source_tree().join("target")).unwrap();
        let trees = Self { release: kernel.release.clone(), directory, names: vec!["base"] };
        let modules = trees.modules("base");
        fs::create_dir_all(modules.parent().unwrap()).unwrap();
        output(Command::new("cp").arg("-al").args([&kernel.directory(), &modules]));
        forget_indexes(&modules);
        trees
    }

    /// Another layer, on top.
    fn add(&mut self, name: &'static str) {
        fs::create_dir_all(self.modules(name)).unwrap();
        self.names.push(name);
    }

    fn root(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn modules(&self, name: &str) -> PathBuf {
        self.root(name).join("usr/lib/modules").join(&self.release)
    }

    /// Moves modules, named by the ends of their paths, from the base to a
    /// directory of a layer.
    fn take(&self, modules: &[String], to: &str, directory: &str) {
        let (from, to) = (self.modules("base"), self.modules(to).join(directory));
        fs::create_dir_all(&to).unwrap();
        for module in modules {
            let name = Path::new(module).file_name().unwrap();
            fs::rename(from.join(module), to.join(name)).unwrap();
        }
    }

    fn file(&self, root: &str, path: &str, content: &[u8]) {
        let path = self.root(root).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Runs depmod for the base alone, as its distribution does.
    fn index_base(&self) {
        self.depmod("base");
    }

    fn depmod(&self, root: &str) {
        let root = self.root(root);
        // depmod looks into lib/modules, and at the configuration of the host.
        if !root.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        }
        fs::create_dir_all(root.join("etc/depmod.d")).unwrap();
        let mut command = Command::new("/usr/sbin/depmod");
        command.arg("-b").arg(&root).arg("-C").arg(root.join("etc/depmod.d")).arg(&self.release);
        output(&mut command);
    }

    fn ours(&self) -> Option<BTreeMap<&'static str, Vec<u8>>> {
        let roots: Vec<_> =
            self.names.iter().rev().map(|name| File::open(self.root(name)).unwrap()).collect();
        let roots: Vec<_> = roots.iter().map(File::as_fd).collect();
        depmod::index(&roots, &self.release).unwrap().map(|files| files.into_iter().collect())
    }

    /// Copies one tree over the other and lets depmod index the whole.
    fn theirs(&self) -> PathBuf {
        let merged = self.root("merged");
        fs::create_dir_all(&merged).unwrap();
        for name in &self.names {
            output(
                Command::new("cp")
                    .args(["-al", "--remove-destination"])
                    .arg(self.root(name).join("."))
                    .arg(&merged),
            );
        }
        for entry in fs::read_dir(self.modules("merged")).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let base = self.modules("base").join(&name);
            if FROM_BUILD.contains(&name.as_str()) && base.exists() {
                fs::remove_file(entry.path()).unwrap();
                fs::copy(base, entry.path()).unwrap();
            } else if entry.file_type().unwrap().is_file() {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        self.depmod("merged");
        self.modules("merged")
    }

    /// Every file that depmod writes is among ours, the same byte for byte.
    fn assert_same(&self) {
        let (ours, theirs) = (self.ours().expect("a layer has modules"), self.theirs());
        let mut compared = 0;
        for entry in fs::read_dir(&theirs).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let Some(ours) = ours.get(name.as_str()) else {
                let is_from_build = FROM_BUILD.contains(&name.as_str());
                assert!(!entry.file_type().unwrap().is_file() || is_from_build, "{name}");
                continue;
            };
            assert_same(&name, ours, &fs::read(entry.path()).unwrap());
            compared += 1;
        }
        assert!(compared >= 10, "depmod wrote {compared} files");
    }
}

fn assert_same(name: &str, ours: &[u8], theirs: &[u8]) {
    if ours == theirs || name.ends_with(".bin") {
        assert!(ours == theirs, "{name}: {} bytes, depmod has {}", ours.len(), theirs.len());
        return;
    }
    let (ours, theirs) = (String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs));
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs, "{name}");
    }
    panic!("{name}: {} lines, depmod has {}", ours.lines().count(), theirs.lines().count());
}

fn source_tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Modules of the base that need one of these, and these, by path.
fn with_users(trees: &Trees, names: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(trees.modules("base").join("modules.dep")).unwrap();
    let is_named = |path: &str| names.iter().any(|name| path.contains(&format!("/{name}.ko")));
    let lines = text.lines().map(|line| line.split_once(':').unwrap());
    lines
        .filter(|(path, needs)| is_named(path) || needs.split(' ').any(is_named))
        .map(|(path, _)| path.into())
        .collect()
}

fn forget_indexes(modules: &Path) {
    for entry in fs::read_dir(modules).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        if entry.is_file() && !FROM_BUILD.contains(&name) {
            fs::remove_file(entry).unwrap();
        }
    }
}

const VERSIONS: [&str; 2] = ["6.1", "6.12"];

#[test]
fn all_modules_of_a_kernel_that_was_never_indexed() {
    for version in VERSIONS {
        let mut trees = Trees::over(&Kernel::get(version));
        trees.add("layer");
        trees.index_base();
        let some = with_users(&trees, &["dummy"]);
        assert_eq!(some.len(), 1);
        trees.take(&some, "layer", "extra");
        forget_indexes(&trees.modules("base"));
        trees.assert_same();
    }
}

#[test]
fn modules_of_layers_over_an_indexed_base() {
    for version in VERSIONS {
        let mut trees = Trees::over(&Kernel::get(version));
        trees.index_base();
        let nfs = with_users(&trees, &["nfs", "nfsd", "lockd"]);
        let disks = with_users(&trees, &["dm-mod"]);
        assert!(nfs.len() > 4 && disks.len() > 10, "{nfs:?} {disks:?}");
        for (name, modules, directory) in [("lower", &nfs, "kernel/fs"), ("upper", &disks, "extra/dm")] {
            trees.add(name);
            trees.take(modules, name, directory);
        }
        // What Talos' catalogue brings along, and must not count.
        trees.file("upper", &format!("usr/lib/modules/{}/modules.order", trees.release), b"extra/none.ko\n");
        trees.index_base();
        trees.assert_same();
    }
}

/// The layer's modules have the same names as some of the base, on which
/// others of the base rest, and are compressed in another way.
#[test]
fn modules_of_a_layer_in_place_of_those_of_the_base() {
    for (configuration, directory) in [
        ("search extra built-in\n", "extra"),
        ("search updates built-in\n", "updates/deep"),
        ("search built-in\noverride nfs * weak\noverride lockd ^6.1 weak\n", "weak"),
        ("search built-in weak\n", "weak"),
        ("search updates\nexclude extra\n", "extra"),
    ] {
        let mut trees = Trees::over(&Kernel::get("6.1"));
        trees.add("layer");
        trees.file("base", "etc/depmod.d/search.conf", configuration.as_bytes());
        trees.index_base();
        let modules = trees.modules("layer").join(directory);
        fs::create_dir_all(&modules).unwrap();
        for path in ["fs/nfs/nfs.ko", "fs/lockd/lockd.ko", "net/sunrpc/sunrpc.ko", "drivers/net/dummy.ko"] {
            let module = trees.modules("base").join("kernel").join(path);
            let to = modules.join(module.file_name().unwrap()).with_extension("ko.zst");
            output(Command::new("zstd").arg("-q").arg(module).arg("-o").arg(to));
        }
        // One more of a name of its own, so that no configuration leaves nothing.
        let (other, name) =
            (trees.modules("base").join("kernel/drivers/net/dummy.ko"), "kernel/drivers/net/own-dummy.ko");
        fs::create_dir_all(trees.modules("layer").join(name).parent().unwrap()).unwrap();
        fs::copy(other, trees.modules("layer").join(name)).unwrap();
        trees.assert_same();
    }
}

#[test]
fn a_base_without_extensions_modules_keeps_its_indexes() {
    let mut trees = Trees::over(&Kernel::get("6.1"));
    trees.index_base();
    trees.add("layer");
    trees.file("layer", "usr/local/bin/tool", b"");
    assert!(trees.ours().is_none());
}
