//! Strong digests, by which content that was stored before is found.
//!
//! Images come from strangers, so contents count as the same only if their
//! SHA-256 is. Nothing of an identity is written to the image.

use ring::digest::{Context, SHA256, digest};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Identity([u8; 32]);

impl Identity {
    pub(super) fn of(content: &[u8]) -> Self {
        Self::from(digest(&SHA256, content))
    }
}

impl From<ring::digest::Digest> for Identity {
    fn from(digest: ring::digest::Digest) -> Self {
        let mut identity = Self::default();
        identity.0.copy_from_slice(digest.as_ref());
        identity
    }
}

/// The identity of contents that follow one another.
pub(super) struct Sequence(Context);

impl Sequence {
    pub(super) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(super) fn push(&mut self, next: &Identity) {
        self.0.update(&next.0);
    }

    pub(super) fn finish(self) -> Identity {
        self.0.finish().into()
    }
}
