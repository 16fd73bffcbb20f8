//! File work off the runtime: one piece at a time for each owner, each bounded in time.
//!
//! - A thread cannot be stopped. Work that outlives its time-out (a dead network share) keeps its thread, and no
//!   further work of this owner begins before that one has ended: one owner never blocks two threads.
//! - A caller that is dropped while it waits leaves the work to finish; the next call waits for it first.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::destination::DeliverError;

/// Runs blocking work for one owner.
#[derive(Debug)]
pub(crate) struct Blocking {
    timeout: Duration,
    running: Option<JoinHandle<()>>,
}

impl Blocking {
    /// A runner whose pieces of work may each take `timeout`.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, running: None }
    }

    /// Runs `work` on a thread for blocking work; an answer that does not come in time is
    /// [`DeliverError::Unavailable`].
    pub(crate) async fn run<T, W>(&mut self, work: W) -> Result<T, DeliverError>
    where
        T: Send + 'static,
        W: FnOnce() -> Result<T, DeliverError> + Send + 'static,
    {
        if let Some(running) = &mut self.running {
            let ended = tokio::time::timeout(self.timeout, running).await;
            if ended.is_err() {
                return Err(self.too_slow());
            }
            self.running = None;
        }
        let (answer, waiting) = oneshot::channel();
        self.running = Some(tokio::task::spawn_blocking(move || {
            if answer.send(work()).is_err() {
                tracing::debug!("file work finished after its caller had left");
            }
        }));
        match tokio::time::timeout(self.timeout, waiting).await {
            Ok(Ok(result)) => {
                self.running = None;
                result
            }
            Ok(Err(_)) => Err(DeliverError::unavailable("file work ended without an answer")),
            Err(_) => Err(self.too_slow()),
        }
    }

    fn too_slow(&self) -> DeliverError {
        DeliverError::unavailable(format!("the file system has not answered for {:?}", self.timeout))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_is_given_up_and_blocks_one_thread_only() {
        let mut blocking = Blocking::new(Duration::from_millis(20));
        let (release, held) = mpsc::sync_channel::<()>(0);
        let hung = blocking.run(move || held.recv().map_err(|_| DeliverError::unavailable("released"))).await;
        assert!(matches!(hung, Err(DeliverError::Unavailable { .. })));
        let second = blocking.run(|| Ok(1)).await;
        assert!(second.is_err(), "the first still runs: {second:?}");
        drop(release);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while blocking.run(|| Ok(1)).await != Ok(1) {
            assert!(tokio::time::Instant::now() < deadline, "work goes on once the thread is free");
        }
    }
}
