//! One function a target: any bytes go in, nothing comes out, and what must
//! hold of every input is asserted. Used by cargo-fuzz and by an ordinary
//! test, so nothing here needs more than plywood's public names.

use std::error::Error;

mod archives;
mod boot;
mod image;
mod reader;
mod stack;

pub use archives::archives;
pub use boot::{block, command_line, dhcp, module, network_request, uevent};
pub use image::{config, constraint, decompress, document, image_config, manifest, reference, tar};
pub use reader::squashfs_reader;
pub use stack::{flatten, squashfs};

/// What runs with one input.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
#[allow(dead_code)]
pub const ALL: [(&str, Target); 18] = [
    ("archives", archives),
    ("tar", tar),
    ("decompress", decompress),
    ("flatten", flatten),
    ("squashfs", squashfs),
    ("squashfs_reader", squashfs_reader),
    ("document", document),
    ("image_config", image_config),
    ("config", config),
    ("manifest", manifest),
    ("constraint", constraint),
    ("reference", reference),
    ("command_line", command_line),
    ("network_request", network_request),
    ("dhcp", dhcp),
    ("uevent", uevent),
    ("block", block),
    ("module", module),
];

/// Messages reach consoles: none may have a control character but the ends of
/// its lines.
fn assert_printable(message: &str) {
    assert!(message.chars().all(|c| c == '\n' || !c.is_control()), "{message:?}");
}

/// The same of an error and all its causes.
fn assert_chain_printable(error: &dyn Error) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        assert_printable(&error.to_string());
        cause = error.source();
    }
}
