//! TLS under HTTP: one client configuration for each host, and what went
//! wrong in words.
//!
//! In: the configuration of one `host[:port]`, the machine's roots, and
//! connections. Out: encrypted connections, or a [`TlsProblem`]. Invariant: a
//! certificate goes unverified only where the configuration names the host
//! for it.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, InvalidMessage};
use rustls::{DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use std::io::{Read, Write};
use ureq::unversioned::transport::time::{Duration as Left, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use crate::oci::registries::{Authorities, Tls};
use crate::text::Escaped;
use crate::text::Utc;

/// Why a TLS connection did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    #[error("its certificate is not accepted: {0}")]
    Certificate(CertificateProblem),
    #[error("it does not speak TLS on this port")]
    NotTls,
    #[error("it has no version and cipher of TLS that is secure, that is from 1.2 on")]
    Insecure,
    #[error("its name cannot stand in a certificate")]
    Name,
    #[error("it refuses us: {0}")]
    Refused(String),
    #[error("it says: {0}")]
    Other(String),
}

/// What is wrong with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    #[error("no known CA issued it")]
    UnknownIssuer,
    #[error("the known CA of that name did not sign it")]
    BadSignature,
    #[error("it has expired: it was valid until {}, and the clock says {}", Utc(*.not_after), Utc(*.now))]
    Expired { now: u64, not_after: u64 },
    #[error("it ends before it begins")]
    NeverValid,
    #[error("it is not valid yet: it will be from {}, and the clock says {}; is the clock right?",
            Utc(*.not_before), Utc(*.now))]
    NotValidYet { now: u64, not_before: u64 },
    #[error("it is for another host: {}", Escaped::new(.0))]
    OtherHost(String),
    #[error("it is signed with an algorithm that is not secure, or not known")]
    Algorithm,
    #[error("{}", Escaped::new(.0))]
    Other(String),
}

impl From<&Error> for TlsProblem {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(problem) => Self::Certificate(problem.into()),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::PeerIncompatible(_)
            | Error::AlertReceived(
                AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity,
            ) => Self::Insecure,
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            other => Self::Other(Escaped::new(&other.to_string()).to_string()),
        }
    }
}

impl From<&CertificateError> for CertificateProblem {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::BadSignature => Self::BadSignature,
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { now: time.as_secs(), not_after: not_after.as_secs() }
            }
            // A date in the past comes with its context.
            CertificateError::Expired => Self::NeverValid,
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotValidYet { now: time.as_secs(), not_before: not_before.as_secs() }
            }
            CertificateError::NotValidForNameContext { presented, .. } => Self::OtherHost(
                presented.iter().take(3).map(|name| bare(name)).collect::<Vec<_>>().join(", "),
            ),
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Algorithm,
            other => Self::Other(other.to_string()),
        }
    }
}

/// The machine's root certificates, which are looked for when the first
/// certificate is to be checked: parsing them takes as long as many a fetch.
#[derive(Clone)]
pub struct Roots(Arc<LazyLock<Authorities, Box<dyn FnOnce() -> Authorities + Send>>>);

impl Roots {
    pub fn new(load: impl FnOnce() -> Authorities + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(load))))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roots")
    }
}

/// A name of a certificate, which rustls has as `DnsName("a.io")`.
fn bare(presented: &str) -> &str {
    let quoted = presented.strip_prefix("DnsName(\"").and_then(|name| name.strip_suffix("\")"));
    quoted.unwrap_or(presented)
}

/// The settings of one host. Versions of TLS are 1.2 and 1.3.
pub(super) fn config(tls: Option<&Tls>, roots: &Roots) -> Result<ClientConfig, TlsProblem> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsProblem::from(&error))?;
    let builder = match tls {
        Some(Tls { insecure_skip_verify: true, .. }) => {
            let schemes = provider.signature_verification_algorithms.supported_schemes();
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(schemes)))
        }
        _ => {
            let roots = tls.and_then(|tls| tls.ca.as_ref()).unwrap_or_else(|| &roots.0).to_store();
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_webpki_verifier(verifier.map_err(|error| TlsProblem::Other(error.to_string()))?)
        }
    };
    Ok(match tls.and_then(|tls| tls.client_identity.as_ref()) {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key())))
        }
        None => builder.with_no_client_auth(),
    })
}

/// Takes every certificate, where the configuration wants that.
#[derive(Debug)]
struct Unverified(Vec<SignatureScheme>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// Encrypts connections to `https` URLs, and leaves others alone.
#[derive(Debug)]
pub(super) struct TlsConnector(pub Arc<ClientConfig>);

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_string());
        let name = name.map_err(|_| ureq::Error::Other(Box::new(TlsProblem::Name)))?;
        let connection = ClientConnection::new(self.0.clone(), name);
        let mut connection = connection.map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        socket.set_timeout(what_is_left(details));
        connection.complete_io(&mut socket)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned::new(connection, socket) })))
    }
}

/// The timeout of the whole connection, less what it took to get here.
fn what_is_left(details: &ConnectionDetails<'_>) -> NextTimeout {
    let elapsed = match (details.now, (details.current_time)()) {
        (Instant::Exact(then), Instant::Exact(now)) => now.saturating_duration_since(then),
        _ => Duration::ZERO,
    };
    let after = match details.timeout.after {
        Left::Exact(after) => Left::Exact(after.saturating_sub(elapsed)),
        Left::NotHappening => Left::NotHappening,
    };
    NextTimeout { after, ..details.timeout }
}

/// An encrypted connection.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_problems_are_told_in_words() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let certificate = Error::InvalidCertificate;
        let name = ServerName::try_from("a.io").unwrap();
        for (error, words) in [
            (
                certificate(CertificateError::UnknownIssuer),
                "its certificate is not accepted: no known CA issued it",
            ),
            (
                certificate(CertificateError::NotValidYetContext {
                    time: at(0),
                    not_before: at(784_111_777),
                }),
                "its certificate is not accepted: it is not valid yet: it will be from 1994-11-06 08:49:37 UTC, \
                 and the clock says 1970-01-01 00:00:00 UTC; is the clock right?",
            ),
            (
                certificate(CertificateError::ExpiredContext { time: at(784_111_777), not_after: at(60) }),
                "its certificate is not accepted: it has expired: it was valid until 1970-01-01 00:01:00 UTC, \
                 and the clock says 1994-11-06 08:49:37 UTC",
            ),
            (
                certificate(CertificateError::NotValidForNameContext {
                    expected: name,
                    presented: vec!["DnsName(\"b.io\")".into(), "\u{1b}".into()],
                }),
                "its certificate is not accepted: it is for another host: b.io, \\x1b",
            ),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "it does not speak TLS on this port"),
            (
                Error::AlertReceived(AlertDescription::ProtocolVersion),
                "it has no version and cipher of TLS that is secure, that is from 1.2 on",
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                "it refuses us: CertificateRequired",
            ),
            (Error::General("\u{1b}".into()), "it says: unexpected error: \\x1b"),
        ] {
            assert_eq!(TlsProblem::from(&error).to_string(), words);
        }
    }
}
