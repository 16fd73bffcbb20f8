//! Who is let in: the chain first, then the subject, then the dates, each where it counts.
//!
//! - A chain to the configured authority is always needed, for the end of the connection that the certificate is on.
//! - The subject must be of our cluster; where a node is expected, its role, and its name where one was dialled.
//! - Dates refuse nobody between nodes: a box with a dead clock battery must not cost the quorum. The chain is then
//!   verified at a moment when all its certificates are valid.
//! - Host names are not compared: every node of the cluster is as good as any other, and addresses change.

use std::sync::Arc;
use std::time::Duration;

use model::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::Certificate;
use crate::subject::{Role, Subject};

/// Why a certificate with a good chain is refused all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It names nobody.
    #[error(
        "the certificate names no holder; it must bear one name of the form holdfast://CLUSTER/ROLE/NAME"
    )]
    NoSubject,
    /// It is of another cluster.
    #[error("the certificate is of cluster {found}, expected {expected}")]
    Cluster {
        /// Our cluster.
        expected: String,
        /// Its cluster.
        found: String,
    },
    /// It is not that of a node.
    #[error("the certificate is that of {0}, expected one of a node")]
    NotANode(Subject),
    /// It is that of another node.
    #[error("the certificate is that of node {found}, expected {expected}")]
    Name {
        /// Who was dialled.
        expected: String,
        /// Who answered.
        found: String,
    },
}

impl From<Wrong> for Error {
    fn from(wrong: Wrong) -> Self {
        CertificateError::Other(OtherError(Arc::new(wrong))).into()
    }
}

/// Whom a date refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dates {
    /// Everybody.
    Strict,
    /// Everybody but nodes.
    StrictForCallers,
    /// Nobody.
    Lenient,
}

/// Whom a connection is for.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) cluster: String,
    /// A node, and nobody else.
    pub(crate) node: bool,
    /// This node, and no other.
    pub(crate) name: Option<String>,
    pub(crate) dates: Dates,
}

/// Verifies the far end of a connection.
#[derive(Debug)]
pub(crate) struct Verifier {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    expected: Expected,
}

/// Which end of a connection a certificate is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Server,
    Client,
}

impl Verifier {
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        expected: Expected,
    ) -> Result<Self, VerifierBuilderError> {
        let algorithms = provider.signature_verification_algorithms;
        let clients = client_verifier(Arc::clone(&roots), provider)?;
        Ok(Self { roots, clients, algorithms, expected })
    }

    fn verify(
        &self,
        end: End,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let subject = match self.chain(end, certificate, others, now) {
            Ok(()) => self.subject(certificate)?,
            Err(error) if is_about_dates(&error) => {
                let then = common_moment(certificate, others).ok_or_else(|| error.clone())?;
                self.chain(end, certificate, others, then)?;
                let subject = self.subject(certificate)?;
                let is_excused = match self.expected.dates {
                    Dates::Strict => false,
                    Dates::StrictForCallers => subject.role() == Role::Node,
                    Dates::Lenient => true,
                };
                if !is_excused {
                    return Err(error);
                }
                subject
            }
            Err(error) => return Err(error),
        };
        self.check(&subject).map_err(Error::from)
    }

    fn chain(
        &self,
        end: End,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<(), Error> {
        match end {
            End::Client => self.clients.verify_client_cert(certificate, others, at).map(|_| ()),
            End::Server => {
                let parsed = ParsedCertificate::try_from(certificate)?;
                verify_server_cert_signed_by_trust_anchor(
                    &parsed,
                    &self.roots,
                    others,
                    at,
                    self.algorithms.all,
                )
            }
        }
    }

    fn subject(&self, certificate: &CertificateDer<'_>) -> Result<Subject, Error> {
        let facts = Certificate::read(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
        facts.subject.ok_or(Wrong::NoSubject.into())
    }

    fn check(&self, subject: &Subject) -> Result<(), Wrong> {
        let Expected { cluster, node, name, .. } = &self.expected;
        if subject.cluster() != cluster {
            return Err(Wrong::Cluster { expected: cluster.clone(), found: subject.cluster().to_owned() });
        }
        if *node && subject.role() != Role::Node {
            return Err(Wrong::NotANode(subject.clone()));
        }
        match name {
            Some(name) if name != subject.name() => {
                Err(Wrong::Name { expected: name.clone(), found: subject.name().to_owned() })
            }
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(End::Server, end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(End::Client, end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether `certificate` was signed by `authority`, whatever the date.
pub(crate) fn is_signed_by(
    certificate: &CertificateDer<'_>,
    authority: &CertificateDer<'static>,
) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    has_chain(&Arc::new(roots), certificate, &[])
}

/// Whether `certificate` has a chain to one of `roots`, whatever the date.
pub(crate) fn has_chain(
    roots: &Arc<RootCertStore>,
    certificate: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<(), Error> {
    let provider = Arc::new(ring::default_provider());
    let unusable = |error: VerifierBuilderError| Error::General(error.to_string());
    let verifier = client_verifier(Arc::clone(roots), provider).map_err(unusable)?;
    let at = common_moment(certificate, others).ok_or(Error::from(CertificateError::BadEncoding))?;
    verifier.verify_client_cert(certificate, others, at).map(|_| ())
}

fn client_verifier(
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    WebPkiClientVerifier::builder_with_provider(roots, provider).build()
}

fn is_about_dates(error: &Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(
        error,
        Error::InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
    )
}

/// A moment at which all of a chain is valid; of a certificate alone if the others were never valid with it.
fn common_moment(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Option<UnixTime> {
    let own = Certificate::read(certificate).ok()?;
    let others = others.iter().filter_map(|other| Certificate::read(other).ok());
    let latest_start = others.map(|other| other.from).fold(own.from, Timestamp::max).min(own.until);
    let nanos = u64::try_from(latest_start.0).unwrap_or(0);
    Some(UnixTime::since_unix_epoch(Duration::from_nanos(nanos)))
}
