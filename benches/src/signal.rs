//! A slowly changing measurement: what fills a gateway's log most of the time.

use model::{Reading, Sample, TagId, Timestamp, Value};
use rand::Rng;
use runtime::random::Random;

/// Largest step from one value to the next, as a share of the value's range.
const STEP: f32 = 0.000_5;
/// Range of the values: a temperature, a pressure, a speed.
const RANGE: f32 = 400.0;

/// Tags whose values wander: each step is random, small, and uses the whole mantissa of an `f32`.
#[derive(Debug, Clone)]
pub(crate) struct Signal {
    values: Vec<f32>,
    first_tag: u32,
    random: Random,
}

impl Signal {
    /// So many tags from `first_tag` on.
    pub(crate) fn new(tags: usize, first_tag: u32, mut random: Random) -> Self {
        let values = (0..tags).map(|_| random.random_range(0.0..RANGE)).collect();
        Self { values, first_tag, random }
    }

    /// A sample of every tag at each of `times` moments from `at` on, moment by moment.
    pub(crate) fn samples(&mut self, at: Timestamp, times: usize, apart_ns: i64) -> Vec<Sample> {
        let mut samples = Vec::with_capacity(times * self.values.len());
        for moment in 0..times {
            let source_time = at.plus_nanos(moment as i64 * apart_ns);
            for (place, value) in self.values.iter_mut().enumerate() {
                *value += self.random.random_range(-STEP..STEP) * RANGE;
                let reading = Reading::Good(Value::F32(*value));
                samples.push(Sample { tag: TagId(self.first_tag + place as u32), source_time, reading });
            }
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use runtime::random::generator;

    use super::*;

    #[test]
    fn neighbours_differ_a_little_and_always() {
        let mut signal = Signal::new(3, 10, generator(Some(1)));
        let samples = signal.samples(Timestamp(5), 100, 7);
        assert_eq!(samples.len(), 300);
        assert_eq!((samples[3].tag, samples[3].source_time), (TagId(10), Timestamp(12)));
        let value = |at: usize| match samples[at].reading {
            Reading::Good(Value::F32(value)) => value,
            ref other => panic!("{other:?} is no measurement"),
        };
        let steps: Vec<f32> = (3..300).map(|at| (value(at) - value(at - 3)).abs()).collect();
        assert!(steps.iter().all(|step| *step <= STEP * RANGE * 1.01));
        assert!(steps.iter().filter(|step| **step == 0.0).count() < 3);
    }
}
