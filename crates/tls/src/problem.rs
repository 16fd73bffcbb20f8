//! What is wrong with certificate files, and with connections that TLS refused: each with its code and what to do.

use std::error::Error as StdError;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError, Error};

use crate::subject::Subject;
use crate::verify::Wrong;

/// Something that makes certificate files unusable. Each has a page in `docs/errors`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A file is missing or cannot be read.
    #[error("HF-1202: {}: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file holds something else.
    #[error("HF-1203: {}: expected {expected} in PEM: {reason}", .path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is the matter.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("HF-1204: {} is not the key of {}", .key.display(), .cert.display())]
    OtherKey {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
    },
    /// The authority did not sign it.
    #[error("HF-1205: {} was not signed by the authority in {}: {reason}", .cert.display(), .ca.display())]
    NotSigned {
        /// The certificate.
        cert: PathBuf,
        /// The authority.
        ca: PathBuf,
        /// What verification says.
        reason: String,
    },
    /// It names nobody.
    #[error("HF-1206: {}: {}", .cert.display(), Wrong::NoSubject)]
    NoSubject {
        /// The certificate.
        cert: PathBuf,
    },
    /// It is of another cluster.
    #[error("HF-1206: {} is of cluster {found}, but this is cluster {expected}", .cert.display())]
    OtherCluster {
        /// The certificate.
        cert: PathBuf,
        /// The cluster of the node file.
        expected: String,
        /// The cluster of the certificate.
        found: String,
    },
    /// It is not that of this node.
    #[error("HF-1207: {} is that of {found}, but this is node {expected}", .cert.display())]
    OtherHolder {
        /// The certificate.
        cert: PathBuf,
        /// The name of the node file.
        expected: String,
        /// Whose it is.
        found: Subject,
    },
}

/// What [`explain`] says where plaintext answers.
pub const NO_TLS: &str = "the far side speaks no TLS";

/// Why TLS refused a connection, if that is what an error, or one below it, says. With what to do.
pub fn explain(error: &(dyn StdError + 'static)) -> Option<String> {
    let refusal = find(error)?;
    Some(match refusal {
        Error::InvalidCertificate(reason) => match reason {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate of the far side has expired: renew it with `holdfast pki renew`, and compare the clocks"
                    .to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate of the far side is not valid yet: compare the clocks".to_owned()
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the certificate of the far side was not signed by the authority that this side trusts: use the ca.pem of \
                 its cluster"
                    .to_owned()
            }
            CertificateError::Other(other) => other.to_string(),
            other => format!("the certificate of the far side is not accepted: {other}"),
        },
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => {
                "the far side says that this side's certificate has expired or is not valid yet: renew it with `holdfast pki \
                 renew`, and compare the clocks"
                    .to_owned()
            }
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "the far side does not trust this side's certificate: it was not signed by the authority of that cluster"
                    .to_owned()
            }
            AlertDescription::CertificateUnknown | AlertDescription::UnsupportedCertificate => {
                "the far side refuses this side's certificate: it is of another cluster, or not for this use; the log of that \
                 node says which"
                    .to_owned()
            }
            AlertDescription::CertificateRequired => {
                "the far side wants a certificate: name one with --tls-dir, or --ca, --cert and --key".to_owned()
            }
            alert => format!("the far side ended the handshake: {alert:?}"),
        },
        Error::InvalidMessage(_) => NO_TLS.to_owned(),
        other => other.to_string(),
    })
}

/// What the verifier of this side objected to, if an error says so.
pub(crate) fn wrong(error: &(dyn StdError + 'static)) -> Option<Wrong> {
    match find(error)? {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref::<Wrong>().cloned(),
        _ => None,
    }
}

/// Whether this side refused a certificate.
pub(crate) fn is_refused_certificate(error: &(dyn StdError + 'static)) -> bool {
    matches!(find(error), Some(Error::InvalidCertificate(_)))
}

fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        // An error of the system hides what it wraps from `source`.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
