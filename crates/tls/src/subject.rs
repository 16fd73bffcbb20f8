//! What a certificate says of its holder: the cluster, the role and the name.
//!
//! - It stands in the certificate as one URI among the alternative names: `holdfast://CLUSTER/ROLE/NAME`. A certificate
//!   with none of them, or with two, names nobody.
//! - Names are short and plain, so that the URI needs no escapes and compares byte by byte.

use std::fmt;
use std::str::FromStr;

/// The scheme of our URIs.
const SCHEME: &str = "holdfast://";
/// Longest name of a cluster or holder: a label of DNS.
const MAX_NAME: usize = 63;

/// What the holder of a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A member of the cluster.
    Node,
    /// A person or program that may do everything.
    Admin,
    /// Runs the plant: pauses, resumes, disables, hands over.
    Operator,
    /// Only looks.
    Viewer,
    /// Only pushes samples.
    Pusher,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Node, Self::Admin, Self::Operator, Self::Viewer, Self::Pusher];

    /// The word in certificates and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Pusher => "pusher",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| SubjectError::UnknownRole(text.to_owned()))
    }
}

/// Why something names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// A name that no certificate can bear.
    #[error("{0:?} cannot stand in a certificate; expected 1 to 63 of the characters a-z A-Z 0-9 . _ -")]
    BadName(String),
    /// No such role.
    #[error("there is no role {0:?}; expected node, admin, operator, viewer or pusher")]
    UnknownRole(String),
}

/// Who holds a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    cluster: String,
    role: Role,
    name: String,
}

impl Subject {
    /// A holder; refuses names that cannot stand in a certificate.
    pub fn new(cluster: &str, role: Role, name: &str) -> Result<Self, SubjectError> {
        for text in [cluster, name] {
            check_name(text)?;
        }
        Ok(Self { cluster: cluster.to_owned(), role, name: name.to_owned() })
    }

    /// The cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// What the holder is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who it is: the member's name, or that of a person or program.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URI in the certificate.
    pub fn uri(&self) -> String {
        format!("{}/{}/{}", cluster_uri(&self.cluster), self.role, self.name)
    }

    /// The holder that a URI names, if it is one of ours.
    pub(crate) fn from_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let (cluster, role, name) = (parts.next()?, parts.next()?, parts.next()?);
        match parts.next() {
            Some(_) => None,
            None => Self::new(cluster, role.parse().ok()?, name).ok(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.role, self.name, self.cluster)
    }
}

/// Refuses a name that no certificate can bear.
pub(crate) fn check_name(name: &str) -> Result<(), SubjectError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
        return Err(SubjectError::BadName(name.to_owned()));
    }
    Ok(())
}

/// The URI in the certificate of the cluster's own authority.
pub(crate) fn cluster_uri(cluster: &str) -> String {
    format!("{SCHEME}{cluster}")
}

/// The cluster whose authority a URI names.
pub(crate) fn cluster_of_uri(uri: &str) -> Option<&str> {
    uri.strip_prefix(SCHEME).filter(|cluster| check_name(cluster).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_read_back_from_its_uri() {
        for role in Role::ALL {
            let subject = Subject::new("plant-7", role, "gateway-a").expect("plain names");
            assert_eq!(Subject::from_uri(&subject.uri()), Some(subject));
        }
    }

    #[test]
    fn what_is_not_exactly_ours_names_nobody() {
        for uri in [
            "spiffe://plant-7/node/a",
            "holdfast://plant-7",
            "holdfast://plant-7/node",
            "holdfast://plant-7/node/a/b",
            "holdfast://plant-7/root/a",
            "holdfast:///node/a",
            "holdfast://plant-7/node/",
            "holdfast://plant 7/node/a",
            "Holdfast://plant-7/node/a",
        ] {
            assert_eq!(Subject::from_uri(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_name_that_could_be_read_as_another_is_refused() {
        for name in ["", "a/b", "a b", "ä", "a%2Fb", &"a".repeat(64)] {
            assert!(Subject::new("plant-7", Role::Node, name).is_err(), "{name:?}");
        }
    }
}
