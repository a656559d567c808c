//! Whom a connection trusts, and who it says that we are.
//!
//! In: PEM (RFC 7468) from the configuration or the system. Out:
//! [`Authorities`] and [`ClientIdentity`]. Invariant: what is in either was
//! accepted by the TLS library, so nothing about it can fail during a
//! handshake. No message here shows any of the text.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};

/// Certificates that may vouch for servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities(Vec<TrustAnchor<'static>>);

/// Why PEM is not a set of [`Authorities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    #[error("it is not PEM")]
    NotPem,
    #[error("it holds no certificate")]
    Empty,
    /// Counts from 1.
    #[error("its certificate {0} is not one of X.509 version 3")]
    Certificate(usize),
}

impl Authorities {
    /// Mozilla's root certificates, as compiled in.
    pub fn compiled_in() -> Self {
        Self(webpki_roots::TLS_SERVER_ROOTS.to_vec())
    }

    /// All certificates of a PEM text. One that is of no use makes the whole
    /// of no use, because somebody means to trust it.
    pub fn parse(pem: &str) -> Result<Self, AuthoritiesError> {
        let certificates = certificates(pem).ok_or(AuthoritiesError::NotPem)?;
        let mut store = RootCertStore::empty();
        for (position, certificate) in certificates.into_iter().enumerate() {
            store.add(certificate).map_err(|_| AuthoritiesError::Certificate(position + 1))?;
        }
        if store.is_empty() { Err(AuthoritiesError::Empty) } else { Ok(Self(store.roots)) }
    }

    /// The usable certificates of a system's bundle, which may hold some that
    /// are too old for anyone to use.
    pub fn parse_bundle(pem: &str) -> Self {
        let mut store = RootCertStore::empty();
        store
            .add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok));
        Self(store.roots)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Trusts those of `other` as well.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// In the TLS library's form.
    pub fn to_store(&self) -> RootCertStore {
        RootCertStore { roots: self.0.clone() }
    }
}

/// A certificate chain and the private key of its first certificate.
#[derive(Clone)]
pub struct ClientIdentity(Arc<CertifiedKey>);

/// Why PEM is not a [`ClientIdentity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("its certificate is not PEM, or broken")]
    Certificate,
    #[error("its certificate is not of X.509 version 3")]
    Version,
    #[error("its key is not PEM of a private key")]
    KeyForm,
    #[error("its key is not one of RSA from 2048 bits, P-256, P-384, P-521 or Ed25519")]
    Key,
    #[error("its key is not that of its certificate")]
    Mismatch,
}

impl ClientIdentity {
    /// Reads PKCS #8, PKCS #1 and SEC1 keys.
    pub fn parse(chain: &str, key: &str) -> Result<Self, IdentityError> {
        let chain =
            certificates(chain).filter(|chain| !chain.is_empty()).ok_or(IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| IdentityError::KeyForm)?;
        let provider = default_provider();
        let key = provider.key_provider.load_private_key(key).map_err(|_| IdentityError::Key)?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Ok(()) => Ok(Self(Arc::new(pair))),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Err(IdentityError::Key),
            Err(rustls::Error::InconsistentKeys(_)) => Err(IdentityError::Mismatch),
            Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)) => {
                Err(IdentityError::Certificate)
            }
            Err(_) => Err(IdentityError::Version),
        }
    }

    /// In the TLS library's form.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.0.clone()
    }
}

/// The same certificates have the same key.
impl PartialEq for ClientIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.0.cert == other.0.cert
    }
}

impl Eq for ClientIdentity {}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientIdentity(secret)")
    }
}

/// All certificates of a PEM text; nothing if one of its sections is broken.
fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = include_str!("testdata/certificate.pem");
    const KEY: &str = include_str!("testdata/key.pem");
    const SEC1: &str = include_str!("testdata/key-sec1.pem");
    const OTHER_KEY: &str = include_str!("testdata/other-key.pem");

    fn broken(pem: &str) -> String {
        pem.replacen("-----\nM", "-----\nN", 1)
    }

    #[test]
    fn authorities_are_certificates_that_can_be_used() {
        let two = format!("{CERTIFICATE}text between\n{CERTIFICATE}");
        let second = format!("{CERTIFICATE}{}", broken(CERTIFICATE));
        for (pem, expected) in [
            (CERTIFICATE, Ok(1)),
            (two.as_str(), Ok(2)),
            ("", Err(AuthoritiesError::Empty)),
            (KEY, Err(AuthoritiesError::Empty)),
            (&CERTIFICATE[..200], Err(AuthoritiesError::NotPem)),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", Err(AuthoritiesError::NotPem)),
            (&second, Err(AuthoritiesError::Certificate(2))),
        ] {
            assert_eq!(Authorities::parse(pem).map(|authorities| authorities.0.len()), expected, "{pem}");
        }
        assert_eq!(Authorities::parse_bundle(&second).0.len(), 1);
        assert!(Authorities::compiled_in().0.len() > 100);
    }

    #[test]
    fn a_client_identity_is_a_certificate_and_its_own_key() {
        for (chain, key, expected) in [
            (CERTIFICATE, KEY, Ok(())),
            (CERTIFICATE, SEC1, Ok(())),
            (CERTIFICATE, OTHER_KEY, Err(IdentityError::Mismatch)),
            (CERTIFICATE, CERTIFICATE, Err(IdentityError::KeyForm)),
            (CERTIFICATE, &broken(KEY), Err(IdentityError::Key)),
            (CERTIFICATE, "", Err(IdentityError::KeyForm)),
            ("", KEY, Err(IdentityError::Certificate)),
            (&broken(CERTIFICATE), KEY, Err(IdentityError::Certificate)),
        ] {
            assert_eq!(ClientIdentity::parse(chain, key).map(drop), expected);
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let identity = ClientIdentity::parse(CERTIFICATE, KEY).unwrap();
        assert_eq!(format!("{identity:?}"), "ClientIdentity(secret)");
    }
}
