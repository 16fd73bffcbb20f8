//! How RocksDB is set up, and why.
//!
//! - Entries are written in ascending order and deleted from the front. One compression for all levels and no
//!   overlap let a flushed file sink to the bottom without being rewritten; a trigger of one makes it sink at once,
//!   because files of level 0 cannot be deleted.
//! - One write-ahead log for all families: what was committed in order is recovered in order. Its records name their
//!   predecessor, so that a hole between two logs is damage and not a silent loss.
//! - Everything that grows is bounded: memtables, cache, open files, write-ahead log, the log of RocksDB itself.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Error, LogLevel,
    Options, WriteBufferManager,
};

use super::Family;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// How far zstd looks back: as it is set for raw blocks if nothing else is said.
const WINDOW_BITS: i32 = -14;

/// The bounds of one data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RocksOptions {
    /// Bytes of uncompressed blocks kept in memory, for all families together.
    pub block_cache_bytes: usize,
    /// Bytes of entries gathered in memory before they become a file; also the grain in which disk comes back.
    pub entries_memtable_bytes: usize,
    /// Bytes of write-ahead log after which families are flushed so that it can go. All of it is read at the next opening.
    pub wal_bytes: u64,
    /// Files that RocksDB keeps open.
    pub open_files: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 16 * MIB,
            entries_memtable_bytes: 32 * MIB,
            wal_bytes: 64 * MIB as u64,
            open_files: 256,
        }
    }
}

/// Opens the database; creates it only if it is not `existing`.
pub(super) fn open(path: &Path, options: &RocksOptions, existing: bool) -> Result<DB, Error> {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let families = Family::ALL
        .map(|family| ColumnFamilyDescriptor::new(family.name(), of_family(family, options, &cache)));
    DB::open_cf_descriptors(&of_database(options, existing)?, path, families)
}

fn of_database(options: &RocksOptions, existing: bool) -> Result<Options, Error> {
    // These have no function of their own. The first check would refuse a directory whose creation was cut short,
    // in which nothing was committed yet.
    let mut database = Options::default().get_options_from_string(format!(
        "track_and_verify_wals={existing};max_bgerror_resume_count=0;stats_persist_period_sec=0"
    ))?;
    database.create_if_missing(!existing);
    database.create_missing_column_families(!existing);
    database.set_paranoid_checks(true);
    // Recovery ends at the first record that is not whole: a power cut may leave a last record of which only the later
    // pages reached the disk, on several voters at once. What was acknowledged behind it and is lost with it is found
    // out by the floor file and the chain hash (docs/adr/0004).
    database.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    database.set_track_and_verify_wals_in_manifest(true);
    database.set_max_total_wal_size(options.wal_bytes);
    database.set_max_open_files(options.open_files);
    database.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(
        3 * options.entries_memtable_bytes + 16 * MIB,
        false,
    ));
    // Large files reach the disk bit by bit, not all at once in front of a commit's sync.
    database.set_bytes_per_sync(MIB as u64);
    database.set_max_background_jobs(2);
    database.set_log_level(LogLevel::Warn);
    database.set_max_log_file_size(4 * MIB);
    database.set_keep_log_file_num(4);
    database.set_max_manifest_file_size(16 * MIB);
    database.set_stats_dump_period_sec(0);
    Ok(database)
}

fn of_family(family: Family, options: &RocksOptions, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(16 * KIB);
    let mut of_family = Options::default();
    of_family.set_block_based_table_factory(&blocks);
    of_family.set_compression_type(DBCompressionType::Lz4);
    // A backlog of months is no reason to rewrite it.
    of_family.set_ttl(0);
    of_family.set_periodic_compaction_seconds(0);
    match family {
        Family::Entries => {
            of_family.set_write_buffer_size(options.entries_memtable_bytes);
            of_family.set_target_file_size_base(options.entries_memtable_bytes as u64);
            // Payloads are packed each for itself; what neighbours have in common is a fifth of the rest.
            of_family.set_compression_type(DBCompressionType::Zstd);
            // The fastest level: others find little more in what is packed, and take the time from commits.
            of_family.set_compression_options(WINDOW_BITS, 1, 0, 0);
            of_family.set_max_write_buffer_number(4);
            of_family.set_level_zero_file_num_compaction_trigger(1);
        }
        Family::Raft => of_family.set_write_buffer_size(MIB),
        Family::Ledger => of_family.set_write_buffer_size(4 * MIB),
    }
    of_family
}
