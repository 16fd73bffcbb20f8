//! One data directory, open: its log, its ledger, and the checks that come before anything trusts them.
//!
//! - A directory that lost what this node had promised is *amnesic*: it is not opened, and the node must be replaced.
//!   openraft never sees it, because it would heal the hole without a word. [`amnesia`](crate::amnesia) finds out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::Position;
use model::ids::{ClusterId, NodeId, StoreId};
use runtime::Spawner;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::amnesia::check;
use crate::checkpoints::Checkpoints;
use crate::commit::{CommitLoop, Queue, keys};
use crate::engine::{Durability, Engine, EngineError, Family, Write};
use crate::entry::Entry;
use crate::floor::{FloorFile, Promise};
use crate::keeper::Keeper;
use crate::ledger::{Body, Effects, Ledger, LogId};
use crate::log::{Log, load};

/// Holds the longest lease that was granted: nanoseconds in 8 bytes, big-endian, and their CRC-32 in 4.
const LEASE_FILE: &str = "lease";

/// What a data directory says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
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
        // Looked at so early because damage is for whoever opens the directory to tell.
        read_lease(&*engine)?;
        let stored = load(&*engine)?;
        let ledger = load_ledger(&*engine)?;
        let (mut floor_file, promised) = FloorFile::open(&*engine)?;
        let checkpoints = Checkpoints::open(Arc::clone(&engine), ledger.state().applied_position())?;
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
        let committing = commits.run(last_rows_written.clone());
        if E::COMMIT_BLOCKS {
            let no_thread = |error: std::io::Error| EngineError::Failed {
                operation: "a thread for commits",
                reason: error.to_string(),
            };
            spawner.spawn_on_thread("commit", committing).map_err(no_thread)?;
        } else {
            spawner.spawn("commit", committing);
        }
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
        read_lease(&*self.engine)
    }

    /// Notes that leases of this length are granted from now on; durable when it returns. A longer one that was granted
    /// before must have run out.
    pub async fn grant_lease(&self, lease: Duration) -> Result<(), EngineError> {
        let nanos = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
        let crc = crc32fast::hash(&nanos).to_be_bytes();
        self.engine.write_file(LEASE_FILE, Bytes::from([&nanos[..], &crc[..]].concat())).await
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

async fn identify<E: Engine>(engine: &E, birth: StoreId) -> Result<Identity, EngineError> {
    if let Some(value) = engine.get(Family::Raft, keys::IDENTITY)? {
        return serde_json::from_slice(&value)
            .map_err(|error| EngineError::Damaged(format!("identity of the data directory: {error}")));
    }
    let identity = Identity { store: birth, member: None };
    write_identity(engine, &identity).await?;
    Ok(identity)
}

async fn write_identity<E: Engine>(engine: &E, identity: &Identity) -> Result<(), EngineError> {
    let value = serde_json::to_vec(identity).expect("an identity holds nothing that JSON cannot");
    let write = Write::Put(Family::Raft, keys::IDENTITY.to_vec(), Bytes::from(value));
    engine.commit(vec![write], Durability::Sync).await
}

/// A bit more or less in it would be a voter that keeps its vote for centuries, and nothing that anybody sees.
fn read_lease<E: Engine>(engine: &E) -> Result<Option<Duration>, EngineError> {
    let Some(bytes) = engine.read_file(LEASE_FILE)? else { return Ok(None) };
    let damaged = || EngineError::Damaged(format!("file {LEASE_FILE} of {} bytes", bytes.len()));
    let (nanos, crc) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
    if *crc != crc32fast::hash(nanos).to_be_bytes() {
        return Err(damaged());
    }
    Ok(Some(Duration::from_nanos(u64::from_be_bytes(*nanos))))
}

fn load_ledger<E: Engine>(engine: &E) -> Result<Ledger, EngineError> {
    let rows = engine.range(Family::Ledger, &[], None, usize::MAX)?;
    Ledger::from_rows(rows.into_iter().map(|(key, value)| (key, value.to_vec())))
        .map_err(|error| EngineError::Damaged(error.to_string()))
}
