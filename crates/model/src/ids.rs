//! Identifiers: small, typed, never interchangeable.
//!
//! - Ids that are counted up ([`TagId`], [`NodeId`], …) are given by the `apply` of a committed command and are
//!   never reused, so that old log entries keep their meaning.
//! - Random ids ([`StoreId`], [`BootId`], …) are 128 bits and printed as 32 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! counted_id {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$repr> for $name {
            fn from(raw: $repr) -> Self {
                Self(raw)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The id as bytes, for storage.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Whether this is the all-zero id, which stands for "not known".
            pub fn is_unknown(&self) -> bool {
                self.0 == [0; 16]
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<u128> for $name {
            fn from(raw: u128) -> Self {
                Self(raw.to_be_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let wrong = || InvalidId { expected: "32 hexadecimal digits", found: text.to_owned() };
                if text.len() != 32 {
                    return Err(wrong());
                }
                u128::from_str_radix(text, 16).map(Self::from).map_err(|_| wrong())
            }
        }
    };
}

counted_id!(
    /// A member of the cluster. People type its name; the number is given by the cluster and never reused.
    NodeId(u64)
);
counted_id!(
    /// A Raft term: the generation of leadership, and the fence that every sample bears.
    Term(u64)
);
counted_id!(
    /// A tag inside the log. Its name is that of the revision in force at the sample's position.
    TagId(u32)
);
counted_id!(
    /// A device inside the log.
    DeviceId(u32)
);
counted_id!(
    /// A poll group inside the log.
    GroupId(u32)
);
counted_id!(
    /// A destination inside the log. Removing and adding one of the same name gives a new id.
    DestinationId(u32)
);
counted_id!(
    /// A slot grid: one opening of one poll group's schedule.
    GridId(u64)
);
counted_id!(
    /// A revision of the plant configuration; 0 is the empty plant a cluster is born with.
    Revision(u64)
);

random_id!(
    /// One data directory, drawn at its birth. A wiped directory is a stranger.
    StoreId
);
random_id!(
    /// One cluster, drawn when it is founded (and anew when it is recovered by force).
    ClusterId
);
random_id!(
    /// Documents that are staged in parts: the first half of their BLAKE3, so that equal ones have equal ids.
    DocumentId
);
random_id!(
    /// One run of one node process.
    BootId
);
random_id!(
    /// One run of pushed samples: made by the ingesting node, never from a term.
    SessionId
);

/// The lineage of a position: eight characters that change when a cluster is recovered or restored, so that a
/// key never names two samples.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lineage([u8; 8]);

impl Lineage {
    /// Number of characters.
    pub const LEN: usize = 8;
    const ALPHABET: &'static [u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// Derives a lineage from random bits (Crockford's base 32, so that it can be read aloud).
    pub fn from_random(mut bits: u64) -> Self {
        let mut text = [0; Self::LEN];
        for place in &mut text {
            *place = Self::ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        Self(text)
    }

    /// The eight characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a lineage is made of ASCII characters")
    }
}

impl From<Lineage> for String {
    fn from(lineage: Lineage) -> Self {
        lineage.to_string()
    }
}

impl TryFrom<String> for Lineage {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lineage({self})")
    }
}

impl FromStr for Lineage {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match <[u8; 8]>::try_from(text.as_bytes()) {
            Ok(bytes) if bytes.iter().all(|b| Self::ALPHABET.contains(b)) => Ok(Self(bytes)),
            _ => Err(InvalidId { expected: "eight characters of base 32", found: text.to_owned() }),
        }
    }
}

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub struct InvalidId {
    /// What an id of this kind looks like.
    pub expected: &'static str,
    /// What was there instead.
    pub found: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_survive_their_text_form() {
        let id = StoreId::from(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string(), "0123456789abcdef0011223344556677");
        assert_eq!(id.to_string().parse::<StoreId>(), Ok(id));
        assert!("xyz".parse::<StoreId>().is_err());
    }

    #[test]
    fn a_lineage_is_eight_readable_characters() {
        let lineage = Lineage::from_random(u64::MAX);
        assert_eq!(lineage.as_str(), "zzzzzzzz");
        assert_eq!("zzzzzzzz".parse::<Lineage>(), Ok(lineage));
        assert!("zzzz".parse::<Lineage>().is_err());
        assert!("ZZZZZZZZ".parse::<Lineage>().is_err());
    }
}
