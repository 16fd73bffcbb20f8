//! Pushers: each has a stream to one node, in which its messages are numbered, a window of them without an answer, and goes
//! back to the first that was refused.
//!
//! - A stream that breaks, or whose node is gone, is followed by another one to any node, which begins with the first message
//!   that was not acknowledged: what the old one held may be there, and is then there twice.
//! - What a stream is answered comes from the product; so does everything between a message and the log.

use rand::Rng as _;
use runtime::random::Random;
use wire::proto::v1::push_response::Content;

use crate::orders::Order;
use crate::world::{MACHINES, World};

/// Messages of one pusher without an answer.
const WINDOW: u32 = 8;
/// Messages that are sent together, at most.
const MESSAGES: u32 = 3;
/// How often it sends, for each millisecond in which it may.
const EAGERNESS: f64 = 0.1;
/// How long it waits after something went wrong, in milliseconds.
const PAUSE: u64 = 20;

/// What a message says: whose it is, and its number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) pusher: u32,
    pub(crate) number: u32,
}

impl Message {
    /// The value of its only sample.
    pub(crate) fn to_value(self) -> u64 {
        u64::from(self.pusher) << 32 | u64::from(self.number)
    }

    /// The message with such a sample.
    pub(crate) fn from_value(value: u64) -> Self {
        Self { pusher: (value >> 32) as u32, number: value as u32 }
    }
}

/// Some messages, to be sent over one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Messages {
    /// Which of the pusher's streams; another one than before is to be opened.
    pub(crate) stream: u64,
    /// The number of the first in its stream.
    pub(crate) sequence: u64,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Where it goes on when something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// With this message, over the same stream.
    To(u32),
    /// Over another stream.
    Elsewhere,
}

/// One pusher.
#[derive(Debug)]
pub(crate) struct Pusher {
    number: u32,
    /// The machine whose node takes its messages.
    at: usize,
    stream: u64,
    /// The message that was the first of the stream.
    base: u32,
    /// The next message to be sent.
    next: u32,
    /// Everything up to here is acknowledged.
    acknowledged: u32,
    /// Messages of the stream without an answer.
    unanswered: u32,
    /// Something went wrong: nothing is sent before all is answered.
    goes_back: Option<Back>,
    pause_until: u64,
}

impl Pusher {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number: number as u32,
            at: number % MACHINES,
            stream: 1,
            base: 1,
            next: 1,
            acknowledged: 0,
            unanswered: 0,
            goes_back: None,
            pause_until: 0,
        }
    }

    /// The last message that was acknowledged.
    pub(crate) fn acknowledged(&self) -> u32 {
        self.acknowledged
    }

    /// Whether everything was answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.unanswered == 0
    }

    /// The node of a machine will not answer any more.
    pub(crate) fn lose_machine(&mut self, machine: usize) {
        if self.at == machine {
            self.abandon();
        }
    }

    /// The stream is over; whatever else is said of it comes too late.
    fn abandon(&mut self) {
        (self.unanswered, self.goes_back) = (0, Some(Back::Elsewhere));
    }

    /// What it sends now, if anything.
    fn send(&mut self, now: u64, random: &mut Random) -> Option<Messages> {
        if self.unanswered == 0 {
            match self.goes_back.take() {
                Some(Back::To(message)) => self.next = message,
                Some(Back::Elsewhere) => {
                    self.stream += 1;
                    self.at = random.random_range(0..MACHINES);
                    (self.base, self.next) = (self.acknowledged + 1, self.acknowledged + 1);
                }
                None => {}
            }
        }
        let may = self.goes_back.is_none() && now >= self.pause_until && self.unanswered < WINDOW;
        if !may || !random.random_bool(EAGERNESS) {
            return None;
        }
        let (first, count) = (self.next, random.random_range(1..=MESSAGES));
        self.next += count;
        self.unanswered += count;
        Some(Messages { stream: self.stream, sequence: u64::from(first - self.base) + 1, first, count })
    }

    /// The message with a number in the stream.
    fn message(&self, sequence: u64) -> u32 {
        self.base + sequence.saturating_sub(1) as u32
    }

    /// Takes what its stream is answered. An error is a promise that was broken.
    fn hear(&mut self, now: u64, answer: &Content) -> Result<(), String> {
        match answer {
            Content::Welcome(_) | Content::Declared(_) => {}
            Content::Acknowledged(run) => {
                let (first, last) = (self.message(run.first), self.message(run.last));
                if first != self.acknowledged + 1 {
                    return Err(format!(
                        "message {first} of pusher {} is acknowledged after {}",
                        self.number, self.acknowledged
                    ));
                }
                self.acknowledged = last;
                self.unanswered = self.unanswered.saturating_sub(last - first + 1);
            }
            Content::Refused(run) => {
                let expected = self.message(run.expected);
                if expected <= self.acknowledged {
                    return Err(format!(
                        "message {expected} of pusher {} is expected, and {} had been acknowledged",
                        self.number, self.acknowledged
                    ));
                }
                let refused = u32::try_from(run.last - run.first + 1).unwrap_or(u32::MAX);
                self.unanswered = self.unanswered.saturating_sub(refused);
                self.goes_back = Some(Back::To(expected));
                self.pause_until = now + PAUSE.max(u64::from(run.retry_after_ms));
            }
            // By a node that had not heard of the plant yet.
            Content::Rejected(_) => {
                self.abandon();
                self.pause_until = now + PAUSE;
            }
        }
        Ok(())
    }
}

/// Lets every pusher send what it has to.
pub(crate) fn push(world: &mut World, random: &mut Random) {
    let now = world.now();
    for number in 0..world.pushers.len() {
        let Some(messages) = world.pushers[number].send(now, random) else { continue };
        let at = world.pushers[number].at;
        if world.machines[at].view.is_some() {
            world.machines[at].orders.push_back(Order::Push { pusher: number, messages });
        } else {
            // Nobody listens there.
            world.pushers[number].abandon();
        }
    }
}

/// A stream of a pusher is answered by the node of `machine`.
pub(crate) fn heard(world: &mut World, machine: usize, (number, stream): (usize, u64), answer: &Content) {
    let now = world.now();
    let pusher = &mut world.pushers[number];
    if pusher.stream != stream || pusher.goes_back == Some(Back::Elsewhere) {
        return;
    }
    let heard = pusher.hear(now, answer);
    let message = Message { pusher: pusher.number, number: pusher.acknowledged };
    world.check(heard);
    match answer {
        Content::Welcome(_) | Content::Declared(_) => {}
        Content::Acknowledged(_) => {
            world.account.acknowledged(message);
            world.note(Some(machine), format!("pusher {number} is acknowledged up to {}", message.number));
        }
        Content::Refused(run) => {
            let what = format!("pusher {number} is refused {} to {}: {}", run.first, run.last, run.text);
            world.note(Some(machine), what);
        }
        Content::Rejected(_) => world.note(Some(machine), format!("pusher {number} is not understood")),
    }
}

/// A stream of a pusher is over.
pub(crate) fn lost(world: &mut World, (number, stream): (usize, u64)) {
    let now = world.now();
    let pusher = &mut world.pushers[number];
    if pusher.stream == stream {
        pusher.abandon();
        pusher.pause_until = now + PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use runtime::random::generator;
    use wire::proto::v1::push_response::{Acknowledged, Refused};

    use super::*;

    fn acknowledged(first: u64, last: u64) -> Content {
        Content::Acknowledged(Acknowledged { first, last, ..Acknowledged::default() })
    }

    fn refused(first: u64, last: u64, expected: u64) -> Content {
        Content::Refused(Refused { first, last, expected, ..Refused::default() })
    }

    /// The first messages that it sends, however long that takes.
    fn sent(pusher: &mut Pusher, random: &mut Random) -> Messages {
        (1_000..).find_map(|now| pusher.send(now, random)).expect("it sends some time")
    }

    #[test]
    fn a_message_is_read_back_from_its_value() {
        let message = Message { pusher: 2, number: 70_000 };
        assert_eq!(Message::from_value(message.to_value()), message);
    }

    #[test]
    fn what_was_refused_is_sent_again_over_the_same_stream_when_all_is_answered() {
        let (mut pusher, mut random) = (Pusher::new(0), generator(Some(7)));
        let first = sent(&mut pusher, &mut random);
        let second = sent(&mut pusher, &mut random);
        let last = u64::from(second.first + second.count - 1);
        assert_eq!(pusher.hear(0, &refused(2, last, 2)), Ok(()));
        assert_eq!(pusher.send(1_000, &mut random), None, "the first has no answer");
        assert_eq!(pusher.hear(0, &acknowledged(1, 1)), Ok(()));
        let again = sent(&mut pusher, &mut random);
        assert_eq!((again.stream, again.sequence, again.first), (first.stream, 2, 2));
    }

    #[test]
    fn another_stream_begins_with_the_first_message_that_was_not_acknowledged() {
        let (mut pusher, mut random) = (Pusher::new(0), generator(Some(7)));
        sent(&mut pusher, &mut random);
        assert_eq!(pusher.hear(0, &acknowledged(1, 1)), Ok(()));
        pusher.lose_machine(pusher.at);
        let again = sent(&mut pusher, &mut random);
        assert_eq!((again.stream, again.sequence, again.first), (2, 1, 2));
        assert!(pusher.hear(0, &acknowledged(2, 2)).is_err(), "the one before it is missing");
        assert_eq!(pusher.hear(0, &acknowledged(1, 1)), Ok(()));
        assert!(pusher.hear(0, &refused(2, 2, 1)).is_err(), "it had been acknowledged");
    }
}
