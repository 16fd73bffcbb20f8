//! A thread that does blocking jobs one after the other, for callers that must not block.
//!
//! - A job that was handed over is done, also when nobody waits for its answer any more.
//! - [`Worker::finish`] returns when all of them are.

use std::thread::{Builder, JoinHandle};

use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::EngineError;

/// Callers wait for their answer before they come again, so there are seldom two; more just wait outside.
const QUEUE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub(super) struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(name: &str) -> std::io::Result<Self> {
        let (sender, mut receiver) = mpsc::channel::<Job>(QUEUE);
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(job) = receiver.blocking_recv() {
                job();
            }
        })?;
        Ok(Self { jobs: Some(sender), thread: Some(thread) })
    }

    /// Does a job on the thread. The time it takes is the disk's; the caller bounds it where it must.
    pub(super) async fn run<J>(&self, operation: &'static str, job: J) -> Result<(), EngineError>
    where
        J: FnOnce() -> Result<(), EngineError> + Send + 'static,
    {
        let ended = || EngineError::Failed { operation, reason: "its thread has ended".to_owned() };
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody listens if the caller was cancelled; the job itself keeps what later ones must know.
            let _ = answer.send(job());
        });
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Waits until all jobs are done and ends the thread.
    pub(super) fn finish(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("a thread of the store panicked");
        }
    }
}
