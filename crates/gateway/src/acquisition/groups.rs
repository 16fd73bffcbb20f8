//! The poll groups that are read now: one task a group, on the grid that the ledger has for it.
//!
//! - A device that was changed gets a new driver. Where its group keeps the grid, the new task takes over what the old one
//!   had still to say.
//! - Stopped alone, a group gives its last words to its successor; where all end in order, they are committed behind the
//!   batches.
//! - The end has an order: scans, sockets, then what was read. From when the sockets are closed nothing is said to a
//!   device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use drivers::modbus::{Endpoints, ModbusDevice, NotPolled, Setup, WarmConnections};
use futures::future::join_all;
use model::Permit;
use model::catalog::Catalog;
use model::command::Command;
use model::ids::{GridId, GroupId};
use model::plant::Device;
use replication::{Leadership, Replica};
use runtime::{Failure, Spawner};
use store::engine::Engine;
use store::ledger::Grid;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::group::GroupTask;
use super::timeline::Timeline;
use super::{AcquisitionParts, Batcher, FINISH};

/// The groups of a reign, their devices and the connections to them.
pub(super) struct Groups<E: Engine> {
    parts: Arc<AcquisitionParts<E>>,
    leadership: Leadership,
    spawner: Spawner,
    /// Ends all groups, in order.
    stop: CancellationToken,
    endpoints: Endpoints,
    batcher: Batcher,
    devices: BTreeMap<String, (Device, Arc<ModbusDevice>)>,
    running: BTreeMap<GroupId, Running>,
    tasks: TaskTracker,
    last_words: LastWords,
}

/// A group being read.
struct Running {
    grid: GridId,
    device: Device,
    stop: CancellationToken,
    /// Stopped alone, what it has still to say.
    last_words: Said,
}

/// What a group that was stopped alone has still to say, when it has ended.
type Said = oneshot::Receiver<Option<Command>>;

impl<E: Engine> Groups<E> {
    /// None yet; `spawner` ends with them.
    pub(super) fn new(
        parts: &Arc<AcquisitionParts<E>>,
        leadership: &Leadership,
        warm: WarmConnections,
        spawner: &Spawner,
        stop: &CancellationToken,
    ) -> Self {
        let endpoints = Endpoints::new(Setup {
            permit: Arc::new(leadership.clone()) as Arc<dyn Permit>,
            clock: Arc::clone(&parts.clock),
            spawner: spawner.clone(),
            dialler: Arc::clone(&parts.dialler),
            // Nobody else draws from it.
            random: parts.random.clone(),
            warm,
        });
        Self {
            parts: Arc::clone(parts),
            leadership: leadership.clone(),
            spawner: spawner.clone(),
            stop: stop.clone(),
            endpoints,
            batcher: Batcher::start(parts.replica.clone(), leadership.clone(), parts.readings, spawner),
            devices: BTreeMap::new(),
            running: BTreeMap::new(),
            tasks: TaskTracker::new(),
            last_words: LastWords::default(),
        }
    }

    /// The driver of a device: the one in use, if it is for the same device, else a new one.
    pub(super) fn driver_of(&self, device: &Device) -> Result<Arc<ModbusDevice>, NotPolled> {
        match self.devices.get(&device.id) {
            Some((known, driver)) if known == device => Ok(Arc::clone(driver)),
            _ => self.endpoints.device(device).map(Arc::new),
        }
    }

    /// Reads what is in the catalog and has a grid, and nothing else.
    pub(super) fn renew(&mut self, catalog: &Catalog, grids: &BTreeMap<GroupId, Grid>, timeline: &Timeline) {
        let mut predecessors = self.stop_changed(catalog, grids);
        for (entry, device, _) in catalog.groups() {
            let Some(grid) = grids.get(&entry.id).filter(|_| !self.running.contains_key(&entry.id)) else {
                continue;
            };
            let driver = match self.driver_of(device) {
                Ok(driver) => driver,
                Err(reason) => {
                    warn!(device = device.id, %reason, "device cannot be read");
                    continue;
                }
            };
            self.devices.insert(device.id.clone(), (device.clone(), Arc::clone(&driver)));
            let stop = self.stop.child_token();
            let (say, said) = oneshot::channel();
            let running =
                Running { grid: grid.id, device: device.clone(), stop: stop.clone(), last_words: said };
            self.running.insert(entry.id, running);
            let sources = (&self.batcher, timeline);
            let task = GroupTask::new(&self.parts, &self.leadership, sources, entry, device, *grid, driver);
            let reading = read(task, predecessors.remove(&entry.id), stop);
            self.start(format!("group {}/{}", entry.device, entry.name), reading, say);
        }
        // With its driver a device that nothing is read of any more loses its connection: it may bear only one, and be
        // wanted by whoever put it out of service.
        let read: BTreeSet<&str> = self.running.values().map(|task| task.device.id.as_str()).collect();
        self.devices.retain(|id, _| read.contains(id.as_str()));
    }

    /// Stops the groups whose grid or device is not what it was. Gives those that go on on the same grid.
    fn stop_changed(
        &mut self,
        catalog: &Catalog,
        grids: &BTreeMap<GroupId, Grid>,
    ) -> BTreeMap<GroupId, Said> {
        // A changed address keeps the grid, but not the driver.
        let same_grid =
            |group: &GroupId, task: &Running| grids.get(group).is_some_and(|grid| grid.id == task.grid);
        let ended = self.running.extract_if(.., |group, task| {
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
        predecessors
    }

    /// Starts a task that reads until it is stopped or fenced.
    fn start(
        &self,
        name: String,
        reading: impl Future<Output = Option<Command>> + Send + 'static,
        say: oneshot::Sender<Option<Command>>,
    ) {
        let (guarded, words, stop) = (self.leadership.clone(), self.last_words.clone(), self.stop.clone());
        let task = async move {
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
        };
        self.spawner.spawn(name, self.tasks.track_future(task));
    }

    /// Ends them all, in order: `stop` was said, or leadership has ended.
    pub(super) async fn end(self) {
        let Self { parts, leadership, spawner, endpoints, batcher, tasks, last_words, .. } = self;
        tasks.close();
        if timeout(FINISH, tasks.wait()).await.is_err() {
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
    }
}

/// Reads one group, once its predecessor on the same grid has ended. Gives what is still to be said of it.
async fn read<E: Engine>(
    mut task: GroupTask<E>,
    predecessor: Option<Said>,
    stop: CancellationToken,
) -> Option<Command> {
    if let Some(predecessor) = predecessor {
        task.follow(predecessor).await;
    }
    task.run(stop).await
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
