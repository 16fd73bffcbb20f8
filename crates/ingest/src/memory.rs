//! The memory of a node for unanswered messages, in bytes.
//!
//! - Nobody has a place in a queue for it. A stream is not polled while its client does not read its answers: it would be
//!   given what the others free, would not take it, and would never give it back.
//! - So who waits looks again whenever something was given back, and takes nothing before it can go on. Who has waited
//!   longest is woken first.
//! - Who has not waited gives way, once: those who wait have been woken, and look before it goes on. A stream whose
//!   client always has more would else take again what its own answers free, before anybody else has looked.
//! - No stream reads before there is room for the largest message, so small ones do not slip in before a large one.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What all streams share.
#[derive(Debug)]
pub(crate) struct Memory {
    bytes: Arc<Semaphore>,
    freed: Arc<Notify>,
    /// One reference here, and one for each who waits.
    waiting: Arc<()>,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Memory {
    pub(crate) fn new(bytes: u32) -> Self {
        Self {
            bytes: Arc::new(Semaphore::new(bytes as usize)),
            freed: Arc::default(),
            waiting: Arc::default(),
        }
    }

    /// Bytes that nobody has.
    pub(crate) fn free(&self) -> usize {
        self.bytes.available_permits()
    }

    /// Whether so many are free.
    pub(crate) fn has(&self, bytes: u32) -> bool {
        self.free() >= bytes as usize
    }

    /// Takes so many, if they are free.
    pub(crate) fn take(&self, bytes: u32) -> Option<Room> {
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some(Room { permit: Some(permit), freed: Arc::clone(&self.freed) })
    }

    /// Lets those who wait look first, if anybody does. Who waits and is not polled holds nobody up.
    pub(crate) async fn give_way(&self) {
        if Arc::strong_count(&self.waiting) > 1 {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until so many are free.
    pub(crate) async fn wait_for(&self, bytes: u32) {
        self.wait_until(|| self.has(bytes).then_some(())).await;
    }

    /// Waits until so many are free, and takes them.
    pub(crate) async fn wait_to_take(&self, bytes: u32) -> Room {
        self.wait_until(|| self.take(bytes)).await
    }

    async fn wait_until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        let _waits = Arc::clone(&self.waiting);
        loop {
            // Made before the look, it resolves by whatever is given back after it.
            let freed = self.freed.notified();
            if let Some(found) = look() {
                return found;
            }
            freed.await;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.freed.notify_waiters();
    }
}
