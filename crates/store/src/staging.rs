//! Documents too large for one entry: taken apart by who proposes them, put together by `apply`.
//!
//! - Parts are small, so that no vote and no sample waits long behind one.
//! - The id is the content's: staging the same twice is staging it once, and what is put together is what was taken
//!   apart.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::Position;
use model::ids::DocumentId;

/// Bytes of one part, at most.
pub const PART: usize = 256 << 10;
/// Parts of one document, at most: room for a bundle and a plant of 64 MiB each that do not compress.
pub(crate) const MAX_PARTS: u32 = 520;
/// Documents that are staged at the same time, at most; a further one displaces the oldest.
pub(crate) const MAX_DOCUMENTS: usize = 2;

/// A document of which parts have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Where its first part stands.
    pub since: Position,
    /// How many parts it has.
    pub parts: u32,
    /// Those that have arrived.
    pub received: BTreeMap<u32, Bytes>,
}

/// The id of a document.
pub fn document_id(document: &[u8]) -> DocumentId {
    let hash = blake3::hash(document);
    DocumentId(hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes"))
}

/// Takes a document apart.
pub fn parts(document: &[u8]) -> impl ExactSizeIterator<Item = &[u8]> {
    document.chunks(PART)
}

impl Staged {
    /// The document, if all of it is here and it is the one of this id.
    pub(crate) fn assemble(&self, id: DocumentId) -> Option<Vec<u8>> {
        if self.received.len() != self.parts as usize {
            return None;
        }
        let document: Vec<u8> = self.received.values().flat_map(|part| part.iter().copied()).collect();
        (document_id(&document) == id).then_some(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_put_together_only_when_it_is_whole_and_itself() {
        let document: Vec<u8> = (0..PART + 7).map(|byte| (byte % 251) as u8).collect();
        let id = document_id(&document);
        let received = (0..).zip(parts(&document).map(Bytes::copy_from_slice)).collect();
        let whole = Staged { since: Position(1), parts: 2, received };
        assert_eq!(whole.assemble(id), Some(document));
        let mut short = whole.clone();
        short.received.remove(&0);
        assert_eq!(short.assemble(id), None);
        let mut other = whole;
        other.received.insert(0, Bytes::from_static(b"another"));
        assert_eq!(other.assemble(id), None);
    }
}
