//! The connection: TLS with *ring*, whom to trust, and what a failure to talk means.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use model::plant::Http;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::answer::Answer;
use crate::destination::DeliverError;

/// A receiver that does not take a connection by then is away, however long a request may last.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle connection is not trusted longer: middle boxes forget it silently.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client for one receiver. With `https` and no authority of its own it reads the system's certificates.
pub(super) fn build(url: &Url, http: &Http) -> Result<Client, DeliverError> {
    let builder = Client::builder()
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .tcp_nodelay(true)
        .timeout(http.timeout)
        .connect_timeout(http.timeout.min(CONNECT_TIMEOUT))
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(1);
    if !url.username().is_empty() || url.password().is_some() {
        return Err(DeliverError::misconfigured("a URL must not hold credentials: use `token`"));
    }
    trust(builder, url, http.ca.as_deref())?
        .build()
        .map_err(|error| DeliverError::misconfigured(format!("no HTTP client for {url}: {}", chain(&error))))
}

fn trust(builder: ClientBuilder, url: &Url, ca: Option<&str>) -> Result<ClientBuilder, DeliverError> {
    match (url.scheme(), ca) {
        ("http", _) => Ok(builder.tls_backend_preconfigured(client_config(RootCertStore::empty()))),
        ("https", Some(pem)) => Ok(builder.tls_backend_preconfigured(client_config(authorities(pem)?))),
        ("https", None) => {
            // The system's verifier is reqwest's own, and takes the provider of the process.
            if ring::default_provider().install_default().is_err() {
                tracing::debug!("the process has chosen its cryptography already");
            }
            Ok(builder.tls_backend_rustls())
        }
        (other, _) => Err(DeliverError::misconfigured(format!("{url}: {other} is neither http nor https"))),
    }
}

fn client_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn authorities(pem: &str) -> Result<RootCertStore, DeliverError> {
    let wrong = |error: &dyn std::fmt::Display| {
        DeliverError::misconfigured(format!("the certificate authority of the destination: {error}"))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"the file holds no certificate in PEM form"));
    }
    Ok(roots)
}

/// What it means that no answer came.
pub(super) fn fault(error: &reqwest::Error, timeout: Duration) -> Answer {
    if error.is_builder() || error.is_dns() || is_tls(error) {
        return Answer::Failed(DeliverError::misconfigured(chain(error)));
    }
    let reason = match error.is_timeout() {
        true if error.is_connect() => "no connection in time".to_owned(),
        true => format!("no answer within {timeout:?}"),
        false => chain(error),
    };
    match error.is_connect() {
        true => Answer::Failed(DeliverError::unavailable(reason)),
        false => Answer::Cut(DeliverError::unavailable(reason)),
    }
}

/// Whether TLS itself failed: a wrong certificate, name or version.
fn is_tls(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.is::<rustls::Error>() {
            return true;
        }
        next = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            // An I/O error names as its source not what it wraps, but the source of that.
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
    }
    false
}

/// The error and its causes in one line; each says something the one before does not.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
