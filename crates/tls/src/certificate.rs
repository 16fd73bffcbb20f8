//! One certificate, read: whom it names, from when until when it is valid, and who signed it.
//!
//! What is read here is believed only after the chain was verified.

use model::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::subject::{Subject, cluster_of_uri};

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its holder, if it names one of ours.
    pub subject: Option<Subject>,
    /// The cluster whose authority it is, if it is one of ours.
    pub authority_of: Option<String>,
    /// Host names and addresses it speaks for.
    pub hosts: Vec<String>,
    /// Who signed it, as the certificate has it.
    pub issuer: String,
    /// Valid from.
    pub from: Timestamp,
    /// Valid until.
    pub until: Timestamp,
    /// Tells two certificates apart: the first 16 bytes of BLAKE3 over the whole, in hexadecimal.
    pub fingerprint: String,
    /// Its public key, for a renewal.
    pub(crate) public_key: Vec<u8>,
}

/// Bytes that are no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no readable certificate: {0}")]
pub(crate) struct Unreadable(String);

impl Certificate {
    /// Reads a certificate.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| Unreadable(error.to_string()))?;
        let names = parsed.subject_alternative_name().map_err(|error| Unreadable(error.to_string()))?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let uris = || {
            names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
        };
        let mut subjects = uris().filter_map(Subject::from_uri);
        let subject = match (subjects.next(), subjects.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        };
        let validity = parsed.validity();
        let moment = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000_000));
        Ok(Self {
            subject,
            authority_of: uris().find_map(cluster_of_uri).filter(|_| parsed.is_ca()).map(str::to_owned),
            hosts: names.iter().filter_map(host).collect(),
            issuer: parsed.issuer().to_string(),
            from: moment(validity.not_before.timestamp()),
            until: moment(validity.not_after.timestamp()),
            fingerprint: blake3::hash(der).to_hex()[..32].to_owned(),
            public_key: parsed.public_key().raw.to_vec(),
        })
    }

    /// Reads the first certificate of a PEM file.
    pub fn of_pem(pem: &str) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
        Self::read(&der).map_err(|error| error.to_string())
    }

    /// Whether `at` is between its dates.
    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        self.from <= at && at <= self.until
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(host) => Some((*host).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
            _ => None,
        },
        _ => None,
    }
}
