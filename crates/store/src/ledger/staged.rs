//! Documents that arrive in parts, and the `Configure` that uses them.
//!
//! - Parts change nothing but themselves. A handful of documents is kept; a further one displaces the oldest.
//! - The command that names a document uses it up, whatever becomes of it.
//! - What the parts hold is judged only when they are used, in [`super::prepare`].

use bytes::Bytes;
use model::Position;
use model::ids::DocumentId;

use super::Change;
use super::rows::Row;
use crate::outcome::{Outcome, Refusal, Thing};
use crate::staging::{MAX_DOCUMENTS, MAX_PARTS, PART, Staged};

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

    /// A command that names a document uses it up.
    pub(super) fn drop_staged(&mut self, document: DocumentId) {
        let Some(staged) = self.state.staged.remove(&document) else { return };
        for part in staged.received.keys() {
            self.touch(Row::Staged(document, *part));
        }
    }
}

pub(super) fn unknown(document: DocumentId) -> Outcome {
    Outcome::Refused(Refusal::Unknown { what: Thing::StagedDocument, name: document.to_string() })
}
