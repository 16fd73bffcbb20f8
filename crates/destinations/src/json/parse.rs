//! A record read back from its JSON: quarantined records are offered again long after their entries are gone.
//!
//! - The type decides how a value is read; a value that does not fit its type is an error, never a guess.
//! - The kind of a record is known by a member that only that kind has.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::ids::GridId;
use model::record::{ExpiryRecord, GapRecord, GridSlot, OpeningRecord, SampleRecord, TagFacts};
use model::{Quality, Reading, Record, StatusCode, Term, Value, ValueType};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

/// A text that is not a record.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not even JSON.
    #[error("not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A member is missing or is not what it should be.
    #[error("member {member:?} is missing or not {expected}")]
    Member {
        /// Which.
        member: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Reads a record that [`super::record`] wrote.
pub fn parse(text: &[u8]) -> Result<Record, ParseError> {
    let members = Members(serde_json::from_slice(text)?);
    Ok(if members.0.contains_key("first_slot") {
        Record::Gap(gap(&members)?)
    } else if members.0.contains_key("period") {
        Record::Opening(opening(&members)?)
    } else if members.0.contains_key("samples") {
        Record::Expiry(expiry(&members)?)
    } else {
        Record::Sample(sample(&members)?)
    })
}

fn sample(members: &Members) -> Result<SampleRecord, ParseError> {
    let value_type = members.parsed("type", "a type")?;
    let grid = members.optional_count("grid")?;
    let slot = members.optional_count("slot")?;
    Ok(SampleRecord {
        key: members.parsed("key", "a key")?,
        tag: Arc::new(TagFacts {
            id: members.string("tag")?.to_owned(),
            value_type,
            unit: members.string("unit")?.to_owned(),
            device: members.string("device")?.to_owned(),
            group: members.string("group")?.to_owned(),
        }),
        reading: reading(members, value_type)?,
        source_time: members.parsed("source_time", "a time")?,
        gateway_time: members.parsed("gateway_time", "a time")?,
        slot: grid.zip(slot).map(|(grid, slot)| GridSlot { grid: GridId(grid), slot }),
        node: members.string("node")?.into(),
        term: Term(members.count("term")?),
    })
}

fn reading(members: &Members, value_type: ValueType) -> Result<Reading, ParseError> {
    let status: StatusCode = members.parsed("status", "a status")?;
    let value = || {
        let json = members.0.get("value").unwrap_or(&Json::Null);
        value(json, value_type).ok_or_else(|| wrong("value", value_type.name()))
    };
    Ok(match status.quality() {
        Quality::Good => Reading::Good(value()?),
        Quality::Uncertain => Reading::Uncertain(value()?, status),
        Quality::Bad => Reading::Bad(status),
    })
}

fn value(json: &Json, value_type: ValueType) -> Option<Value> {
    if let Json::Array(elements) = json {
        let elements: Option<Arc<[Value]>> =
            elements.iter().map(|element| scalar(element, value_type)).collect();
        return Some(Value::Array(value_type, elements?));
    }
    scalar(json, value_type)
}

fn scalar(json: &Json, value_type: ValueType) -> Option<Value> {
    fn plain<T: DeserializeOwned>(json: &Json) -> Option<T> {
        T::deserialize(json).ok()
    }
    Some(match value_type {
        ValueType::Bool => Value::Bool(json.as_bool()?),
        ValueType::I16 => Value::I16(plain(json)?),
        ValueType::U16 => Value::U16(plain(json)?),
        ValueType::I32 => Value::I32(plain(json)?),
        ValueType::U32 => Value::U32(plain(json)?),
        ValueType::I64 => Value::I64(json.as_str()?.parse().ok()?),
        ValueType::U64 => Value::U64(json.as_str()?.parse().ok()?),
        ValueType::F32 => Value::F32(float(json)? as f32),
        ValueType::F64 => Value::F64(float(json)?),
        ValueType::String => Value::String(json.as_str()?.into()),
        ValueType::Bytes => Value::Bytes(STANDARD.decode(json.as_str()?).ok()?.into()),
    })
}

fn float(json: &Json) -> Option<f64> {
    match json {
        Json::String(name) => match name.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        number => number.as_f64(),
    }
}

fn gap(members: &Members) -> Result<GapRecord, ParseError> {
    Ok(GapRecord {
        key: members.parsed("key", "a key")?,
        device: members.string("device")?.into(),
        group: members.string("group")?.into(),
        grid: GridId(members.count("grid")?),
        first_slot: members.count("first_slot")?,
        last_slot: members.count("last_slot")?,
        from: members.parsed("from", "a time")?,
        to: members.parsed("to", "a time")?,
        cause: members.parsed("cause", "a cause")?,
        node: members.string("node")?.into(),
        term: Term(members.count("term")?),
    })
}

fn opening(members: &Members) -> Result<OpeningRecord, ParseError> {
    Ok(OpeningRecord {
        key: members.parsed("key", "a key")?,
        device: members.string("device")?.into(),
        group: members.string("group")?.into(),
        grid: GridId(members.count("grid")?),
        first: members.parsed("first", "a time")?,
        period: period(members.string("period")?).ok_or_else(|| wrong("period", "a duration in seconds"))?,
        replaces: members.optional_count("replaces")?.map(GridId),
        cause: members.parsed("cause", "a cause")?,
        node: members.string("node")?.into(),
        term: Term(members.count("term")?),
    })
}

fn period(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    let (seconds, decimals) = number.split_once('.').unwrap_or((number, ""));
    if decimals.len() > 9 {
        return None;
    }
    let nanos = format!("{decimals:0<9}").parse().ok()?;
    Some(Duration::new(seconds.parse().ok()?, nanos))
}

fn expiry(members: &Members) -> Result<ExpiryRecord, ParseError> {
    Ok(ExpiryRecord {
        key: members.parsed("key", "a key")?,
        destination: members.string("destination")?.into(),
        from: members.parsed("from", "a cursor")?,
        to: members.parsed("to", "a cursor")?,
        cause: members.parsed("cause", "a cause")?,
        samples: members.count("samples")?,
        node: members.string("node")?.into(),
        term: Term(members.count("term")?),
    })
}

struct Members(Map<String, Json>);

impl Members {
    fn string(&self, member: &str) -> Result<&str, ParseError> {
        self.0.get(member).and_then(Json::as_str).ok_or_else(|| wrong(member, "a string"))
    }

    fn parsed<T: std::str::FromStr>(&self, member: &str, expected: &'static str) -> Result<T, ParseError> {
        self.string(member)?.parse().map_err(|_| wrong(member, expected))
    }

    fn count(&self, member: &str) -> Result<u64, ParseError> {
        self.parsed(member, "a 64-bit number as a string")
    }

    fn optional_count(&self, member: &str) -> Result<Option<u64>, ParseError> {
        match self.0.get(member) {
            None | Some(Json::Null) => Ok(None),
            Some(_) => self.count(member).map(Some),
        }
    }
}

fn wrong(member: &str, expected: &'static str) -> ParseError {
    ParseError::Member { member: member.to_owned(), expected }
}
