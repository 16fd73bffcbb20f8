//! Refused records that are offered again.

use serde_json::Value as Json;

use super::receiver::{Mood, Receiver, Seen, delivering_to, samples};
use super::*;

impl Node {
    /// Starts to deliver to a receiver.
    async fn forward_to(&self, receiver: &Receiver) {
        self.configure(delivering_to(&[receiver])).await;
        self.forward(self.facts());
    }

    /// Pushes so many entries with one sample each for the receiver, and waits until it has refused them.
    async fn push_refused(&self, sequences: std::ops::RangeInclusive<u64>) {
        let held = *sequences.end() as usize;
        for sequence in sequences {
            self.push(sequence).await.expect("there is room");
        }
        self.until("they are set aside", |state| state.quarantine.len() == held).await;
    }

    async fn order(&self, keys: Vec<(model::Position, model::Ordinal)>) {
        let destination = "receiver-1".to_owned();
        let command = Command::RetryQuarantine { destination, keys, request: Request::default() };
        assert_eq!(self.propose(command).await, store::Outcome::Done);
    }
}

#[tokio::test]
async fn what_is_offered_again_and_accepted_leaves_quarantine_as_the_record_it_was() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let receiver = Receiver::start(Mood::Reject("not wanted")).await;
    node.forward_to(&receiver).await;
    node.push_refused(1..=3).await;
    receiver.set(Mood::Accept);
    node.order(Vec::new()).await;
    node.until("nothing is left", |state| state.quarantine.is_empty()).await;

    let again = receiver.seen(true);
    let offered: Vec<Json> = again.iter().flat_map(samples).collect();
    let first: Vec<Json> = receiver.seen(false).iter().flat_map(samples).collect();
    assert_eq!(offered, first, "the same records under the same keys, each once");
    let before: Vec<String> = receiver.seen(false).into_iter().map(|seen| seen.idempotency_key).collect();
    let is_new = |seen: &Seen| !before.contains(&seen.idempotency_key);
    assert!(again.iter().all(is_new), "a receiver that keeps its answers must not repeat them: {again:?}");
    let counted = node.read(|state| {
        let known = &state.destinations[&HISTORIAN];
        (known.accepted_again, known.refused_again)
    });
    assert_eq!(counted, (3, 0));
}

#[tokio::test]
async fn what_is_refused_again_stays_with_the_new_reason_until_another_order() {
    for mood in [Mood::Reject("still not wanted"), Mood::Refuse] {
        let nodes = cluster(1).await;
        let node = &nodes[leader(&nodes).await];
        let receiver = Receiver::start(Mood::Reject("not wanted")).await;
        node.forward_to(&receiver).await;
        node.push_refused(1..=3).await;
        receiver.set(mood);
        let (_, at, ordinal) = node.read(|state| *state.quarantine.keys().next().expect("three are held"));
        node.order(vec![(at, ordinal)]).await;
        let held = || node.read(|state| state.quarantine.values().cloned().collect::<Vec<_>>());
        node.until("it was refused again", |state| {
            let known = &state.destinations[&HISTORIAN];
            (known.accepted_again, known.refused_again) == (0, 1)
        })
        .await;
        let reasons: Vec<String> = held().into_iter().map(|record| record.reason).collect();
        let reason = if mood == Mood::Refuse { "400 Bad Request: it is wrong" } else { "still not wanted" };
        assert_eq!(reasons, [reason, "not wanted", "not wanted"]);
        assert!(held().iter().all(|record| !record.retry), "it waits for another order");
        assert_eq!(receiver.seen(true).len(), 1, "offered once, and none of the others");
    }
}

#[tokio::test]
async fn deliveries_go_on_while_what_is_offered_again_finds_no_answer() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let receiver = Receiver::start(Mood::Reject("not wanted")).await;
    node.forward_to(&receiver).await;
    node.push_refused(1..=3).await;
    receiver.set(Mood::TooBusyForMore);
    node.order(Vec::new()).await;
    let offered = async {
        while receiver.seen(true).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, offered).await.expect("it is offered");
    for sequence in 4..=6 {
        node.push(sequence).await.expect("there is room");
        let at = node.read(|state| state.last_deliverable);
        node.until("it is delivered", |state| state.destinations[&HISTORIAN].cursor > Cursor::at(at)).await;
    }
    assert!(
        node.read(|state| state.quarantine.values().all(|record| record.retry)),
        "no answer is no refusal"
    );
    receiver.set(Mood::Accept);
    node.until("nothing is left", |state| state.quarantine.is_empty()).await;
}
