//! What a node's process uses, looked at from outside, and what is too much.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use store::engine::rocks::size_of_directory;

/// What lines say that hold it.
pub(super) const USED: &str = "used";

pub(super) const MIB: u64 = 1 << 20;
/// Half as much again as `[limits] memory` says where it says nothing: where docs/monitoring.md has systems end a node.
pub(super) const MOST_MEMORY: u64 = 768 * MIB;
/// Both runtimes have a thread for each processor, RocksDB and the store have some each, and what blocks has those that
/// it needs at one time.
const MOST_THREADS: u64 = 64;
const THREADS_PER_CORE: u64 = 4;
/// What most systems let a process have if nobody asks for more.
pub(super) const MOST_FILES: u64 = 1024;
/// A write-ahead log of 64 MiB, entries from the checkpoint before the last one on (64 MiB each) and the file behind them,
/// and as much again for what is about to be given back; without the reserve.
pub(super) const MOST_DISK: u64 = 512 * MIB;

/// What a node's process used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Used {
    pub(super) resident_bytes: u64,
    pub(super) threads: u64,
    pub(super) files: u64,
    /// Of its data directory, without the reserve; `None` while its disk does not answer.
    pub(super) disk_bytes: Option<u64>,
}

impl Used {
    pub(super) fn of(id: u32, data: &Path) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{id}"));
        let status = fs::read_to_string(process.join("status"))?;
        let figure = |name: &str| {
            let of = |line: &str| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok();
            status.lines().find_map(of).ok_or_else(|| io::Error::other(format!("no {name} in it")))
        };
        let reserve = fs::metadata(data.join("reserve")).map_or(0, |reserve| reserve.len());
        Ok(Self {
            resident_bytes: figure("VmRSS:")?.saturating_mul(1024),
            threads: figure("Threads:")?,
            files: fs::read_dir(process.join("fd"))?.count() as u64,
            disk_bytes: size_of_directory(data).ok().map(|bytes| bytes.saturating_sub(reserve)),
        })
    }

    /// The most of each.
    pub(super) fn most<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        all.into_iter().fold(Self::default(), |most, used| Self {
            resident_bytes: most.resident_bytes.max(used.resident_bytes),
            threads: most.threads.max(used.threads),
            files: most.files.max(used.files),
            disk_bytes: most.disk_bytes.max(used.disk_bytes),
        })
    }

    /// What is too much.
    pub(super) fn beyond(&self, cores: u64) -> Vec<String> {
        let bounds = [
            ("bytes of memory", self.resident_bytes, MOST_MEMORY),
            ("threads", self.threads, MOST_THREADS + THREADS_PER_CORE * cores),
            ("open files", self.files, MOST_FILES),
            ("bytes of data", self.disk_bytes.unwrap_or_default(), MOST_DISK),
        ];
        let beyond = bounds.into_iter().filter(|(_, used, most)| used > most);
        beyond.map(|(what, used, most)| format!("{used} {what}, and {most} are enough")).collect()
    }
}
