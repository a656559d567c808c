//! A streaming writer of squashfs 4.0 images.

/// Names the content of one regular file inside the image being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u32);
