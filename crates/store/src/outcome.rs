//! What applying one command gave: the same on every node.

use std::fmt;

use model::ids::{DestinationId, GridId, Revision};
use model::{Position, Term};

/// The answer of `apply` to one entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Nothing was asked (a blank or a membership entry).
    Nothing,
    /// Done.
    Done,
    /// The reign of this term has begun.
    Leading {
        /// Position of the `Lead`.
        position: Position,
    },
    /// One answer for each batch of an `Append`, in order.
    Appended {
        /// Position of the entry.
        position: Position,
        /// The answers.
        batches: Vec<BatchOutcome>,
    },
    /// A new revision is in force.
    Configured {
        /// The new revision.
        revision: Revision,
    },
    /// Refused, for good: proposing the same again gives the same.
    Refused(Refusal),
}

/// The answer to one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOutcome {
    /// It is in the buffer, and its samples will be delivered.
    Accepted,
    /// Its identity was accepted before; nothing was done.
    Already,
    /// Pushed: sequence numbers before it are missing.
    Expected {
        /// The next sequence number of its session.
        sequence: u64,
    },
    /// Pushed: the catalog that its tags were looked up in is not kept any more. It is never accepted, and its number is not
    /// used up.
    RevisionGone,
    /// Polled: its grid is not, or no longer, open.
    Stale {
        /// The grid it was read for.
        grid: GridId,
    },
    /// The entry's term is not that of the reign.
    Fenced,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The entry's term is not that of the last applied `Lead`.
    #[error("proposed in term {proposed}, but term {reign} reigns")]
    Fenced {
        /// Term of the entry.
        proposed: Term,
        /// Term of the last applied `Lead`.
        reign: Term,
    },
    /// Compare-and-set on the configuration revision failed.
    #[error("made from revision {base}, but revision {current} is in force")]
    Revision {
        /// What the proposer had seen.
        base: Revision,
        /// What is in force.
        current: Revision,
    },
    /// A destination would lose what it has not been sent.
    #[error("destination {name} still has undelivered samples; name it in discard-backlog to give them up")]
    Backlog {
        /// The destination.
        name: String,
    },
    /// The horizon may not pass a required cursor without an overrun.
    #[error("truncation below {below} would pass the cursor of destination {destination}")]
    Horizon {
        /// What was asked for.
        below: Position,
        /// Whose cursor stands before it.
        destination: DestinationId,
    },
    /// The thing named does not exist.
    #[error("there is no {what} {name:?}")]
    Unknown {
        /// Its kind.
        what: Thing,
        /// Its name.
        name: String,
    },
}

/// Kinds of things that a command names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// A device of the plant.
    Device,
    /// A destination of the plant.
    Destination,
    /// An opening of a schedule that has not ended.
    OpenGrid,
    /// A document that was handed over in parts.
    StagedDocument,
    /// A kind that only a newer version knows.
    Other,
}

impl Thing {
    /// The kind with this word; what only a newer version names is still missing, only said less well.
    pub fn from_word(word: &str) -> Self {
        let known = [Self::Device, Self::Destination, Self::OpenGrid, Self::StagedDocument];
        known.into_iter().find(|thing| thing.word() == word).unwrap_or(Self::Other)
    }

    /// Its word, for people and between versions.
    fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Destination => "destination",
            Self::OpenGrid => "open grid",
            Self::StagedDocument => "staged document",
            Self::Other => "thing",
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Done => f.write_str("done"),
            Self::Leading { position } => write!(f, "leading since {position}"),
            Self::Appended { position, batches } => write!(f, "{} batches at {position}", batches.len()),
            Self::Configured { revision } => write!(f, "revision {revision}"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
        }
    }
}
