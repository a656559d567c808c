//! Boots over a root on this machine, in a mount namespace of their own: what
//! becomes of extensions that do not go with the base, and of mounts that
//! fail. Needs root, strace and unshare (`make deps`).

mod base;
mod count;
#[allow(dead_code)]
#[path = "../crash/machine.rs"]
mod machine;
mod mounts;
