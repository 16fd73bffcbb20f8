//! Acquisition: while this node leads, every poll group is read on its grid.
//!
//! - One task a group; which groups and grids there are is the ledger's say, compared again whenever the
//!   configuration or the grids change.
//! - Every slot becomes a batch, or part of a gap: a batch carries the cause of the slots that were skipped before it,
//!   and a silent device's slots are proposed as missed, in pieces.
//! - Nothing is retried: what was not committed is a gap, said by the next batch that is.
//! - Within a reign slots run on the monotonic clock; the wall clock only placed the first one.

mod batcher;
mod group;
mod silence;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use drivers::modbus::{Endpoints, ModbusDevice, Setup, WarmConnections};
use model::command::Command;
use model::ids::{GridId, GroupId, Revision};
use model::plant::Device;
use model::slots::{Resumption, resume};
use model::{Clock, Permit};
use replication::{Leadership, Replica};
use runtime::random::generator;
use runtime::{Failure, Spawner};
use store::engine::Engine;
use store::ledger::{Grid, State};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::live::Live;
pub(crate) use batcher::Batcher;
use group::GroupTask;

/// How long a scan in progress is waited for when acquisition stops in order.
const FINISH: Duration = Duration::from_secs(2);
/// How long proposals of a starting reign are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What acquisition needs of its node.
pub(crate) struct AcquisitionParts<E: Engine> {
    pub(crate) replica: Replica<E>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Live,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) spawner: Spawner,
}

/// A group being read.
struct Running {
    grid: GridId,
    device: Device,
    stop: CancellationToken,
}

/// Reads every group until `stop` (in order: running scans end first) or until leadership has ended.
pub(crate) async fn run<E: Engine>(
    parts: Arc<AcquisitionParts<E>>,
    leadership: Leadership,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let spawner = parts.spawner.child();
    let endpoints = Endpoints::new(Setup {
        permit: Arc::new(leadership.clone()) as Arc<dyn Permit>,
        clock: Arc::clone(&parts.clock),
        spawner: spawner.clone(),
        bind: parts.bind,
        random: generator(None),
        warm: WarmConnections::default(),
    });
    let batcher = Batcher::start(parts.replica.clone(), leadership.clone(), &spawner);
    reclock_if_clocks_disagree(&parts, &leadership).await;
    let mut devices: BTreeMap<String, (Device, Arc<ModbusDevice>)> = BTreeMap::new();
    let mut running: BTreeMap<GroupId, Running> = BTreeMap::new();
    let groups = tokio_util::task::TaskTracker::new();
    let mut applied = parts.replica.store().keeper().applied();
    loop {
        // One look: what changes after it is noticed below.
        let look = |state: &State| (fingerprint(state), state.grids.clone(), state.catalog().cloned());
        let (seen, grids, catalog) = parts.replica.store().keeper().read(look);
        if let Some(catalog) = catalog {
            devices.retain(|_, (device, _)| catalog.plant().devices.contains(device));
            running.retain(|group, task| {
                // A changed address keeps the grid, but not the driver.
                let same_device = catalog.plant().devices.contains(&task.device);
                let goes_on = same_device && grids.get(group).is_some_and(|grid| grid.id == task.grid);
                if !goes_on {
                    task.stop.cancel();
                }
                goes_on
            });
            for (entry, device, _) in catalog.groups() {
                let Some(grid) = grids.get(&entry.id).filter(|_| !running.contains_key(&entry.id)) else {
                    continue;
                };
                let driver = match devices.get(&device.id) {
                    Some((known, driver)) if known == device => Arc::clone(driver),
                    _ => match endpoints.device(device) {
                        Ok(driver) => {
                            let driver = Arc::new(driver);
                            devices.insert(device.id.clone(), (device.clone(), Arc::clone(&driver)));
                            driver
                        }
                        Err(reason) => {
                            warn!(device = device.id, %reason, "device cannot be read");
                            continue;
                        }
                    },
                };
                let token = stop.child_token();
                running
                    .insert(entry.id, Running { grid: grid.id, device: device.clone(), stop: token.clone() });
                let task = GroupTask::new(&parts, &leadership, &batcher, entry, device, *grid, driver);
                let guarded = leadership.clone();
                spawner.spawn(
                    format!("group {}/{}", entry.device, entry.name),
                    groups.track_future(async move {
                        tokio::select! {
                            () = task.run(token) => {}
                            () = over(&guarded) => {}
                        }
                        Ok::<(), Failure>(())
                    }),
                );
            }
        }
        tokio::select! {
            changed = configuration_changed(&parts.replica, &mut applied, &seen) => if !changed { break },
            () = over(&leadership) => break,
            () = stop.cancelled() => break,
        }
    }
    groups.close();
    if tokio::time::timeout(FINISH, groups.wait()).await.is_err() {
        warn!("scans were still running when acquisition ended");
    }
    batcher.drain().await;
    endpoints.close().await;
    spawner.token().cancel();
    info!(term = %leadership.term(), "acquisition has ended");
    Ok(())
}

/// Resolves when the leadership of this term can never be used again. A lease that has run out may be renewed.
pub(crate) async fn over(leadership: &Leadership) {
    leadership.over().await;
}

/// What acquisition depends on: the revision, and which grids are open.
fn fingerprint(state: &State) -> (Revision, Vec<GridId>) {
    (state.revision(), state.grids.values().map(|grid| grid.id).collect())
}

/// Resolves with `true` when the grids or the configuration are not what was `seen`; with `false` when the node ends.
async fn configuration_changed<E: Engine>(
    replica: &Replica<E>,
    applied: &mut tokio::sync::watch::Receiver<model::Position>,
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
        if applied.changed().await.is_err() {
            return false;
        }
    }
}

/// A new leader whose clocks disagree with the grids opens them anew before it reads.
async fn reclock_if_clocks_disagree<E: Engine>(parts: &AcquisitionParts<E>, leadership: &Leadership) {
    let now = parts.clock.now();
    let elapsed = parts.replica.elapsed();
    let grids: Vec<(GroupId, Grid)> = parts
        .replica
        .store()
        .keeper()
        .read(|state| state.grids.iter().map(|(id, grid)| (*id, *grid)).collect());
    let since = |group: &GroupId| elapsed.iter().find(|(id, _)| id == group).map(|(_, elapsed)| *elapsed);
    let disagrees = grids.iter().any(|(group, grid)| {
        matches!(resume(&grid.line, grid.next, now, since(group)), Resumption::Reclock { .. })
    });
    if !disagrees {
        return;
    }
    warn!("the wall clock of this node disagrees with the schedule: opening all grids anew");
    let reclock = Command::Reclock { elapsed };
    if let Err(error) = parts.replica.propose_in(leadership, &reclock, PATIENCE).await {
        warn!(%error, "grids could not be opened anew");
    }
}
