//! One data directory, open: its log, its ledger, and the checks that come before anything trusts them.
//!
//! - A directory that lost what this node had promised is *amnesic*: it is not opened, and the node must be replaced.
//!   openraft never sees it, because it would heal the hole without a word.
//! - `floor <= applied <= last` on disk, the log is contiguous at both ends, and a floor has its checkpoint.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::Position;
use model::ids::{ClusterId, NodeId, StoreId};
use runtime::Spawner;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::checkpoints::Checkpoints;
use crate::commit::{CommitLoop, Queue, keys};
use crate::engine::{Durability, Engine, EngineError, Family, Write};
use crate::entry::{ChainHash, Entry};
use crate::floor::{FloorFile, Promise};
use crate::keeper::Keeper;
use crate::ledger::{Body, Effects, Ledger, LogId};
use crate::log::{Log, Stored, load};

/// Holds the longest lease that was granted, in nanoseconds.
const LEASE_FILE: &str = "lease";

/// Version of everything below the data directory.
const FORMAT: u32 = 1;

/// What a data directory says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the formats in it.
    pub format: u32,
    /// Drawn at its birth.
    pub store: StoreId,
    /// The cluster it belongs to and its number there, once it has any.
    #[serde(default)]
    pub member: Option<(ClusterId, NodeId)>,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of the log's tail that are kept in memory.
    pub tail_bytes: usize,
    /// The id that a new directory gets.
    pub birth: StoreId,
}

/// Why a store cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The directory was written by a newer version.
    #[error("the data directory has format {found}, this version knows {FORMAT}: upgrade this node")]
    Newer {
        /// What it says.
        found: u32,
    },
    /// It lost what this node had promised to remember.
    #[error(
        "this node has lost data that it had acknowledged ({reason}); it must not take part again: replace it"
    )]
    Amnesic {
        /// How that was noticed.
        reason: String,
    },
    /// The disk said no.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// An open data directory. Cheap to clone.
pub struct Store<E> {
    engine: Arc<E>,
    identity: Identity,
    log: Log<E>,
    keeper: Keeper<E>,
    pristine: bool,
}

impl<E> Clone for Store<E> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            identity: self.identity.clone(),
            log: self.log.clone(),
            keeper: self.keeper.clone(),
            pristine: self.pristine,
        }
    }
}

/// One entry of the buffer.
#[derive(Debug, Clone)]
pub struct Buffered {
    /// Its term and position.
    pub id: LogId,
    /// The encoded command, where it is one that can hold samples.
    pub command: Option<Bytes>,
    /// What `apply` did besides accepting every batch.
    pub effects: Effects,
}

impl<E: Engine> Store<E> {
    /// Opens a directory, checks it, and starts its tasks.
    pub async fn open(engine: Arc<E>, options: StoreOptions, spawner: &Spawner) -> Result<Self, OpenError> {
        let identity = identify(&*engine, options.birth).await?;
        let stored = load(&*engine)?;
        let ledger = load_ledger(&*engine)?;
        let (mut floor_file, promised) = FloorFile::open(&*engine)?;
        let checkpoints = Checkpoints::open(Arc::clone(&engine))?;
        check(&*engine, &identity, &stored, &ledger, promised.as_ref(), &checkpoints)?;

        let queue = Queue::default();
        let log = Log::new(Arc::clone(&engine), queue.clone(), stored, options.tail_bytes);
        let promise = Promise {
            store: identity.store,
            vote: stored.vote.unwrap_or_default(),
            last: stored.ends.last.unwrap_or_default(),
            chain: stored.last_chain,
        };
        if promised != Some(promise) {
            // Before anything is kept: from now on a missing floor file is a lost one. And what was found is relied on
            // from now on, whether the process that wrote it came to promise it or not.
            floor_file.write(&*engine, &promise).await?;
        }
        let keeper = Keeper::new(Arc::clone(&engine), log.clone(), ledger, checkpoints);
        let commits = CommitLoop::new(Arc::clone(&engine), queue, log.written(), floor_file, promise);
        // The commit loop outlives the keeper, whose last act is to queue rows and wait for them.
        let last_rows_written = CancellationToken::new();
        spawner.spawn("commit", commits.run(last_rows_written.clone()));
        let (keeping, stop) = (keeper.clone(), spawner.token().clone());
        spawner.spawn("ledger", async move {
            let ended = keeping.run(stop).await;
            last_rows_written.cancel();
            ended
        });
        let pristine = stored.vote.is_none() && stored.ends.last.is_none();
        Ok(Self { engine, identity, log, keeper, pristine })
    }

    /// What the directory says it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Binds the directory to a cluster, for ever. To be called before Raft runs on it, while nothing else is written.
    pub async fn bind(&mut self, cluster: ClusterId, node: NodeId) -> Result<(), EngineError> {
        self.identity.member = Some((cluster, node));
        write_identity(&*self.engine, &self.identity).await
    }

    /// Whether it had never voted nor held an entry when it was opened.
    pub fn is_pristine(&self) -> bool {
        self.pristine
    }

    /// The longest lease that a process on this directory may have granted; absent if none ever ran.
    pub fn granted_lease(&self) -> Result<Option<Duration>, EngineError> {
        let Some(bytes) = self.engine.read_file(LEASE_FILE)? else { return Ok(None) };
        let nanos = bytes.as_ref().try_into().map(u64::from_be_bytes);
        let nanos =
            nanos.map_err(|_| EngineError::Damaged(format!("file {LEASE_FILE} of {} bytes", bytes.len())))?;
        Ok(Some(Duration::from_nanos(nanos)))
    }

    /// Notes that leases of this length are granted from now on; durable when it returns. A longer one that was granted
    /// before must have run out.
    pub async fn grant_lease(&self, lease: Duration) -> Result<(), EngineError> {
        let nanos = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        self.engine.write_file(LEASE_FILE, Bytes::copy_from_slice(&nanos.to_be_bytes())).await
    }

    /// The log.
    pub fn log(&self) -> &Log<E> {
        &self.log
    }

    /// The ledger and its checkpoints.
    pub fn keeper(&self) -> &Keeper<E> {
        &self.keeper
    }

    /// Bytes on disk.
    pub fn disk_usage(&self) -> Result<u64, EngineError> {
        self.engine.disk_usage()
    }

    /// Entries of the buffer from `from` on, up to what is applied, until `limit_bytes`; and the position to go on
    /// from. Entries at or below the horizon are not served, even where their bytes still exist.
    pub fn read_buffer(
        &self,
        from: Position,
        limit_bytes: usize,
    ) -> Result<(Vec<Buffered>, Position), EngineError> {
        let (horizon, applied) = self.keeper.read(|state| (state.horizon, state.applied_position()));
        let from = from.max(horizon.next());
        let entries = self.log.read(from.0, applied.0 + 1, limit_bytes)?;
        let next = entries.last().map_or(from, |entry| entry.id.index.next());
        let buffered = self.keeper.read(|state| {
            let with_effects = |entry: Entry| {
                let effects = state.effects.get(&entry.id.index).cloned().unwrap_or_default();
                let command = match entry.body {
                    Body::Command(bytes) => Some(bytes),
                    Body::Blank | Body::Membership(_) => None,
                };
                Buffered { id: entry.id, command, effects }
            };
            // The horizon may have moved since the entries were read, and their effects are gone with it.
            entries.into_iter().filter(|entry| entry.id.index > state.horizon).map(with_effects).collect()
        });
        Ok((buffered, next))
    }
}

async fn identify<E: Engine>(engine: &E, birth: StoreId) -> Result<Identity, OpenError> {
    if let Some(value) = engine.get(Family::Raft, keys::IDENTITY)? {
        let identity: Identity = serde_json::from_slice(&value)
            .map_err(|error| EngineError::Damaged(format!("identity of the data directory: {error}")))?;
        if identity.format > FORMAT {
            return Err(OpenError::Newer { found: identity.format });
        }
        return Ok(identity);
    }
    let identity = Identity { format: FORMAT, store: birth, member: None };
    write_identity(engine, &identity).await?;
    Ok(identity)
}

async fn write_identity<E: Engine>(engine: &E, identity: &Identity) -> Result<(), EngineError> {
    let value = serde_json::to_vec(identity).expect("an identity holds nothing that JSON cannot");
    let write = Write::Put(Family::Raft, keys::IDENTITY.to_vec(), Bytes::from(value));
    engine.commit(vec![write], Durability::Sync).await
}

fn load_ledger<E: Engine>(engine: &E) -> Result<Ledger, EngineError> {
    let rows = engine.range(Family::Ledger, &[], None, usize::MAX)?;
    Ledger::from_rows(rows.into_iter().map(|(key, value)| (key, value.to_vec())))
        .map_err(|error| EngineError::Damaged(error.to_string()))
}

/// Everything that must hold before Raft may see this directory.
fn check<E: Engine>(
    engine: &E,
    identity: &Identity,
    stored: &Stored,
    ledger: &Ledger,
    promised: Option<&Promise>,
    checkpoints: &Checkpoints<E>,
) -> Result<(), OpenError> {
    let amnesic = |reason: String| Err(OpenError::Amnesic { reason });
    let floor = stored.ends.floor.map_or(0, |id| id.index.0);
    let last = stored.ends.last.map_or(0, |id| id.index.0);
    let applied = ledger.state().applied_position().0;
    if floor > applied {
        return amnesic(format!("the log begins behind {floor}, the ledger ends at {applied}"));
    }
    if applied > last {
        return amnesic(format!("the ledger ends at {applied}, the log at {last}"));
    }
    check_ends(engine, stored)?;
    // openraft would cut a new one at what is applied, above what is delivered.
    let limit = ledger.state().snapshot_limit().max(Position(floor));
    if floor > 0 && checkpoints.newest(limit).is_none_or(|newest| newest.index.0 < floor) {
        return amnesic(format!("the log begins behind {floor}, and no checkpoint covers that"));
    }
    let Some(promise) = promised else {
        return if stored.ends.last.is_some() || stored.vote.is_some() {
            amnesic("the floor file is missing".to_owned())
        } else {
            Ok(())
        };
    };
    if promise.store != identity.store {
        return amnesic(format!(
            "the floor file belongs to store {}, the database to {}",
            promise.store, identity.store
        ));
    }
    check_promise(engine, stored, promise, floor, last)
}

/// The first and the last entry are there and follow what lies before them: bounded, however long the log is. A hole in
/// the middle is found where it is read.
fn check_ends<E: Engine>(engine: &E, stored: &Stored) -> Result<(), OpenError> {
    let amnesic = |reason: String| Err(OpenError::Amnesic { reason });
    let (Some(last), floor) = (stored.ends.last, stored.ends.floor) else { return Ok(()) };
    if floor == Some(last) {
        return Ok(());
    }
    let read = |index: u64| -> Result<Option<(Entry, ChainHash)>, EngineError> {
        let value = engine.get(Family::Entries, &crate::engine::index_key(index))?;
        value.map(|value| Entry::decode(Position(index), &value)).transpose()
    };
    let follows = |index: u64, before: &ChainHash| -> Result<bool, EngineError> {
        Ok(read(index)?.is_some_and(|(entry, chain)| entry.encode(before).1 == chain))
    };
    let first = floor.map_or(stored.first, |floor| floor.index.0 + 1);
    if read(first)?.is_none() {
        return amnesic(format!("the log begins at {first}, but that entry is missing"));
    }
    // Behind a floor that was moved in whole, nothing is known of what lay before.
    let is_known = floor.is_none() || stored.floor_chain != [0; 16];
    if is_known && !follows(first, &stored.floor_chain)? {
        return amnesic(format!("entry {first}, the first of the log, does not follow what lay before it"));
    }
    if last.index.0 > first {
        let before = read(last.index.0 - 1)?;
        let follows_it = match before {
            Some((_, chain)) => follows(last.index.0, &chain)?,
            None => false,
        };
        if !follows_it {
            return amnesic(format!("entry {} does not follow the one before it", last.index));
        }
    }
    Ok(())
}

fn check_promise<E: Engine>(
    engine: &E,
    stored: &Stored,
    promise: &Promise,
    floor: u64,
    last: u64,
) -> Result<(), OpenError> {
    let amnesic = |reason: String| Err(OpenError::Amnesic { reason });
    let vote = stored.vote.unwrap_or_default();
    if vote.falls_short_of(&promise.vote) {
        return amnesic(format!(
            "it answered a vote for node {} in term {}, but remembers one for node {} in term {}",
            promise.vote.node, promise.vote.term, vote.node, vote.term
        ));
    }
    let promised = promise.last.index.0;
    if last < promised {
        return amnesic(format!("it acknowledged entry {promised}, but its log ends at {last}"));
    }
    if promised > floor && promise.chain != [0; 16] {
        let value = engine.get(Family::Entries, &crate::engine::index_key(promised))?;
        let chain = match &value {
            Some(value) => Some(Entry::decode(Position(promised), value)?.1),
            None => None,
        };
        if chain != Some(promise.chain) {
            return amnesic(format!("the log up to entry {promised} is not the one it acknowledged"));
        }
    }
    Ok(())
}
