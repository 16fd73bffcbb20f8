//! What a receiver has seen: new keys, repeated ones, and whether anything came out of order.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Mode;
use crate::history::{History, Kind};

use super::keys::{Key, KeySet, scan};

/// Records whose bytes are remembered for comparison; about 40 bytes each.
const MOST_REMEMBERED: usize = 4 << 20;

/// What a receiver has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were accepted.
    pub requests: u64,
    /// Distinct samples.
    pub samples: u64,
    /// Records whose key had come before.
    pub duplicates: u64,
    /// Of those, the ones with other bytes than the first (only while recording).
    pub conflicts: u64,
    /// Samples that came for the first time behind a later one: of the same tag while recording, of the same
    /// lineage while counting.
    pub out_of_order: u64,
    /// Distinct gap records (counting without a history: with the openings and expiries).
    pub gaps: u64,
    /// Distinct openings (where they are written down).
    pub openings: u64,
    /// Distinct expiry records (where they are written down).
    pub expiries: u64,
}

/// A line of a receiver's history; its `op` is `sample`, `gap`, `opening` or `expiry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received<R> {
    /// Whether the key had not come before.
    pub is_new: bool,
    /// What the envelope said: a backlog being drained, or live.
    pub historical: bool,
    /// The record, byte for byte (read it back as a `serde_json::Value`).
    pub record: R,
}

/// A line of a receiver's history whose `op` is `refused`: a record that it did not keep because of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its key.
    pub key: String,
}

/// A request that is no request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("not the JSON of a delivery: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a record without a readable key")]
    Key,
}

#[derive(Debug)]
pub(super) enum Tally {
    Counting(Box<Counting>),
    Recording(Box<Recording>),
}

impl Tally {
    pub(super) fn new(mode: Mode) -> Self {
        match mode {
            Mode::Counting => Self::Counting(Box::default()),
            Mode::CountingSamples(history, process, ending) => {
                let counting = Counting { history: Some((history, process)), ending, ..Counting::default() };
                Self::Counting(Box::new(counting))
            }
            Mode::Recording(history) => {
                Self::Recording(Box::new(Recording { history, ..Recording::default() }))
            }
        }
    }

    /// Takes in a request but for the samples named. A request that cannot be read is not counted while recording;
    /// while counting, the keys before the wrong one are.
    pub(super) fn take(&mut self, body: &[u8], without: Option<&[String]>) -> Result<(), Unreadable> {
        match self {
            Self::Counting(counting) => counting.take(body, without.unwrap_or_default()),
            Self::Recording(recording) => recording.take(body, without.unwrap_or_default()),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        match self {
            Self::Counting(counting) => counting.counts,
            Self::Recording(recording) => recording.counts,
        }
    }

    /// The highest position of which a record was taken in; while counting, a sample.
    pub(super) fn highest(&self) -> u64 {
        match self {
            Self::Counting(counting) => {
                counting.highest.values().map(|(position, _)| *position).max().unwrap_or_default()
            }
            Self::Recording(recording) => recording.highest_position,
        }
    }

    /// Notes, while recording, that these records are refused for what they hold.
    pub(super) fn refused(&mut self, keys: &[String]) {
        if let Self::Recording(recording) = self {
            recording.refused(keys);
        }
    }
}

/// Looks at keys alone; where there is a history, also at what is worth a line of it.
#[derive(Debug, Default)]
pub(super) struct Counting {
    counts: Counts,
    history: Option<(History, String)>,
    /// Samples of tags whose ids end so are written down.
    ending: &'static str,
    keys: KeySet,
    /// The highest sample that came first, for each lineage.
    highest: HashMap<[u8; 8], (u64, u32)>,
}

impl Counting {
    fn take(&mut self, body: &[u8], without: &[String]) -> Result<(), Unreadable> {
        let left_out: Vec<Key> =
            without.iter().filter_map(|key| Key::read(format!("{key}\"").as_bytes())).collect();
        let (counts, keys) = (&mut self.counts, &mut self.keys);
        let mut are_keys = true;
        let mut highest: Option<Key> = None;
        let mut others: Vec<(Key, &[u8], bool)> = Vec::new();
        let (has_history, ending) = (self.history.is_some(), self.ending);
        let is_readable = scan(body, |key, record| {
            if !left_out.is_empty() && left_out.contains(&key) {
                return;
            }
            let is_new = keys.insert(key);
            if let Some(is_new) = is_new
                && has_history
                && (!key.is_sample() || is_worth_a_line(record, ending))
            {
                others.push((key, record, is_new));
            }
            match is_new {
                None => are_keys = false,
                Some(false) => counts.duplicates += 1,
                // Which kind it is, is seen below.
                Some(true) if !key.is_sample() && has_history => {}
                Some(true) if !key.is_sample() => counts.gaps += 1,
                Some(true) => {
                    counts.samples += 1;
                    let before = match highest {
                        Some(highest) if highest.lineage == key.lineage => {
                            Some((highest.position, highest.ordinal))
                        }
                        _ => self.highest.get(&key.lineage).copied(),
                    };
                    let this = (key.position, key.ordinal);
                    if before.is_some_and(|before| this < before) {
                        counts.out_of_order += 1;
                    } else {
                        highest = Some(key);
                        if before.is_none() {
                            self.highest.insert(key.lineage, this);
                        }
                    }
                }
            }
        });
        if let Some(key) = highest {
            self.highest.insert(key.lineage, (key.position, key.ordinal));
        }
        if !(is_readable && are_keys) {
            return Err(Unreadable::Key);
        }
        counts.requests += 1;
        self.note(&others)
    }

    /// Writes down what is worth a line, and counts what of it is no sample.
    fn note(&mut self, others: &[(Key, &[u8], bool)]) -> Result<(), Unreadable> {
        let Some((history, process)) = &self.history else { return Ok(()) };
        for &(key, text, is_new) in others {
            let mut records = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
            let record = records.next().ok_or(Unreadable::Key)??;
            let kind = match key.is_sample() {
                true => "sample",
                false => kind_of(serde_json::from_str(record.get())?),
            };
            if is_new {
                match kind {
                    "gap" => self.counts.gaps += 1,
                    "opening" => self.counts.openings += 1,
                    "expiry" => self.counts.expiries += 1,
                    // Counted with its key.
                    _ => {}
                }
            }
            history.record(process, Kind::Ok, kind, &Received { is_new, historical: false, record });
        }
        Ok(())
    }
}

/// Whether a sample that begins here is not good, or one of a tag whose id ends so. Names of members occur nowhere else
/// in a record: inside a string their quotes are escaped.
fn is_worth_a_line(record: &[u8], ending: &str) -> bool {
    let behind = |name: &[u8]| {
        let at = record.windows(name.len()).position(|window| window == name)?;
        record[at + name.len()..].split(|&byte| byte == b'"').next()
    };
    behind(b"\"quality\":\"").is_none_or(|quality| quality != b"good")
        || (!ending.is_empty() && behind(b"\"tag\":\"").is_some_and(|tag| tag.ends_with(ending.as_bytes())))
}

/// What tells records apart that are no samples.
#[derive(Deserialize)]
struct Other {
    first_slot: Option<serde::de::IgnoredAny>,
    period: Option<serde::de::IgnoredAny>,
}

fn kind_of(other: Other) -> &'static str {
    match other {
        Other { first_slot: Some(_), .. } => "gap",
        Other { period: Some(_), .. } => "opening",
        Other { .. } => "expiry",
    }
}

/// Reads every record.
#[derive(Debug, Default)]
pub(super) struct Recording {
    counts: Counts,
    history: Option<(History, String)>,
    keys: KeySet,
    /// Hash of the first bytes under each key.
    first: HashMap<Key, u64>,
    /// The highest sample that came first, for each tag.
    highest: HashMap<String, (u64, u32)>,
    highest_position: u64,
    /// Records that were refused: they may come later than what stands behind them.
    refused: HashSet<Key>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(default)]
    historical: bool,
    #[serde(borrow)]
    samples: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    gaps: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    openings: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    expiries: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named {
    key: String,
    #[serde(default)]
    tag: String,
}

impl Recording {
    fn take(&mut self, body: &[u8], without: &[String]) -> Result<(), Unreadable> {
        let request: Request<'_> = serde_json::from_slice(body)?;
        let lists = [
            ("sample", &request.samples),
            ("gap", &request.gaps),
            ("opening", &request.openings),
            ("expiry", &request.expiries),
        ];
        let mut records = Vec::new();
        for (kind, list) in lists {
            for record in list {
                let named: Named = serde_json::from_str(record.get())?;
                let key = Key::read(format!("{}\"", named.key).as_bytes()).ok_or(Unreadable::Key)?;
                if !without.contains(&named.key) {
                    records.push((kind, key, named.tag, *record));
                }
            }
        }
        self.counts.requests += 1;
        for (kind, key, tag, record) in records {
            let is_new = self.keys.insert(key).ok_or(Unreadable::Key)?;
            self.highest_position = self.highest_position.max(key.position);
            self.count(kind, key, tag, record.get(), is_new);
            if let Some((history, process)) = &self.history {
                let line = Received { is_new, historical: request.historical, record };
                history.record(process, Kind::Ok, kind, &line);
            }
        }
        Ok(())
    }

    fn refused(&mut self, keys: &[String]) {
        for key in keys {
            self.refused.extend(Key::read(format!("{key}\"").as_bytes()));
            if let Some((history, process)) = &self.history {
                history.record(process, Kind::Fail, "refused", &Refused { key: key.clone() });
            }
        }
    }

    fn count(&mut self, kind: &str, key: Key, tag: String, text: &str, is_new: bool) {
        let bytes = hash(text);
        if !is_new {
            self.counts.duplicates += 1;
            self.counts.conflicts += u64::from(self.first.get(&key).is_some_and(|first| *first != bytes));
            return;
        }
        if self.first.len() < MOST_REMEMBERED {
            self.first.insert(key, bytes);
        }
        match kind {
            "gap" => self.counts.gaps += 1,
            "opening" => self.counts.openings += 1,
            "expiry" => self.counts.expiries += 1,
            _ => {
                self.counts.samples += 1;
                let this = (key.position, key.ordinal);
                match self.highest.entry(tag) {
                    Entry::Occupied(mut highest) if this > *highest.get() => {
                        highest.insert(this);
                    }
                    Entry::Occupied(_) => {
                        self.counts.out_of_order += u64::from(!self.refused.contains(&key));
                    }
                    Entry::Vacant(vacant) => {
                        vacant.insert(this);
                    }
                }
            }
        }
    }
}

/// The keys of a tag's samples in a request.
pub(super) fn keys_of_tag(body: &[u8], tag: &str) -> Result<Vec<String>, Unreadable> {
    let request: Request<'_> = serde_json::from_slice(body)?;
    let mut keys = Vec::new();
    for record in request.samples {
        let named: Named = serde_json::from_str(record.get())?;
        if named.tag == tag {
            keys.push(named.key);
        }
    }
    Ok(keys)
}

/// The key of a record that stands alone in a request.
pub(super) fn key_alone(body: &[u8]) -> Result<Option<String>, Unreadable> {
    let request: Request<'_> = serde_json::from_slice(body)?;
    let lists = [request.samples, request.gaps, request.openings, request.expiries];
    let [record] = lists.concat()[..] else { return Ok(None) };
    let named: Named = serde_json::from_str(record.get())?;
    Ok(Some(named.key))
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
