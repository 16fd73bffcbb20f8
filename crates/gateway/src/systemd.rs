//! What systemd, or another service manager, is told of this node (sd_notify(3)): that it is ready, in one line how it
//! is, that it lives, and that it stops.
//!
//! - Ready means: the ports are bound and the data directory is open. A node that waits for its cluster is ready, and
//!   says what it waits for: starting it again would help nobody.
//! - It lives if Raft's core answers, and a manager with a watchdog is told so twice in the time that it allows. A node
//!   whose core stands still is better started again.
//! - Nothing here holds up the node: what is not taken at once is told again at the next look.
//! - Without `NOTIFY_SOCKET` nothing is told.
//!
//! The protocol is one datagram. The usual crate for it waits for the manager, and knows no names of the abstract
//! namespace.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use replication::Standing;
use runtime::Spawner;
use store::engine::rocks::RocksEngine;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::admin::{Acting, AdminService};
use crate::notice::Notice;

/// How often it is looked whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A service manager.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    address: SocketAddr,
    /// How long it waits for a sign of life; for ever, if it has no watchdog.
    patience: Option<Duration>,
}

impl Manager {
    /// The one that started this process, if one did.
    pub(crate) fn of_this_process() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET")?;
        match address(&socket) {
            Ok(address) => {
                let patience = patience(std::process::id(), |name| std::env::var(name).ok());
                Some(Self { address, patience })
            }
            Err(error) => {
                warn!(?socket, %error, "the service manager is told nothing");
                None
            }
        }
    }

    /// Sends one message; never waits.
    fn tell(&self, message: &str) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &self.address).map(drop)
    }
}

/// The address of `/PATH`, or of `@NAME` in the abstract namespace.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(socket),
        [b'@', name @ ..] => abstract_address(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "expected /PATH or @NAME")),
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How long the manager of process `pid` waits for a sign of life, by sd_watchdog_enabled(3).
fn patience(pid: u32, variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let micros = variable("WATCHDOG_USEC")?.parse::<u64>().ok().filter(|micros| *micros > 0)?;
    let is_meant = variable("WATCHDOG_PID").is_none_or(|meant| meant.parse::<u32>() == Ok(pid));
    is_meant.then(|| Duration::from_micros(micros))
}

/// How far a node has come.
#[derive(Clone)]
enum Stage {
    Starting,
    /// It cannot take part, and says why.
    Apart(Notice),
    /// It takes part.
    Running(Box<AdminService<RocksEngine>>),
    Ending,
}

impl Stage {
    /// In one line; none, if that was told already.
    fn text(&self) -> Option<String> {
        match self {
            Self::Starting => Some("starting".to_owned()),
            Self::Apart(notice) => Some(notice.text()),
            Self::Running(service) => Some(how_it_is(service)),
            Self::Ending => None,
        }
    }
}

fn how_it_is(service: &AdminService<RocksEngine>) -> String {
    let status = service.replica().status();
    match (status.standing, service.acting()) {
        (Standing::Stopped, _) => "Raft has ended on this node".to_owned(),
        (Standing::Removed, _) => "was removed from the cluster".to_owned(),
        (_, Acting::Here) => format!("leads (term {})", status.term.0),
        (_, Acting::Elsewhere(name)) => format!("follows {name} (term {})", status.term.0),
        (_, Acting::Nobody) => "no leader is known".to_owned(),
    }
}

fn status(text: &str) -> String {
    format!("STATUS={}\n", text.replace('\n', " "))
}

/// Knows how far the node has come, and has the manager told.
pub(crate) struct Herald {
    manager: Option<Manager>,
    stage: watch::Sender<Stage>,
}

impl Herald {
    /// Begins to tell `manager`: the node is ready.
    pub(crate) fn start(manager: Option<Manager>, spawner: &Spawner) -> Self {
        let (stage, seen) = watch::channel(Stage::Starting);
        if let Some(manager) = manager.clone() {
            let telling = Telling { manager, stage: seen, told: None, lives_until: None, is_silent: false };
            spawner.spawn("service manager", telling.run(spawner.token().clone()));
        }
        Self { manager, stage }
    }

    /// The node cannot take part for now, or any more.
    pub(crate) fn stands_apart(&self, notice: Notice) {
        self.stage.send_replace(Stage::Apart(notice));
    }

    /// The node takes part.
    pub(crate) fn runs(&self, service: AdminService<RocksEngine>) {
        self.stage.send_replace(Stage::Running(Box::new(service)));
    }

    /// The node ends.
    pub(crate) fn ends(&self, why: &str) {
        self.stage.send_replace(Stage::Ending);
        let told = self.manager.as_ref().map(|manager| manager.tell(&format!("STOPPING=1\n{}", status(why))));
        if let Some(Err(error)) = told {
            debug!(%error, "the service manager was not told of the end");
        }
    }
}

/// The task that tells.
struct Telling {
    manager: Manager,
    stage: watch::Receiver<Stage>,
    /// The last line that was told.
    told: Option<String>,
    /// Until when the last sign of life is good.
    lives_until: Option<Instant>,
    /// Raft's core did not answer when it was asked last.
    is_silent: bool,
}

impl Telling {
    async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let patience = self.manager.patience.unwrap_or(Duration::MAX);
        let mut looks = interval(LOOK_EVERY.min(patience / 4));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            let stage = self.stage.borrow().clone();
            let Some(text) = stage.text() else { break };
            let mut message = String::new();
            if self.told.is_none() {
                message.push_str("READY=1\n");
            }
            if self.told.as_ref() != Some(&text) {
                message.push_str(&status(&text));
            }
            let is_due = self.lives_until.is_none_or(|until| Instant::now() >= until);
            let lives = self.manager.patience.is_some() && is_due && self.lives(&stage, patience / 4).await;
            if lives {
                message.push_str("WATCHDOG=1\n");
            }
            if message.is_empty() {
                continue;
            }
            match self.manager.tell(&message) {
                Ok(()) => {
                    self.told = Some(text);
                    if lives {
                        self.lives_until = Some(Instant::now() + patience / 2);
                    }
                }
                Err(error) => debug!(%error, "the service manager did not take what it was told"),
            }
        }
        Ok(())
    }

    /// Whether Raft's core answers; before there is one, whether this task runs.
    async fn lives(&mut self, stage: &Stage, within: Duration) -> bool {
        let Stage::Running(service) = stage else { return true };
        let lives = timeout(within, service.replica().core_answers()).await.unwrap_or(false);
        match (lives, self.is_silent) {
            (false, false) => error!("Raft's core does not answer; the watchdog will end this node"),
            (true, true) => info!("Raft's core answers again"),
            _ => {}
        }
        self.is_silent = !lives;
        lives
    }
}

#[cfg(test)]
mod tests {
    use runtime::Supervisor;

    use super::*;

    #[test]
    fn a_manager_is_found_where_it_listens() {
        let address = |socket: &str| address(OsStr::new(socket));
        let path = address("/run/systemd/notify").expect("a path");
        assert_eq!(path.as_pathname(), Some(std::path::Path::new("/run/systemd/notify")));
        assert!(address("vsock:2:9").is_err());
        assert_eq!(address("@containers/1").is_ok(), cfg!(target_os = "linux"));
    }

    #[test]
    fn a_watchdog_counts_for_the_process_that_is_meant() {
        let given = |micros: &'static str, pid: Option<&'static str>| {
            patience(7, move |name| match name {
                "WATCHDOG_USEC" => Some(micros.to_owned()),
                _ => pid.map(str::to_owned),
            })
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(given("60000000", Some("7")), minute);
        assert_eq!(given("60000000", None), minute);
        assert_eq!(given("60000000", Some("8")), None);
        assert_eq!(given("0", None), None);
        assert_eq!(given("soon", None), None);
    }

    /// What a manager hears next.
    async fn hears(socket: &tokio::net::UnixDatagram) -> String {
        let mut message = vec![0; 4096];
        let read = timeout(Duration::from_secs(30), socket.recv(&mut message)).await;
        let read = read.expect("it is told something").expect("it can be read");
        String::from_utf8_lossy(&message[..read]).into_owned()
    }

    #[tokio::test]
    async fn a_manager_hears_that_a_node_is_ready_how_it_is_and_that_it_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).expect("a socket");
        let manager = Manager {
            address: address(path.as_os_str()).expect("a path"),
            patience: Some(Duration::from_millis(200)),
        };
        let (supervisor, spawner) = Supervisor::new();
        let herald = Herald::start(Some(manager), &spawner);
        assert_eq!(hears(&socket).await, "READY=1\nSTATUS=starting\nWATCHDOG=1\n");
        herald.stands_apart(Notice::new("HF-3109", || "it waits\nfor others".to_owned()));
        let mut heard = hears(&socket).await;
        while heard == "WATCHDOG=1\n" {
            heard = hears(&socket).await;
        }
        assert!(heard.starts_with("STATUS=HF-3109: it waits for others\n"), "{heard}");
        assert_eq!(hears(&socket).await, "WATCHDOG=1\n", "nothing else has changed");
        herald.ends("stopping");
        let mut heard = hears(&socket).await;
        while heard == "WATCHDOG=1\n" {
            heard = hears(&socket).await;
        }
        assert_eq!(heard, "STOPPING=1\nSTATUS=stopping\n");
        assert!(supervisor.shut_down(Duration::from_secs(10)).await);
    }
}
