//! Room on this node's disk: how much samples have, and a reserve file for the time when they have none.
//!
//! - Samples stop while there is room for everything else: below [`ROOM_FOR_SAMPLES`] the leader refuses them, and
//!   acknowledgements and truncation go on.
//! - If something else fills the disk, the reserve file is deleted: the log, flushes and compactions go on, and samples do
//!   not, until the file could be made again. An attempt that fails for want of room is repeated.
//! - Below [`LINE`] this node takes no entries at all. It stays up and votes; its peers find it unreachable for appends.
//!   What fills it is most likely the backlog in its own log, and the `Truncate` that would let it go is an entry like any
//!   other. So it takes a snapshot as long as that leaves [`LAST`]: installing it removes the log below it.
//! - A leader without room hands over to a voter that has some.
//! - What comes back of a delivered backlog must reach the marks from where samples are taken again. On a small disk it
//!   does because a replica below [`ROOM_AGAIN`] lets go of all that was delivered without waiting for its schedule of
//!   checkpoints; only what others keep on the disk can be too much.
//! - What is free is asked of a [`Probe`], so that a test can fill a disk without having one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::NodeId;
use replication::{Replica, choose};
use runtime::Failure;
use rustix::fs::{FallocateFlags, fallocate};
use store::engine::Engine;
use store::engine::rocks::size_of_directory;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::leading::Switchover;

/// Below this, no entries are taken. What is free above it is what peers are told.
const LINE: u64 = 32 << 20;
/// Below this, no snapshot is taken either. What is left is for the vote and the floor.
const LAST: u64 = LINE / 4;
/// Below this (above the line), no samples are taken.
pub(crate) const ROOM_FOR_SAMPLES: u64 = 64 << 20;
/// From here on they are taken again, and leadership goes to a node that has so much.
pub(crate) const ROOM_AGAIN: u64 = replication::ROOM_TO_LEAD;
/// Sizes of the reserve file.
const RESERVE: std::ops::RangeInclusive<u64> = (64 << 20)..=(256 << 20);
/// Its share of the disk.
const RESERVE_SHARE: u64 = 32;
/// How often the disk is looked at. What is written meanwhile is far less than the room that samples leave.
const EVERY: Duration = Duration::from_millis(500);
/// Looks from one attempt to make the reserve to the next.
const AGAIN: u32 = 20;
/// How often a leader looks whether it must hand over, and how long it waits after it tried.
const HAND_OVER_EVERY: Duration = Duration::from_secs(1);
const HAND_OVER_AGAIN: Duration = Duration::from_secs(30);

/// A disk as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Bytes that may still be written to it.
    pub(crate) available: u64,
    /// Its size.
    pub(crate) size: u64,
    /// Bytes that the data directory holds.
    pub(crate) used: u64,
}

/// Asks what is free.
pub(crate) type Probe = Arc<dyn Fn() -> io::Result<Volume> + Send + Sync>;

/// Asks the file system of `path`; the directory is measured only where a limit needs it.
pub(crate) fn probe(path: PathBuf, measure: bool) -> Probe {
    Arc::new(move || {
        let volume = rustix::fs::statvfs(&path)?;
        let used = if measure { size_of_directory(&path)? } else { 0 };
        Ok(Volume {
            available: volume.f_bavail.saturating_mul(volume.f_frsize),
            size: volume.f_blocks.saturating_mul(volume.f_frsize),
            used,
        })
    })
}

/// What to do with the reserve file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reserve {
    Leave,
    Release,
    Make,
}

/// What may still be written to it, where the data directory has a limit.
fn allowed(volume: &Volume, limit: Option<u64>) -> u64 {
    let allowed = limit.map_or(u64::MAX, |limit| limit.saturating_sub(volume.used));
    volume.available.min(allowed)
}

/// What is free above the line, as peers are told, and what to do with a reserve file of `reserve` bytes.
fn judge(volume: &Volume, limit: Option<u64>, reserve: u64, held: bool) -> (u64, Reserve) {
    let free = allowed(volume, limit).saturating_sub(LINE);
    match held {
        true if free < ROOM_FOR_SAMPLES / 2 => (free, Reserve::Release),
        true => (free, Reserve::Leave),
        false if free >= reserve + 2 * ROOM_AGAIN => (free - reserve, Reserve::Make),
        // What the reserve gave is not for samples.
        false => (free.min(ROOM_FOR_SAMPLES - 1), Reserve::Leave),
    }
}

/// The room of one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Space {
    free: Arc<AtomicU64>,
    for_snapshots: Arc<AtomicU64>,
}

/// Looks at the disk and keeps the reserve file.
pub(crate) struct SpaceKeeper {
    probe: Probe,
    limit: Option<u64>,
    file: PathBuf,
    reserve: u64,
    held: bool,
    unreadable: bool,
    /// The file system cannot reserve room; nothing is tried again.
    unable: bool,
    /// So many looks before a reserve that could not be made is tried again; 0 where none has failed.
    again_in: u32,
    space: Space,
}

impl Space {
    /// Looks for the first time, before the database is opened: a full disk gets its reserve back here.
    pub(crate) fn open(data_dir: &Path, probe: Probe, limit: Option<u64>) -> io::Result<(Self, SpaceKeeper)> {
        let volume = probe()?;
        let size = limit.map_or(volume.size, |limit| limit.min(volume.size));
        let reserve = (size / RESERVE_SHARE).clamp(*RESERVE.start(), *RESERVE.end());
        let file = data_dir.join("reserve");
        let held = fs::metadata(&file).is_ok_and(|found| found.len() == reserve);
        if !held && file.exists() {
            fs::remove_file(&file)?;
        }
        let space = Self { free: Arc::default(), for_snapshots: Arc::default() };
        let mut keeper = SpaceKeeper {
            probe,
            limit,
            file,
            reserve,
            held,
            unreadable: false,
            unable: false,
            again_in: 0,
            space: space.clone(),
        };
        keeper.look();
        Ok((space, keeper))
    }

    /// Bytes free for the data directory above the reserve.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Bytes free for a snapshot of the leader.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.for_snapshots.load(Ordering::Relaxed)
    }
}

impl SpaceKeeper {
    /// Looks at the disk until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look(),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    fn look(&mut self) {
        let volume = match (self.probe)() {
            Ok(volume) => volume,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    warn!(%error, "free space cannot be read: no entries are taken until it can");
                }
                self.space.free.store(0, Ordering::Relaxed);
                self.space.for_snapshots.store(0, Ordering::Relaxed);
                return;
            }
        };
        self.unreadable = false;
        let (free, todo) = judge(&volume, self.limit, self.reserve, self.held || self.unable);
        self.space.free.store(free, Ordering::Relaxed);
        let for_snapshots = allowed(&volume, self.limit).saturating_sub(LAST);
        self.space.for_snapshots.store(for_snapshots, Ordering::Relaxed);
        match todo {
            Reserve::Leave => {}
            Reserve::Release => self.release(),
            Reserve::Make if self.again_in > 1 => self.again_in -= 1,
            Reserve::Make => {
                let made = reserve(&self.file, self.reserve);
                self.note(made);
            }
        }
    }

    fn release(&mut self) {
        if !self.held {
            return;
        }
        match fs::remove_file(&self.file) {
            Ok(()) => {
                self.held = false;
                error!(
                    bytes = self.reserve,
                    "HF-4103: the disk is full: the reserve was given up so that this node can go on"
                );
            }
            Err(error) => error!(%error, file = %self.file.display(), "the reserve cannot be given up"),
        }
    }

    /// The reserve was made, or it was not: there may be room for it later.
    fn note(&mut self, made: io::Result<()>) {
        let Err(error) = made else {
            (self.held, self.again_in) = (true, 0);
            info!(bytes = self.reserve, "the disk has a reserve");
            return;
        };
        // What there is of it counts for nothing.
        drop(fs::remove_file(&self.file));
        if error.kind() == io::ErrorKind::Unsupported {
            self.unable = true;
            warn!(%error, "no reserve can be kept on this file system: keep some room free by hand");
        } else if std::mem::replace(&mut self.again_in, AGAIN) == 0 {
            warn!(%error, "the reserve could not be made, and is tried again");
        }
    }
}

/// A leader whose own disk has no room for samples hands over, if a majority without it has some.
pub(crate) async fn hand_over_when_full<E: Engine>(
    replica: Replica<E>,
    switchover: Switchover,
    stop: CancellationToken,
) -> Result<(), Failure> {
    loop {
        let look = async {
            sleep(HAND_OVER_EVERY).await;
            if hand_over_if_full(&replica, &switchover).await {
                sleep(HAND_OVER_AGAIN).await;
            }
        };
        if stop.run_until_cancelled(look).await.is_none() {
            return Ok(());
        }
    }
}

/// Whether this node leads, has no room, and has asked one that has some to take over.
async fn hand_over_if_full<E: Engine>(replica: &Replica<E>, switchover: &Switchover) -> bool {
    let leads = replica.leadership().borrow().is_some();
    if !leads || replica.free_bytes() >= ROOM_FOR_SAMPLES || !others_have_room(replica) {
        return false;
    }
    let has_room = |node| free_of(replica, node).is_some_and(|free| free >= ROOM_AGAIN);
    let candidates: Vec<_> =
        replica.candidates().into_iter().filter(|candidate| has_room(candidate.node)).collect();
    let Ok(to) = choose(&candidates, None) else { return false };
    warn!(%to, "the disk of this node has no room for samples: handing over to one that has");
    if let Err(error) = switchover.request(Some(to)).await {
        warn!(%error, "leadership was not handed over");
    }
    true
}

fn others_have_room<E: Engine>(replica: &Replica<E>) -> bool {
    let status = replica.status();
    status.voters.iter().all(|voters| {
        let others = voters.iter().filter(|voter| **voter != status.node.0);
        let roomy =
            others.filter(|voter| free_of(replica, NodeId(**voter)).is_some_and(|free| free >= ROOM_AGAIN));
        let roomy = roomy.count();
        roomy > voters.len() / 2
    })
}

/// What a peer has last said of its room.
fn free_of<E: Engine>(replica: &Replica<E>, node: NodeId) -> Option<u64> {
    replica.peers().get(node).and_then(|peer| peer.free_bytes)
}

fn reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::create(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const RESERVED: u64 = 64 * MIB;

    fn volume(available: u64) -> Volume {
        Volume { available, size: 1 << 30, used: 0 }
    }

    #[test]
    fn samples_stop_first_then_the_reserve_goes_then_entries_stop() {
        let judge = |available, held| judge(&volume(available * MIB), None, RESERVED, held);
        assert_eq!(judge(200, true), (168 * MIB, Reserve::Leave));
        assert_eq!(judge(90, true), (58 * MIB, Reserve::Leave));
        assert!(judge(90, true).0 < ROOM_FOR_SAMPLES, "no samples any more");
        assert_eq!(judge(60, true), (28 * MIB, Reserve::Release));
        assert_eq!(
            judge(124, false),
            (ROOM_FOR_SAMPLES - 1, Reserve::Leave),
            "what the reserve gave is not for samples"
        );
        assert_eq!(judge(32, false), (0, Reserve::Leave), "no entries any more");
    }

    #[test]
    fn the_reserve_is_made_again_only_when_there_is_room_beside_it() {
        let judge = |available| judge(&volume(available * MIB), None, RESERVED, false);
        assert_eq!(judge(255).1, Reserve::Leave);
        assert_eq!(judge(256), (160 * MIB, Reserve::Make));
    }

    #[test]
    fn a_limit_counts_like_a_smaller_disk() {
        let used = |used| Volume { available: 1 << 40, size: 1 << 41, used };
        assert_eq!(judge(&used(0), Some(1 << 30), RESERVED, true).0, (1 << 30) - LINE);
        assert_eq!(judge(&used(1 << 30), Some(1 << 30), RESERVED, true), (0, Reserve::Release));
    }

    #[test]
    fn a_full_disk_gets_its_reserve_back_and_makes_it_again_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let available = Arc::new(AtomicU64::new(1 << 30));
        let probe: Probe = {
            let available = Arc::clone(&available);
            Arc::new(move || Ok(volume(available.load(Ordering::Relaxed))))
        };
        let file = folder.path().join("reserve");
        let (space, mut keeper) = Space::open(folder.path(), probe, None).expect("it can be read");
        assert_eq!(fs::metadata(&file).expect("it was made").len(), RESERVED);
        assert!(space.free_bytes() >= ROOM_AGAIN);

        available.store(40 * MIB, Ordering::Relaxed);
        keeper.look();
        assert!(!file.exists(), "a full disk gets it back");
        available.store(40 * MIB + RESERVED, Ordering::Relaxed);
        keeper.look();
        let free = space.free_bytes();
        assert!(free > 0 && free < ROOM_FOR_SAMPLES, "{free}: entries are taken, samples are not");

        available.store(1 << 30, Ordering::Relaxed);
        keeper.look();
        assert!(file.exists() && space.free_bytes() >= ROOM_AGAIN);
    }

    #[test]
    fn a_disk_that_is_full_for_entries_has_room_for_a_snapshot() {
        let folder = tempfile::tempdir().expect("a folder");
        for (available, limit, room) in
            [(32, None, 24), (1 << 10, Some(40 * MIB), 24), (8, None, 0), (4, None, 0)]
        {
            let used = if limit.is_some() { 8 * MIB } else { 0 };
            let probe: Probe = Arc::new(move || Ok(Volume { used, ..volume(available * MIB) }));
            let (space, _keeper) = Space::open(folder.path(), probe, limit).expect("it can be read");
            assert_eq!((space.free_bytes(), space.snapshot_bytes()), (0, room * MIB), "{available} MiB");
        }
    }

    #[test]
    fn a_reserve_that_found_no_room_is_made_later_and_one_that_no_file_system_can_keep_is_not() {
        for (errno, is_made) in [
            (rustix::io::Errno::NOSPC, true),
            (rustix::io::Errno::DQUOT, true),
            (rustix::io::Errno::OPNOTSUPP, false),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let available = Arc::new(AtomicU64::new(100 * MIB));
            let probe: Probe = {
                let available = Arc::clone(&available);
                Arc::new(move || Ok(volume(available.load(Ordering::Relaxed))))
            };
            let (space, mut keeper) = Space::open(folder.path(), probe, None).expect("it can be read");
            keeper.note(Err(errno.into()));
            available.store(1 << 30, Ordering::Relaxed);
            for _ in 0..AGAIN {
                keeper.look();
            }
            assert_eq!(folder.path().join("reserve").exists(), is_made, "{errno}");
            assert!(space.free_bytes() >= ROOM_AGAIN, "{errno}: samples are taken");
        }
    }
}
