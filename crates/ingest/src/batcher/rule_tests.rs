//! One test for each rule of the batcher.

use std::time::{Duration, Instant};

use model::{Lineage, Ordinal, Position, Revision, SessionId, Term};

use super::model_test::{Content, identity};
use super::*;

const STREAM: StreamId = StreamId(1);

struct Bench {
    now: Instant,
    batcher: Batcher<Content>,
    generation: Generation,
    made: u64,
}

impl Bench {
    fn new() -> Self {
        let mut batcher = Batcher::new(SessionId::from(9), BatcherLimits::default());
        batcher.open(STREAM);
        Self {
            now: tokio::time::Instant::now().into_std(),
            batcher,
            generation: Generation::default(),
            made: 0,
        }
    }

    fn push(&mut self) -> Result<(), Verdict> {
        let content = Content { stream: STREAM.0, number: self.made };
        self.made += 1;
        self.batcher
            .enqueue(self.now, STREAM, self.generation, content.batch(), content)
            .map_err(|refused| refused.verdict)
    }

    /// Pushes one message and proposes it alone.
    fn fly(&mut self) -> Proposal {
        self.push().expect("nothing is refused");
        self.propose().expect("there is room in flight")
    }

    fn propose(&mut self) -> Option<Proposal> {
        self.batcher.next_proposal(self.now)
    }

    fn settle(&mut self, flight: FlightId, result: Result<Proposed, ProposeError>) -> Vec<(u64, Verdict)> {
        numbers(self.batcher.settled(self.now, flight, result))
    }

    fn pass(&mut self, time: Duration) -> Vec<(u64, Verdict)> {
        self.now += time;
        numbers(self.batcher.tick(self.now))
    }
}

fn numbers(answers: Vec<Answer<Content>>) -> Vec<(u64, Verdict)> {
    answers.into_iter().map(|answer| (answer.ticket.number, answer.verdict)).collect()
}

fn at(position: u64, outcomes: Vec<Outcome>) -> Result<Proposed, ProposeError> {
    Ok(Proposed { position: Position(position), lineage: lineage(), outcomes })
}

fn lineage() -> Lineage {
    Lineage::from_random(3)
}

fn accepted() -> Outcome {
    Outcome::Accepted { first_ordinal: Ordinal(0) }
}

fn placed(position: u64) -> Verdict {
    Verdict::Accepted(Some(Place { lineage: lineage(), position: Position(position), ordinal: Ordinal(0) }))
}

fn sequences(proposal: &Proposal) -> Vec<u64> {
    proposal.batches.iter().map(|batch| identity(batch).1).collect()
}

#[test]
fn what_waits_while_four_proposals_are_in_flight_goes_together() {
    let mut bench = Bench::new();
    let flights: Vec<_> = (0..4).map(|_| bench.fly()).collect();
    for _ in 0..3 {
        bench.push().expect("it waits");
    }
    assert!(bench.propose().is_none(), "four are in flight");
    let answers = bench.settle(flights[0].flight, at(1, vec![accepted()]));
    assert_eq!(answers, [(0, placed(1))]);
    assert_eq!(sequences(&bench.propose().expect("one has landed")), [5, 6, 7]);
}

#[test]
fn a_proposal_stops_at_its_size() {
    let mut bench = Bench::new();
    bench.batcher.limits.proposal_bytes = 40; // Contents have 16 bytes.
    for _ in 0..3 {
        bench.push().expect("it waits");
    }
    assert_eq!(sequences(&bench.propose().expect("work")), [1, 2]);
    assert_eq!(sequences(&bench.propose().expect("work")), [3]);
}

#[test]
fn a_message_larger_than_a_proposal_goes_alone() {
    let mut bench = Bench::new();
    bench.batcher.limits.proposal_bytes = 1;
    bench.push().expect("it waits");
    bench.push().expect("it waits");
    assert_eq!(sequences(&bench.propose().expect("work")), [1]);
}

#[test]
fn an_unknown_outcome_is_proposed_again_under_its_number_once_the_rest_has_settled() {
    let mut bench = Bench::new();
    let (first, second) = (bench.fly(), bench.fly());
    assert_eq!(bench.settle(first.flight, Err(ProposeError::Unknown)), []);
    bench.pass(Duration::from_secs(1));
    assert!(bench.propose().is_none(), "the second has not settled");
    bench.settle(second.flight, at(4, vec![Outcome::Expected { sequence: 1 }]));
    bench.pass(Duration::from_secs(1));
    let again = bench.propose().expect("all has settled");
    assert_eq!(sequences(&again), [1, 2]);
    assert_eq!(again.batches[0].payload, first.batches[0].payload);
}

#[test]
fn a_later_acceptance_proves_an_unknown_one() {
    let mut bench = Bench::new();
    let (first, second) = (bench.fly(), bench.fly());
    assert_eq!(bench.settle(first.flight, Err(ProposeError::Unknown)), []);
    let answers = bench.settle(second.flight, at(5, vec![accepted()]));
    assert_eq!(answers, [(0, Verdict::Accepted(None)), (1, placed(5))]);
    assert!(bench.batcher.is_idle());
}

#[test]
fn answers_come_in_the_order_of_numbers() {
    let mut bench = Bench::new();
    let (first, second) = (bench.fly(), bench.fly());
    assert_eq!(bench.settle(second.flight, at(5, vec![accepted()])), []);
    assert_eq!(bench.settle(first.flight, at(4, vec![accepted()])), [(0, placed(4)), (1, placed(5))]);
}

#[test]
fn a_new_reign_decides_what_was_proposed_before_it() {
    let mut bench = Bench::new();
    let (first, _second) = (bench.fly(), bench.fly());
    let answers = numbers(bench.batcher.new_reign(bench.now, Term(2), 1));
    assert_eq!(answers, [(0, Verdict::Accepted(None))]);
    let again = bench.propose().expect("the second is proposed at once");
    assert_eq!(sequences(&again), [2]);
    assert_eq!(bench.settle(first.flight, at(3, vec![accepted()])), [], "decided before");
    assert_eq!(bench.settle(again.flight, at(9, vec![Outcome::Already])), [(1, Verdict::Accepted(None))]);
}

#[test]
fn a_refused_number_is_given_to_another_message() {
    let mut bench = Bench::new();
    let flight = bench.fly().flight;
    bench.pass(Duration::from_secs(9));
    bench.settle(flight, Err(ProposeError::NoSpace));
    let refused = bench.pass(Duration::from_secs(5));
    let [(0, Verdict::Refused { reason: RefusalReason::NoSpace, generation, .. })] = refused[..] else {
        panic!("expected a refusal for want of space, got {refused:?}");
    };
    bench.generation = generation;
    bench.pass(Duration::from_secs(1));
    assert_eq!(sequences(&bench.fly()), [1]);
}

#[test]
fn an_undecided_number_is_kept_while_later_messages_are_refused() {
    let mut bench = Bench::new();
    let flight = bench.fly().flight;
    bench.push().expect("it waits");
    bench.settle(flight, Err(ProposeError::Unknown));
    bench.pass(Duration::from_millis(100));
    let probe = bench.propose().expect("the pause is over");
    assert_eq!(sequences(&probe), [1, 2]);
    bench.settle(probe.flight, Err(ProposeError::NoQuorum));
    let refused = bench.pass(Duration::from_secs(5));
    assert!(
        matches!(refused[..], [(1, Verdict::Refused { reason: RefusalReason::NoQuorum, .. })]),
        "{refused:?}"
    );
    assert_eq!(sequences(&bench.propose().expect("it is tried on")), [1]);
}

#[test]
fn after_a_refusal_later_messages_of_the_stream_are_refused_until_it_goes_back() {
    let mut bench = Bench::new();
    let flight = bench.fly().flight;
    bench.settle(flight, Err(ProposeError::Overloaded));
    let refused = bench.pass(Duration::from_secs(6));
    assert_eq!(refused.len(), 1);
    bench.pass(Duration::from_secs(2));
    let late = bench.push().expect_err("its generation is over");
    let Verdict::Refused { reason: RefusalReason::OutOfOrder, generation, .. } = late else {
        panic!("expected a refusal, got {late:?}")
    };
    bench.generation = generation;
    bench.push().expect("it has gone back");
}

#[test]
fn while_everything_fails_messages_are_refused_at_once_but_one_is_tried_now_and_then() {
    let mut bench = Bench::new();
    let flight = bench.fly().flight;
    bench.settle(flight, Err(ProposeError::NoQuorum));
    let refused = bench.pass(Duration::from_secs(5));
    assert_eq!(refused.len(), 1);
    bench.generation = Generation(1);
    assert!(matches!(bench.push(), Err(Verdict::Refused { reason: RefusalReason::NoQuorum, .. })));
    bench.generation = Generation(2);
    bench.pass(Duration::from_secs(1));
    let probe = bench.fly().flight;
    let refused = bench.settle(probe, Err(ProposeError::NoQuorum));
    assert_eq!(refused.len(), 1, "patience was used up before");
}

#[test]
fn pauses_grow_until_a_success() {
    let mut bench = Bench::new();
    let mut flight = bench.fly().flight;
    for millis in [20, 40, 80] {
        bench.settle(flight, Err(ProposeError::NoLeader));
        bench.pass(Duration::from_millis(millis - 1));
        assert!(bench.propose().is_none(), "before {millis} ms");
        bench.pass(Duration::from_millis(1));
        flight = bench.propose().expect("the pause is over").flight;
    }
    bench.settle(flight, at(1, vec![accepted()]));
    let flights: Vec<_> = (0..4).map(|_| bench.fly()).collect();
    assert_eq!(flights.len(), 4);
}

#[test]
fn a_closed_stream_takes_its_waiting_messages_along_but_not_the_proposed_ones() {
    let mut bench = Bench::new();
    let flight = bench.fly().flight;
    bench.push().expect("it waits");
    bench.batcher.close(STREAM);
    assert!(bench.propose().is_none());
    assert_eq!(bench.settle(flight, at(1, vec![accepted()])), [(0, placed(1))]);
    assert!(bench.batcher.is_idle());
}

#[test]
fn a_forgotten_session_begins_anew() {
    let mut bench = Bench::new();
    let before = bench.batcher.session();
    let first = bench.fly().flight;
    bench.settle(first, at(1, vec![accepted()]));
    let second = bench.fly().flight;
    bench.settle(second, at(8, vec![Outcome::Expected { sequence: 1 }]));
    bench.pass(Duration::from_secs(1));
    let again = bench.propose().expect("proposed in the new session");
    assert_ne!(bench.batcher.session(), before);
    assert_eq!(identity(&again.batches[0]), (bench.batcher.session(), 1));
}

#[test]
fn a_stream_that_has_ended_gets_nothing_into_a_new_session() {
    const ENDED: StreamId = StreamId(2);
    let mut bench = Bench::new();
    bench.batcher.open(ENDED);
    let first = bench.fly().flight;
    bench.settle(first, at(1, vec![accepted()]));
    let content = Content { stream: ENDED.0, number: 9 };
    let queued = bench.batcher.enqueue(bench.now, ENDED, Generation::default(), content.batch(), content);
    assert!(queued.is_ok());
    bench.push().expect("it waits");
    let second = bench.propose().expect("work");
    assert_eq!(sequences(&second), [2, 3]);
    bench.batcher.close(ENDED);
    let forgotten = Outcome::Expected { sequence: 1 };
    assert_eq!(bench.settle(second.flight, at(8, vec![forgotten, forgotten])), []);
    bench.pass(Duration::from_secs(1));
    let again = bench.propose().expect("proposed in the new session");
    assert_eq!(sequences(&again), [1], "only that of the stream that goes on");
    assert_eq!(again.batches[0].payload, second.batches[1].payload);
}

#[test]
fn a_message_whose_revision_is_gone_is_refused_and_others_go_on_in_a_new_session() {
    const OTHER: StreamId = StreamId(2);
    /// Its message is of the same revision.
    const ALIKE: StreamId = StreamId(3);
    let mut bench = Bench::new();
    let before = bench.batcher.session();
    bench.batcher.open(OTHER);
    bench.batcher.open(ALIKE);
    let first = bench.fly().flight;
    bench.settle(first, at(1, vec![accepted()]));
    bench.push().expect("it waits");
    bench.push().expect("it waits");
    let content = Content { stream: OTHER.0, number: 9 };
    let mut batch = content.batch();
    batch.header.revision = Revision(batch.header.revision.0 + 1);
    let queued = bench.batcher.enqueue(bench.now, OTHER, Generation::default(), batch, content);
    assert!(queued.is_ok());
    let content = Content { stream: ALIKE.0, number: 10 };
    let queued = bench.batcher.enqueue(bench.now, ALIKE, Generation::default(), content.batch(), content);
    assert!(queued.is_ok());
    // Nobody knew what became of them.
    let second = bench.propose().expect("work").flight;
    bench.settle(second, Err(ProposeError::Unknown));
    bench.pass(Duration::from_secs(1));
    let again = bench.propose().expect("the pause is over");
    assert_eq!(sequences(&again), [2, 3, 4, 5]);
    let hole = Outcome::Expected { sequence: 2 };
    let refused = bench.settle(again.flight, at(7, vec![Outcome::RevisionGone, hole, hole, hole]));
    let [
        (1, Verdict::Refused { reason: RefusalReason::RevisionGone, .. }),
        (2, Verdict::Refused { reason: RefusalReason::OutOfOrder, .. }),
        (10, Verdict::Refused { reason: RefusalReason::RevisionGone, .. }),
    ] = refused[..]
    else {
        panic!("got {refused:?}")
    };
    // At once: the log has taken all of it.
    let other = bench.propose().expect("it is not lost");
    assert_ne!(bench.batcher.session(), before);
    assert_eq!(identity(&other.batches[0]), (bench.batcher.session(), 1));
    assert_eq!(bench.settle(other.flight, at(8, vec![accepted()])), [(9, placed(8))]);
}

#[test]
fn an_overtaken_hole_is_not_taken_for_a_forgotten_session() {
    let mut bench = Bench::new();
    let before = bench.batcher.session();
    let (first, second) = (bench.fly(), bench.fly());
    // The second was applied before the first, and is answered after it.
    bench.settle(first.flight, at(2, vec![accepted()]));
    bench.settle(second.flight, at(1, vec![Outcome::Expected { sequence: 1 }]));
    bench.pass(Duration::from_secs(1));
    assert_eq!(sequences(&bench.propose().expect("work")), [2]);
    assert_eq!(bench.batcher.session(), before);
}

#[test]
fn stopping_refuses_what_waits_and_giving_up_says_what_is_undecided() {
    let mut bench = Bench::new();
    bench.fly();
    bench.push().expect("it waits");
    let stopped = numbers(bench.batcher.stop());
    assert!(
        matches!(stopped[..], [(1, Verdict::Refused { reason: RefusalReason::Stopping, .. })]),
        "{stopped:?}"
    );
    assert!(bench.push().is_err());
    let given_up = numbers(bench.batcher.abandon());
    assert!(matches!(given_up[..], [(0, Verdict::Undecided { .. })]), "{given_up:?}");
    assert!(bench.batcher.is_idle());
}

#[test]
fn a_message_that_nobody_could_decide_for_half_a_day_is_given_up_with_its_session() {
    let mut bench = Bench::new();
    let (before, flight) = (bench.batcher.session(), bench.fly().flight);
    bench.settle(flight, Err(ProposeError::Unknown));
    bench.now += Duration::from_secs(12 * 3_600);
    assert!(bench.propose().is_none(), "it might be accepted twice");
    assert!(bench.batcher.deadline().is_some_and(|deadline| deadline <= bench.now));
    let given_up = bench.pass(Duration::ZERO);
    let [(0, Verdict::Undecided { generation })] = given_up[..] else { panic!("got {given_up:?}") };
    bench.generation = generation;
    let next = bench.fly();
    assert_ne!(identity(&next.batches[0]).0, before);
    assert_eq!(sequences(&next), [1]);
}

#[test]
fn a_hole_is_not_proposed_again_while_what_lies_behind_it_is_in_flight() {
    let mut bench = Bench::new();
    let (first, second, third) = (bench.fly(), bench.fly(), bench.fly());
    bench.settle(second.flight, Err(ProposeError::Overloaded));
    assert_eq!(bench.settle(first.flight, at(1, vec![accepted()])), [(0, placed(1))]);
    bench.pass(Duration::from_secs(1));
    assert!(bench.propose().is_none(), "the third would only be refused twice");
    bench.settle(third.flight, at(2, vec![Outcome::Expected { sequence: 2 }]));
    bench.pass(Duration::from_secs(1));
    assert_eq!(sequences(&bench.propose().expect("all has settled")), [2, 3]);
}
