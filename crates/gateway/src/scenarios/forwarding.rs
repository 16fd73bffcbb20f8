//! Destinations side by side, and what is known of them.

use std::collections::BTreeSet;

use model::plant::{Csv, DestinationKind};

use super::receiver::{Mood, Receiver, delivering_to, samples};
use super::*;
use crate::live::DestinationState;

const HUNG: DestinationId = DestinationId(1);
const WELL: DestinationId = DestinationId(2);

/// The samples that a receiver has taken, each once however often it got it.
fn taken(receiver: &Receiver) -> BTreeSet<String> {
    receiver.seen(false).iter().flat_map(samples).map(|sample| sample.to_string()).collect()
}

/// Whether a destination has confirmed what lies at a position.
fn has_confirmed(state: &State, id: DestinationId, at: model::Position) -> bool {
    state.destinations[&id].cursor > Cursor::at(at)
}

/// Waits until the only destination does so.
async fn until_it_does(live: &Live, wanted: DestinationState) {
    let does = || live.destinations().values().next().map(|known| known.state);
    let reached = async {
        while does() != Some(wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = timeout(SOON, reached).await;
    in_time.unwrap_or_else(|_| panic!("not within {SOON:?}: {wanted:?}, but {:?}", does()));
}

#[tokio::test]
async fn a_destination_that_never_answers_holds_up_no_other_and_misses_nothing() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let (hung, well) = (Receiver::start(Mood::Hang).await, Receiver::start(Mood::Accept).await);
    let mut plant = delivering_to(&[&hung, &well]);
    let DestinationKind::Http(http) = &mut plant.destinations[0].kind else { panic!("it is HTTP") };
    http.timeout = Duration::from_secs(1);
    node.configure(plant).await;
    node.forward(node.facts());

    for sequence in 1..=6 {
        node.push(sequence).await.expect("there is room");
        // Once while its first request has no answer, then while it is asked again after a time-out.
        hung.until_asked(if sequence < 4 { 1 } else { 2 }).await;
        let at = node.read(|state| state.last_deliverable);
        node.until("the other is delivered to", |state| has_confirmed(state, WELL, at)).await;
    }
    let everything = taken(&well);
    assert_eq!((everything.len(), taken(&hung).len()), (6, 0));

    hung.set(Mood::Accept);
    let last = node.read(|state| state.last_deliverable);
    node.until("it is delivered to again", |state| has_confirmed(state, HUNG, last)).await;
    assert_eq!(taken(&hung), everything);
}

#[tokio::test(start_paused = true)]
async fn a_destination_whose_trouble_is_over_says_so_although_nothing_waits_for_it() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let directory = folder.path().join("reports");
    let mut plant = plant(64 * MIB, WhenFull::Refuse);
    // Not even the opening of a schedule is to be delivered.
    plant.devices.clear();
    let csv = Csv { directory: directory.clone(), every: SOON, max_rows: 1_000 };
    plant.destinations[0].kind = DestinationKind::Csv(csv);
    node.configure(plant).await;
    let live = node.forward(node.facts());
    until_it_does(&live, DestinationState::Stalled).await;
    std::fs::create_dir(&directory).expect("it can be made");
    until_it_does(&live, DestinationState::Accepting).await;
}
