//! Acquisition: while this node leads, every poll group is read on its grid.
//!
//! - One task a group; which groups and grids there are is the ledger's say, compared again whenever the
//!   configuration or the grids change.
//! - Every slot becomes a batch, or part of a gap: a batch carries the cause of the slots that were skipped before it,
//!   and a silent device's slots are proposed as missed, in pieces.
//! - Nothing is retried: what was not committed is a gap, said by the next batch that is.
//! - The end has an order: scans, sockets, then what was read is committed. Whoever waits for it may give leadership up.
//! - A run of missed slots that goes on when leadership is handed over is committed first, with its own cause.
//! - Within a reign slots run on the monotonic clock, which is drawn towards the wall clock. When that was set, or does not
//!   agree with the grids of the leader before, the grids are opened anew before anything more is read.

mod batcher;
mod group;
mod losses;
mod silence;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drivers::modbus::{Endpoints, ModbusDevice, NotPolled, Setup, WarmConnections};
use futures::future::join_all;
use model::command::Command;
use model::ids::{GridId, GroupId, Revision};
use model::plant::Device;
use model::slots::{Resumption, opens_now, resume, tolerance};
use model::{Clock, Permit};
use replication::{Leadership, Replica};
use runtime::random::generator;
use runtime::{Failure, Spawner};
use store::engine::Engine;
use store::ledger::{Grid, State};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::field::{FieldDoor, Question};
use crate::live::Live;
pub(crate) use batcher::Batcher;
use group::GroupTask;
use timeline::{Looks, Timeline};

/// How long scans in progress are waited for when acquisition stops in order, and as long again what they read.
const FINISH: Duration = Duration::from_secs(2);
/// How long acquisition takes to stop in order, at most.
pub(crate) const ENDS_WITHIN: Duration = FINISH.saturating_mul(2);
/// How long proposals of a starting reign are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the schedules are compared with the wall clock.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// Pause before grids that could not be opened anew are tried again.
const RECLOCK_AGAIN: Duration = Duration::from_millis(100);

/// What acquisition needs of its node.
pub(crate) struct AcquisitionParts<E: Engine> {
    pub(crate) replica: Replica<E>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Live,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) field: FieldDoor,
    /// Bytes of readings that may wait to be proposed.
    pub(crate) readings: usize,
    pub(crate) spawner: Spawner,
}

/// A group being read.
struct Running {
    grid: GridId,
    device: Device,
    stop: CancellationToken,
    /// Stopped alone, what it has still to say.
    last_words: oneshot::Receiver<Option<Command>>,
}

/// Reads every group, over the connections that are open already where there are any, until `stop` (in order: running scans end first) or until leadership has ended.
pub(crate) async fn run<E: Engine>(
    parts: Arc<AcquisitionParts<E>>,
    leadership: Leadership,
    warm: WarmConnections,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let spawner = parts.spawner.child();
    let endpoints = Endpoints::new(Setup {
        permit: Arc::new(leadership.clone()) as Arc<dyn Permit>,
        clock: Arc::clone(&parts.clock),
        spawner: spawner.clone(),
        bind: parts.bind,
        random: generator(None),
        warm,
    });
    let batcher = Batcher::start(parts.replica.clone(), leadership.clone(), parts.readings, &spawner);
    let mut timeline = Timeline::starting(Instant::now(), parts.clock.now());
    if clocks_disagree(&parts) {
        warn!("the wall clock of this node disagrees with the schedule: opening all grids anew");
        timeline = open_grids_anew(&parts, &leadership, &stop).await;
    }
    let mut seen_grids: BTreeSet<GridId> =
        parts.replica.store().keeper().read(|state| state.grids.values().map(|grid| grid.id).collect());
    let mut devices: BTreeMap<String, (Device, Arc<ModbusDevice>)> = BTreeMap::new();
    let mut running: BTreeMap<GroupId, Running> = BTreeMap::new();
    let groups = tokio_util::task::TaskTracker::new();
    let last_words = LastWords::default();
    let mut applied = parts.replica.store().keeper().applied();
    let mut questions = parts.field.open();
    loop {
        // One look: what changes after it is noticed below.
        let look = |state: &State| (fingerprint(state), state.grids.clone(), state.catalog().cloned());
        let (seen, grids, catalog) = parts.replica.store().keeper().read(look);
        let now = timeline.at(Instant::now());
        let fresh = grids.values().filter(|grid| !seen_grids.contains(&grid.id));
        let amiss = fresh.clone().any(|grid| grid.next == 0 && !opens_now(&grid.line, now));
        seen_grids = grids.values().map(|grid| grid.id).collect();
        if amiss {
            warn!("grids were opened on a clock that disagrees with this reign's: opening all grids anew");
            timeline = open_grids_anew(&parts, &leadership, &stop).await;
            continue;
        }
        if let Some(catalog) = catalog {
            devices.retain(|_, (device, _)| catalog.plant().devices.contains(device));
            // A changed address keeps the grid, but not the driver.
            let same_grid =
                |group: &GroupId, task: &Running| grids.get(group).is_some_and(|grid| grid.id == task.grid);
            let ended = running.extract_if(.., |group, task| {
                !same_grid(group, task) || !catalog.plant().devices.contains(&task.device)
            });
            let mut predecessors = BTreeMap::new();
            for (group, task) in ended {
                task.stop.cancel();
                // Where the grid was closed, the ledger has said why.
                if same_grid(&group, &task) {
                    predecessors.insert(group, task.last_words);
                }
            }
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
                let (say, said) = oneshot::channel();
                let task_of =
                    Running { grid: grid.id, device: device.clone(), stop: token.clone(), last_words: said };
                running.insert(entry.id, task_of);
                let predecessor = predecessors.remove(&entry.id);
                let mut task =
                    GroupTask::new(&parts, &leadership, (&batcher, &timeline), entry, device, *grid, driver);
                let (guarded, words, stop) = (leadership.clone(), last_words.clone(), stop.clone());
                spawner.spawn(
                    format!("group {}/{}", entry.device, entry.name),
                    groups.track_future(async move {
                        let reading = async {
                            if let Some(predecessor) = predecessor {
                                task.follow(predecessor).await;
                            }
                            task.run(token).await
                        };
                        tokio::select! {
                            said = reading => if stop.is_cancelled() {
                                words.keep(said);
                            } else {
                                // Nobody wants to know where the grid was closed.
                                drop(say.send(said));
                            },
                            () = guarded.over() => {}
                        }
                        Ok::<(), Failure>(())
                    }),
                );
            }
        }
        tokio::select! {
            changed = configuration_changed(&parts.replica, &mut applied, &seen) => if !changed { break },
            ahead = clock_was_set(&parts, &timeline) => {
                warn!(ahead_nanos = ahead, "the wall clock was set: opening all grids anew");
                timeline = open_grids_anew(&parts, &leadership, &stop).await;
            }
            question = questions.next() => {
                let known = devices.get(&question.device.id).filter(|(known, _)| *known == question.device);
                let driver = match known {
                    Some((_, driver)) => Ok(Arc::clone(driver)),
                    None => endpoints.device(&question.device).map(Arc::new),
                };
                put(question, driver, &parts.clock, &leadership, &spawner);
            }
            () = leadership.over() => break,
            () = stop.cancelled() => break,
        }
    }
    drop(questions);
    groups.close();
    if timeout(FINISH, groups.wait()).await.is_err() {
        warn!("scans were still running when acquisition ended");
    }
    // Before anything is waited for that others decide: from here on this node says nothing to a device.
    endpoints.close().await;
    let committed = async {
        batcher.drain().await;
        // Behind the batches: a gap must not overtake what was read before it.
        last_words.say(&parts.replica, &leadership).await;
    };
    tokio::select! {
        ended = timeout(FINISH, committed) => if ended.is_err() {
            debug!("proposals were still undecided when acquisition ended");
        },
        () = leadership.over() => {}
    }
    spawner.token().cancel();
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

/// What groups that ended in order had still to say of slots that were not read. Cheap to clone.
#[derive(Clone, Default)]
struct LastWords(Arc<Mutex<Vec<Command>>>);

impl LastWords {
    fn keep(&self, command: Option<Command>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(command);
    }

    /// Proposes all of it, in the reign of those who said it or not at all.
    async fn say<E: Engine>(&self, replica: &Replica<E>, leadership: &Leadership) {
        let words = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let said = words.iter().map(|missed| replica.propose_in(leadership, missed, FINISH));
        for error in join_all(said).await.into_iter().filter_map(Result::err) {
            debug!(%error, "the end of a gap was not committed; the next leader says it");
        }
    }
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

/// Whether this node's wall clock disagrees with what it knows of the grids that it takes over.
fn clocks_disagree<E: Engine>(parts: &AcquisitionParts<E>) -> bool {
    let now = parts.clock.now();
    parts.replica.store().keeper().open_grids().iter().any(|(_, grid, elapsed)| {
        matches!(resume(&grid.line, grid.next, now, *elapsed), Resumption::Reclock { .. })
    })
}

/// Resolves when the wall clock is further from the timeline than some open grid bears, and stays there: a clock that
/// jumps to and fro is not followed. Says how far it is ahead.
async fn clock_was_set<E: Engine>(parts: &AcquisitionParts<E>, timeline: &Timeline) -> i64 {
    let mut looks = Looks::default();
    loop {
        sleep(FOLLOW_EVERY).await;
        let ahead = timeline.follow(Instant::now(), parts.clock.now());
        let bears = |grid: &Grid| ahead.unsigned_abs() <= tolerance(grid.line.period);
        let borne = parts.replica.store().keeper().read(|state| state.grids.values().all(bears));
        if looks.believe(ahead, borne) {
            return ahead;
        }
    }
}

/// Closes every grid with a gap of monotonic length and opens it on this node's clock as it is now; tries until that is
/// done or nothing may be read any more. The timeline is the one that the new grids lie on.
async fn open_grids_anew<E: Engine>(
    parts: &AcquisitionParts<E>,
    leadership: &Leadership,
    stop: &CancellationToken,
) -> Timeline {
    loop {
        let timeline = Timeline::starting(Instant::now(), parts.clock.now());
        // Before the time since: what is applied in between is then counted as said, and not as missed.
        let next = parts.replica.store().keeper().read(|state| {
            state.grids.values().map(|grid| (grid.id, grid.next)).collect::<Vec<(GridId, u64)>>()
        });
        let reclock = Command::Reclock { elapsed: parts.replica.store().keeper().elapsed_at_least(), next };
        tokio::select! {
            proposed = parts.replica.propose_in(leadership, &reclock, PATIENCE) => match proposed {
                Ok(_) => return timeline,
                Err(error) => debug!(%error, "grids were not yet opened anew"),
            },
            () = leadership.over() => return timeline,
            () = stop.cancelled() => return timeline,
        }
        sleep(RECLOCK_AGAIN).await;
    }
}
