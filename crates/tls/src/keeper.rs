//! What is in use now: credentials, the connections made with them, and whose certificates were seen.
//!
//! - Files are read again when told to; what does not fit together leaves the old ones in use.
//! - Connections that stand are not touched by new files or passing dates.
//! - Whether a date is good is noted per node, and logged once when it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use model::{Clock, Timestamp};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{info, warn};

use crate::certificate::Certificate;
use crate::credentials::Credentials;
use crate::problem::{Problem, is_refused_certificate, wrong};
use crate::subject::{Role, Subject};
use crate::verify::{Dates, Expected, Verifier, Wrong};

/// The protocol that both ends speak inside.
const HTTP2: &[u8] = b"h2";
/// Certificates of so many nodes are remembered; a cluster has a handful.
const MAX_SEEN: usize = 64;

/// What TLS runs over, and what it gives.
pub trait TlsIo: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsIo for T {}

/// Credentials in use. Cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    current: RwLock<Arc<Current>>,
    clock: Arc<dyn Clock>,
    /// Nodes by name, and how their dates were found when they were met last.
    seen: Mutex<BTreeMap<String, (CertificateDates, Standing)>>,
}

struct Current {
    credentials: Credentials,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    peers: Arc<ServerConfig>,
    callers: Arc<ServerConfig>,
}

/// From when until when the certificate of a node is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateDates {
    /// The node.
    pub name: String,
    /// First moment.
    pub from: Timestamp,
    /// Last moment.
    pub until: Timestamp,
}

/// TLS cannot be set up with these certificates.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct UnusableError(#[from] rustls::Error);

/// Where a moment lies with regard to a certificate's dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Before them: a clock is wrong.
    NotYet,
    /// Between them.
    Valid,
    /// After them.
    Expired,
}

impl CertificateDates {
    /// Where `at` lies.
    pub fn standing(&self, at: Timestamp) -> Standing {
        match at {
            at if at < self.from => Standing::NotYet,
            at if at > self.until => Standing::Expired,
            _ => Standing::Valid,
        }
    }
}

impl Keeper {
    /// Keeps `credentials`; dates are judged by `clock`.
    pub fn new(credentials: Credentials, clock: Arc<dyn Clock>) -> Result<Self, UnusableError> {
        let current = Current::new(credentials, &clock)?;
        let keeper = Self {
            inner: Arc::new(Inner { current: RwLock::new(Arc::new(current)), clock, seen: Mutex::default() }),
        };
        keeper.note_own();
        Ok(keeper)
    }

    /// Whom our certificate names.
    pub fn subject(&self) -> Subject {
        self.current().credentials.subject().clone()
    }

    /// Reads the files again. `true`: they have changed, and are in use for new connections.
    pub fn reload(&self) -> Result<bool, Vec<Problem>> {
        let old = self.current();
        let read = Credentials::load(old.credentials.files())?;
        if read.is_same(&old.credentials) {
            self.note_own();
            return Ok(false);
        }
        let (subject, known) = (read.subject(), old.credentials.subject());
        if subject != known {
            // Everything that was said on the strength of the old name would change its meaning.
            let mut problems = read.check_node(known.cluster(), known.name());
            if problems.is_empty() {
                problems.push(Problem::NoSubject { cert: read.files().cert.clone() });
            }
            return Err(problems);
        }
        let cert = old.credentials.files().cert.clone();
        let unusable = |error: rustls::Error| {
            vec![Problem::NotPem { path: cert, expected: "usable certificates", reason: error.to_string() }]
        };
        let new = Current::new(read, &self.inner.clock).map_err(unusable)?;
        *self.inner.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        self.note_own();
        Ok(true)
    }

    /// The dates of our own certificate and of the nodes that were met.
    pub fn certificates(&self) -> Vec<CertificateDates> {
        let seen = self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().map(|(dates, _)| dates.clone()).collect()
    }

    /// Lets a node in: the answering end of the peer port. Says its name.
    pub async fn accept_peer<IO: TlsIo>(&self, io: IO) -> io::Result<(TlsStream<IO>, String)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current().peers));
        let stream = TlsStream::from(acceptor.accept(io).await?);
        let subject = self.note(&stream)?;
        Ok((stream, subject.name().to_owned()))
    }

    /// Lets a caller of any role in: the answering end of the API. Says who it is.
    pub async fn accept_caller<IO: TlsIo>(&self, io: IO) -> io::Result<(TlsStream<IO>, Subject)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current().callers));
        let stream = TlsStream::from(acceptor.accept(io).await?);
        let subject = self.note(&stream)?;
        Ok((stream, subject))
    }

    /// Speaks as a node to a node: to `name`, or to whoever answers. Dates refuse nobody. Says who answered.
    pub async fn connect_peer<IO: TlsIo>(
        &self,
        io: IO,
        name: Option<&str>,
    ) -> io::Result<(TlsStream<IO>, String)> {
        self.connect(io, name, Dates::Lenient).await
    }

    /// Speaks to the API of any node of the cluster; dates refuse it unless this side is a node, too. Says who answered.
    pub async fn connect_api<IO: TlsIo>(&self, io: IO) -> io::Result<(TlsStream<IO>, String)> {
        let dates = match self.subject().role() {
            Role::Node => Dates::Lenient,
            _ => Dates::Strict,
        };
        self.connect(io, None, dates).await
    }

    /// What the verifier of this side objected to, if an error says so.
    pub fn objection(error: &io::Error) -> Option<Wrong> {
        wrong(error)
    }

    /// Whether the certificate of the far side was refused by this side.
    pub fn is_refusal(error: &io::Error) -> bool {
        is_refused_certificate(error)
    }

    async fn connect<IO: TlsIo>(
        &self,
        io: IO,
        name: Option<&str>,
        dates: Dates,
    ) -> io::Result<(TlsStream<IO>, String)> {
        let config = self.current().client(name, dates).map_err(io::Error::other)?;
        // The subject is compared, not this name: it is not even sent.
        let nobody = ServerName::try_from("node.holdfast.internal").expect("a name of DNS");
        let stream = TlsConnector::from(Arc::new(config)).connect(nobody, io).await?;
        let stream = TlsStream::from(stream);
        let subject = self.note(&stream)?;
        Ok((stream, subject.name().to_owned()))
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.inner.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whom the far end has proven to be; the dates of nodes are noted.
    fn note<IO>(&self, stream: &TlsStream<IO>) -> io::Result<Subject> {
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
        let facts = certificate.and_then(|certificate| Certificate::read(certificate).ok());
        let named = facts.and_then(|facts| Some((facts.subject.clone()?, facts)));
        let (subject, facts) = named.ok_or_else(|| io::Error::other(Wrong::NoSubject))?;
        if subject.role() == Role::Node {
            self.remember(subject.name(), &facts);
        }
        Ok(subject)
    }

    fn note_own(&self) {
        let current = self.current();
        let credentials = &current.credentials;
        self.remember(credentials.subject().name(), credentials.certificate());
    }

    fn remember(&self, name: &str, certificate: &Certificate) {
        let now = self.inner.clock.now();
        let (from, until) = (certificate.from, certificate.until);
        let dates = CertificateDates { name: name.to_owned(), from, until };
        let standing = dates.standing(now);
        let mut seen = self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.get(name).map_or(Standing::Valid, |(_, before)| *before);
        if before != standing {
            match standing {
                Standing::Valid => info!(node = name, %until, "the certificate is valid again"),
                Standing::NotYet => {
                    warn!(node = name, %from, %now, "HF-1209: the certificate is not valid yet: is a clock wrong?");
                }
                Standing::Expired => {
                    warn!(node = name, %until, %now, "HF-1209: the certificate has expired: renew it");
                }
            }
        }
        if seen.contains_key(name) || seen.len() < MAX_SEEN {
            seen.insert(name.to_owned(), (dates, standing));
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keeper").field(self.current().credentials.subject()).finish()
    }
}

impl Current {
    fn new(credentials: Credentials, clock: &Arc<dyn Clock>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let time: Arc<dyn TimeProvider> = Arc::new(Time(Arc::clone(clock)));
        let server = |node, dates| {
            let expected =
                Expected { cluster: credentials.subject().cluster().to_owned(), node, name: None, dates };
            server_config(&credentials, &provider, &time, expected)
        };
        let peers = server(true, Dates::Lenient)?;
        let callers = server(false, Dates::StrictForCallers)?;
        Ok(Self { peers, callers, credentials, provider, time })
    }

    fn client(&self, name: Option<&str>, dates: Dates) -> Result<ClientConfig, rustls::Error> {
        let expected = Expected {
            cluster: self.credentials.subject().cluster().to_owned(),
            node: true,
            name: name.map(str::to_owned),
            dates,
        };
        let verifier = verifier(&self.credentials, &self.provider, expected)?;
        let mut config =
            ClientConfig::builder_with_details(Arc::clone(&self.provider), Arc::clone(&self.time))
                .with_protocol_versions(&[&TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
                    &self.credentials.key,
                ))));
        config.alpn_protocols = vec![HTTP2.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

fn server_config(
    credentials: &Credentials,
    provider: &Arc<CryptoProvider>,
    time: &Arc<dyn TimeProvider>,
    expected: Expected,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let verifier = verifier(credentials, provider, expected)?;
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(time))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&credentials.key))));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn verifier(
    credentials: &Credentials,
    provider: &Arc<CryptoProvider>,
    expected: Expected,
) -> Result<Verifier, rustls::Error> {
    Verifier::new(Arc::clone(&credentials.roots), Arc::clone(provider), expected)
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// Our wall clock, as rustls asks for it.
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let nanos = u64::try_from(self.0.now().0).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(nanos)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
