//! What became of quarantined records that an operator had offered again, as far as it is known soon.
//!
//! - The leader's forwarder offers them, and the log tells: this only looks at the ledger of the node that was asked.
//! - Counted are the records of one order. One that has left quarantine was accepted, unless the destination has accepted
//!   fewer since (a full quarantine gives up its oldest).

use std::time::Duration;

use model::ids::DestinationId;
use model::{Ordinal, Position};
use store::engine::Engine;
use store::ledger::State;
use tokio::time::{Instant, timeout_at};
use wire::proto::v1 as pb;

use super::AdminService;

/// How long an answer waits for the destination's. Callers wait longer.
const SOON: Duration = Duration::from_secs(3);

/// Records that are to be offered again, and what was known before.
pub(super) struct Order {
    destination: DestinationId,
    pub(super) places: Vec<(Position, Ordinal)>,
    accepted_before: u64,
}

impl Order {
    pub(super) fn new(state: &State, destination: DestinationId, places: Vec<(Position, Ordinal)>) -> Self {
        Self { destination, places, accepted_before: accepted_again(state, destination) }
    }

    /// What has become of it.
    fn standing(&self, state: &State) -> pb::RetryQuarantineResponse {
        let mut standing =
            pb::RetryQuarantineResponse { records: self.places.len() as u64, ..Default::default() };
        let mut gone = 0;
        for (position, ordinal) in &self.places {
            match state.quarantine.get(&(self.destination, *position, *ordinal)) {
                Some(record) if record.retry => standing.waiting += 1,
                Some(_) => standing.refused += 1,
                None => gone += 1,
            }
        }
        standing.accepted =
            accepted_again(state, self.destination).saturating_sub(self.accepted_before).min(gone);
        standing
    }
}

fn accepted_again(state: &State, destination: DestinationId) -> u64 {
    state.destinations.get(&destination).map_or(0, |known| known.accepted_again)
}

impl<E: Engine> AdminService<E> {
    /// Waits a little for the end of what was ordered, and says how it stands then.
    pub(super) async fn see_retried(&self, order: Order) -> pb::RetryQuarantineResponse {
        let keeper = self.replica().store().keeper();
        let (mut applied, until) = (keeper.applied(), Instant::now() + SOON);
        loop {
            applied.mark_unchanged();
            let standing = keeper.read(|state| order.standing(state));
            if standing.waiting == 0 || !matches!(timeout_at(until, applied.changed()).await, Ok(Ok(()))) {
                return standing;
            }
        }
    }
}
