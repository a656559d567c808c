//! `plywood.config.key=`: who may write this machine's configuration.
//!
//! In: a public key as OpenSSL prints it, without its frame: base64 of a
//! SubjectPublicKeyInfo (RFC 5280, 4.1.2.7; RFC 8410; RFC 5480). Out:
//! [`PublicKey`]. Invariant: a key is Ed25519 or P-256, and nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};

/// The frames of the two kinds of keys; the key itself is what follows.
const ED25519_INFO: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
const P256_INFO: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";

/// A key that signatures are checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: Kind,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ed25519,
    /// With SHA-256.
    P256,
}

impl PublicKey {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let info = STANDARD.decode(text).ok()?;
        for (kind, frame, length) in [(Kind::Ed25519, ED25519_INFO, 32), (Kind::P256, P256_INFO, 65)] {
            if let Some(bytes) = info.strip_prefix(frame).filter(|bytes| bytes.len() == length) {
                return Some(Self { kind, bytes: bytes.into() });
            }
        }
        None
    }

    /// Whether `signature`, bytes or base64 of them, is one of `text` by this key.
    pub fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match self.kind {
            Kind::Ed25519 => &ED25519,
            Kind::P256 => &ECDSA_P256_SHA256_ASN1,
        };
        let key = UnparsedPublicKey::new(algorithm, &self.bytes);
        let decoded = STANDARD.decode(signature.trim_ascii()).unwrap_or_default();
        [signature, &decoded].into_iter().any(|signature| key.verify(text, signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"version: v1alpha1\n";
    /// Key and signature of `TEXT`, as `openssl pkeyutl -sign -rawin` and
    /// `openssl dgst -sha256 -sign` make them.
    const PAIRS: [(&str, &str); 2] = [
        (
            "MCowBQYDK2VwAyEA1O+IweNRQ+gtYqv/WTKILvhDy/iTMt8ktrdZERe6/qg=",
            "oAGATC2agmxNUf06wZrsUxoW73NJgmMnvGbCyfPhui8KBDZ8L/TBVVMH5T00RSnItmfqY+MCX25febrTIoKPAg==",
        ),
        (
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiHlBF/vvVINijaDVMo71ohq33PktUtw6qaq+oYvVGD6H15Hc/Va709ABDT4LVkUQKFDxHlxN8klVC5oJ1Ci7uw==",
            "MEQCIHQF/cnB9vYFzU3b2cETyq8zFOkLDJ5jmRv/C2e6fx7BAiAoqzSV+mUhcZ+x+1cwnNjzoPC+T2CRX55T6W7GVdBz5w==",
        ),
    ];

    #[test]
    fn a_signature_is_of_one_text_by_one_key() {
        let [first, second] = PAIRS.map(|(key, signature)| (PublicKey::parse(key).unwrap(), signature));
        for ((key, signature), (_, others)) in [(&first, &second), (&second, &first)] {
            let bytes = STANDARD.decode(signature).unwrap();
            assert!(key.has_signed(TEXT, signature.as_bytes()) && key.has_signed(TEXT, &bytes));
            assert!(key.has_signed(TEXT, format!("{signature}\n").as_bytes()));
            assert!(!key.has_signed(b"version: v1alpha2\n", &bytes));
            assert!(!key.has_signed(TEXT, others.as_bytes()));
            for wrong in [&b""[..], &bytes[1..], b"AAAA", &[0; 64]] {
                assert!(!key.has_signed(TEXT, wrong));
            }
        }
    }

    #[test]
    fn other_keys_are_refused() {
        let rsa = STANDARD.encode(b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00");
        let longer = STANDARD.encode([ED25519_INFO, &[7; 33]].concat());
        for text in ["", "AAAA", "%", &PAIRS[0].0[..40], &rsa, &longer] {
            assert_eq!(PublicKey::parse(text), None, "{text}");
        }
    }
}
