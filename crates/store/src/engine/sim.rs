//! The engine on a disk in memory, for simulation and model tests.
//!
//! [`SimDisk`] is the platter and outlives crashes; [`SimEngine`] is one opening of it. Nothing here touches the
//! operating system, and everything that chance decides comes from one seed.
//!
//! - A commit reaches the write-ahead log when it begins, is visible when it returns, and durable when a synced
//!   commit at or after it has returned.
//! - [`SimDisk::crash`] is a power cut: all that was synced stays, of the rest a random part in order, from its
//!   oldest on. Whole files are old or new, a slot being written may be torn.
//! - Dropping the engine without a crash is a killed process: what reached the log is there at the next opening.
//! - The first failed write is final until the disk is opened again.

mod platter;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;

use self::platter::{Flight, Platter};
use super::{Durability, Engine, EngineError, Family, SLOT_BYTES, Write};

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A commit, before anything of it is written.
    Commit,
    /// The sync of a commit: it may survive or not.
    Sync,
    /// A whole file being written: a leftover stays, the old file too.
    WriteFile,
    /// A slot being written: it is torn.
    WriteSlot,
    /// A file being removed: it stays.
    RemoveFile,
    /// Giving back space: nothing is given back.
    DropBelow,
}

/// What a power cut took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Commits that were not durable, and are gone.
    pub lost: usize,
    /// Commits that were not durable, and survived.
    pub survived: usize,
}

/// A disk in memory. Survives the engines that are opened on it.
#[derive(Debug)]
pub struct SimDisk {
    platter: Mutex<Platter>,
}

/// One opening of a [`SimDisk`].
#[derive(Debug)]
pub struct SimEngine {
    disk: Arc<SimDisk>,
    opening: u64,
    failed: OnceLock<EngineError>,
}

impl SimDisk {
    /// An empty disk. All that chance decides, but the outcome of a crash, comes from the seed.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { platter: Mutex::new(Platter::new(seed)) })
    }

    /// Cuts the power. The engine that was open fails from now on; the disk can be opened again.
    pub fn crash(&self, random: &mut impl Rng) -> Crash {
        self.platter().crash(random)
    }

    /// How long synced commits and writes of files take, drawn evenly between the two; zero by default, and then no
    /// operation ever waits.
    pub fn set_latency(&self, least: Duration, most: Duration) {
        assert!(least <= most, "a latency of {least:?} to {most:?}");
        self.platter().latency = (least, most);
    }

    /// How long writes of whole files take from now on, whatever the others take.
    pub fn set_file_latency(&self, latency: Duration) {
        self.platter().file_latency = Some(latency);
    }

    /// Makes the `nth` operation of a kind from now on fail, the next one being 1.
    pub fn fail(&self, operation: Operation, nth: u64) {
        assert!(nth > 0, "operations are counted from 1");
        self.platter().faults.push((operation, nth));
    }

    /// Bytes that fit; `None` for no limit. What does not fit fails.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.platter().capacity = bytes;
    }

    /// Forgets up to `commits` of the last commits, durable ones included, as a disk does that lied about flushing.
    /// Returns how many were forgotten; a few hundred are remembered. Only while no engine is open.
    pub fn forget_last(&self, commits: usize) -> usize {
        self.platter().forget_last(commits)
    }

    /// Flips one bit of a stored value, so that reading gives something else. `false` if there is nothing to flip.
    pub fn flip_bit(&self, family: Family, key: &[u8]) -> bool {
        self.platter().flip_bit(family, key)
    }

    /// Makes reading a key fail with [`EngineError::Damaged`], as a bad checksum does, until it is written again.
    pub fn damage(&self, family: Family, key: &[u8]) {
        self.platter().damaged.insert((family, key.to_vec()));
    }

    /// Flips one bit of a whole file. `false` if there is nothing to flip.
    pub fn flip_bit_in_file(&self, name: &str) -> bool {
        self.platter().flip_bit_in_file(name)
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().expect("nothing panics half-way through a change of the platter")
    }
}

impl SimEngine {
    /// Opens a disk; fails while another engine has it open.
    pub fn open(disk: &Arc<SimDisk>) -> Result<Self, EngineError> {
        let opening = disk.platter().open()?;
        Ok(Self { disk: Arc::clone(disk), opening, failed: OnceLock::new() })
    }

    /// The platter, if this engine still works on it.
    fn platter(&self, operation: &'static str) -> Result<MutexGuard<'_, Platter>, EngineError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let platter = self.disk.platter();
        if platter.is_open(self.opening) { Ok(platter) } else { Err(failed(operation, "the power is off")) }
    }

    /// One step of a write; its failure is final.
    fn step<T>(
        &self,
        operation: &'static str,
        step: impl FnOnce(&mut Platter) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let done = self.platter(operation).and_then(|mut platter| step(&mut platter));
        done.map_err(|error| self.failed.get_or_init(|| error).clone())
    }

    /// Writes something that is not a commit: between its beginning and its end, a crash decides what is there.
    async fn fly(&self, operation: &'static str, flight: Flight) -> Result<(), EngineError> {
        let (id, pause) = self.step(operation, |platter| platter.take_off(flight))?;
        sleep(pause).await;
        self.step(operation, |platter| {
            platter.land(id);
            Ok(())
        })
    }
}

impl Drop for SimEngine {
    fn drop(&mut self) {
        self.disk.platter().close(self.opening);
    }
}

impl Engine for SimEngine {
    const COMMIT_BLOCKS: bool = false;

    async fn commit(&self, writes: Vec<Write>, durability: Durability) -> Result<(), EngineError> {
        let number = self.step("commit", |platter| platter.log(writes))?;
        if durability == Durability::Sync {
            let pause = self.step("commit", |platter| Ok(platter.pause()))?;
            sleep(pause).await;
            self.step("commit", |platter| platter.sync(number))?;
        }
        self.step("commit", |platter| {
            platter.show(number);
            Ok(())
        })
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let platter = self.platter("get")?;
        platter.check_readable(family, key)?;
        Ok(platter.family(family).get(key).cloned())
    }

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        limit_bytes: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, EngineError> {
        let platter = self.platter("range")?;
        let mut found = Vec::new();
        let mut bytes = 0;
        let after = platter
            .family(family)
            .range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded));
        for (key, value) in after.take_while(|(key, _)| to.is_none_or(|to| key.as_slice() < to)) {
            platter.check_readable(family, key)?;
            bytes += value.len();
            found.push((key.clone(), value.clone()));
            if bytes >= limit_bytes {
                break;
            }
        }
        Ok(found)
    }

    fn last(&self, family: Family) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        let platter = self.platter("last")?;
        let Some((key, value)) = platter.family(family).last_key_value() else { return Ok(None) };
        platter.check_readable(family, key)?;
        Ok(Some((key.clone(), value.clone())))
    }

    async fn drop_below(&self, family: Family, key: &[u8]) -> Result<u64, EngineError> {
        self.step("drop_below", |platter| platter.drop_below(family, key))
    }

    fn disk_usage(&self) -> Result<u64, EngineError> {
        Ok(self.platter("disk_usage")?.usage())
    }

    fn write_file(&self, name: &str, bytes: Bytes) -> impl Future<Output = Result<(), EngineError>> + Send {
        self.fly("write_file", Flight::File { name: name.to_owned(), bytes })
    }

    fn read_file(&self, name: &str) -> Result<Option<Bytes>, EngineError> {
        Ok(self.platter("read_file")?.files.get(name).cloned())
    }

    fn list_files(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.platter("list_files")?.files.keys().cloned().collect())
    }

    fn remove_file(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send {
        self.fly("remove_file", Flight::Removal { name: name.to_owned() })
    }

    fn write_slot(
        &self,
        name: &str,
        slot: usize,
        bytes: [u8; SLOT_BYTES],
    ) -> impl Future<Output = Result<(), EngineError>> + Send {
        assert!(slot < 2, "a slot file has two slots, not a slot {slot}");
        self.fly("write_slot", Flight::Slot { name: name.to_owned(), slot, bytes: Box::new(bytes) })
    }

    fn read_slots(&self, name: &str) -> Result<Option<[[u8; SLOT_BYTES]; 2]>, EngineError> {
        Ok(self.platter("read_slots")?.slots.get(name).copied())
    }
}

async fn sleep(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

fn failed(operation: &'static str, reason: &str) -> EngineError {
    EngineError::Failed { operation, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
