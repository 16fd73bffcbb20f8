//! Who speaks: certificates that name cluster, role and member, and the TLS connections that prove them.
//!
//! - [`Subject`]: what a certificate of ours says of its holder, as `holdfast://CLUSTER/ROLE/NAME`.
//! - [`Authority`]: the cluster's own, which issues and renews.
//! - [`Credentials`]: the three files of a node or a client, checked; every [`Problem`] at once.
//! - [`Keeper`]: what is in use now, read again when the files change; it accepts and opens connections.
//! - [`Wrong`], [`explain`]: why a connection was refused, in words that say what to do.
//! - [`Prompt`]: a stream whose far end must begin to speak in time. [`greeted`]: waits until it has.
//!
//! Invariants:
//! - Nobody is let in without a chain to the configured authority and a subject of this very cluster.
//! - Between nodes a validity date never refuses anybody; it is noted in [`Keeper::certificates`]. Everywhere else it
//!   refuses.
//! - No session is resumed: each connection proves itself with the certificate of now.
//!
//! It decides nothing about what a role may do, and it knows no gRPC.

mod authority;
mod certificate;
mod credentials;
mod greeting;
mod keeper;
mod problem;
mod prompt;
mod subject;
mod verify;

#[cfg(test)]
mod tests;

pub use authority::{Authority, AuthorityError, Issued, Validity};
pub use certificate::Certificate;
pub use credentials::{Credentials, Files};
pub use greeting::{Greeted, greeted};
pub use keeper::{CertificateDates, Keeper, Standing, TlsIo, UnusableError};
pub use problem::{NO_TLS, Problem, explain};
pub use prompt::Prompt;
pub use subject::{Role, Subject, SubjectError};
pub use verify::Wrong;
