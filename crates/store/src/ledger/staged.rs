//! Documents that arrive in parts, and the `Configure` that uses them.
//!
//! - Parts change nothing but themselves. A handful of documents is kept; a further one displaces the oldest.
//! - The command that names a document uses it up, whatever becomes of it.
//! - What the parts hold is judged only here: a newer document stops the node, like a newer entry.

use std::time::Duration;

use bytes::Bytes;
use model::Position;
use model::command::{Request, Stamp};
use model::ids::{DocumentId, GroupId, Revision};
use wire::ConvertError;
use wire::entry::{FORMAT, Kind, OpenError};

use super::rows::Row;
use super::{Change, ConfigureParts};
use crate::outcome::{Outcome, Refusal};
use crate::staging::{MAX_DOCUMENTS, MAX_PARTS, PART, Staged};

/// What a `ConfigureStaged` carries.
pub(super) struct StagedParts {
    pub(super) base: Revision,
    pub(super) document: DocumentId,
    pub(super) elapsed: Vec<(GroupId, Duration)>,
    pub(super) discard: Vec<String>,
    pub(super) request: Request,
}

impl Change<'_> {
    pub(super) fn stage(
        &mut self,
        at: Position,
        document: DocumentId,
        part: u32,
        parts: u32,
        data: Vec<u8>,
    ) -> Outcome {
        let differs = self.state.staged.get(&document).is_some_and(|staged| staged.parts != parts);
        if part >= parts || parts > MAX_PARTS || data.len() > PART || differs {
            return unknown(document);
        }
        let staged = Staged { since: at, parts, received: Default::default() };
        let staged = self.state.staged.entry(document).or_insert(staged);
        staged.received.insert(part, Bytes::from(data));
        self.touch(Row::Staged(document, part));
        while self.state.staged.len() > MAX_DOCUMENTS {
            let oldest = self.state.staged.iter().min_by_key(|(_, staged)| staged.since);
            let (oldest, _) = oldest.expect("more than the limit are there");
            let oldest = *oldest;
            self.drop_staged(oldest);
        }
        Outcome::Done
    }

    pub(super) fn configure_staged(
        &mut self,
        at: Position,
        stamp: Stamp,
        parts: StagedParts,
    ) -> Result<Outcome, OpenError> {
        let StagedParts { base, document, elapsed, discard, request } = parts;
        let staged = self.drop_staged(document);
        let Some(bytes) = staged.and_then(|staged| staged.assemble(document)) else {
            return Ok(unknown(document));
        };
        let (bundle, plant) = match wire::packed::unpack_documents(&bytes) {
            Ok(documents) => documents,
            Err(ConvertError::Unknown(_)) => {
                return Err(OpenError::Newer { format: FORMAT, kind: Kind::ConfigureStaged as u8 });
            }
            Err(ConvertError::Malformed(_)) => return Ok(unknown(document)),
        };
        Ok(self.configure(at, stamp, ConfigureParts { base, bundle, plant, elapsed, discard, request }))
    }

    fn drop_staged(&mut self, document: DocumentId) -> Option<Staged> {
        let staged = self.state.staged.remove(&document)?;
        for part in staged.received.keys() {
            self.touch(Row::Staged(document, *part));
        }
        Some(staged)
    }
}

fn unknown(document: DocumentId) -> Outcome {
    Outcome::Refused(Refusal::Unknown { what: "staged document", name: document.to_string() })
}
