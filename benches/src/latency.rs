//! How long something took, many times.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::table::millis;

/// In microseconds: an hour. What is longer counts as this.
const LONGEST: u64 = 3_600_000_000;

/// Durations from a microsecond to an hour, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_max(LONGEST, 3).expect("these bounds are possible"))
    }
}

impl Times {
    /// Notes a duration.
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds what another one has seen.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// How many were noted.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration that this share (0 to 1) does not exceed.
    pub(crate) fn quantile(&mut self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The longest.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// `p50 1.20 ms, p99 3.40 ms, longest 12 ms`.
    pub(crate) fn summary(&mut self) -> String {
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        format!("p50 {}, p99 {}, longest {}", millis(p50), millis(p99), millis(self.longest()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_noted() {
        let mut times = Times::default();
        let mut late = Times::default();
        (1..=99).for_each(|time| times.record(Duration::from_millis(time)));
        late.record(Duration::from_secs(2));
        times.merge(&late);
        assert_eq!(times.count(), 100);
        assert_eq!(times.summary(), "p50 50 ms, p99 99 ms, longest 2001 ms");
    }
}
