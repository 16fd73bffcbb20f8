//! The policy, from states made by hand.

use std::sync::Arc;

use model::catalog::Catalog;
use model::ids::{DestinationId, Revision};
use model::plant::{Plant, Retention};
use model::{Cursor, Term, Timestamp};
use store::LogId;
use store::ledger::{DestinationState, Fill, Mark, RevisionState};

use super::*;

const MIB: u64 = 1 << 20;
const PLENTY: u64 = 1 << 40;

fn state(applied: u64, last_deliverable: u64, cursors: &[(u64, bool)]) -> State {
    let destination = |(position, required): &(u64, bool)| DestinationState {
        name: "historian".into(),
        cursor: Cursor::at(Position(*position)),
        required: *required,
        paused: None,
        given_up: 0,
        accepted_again: 0,
        refused_again: 0,
    };
    State {
        applied: Some(LogId { term: Term(1), index: Position(applied) }),
        last_deliverable: Position(last_deliverable),
        destinations: (1..).map(DestinationId).zip(cursors.iter().map(destination)).collect(),
        ..State::default()
    }
}

/// Entries of a mebibyte each, one a second, every one marked; the limit is 64 MiB.
fn filled(entries: u64, when_full: WhenFull, keep: u64, cursors: &[(u64, bool)]) -> State {
    let marks = (1..=entries).map(|position| {
        let mark = Mark { bytes: position * MIB, samples: position, at: Duration::from_secs(position) };
        (Position(position), mark)
    });
    let retention = Retention { max_bytes: 64 * MIB, when_full, keep_delivered: Duration::from_secs(keep) };
    let plant =
        Plant { cluster: Default::default(), retention, devices: Vec::new(), destinations: Vec::new() };
    let catalog = Catalog::new(Revision(1), Arc::new(plant), &Default::default());
    let revision = RevisionState {
        position: Position(1),
        at: Timestamp(0),
        principal: String::new(),
        reason: String::new(),
        contents: Default::default(),
        bundle: None,
        catalog: Some(Arc::new(catalog)),
    };
    State {
        fill: Fill { bytes: entries * MIB, samples: entries, marks: marks.collect() },
        revisions: [(Revision(1), revision)].into(),
        ..state(entries, entries, cursors)
    }
}

fn now(state: &State) -> Duration {
    Duration::from_secs(state.applied_position().0)
}

fn decided(state: &State, before: Option<Full>) -> Decision {
    decide(state, now(state), PLENTY, before)
}

#[test]
fn the_slowest_destination_holds_the_horizon() {
    let state = state(100, 90, &[(50, true), (80, true)]);
    assert_eq!(decided(&state, None).give_up, Some(GiveUp::Delivered(Position(49))));
}

#[test]
fn an_optional_destination_holds_it_too_until_an_overrun() {
    let state = state(100, 90, &[(50, false), (80, true)]);
    assert_eq!(decided(&state, None).give_up, Some(GiveUp::Delivered(Position(49))));
}

#[test]
fn bookkeeping_alone_does_not_move_it() {
    let mut state = state(100, 90, &[(101, true)]);
    state.horizon = Position(95);
    assert_eq!(decided(&state, None), Decision { full: None, give_up: None });
}

#[test]
fn a_full_buffer_refuses_and_gives_up_nothing_that_is_required() {
    let full = filled(64, WhenFull::Refuse, 0, &[(1, true)]);
    assert_eq!(decided(&full, None), Decision { full: Some(Full::Buffer), give_up: None });
    let nearly = filled(63, WhenFull::Refuse, 0, &[(1, true)]);
    assert_eq!(decided(&nearly, None).full, None);
}

#[test]
fn a_buffer_that_was_full_opens_again_only_when_some_of_it_is_gone() {
    let at = |cursor| filled(64, WhenFull::Refuse, 0, &[(cursor, true)]);
    assert_eq!(decided(&at(3), Some(Full::Buffer)).full, Some(Full::Buffer), "62 of 64 MiB are left");
    assert_eq!(decided(&at(3), None).full, None);
    assert_eq!(decided(&at(5), Some(Full::Buffer)).full, None, "60 of 64 MiB are left");
}

#[test]
fn an_optional_destination_is_detached_before_anything_is_refused() {
    let state = filled(64, WhenFull::Refuse, 0, &[(1, false), (60, true)]);
    let decision = decided(&state, None);
    let Some(GiveUp::Overrun(horizon)) = decision.give_up else { panic!("{decision:?}") };
    assert!((7..60).contains(&horizon.0), "{horizon}: down to nine tenths, and not what is required");
    assert_eq!(decision.full, None);
}

#[test]
fn drop_oldest_gives_up_a_tenth_of_what_is_undelivered_and_refuses_nothing() {
    let state = filled(64, WhenFull::DropOldest, 0, &[(1, true)]);
    assert_eq!(decided(&state, None), Decision { full: None, give_up: Some(GiveUp::Overrun(Position(7))) });
}

#[test]
fn a_disk_without_room_refuses_in_either_mode_and_gives_up_nothing() {
    for when_full in [WhenFull::Refuse, WhenFull::DropOldest] {
        let state = filled(10, when_full, 0, &[(1, true)]);
        let decide = |room, before| decide(&state, now(&state), room, before);
        let refused = Decision { full: Some(Full::Disk), give_up: None };
        assert_eq!(decide(ROOM_FOR_SAMPLES - 1, None), refused);
        assert_eq!(decide(ROOM_FOR_SAMPLES, Some(Full::Disk)), refused, "it does not flap");
        assert_eq!(decide(ROOM_AGAIN, Some(Full::Disk)).full, None);
    }
}

#[test]
fn what_was_delivered_is_kept_for_as_long_as_was_asked_and_there_is_room() {
    let kept = filled(50, WhenFull::Refuse, 20, &[(51, true)]);
    assert_eq!(decided(&kept, None).give_up, Some(GiveUp::Delivered(Position(30))));
    let young = filled(10, WhenFull::Refuse, 20, &[(11, true)]);
    assert_eq!(decided(&young, None).give_up, None);
    let full = filled(100, WhenFull::Refuse, 3_600, &[(101, true)]);
    assert_eq!(
        decided(&full, None),
        Decision { full: None, give_up: Some(GiveUp::Delivered(Position(100))) },
        "nothing is refused for the sake of what was delivered"
    );
    for (room, before) in [(ROOM_FOR_SAMPLES - 1, None), (ROOM_AGAIN - 1, Some(Full::Disk))] {
        let expected = Decision { full: Some(Full::Disk), give_up: Some(GiveUp::Delivered(Position(50))) };
        assert_eq!(decide(&kept, now(&kept), room, before), expected, "nor for its sake kept on a full disk");
    }
}
