//! Hooks: commands that let programs outside follow the active node.
//!
//! - `on-lead` runs when this node begins to lead, `on-yield` when it ceases to: one at a time, in order, each ended with
//!   its whole process group when its time is up. Neither can hold up a reign.
//! - In an orderly hand-over `on-yield` has ended (or was ended) *before* leadership goes: there is never a second node
//!   whose `on-lead` has run. After a failure nobody can promise that; HOLDFAST_TERM is there to fence with.
//! - A node that is cut off yields by itself, one lease after its own lease has run out.
//! - At start `on-yield` runs first: a node that crashed while it led may have left a program running.
//! - A hook that fails is a warning and an event, and nothing else.

use std::process::Stdio;
use std::time::Duration;

use model::command::{Command, Event, Severity};
use replication::{Leadership, Replica};
use runtime::{Failure, Spawner};
use rustix::process::{Pid, Signal, kill_process_group};
use store::engine::Engine;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Hooks;
use crate::pushing::PATIENCE;

/// Output of a hook that is still read when the hook has ended but something it started has not.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A line of output in the log, at most.
const LINE_BYTES: usize = 1_024;
/// Lines of output of one run in the log, at most.
const LINES: usize = 200;

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    OnLead,
    OnYield,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::OnLead => "on-lead",
            Self::OnYield => "on-yield",
        }
    }
}

/// What hooks are told of reigns.
#[derive(Debug, Clone, Default)]
struct Told {
    /// Counts what was told.
    number: u64,
    /// The reign that has begun and is not over.
    reign: Option<Leadership>,
}

/// Tells the hooks of reigns. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HookHandle {
    told: watch::Sender<Told>,
    /// Number of the last end after which nothing that follows this node runs.
    ended: watch::Receiver<u64>,
}

impl HookHandle {
    /// A reign begins.
    pub(crate) fn begin(&self, leadership: Leadership) {
        self.tell(Some(leadership));
    }

    /// The reign is over.
    pub(crate) fn end(&self) {
        self.tell(None);
    }

    /// Ends what follows this node, and waits until `on-yield` has ended: for as long as hooks may take, at most.
    pub(crate) async fn end_and_wait(&self) {
        let number = self.tell(None);
        // An error is the end of the task: then nothing runs any more.
        drop(self.ended.clone().wait_for(|ended| *ended >= number).await);
    }

    fn tell(&self, reign: Option<Leadership>) -> u64 {
        let mut number = 0;
        self.told.send_modify(|told| {
            number = told.number + 1;
            *told = Told { number, reign };
        });
        number
    }
}

/// Why a hook has failed.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("it cannot be started: {0}")]
    NotStarted(std::io::Error),
    #[error("it ended with {0}")]
    Failed(std::process::ExitStatus),
    #[error("it was ended after {0:?}")]
    TooSlow(Duration),
    #[error("its end was not seen: {0}")]
    Lost(std::io::Error),
}

/// The task that runs hooks.
struct HookTask<E: Engine> {
    hooks: Hooks,
    cluster: String,
    replica: Replica<E>,
    told: watch::Receiver<Told>,
    ended: watch::Sender<u64>,
    stop: CancellationToken,
}

/// Starts the task that runs hooks.
pub(crate) fn start<E: Engine>(
    hooks: Hooks,
    cluster: &str,
    replica: &Replica<E>,
    spawner: &Spawner,
) -> HookHandle {
    let (told, told_seen) = watch::channel(Told::default());
    let (ended, ended_seen) = watch::channel(0);
    let task = HookTask {
        hooks,
        cluster: cluster.to_owned(),
        replica: replica.clone(),
        told: told_seen,
        ended,
        stop: spawner.token().clone(),
    };
    spawner.spawn("hooks", task.run());
    HookHandle { told, ended: ended_seen }
}

impl<E: Engine> HookTask<E> {
    async fn run(mut self) -> Result<(), Failure> {
        self.tell(Which::OnYield, None).await;
        while let Some(leadership) = self.next_reign().await {
            let lead = async {
                self.tell(Which::OnLead, Some(&leadership)).await;
                std::future::pending::<()>().await;
            };
            // Given up while it runs: its process group is ended.
            tokio::select! {
                () = lead => {}
                () = given_up(self.told.clone(), &leadership, self.replica.times().lease) => {}
                () = self.stop.cancelled() => {}
            }
            self.tell(Which::OnYield, Some(&leadership)).await;
        }
        Ok(())
    }

    /// Waits for a reign with a live lease; `None` when the node stops.
    async fn next_reign(&mut self) -> Option<Leadership> {
        loop {
            let Told { number, reign } = self.told.borrow_and_update().clone();
            match reign {
                _ if self.stop.is_cancelled() => return None,
                Some(leadership) if leadership.is_live() => return Some(leadership),
                Some(leadership) => tokio::select! {
                    () = leadership.changed() => {}
                    changed = self.told.changed() => changed.ok()?,
                    () = self.stop.cancelled() => return None,
                },
                None => {
                    self.ended.send_replace(number);
                    tokio::select! {
                        changed = self.told.changed() => changed.ok()?,
                        () = self.stop.cancelled() => return None,
                    }
                }
            }
        }
    }

    /// Runs a hook, if there is one, and says how it went.
    async fn tell(&self, which: Which, leadership: Option<&Leadership>) {
        let command = match which {
            Which::OnLead => &self.hooks.on_lead,
            Which::OnYield => &self.hooks.on_yield,
        };
        let [program, arguments @ ..] = command.as_slice() else { return };
        let status = self.replica.status();
        let leader = match which {
            Which::OnLead => self.replica.name(),
            Which::OnYield => {
                let other = status.leader.filter(|leader| *leader != status.node);
                other.and_then(|leader| status.members.get(&leader)).map_or("", |member| &member.name)
            }
        };
        let term = leadership.map_or(status.term, Leadership::term);
        let mut process = tokio::process::Command::new(program);
        process
            .args(arguments)
            .env("HOLDFAST_HOOK", which.name())
            .env("HOLDFAST_NODE", self.replica.name())
            .env("HOLDFAST_CLUSTER", &self.cluster)
            .env("HOLDFAST_TERM", term.to_string())
            .env("HOLDFAST_LEADER", leader);
        info!(hook = which.name(), %term, "hook begins");
        match run(process, which.name(), self.hooks.timeout).await {
            Ok(()) => info!(hook = which.name(), %term, "hook has ended"),
            Err(error) => {
                warn!(hook = which.name(), %term, %error, "hook has failed");
                self.report(which, &error).await;
            }
        }
    }

    async fn report(&self, which: Which, error: &HookError) {
        let event = Event {
            severity: Severity::Warning,
            subject: format!("node/{}", self.replica.name()),
            text: format!("hook {} has failed: {error}", which.name()),
        };
        // The log has it; an event needs a majority, which may be what is missing.
        if let Err(error) = self.replica.propose(&Command::Event(event), PATIENCE / 5).await {
            info!(%error, "the failure of a hook is not among the events");
        }
    }
}

/// Resolves when the reign is over or handed over, or its lease has not been renewed for another `grace`.
async fn given_up(mut told: watch::Receiver<Told>, leadership: &Leadership, grace: Duration) {
    let is_over = |told: &Told| told.reign.as_ref() != Some(leadership);
    tokio::select! {
        () = async { drop(told.wait_for(is_over).await) } => {}
        () = leadership.lost(grace) => {}
    }
}

/// Ends a process and everything it started, unless told that it has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take()
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "a hook's process group had ended by itself");
        }
    }
}

/// Runs a process to its end; its output goes into the log. When time is up, or this future is dropped, its whole
/// process group is ended.
async fn run(
    mut command: tokio::process::Command,
    hook: &'static str,
    limit: Duration,
) -> Result<(), HookError> {
    command.process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(HookError::NotStarted)?;
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut group = Group(id);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let output = async {
        tokio::join!(log_lines(hook, stdout), log_lines(hook, stderr));
    };
    tokio::pin!(output);
    let mut said_all = false;
    let ended = timeout(limit, async {
        loop {
            tokio::select! {
                ended = child.wait() => return ended,
                () = &mut output, if !said_all => said_all = true,
            }
        }
    });
    match ended.await {
        Ok(Ok(status)) => {
            // What it left running on purpose goes on, and may hold its output open.
            group.0 = None;
            if !said_all && timeout(LAST_WORDS, output).await.is_err() {
                info!(hook, "what the hook has started goes on; its output is no longer read");
            }
            if status.success() { Ok(()) } else { Err(HookError::Failed(status)) }
        }
        Ok(Err(error)) => Err(HookError::Lost(error)),
        Err(_) => Err(HookError::TooSlow(limit)),
    }
}

/// Writes lines into the log, long ones in pieces, the first of many.
async fn log_lines(hook: &'static str, from: Option<impl AsyncRead + Unpin>) {
    let Some(from) = from else { return };
    let mut reader = BufReader::with_capacity(LINE_BYTES, from);
    let mut line = Vec::with_capacity(LINE_BYTES);
    let mut lines = 0;
    let mut say = |line: &mut Vec<u8>| {
        lines += 1;
        if lines <= LINES {
            info!(hook, "{}", String::from_utf8_lossy(line));
        }
        line.clear();
    };
    loop {
        let read = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                for byte in bytes {
                    if *byte == b'\n' || line.len() == LINE_BYTES {
                        say(&mut line);
                    }
                    if *byte != b'\n' {
                        line.push(*byte);
                    }
                }
                bytes.len()
            }
        };
        reader.consume(read);
    }
    if !line.is_empty() {
        say(&mut line);
    }
    if lines > LINES {
        warn!(hook, lines = lines - LINES, "more output of the hook is not shown");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shell(script: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    /// Waits until a process is gone (or a zombie that nobody has asked for).
    async fn wait_until_gone(id: i32) {
        let gone = async {
            loop {
                let stat = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat"));
                match stat {
                    Ok(stat) if !stat.contains(") Z") => tokio::task::yield_now().await,
                    _ => return,
                }
            }
        };
        timeout(Duration::from_secs(20), gone).await.expect("it is ended");
    }

    #[tokio::test]
    async fn a_hook_that_ends_in_time_has_its_exit_status() {
        assert!(run(shell("echo well; exit 0"), "on-lead", Duration::from_secs(20)).await.is_ok());
        let failed = run(shell("echo ill >&2; exit 3"), "on-lead", Duration::from_secs(20)).await;
        assert!(matches!(failed, Err(HookError::Failed(status)) if status.code() == Some(3)), "{failed:?}");
        let absent = tokio::process::Command::new("/nowhere/at/all");
        let absent = run(absent, "on-lead", Duration::from_secs(20)).await;
        assert!(matches!(absent, Err(HookError::NotStarted(_))), "{absent:?}");
    }

    #[tokio::test]
    async fn a_hook_that_takes_too_long_is_ended_with_all_it_started() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("child");
        // The child would outlive the shell; both ignore being asked.
        let script = format!("trap '' TERM; sleep 1000 & echo $! > {}; wait", file.display());
        let slow = run(shell(&script), "on-yield", Duration::from_millis(700)).await;
        assert!(matches!(slow, Err(HookError::TooSlow(_))), "{slow:?}");
        let child = std::fs::read_to_string(&file).expect("the hook came that far");
        wait_until_gone(child.trim().parse().expect("a number")).await;
    }

    #[tokio::test]
    async fn what_a_hook_leaves_running_on_purpose_neither_delays_it_nor_is_ended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("child");
        let script = format!("sleep 1000 & echo $! > {}", file.display());
        assert!(run(shell(&script), "on-lead", Duration::from_secs(20)).await.is_ok());
        let child = std::fs::read_to_string(&file).expect("it is written").trim().parse().expect("a number");
        let child = Pid::from_raw(child).expect("not 0");
        rustix::process::kill_process(child, Signal::KILL).expect("it is still running");
    }

    #[tokio::test]
    async fn a_lot_of_output_without_a_line_end_is_no_harm() {
        let script = "head -c 3000000 /dev/zero | tr '\\0' x";
        assert!(run(shell(script), "on-lead", Duration::from_secs(20)).await.is_ok());
    }
}
