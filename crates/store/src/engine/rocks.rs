//! The engine on a real disk: RocksDB for the families, plain files beside it.
//!
//! Owns one data directory: `rocksdb/` (three column families, one write-ahead log), `files/`, `slots/`, `lock`,
//! `format` and `created`. It knows nothing of what the keys mean.
//!
//! - Only one opening of a directory lives at a time; a lock file says so by name.
//! - A commit blocks whoever polls it: the commit loop has a thread of its own. File writes and giving back space have one
//!   each: neither a compaction nor a slow commit delays the small files that a vote waits for.
//! - The first failed write is final. RocksDB may not resume by itself, and every later call fails with the first
//!   error.
//! - A directory that was once opened is never created anew: if its database is gone, opening fails.
//! - `format` says whose directory it is and how it is laid out, and is read before anything else is touched: a
//!   foreign or newer one is left as it is.
//! - Dropping the engine waits until what was handed to its threads is done, and then frees the directory.

mod claim;
mod files;
mod marker;
mod options;
mod space;
mod worker;

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, ErrorKind, ReadOptions, WriteBatch, WriteOptions};

pub use claim::Claim;
pub use files::size_of_directory;
pub use options::RocksOptions;

use self::files::{Files, sync_directory};
use self::worker::Worker;
use super::{Durability, Engine, EngineError, Family, SLOT_BYTES, Write};

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another engine in this one, has it open.
    #[error("HF-1301: another holdfast node is running on this data directory: {path}", path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It is somebody else's.
    #[error(
        "HF-1302: {path} is not a data directory of holdfast ({reason}); name an empty one", path = path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// How that was noticed.
        reason: String,
    },
    /// It was written by a newer version.
    #[error(
        "HF-1303: the data directory {path} has layout {found}, this version knows up to {known}: upgrade this node",
        path = path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What this version knows.
        known: u32,
    },
    /// It was in use before, and what was kept in it is damaged or gone.
    #[error(
        "HF-4105: the data directory {path} is damaged: {reason}; replace this node: the others have all of it",
        path = path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What RocksDB said.
        reason: String,
    },
    /// It could not be read or written.
    #[error(
        "HF-1304: the data directory {path} cannot be used: {reason}; it must exist or can be made, and be writable for this \
         user",
        path = path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// One opening of a data directory.
#[derive(Debug)]
pub struct RocksEngine {
    shared: Arc<Shared>,
    files: Worker,
    space: Worker,
}

/// What the threads share. Fields are dropped in order: the lock goes last.
#[derive(Debug)]
struct Shared {
    db: DB,
    files: Files,
    failed: OnceLock<EngineError>,
    claim: Claim,
}

impl RocksEngine {
    /// Opens a data directory, and creates it if it is not there. Blocks while the write-ahead log is replayed.
    pub fn open(path: impl AsRef<Path>, options: &RocksOptions) -> Result<Self, OpenError> {
        Self::open_claimed(Claim::take(path)?, options)
    }

    /// Opens a data directory that was taken before. Blocks as well.
    pub fn open_claimed(claim: Claim, options: &RocksOptions) -> Result<Self, OpenError> {
        let path = claim.path().to_owned();
        let unusable =
            |error: std::io::Error| OpenError::Unusable { path: path.clone(), reason: error.to_string() };
        let files = Files::create(&path).map_err(unusable)?;
        files.remove_leftovers().map_err(unusable)?;

        let database = path.join("rocksdb");
        let marker = path.join("created");
        let existing = marker.try_exists().map_err(unusable)?;
        let db = options::open(&database, options, existing).map_err(|error| {
            // What was written once and is not there is no matter of permissions.
            let is_unusable = error.kind() == ErrorKind::IOError && !(existing && is_missing(&error));
            let (path, reason) = (path.clone(), error.into_string());
            match is_unusable {
                true => OpenError::Unusable { path, reason },
                false => OpenError::Damaged { path, reason },
            }
        })?;
        // RocksDB syncs the name of a new write-ahead log with the first synced write; its check for missing ones
        // would take a power cut before that for damage.
        sync_directory(&database).map_err(unusable)?;
        if !existing {
            File::create(&marker).and_then(|file| file.sync_all()).map_err(unusable)?;
            sync_directory(&path).map_err(unusable)?;
        }

        let shared = Shared { db, files, failed: OnceLock::new(), claim };
        Ok(Self {
            shared: Arc::new(shared),
            files: Worker::start("store-files").map_err(unusable)?,
            space: Worker::start("store-space").map_err(unusable)?,
        })
    }

    /// Runs a job that changes the disk on a thread of its own; its failure is final.
    async fn change<J>(&self, worker: &Worker, operation: &'static str, job: J) -> Result<(), EngineError>
    where
        J: FnOnce(&Shared) -> Result<(), EngineError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let done = worker.run(operation, move || shared.change(operation, job)).await;
        done.map_err(|error| self.shared.fail(error))
    }
}

impl Drop for RocksEngine {
    fn drop(&mut self) {
        self.files.finish();
        // A compaction may take seconds, and nobody needs it any more.
        self.shared.db.cancel_all_background_work(false);
        self.space.finish();
    }
}

impl Shared {
    fn check(&self) -> Result<(), EngineError> {
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Does what changes the disk. A failure is kept here, because the caller may have gone away.
    fn change<J>(&self, operation: &'static str, job: J) -> Result<(), EngineError>
    where
        J: FnOnce(&Self) -> Result<(), EngineError>,
    {
        self.check()?;
        let done = job(self).and_then(|()| self.check_background(operation));
        done.map_err(|error| self.fail(error))
    }

    /// Keeps the first error, and returns it.
    fn fail(&self, error: EngineError) -> EngineError {
        if runtime::mutant("failed-sync-is-not-final") {
            return error;
        }
        self.failed.get_or_init(|| error).clone()
    }

    /// RocksDB flushes and compacts by itself: an error there is as final as one of our own.
    fn check_background(&self, operation: &'static str) -> Result<(), EngineError> {
        let errors = self
            .db
            .property_int_value(rocksdb::properties::BACKGROUND_ERRORS)
            .map_err(|error| engine_error(operation, error))?;
        match errors {
            Some(0) => Ok(()),
            _ => Err(EngineError::Failed {
                operation,
                reason: "a flush or compaction in the background failed; see rocksdb/LOG".to_owned(),
            }),
        }
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("the database was opened with all families")
    }

    fn write(&self, writes: Vec<Write>, durability: Durability) -> Result<(), EngineError> {
        let mut batch = WriteBatch::default();
        for write in writes {
            match write {
                Write::Put(family, key, value) => batch.put_cf(self.family(family), key, value),
                Write::Delete(family, key) => batch.delete_cf(self.family(family), key),
                Write::DeleteRange(family, from, to) if from < to => {
                    batch.delete_range_cf(self.family(family), from, to);
                }
                Write::DeleteRange(..) => {}
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Sync && !runtime::mutant("database-is-not-synced"));
        self.db.write_opt(batch, &options).map_err(|error| engine_error("commit", error))
    }

    fn read_options(family: Family) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        // Entries are read in passing, and would push everything else out of a small cache.
        options.fill_cache(family != Family::Entries);
        options
    }
}

impl Engine for RocksEngine {
    const COMMIT_BLOCKS: bool = true;

    async fn commit(&self, writes: Vec<Write>, durability: Durability) -> Result<(), EngineError> {
        self.shared.change("commit", |shared| shared.write(writes, durability))
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.shared.check()?;
        let value = self
            .shared
            .db
            .get_pinned_cf_opt(self.shared.family(family), key, &Shared::read_options(family))
            .map_err(|error| engine_error("get", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        limit_bytes: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, EngineError> {
        self.shared.check()?;
        let mut options = Shared::read_options(family);
        if let Some(to) = to {
            if to <= from {
                return Ok(Vec::new());
            }
            options.set_iterate_upper_bound(to);
        }
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut iterator = self.shared.db.raw_iterator_cf_opt(self.shared.family(family), options);
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            bytes += value.len();
            found.push((key.to_vec(), Bytes::copy_from_slice(value)));
            if bytes >= limit_bytes {
                break;
            }
            iterator.next();
        }
        iterator.status().map_err(|error| engine_error("range", error))?;
        Ok(found)
    }

    fn last(&self, family: Family) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        self.shared.check()?;
        let options = Shared::read_options(family);
        let mut iterator = self.shared.db.raw_iterator_cf_opt(self.shared.family(family), options);
        iterator.seek_to_last();
        let last = iterator.item().map(|(key, value)| (key.to_vec(), Bytes::copy_from_slice(value)));
        iterator.status().map_err(|error| engine_error("last", error))?;
        Ok(last)
    }

    async fn drop_below(&self, family: Family, key: &[u8]) -> Result<u64, EngineError> {
        let key = key.to_vec();
        self.change(&self.space, "drop_below", move |shared| shared.give_back(family, &key)).await?;
        self.shared.bytes_in_files(family)
    }

    fn disk_usage(&self) -> Result<u64, EngineError> {
        self.shared.check()?;
        // What others keep beside it is not the store's: a reserve, what is being received.
        let own = ["rocksdb", "files", "slots"].iter().map(|name| self.shared.claim.path().join(name));
        own.map(|path| size_of_directory(&path))
            .sum::<std::io::Result<u64>>()
            .map_err(|error| file_error("disk_usage", &error))
    }

    fn write_file(&self, name: &str, bytes: Bytes) -> impl Future<Output = Result<(), EngineError>> + Send {
        let name = name.to_owned();
        self.change(&self.files, "write_file", move |shared| {
            shared.files.write(&name, &bytes).map_err(|error| file_error("write_file", &error))
        })
    }

    fn read_file(&self, name: &str) -> Result<Option<Bytes>, EngineError> {
        self.shared.check()?;
        self.shared.files.read(name).map_err(|error| file_error("read_file", &error))
    }

    fn list_files(&self) -> Result<Vec<String>, EngineError> {
        self.shared.check()?;
        self.shared.files.list().map_err(|error| file_error("list_files", &error))
    }

    fn remove_file(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send {
        let name = name.to_owned();
        self.change(&self.files, "remove_file", move |shared| {
            shared.files.remove(&name).map_err(|error| file_error("remove_file", &error))
        })
    }

    fn write_slot(
        &self,
        name: &str,
        slot: usize,
        bytes: [u8; SLOT_BYTES],
    ) -> impl Future<Output = Result<(), EngineError>> + Send {
        let name = name.to_owned();
        self.change(&self.files, "write_slot", move |shared| {
            shared.files.write_slot(&name, slot, &bytes).map_err(|error| file_error("write_slot", &error))
        })
    }

    fn read_slots(&self, name: &str) -> Result<Option<[[u8; SLOT_BYTES]; 2]>, EngineError> {
        self.shared.check()?;
        self.shared.files.read_slots(name).map_err(|error| file_error("read_slots", &error))
    }
}

/// Whether a file was not found. RocksDB has a code for that, of which only the words arrive here.
fn is_missing(error: &rocksdb::Error) -> bool {
    let words: &str = error.as_ref();
    words.contains("No such file or directory")
}

fn engine_error(operation: &'static str, error: rocksdb::Error) -> EngineError {
    match error.kind() {
        ErrorKind::Corruption => EngineError::Damaged(format!("{operation}: {error}")),
        _ => EngineError::Failed { operation, reason: error.into_string() },
    }
}

fn file_error(operation: &'static str, error: &std::io::Error) -> EngineError {
    match error.kind() {
        std::io::ErrorKind::InvalidData => EngineError::Damaged(format!("{operation}: {error}")),
        _ => EngineError::Failed { operation, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
