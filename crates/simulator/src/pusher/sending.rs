//! Which messages are to be sent, which are on their way, and what became of them. No I/O but the history.
//!
//! - `messages` are in order of number; those sent on this stream come before those that are not, and have ascending
//!   sequences.
//! - A message leaves the queue when it is acknowledged or rejected, and otherwise never.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::{Clock, Timestamp};
use tokio::time::Instant;
use wire::proto::v1::push_request::Samples;
use wire::proto::v1::push_response::{Acknowledged, RefusalReason, Refused, Rejected};

use super::{Content, PushNote, PusherConfig, PusherStats};
use crate::history::{History, Kind};

pub(super) struct Sending {
    name: String,
    content: Content,
    clock: Arc<dyn Clock>,
    interval: Option<Duration>,
    limit: Option<u64>,
    history: Option<History>,
    stats: Arc<PusherStats>,
    endpoint: usize,
    window: usize,
    messages: VecDeque<Message>,
    /// How many of them are sent on this stream.
    sent: usize,
    next_sequence: u64,
    next_number: u64,
    settled: u64,
    last_time: Timestamp,
    due: Option<Instant>,
}

struct Message {
    number: u64,
    base_time: Timestamp,
    attempts: u32,
    first_sent: Instant,
    sequence: u64,
}

impl Sending {
    pub(super) fn new(config: &PusherConfig, history: Option<History>, stats: Arc<PusherStats>) -> Self {
        Self {
            name: config.name.clone(),
            content: config.content.clone(),
            clock: config.clock.clone(),
            interval: config.interval,
            limit: config.messages,
            history,
            stats,
            endpoint: 0,
            window: 0,
            messages: VecDeque::with_capacity(config.window),
            sent: 0,
            next_sequence: 1,
            next_number: 0,
            settled: 0,
            last_time: Timestamp(i64::MIN),
            due: None,
        }
    }

    /// A new stream: everything goes out again.
    pub(super) fn begin(&mut self, endpoint: usize, window: usize) {
        self.endpoint = endpoint;
        self.window = window;
        self.sent = 0;
        self.next_sequence = 1;
    }

    /// The stream is left; what is on its way may or may not have been committed.
    pub(super) fn leave(&mut self, why: &str) {
        for index in 0..self.sent {
            self.note(index, Kind::Info, PushNote { reason: Some(why.to_owned()), ..PushNote::default() });
        }
        let unanswered = self.messages.iter().take(self.sent).filter(|message| message.sequence > 0).count();
        count(&self.stats.unanswered, unanswered as u64);
        self.sent = 0;
    }

    /// The next message to send, if one is due and the window allows it.
    pub(super) fn next(&mut self, now: Instant, accepts_new: bool) -> Option<Samples> {
        if self.sent >= self.window {
            return None;
        }
        if self.sent == self.messages.len() && !(accepts_new && self.make(now)) {
            return None;
        }
        let index = self.sent;
        self.sent += 1;
        let message = &mut self.messages[index];
        message.sequence = self.next_sequence;
        message.attempts += 1;
        let samples = self.content.message(message.sequence, message.number, message.base_time);
        self.next_sequence += 1;
        count(&self.stats.sent, 1);
        self.note(index, Kind::Invoke, PushNote::default());
        Some(samples)
    }

    /// When the next new message is due, where that is what sending waits for.
    pub(super) fn due(&self) -> Option<Instant> {
        let has_room = self.sent < self.window && self.sent == self.messages.len();
        self.due.filter(|_| has_room && self.limit.is_none_or(|limit| self.next_number < limit))
    }

    /// Whether all that should be sent is settled.
    pub(super) fn is_done(&self) -> bool {
        self.limit.is_some_and(|limit| self.settled >= limit)
    }

    /// Messages that were made and are neither acknowledged nor rejected.
    pub(super) fn unsettled(&self) -> u64 {
        self.messages.len() as u64
    }

    /// Whether an answer is to come on this stream.
    pub(super) fn has_unanswered(&self) -> bool {
        self.sent > 0
    }

    pub(super) fn acknowledge(&mut self, run: &Acknowledged) {
        let now = Instant::now();
        let stats = self.stats.clone();
        let mut latencies = stats.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (offset, sequence) in (run.first..=run.last).enumerate() {
            let Some(index) = self.find(sequence) else { continue };
            if self.history.is_some() {
                let note = PushNote {
                    position: run.position,
                    lineage: run.position.map(|_| run.lineage.clone()),
                    ordinal: run.ordinals.get(offset).copied(),
                    ..PushNote::default()
                };
                self.note(index, Kind::Ok, note);
            }
            latencies.record(now - self.settle(index).first_sent);
            count(&self.stats.acknowledged, 1);
        }
    }

    pub(super) fn reject(&mut self, rejected: &Rejected) {
        let Some(index) = self.find(rejected.sequence) else { return };
        let reasons: Vec<_> = rejected.reasons.iter().map(|reason| reason.text.as_str()).collect();
        self.note(index, Kind::Fail, PushNote { reason: Some(reasons.join("; ")), ..PushNote::default() });
        self.settle(index);
        count(&self.stats.rejected, 1);
    }

    /// The messages were not taken. They are not on their way any more, and neither is anything behind them.
    pub(super) fn refuse(&mut self, run: &Refused) {
        let kind = match run.reason() {
            RefusalReason::Undecided => Kind::Info,
            _ => Kind::Fail,
        };
        for sequence in run.first..=run.last {
            let Some(index) = self.find(sequence) else { continue };
            self.note(index, kind, PushNote { reason: Some(run.text.clone()), ..PushNote::default() });
            // Told; `leave` shall not speak of it again.
            self.messages[index].sequence = 0;
            count(&self.stats.refused, 1);
        }
    }

    /// Makes a new message, if one is due.
    fn make(&mut self, now: Instant) -> bool {
        if self.limit.is_some_and(|limit| self.next_number >= limit) {
            return false;
        }
        if let Some(interval) = self.interval {
            let due = *self.due.get_or_insert(now);
            if due > now {
                return false;
            }
            // A late pusher does not hurry: it keeps its pace from here.
            self.due = Some((due + interval).max(now));
        }
        let base_time = self.clock.now().max(self.last_time);
        self.last_time = base_time.plus_nanos(self.content.samples as i64);
        let number = self.next_number;
        self.next_number += 1;
        self.messages.push_back(Message { number, base_time, attempts: 0, first_sent: now, sequence: 0 });
        true
    }

    /// Index of a message on its way. Nearly always the first.
    fn find(&self, sequence: u64) -> Option<usize> {
        self.messages.iter().take(self.sent).position(|message| message.sequence == sequence && sequence > 0)
    }

    fn settle(&mut self, index: usize) -> Message {
        self.sent -= 1;
        self.settled += 1;
        self.messages.remove(index).expect("was found")
    }

    fn note(&self, index: usize, kind: Kind, note: PushNote) {
        let Some(history) = &self.history else { return };
        let message = &self.messages[index];
        if message.sequence == 0 {
            return;
        }
        let note = PushNote {
            number: message.number,
            attempt: message.attempts - 1,
            base_time: message.base_time.0,
            endpoint: self.endpoint,
            ..note
        };
        history.record(&self.name, kind, "push", &note);
    }
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
