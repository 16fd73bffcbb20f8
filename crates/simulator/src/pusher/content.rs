//! What a pusher sends: values from which anybody can tell what is missing, repeated or changed.
//!
//! - A message is made from the pusher's seed and its number alone; a repetition is equal to the bit.
//! - The counter tag has the values 0, 1, 2 … without a hole. The body tags have pseudo-random values, numbers or
//!   bytes; neither can be compressed.
//! - Source times of a pusher whose samples are 1 ns apart never repeat: (tag, source time) names a sample.

use model::{Timestamp, Value};
use wire::proto::v1::push_request::{Declare, DeclaredTag, Samples, Type};

/// What a body tag holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    /// A number between 0 and 1, type `f64`.
    #[default]
    Number,
    /// So many bytes, type `bytes`.
    Bytes(usize),
}

/// The shape of a pusher's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Full id of the counter tag; its type must be `u64`.
    pub counter: String,
    /// Full ids of the body tags; their type must be that of `body`.
    pub bodies: Vec<String>,
    /// What the bodies hold.
    pub body: Body,
    /// Samples of one message; at least one. The first is the counter's, the others go round the bodies.
    pub samples: usize,
    /// From one sample of a message to the next, in nanoseconds; 1 where each is to be named by its tag and time.
    pub apart_ns: i64,
    /// What the bodies are made from.
    pub seed: u64,
}

impl Content {
    /// Tag and value of sample `index` of message `number` (both from 0).
    pub fn sample(&self, number: u64, index: usize) -> (&str, Value) {
        match self.body_of(index) {
            None => (&self.counter, Value::U64(self.count(number, index))),
            Some(body) => (&self.bodies[body], self.value(number, index)),
        }
    }

    pub(super) fn declare(&self) -> Declare {
        let counter = DeclaredTag { name: self.counter.clone(), r#type: Type::U64.into() };
        let of_body = match self.body {
            Body::Number => Type::F64,
            Body::Bytes(_) => Type::Bytes,
        };
        let body = |name: &String| DeclaredTag { name: name.clone(), r#type: of_body.into() };
        Declare { tags: std::iter::once(counter).chain(self.bodies.iter().map(body)).collect() }
    }

    /// The message.
    pub(super) fn message(&self, sequence: u64, number: u64, base_time: Timestamp) -> Samples {
        let mut message = Samples {
            sequence,
            base_time: base_time.0,
            tags: Vec::with_capacity(self.samples),
            times: (0..self.samples as i64).map(|index| index * self.apart_ns).collect(),
            doubles: Vec::with_capacity(self.samples),
            ..Samples::default()
        };
        for index in 0..self.samples {
            match self.body_of(index) {
                None => {
                    message.tags.push(0);
                    message.unsigned.push(self.count(number, index));
                }
                Some(body) => {
                    message.tags.push(body as u32 + 1);
                    match self.body {
                        Body::Number => message.doubles.push(self.number(number, index)),
                        Body::Bytes(length) => message.blobs.push(self.bytes(number, index, length).into()),
                    }
                }
            }
        }
        message
    }

    /// The message as bytes, for a system that takes any.
    pub fn encoded(&self, number: u64, base_time: Timestamp) -> Vec<u8> {
        self.message(number + 1, number, base_time).to_bytes()
    }

    fn body_of(&self, index: usize) -> Option<usize> {
        (index > 0 && !self.bodies.is_empty()).then(|| (index - 1) % self.bodies.len())
    }

    /// Without bodies every sample is a count.
    fn count(&self, number: u64, index: usize) -> u64 {
        if self.bodies.is_empty() { number * self.samples as u64 + index as u64 } else { number }
    }

    fn value(&self, number: u64, index: usize) -> Value {
        match self.body {
            Body::Number => Value::F64(self.number(number, index)),
            Body::Bytes(length) => Value::Bytes(self.bytes(number, index, length).into()),
        }
    }

    /// Between 0 and 1, with all 53 bits in use.
    fn number(&self, number: u64, index: usize) -> f64 {
        (self.bits(number, index) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn bytes(&self, number: u64, index: usize, length: usize) -> Vec<u8> {
        let mut word = self.bits(number, index);
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            word = mix(word);
            bytes.extend(word.to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn bits(&self, number: u64, index: usize) -> u64 {
        mix(self.seed ^ mix(number.wrapping_mul(self.samples as u64).wrapping_add(index as u64)))
    }
}

/// The output step of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(bodies: usize) -> Content {
        let bodies = (0..bodies).map(|body| format!("line/body-{body}")).collect();
        Content {
            counter: "line/count".into(),
            bodies,
            body: Body::Number,
            samples: 100,
            apart_ns: 1,
            seed: 4,
        }
    }

    #[test]
    fn a_message_holds_what_its_samples_say() {
        let content = content(3);
        let message = content.message(1, 77, Timestamp(5));
        let mut doubles = message.doubles.iter();
        for index in 0..100 {
            let (tag, value) = content.sample(77, index);
            let declared = &content.declare().tags[message.tags[index] as usize].name;
            assert_eq!(declared, tag);
            match value {
                Value::U64(count) => assert_eq!((count, &message.unsigned[..]), (77, &[77][..])),
                Value::F64(body) => assert_eq!(doubles.next(), Some(&body)),
                other => panic!("no sample is {other:?}"),
            }
        }
        assert_eq!(doubles.next(), None);
        assert_eq!(message, content.message(1, 77, Timestamp(5)));
        assert_ne!(message.doubles, content.message(1, 78, Timestamp(5)).doubles);
    }

    #[test]
    fn bodies_of_bytes_are_as_long_as_they_should_be_and_repeat_to_the_bit() {
        let content = Content { body: Body::Bytes(21), ..content(2) };
        let message = content.message(1, 9, Timestamp(0));
        assert_eq!((message.unsigned.len(), message.blobs.len(), message.doubles.len()), (1, 99, 0));
        assert_eq!(content.sample(9, 1).1, Value::Bytes(message.blobs[0].to_vec().into()));
        assert!(message.blobs.iter().all(|blob| blob.len() == 21));
        assert_ne!(message.blobs[0], message.blobs[1]);
        assert!(content.declare().tags[1..].iter().all(|tag| tag.r#type() == Type::Bytes));
    }

    #[test]
    fn without_bodies_the_counter_goes_on_from_message_to_message() {
        let content = content(0);
        assert_eq!(content.message(1, 0, Timestamp(0)).unsigned.last(), Some(&99));
        assert_eq!(content.message(2, 1, Timestamp(0)).unsigned.first(), Some(&100));
    }
}
