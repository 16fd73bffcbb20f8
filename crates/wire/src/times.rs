//! Times of `holdfast.v1`: `google.protobuf.Timestamp` and `Duration` to model and back.
//!
//! - A timestamp comes back to the nanosecond; one outside the range of [`Timestamp`] is taken to its nearest end.

use std::time::Duration;

use model::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, as the messages of `holdfast.v1` hold it (`google.protobuf.Timestamp`); proto3 JSON has it as RFC 3339 in
/// UTC, with a `Z`. (The library's own type writes `+00:00`, which proto3 JSON does not.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ProtoTimestamp {
    /// Since 1970, UTC.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Of the second; never negative.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Serialize for ProtoTimestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&timestamp_from_proto(self))
    }
}

impl<'de> Deserialize<'de> for ProtoTimestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = text.parse().map_err(D::Error::custom)?;
        Ok(timestamp_to_proto(at))
    }
}

/// A length of time, as the messages of `holdfast.v1` hold it; proto3 JSON has it as seconds with an `s`.
pub use pbjson_types::Duration as ProtoDuration;

const NANOS: i64 = 1_000_000_000;

/// A moment for a message.
pub fn timestamp_to_proto(at: Timestamp) -> ProtoTimestamp {
    let nanos = i32::try_from(at.0.rem_euclid(NANOS)).expect("less than a second");
    ProtoTimestamp { seconds: at.0.div_euclid(NANOS), nanos }
}

/// A moment from a message.
pub fn timestamp_from_proto(at: &ProtoTimestamp) -> Timestamp {
    Timestamp(at.seconds.saturating_mul(NANOS).saturating_add(i64::from(at.nanos)))
}

/// A length of time for a message.
pub fn duration_to_proto(duration: Duration) -> ProtoDuration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    ProtoDuration { seconds, nanos: i32::try_from(duration.subsec_nanos()).expect("less than a second") }
}

/// A signed length of time for a message.
pub fn nanos_to_proto(nanos: i64) -> ProtoDuration {
    // Both parts bear the sign of the whole.
    ProtoDuration { seconds: nanos / NANOS, nanos: i32::try_from(nanos % NANOS).expect("less than a second") }
}

/// The nanoseconds of a length of time in a message, with its sign.
pub fn nanos_from_proto(duration: &ProtoDuration) -> i64 {
    duration.seconds.saturating_mul(NANOS).saturating_add(i64::from(duration.nanos))
}

/// A length of time from a message; none where it is negative.
pub fn duration_from_proto(duration: &ProtoDuration) -> Option<Duration> {
    u64::try_from(nanos_from_proto(duration)).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn moments_and_signed_lengths_come_back_to_the_nanosecond(nanos: i64) {
            prop_assert_eq!(timestamp_from_proto(&timestamp_to_proto(Timestamp(nanos))), Timestamp(nanos));
            prop_assert_eq!(nanos_from_proto(&nanos_to_proto(nanos)), nanos);
        }
    }

    #[test]
    fn a_moment_in_json_is_utc_with_a_z() {
        let at = timestamp_to_proto(Timestamp(1_700_000_000_123_456_789));
        let json = serde_json::to_string(&at).expect("it has a JSON form");
        assert_eq!(json, "\"2023-11-14T22:13:20.123456789Z\"");
        for same in [json.as_str(), "\"2023-11-14T23:13:20.123456789+01:00\""] {
            assert_eq!(serde_json::from_str::<ProtoTimestamp>(same).expect(same), at);
        }
        assert!(serde_json::from_str::<ProtoTimestamp>("\"yesterday\"").is_err());
    }

    #[test]
    fn a_negative_length_is_no_duration() {
        assert_eq!(duration_from_proto(&nanos_to_proto(-1)), None);
        let length = Duration::new(3, 500);
        assert_eq!(duration_from_proto(&duration_to_proto(length)), Some(length));
    }
}
