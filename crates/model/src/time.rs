//! Wall-clock time: nanoseconds since 1970-01-01T00:00:00Z in an `i64` (until the year 2262).
//!
//! Order never comes from here; it comes from positions. Durations within a reign are measured on the monotonic
//! clock, which is the runtime's; only the wall clock is injected, through [`Clock`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::ids::InvalidId;

/// A moment on the wall clock: nanoseconds since 1970, UTC. Prints as RFC 3339 with nine decimals and `Z`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment from whole milliseconds since 1970.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds from `earlier` to `self`; negative where `self` comes first.
    pub fn nanos_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from `earlier` to `self`; zero where `self` comes first.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos_since(earlier)).unwrap_or(0))
    }

    /// `self` moved by a signed number of nanoseconds, saturating at the ends of the range.
    pub fn plus_nanos(self, nanos: i64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// `self` later by `duration`, saturating at the end of the range.
    pub fn plus(self, duration: Duration) -> Self {
        self.plus_nanos(nanos(duration))
    }

    /// `self` earlier by `duration`, saturating at the beginning of the range.
    pub fn minus(self, duration: Duration) -> Self {
        self.plus_nanos(-nanos(duration))
    }

    /// The moment in UTC to the second, RFC 3339, for people to read.
    pub fn to_utc_seconds(self) -> String {
        let text = self.to_string();
        text.split('.').next().map(|seconds| format!("{seconds}Z")).unwrap_or(text)
    }

    /// The moment in the local time zone with its offset, to the millisecond, for people to read.
    pub fn to_local(self) -> String {
        self.zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f%:z").to_string()
    }

    /// The time of day in the local time zone, for people to read.
    pub fn to_local_time_of_day(self) -> String {
        self.zoned(TimeZone::system()).strftime("%H:%M:%S").to_string()
    }

    fn zoned(self, zone: TimeZone) -> jiff::Zoned {
        jiff::Timestamp::from_nanosecond(i128::from(self.0))
            .expect("jiff's range holds every i64 of nanoseconds")
            .to_zoned(zone)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written out by hand because it is on the path of every delivered sample: the civil-date algorithm is
        // Howard Hinnant's `civil_from_days` (https://howardhinnant.github.io/date_algorithms.html).
        let days = self.0.div_euclid(86_400_000_000_000);
        let nanos_of_day = self.0.rem_euclid(86_400_000_000_000);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
        let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let seconds = nanos_of_day / 1_000_000_000;

        // "YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ"; every i64 of nanoseconds has a year of four digits.
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let mut put = |from: usize, width: usize, mut number: i64| {
            for place in text[from..from + width].iter_mut().rev() {
                *place = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        put(0, 4, year);
        put(5, 2, month);
        put(8, 2, day);
        put(11, 2, seconds / 3_600);
        put(14, 2, seconds / 60 % 60);
        put(17, 2, seconds % 60);
        put(20, 9, nanos_of_day % 1_000_000_000);
        f.write_str(std::str::from_utf8(&text).expect("digits and punctuation are ASCII"))
    }
}

impl FromStr for Timestamp {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse::<jiff::Timestamp>()
            .ok()
            .and_then(|moment| i64::try_from(moment.as_nanosecond()).ok())
            .map(Self)
            .ok_or_else(|| InvalidId { expected: "an RFC 3339 time", found: text.to_owned() })
    }
}

/// The wall clock of a node, injected so that tests and simulations can bend it.
pub trait Clock: Send + Sync + 'static {
    /// The time of day now.
    fn now(&self) -> Timestamp;
}

/// A length of time in whole nanoseconds; 292 years and more are all the same.
pub fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A length of time for people to read, to its two largest units: `5 min 24 s`.
pub fn in_words(length: Duration) -> String {
    match length.as_secs() {
        seconds if seconds < 60 => format!("{seconds} s"),
        seconds if seconds < 3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_equals_that_of_a_calendar_library(nanos: i64) {
            let ours = Timestamp(nanos).to_string();
            let theirs = jiff::Timestamp::from_nanosecond(i128::from(nanos)).expect("in range");
            prop_assert_eq!(&ours, &format!("{theirs:.9}"));
            prop_assert_eq!(ours.parse::<Timestamp>(), Ok(Timestamp(nanos)));
        }
    }

    #[test]
    fn people_read_lengths_in_their_two_largest_units_and_moments_to_the_second() {
        let words = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(words(9), "9 s");
        assert_eq!(words(324), "5 min 24 s");
        assert_eq!(words(7_260), "2 h 1 min");
        assert_eq!(Timestamp(1_999_999_999).to_utc_seconds(), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn differences_are_signed_and_saturate() {
        assert_eq!(Timestamp(5).nanos_since(Timestamp(8)), -3);
        assert_eq!(Timestamp(5).since(Timestamp(8)), Duration::ZERO);
        assert_eq!(Timestamp(8).since(Timestamp(5)), Duration::from_nanos(3));
        assert_eq!(Timestamp(i64::MAX).plus(Duration::from_secs(1)), Timestamp(i64::MAX));
        assert_eq!(Timestamp(i64::MIN).minus(Duration::MAX), Timestamp(i64::MIN));
    }
}
