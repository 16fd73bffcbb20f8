//! Tasks, and who notices when they end.
//!
//! - Every task has a name and is counted; shutting down cancels all and waits for them, up to a grace period.
//! - An essential task that ends with an error, or panics, is a [`Failure`]: the owner of the [`Supervisor`] ends
//!   the node. Ending with `Ok` is always allowed.
//! - A task that blocks has a thread of its own, which ends with the task.
//! - Tasks watch the cancellation token of their [`Spawner`]; children of it can be cancelled alone.

use std::fmt;
use std::future::Future;
use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error};

/// The end of an essential task: the node cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {task} ended: {reason}")]
pub struct Failure {
    /// Name of the task.
    pub task: String,
    /// What it said, or that it panicked.
    pub reason: String,
}

/// Owns the tasks of one node.
#[derive(Debug)]
pub struct Supervisor {
    tracker: TaskTracker,
    token: CancellationToken,
    failures: mpsc::Receiver<Failure>,
}

/// Starts tasks of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spawner {
    tracker: TaskTracker,
    token: CancellationToken,
    failures: mpsc::Sender<Failure>,
    on: Option<Handle>,
}

impl Supervisor {
    /// A supervisor without tasks, and the spawner that feeds it.
    pub fn new() -> (Self, Spawner) {
        let tracker = TaskTracker::new();
        let token = CancellationToken::new();
        // One failure ends the node; later ones are logged where they happen and need no room.
        let (sender, failures) = mpsc::channel(1);
        let spawner = Spawner { tracker: tracker.clone(), token: token.clone(), failures: sender, on: None };
        (Self { tracker, token, failures }, spawner)
    }

    /// Resolves when an essential task has failed; never, if none does.
    pub async fn failure(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Cancels all tasks and waits for them. `false` if some were still running after `grace`.
    pub async fn shut_down(self, grace: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

impl Spawner {
    /// Cancelled when the tasks of this spawner should end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// A spawner whose tasks can be cancelled without those of `self`.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), ..self.clone() }
    }

    /// A spawner that starts its tasks on another runtime, under the same supervision.
    pub fn on(&self, handle: Handle) -> Self {
        Self { on: Some(handle), ..self.clone() }
    }

    /// Starts a task that is essential: an error or a panic ends the node.
    pub fn spawn<F, E>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let name = name.into();
        let failures = self.failures.clone();
        let watched = async move {
            let guard = PanicGuard { task: name, failures, armed: true };
            match task.await {
                Ok(()) => guard.disarm(),
                Err(reason) => guard.fail(reason.to_string()),
            }
        };
        self.start(watched);
    }

    /// Starts an essential task that blocks whoever polls it, on a thread that does nothing else. It is supervised like any
    /// other, and dropped with the runtime.
    pub fn spawn_on_thread<F, E>(&self, name: &str, task: F) -> io::Result<()>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let runtime = self.on.clone().unwrap_or_else(Handle::current);
        let (dropped, (outcome, ended)) = (CancellationToken::new(), oneshot::channel());
        let until = dropped.clone();
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let ended = runtime.block_on(until.run_until_cancelled_owned(task));
            // Nobody listens where the runtime is dropped.
            drop(outcome.send(ended));
        })?;
        let running = Running { thread: Some(thread), dropped: Some(dropped.drop_guard()) };
        self.spawn(name, async move {
            let _running = running;
            match ended.await {
                Ok(Some(ended)) => ended.map_err(|error| error.to_string()),
                Ok(None) => Ok(()),
                Err(_) => Err("panicked".to_owned()),
            }
        });
        Ok(())
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.tracker.track_future(task).in_current_span();
        #[allow(clippy::disallowed_methods, reason = "this is the spawner that everything else uses")]
        match &self.on {
            Some(handle) => drop(handle.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }
}

/// A task with a thread of its own. Dropped, it is ended and waited for.
struct Running {
    thread: Option<JoinHandle<()>>,
    dropped: Option<DropGuard>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.dropped.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the thread of an essential task panicked");
        }
    }
}

/// Reports the failure of a task that unwinds before it could say why.
struct PanicGuard {
    task: String,
    failures: mpsc::Sender<Failure>,
    armed: bool,
}

impl PanicGuard {
    fn disarm(mut self) {
        self.armed = false;
    }

    fn fail(mut self, reason: String) {
        self.armed = false;
        self.report(reason);
    }

    fn report(&self, reason: String) {
        let failure = Failure { task: self.task.clone(), reason };
        error!(task = failure.task, reason = failure.reason, "essential task ended");
        if let Err(unsent) = self.failures.try_send(failure) {
            // An earlier failure is already ending the node.
            tracing::debug!(%unsent, "failure not reported twice");
        }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if self.armed && std::thread::panicking() {
            self.report("panicked".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_of_an_essential_task_is_reported_by_name() {
        let (mut supervisor, spawner) = Supervisor::new();
        spawner.spawn("pump", async { Err("dry") });
        let failure = supervisor.failure().await;
        assert_eq!(failure, Failure { task: "pump".into(), reason: "dry".into() });
    }

    #[tokio::test]
    async fn a_panic_of_an_essential_task_is_reported() {
        let (mut supervisor, spawner) = Supervisor::new();
        spawner.spawn::<_, Failure>("pump", async { panic!("expected in this test") });
        assert_eq!(supervisor.failure().await.reason, "panicked");
    }

    #[tokio::test]
    async fn a_task_on_a_thread_of_its_own_is_supervised_like_any_other() {
        let (mut supervisor, spawner) = Supervisor::new();
        let name = || std::thread::current().name().map(str::to_owned);
        spawner.spawn_on_thread("pump", async move { Err(name().unwrap_or_default()) }).expect("a thread");
        assert_eq!(supervisor.failure().await, Failure { task: "pump".into(), reason: "pump".into() });
        let panics = async { panic!("expected in this test") };
        spawner.spawn_on_thread::<_, Failure>("valve", panics).expect("a thread");
        assert_eq!(supervisor.failure().await, Failure { task: "valve".into(), reason: "panicked".into() });
    }

    #[test]
    fn a_task_on_a_thread_of_its_own_is_dropped_with_the_runtime() {
        struct Held(std::sync::mpsc::Sender<()>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.send(()).expect("the test waits for it");
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (_supervisor, spawner) = Supervisor::new();
        let (sender, dropped) = std::sync::mpsc::channel();
        let held = Held(sender);
        runtime.block_on(async {
            let task = async move {
                let _held = held;
                std::future::pending::<Result<(), Failure>>().await
            };
            spawner.spawn_on_thread("pump", task).expect("a thread");
            tokio::task::yield_now().await;
        });
        assert!(dropped.try_recv().is_err(), "it goes on");
        drop(runtime);
        dropped.try_recv().expect("it has ended");
    }

    #[tokio::test]
    async fn shutting_down_cancels_and_waits() {
        let (supervisor, spawner) = Supervisor::new();
        let token = spawner.child().token().clone();
        spawner.spawn("pump", async move {
            token.cancelled().await;
            Ok::<(), Failure>(())
        });
        assert!(supervisor.shut_down(Duration::from_secs(5)).await);
    }
}
