//! Snapshots on their way: streamed from memory in chunks, staged, checked and synced on arrival.
//!
//! - The sender's chunks are read when HTTP/2 has room for them; the call is awaited at the same time, because it
//!   resolves only when the receiver has answered.
//! - The receiver writes aside, compares offsets, length and BLAKE3, syncs, renames, syncs the folder, and only
//!   then lets the snapshot be installed. Whatever goes wrong before leaves nothing behind.
//! - Neither side waits without limit: each chunk must make progress within the stall limit.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::AsyncRuntime;
use openraft::errors::StreamingError;
use openraft::raft::SnapshotResponse;
use store::Received;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Request, Status};
use wire::proto::peer as pb;
use wire::proto::peer::snapshot_part::Part;

use super::client::Peer;
use super::convert::{self, SnapshotMeta};
use super::link::CallFailure;
use super::refusal::Refusal;
use crate::type_config::{TypeConfig, Vote};

/// Bytes of one chunk. Small enough that hashing it does not delay a heartbeat.
const CHUNK: usize = 256 << 10;
/// Largest chunk that is accepted.
const MAX_CHUNK: usize = 1 << 20;

/// The content of a snapshot: the data handle that openraft passes around.
#[derive(Debug, Clone)]
pub(crate) enum SnapshotFile {
    /// As it arrived: a file that stays as it is while the handle exists.
    Path(PathBuf),
    /// As it is installed: what is left is one commit.
    Received(Box<Received>),
    /// As it is sent: in memory.
    Bytes(Bytes),
}

/// Sends a snapshot and waits until the follower has installed it. `install_limit` bounds the wait after the last
/// chunk. Dropping the future cancels the transfer.
pub(super) async fn send<RT: AsyncRuntime>(
    peer: &Peer,
    vote: Vote,
    meta: SnapshotMeta,
    bytes: Bytes,
    install_limit: Duration,
) -> Result<SnapshotResponse<TypeConfig<RT>>, StreamingError<TypeConfig<RT>>> {
    peer.check_tripwire().map_err(CallFailure::into_streaming)?;
    let stall_limit = peer.context.options.snapshot_stall_limit;
    let connection =
        peer.bulk.connection(Instant::now() + stall_limit).await.map_err(CallFailure::into_streaming)?;
    let header = convert::snapshot_header_to_proto(peer.envelope(), &vote, &meta, bytes.len() as u64);
    // Two: the chunk being sent and the last word; the waiting half drains it at once.
    let (progress, mut reports) = mpsc::channel(2);
    let parts = parts(header, bytes, progress);
    let mut client = connection.client.clone();
    let call = client.snapshot(Request::new(parts));
    tokio::pin!(call);
    let mut deadline = Instant::now() + stall_limit;
    let mut sending = true;
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut call => {
                let answer = answer.map_err(|status| peer.bulk.failed(&connection, &status));
                break answer.map_err(CallFailure::into_streaming)?.into_inner();
            }
            report = reports.recv(), if sending => match report {
                Some(()) => deadline = Instant::now() + stall_limit,
                None => {
                    sending = false;
                    deadline = Instant::now() + install_limit.max(stall_limit);
                }
            },
            () = sleep_until(deadline) => {
                return Err(peer.bulk.gave_up(CallFailure::late("snapshot")).into_streaming());
            }
        }
    };
    let vote =
        convert::vote_from_proto(answer.vote).map_err(|error| CallFailure::from(error).into_streaming())?;
    Ok(SnapshotResponse::new(vote))
}

/// Header, chunks, end. Tells `progress` of each chunk that HTTP/2 takes.
fn parts(
    header: pb::SnapshotHeader,
    bytes: Bytes,
    progress: mpsc::Sender<()>,
) -> impl Stream<Item = pb::SnapshotPart> + Send + 'static {
    struct Reading {
        rest: Bytes,
        offset: u64,
        hasher: blake3::Hasher,
        progress: mpsc::Sender<()>,
    }
    let part = |part| pb::SnapshotPart { part: Some(part) };
    let reading = Reading { rest: bytes, offset: 0, hasher: blake3::Hasher::new(), progress };
    let rest = futures::stream::unfold(Some(reading), move |reading| async move {
        let mut reading = reading?;
        let data = reading.rest.split_to(reading.rest.len().min(CHUNK));
        if data.is_empty() {
            let digest = Bytes::copy_from_slice(reading.hasher.finalize().as_bytes());
            return Some((part(Part::End(pb::SnapshotEnd { digest })), None));
        }
        reading.hasher.update(&data);
        let chunk = pb::SnapshotChunk { offset: reading.offset, data };
        reading.offset += chunk.data.len() as u64;
        // The waiting half may be gone: then nobody asks.
        let _unheard = reading.progress.send(()).await;
        Some((part(Part::Chunk(chunk)), Some(reading)))
    });
    futures::stream::once(std::future::ready(part(Part::Header(header)))).chain(rest)
}

/// A snapshot that arrived whole and is synced, not yet installed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Staged {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) path: PathBuf,
}

/// Why a snapshot was not staged.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    /// What arrived is not what was sent.
    #[error("{0}")]
    Damaged(&'static str),
    /// Nothing arrived for too long.
    #[error("no chunk in time")]
    Stalled,
    /// The transfer broke.
    #[error("transfer broke: {0}")]
    Broken(Status),
    /// It could not be written.
    #[error("staging: {0}")]
    Io(#[from] io::Error),
}

impl StageError {
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Damaged(_) => Refusal::DamagedSnapshot.because(self.to_string()),
            Self::Stalled => Status::deadline_exceeded(self.to_string()),
            Self::Broken(status) => status,
            Self::Io(error) => Status::unavailable(format!("staging: {error}")),
        }
    }
}

/// Receives the parts after `header` into `folder`. A file of an earlier, unfinished transfer is replaced.
pub(super) async fn stage(
    folder: &Path,
    header: pb::SnapshotHeader,
    mut parts: impl Stream<Item = Result<pb::SnapshotPart, Status>> + Send + Unpin,
    stall_limit: Duration,
) -> Result<Staged, StageError> {
    let (vote, meta, length) =
        convert::snapshot_header_from_proto(header).map_err(|_| StageError::Damaged("unreadable header"))?;
    let aside = Aside::new(folder);
    let (folder, path) = (folder.to_owned(), aside.path.clone());
    let mut file = on_disk(move || {
        fs::create_dir_all(folder)?;
        File::create_new(path)
    })
    .await?;
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0_u64;
    let digest = loop {
        let next = timeout(stall_limit, parts.next()).await.map_err(|_| StageError::Stalled)?;
        let part = next.ok_or(StageError::Damaged("ended early"))?.map_err(StageError::Broken)?;
        match part.part {
            Some(Part::Chunk(chunk)) => {
                let fits = chunk.offset == offset
                    && !chunk.data.is_empty()
                    && chunk.data.len() <= MAX_CHUNK
                    && chunk.data.len() as u64 <= length - offset;
                if !fits {
                    return Err(StageError::Damaged("a chunk is missing, doubled or too long"));
                }
                hasher.update(&chunk.data);
                offset += chunk.data.len() as u64;
                file = on_disk(move || file.write_all(&chunk.data).map(|()| file)).await?;
            }
            Some(Part::End(end)) => break end.digest,
            Some(Part::Header(_)) | None => return Err(StageError::Damaged("unexpected part")),
        }
    };
    if offset != length || digest != hasher.finalize().as_bytes()[..] {
        return Err(StageError::Damaged("length or checksum differ"));
    }
    on_disk(move || file.sync_all()).await?;
    let at = meta.last_log_id.map_or((0, 0), |last| (last.leader_id.term, last.index));
    // Keyed by reign and place: two leaders' snapshots of one position never meet.
    let name = format!("{:020}-{:020}-{:020}.snapshot", vote.leader_id.term, at.0, at.1);
    let path = on_disk(move || aside.keep_as(&name)).await?;
    Ok(Staged { vote, meta, path })
}

/// Removes what earlier runs left in `folder`: nothing in it was installed.
pub(crate) async fn clear_staging(folder: &Path) -> io::Result<()> {
    let folder = folder.to_owned();
    on_disk(move || {
        let files = match fs::read_dir(folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for file in files {
            let path = file?.path();
            if path.extension().is_some_and(|kind| kind == "part" || kind == "snapshot") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    })
    .await
}

/// Reads what was staged.
pub(crate) async fn read_staged(path: &Path) -> io::Result<Bytes> {
    let path = path.to_owned();
    on_disk(move || fs::read(path)).await.map(Bytes::from)
}

/// Removes what was staged.
pub(super) async fn remove_staged(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    on_disk(move || fs::remove_file(path)).await
}

/// Works on files where that holds up nobody.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    runtime::blocking(work).await.map_err(io::Error::other)?
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    // Only Unix lets a folder be opened and synced; elsewhere a rename is as durable as the system makes it.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// A file that disappears unless it is kept.
struct Aside {
    path: PathBuf,
    kept: bool,
}

impl Aside {
    fn new(folder: &Path) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{}-{number}.part", std::process::id()));
        Self { path, kept: false }
    }

    /// Keeps it under this name, durably.
    fn keep_as(mut self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.with_file_name(name);
        fs::rename(&self.path, &path)?;
        self.kept = true;
        sync_folder(path.parent().unwrap_or(Path::new(".")))?;
        Ok(path)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "unfinished snapshot not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn header(length: u64) -> pb::SnapshotHeader {
        let meta = SnapshotMeta {
            last_log_id: Some(crate::type_config::LogId::new(3.into(), 40)),
            last_membership: Default::default(),
        };
        convert::snapshot_header_to_proto(pb::Envelope::default(), &Vote::new_committed(4, 1), &meta, length)
    }

    async fn sent(content: &[u8]) -> Vec<pb::SnapshotPart> {
        let content = Bytes::copy_from_slice(content);
        let (progress, mut reports) = mpsc::channel(2);
        let length = content.len() as u64;
        let drain = async { while reports.recv().await.is_some() {} };
        let collect = parts(header(length), content, progress).collect();
        futures::join!(collect, drain).0
    }

    async fn stage_all(folder: &Path, mut parts: Vec<pb::SnapshotPart>) -> Result<Staged, StageError> {
        let Some(Part::Header(header)) = parts.remove(0).part else { panic!("the first part is the header") };
        stage(folder, header, futures::stream::iter(parts.into_iter().map(Ok)), LIMIT).await
    }

    fn files(folder: &Path) -> Vec<String> {
        let files = std::fs::read_dir(folder).expect("the folder exists");
        files.map(|file| file.expect("readable").file_name().into_string().expect("our names")).collect()
    }

    #[tokio::test]
    async fn a_snapshot_arrives_as_it_was_sent() {
        for length in [0, 1, CHUNK, CHUNK * 3 + 17] {
            let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let folder = tempfile::tempdir().expect("a folder");
            let staged = stage_all(folder.path(), sent(&content).await).await.expect("whole");
            assert_eq!(std::fs::read(&staged.path).expect("staged"), content);
            assert_eq!(files(folder.path()).len(), 1);
        }
    }

    #[tokio::test]
    async fn whatever_is_damaged_is_refused_and_leaves_nothing_behind() {
        type Spoil = fn(&mut Vec<pb::SnapshotPart>);
        let spoils: [(&str, Spoil); 6] = [
            ("a flipped bit", |parts| {
                let Some(Part::Chunk(chunk)) = &mut parts[2].part else { panic!("a chunk") };
                let mut data = chunk.data.to_vec();
                data[100] ^= 1;
                chunk.data = data.into();
            }),
            ("a missing chunk", |parts| drop(parts.remove(2))),
            ("a doubled chunk", |parts| parts.insert(2, parts[2].clone())),
            ("exchanged chunks", |parts| parts.swap(1, 2)),
            ("no end", |parts| drop(parts.pop())),
            ("a second header", |parts| parts.insert(1, parts[0].clone())),
        ];
        for (what, spoil) in spoils {
            let folder = tempfile::tempdir().expect("a folder");
            let mut parts = sent(&vec![7; CHUNK * 3]).await;
            spoil(&mut parts);
            let staged = stage_all(folder.path(), parts).await;
            assert!(matches!(staged, Err(StageError::Damaged(_))), "{what}: {staged:?}");
            assert_eq!(files(folder.path()), [""; 0], "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_falls_silent_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let silence = futures::stream::pending();
        let staged = stage(folder.path(), header(10), silence, LIMIT).await;
        assert!(matches!(staged, Err(StageError::Stalled)), "{staged:?}");
        assert_eq!(files(folder.path()), [""; 0]);
    }

    #[tokio::test]
    async fn leftovers_are_cleared() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["1-2.part", "3-4-5.snapshot", "notes.txt"] {
            std::fs::write(folder.path().join(name), "x").expect("writable");
        }
        clear_staging(folder.path()).await.expect("clear");
        assert_eq!(files(folder.path()), ["notes.txt"]);
        clear_staging(&folder.path().join("absent")).await.expect("nothing to clear");
    }
}
