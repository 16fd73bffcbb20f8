//! The three files of a node or a client: read, and checked against each other.
//!
//! - Every problem is found at once.
//! - Dates are no problem here: what they mean depends on the connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::Certificate;
use crate::problem::Problem;
use crate::subject::{Role, Subject};
use crate::verify;

/// Where certificates and key lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Authorities that are trusted.
    pub ca: PathBuf,
    /// Our certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Certificates and key that fit together.
#[derive(Debug, Clone)]
pub struct Credentials {
    files: Files,
    subject: Subject,
    certificate: Certificate,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) key: Arc<CertifiedKey>,
    /// The bytes of all files: tells whether they have changed.
    digest: blake3::Hash,
}

impl Credentials {
    /// Reads and checks the files.
    pub fn load(files: &Files) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut hasher = blake3::Hasher::new();
        let mut read = |path: &Path, problems: &mut Vec<Problem>| match std::fs::read(path) {
            Ok(bytes) => {
                hasher.update(&bytes);
                Some(bytes)
            }
            Err(error) => {
                problems.push(Problem::Unreadable { path: path.to_owned(), reason: error.to_string() });
                None
            }
        };
        let ca = read(&files.ca, &mut problems).and_then(|pem| roots(&files.ca, &pem, &mut problems));
        let cert = read(&files.cert, &mut problems).and_then(|pem| chain(&files.cert, &pem, &mut problems));
        let key =
            read(&files.key, &mut problems).and_then(|pem| private_key(&files.key, &pem, &mut problems));
        let digest = hasher.finalize();

        let certificate = cert.as_ref().map(|(_, facts)| facts.clone());
        if let (Some(roots), Some((chain, _))) = (&ca, &cert)
            && let Err(error) = verify::has_chain(roots, &chain[0], &chain[1..])
        {
            problems.push(Problem::NotSigned {
                cert: files.cert.clone(),
                ca: files.ca.clone(),
                reason: error.to_string(),
            });
        }
        let subject = certificate.as_ref().and_then(|facts| facts.subject.clone());
        if cert.is_some() && subject.is_none() {
            problems.push(Problem::NoSubject { cert: files.cert.clone() });
        }
        let key = cert.zip(key).and_then(|((chain, _), key)| fitting(files, chain, key, &mut problems));
        match (ca, key, subject, certificate) {
            (Some(roots), Some(key), Some(subject), Some(certificate)) if problems.is_empty() => {
                Ok(Self { files: files.clone(), subject, certificate, roots, key, digest })
            }
            _ => Err(problems),
        }
    }

    /// What makes these files unfit for node `name` of `cluster`.
    pub fn check_node(&self, cluster: &str, name: &str) -> Vec<Problem> {
        let cert = || self.files.cert.clone();
        let mut problems = Vec::new();
        if self.subject.cluster() != cluster {
            problems.push(Problem::OtherCluster {
                cert: cert(),
                expected: cluster.to_owned(),
                found: self.subject.cluster().to_owned(),
            });
        }
        if self.subject.role() != Role::Node || self.subject.name() != name {
            problems.push(Problem::OtherHolder {
                cert: cert(),
                expected: name.to_owned(),
                found: self.subject.clone(),
            });
        }
        problems
    }

    /// Where they lie.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Whom they name.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// What our certificate says.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether everybody on this machine can read the key.
    #[cfg(unix)]
    pub fn key_is_exposed(&self) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(&self.files.key).is_ok_and(|file| file.permissions().mode() & 0o007 != 0)
    }

    /// Whether everybody on this machine can read the key: not known here.
    #[cfg(not(unix))]
    pub fn key_is_exposed(&self) -> bool {
        false
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

fn roots(path: &Path, pem: &[u8], problems: &mut Vec<Problem>) -> Option<Arc<RootCertStore>> {
    let mut not_pem = |reason: String| {
        problems.push(Problem::NotPem { path: path.to_owned(), expected: "a certificate", reason });
        None
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = match certificate {
            Ok(certificate) => certificate,
            Err(error) => return not_pem(error.to_string()),
        };
        if let Err(error) = roots.add(certificate) {
            return not_pem(error.to_string());
        }
    }
    if roots.is_empty() {
        return not_pem("there is none".to_owned());
    }
    Some(Arc::new(roots))
}

fn chain(
    path: &Path,
    pem: &[u8],
    problems: &mut Vec<Problem>,
) -> Option<(Vec<CertificateDer<'static>>, Certificate)> {
    let mut not_pem = |reason: String| {
        problems.push(Problem::NotPem { path: path.to_owned(), expected: "a certificate", reason });
        None
    };
    let chain = match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(chain) => chain,
        Err(error) => return not_pem(error.to_string()),
    };
    match chain.first().map(Certificate::read) {
        None => not_pem("there is none".to_owned()),
        Some(Err(error)) => not_pem(error.to_string()),
        Some(Ok(facts)) => Some((chain, facts)),
    }
}

fn private_key(path: &Path, pem: &[u8], problems: &mut Vec<Problem>) -> Option<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Some(key),
        Err(error) => {
            let reason = error.to_string();
            problems.push(Problem::NotPem { path: path.to_owned(), expected: "a private key", reason });
            None
        }
    }
}

fn fitting(
    files: &Files,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    problems: &mut Vec<Problem>,
) -> Option<Arc<CertifiedKey>> {
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(key) => Some(Arc::new(key)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            problems.push(Problem::OtherKey { key: files.key.clone(), cert: files.cert.clone() });
            None
        }
        Err(error) => {
            let (path, reason) = (files.key.clone(), error.to_string());
            problems.push(Problem::NotPem { path, expected: "a private key", reason });
            None
        }
    }
}
