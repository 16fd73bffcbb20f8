//! Acquisition: while this node leads, every poll group is read on its grid.
//!
//! - One task a group; which groups and grids there are is the ledger's say, compared again whenever the
//!   configuration or the grids change.
//! - Every slot becomes a batch, or part of a gap: a batch carries the cause of the slots that were skipped before it,
//!   and a silent device's slots are proposed as missed, in pieces of at most a minute.
//! - Nothing is retried: what was not committed is a gap, said by the next batch that is.
//! - The end has an order: scans, sockets, then what was read is committed. Whoever waits for it may give leadership up.
//! - A run of missed slots that goes on when leadership is handed over is committed first, with its own cause.
//! - Within a reign slots run on the monotonic clock, which is drawn towards the wall clock. When that was set, or does not
//!   agree with the grids of the leader before, the grids are opened anew before anything more is read.

mod batcher;
mod clocks;
mod group;
mod groups;
mod losses;
mod silence;
mod timeline;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drivers::modbus::{Dialler, ModbusDevice, NotPolled, WarmConnections};
use model::Clock;
use model::ids::{GridId, Revision};
use replication::{Leadership, Replica};
use runtime::random::Random;
use runtime::{Failure, Spawner};
use store::engine::Engine;
use store::ledger::State;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::field::{FieldDoor, Question};
use crate::live::Live;
pub(crate) use batcher::Batcher;
use clocks::{clock_was_set, clocks_disagree, open_grids_anew, opened_on_another_clock};
use groups::Groups;
use timeline::Timeline;

/// How long scans in progress are waited for when acquisition stops in order, and as long again what they read.
const FINISH: Duration = Duration::from_secs(2);
/// How long acquisition takes to stop in order, at most.
pub(crate) const ENDS_WITHIN: Duration = FINISH.saturating_mul(2);
/// How long proposals of a starting reign are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What acquisition needs of its node.
pub(crate) struct AcquisitionParts<E: Engine> {
    pub(crate) replica: Replica<E>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Live,
    pub(crate) dialler: Arc<dyn Dialler>,
    pub(crate) field: FieldDoor,
    /// Bytes of readings that may wait to be proposed.
    pub(crate) readings: usize,
    /// For the jitter of pauses.
    pub(crate) random: Random,
    pub(crate) spawner: Spawner,
}

/// Reads every group, over the connections that are open already where there are any, until `stop` (in order: running
/// scans end first) or until leadership has ended.
pub(crate) async fn run<E: Engine>(
    parts: Arc<AcquisitionParts<E>>,
    leadership: Leadership,
    warm: WarmConnections,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let spawner = parts.spawner.child();
    let mut groups = Groups::new(&parts, &leadership, warm, &spawner, &stop);
    let mut timeline = Timeline::starting(Instant::now(), parts.clock.now());
    if clocks_disagree(&parts) {
        warn!("the wall clock of this node disagrees with the schedule: opening all grids anew");
        timeline = open_grids_anew(&parts, &leadership, &stop).await;
    }
    let mut seen_grids: BTreeSet<GridId> =
        parts.replica.store().keeper().read(|state| state.grids.values().map(|grid| grid.id).collect());
    let mut orders = parts.replica.store().keeper().orders();
    let mut questions = parts.field.open();
    loop {
        // One look: what changes after it is noticed below.
        let look = |state: &State| (fingerprint(state), state.grids.clone(), state.catalog().cloned());
        let (seen, grids, catalog) = parts.replica.store().keeper().read(look);
        let amiss = opened_on_another_clock(grids.values(), &seen_grids, timeline.at(Instant::now()));
        seen_grids = grids.values().map(|grid| grid.id).collect();
        if amiss {
            warn!("grids were opened on a clock that disagrees with this reign's: opening all grids anew");
            timeline = open_grids_anew(&parts, &leadership, &stop).await;
            continue;
        }
        if let Some(catalog) = catalog {
            groups.renew(&catalog, &grids, &timeline);
        }
        tokio::select! {
            changed = configuration_changed(&parts.replica, &mut orders, &seen) => if !changed { break },
            ahead = clock_was_set(&parts, &timeline) => {
                warn!(ahead_nanos = ahead, "the wall clock was set: opening all grids anew");
                timeline = open_grids_anew(&parts, &leadership, &stop).await;
            }
            question = questions.next() => {
                let driver = groups.driver_of(&question.device);
                put(question, driver, &parts.clock, &leadership, &spawner);
            }
            () = leadership.over() => break,
            () = stop.cancelled() => break,
        }
    }
    drop(questions);
    groups.end().await;
    info!(term = %leadership.term(), "acquisition has ended");
    Ok(())
}

/// Puts a question from outside to a device, in a task of its own. It ends with the reign.
fn put(
    question: Question,
    driver: Result<Arc<ModbusDevice>, NotPolled>,
    clock: &Arc<dyn Clock>,
    leadership: &Leadership,
    spawner: &Spawner,
) {
    let driver = match driver {
        Ok(driver) => driver,
        Err(reason) => {
            warn!(device = question.device.id, %reason, "device cannot be asked");
            return;
        }
    };
    let (clock, leadership, stop) = (Arc::clone(clock), leadership.clone(), spawner.token().clone());
    spawner.spawn(format!("probe {}", question.device.id), async move {
        tokio::select! {
            () = question.put(driver, clock) => {}
            () = leadership.over() => {}
            () = stop.cancelled() => {}
        }
        Ok::<(), Failure>(())
    });
}

/// What acquisition depends on: the revision, and which grids are open.
fn fingerprint(state: &State) -> (Revision, Vec<GridId>) {
    (state.revision(), state.grids.values().map(|grid| grid.id).collect())
}

/// Resolves with `true` when the grids or the configuration are not what was `seen`; with `false` when the node ends.
async fn configuration_changed<E: Engine>(
    replica: &Replica<E>,
    orders: &mut tokio::sync::watch::Receiver<model::Position>,
    seen: &(Revision, Vec<GridId>),
) -> bool {
    loop {
        let unchanged = replica.store().keeper().read(|state| {
            let grids = state.grids.values().map(|grid| grid.id);
            state.revision() == seen.0 && grids.eq(seen.1.iter().copied())
        });
        if !unchanged {
            return true;
        }
        if orders.changed().await.is_err() {
            return false;
        }
    }
}
