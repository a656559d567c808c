//! Boots virtual machines and watches their serial consoles.
//!
//! A test describes a [`Machine`], boots it, and waits on its [`Console`] for
//! lines. In go the assets that `qemu-tests/assets/make` makes, and per test
//! a configuration and [`Extension`]s, out of image layouts or from a
//! [`Registry`]. Out come facts that the guest reports on its console; the
//! exit code of QEMU says nothing, as it is 0 for a panic too.
//!
//! Everything a test leaves behind lies below `build/qemu`. Whatever is
//! missing on the host makes a test fail and is named; no test skips.

mod architecture;
mod asset;
pub mod blocklog;
mod console;
mod cpio;
mod disk;
pub mod extension;
mod filesystem;
mod firmware;
mod machine;
pub mod program;
pub mod random;
mod registry;
pub mod says;
mod web;

pub use architecture::Architecture;
pub use asset::asset;
pub use asset::plywood;
pub use console::{Console, Transcript};
pub use disk::Disk;
pub use extension::Extension;
pub use filesystem::Filesystem;
pub use machine::{Firmware, Initramfs, Kernel, Machine, Maker, Network, Root};
pub use registry::Registry;
pub use web::{Proxy, Web};
