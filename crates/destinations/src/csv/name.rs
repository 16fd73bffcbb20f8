//! What files are called, and which of them are void.
//!
//! `historian.samples.0123abcd-00000000000000000041-0000000007.t9.csv`: destination, kind, first key, term. In the
//! key `/` becomes `-` and numbers are padded with zeros, so that a listing is in key order; destination and node
//! are written as [`crate::text::plain_name`] does. While it is being written, a file is called
//! `.historian.samples.….t9.csv.gateway-a.part`.

use std::ffi::OsStr;

use model::{Lineage, Ordinal, Position, SampleKey, Term};

use crate::destination::Reign;

const UNFINISHED: &str = ".part";
const FINISHED: &str = ".csv";

/// The kinds of records; each has files of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Samples,
    Gaps,
    Openings,
    Expiries,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Samples, Self::Gaps, Self::Openings, Self::Expiries];

    fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Gaps => "gaps",
            Self::Openings => "openings",
            Self::Expiries => "expiries",
        }
    }
}

/// The name of a finished file.
pub(super) fn finished(destination: &str, kind: Kind, first: SampleKey, term: Term) -> String {
    let SampleKey { lineage, position, ordinal } = first;
    format!("{destination}.{}.{lineage}-{:020}-{:010}.t{term}{FINISHED}", kind.name(), position.0, ordinal.0)
}

/// The name of a file while a node writes it.
pub(super) fn unfinished(finished: &str, node: &str) -> String {
    format!(".{finished}.{node}{UNFINISHED}")
}

/// Whether a file was written by this or an earlier reign and cannot have been acknowledged: an unfinished one, or
/// one that begins at or beyond the cursor and in the lineage that holds there.
pub(super) fn is_void(name: &OsStr, destination: &str, reign: &Reign) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    if let Some(unfinished) = name.strip_prefix('.').and_then(|name| name.strip_suffix(UNFINISHED)) {
        // The node's name holds no dot.
        let finished = unfinished.rsplit_once('.').map(|(finished, _)| finished);
        return finished
            .and_then(|finished| parse(finished, destination))
            .is_some_and(|(_, term)| term <= reign.term);
    }
    parse(name, destination).is_some_and(|(first, term)| {
        let is_beyond = first.before() >= reign.cursor;
        is_beyond && term <= reign.term && reign.lineage_at(first.position) == Some(first.lineage)
    })
}

fn parse(name: &str, destination: &str) -> Option<(SampleKey, Term)> {
    let rest = name.strip_prefix(destination)?.strip_prefix('.')?.strip_suffix(FINISHED)?;
    let (kind, rest) = rest.split_once('.')?;
    Kind::ALL.iter().find(|known| known.name() == kind)?;
    let (key, term) = rest.split_once(".t")?;
    let (lineage, cursor) = key.split_once('-')?;
    let (position, ordinal) = cursor.split_once('-')?;
    let key = SampleKey {
        lineage: lineage.parse::<Lineage>().ok()?,
        position: Position(position.parse().ok()?),
        ordinal: Ordinal(ordinal.parse().ok()?),
    };
    Some((key, Term(term.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use model::Cursor;

    use super::*;

    fn lineage() -> Lineage {
        Lineage::from_random(1)
    }

    fn key(position: u64, ordinal: u32) -> SampleKey {
        SampleKey { lineage: lineage(), position: Position(position), ordinal: Ordinal(ordinal) }
    }

    fn reign() -> Reign {
        let cursor = Cursor { position: Position(41), ordinal: Ordinal(7) };
        Reign { term: Term(9), cursor, lineages: vec![(Position(1), lineage())] }
    }

    #[test]
    fn names_sort_like_their_keys_and_are_understood_again() {
        let name = finished("historian", Kind::Samples, key(41, 7), Term(9));
        assert_eq!(name, "historian.samples.10000000-00000000000000000041-0000000007.t9.csv");
        assert_eq!(parse(&name, "historian"), Some((key(41, 7), Term(9))));
        assert!(name < finished("historian", Kind::Samples, key(1_000, 0), Term(8)));
        assert_eq!(
            unfinished(&name, "gateway-a"),
            ".historian.samples.10000000-00000000000000000041-0000000007.t9.csv.gateway-a.part"
        );
    }

    #[test]
    fn only_what_cannot_have_been_acknowledged_is_void() {
        let is_void = |name: &str| is_void(OsStr::new(name), "historian", &reign());
        let file =
            |position, ordinal, term| finished("historian", Kind::Gaps, key(position, ordinal), Term(term));
        assert!(is_void(&file(41, 7, 8)), "at the cursor");
        assert!(is_void(&file(50, 0, 9)), "beyond it");
        assert!(!is_void(&file(41, 6, 8)), "before it");
        assert!(!is_void(&file(50, 0, 10)), "a successor's");
        assert!(is_void(&unfinished(&file(1, 0, 8), "gateway-b")), "unfinished, wherever it begins");
        assert!(!is_void(&unfinished(&file(1, 0, 10), "gateway-b")), "a successor's unfinished");
        let other = SampleKey { lineage: Lineage::from_random(2), ..key(50, 0) };
        assert!(
            !is_void(&finished("historian", Kind::Gaps, other, Term(8))),
            "of another life of the cluster"
        );
        assert!(!is_void(&finished("mes", Kind::Gaps, key(50, 0), Term(8))), "another destination's");
        assert!(!is_void("historian.report.csv") && !is_void("historian.leader.json"), "somebody else's");
    }
}
