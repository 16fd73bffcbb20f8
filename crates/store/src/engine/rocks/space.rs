//! Giving disk space back: what happens to keys that nobody needs any more.
//!
//! - Whole files go; nothing is rewritten. What shares a file with a needed key stays until that key goes too.
//! - Files can only be deleted below level 0, and the write-ahead log only when the memtables of all families that
//!   it covers are flushed: so flush, move down, delete.
//! - A key at or above the limit is never touched.

use rocksdb::{CompactOptions, FlushOptions, LiveFile};

use super::{EngineError, Shared, engine_error};
use crate::engine::Family;

impl Shared {
    /// Deletes the files of a family that hold only keys below `key`.
    pub(super) fn give_back(&self, family: Family, key: &[u8]) -> Result<(), EngineError> {
        if self.memtable_reaches_below(family, key)? {
            let mut options = FlushOptions::default();
            options.set_wait(true);
            let families = Family::ALL.map(|family| self.family(family));
            self.db.flush_cfs_opt(&families, &options).map_err(|error| engine_error("flush", error))?;
        }
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

    /// Whether a key below `key` lies beyond all files. Keys come in ascending order, so what lies between the files
    /// was rewritten, and follows with a later flush.
    fn memtable_reaches_below(&self, family: Family, key: &[u8]) -> Result<bool, EngineError> {
        let files = self.live_files(family)?;
        let from = files.iter().filter_map(|file| file.end_key.as_deref()).max().unwrap_or_default();
        if from >= key {
            return Ok(false);
        }
        let mut options = Self::read_options(family);
        options.set_iterate_upper_bound(key);
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(family), options);
        iterator.seek([from, &[0]].concat());
        let found = iterator.valid();
        iterator.status().map_err(|error| engine_error("drop_below", error))?;
        Ok(found)
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
