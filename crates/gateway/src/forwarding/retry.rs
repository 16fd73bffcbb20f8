//! Records in quarantine that an operator wants offered again: between deliveries, a round at a time.
//!
//! - What is offered is the record as it was set aside, under its key, whatever has become of its tag since.
//! - A round is small, and deliveries have several times as long as it took before the next one.
//! - What became of it is committed in the reign that offered it: what was accepted leaves quarantine, what was refused
//!   stays and is not marked any more. What could not be committed is offered again, under its key.
//! - An error is no answer: what is marked stays so, and is offered later. How the destination does is for deliveries to
//!   find out; none of this moves a cursor.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use destinations::{AnyDestination, DeliverError, Destination as _, Receipt, pause_after};
use model::command::{Command, RefusedAgain};
use model::ids::DestinationId;
use model::{Delivery, Ordinal, Position, Record, SampleKey, Timestamp};
use replication::{Leadership, Replica};
use runtime::random::Random;
use store::engine::Engine;
use store::ledger::{QuarantineKey, Quarantined, State};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::FINISH;

/// Records, and bytes of them, that a round offers at most.
const ROUND_RECORDS: usize = 500;
const ROUND_BYTES: usize = 1 << 20;
/// How often it is looked for marked records while there are any in quarantine.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many times as long as a round took deliveries have before the next one.
const REST: u32 = 4;
/// How long it is waited for that the end of a round is committed.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one destination is to be offered again.
pub(super) struct Retries<E: Engine> {
    replica: Replica<E>,
    leadership: Leadership,
    id: DestinationId,
    destination: Arc<str>,
    cluster: Arc<str>,
    random: Random,
    /// When it is looked next; `None` while nothing is in quarantine.
    look_at: Option<Instant>,
    /// Rounds in a row that ended with an error.
    failures: u32,
}

/// Records that are offered together.
struct Round {
    delivery: Delivery,
    /// When the last of them was refused.
    refused: Timestamp,
}

/// What became of records that were to be offered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settled {
    accepted: Vec<(Position, Ordinal)>,
    refused: Vec<RefusedAgain>,
}

impl<E: Engine> Retries<E> {
    pub(super) fn new(
        replica: Replica<E>,
        leadership: Leadership,
        id: DestinationId,
        (cluster, destination): (Arc<str>, Arc<str>),
        random: Random,
    ) -> Self {
        Self { replica, leadership, id, destination, cluster, random, look_at: None, failures: 0 }
    }

    /// Resolves when [`Retries::offer`] has something to look for; never, while nothing is in quarantine.
    pub(super) async fn due(&self) {
        runtime::sleep_until(self.look_at).await;
    }

    /// Offers a round, if anything is marked, it is time, and nobody holds the destination. An answer that is on its way
    /// when `stop` comes is waited for, as that to a delivery is.
    pub(super) async fn offer(&mut self, destination: &mut AnyDestination, stop: &CancellationToken) {
        let began = Instant::now();
        if stop.is_cancelled() || self.look_at.is_some_and(|at| began < at) {
            return;
        }
        let keeper = self.replica.store().keeper();
        let (is_empty, marked) = keeper.read(|state| (is_empty(state, self.id), marked(state, self.id)));
        self.look_at = (!is_empty).then(|| began + LOOK_EVERY);
        if marked.is_empty() {
            return;
        }
        let (round, mut settled) = self.round(marked);
        let mut rest = Duration::ZERO;
        if let Some(Round { delivery, refused }) = round {
            let offered = tokio::select! {
                offered = destination.offer_again(&delivery, refused, &self.leadership) => offered,
                () = async { stop.cancelled().await; sleep(FINISH).await } => return,
            };
            rest = match offered {
                Ok(receipt) => {
                    self.failures = 0;
                    settled.take_in(&delivery.records, receipt);
                    Duration::ZERO
                }
                Err(error) => self.pause_after(&error),
            };
            rest = rest.max(began.elapsed() * REST);
        }
        if self.settle(settled).await {
            self.look_at = Some(Instant::now() + rest);
        } else {
            self.look_at = Some(Instant::now() + rest.max(LOOK_EVERY));
        }
    }

    /// What is offered together, and what is not because it cannot be read back.
    fn round(&self, marked: Vec<(QuarantineKey, Quarantined)>) -> (Option<Round>, Settled) {
        let (mut records, mut settled, mut refused) = (Vec::new(), Settled::default(), Timestamp::default());
        for ((_, position, ordinal), quarantined) in marked {
            match read_back(position, ordinal, &quarantined.record) {
                Ok(record) => {
                    refused = refused.max(quarantined.at);
                    records.push(record);
                }
                Err(reason) => settled.refused.push(RefusedAgain { position, ordinal, reason }),
            }
        }
        let (Some(first), Some(last)) = (records.first().map(Record::key), records.last().map(Record::key))
        else {
            return (None, settled);
        };
        let delivery = Delivery {
            cluster: Arc::clone(&self.cluster),
            destination: Arc::clone(&self.destination),
            after: first.before(),
            upto: last.behind(),
            historical: true,
            records,
        };
        (Some(Round { delivery, refused }), settled)
    }

    fn pause_after(&mut self, error: &DeliverError) -> Duration {
        // Without a pause to be kept, the lease has run out; what is marked waits for it, or for the next leader.
        let Some(pause) = pause_after(error, self.failures, &mut self.random) else { return LOOK_EVERY };
        if self.failures == 0 {
            warn!(destination = %self.destination, %error, "refused records could not be offered; they are offered later");
        }
        self.failures += 1;
        pause
    }

    /// Commits what became of a round. `false` if that may not have happened.
    async fn settle(&self, Settled { accepted, refused }: Settled) -> bool {
        let (gone, stay) = (accepted.len(), refused.len());
        if gone + stay == 0 {
            return true;
        }
        let command = Command::SettleRetries { destination: self.id, accepted, refused };
        match self.replica.propose_in(&self.leadership, &command, PATIENCE).await {
            Ok(_) => {
                info!(destination = %self.destination, accepted = gone, refused = stay, "refused records were offered again");
                true
            }
            Err(error) => {
                debug!(destination = %self.destination, %error, "what became of records offered again is not committed");
                false
            }
        }
    }
}

impl Settled {
    /// Takes in what a destination said of `records`; what it has not come to is as it was.
    fn take_in(&mut self, records: &[Record], receipt: Receipt) {
        let mut reasons: HashMap<SampleKey, String> =
            receipt.rejected.into_iter().map(|rejected| (rejected.key, rejected.reason)).collect();
        for key in records.iter().map(Record::key).filter(|key| key.before() < receipt.acknowledged) {
            let SampleKey { position, ordinal, .. } = key;
            match reasons.remove(&key) {
                Some(reason) => self.refused.push(RefusedAgain { position, ordinal, reason }),
                None => self.accepted.push((position, ordinal)),
            }
        }
    }
}

/// Whether a destination has refused nothing.
fn is_empty(state: &State, id: DestinationId) -> bool {
    state.quarantined(id).next().is_none()
}

/// What is to be offered next, as much as a round takes; nothing while the destination is held.
fn marked(state: &State, id: DestinationId) -> Vec<(QuarantineKey, Quarantined)> {
    if state.destinations.get(&id).is_none_or(|known| known.paused.is_some()) {
        return Vec::new();
    }
    let mut bytes = 0;
    let marked = state.quarantined(id).filter(|(_, record)| record.retry);
    let fits = |(_, record): &(&QuarantineKey, &Quarantined)| {
        let is_first = bytes == 0;
        bytes += record.record.len();
        is_first || bytes <= ROUND_BYTES
    };
    let round = marked.take(ROUND_RECORDS).take_while(fits);
    round.map(|(key, record)| (*key, record.clone())).collect()
}

/// A record as it was set aside.
fn read_back(position: Position, ordinal: Ordinal, text: &str) -> Result<Record, String> {
    let record = destinations::json::parse(text.as_bytes())
        .map_err(|error| format!("it cannot be read back from quarantine: {error}"))?;
    let key = record.key();
    match (key.position, key.ordinal) == (position, ordinal) {
        true => Ok(record),
        false => Err(format!("it cannot be read back from quarantine: it bears the key of another, {key}")),
    }
}

#[cfg(test)]
mod tests {
    use destinations::Rejected;
    use model::record::{SampleRecord, TagFacts};
    use model::{Cursor, Lineage, Reading, StatusCode, Term};
    use store::ledger::{DestinationState, Standing};

    use super::*;

    const HISTORIAN: DestinationId = DestinationId(1);

    fn record(position: u64) -> Record {
        let (lineage, position) = (Lineage::from_random(5), Position(position));
        Record::Sample(SampleRecord {
            key: SampleKey { lineage, position, ordinal: Ordinal(3) },
            tag: Arc::new(TagFacts::default()),
            reading: Reading::Bad(StatusCode::BAD),
            source_time: Timestamp(0),
            gateway_time: Timestamp(0),
            slot: None,
            node: "gateway-a".into(),
            term: Term(1),
        })
    }

    fn quarantined(record: String, retry: bool) -> Quarantined {
        Quarantined { reason: "too late".to_owned(), at: Timestamp(7), record, retry }
    }

    /// A destination that has refused records at these positions, marked or not.
    fn state(marked: &[(u64, bool)]) -> State {
        let mut state = State::default();
        let destination = DestinationState {
            name: "historian".to_owned(),
            cursor: Cursor::at(Position(100)),
            required: true,
            paused: None,
            given_up: 0,
            accepted_again: 0,
            refused_again: 0,
        };
        state.destinations.insert(HISTORIAN, destination);
        for (position, retry) in marked {
            let text = String::from_utf8(destinations::json::record(&record(*position))).expect("JSON");
            let key = (HISTORIAN, Position(*position), Ordinal(3));
            state.quarantine.insert(key, quarantined(text, *retry));
        }
        state
    }

    fn positions(state: &State) -> Vec<u64> {
        marked(state, HISTORIAN).into_iter().map(|((_, position, _), _)| position.0).collect()
    }

    #[test]
    fn only_what_is_marked_is_offered_and_nothing_while_an_operator_holds_the_destination() {
        let mut state = state(&[(4, true), (5, false), (6, true)]);
        assert_eq!(positions(&state), [4, 6]);
        assert!(marked(&state, DestinationId(2)).is_empty(), "another destination has refused nothing");
        let held =
            Standing { principal: String::new(), reason: String::new(), at: Timestamp(0), until: None };
        state.destinations.get_mut(&HISTORIAN).expect("just made").paused = Some(held);
        assert_eq!(positions(&state), [0; 0]);
    }

    #[test]
    fn a_round_is_bounded_in_records_and_bytes_and_never_empty() {
        let many: Vec<(u64, bool)> = (1..=2_000).map(|position| (position, true)).collect();
        assert_eq!(positions(&state(&many)).len(), ROUND_RECORDS);
        let mut long = state(&[(4, true), (5, true), (6, true)]);
        for (record, bytes) in long.quarantine.values_mut().zip([2 << 20, 10, 10]) {
            record.record = "x".repeat(bytes);
        }
        assert_eq!(positions(&long), [4], "a long one alone");
        long.quarantine.pop_first();
        assert_eq!(positions(&long), [5, 6]);
    }

    #[test]
    fn what_the_destination_has_not_come_to_is_as_it_was() {
        let records = [record(4), record(5), record(6), record(7)];
        let acknowledged = Cursor::behind(Position(6), Ordinal(3));
        let rejected = vec![Rejected { key: records[1].key(), reason: "too large".to_owned() }];
        let mut settled = Settled::default();
        settled.take_in(&records, Receipt { acknowledged, taken: acknowledged, rejected });
        let (position, ordinal, reason) = (Position(5), Ordinal(3), "too large".to_owned());
        let expected = Settled {
            accepted: vec![(Position(4), Ordinal(3)), (Position(6), Ordinal(3))],
            refused: vec![RefusedAgain { position, ordinal, reason }],
        };
        assert_eq!(settled, expected);
    }

    #[test]
    fn a_record_that_cannot_be_read_back_is_not_offered_as_another() {
        let text = String::from_utf8(destinations::json::record(&record(4))).expect("JSON");
        assert_eq!(read_back(Position(4), Ordinal(3), &text), Ok(record(4)));
        let broken = read_back(Position(4), Ordinal(3), "{").expect_err("it is no JSON");
        assert!(broken.contains("cannot be read back"), "{broken}");
        let other = read_back(Position(5), Ordinal(3), &text).expect_err("it is another's");
        assert!(other.contains("the key of another"), "{other}");
    }
}
