//! One pusher: messages that it was told are safe against samples that arrived.
//!
//! (Tag, source time) names a sample, and a sample's value follows from its message's number: so each one that
//! arrives is traced to the message that held it.

use crate::pusher::Content;
use model::{Timestamp, Value};

use super::{Filed, Number, SampleSeen};

/// What is known of one pusher.
#[derive(Debug)]
pub(super) struct PusherBook {
    content: Content,
    /// By number.
    messages: Vec<Message>,
    /// Samples that came under a second key.
    again: u64,
    /// Of these, the ones that no repetition explains, and values that are not what was sent.
    wrong: u64,
}

/// A message; a bit for each of its samples.
#[derive(Debug, Default, Clone, Copy)]
struct Message {
    base_time: i64,
    sends: u16,
    is_acknowledged: bool,
    got: u32,
    filed: u32,
    /// Samples that came under a second key, and rows of such.
    again: u16,
    filed_again: u16,
}

/// The pusher's part of the account, in samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PushedTally {
    /// Promised to be safe.
    pub(super) acknowledged: u64,
    /// Promised, and something later has arrived.
    pub(super) lost: u64,
    /// Promised, and may be on their way.
    pub(super) pending: u64,
    /// Came under a second key.
    pub(super) again: u64,
    /// Came changed, or oftener than sent.
    pub(super) wrong: u64,
}

impl PusherBook {
    pub(super) fn new(content: Content) -> Self {
        assert!(content.samples <= 32, "a message's samples have a bit each");
        Self { content, messages: Vec::new(), again: 0, wrong: 0 }
    }

    pub(super) fn sent(&mut self, number: u64, base_time: i64) {
        let at = number as usize;
        // Numbers are given in turn.
        if at == self.messages.len() {
            self.messages.push(Message { base_time, ..Message::default() });
        }
        if let Some(message) = self.messages.get_mut(at) {
            message.sends = message.sends.saturating_add(1);
        }
    }

    pub(super) fn acknowledged(&mut self, number: u64) {
        if let Some(message) = self.messages.get_mut(number as usize) {
            message.is_acknowledged = true;
        }
    }

    /// Takes a sample. `false` if it was never sent.
    pub(super) fn received(&mut self, sample: &SampleSeen) -> bool {
        let Some((number, index)) = self.find(&sample.tag, sample.source_time) else { return false };
        let is_equal = match (self.content.sample(number as u64, index).1, sample.value) {
            (Value::U64(sent), Some(Number::Whole(came))) => sent == came,
            (Value::F64(sent), Some(Number::Real(came))) => sent.to_bits() == came.to_bits(),
            _ => false,
        };
        self.wrong += u64::from(!is_equal);
        let message = &mut self.messages[number];
        if message.got & (1 << index) != 0 {
            self.again += 1;
            message.again = message.again.saturating_add(1);
            let most = usize::from(message.sends.saturating_sub(1)) * self.content.samples;
            self.wrong += u64::from(usize::from(message.again) > most);
        }
        message.got |= 1 << index;
        true
    }

    pub(super) fn filed(&mut self, tag: &str, source_time: Timestamp) -> Filed {
        let Some((number, index)) = self.find(tag, source_time) else { return Filed::Unknown };
        let message = &mut self.messages[number];
        if message.got & (1 << index) == 0 {
            return Filed::Unknown;
        }
        let is_filed = message.filed & (1 << index) != 0;
        message.filed |= 1 << index;
        message.filed_again = message.filed_again.saturating_add(u16::from(is_filed));
        // A message that was committed twice stands in files twice.
        if is_filed && message.filed_again > message.again { Filed::Twice } else { Filed::Expected }
    }

    pub(super) fn unfiled(&self) -> u64 {
        self.messages.iter().map(|message| u64::from((message.got & !message.filed).count_ones())).sum()
    }

    pub(super) fn settle(&self) -> PushedTally {
        let mut tally = PushedTally { again: self.again, wrong: self.wrong, ..PushedTally::default() };
        let samples = self.content.samples as u64;
        let mut has_later_come = false;
        for message in self.messages.iter().rev() {
            if message.is_acknowledged {
                tally.acknowledged += samples;
                let missing = samples - u64::from(message.got.count_ones());
                *if has_later_come { &mut tally.lost } else { &mut tally.pending } += missing;
            }
            has_later_come |= message.got != 0;
        }
        tally
    }

    /// Message and place of a sample.
    fn find(&self, tag: &str, source_time: Timestamp) -> Option<(usize, usize)> {
        let behind = self.messages.partition_point(|message| message.base_time <= source_time.0);
        let number = behind.checked_sub(1)?;
        let index = usize::try_from(source_time.0 - self.messages[number].base_time).ok()?;
        let is_known = index < self.content.samples && self.content.sample(number as u64, index).0 == tag;
        is_known.then_some((number, index))
    }
}
