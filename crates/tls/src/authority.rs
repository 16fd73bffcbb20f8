//! The cluster's own authority: makes itself, issues certificates, renews them.
//!
//! - Every certificate names its holder from the first one on. One of a node serves both ends of a connection; any
//!   other is for callers only.
//! - A renewal keeps the key, the holder and the hosts: the key never leaves the box it lies on.
//! - Keys are ECDSA P-256. What is random comes from *ring*.

use std::net::IpAddr;
use std::time::Duration;

use model::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::crypto::ring;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::certificate::Certificate;
use crate::subject::{Role, Subject, SubjectError, check_name, cluster_uri};
use crate::verify;

/// A certificate is valid a day before it was made, for clocks that are a little behind.
const BEFORE: Duration = Duration::from_secs(86_400);

/// Why an authority cannot be made, read, or does not issue.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A name that cannot stand in a certificate.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// A host that cannot stand in a certificate.
    #[error("{0:?} is no host name or address")]
    BadHost(String),
    /// The certificate of the authority is none of ours.
    #[error("this is not the certificate of a cluster's authority; `holdfast pki init` makes one")]
    NoAuthority,
    /// The key is not that of the certificate.
    #[error("the key is not that of the authority's certificate")]
    OtherKey,
    /// The certificate to be renewed was signed by somebody else, or names nobody.
    #[error("only certificates that this authority issued can be renewed: {0}")]
    NotOurs(String),
    /// Bytes that are not what they should be.
    #[error("{0}")]
    Unreadable(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: Timestamp,
    /// Last moment.
    pub until: Timestamp,
}

impl Validity {
    /// `days` from `now`, and the day before it.
    pub fn days(now: Timestamp, days: u32) -> Self {
        let length = Duration::from_secs(u64::from(days) * 86_400);
        Self { from: now.minus(BEFORE), until: now.plus(length) }
    }
}

/// A certificate with its key, in PEM.
pub struct Issued {
    /// The certificate; to be shown.
    pub certificate: String,
    /// The key; to be kept.
    pub key: String,
}

/// The cluster's own authority.
pub struct Authority {
    cluster: String,
    certificate: String,
    der: CertificateDer<'static>,
    until: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the authority of a cluster.
    pub fn create(cluster: &str, validity: Validity) -> Result<Self, AuthorityError> {
        check_name(cluster)?;
        let key = KeyPair::generate()?;
        let mut params = params(&format!("{cluster} authority"), validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&cluster_uri(cluster))?];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            cluster: cluster.to_owned(),
            certificate: certificate.pem(),
            der: certificate.der().clone(),
            until: validity.until,
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority from its two files.
    pub fn read(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let unreadable = |error: rustls_pki_types::pem::Error| AuthorityError::Unreadable(error.to_string());
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unreadable)?;
        let facts = Certificate::read(&der).map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
        let cluster = facts.authority_of.ok_or(AuthorityError::NoAuthority)?;
        let key = KeyPair::from_pem(key)?;
        if rcgen::PublicKeyData::subject_public_key_info(&key) != facts.public_key {
            return Err(AuthorityError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { cluster, certificate: certificate.to_owned(), der, until: facts.until, issuer })
    }

    /// The cluster it is the authority of.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, in PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a certificate with a new key. It ends no later than the authority's own.
    pub fn issue(
        &self,
        role: Role,
        name: &str,
        hosts: &[String],
        validity: Validity,
    ) -> Result<Issued, AuthorityError> {
        let subject = Subject::new(&self.cluster, role, name)?;
        let key = KeyPair::generate()?;
        let certificate = self.params(&subject, hosts, validity)?.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Issues a certificate again, for the same key, holder and hosts.
    pub fn renew(&self, certificate: &str, validity: Validity) -> Result<String, AuthorityError> {
        let unreadable = |error: String| AuthorityError::Unreadable(error);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| unreadable(error.to_string()))?;
        let facts = Certificate::read(&der).map_err(|error| unreadable(error.to_string()))?;
        verify::is_signed_by(&der, &self.der).map_err(|error| AuthorityError::NotOurs(error.to_string()))?;
        let subject = facts.subject.filter(|subject| subject.cluster() == self.cluster);
        let subject = subject.ok_or_else(|| AuthorityError::NotOurs("it names nobody".to_owned()))?;
        let key = SubjectPublicKeyInfo::from_der(&facts.public_key)?;
        let renewed = self.params(&subject, &facts.hosts, validity)?.signed_by(&key, &self.issuer)?;
        Ok(renewed.pem())
    }

    fn params(
        &self,
        subject: &Subject,
        hosts: &[String],
        validity: Validity,
    ) -> Result<CertificateParams, AuthorityError> {
        let validity = Validity { until: validity.until.min(self.until), ..validity };
        let mut params = params(subject.name(), validity)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match subject.role() {
            Role::Node => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            _ => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.subject_alt_names.push(uri(&subject.uri())?);
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        Ok(params)
    }
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::OrganizationName, "Holdfast");
    distinguished_name.push(DnType::CommonName, common_name);
    // A renewal has the same key; the number must differ all the same.
    let mut serial = [0; 16];
    ring::default_provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| AuthorityError::Unreadable("the system gives no random numbers".to_owned()))?;
    serial[0] &= 0x7F;
    let moment = |at: Timestamp| {
        let since_1970 = Duration::from_nanos(u64::try_from(at.0).unwrap_or(0));
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970.as_secs())
    };
    let mut params = CertificateParams::default();
    params.not_before = moment(validity.from);
    params.not_after = moment(validity.until);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = distinguished_name;
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(text.try_into()?))
}

fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || AuthorityError::BadHost(host.to_owned());
    rustls_pki_types::DnsName::try_from(host).map_err(|_| bad())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| bad())?))
}
