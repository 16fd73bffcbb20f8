//! A histogram of durations in fixed memory: 1 µs to more than an hour, to within one part in sixteen.

use std::time::Duration;

/// Buckets for each power of two.
const PARTS: usize = 16;
const PARTS_LOG2: u32 = PARTS.trailing_zeros();
/// Up to 2³² µs.
const POWERS: usize = 32;

/// How often which duration was seen.
#[derive(Debug, Clone)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; POWERS * PARTS], count: 0, longest: Duration::ZERO }
    }
}

impl Latencies {
    /// Notes a duration.
    pub fn record(&mut self, latency: Duration) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.longest = self.longest.max(latency);
    }

    /// Adds what another histogram has seen.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    /// How many durations were noted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The duration that the share `quantile` (0 to 1) does not exceed, rounded up to the bucket's end; zero where
    /// nothing was noted.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = ((self.count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return Duration::from_micros(end_of(index)).min(self.longest);
            }
        }
        Duration::ZERO
    }
}

/// Small values have a bucket each; above, each power of two is cut into [`PARTS`].
fn bucket(micros: u32) -> usize {
    if (micros as usize) < PARTS {
        return micros as usize;
    }
    let power = micros.ilog2();
    let part = (micros >> (power - PARTS_LOG2)) as usize - PARTS;
    (power - PARTS_LOG2 + 1) as usize * PARTS + part
}

/// The largest value of a bucket.
fn end_of(index: usize) -> u64 {
    if index < PARTS {
        return index as u64;
    }
    let (shift, part) = (index / PARTS - 1, index % PARTS);
    (((PARTS + part + 1) as u64) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_ends_where_the_next_begins() {
        for micros in (0..5_000).chain([u32::MAX - 1, u32::MAX]) {
            let index = bucket(micros);
            assert!(index < POWERS * PARTS);
            assert!(u64::from(micros) <= end_of(index), "{micros} µs lies beyond its bucket {index}");
            assert!(
                index == 0 || u64::from(micros) > end_of(index - 1),
                "{micros} µs belongs to an earlier bucket"
            );
        }
    }

    #[test]
    fn quantiles_are_within_one_part_in_sixteen() {
        let mut latencies = Latencies::default();
        for millis in 1..=1_000 {
            latencies.record(Duration::from_millis(millis));
        }
        for (quantile, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = latencies.quantile(quantile).as_secs_f64() * 1_000.0;
            assert!(found >= expected && found <= expected * 17.0 / 16.0, "{quantile}: {found} ms");
        }
        assert_eq!((latencies.count(), latencies.longest()), (1_000, Duration::from_secs(1)));
        assert_eq!(Latencies::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn merging_adds() {
        let (mut left, mut right) = (Latencies::default(), Latencies::default());
        left.record(Duration::from_millis(1));
        right.record(Duration::from_secs(9));
        left.merge(&right);
        assert_eq!((left.count(), left.longest()), (2, Duration::from_secs(9)));
    }
}
