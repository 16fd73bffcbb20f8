//! openraft's own storage suite, on both engines.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft_rt_tokio::TokioRuntime;
use runtime::{Spawner, Supervisor};
use store::engine::Engine;
use store::engine::rocks::{RocksEngine, RocksOptions};
use store::engine::sim::{SimDisk, SimEngine};
use store::{Store, StoreOptions};

use crate::storage::{LogStore, StateMachine};
use crate::type_config::TypeConfig;

type Config = TypeConfig<TokioRuntime>;

/// What must live as long as a store under test.
struct Alive {
    _supervisor: Supervisor,
    _spawner: Spawner,
    _folder: Option<tempfile::TempDir>,
}

async fn open<E: Engine>(
    engine: E,
    folder: Option<tempfile::TempDir>,
) -> (Alive, LogStore<E>, StateMachine<E>) {
    let (supervisor, spawner) = Supervisor::new();
    let options = StoreOptions { tail_bytes: 1 << 20, birth: 7.into() };
    let store = Store::open(Arc::new(engine), options, &spawner).await.expect("a new store opens");
    let parts = (LogStore::new(&store), StateMachine::new(store.keeper().clone()));
    (Alive { _supervisor: supervisor, _spawner: spawner, _folder: folder }, parts.0, parts.1)
}

struct OnRocks;

impl StoreBuilder<Config, LogStore<RocksEngine>, StateMachine<RocksEngine>, Alive> for OnRocks {
    async fn build(
        &self,
    ) -> Result<(Alive, LogStore<RocksEngine>, StateMachine<RocksEngine>), StorageError<Config>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine =
            RocksEngine::open(folder.path(), &RocksOptions::default()).expect("an empty folder opens");
        Ok(open(engine, Some(folder)).await)
    }
}

struct OnSimulatedDisk;

impl StoreBuilder<Config, LogStore<SimEngine>, StateMachine<SimEngine>, Alive> for OnSimulatedDisk {
    async fn build(
        &self,
    ) -> Result<(Alive, LogStore<SimEngine>, StateMachine<SimEngine>), StorageError<Config>> {
        let engine = SimEngine::open(&SimDisk::new(7)).expect("a fresh disk opens");
        Ok(open(engine, None).await)
    }
}

#[tokio::test]
async fn openrafts_storage_suite_passes_on_rocksdb() {
    Suite::test_all(OnRocks).await.expect("the suite passes");
}

#[tokio::test]
async fn openrafts_storage_suite_passes_on_the_simulated_disk() {
    Suite::test_all(OnSimulatedDisk).await.expect("the suite passes");
}
