//! Why a command failed, its code and its exit code.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use tonic::Status;

/// How a command ended that did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// Nothing to complain about.
    Well,
    /// What it shows is bad: alarms that stand, a document with errors.
    Badly,
    /// What it shows is that no majority answers.
    WithoutQuorum,
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// No node could be asked.
    #[error("HF-8001: no node could be reached; start one, or name others with --endpoints{}", listed(.0))]
    NotReached(Vec<(String, String)>),
    /// What was asked for makes no sense.
    #[error("HF-8002: {0}")]
    Usage(String),
    /// A file cannot be read or written.
    #[error("HF-8003: {}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A node said no. Its message bears a code.
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    /// The connection was lost in the middle of a change.
    #[error(
        "HF-8004: the connection to {endpoint} was lost ({reason}): the change may have happened; look before trying again"
    )]
    Unknown {
        /// Who was asked.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// The person at the terminal said no.
    #[error("HF-8005: nothing was changed")]
    Declined,
    /// The certificates for talking to the cluster cannot be used.
    #[error("HF-8006: the certificates cannot be used{}", problems(.0))]
    Certificates(Vec<tls::Problem>),
    /// An authority cannot be made, read, or does not issue.
    #[error("HF-8007: {0}")]
    Authority(#[from] tls::AuthorityError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Done {
    pub(super) fn exit_code(self) -> ExitCode {
        match self {
            Self::Well => ExitCode::SUCCESS,
            Self::Badly => ExitCode::FAILURE,
            Self::WithoutQuorum => ExitCode::from(3),
        }
    }
}

impl CliError {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Refused(status) if code(status) == Some("HF-3102") => ExitCode::from(3),
            Self::NotReached(_) => ExitCode::from(4),
            _ => ExitCode::FAILURE,
        }
    }
}

/// The code that a node gave its refusal; none if it did not come from one of ours.
pub(super) fn code(status: &Status) -> Option<&str> {
    status.metadata().get(gateway::admin::CODE)?.to_str().ok()
}

/// Says what went wrong, on standard error.
pub(crate) fn complain(message: &str) {
    // There is nobody left to tell if this fails.
    drop(writeln!(io::stderr(), "error: {message}"));
}

/// Says how it goes, on standard error.
pub(super) fn note(message: &str) {
    // There is nobody left to tell if this fails.
    drop(writeln!(io::stderr(), "note: {message}"));
}

/// Says what should be looked at, on standard error.
pub(super) fn warn(message: &str) {
    // There is nobody left to tell if this fails.
    drop(writeln!(io::stderr(), "warning: {message}"));
}

fn problems(problems: &[tls::Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        write!(text, "\n  {problem}").expect("a String takes everything");
    }
    text
}

fn listed(reasons: &[(String, String)]) -> String {
    let mut text = String::new();
    for (endpoint, reason) in reasons {
        write!(text, "\n  {endpoint}: {reason}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_no_quorum_and_no_node_from_other_failures() {
        let refused = |code: &'static str| {
            let mut status = Status::unavailable(format!("{code}: …"));
            status.metadata_mut().insert(gateway::admin::CODE, code.parse().expect("ascii"));
            format!("{:?}", CliError::Refused(Box::new(status)).exit_code())
        };
        assert_eq!(refused("HF-3102"), format!("{:?}", ExitCode::from(3)));
        assert_eq!(refused("HF-2003"), format!("{:?}", ExitCode::FAILURE));
        let unreached = CliError::NotReached(vec![("127.0.0.1:7611".into(), "connection refused".into())]);
        assert_eq!(format!("{:?}", unreached.exit_code()), format!("{:?}", ExitCode::from(4)));
        assert!(unreached.to_string().ends_with("\n  127.0.0.1:7611: connection refused"), "{unreached}");
    }
}
