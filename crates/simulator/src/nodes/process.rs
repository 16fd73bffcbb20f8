//! One real node process: started, stopped, killed, paused.
//!
//! - It has a process group of its own, so that Ctrl-C at the terminal reaches whoever started it alone.
//! - It ends with this value, whatever happens.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::layout::NodePlan;

/// A node that closes its store takes less, unless it waits for peers that are gone.
const ORDERLY: Duration = Duration::from_secs(4);
/// The kernel ends a killed process at once.
const KILLED: Duration = Duration::from_secs(5);
/// How often it is looked whether a process stands still.
const LOOK: Duration = Duration::from_millis(2);

/// A command of the program, without what the surroundings say of nodes and profiles.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("HOLDFAST_")) {
            command.env_remove(key);
        }
    }
    command.env("XDG_CONFIG_HOME", "/nowhere").env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Which life of a node's process is on: seen without waiting for whoever does something to it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lives(Arc<AtomicU64>);

/// One life of a node's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Which, from 1 on; 0 before the first.
    pub number: u32,
    /// The process, while it is not known to have ended.
    pub id: Option<u32>,
}

impl Lives {
    /// The life that is on, or was the last.
    pub fn now(&self) -> Life {
        let both = self.0.load(Ordering::Acquire);
        Life { number: (both >> 32) as u32, id: Some(both as u32).filter(|id| *id != 0) }
    }

    /// Before the process is there: whatever it says is said in this life.
    fn begins(&self) {
        self.set(Life { number: self.now().number + 1, id: None });
    }

    fn runs_as(&self, id: Option<u32>) {
        self.set(Life { id, ..self.now() });
    }

    /// Whoever holds the process sets it, and nobody else.
    fn set(&self, life: Life) {
        self.0
            .store(u64::from(life.number) << 32 | u64::from(life.id.unwrap_or_default()), Ordering::Release);
    }
}

/// A node's process, if it runs.
#[derive(Debug)]
pub struct Process {
    plan: NodePlan,
    program: PathBuf,
    child: Option<Child>,
    is_paused: bool,
    /// It stood still and was killed, and nobody here did that.
    ended_by_timer: bool,
    lives: Lives,
}

impl Process {
    /// A node that is not running yet.
    pub fn new(plan: NodePlan, program: PathBuf) -> Self {
        Self { plan, program, child: None, is_paused: false, ended_by_timer: false, lives: Lives::default() }
    }

    /// Starts it; its outputs are appended to its log.
    pub fn start(&mut self) -> io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.plan.log)?;
        let mut command = match self.plan.launcher.split_first() {
            None => command(&self.program),
            Some((launcher, arguments)) => {
                let mut command = command(Path::new(launcher));
                command.args(arguments).arg(&self.program);
                command
            }
        };
        command.arg("node").arg("--config").arg(&self.plan.file);
        command.envs(self.plan.variables.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone()?).stderr(log);
        self.lives.begins();
        self.child = Some(command.process_group(0).spawn()?);
        self.lives.runs_as(self.id());
        (self.is_paused, self.ended_by_timer) = (false, false);
        Ok(())
    }

    /// Whether it was started and has not ended; an end by itself is told once.
    pub fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let ended = match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        };
        Ok(ended.inspect(|status| self.note_end(*status)))
    }

    fn note_end(&mut self, status: ExitStatus) {
        self.ended_by_timer = self.is_paused && status.signal() == Some(Signal::KILL.as_raw());
        (self.child, self.is_paused) = (None, false);
        self.lives.runs_as(None);
    }

    /// Its lives, to be watched.
    pub fn lives(&self) -> Lives {
        self.lives.clone()
    }

    /// Whether its last end was that of a node that stood still for longer than its lease: its own timer.
    pub fn ended_by_timer(&self) -> bool {
        self.ended_by_timer
    }

    /// Whether it runs, paused or not.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// `kill -9`. How it ended: by that, unless it had ended by itself just before; `None` if it was not running.
    pub async fn kill(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        self.lives.runs_as(None);
        child.start_kill()?;
        let ended = timeout(KILLED, child.wait()).await;
        self.is_paused = false;
        ended.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map(Some)
    }

    /// `kill -9`, without waiting for its end.
    pub(super) fn end_at_once(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.start_kill()
        {
            tracing::debug!(name = self.plan.name, %error, "it had ended already");
        }
    }

    /// Stops it in order, or kills it if that takes too long. `false` if it had to be killed.
    pub async fn stop(&mut self) -> io::Result<bool> {
        let ended = self.terminate(ORDERLY).await?;
        if ended.is_none() {
            self.kill().await?;
        }
        Ok(ended.is_some())
    }

    /// Asks it to end (`SIGTERM`), and waits so long; how it ended, or `None` if it has not by then.
    pub async fn terminate(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        self.pause(false)?;
        if self.child.is_none() {
            return Ok(Some(ExitStatus::default()));
        }
        self.signal(Signal::TERM)?;
        self.ends(limit).await
    }

    /// Waits so long for it to end by itself; how it ended, or `None` if it has not, or was not running.
    pub async fn ends(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let Ok(ended) = timeout(limit, child.wait()).await else { return Ok(None) };
        let ended = ended?;
        self.note_end(ended);
        Ok(Some(ended))
    }

    /// Kills it, and removes its data directory.
    pub async fn wipe(&mut self) -> io::Result<()> {
        self.kill().await?;
        std::fs::remove_dir_all(&self.plan.data)
    }

    /// Lets it stand still (`SIGSTOP`), or go on (`SIGCONT`) if nothing has ended it meanwhile.
    pub fn pause(&mut self, stands_still: bool) -> io::Result<()> {
        if self.is_paused {
            self.has_ended()?;
        }
        self.signal(if stands_still { Signal::STOP } else { Signal::CONT })?;
        self.is_paused = stands_still && self.is_running();
        Ok(())
    }

    /// Waits until it stands still as it was told, or has ended: what was ended a moment ago is neither yet, and would not
    /// go on.
    pub async fn comes_to_rest(&mut self) -> io::Result<()> {
        let limit = Instant::now() + KILLED;
        while self.is_paused && !self.stands_still() && Instant::now() < limit {
            self.ends(LOOK).await?;
        }
        Ok(())
    }

    /// Whether all of it stands still, and nothing has ended it.
    fn stands_still(&self) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.pid().is_some_and(|id| matches!(waitid(WaitId::Pid(id), options), Ok(Some(_))))
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// What it has logged, since it was first started.
    pub fn log(&self) -> String {
        let shown = |error| format!("{}: {error}", self.plan.log.display());
        std::fs::read_to_string(&self.plan.log).unwrap_or_else(shown)
    }

    /// The last lines of its log.
    pub fn last_lines(&self, count: usize) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.id()?).ok()?)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.pid() {
            Some(id) => Ok(kill_process(id, signal)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::layout::Layout;
    use super::*;

    #[tokio::test]
    async fn what_is_ended_while_it_stands_still_is_found_to_have_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout::on_hosts(folder.path(), "here", &[IpAddr::from([127, 0, 0, 1])]);
        let launcher = ["sh", "-c", "exec sleep 60"].map(str::to_owned).to_vec();
        let plan = NodePlan { launcher, ..layout.nodes[0].clone() };
        let mut process = Process::new(plan, "/nowhere".into());
        process.start().expect("there is a shell");
        process.pause(true).expect("it is ours");
        process.comes_to_rest().await.expect("it is ours");
        assert!(process.is_paused() && process.stands_still());
        process.signal(Signal::KILL).expect("it is ours");
        process.comes_to_rest().await.expect("it is ours");
        assert!(process.ended_by_timer() && !process.is_running(), "nobody here has killed it");
    }

    #[tokio::test]
    async fn lives_are_counted_and_each_has_its_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout::on_hosts(folder.path(), "here", &[IpAddr::from([127, 0, 0, 1])]);
        let launcher = ["sh", "-c", "exec sleep 60"].map(str::to_owned).to_vec();
        let plan = NodePlan { launcher, ..layout.nodes[0].clone() };
        let mut process = Process::new(plan, "/nowhere".into());
        let lives = process.lives();
        assert_eq!(lives.now(), Life { number: 0, id: None });
        for number in 1..=2 {
            process.start().expect("there is a shell");
            assert_eq!(lives.now(), Life { number, id: process.id() });
            assert!(process.id().is_some(), "it runs");
            process.kill().await.expect("it is ours");
            assert_eq!(lives.now(), Life { number, id: None });
        }
    }
}
