//! Content digests (image-spec, descriptor.md, "Digests"), readers that check
//! them and writers that compute them.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::Escaped;

/// A registered digest algorithm. Others are refused (image-spec allows it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name as written before the colon, also the directory in `blobs/`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// The digest of some content. Holds bytes, not text, so that a path made
/// from it can only be hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    #[error("`{}` is not a digest (want algorithm:hex)", Escaped::new(.0))]
    Malformed(String),
    #[error("digest `{}` uses an algorithm other than sha256 and sha512", Escaped::new(.0))]
    Algorithm(String),
}

impl Digest {
    /// Hashes `bytes` with SHA-256.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// The hexadecimal part, lower case.
    pub fn hex(&self) -> String {
        self.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.into());
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        match algorithm {
            "sha256" => Ok(Self::Sha256(parse_hex(hex).ok_or_else(malformed)?)),
            "sha512" => Ok(Self::Sha512(parse_hex(hex).ok_or_else(malformed)?)),
            _ => Err(DigestError::Algorithm(text.into())),
        }
    }
}

/// Exactly `2 * N` lower-case digits; the spec forbids upper case.
fn parse_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_value(pair[0])? << 4 | hex_value(pair[1])?;
    }
    Some(bytes)
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] from bytes as they pass.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: ring::digest::Context,
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        let ring_algorithm = match algorithm {
            Algorithm::Sha256 => &ring::digest::SHA256,
            Algorithm::Sha512 => &ring::digest::SHA512,
        };
        Self { algorithm, context: ring::digest::Context::new(ring_algorithm) }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub fn finish(self) -> Digest {
        let value = self.context.finish();
        let mut sha256 = [0; 32];
        let mut sha512 = [0; 64];
        match self.algorithm {
            Algorithm::Sha256 => {
                sha256.copy_from_slice(value.as_ref());
                Digest::Sha256(sha256)
            }
            Algorithm::Sha512 => {
                sha512.copy_from_slice(value.as_ref());
                Digest::Sha512(sha512)
            }
        }
    }
}

/// Why content is not what its descriptor says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Mismatch {
    #[error("content expected to have digest {expected} has digest {actual}")]
    Digest { expected: Digest, actual: Digest },
    #[error("content of {digest} ends after {actual} of {expected} bytes")]
    Short { digest: Digest, expected: u64, actual: u64 },
    #[error("content of {digest} is longer than its {expected} bytes")]
    Long { digest: Digest, expected: u64 },
}

/// Bytes read at once where nobody looks at them. Small reads would cost as
/// much as hashing.
const DRAINED_AT_ONCE: usize = 256 * 1024;

/// Passes a reader's bytes on and fails at their end if they do not have the
/// expected digest (and size, where one is known).
///
/// Only after `read` has returned `Ok(0)` is what was read verified; call
/// [`drain`](Self::drain) where the consumer may stop before the end.
pub struct VerifyingReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: Option<u64>,
    seen: u64,
}

impl<R: Read> VerifyingReader<R> {
    /// `size` is the length in bytes that the descriptor gives, if there is one.
    pub fn new(inner: R, expected: Digest, size: Option<u64>) -> Self {
        Self { inner, hasher: Some(Hasher::new(expected.algorithm())), expected, size, seen: 0 }
    }

    /// Reads what the consumer left, so that the check at the end happens.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut BufReader::with_capacity(DRAINED_AT_ONCE, self), &mut io::sink()).map(drop)
    }

    /// The reader below, whether or not its end was reached.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn check_end(&mut self) -> Result<(), Mismatch> {
        // A second read after the end has nothing left to check.
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        if let Some(size) = self.size
            && self.seen < size
        {
            return Err(Mismatch::Short { digest: self.expected, expected: size, actual: self.seen });
        }
        let actual = hasher.finish();
        if actual != self.expected {
            return Err(Mismatch::Digest { expected: self.expected, actual });
        }
        Ok(())
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            self.check_end().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            return Ok(0);
        }
        self.seen += count as u64;
        if let Some(size) = self.size
            && self.seen > size
        {
            let error = Mismatch::Long { digest: self.expected, expected: size };
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

/// Passes bytes on to a writer and computes their SHA-256 digest and count.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> HashingWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256), size: 0 }
    }

    /// The inner writer, the digest of what passed, and its length in bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_parse_only_in_canonical_form() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::sha256(b""));
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        let long = format!("sha512:{}", "0a".repeat(64));
        assert_eq!(long.parse::<Digest>().unwrap().to_string(), long);
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:abcd",
            "../../etc/passwd",
            &EMPTY.to_uppercase(),
            &format!("{EMPTY}00"),
            &EMPTY.replace("sha256", "sha512"),
            &format!("sha256:{}", "../".repeat(22)),
        ] {
            assert!(
                matches!(text.parse::<Digest>(), Err(DigestError::Malformed(_) | DigestError::Algorithm(_))),
                "{text}"
            );
        }
        let md5 = "md5:d41d8cd98f00b204e9800998ecf8427e";
        assert_eq!(md5.parse::<Digest>(), Err(DigestError::Algorithm(md5.into())));
    }

    #[test]
    fn a_verifying_reader_fails_at_the_end_unless_all_fits() {
        let digest = Digest::sha256(b"content");
        let other = Digest::sha256(b"other");
        for (expected, size, mismatch) in [
            (digest, Some(7), None),
            (digest, None, None),
            (digest, Some(6), Some(Mismatch::Long { digest, expected: 6 })),
            (digest, Some(8), Some(Mismatch::Short { digest, expected: 8, actual: 7 })),
            (other, Some(7), Some(Mismatch::Digest { expected: other, actual: digest })),
        ] {
            let result = VerifyingReader::new(&b"content"[..], expected, size).drain();
            match mismatch {
                None => result.unwrap(),
                Some(mismatch) => assert_eq!(result.unwrap_err().to_string(), mismatch.to_string()),
            }
        }
    }
}
