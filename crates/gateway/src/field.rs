//! Questions to the field from outside the poll groups: probing a device, reading a tag now.
//!
//! - They are put to acquisition, which alone has connections: the same driver, the same owner task for each host and
//!   port, the same permit. Where nothing is acquired there is nobody to ask.
//! - A question is asked request by request, in the queue that polls use: a poll waits for one request of it at most.
//! - It has an end: a request that does not begin in time is given up, and after the first silence nothing more is sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drivers::ScanError;
use drivers::modbus::ModbusDevice;
use drivers::modbus::decode::RawView;
use model::plant::{Device, ModbusPoint};
use model::{Clock, Reading, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Questions that wait while acquisition is busy with its configuration; each is one call of the API.
const WAITING: usize = 8;
/// How long one request may wait for its turn on a shared connection.
const TURN: Duration = Duration::from_secs(3);

/// The way to acquisition, while there is one. Cheap to clone.
#[derive(Clone, Default)]
pub struct FieldDoor {
    current: Arc<Mutex<Option<mpsc::Sender<Question>>>>,
}

/// Addresses of one device, to be read now.
pub(crate) struct Question {
    pub(crate) device: Device,
    pub(crate) points: Vec<ModbusPoint>,
    /// Nothing is begun after this.
    pub(crate) until: Instant,
    answer: oneshot::Sender<Answers>,
}

/// What reading one address gave: its words, or the reading that stands for the device's refusal.
pub(crate) type Answer = Result<Result<RawView, Reading>, ScanError>;

/// What the device said.
#[derive(Debug)]
pub(crate) struct Answers {
    /// In the order asked for, with the time of each; shorter where the device fell silent.
    pub(crate) answers: Vec<(Timestamp, Answer)>,
    pub(crate) took: Duration,
}

/// Nothing is acquired on this node now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NobodyAcquires;

/// The questions of one reign. Dropping it closes the door.
pub(crate) struct Questions {
    door: FieldDoor,
    queue: mpsc::Receiver<Question>,
}

impl FieldDoor {
    /// Opens the door for one reign.
    pub(crate) fn open(&self) -> Questions {
        let (sender, queue) = mpsc::channel(WAITING);
        self.set(Some(sender));
        Questions { door: self.clone(), queue }
    }

    /// Asks a device.
    pub(crate) async fn ask(
        &self,
        device: Device,
        points: Vec<ModbusPoint>,
        until: Instant,
    ) -> Result<Answers, NobodyAcquires> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (answer, answered) = oneshot::channel();
        let question = Question { device, points, until, answer };
        current.ok_or(NobodyAcquires)?.send(question).await.map_err(|_| NobodyAcquires)?;
        answered.await.map_err(|_| NobodyAcquires)
    }

    fn set(&self, sender: Option<mpsc::Sender<Question>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = sender;
    }
}

impl Questions {
    /// The next question; never, while nobody asks.
    pub(crate) async fn next(&mut self) -> Question {
        match self.queue.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.door.set(None);
    }
}

impl Question {
    /// Puts it to the device's driver, and answers.
    pub(crate) async fn put(self, driver: Arc<ModbusDevice>, clock: Arc<dyn Clock>) {
        let begun = Instant::now();
        let mut answers = Vec::with_capacity(self.points.len());
        for point in &self.points {
            let start_by = (Instant::now() + TURN).min(self.until);
            let answer = driver.probe(point, start_by).await;
            let is_over = answer.is_err();
            answers.push((clock.now(), answer));
            if is_over {
                break;
            }
        }
        if self.answer.send(Answers { answers, took: begun.elapsed() }).is_err() {
            tracing::debug!(device = self.device.id, "nobody waits for what a device answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use model::plant::Link;

    use super::*;

    fn device() -> Device {
        Device {
            id: "press".into(),
            link: Link::Push,
            enabled: true,
            labels: Default::default(),
            description: String::new(),
            groups: Vec::new(),
        }
    }

    #[tokio::test]
    async fn where_nothing_is_acquired_there_is_nobody_to_ask() {
        let door = FieldDoor::default();
        let ask = || door.ask(device(), Vec::new(), Instant::now());
        assert_eq!(ask().await.err(), Some(NobodyAcquires), "no reign has begun");
        let questions = door.open();
        drop(questions);
        assert_eq!(ask().await.err(), Some(NobodyAcquires), "the reign is over");
    }

    #[tokio::test]
    async fn a_question_that_is_dropped_unanswered_says_so() {
        let door = FieldDoor::default();
        let mut questions = door.open();
        let asked = door.ask(device(), Vec::new(), Instant::now());
        let (answer, ()) = tokio::join!(asked, async { drop(questions.next().await) });
        assert_eq!(answer.err(), Some(NobodyAcquires));
    }
}
