//! Layers over a base, with each method that this kernel has.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use plywood::mount::{Attached, Cover, Form, LayerFile, Overlay, OverlayError, Writable};
use plywood::sys::mount::{self, Method, Options, OverlayBuilder, Stack, Submounts};

use crate::{Namespace, chain, read, turn, wait_until};

/// All methods that this kernel has: the one that is found by trying, and all
/// that it is better than. Those are forced.
fn methods() -> &'static [Method] {
    const BEST_FIRST: &[Method] = &[Method::Descriptors, Method::Paths, Method::Classic];
    static BEST: OnceLock<Method> = OnceLock::new();
    let probe = || {
        let namespace = Namespace::enter();
        OverlayBuilder::probe(&namespace.path("staging")).unwrap().method()
    };
    // On a thread of its own, whose namespace is gone afterwards.
    let best = BEST.get_or_init(|| std::thread::spawn(probe).join().unwrap());
    &BEST_FIRST[BEST_FIRST.iter().position(|method| method == best).unwrap()..]
}

fn form(cover: Cover, writable: Writable) -> Form {
    Form { cover, writable, top: None }
}

fn hierarchies(paths: &[&str]) -> Cover {
    Cover::Hierarchies(paths.iter().map(PathBuf::from).collect())
}

/// A base directory that is a mount, as a root is.
fn base(namespace: &Namespace) -> PathBuf {
    let base = namespace.files("base", &[]);
    mount::mount("tmpfs", Path::new("base"), &base, &Options::DEFAULT).unwrap();
    namespace.files("base", &[("usr/bin/sh", "base"), ("usr/bin/tool", "base"), ("etc/os-release", "base")])
}

fn attach(
    namespace: &Namespace,
    method: Method,
    form: Form,
    layers: Vec<LayerFile>,
) -> Result<Attached, OverlayError> {
    let base = namespace.path("base");
    let overlay = Overlay::over(&base, layers, form)?.expect("layers");
    let builder = OverlayBuilder::with(method, &namespace.path("staging")).unwrap();
    overlay.attach_with(&builder, &base)
}

#[test]
fn the_highest_layer_wins_over_a_whole_root() {
    let _turn = turn();
    for &method in methods() {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        let before = namespace.mounts();
        let layers = vec![
            namespace.layer(1, &[("usr/bin/tool", "one"), ("usr/bin/one", "one"), ("opt/a", "one")]),
            namespace.layer(2, &[("usr/bin/tool", "two")]),
        ];
        let attached = attach(&namespace, method, form(Cover::Root, Writable::No), layers).unwrap();
        for (path, expected) in
            [("usr/bin/sh", "base"), ("usr/bin/tool", "two"), ("usr/bin/one", "one"), ("opt/a", "one")]
        {
            assert_eq!(read(&base.join(path)).as_deref(), Some(expected), "{method}: {path}");
        }
        assert!(fs::write(base.join("new"), "").is_err(), "{method}: read-only");
        assert_eq!(attached.mount_points(), [base.as_path()]);
        // Nothing but the overlay can be seen, and it goes without a trace.
        assert_eq!(namespace.mounts(), before, "{method}: the overlay is over the base's mount");
        assert!(!fs::exists("/tmp/staging").unwrap());
        assert_eq!(namespace.loops().len(), 2, "{method}");
        attached.detach();
        assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("base"), "{method}");
        wait_until(|| namespace.loops().is_empty(), "loop devices are freed");
    }
}

#[test]
fn hierarchies_are_overlaid_apart_and_only_where_something_is() {
    let _turn = turn();
    for &method in methods() {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        let layers = vec![
            namespace.layer(1, &[("usr/bin/tool", "one"), ("var/not-covered", "one")]),
            namespace.layer(2, &[("opt/cni/bin/x", "two")]),
        ];
        let form = form(hierarchies(&["/usr", "/etc", "/opt"]), Writable::No);
        let attached = attach(&namespace, method, form, layers).unwrap();
        assert_eq!(attached.mount_points(), [base.join("usr"), base.join("opt")], "{method}");
        assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("one"));
        assert_eq!(read(&base.join("opt/cni/bin/x")).as_deref(), Some("two"), "made in the base");
        assert_eq!(read(&base.join("var/not-covered")), None);
        fs::write(base.join("etc/new"), "").expect("/etc is as it was");
        attached.detach();
    }
}

#[test]
fn a_hierarchy_behind_a_symlink_stays_inside_the_root() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let base = base(&namespace);
    fs::create_dir(base.join("usr/lib")).unwrap();
    symlink("/usr/lib", base.join("lib")).unwrap();
    let layers = vec![namespace.layer(1, &[("lib/x", "one")])];
    let attached =
        attach(&namespace, methods()[0], form(hierarchies(&["/lib"]), Writable::No), layers).unwrap();
    assert_eq!(attached.mount_points(), [base.join("usr/lib")]);
    assert_eq!(read(&base.join("usr/lib/x")).as_deref(), Some("one"));
}

#[test]
fn writes_go_to_memory_or_to_a_directory_that_stays() {
    let _turn = turn();
    for &method in methods() {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        fs::set_permissions(base.join("usr"), fs::Permissions::from_mode(0o751)).unwrap();
        let persistent = Writable::Persistent {
            upperdir: namespace.path("state/upper"),
            workdir: namespace.path("state/work"),
        };
        fs::create_dir(namespace.path("state")).unwrap();
        for (cover, writable) in [
            (Cover::Root, Writable::Tmpfs),
            (hierarchies(&["/usr"]), Writable::Tmpfs),
            (hierarchies(&["/usr", "/etc"]), persistent),
        ] {
            let layers = vec![namespace.layer(1, &[("usr/bin/tool", "one")])];
            let attached = attach(&namespace, method, form(cover, writable), layers).unwrap();
            fs::write(base.join("usr/bin/tool"), "written").expect("writable");
            assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("written"));
            let mode = fs::metadata(base.join("usr")).unwrap().mode();
            attached.detach();
            // From the base where the overlay's root is there, else from the layer.
            assert!(matches!(mode & 0o7777, 0o751 | 0o755), "{method}: {mode:o}");
            assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("base"), "{method}");
        }
        assert_eq!(read(&namespace.path("state/upper/usr/bin/tool")).as_deref(), Some("written"));
        assert_eq!(fs::metadata(namespace.path("state/upper/usr")).unwrap().mode() & 0o7777, 0o751);
    }
}

#[test]
fn a_plain_directory_lies_on_top_of_all_layers() {
    let _turn = turn();
    for &method in methods() {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        let top = namespace.files("top", &[("etc/extensions.yaml", "layers: []"), ("usr/bin/tool", "top")]);
        let layers = vec![namespace.layer(9, &[("usr/bin/tool", "nine"), ("etc/extensions.yaml", "nine")])];
        let form = Form { top: Some(top), ..form(Cover::Root, Writable::No) };
        let _attached = attach(&namespace, method, form, layers).unwrap();
        assert_eq!(read(&base.join("etc/extensions.yaml")).as_deref(), Some("layers: []"), "{method}");
        assert_eq!(read(&base.join("usr/bin/tool")).as_deref(), Some("top"), "{method}");
        mount::detach(&base).unwrap();
    }
}

#[test]
fn an_error_leaves_no_mount_and_no_loop_device() {
    let _turn = turn();
    for &method in methods() {
        let namespace = Namespace::enter();
        let base = base(&namespace);
        let before = namespace.mounts();
        let mut broken = namespace.layer(2, &[("usr/x", "")]);
        fs::write(namespace.path("002-test.sqsh"), [0; 8192]).unwrap();
        broken.file = File::open(namespace.path("002-test.sqsh")).unwrap();
        let layers = vec![namespace.layer(1, &[("usr/y", "")]), broken, namespace.layer(3, &[("usr/z", "")])];
        let error = attach(&namespace, method, form(Cover::Root, Writable::No), layers).unwrap_err();
        assert!(matches!(&error, OverlayError::Layer { number: 2, .. }), "{}", chain(&error));
        let text = chain(&error);
        assert!(text.starts_with("cannot mount layer 002 002-test: fsconfig failed"), "{text}");
        assert!(
            text.contains("(kernel: Can't find a SQUASHFS superblock on loop"),
            "the kernel's own text: {text}"
        );
        assert_eq!(namespace.mounts(), before, "{method}");
        assert_eq!(read(&base.join("usr/y")), None);
        wait_until(|| namespace.loops().is_empty(), "loop devices are freed");

        // The second of two hierarchies fails after the first was built.
        let layers =
            vec![namespace.layer(1, &[("usr/y", ""), ("etc", "a file where a directory should be")])];
        let form = form(hierarchies(&["/usr", "/etc"]), Writable::No);
        let error = attach(&namespace, method, form, layers).unwrap_err();
        assert_eq!(
            chain(&error),
            "cannot mount layer 001 001-test: openat2 failed for etc: Not a directory (os error 20)"
        );
        assert_eq!((namespace.mounts(), read(&base.join("usr/y"))), (before, None), "{method}");
        wait_until(|| namespace.loops().is_empty(), "loop devices are freed");
    }
}

#[test]
fn a_mount_that_an_overlay_would_hide_is_named() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let base = base(&namespace);
    mount::bind(&base.join("etc"), &base.join("usr/bin"), Submounts::Leave).unwrap();
    let layers = vec![namespace.layer(1, &[("usr/x", "")])];
    let error = attach(&namespace, methods()[0], form(Cover::Root, Writable::No), layers).unwrap_err();
    assert_eq!(chain(&error), "cannot overlay /: /tmp/base/usr/bin is mounted below it and would be hidden");
}

#[test]
fn the_kernels_own_text_is_in_the_error() {
    let namespace = Namespace::enter();
    let directories: Vec<_> =
        (0..501).map(|i| File::open(namespace.files(&format!("lower/{i}"), &[])).unwrap()).collect();
    let stack = Stack { lower: directories.iter().map(AsFd::as_fd).collect(), upper: None };
    for &method in methods() {
        let expected = match method {
            Method::Descriptors | Method::Paths => "too many lower directories, limit is 500",
            // mount(2) can only give a number.
            Method::Classic => "mount failed for overlay",
        };
        let builder = OverlayBuilder::with(method, &namespace.path("staging")).unwrap();
        let error = builder.open(&stack).unwrap_err();
        assert!(chain(&error).contains(expected), "{method}: {}", chain(&error));
    }
}

#[test]
fn five_hundred_directories_are_overlaid() {
    let namespace = Namespace::enter();
    let directories: Vec<_> = (0..500)
        .map(|i| File::open(namespace.files(&format!("lower/{i}"), &[(&format!("file{i}"), "")])).unwrap())
        .collect();
    let stack = Stack { lower: directories.iter().map(AsFd::as_fd).collect(), upper: None };
    for &method in methods() {
        let builder = OverlayBuilder::with(method, &namespace.path("staging")).unwrap();
        let overlay = builder.open(&stack).unwrap_or_else(|error| panic!("{method}: {}", chain(&error)));
        let target = namespace.files("merged", &[]);
        overlay.attach(&target).unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 500, "{method}");
        mount::detach(&target).unwrap();
    }
}

#[test]
fn the_best_method_that_works_is_found() {
    let _turn = turn();
    let namespace = Namespace::enter();
    let base = base(&namespace);
    let overlay =
        Overlay::over(&base, vec![namespace.layer(1, &[("usr/x", "one")])], form(Cover::Root, Writable::No));
    let attached = overlay.unwrap().unwrap().attach(&base).unwrap();
    assert_eq!(read(&base.join("usr/x")).as_deref(), Some("one"));
    assert_eq!(fs::read_dir("/run/plywood").map_or(0, Iterator::count), 0, "no staging is left");
    attached.detach();
}

#[test]
fn options_of_the_overlay_do_not_depend_on_the_kernels_configuration() {
    let _turn = turn();
    for &method in methods() {
        let namespace = Namespace::enter();
        base(&namespace);
        let layers = vec![namespace.layer(1, &[("usr/x", "one")])];
        let _attached = attach(&namespace, method, form(Cover::Root, Writable::Tmpfs), layers).unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - overlay plywood ")).unwrap();
        assert!(line.contains("nodev"), "{line}");
        // The kernel lists what differs from its configuration.
        assert!(!line.contains("redirect_dir=on") && !line.contains("metacopy=on"), "{line}");
        assert!(line.contains("redirect_dir=nofollow") && line.contains("xino=on"), "{line}");
    }
}
