//! What appears on the console, in one place: patterns for
//! [`Transcript::expect`](crate::Transcript::expect). The guest's facts are
//! printed by `assets/guest/report`, the others by plywood; a message that is
//! worded anew is worded anew here, and in no test.

/// The guest reached the end of its report.
pub const REPORTED: &str = "GUEST: end";
pub const NO_EXTENSIONS: &str = "GUEST: no extensions.yaml";
pub const AN_EXTENSION: &str = "GUEST: extensions.yaml: *image:";
pub const AN_OVERLAY: &str = "GUEST: mount: /* overlay ";
pub const USR_IS_WRITABLE: &str = "GUEST: /usr is writable";
pub const USR_IS_READ_ONLY: &str = "GUEST: /usr is read-only";
pub const HAS_A_ROUTE: &str = "GUEST: has a route";
pub const NO_ROUTE: &str = "GUEST: no route";
pub const A_FAILED_UNIT: &str = "GUEST: failed unit: ";
pub const DEBIAN: &str = "GUEST: os-release: debian";

/// `/etc/extensions.yaml` lists the extension `name` as layer `number`.
pub fn layer(number: usize, name: &str) -> String {
    format!("GUEST: extensions.yaml: *image: {number:03}.*{name}*.sqsh")
}

/// `plywood list` shows the extension `name` as layer `number`.
pub fn listed(number: usize, name: &str) -> String {
    format!("GUEST: list: {number:03} *{name} ")
}

/// The extension's program runs.
pub fn greeting(name: &str) -> String {
    format!("GUEST: {name}: greetings from {name}")
}

/// The file that all extensions bring is that of the extension `name`.
pub fn winner(name: &str) -> String {
    format!("GUEST: winner: {name}")
}

pub const FETCHING: &str = "plywood: *: fetching ";
pub const RULE_BROKEN: &str = "plywood: *usr/local/share/open*world-writable";
pub const DIGEST_MISMATCH: &str = "plywood: *changeset 1*expected to have digest sha256:*has digest sha256:";
pub const REGISTRY_DOWN: &str = "plywood: *10.0.2.2:*refused";
pub const WRONG_PASSWORD: &str = "plywood: *10.0.2.2:*not authorized";
pub const UNKNOWN_KEY: &str = "plywood: *config.yaml:5:*onFailure";
pub const MISSING_ROOT: &str = "plywood: */dev/vdz";
pub const MISSING_INIT: &str = "plywood: */sbin/nothing";
pub const EMERGENCY_SHELL: &str = "plywood: starting *leaving the shell reboots";
pub const WAITING: &str = "plywood: waiting; Ctrl-Alt-Del reboots";
pub const NO_ROOT: &str = "plywood: cannot boot: the kernel command line has no root=";
pub const LEFT_OUT: &str = "plywood: plywood.skip: leaving out hello";
/// A row of the table that `plywood list` prints.
pub const LISTED: &str = "GUEST: list: 000";
pub const LISTED_AS_SKIPPED: &str = "GUEST: list: skipped: *hello: plywood.skip= names it";
pub const PASSED_OVER: &str = "plywood: /dev/vdb: there is no config.yaml, passed over";
pub const BUSY: &str = "plywood: *Device or resource busy";
pub const MISSING_STATE: &str = "plywood: the configured extensions: *plywood.state=LABEL=NOWHERE";
pub const ANOTHER_ATTEMPT: &str = "plywood: the state: ";
pub const ARGUMENTS: &str = "GUEST: arguments: single tail";
pub const A_FAILURE: &str = "plywood: the configured extensions:";
pub const PLAIN_ROOT: &str = "plywood: booting the plain root, without extensions";
pub const STATE_READ_ONLY: &str = "plywood: the state volume is used read-only";
pub const SKIPPED: &str = "plywood: skipping oci:/extensions/altered: *digest sha256:";
pub const MISSING_MODULE: &str = "plywood: machine.kernel.modules: no kernel module is named `missing`";
pub const FOR_ANOTHER_PROCESSOR: &str =
    "plywood: skipping oci:/extensions/foreign: *it is for linux/amd64, this machine needs linux/arm64";
pub const MODULE_FOR_ANOTHER_PROCESSOR: &str =
    "plywood: *extra/dummy.ko*: kernel module for amd64, the host is arm64";

pub const OTHER_KERNEL: &str =
    "plywood: *kernel module *dummy.ko was built for `*-other-amd64 *`, this machine runs *-cloud-amd64";

/// A module of `machine.kernel.modules` is in the kernel before init starts.
pub fn loaded(module: &str) -> String {
    format!("plywood: loaded module {module}")
}
pub const BLESSED: &str = "GUEST: prepare: generation 1 is good";
pub const APPLIED: &str = "GUEST: prepare: generation 2 is ready";
pub const GENERATION_1_RUNS: &str = "GUEST: list: generation 1";
pub const GENERATION_2_IS_BAD: &str = "GUEST: status: 2 * bad ";
pub const ATTEMPT: &str = "plywood: generation 2: attempt ";
pub const INIT_EXITED: &str = "Attempted to kill init";
pub const A_CRASH: &str = "sysrq triggered crash";
pub const WATCHDOG: &str = "plywood: the watchdog resets the machine in 10 s";
pub const HANGS: &str = "GUEST: hangs";

/// At shutdown nothing is left of the layers: plywood says so of a root that is
/// an overlay itself, systemd of any other.
pub const RELEASED: &str = "plywood: everything is unmounted, and no loop device is in use";
/// The kernel, of the second disk.
pub const STATE_UNMOUNTED: &str = "EXT4-fs (vdb): unmounting filesystem";
pub const UNMOUNTED: &str = "systemd-shutdown[1]: All filesystems unmounted";
pub const DETACHED: &str = "systemd-shutdown[1]: All loop devices detached";
/// What systemd says of that which it could do nothing about.
pub const NOT_RELEASED: [&str; 5] = [
    "Failed unmounting",
    "Failed to unmount",
    "Failed to remount",
    "Could not detach loopback",
    "to finalize *file systems",
];

/// The assembled distribution is up, and nothing of it has failed.
pub const SYSTEM_RUNS: &str = "GUEST: system: running";
pub const DISTRO_END: &str = "GUEST: distro end";

/// A fact of `distro-report` that has to be so on every distribution.
pub fn so(fact: &str) -> String {
    format!("GUEST: {fact}: yes")
}

/// Why the overlays are where they are.
pub const OVERLAY_WHERE_TOUCHED: &str = "GUEST: log: *overlay: *: all that extensions touch";
pub const OVERLAY_OVER_THE_ROOT: &str = "GUEST: mount: / overlay ";
