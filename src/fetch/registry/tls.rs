//! TLS settings of a host, from PEM to what `ureq` takes.
//!
//! In: the configuration of one `host[:port]` and the machine's roots. Out: a
//! `TlsConfig`. Invariant: what would make the TLS library give up later is
//! found here, as an error.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RsaKeyPair,
};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::error::TlsProblem;
use crate::fetch::Roots;
use crate::oci::registries::{Secret, Tls};

/// Settings for one host.
pub(super) fn config(tls: Option<&Tls>, roots: &Roots) -> Result<TlsConfig, TlsProblem> {
    let roots = match (tls.and_then(|tls| tls.ca.as_deref()), roots) {
        (Some(pem), _) => authorities(pem)?,
        (None, Roots::Pem(pem)) => authorities(pem)?,
        (None, Roots::WebPki) => RootCerts::WebPki,
    };
    let identity = tls.and_then(|tls| tls.client_identity.as_ref()).map(client_identity).transpose()?;
    Ok(TlsConfig::builder()
        .root_certs(roots)
        .client_cert(identity)
        .disable_verification(tls.is_some_and(|tls| tls.insecure_skip_verify))
        .build())
}

fn authorities(pem: &str) -> Result<RootCerts, TlsProblem> {
    let certificates = certificates(pem).ok_or(TlsProblem::Ca)?;
    Ok(RootCerts::new_with_certs(&certificates))
}

/// All certificates of a PEM text; nothing if there is none or one is broken.
fn certificates(pem: &str) -> Option<Vec<Certificate<'static>>> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem.as_bytes()) {
        if let PemItem::Certificate(certificate) = item.ok()? {
            certificates.push(certificate);
        }
    }
    (!certificates.is_empty()).then_some(certificates)
}

/// Checks that key and certificate go together: `ureq` panics on a pair that
/// does not, and a panic ends PID 1.
fn client_identity((chain, key): &(String, Secret)) -> Result<ClientCert, TlsProblem> {
    let pem = key.reveal();
    let refuse = |problem| move || TlsProblem::ClientIdentity(problem);
    let chain = certificates(chain).ok_or_else(refuse("it has no certificate"))?;
    let first = chain.first().ok_or_else(refuse("it has no certificate"))?;
    let key = PrivateKey::from_pem(pem.as_bytes())
        .map_err(|_| TlsProblem::ClientIdentity("it has no private key"))?;
    let public = public_key_info(key_label(pem), key.der()).ok_or_else(refuse(
        "its key is not one of RSA, P-256, P-384 or Ed25519 in PKCS #8, or RSA in PKCS #1",
    ))?;
    if !is_version_3(first.der()) {
        return Err(TlsProblem::ClientIdentity("its certificate is not of X.509 version 3"));
    }
    if !first.der().windows(public.len()).any(|window| window == public) {
        return Err(TlsProblem::ClientIdentity("its key is not that of its certificate"));
    }
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// What the first private key of a PEM text calls itself.
fn key_label(pem: &str) -> &str {
    let labels = pem.split("-----BEGIN ").filter_map(|rest| rest.split_once("-----"));
    labels.map(|(label, _)| label).find(|label| label.ends_with("PRIVATE KEY")).unwrap_or_default()
}

/// The DER of AlgorithmIdentifier and BIT STRING of the public key, as they
/// stand in its certificate (RFC 5280, 4.1.2.7).
fn public_key_info(label: &str, der: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    const P256: &[u8] =
        b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const P384: &[u8] = b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
    const ED25519: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";
    match label {
        "RSA PRIVATE KEY" => {
            return Some(key_info(RSA, RsaKeyPair::from_der(der).ok()?.public_key().as_ref()));
        }
        "PRIVATE KEY" => {}
        _ => return None,
    }
    if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
        return Some(key_info(RSA, pair.public_key().as_ref()));
    }
    let random = SystemRandom::new();
    for (algorithm, name) in
        [(&ECDSA_P256_SHA256_ASN1_SIGNING, P256), (&ECDSA_P384_SHA384_ASN1_SIGNING, P384)]
    {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, der, &random) {
            return Some(key_info(name, pair.public_key().as_ref()));
        }
    }
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
    Some(key_info(ED25519, pair.public_key().as_ref()))
}

fn key_info(algorithm: &[u8], public: &[u8]) -> Vec<u8> {
    // A BIT STRING begins with the number of its unused bits.
    let mut info = [algorithm, b"\x03", &der_length(public.len() + 1), b"\0"].concat();
    info.extend_from_slice(public);
    info
}

fn der_length(length: usize) -> Vec<u8> {
    match length {
        0..0x80 => vec![length as u8],
        0x80..0x100 => vec![0x81, length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    }
}

/// Whether a certificate's `version` is v3 (RFC 5280, 4.1.2.1): the first
/// thing inside its two outer sequences. The TLS library takes no other.
fn is_version_3(der: &[u8]) -> bool {
    let inside = |der: &[u8]| match der {
        [0x30, 0x82, _, _, rest @ ..] | [0x30, 0x81, _, rest @ ..] => Some(rest.to_vec()),
        _ => None,
    };
    inside(der).and_then(|rest| inside(&rest)).is_some_and(|rest| rest.starts_with(b"\xa0\x03\x02\x01\x02"))
}
