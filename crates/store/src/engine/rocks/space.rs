//! Giving disk space back: what happens to keys that nobody needs any more.
//!
//! - Whole files go; nothing is rewritten. What shares a file with a needed key stays until that key goes too.
//! - Files can only be deleted below level 0, and the write-ahead log only when the memtables of all families that
//!   it covers are flushed: so flush, move down, delete. The flush comes also where no memtable holds anything that may
//!   go, because the write-ahead log may; each entry is flushed once all the same. A file that RocksDB is moving down by
//!   itself at that moment stays, and goes when space is given back the next time.
//! - A key at or above the limit is never touched.

use rocksdb::{CompactOptions, FlushOptions, LiveFile};

use super::{EngineError, Shared, engine_error};
use crate::engine::Family;

impl Shared {
    /// Deletes the files of a family that hold only keys below `key`.
    pub(super) fn give_back(&self, family: Family, key: &[u8]) -> Result<(), EngineError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = Family::ALL.map(|family| self.family(family));
        self.db.flush_cfs_opt(&families, &options).map_err(|error| engine_error("flush", error))?;
        let files = self.files_below(family, key)?;
        let on_top: Vec<&LiveFile> = files.iter().filter(|file| file.level == 0).collect();
        if let (Some(first), Some(last)) = (
            on_top.iter().filter_map(|file| file.start_key.as_deref()).min(),
            on_top.iter().filter_map(|file| file.end_key.as_deref()).max(),
        ) {
            // Files that overlap nothing are moved, not rewritten.
            let mut options = CompactOptions::default();
            options.set_exclusive_manual_compaction(false);
            self.db.compact_range_cf_opt(self.family(family), Some(first), Some(last), &options);
            self.check_background("compact")?;
        }
        // The end of the range belongs to it, so it must be a key that may go.
        match self.files_below(family, key)?.iter().filter_map(|file| file.end_key.as_deref()).max() {
            Some(last) => self
                .db
                .delete_file_in_range_cf(self.family(family), &[][..], last)
                .map_err(|error| engine_error("delete_files", error)),
            None => Ok(()),
        }
    }

    /// What is left of a family in files.
    pub(super) fn bytes_in_files(&self, family: Family) -> Result<u64, EngineError> {
        Ok(self.live_files(family)?.iter().map(|file| file.size as u64).sum())
    }

    fn files_below(&self, family: Family, key: &[u8]) -> Result<Vec<LiveFile>, EngineError> {
        let mut files = self.live_files(family)?;
        files.retain(|file| file.end_key.as_deref().is_some_and(|end| end < key));
        Ok(files)
    }

    fn live_files(&self, family: Family) -> Result<Vec<LiveFile>, EngineError> {
        let mut files = self.db.live_files().map_err(|error| engine_error("live_files", error))?;
        files.retain(|file| file.column_family_name == family.name());
        Ok(files)
    }
}
