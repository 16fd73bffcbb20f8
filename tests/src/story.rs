//! What devices, pushers and the receiver saw, read back from their common history.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use simulator::history::{self, Entry, Kind};
use simulator::modbus::ReadSeen;
use simulator::pusher::PushNote;
use simulator::receiver::Received;

/// The tag of a press that holds the number of the read, without the press.
const READ_NUMBER: &str = "/reads";

/// A history, sorted by who saw it; each part in the order in which it happened.
#[derive(Debug, Default)]
pub struct Story {
    /// Requests that devices got.
    pub reads: Vec<Entry<ReadSeen>>,
    /// Messages that pushers sent, and what became of them.
    pub pushes: Vec<Entry<PushNote>>,
    /// Records that the receiver accepted.
    pub records: Vec<Entry<Received<Value>>>,
}

/// What decides about a line.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
}

impl Story {
    /// Reads a history.
    pub fn read(path: &Path) -> Result<Self> {
        let mut story = Self::default();
        for entry in history::read::<Value>(path)? {
            match entry.op.as_str() {
                "read" => story.reads.push(typed(entry)?),
                "push" => story.pushes.push(typed(entry)?),
                "sample" | "gap" | "opening" | "expiry" => story.records.push(typed(entry)?),
                _ => {}
            }
        }
        Ok(story)
    }

    /// Reads of a history what devices and pushers saw: what the receiver got is most of it, and is left out.
    pub fn of_sources(path: &Path) -> Result<Self> {
        let mut story = Self::default();
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            match &*serde_json::from_str::<Head<'_>>(&line)?.op {
                "read" => story.reads.push(serde_json::from_str(&line)?),
                "push" => story.pushes.push(serde_json::from_str(&line)?),
                _ => {}
            }
        }
        Ok(story)
    }

    /// Reads of a history in which term each read was committed that arrived: by its device, and its number there.
    pub fn terms(path: &Path) -> Result<HashMap<(String, u64), u64>> {
        let mut terms = HashMap::new();
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            if serde_json::from_str::<Head<'_>>(&line)?.op != "sample" {
                continue;
            }
            let record = serde_json::from_str::<Entry<Received<Value>>>(&line)?.details.record;
            let (device, tag) = (record["device"].as_str(), record["tag"].as_str());
            if let (Some(device), Some(tag)) = (device, tag)
                && tag.strip_prefix(device) == Some(READ_NUMBER)
            {
                terms.insert((device.to_owned(), number(&record["value"])), number(&record["term"]));
            }
        }
        Ok(terms)
    }

    /// When the answered requests of a node began, between two moments.
    pub fn reads_of(&self, node: IpAddr, from_ns: u64, until_ns: u64) -> Vec<u64> {
        let answered = self.reads.iter().filter(|read| read.kind == Kind::Ok);
        let of_node = answered.map(|read| &read.details).filter(|read| read.peer.ip() == node);
        of_node.map(|read| read.first_byte_ns).filter(|at| (from_ns..until_ns).contains(at)).collect()
    }

    /// Messages acknowledged between two moments, in monotonic nanoseconds.
    pub fn acknowledged(&self, from_ns: u64, until_ns: u64) -> usize {
        let acknowledged = self.pushes.iter().filter(|push| push.kind == Kind::Ok);
        acknowledged.filter(|push| (from_ns..until_ns).contains(&push.t_ns)).count()
    }

    /// The longest time without an acknowledgement between two moments.
    pub fn silence(&self, from_ns: u64, until_ns: u64) -> Duration {
        let acknowledged = self.pushes.iter().filter(|push| push.kind == Kind::Ok);
        longest_silence(acknowledged.map(|push| push.t_ns), from_ns, until_ns)
    }

    /// What a pusher noted of this kind, between two moments.
    pub fn notes(&self, pusher: &str, kind: Kind, from_ns: u64, until_ns: u64) -> Vec<&PushNote> {
        let of_pusher = self.pushes.iter().filter(|note| note.process == pusher && note.kind == kind);
        of_pusher.filter(|note| (from_ns..until_ns).contains(&note.t_ns)).map(|note| &note.details).collect()
    }

    /// Records of this kind, each once.
    pub fn new_records(&self, op: &str) -> impl Iterator<Item = &Value> {
        let new = self.records.iter().filter(move |record| record.op == op && record.details.is_new);
        new.map(|record| &record.details.record)
    }
}

/// The longest time between two moments in which nothing came. What comes at the second moment ends nothing.
pub fn longest_silence(moments: impl IntoIterator<Item = u64>, from_ns: u64, until_ns: u64) -> Duration {
    let mut within: Vec<u64> =
        moments.into_iter().filter(|moment| (from_ns..until_ns).contains(moment)).collect();
    within.extend([from_ns, until_ns.max(from_ns)]);
    within.sort_unstable();
    let silences = within.windows(2).map(|pair| pair[1] - pair[0]);
    Duration::from_nanos(silences.max().unwrap_or_default())
}

fn typed<D: DeserializeOwned>(entry: Entry<Value>) -> Result<Entry<D>> {
    let Entry { t_ns, process, kind, op, details } = entry;
    Ok(Entry { t_ns, process, kind, op, details: serde_json::from_value(details)? })
}

/// A number of a record: proto3 JSON writes 64 bits as text and leaves out what is 0.
pub fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_lasts_from_one_moment_to_the_next_and_up_to_both_ends() {
        for (moments, silence) in [
            (vec![], 10),
            (vec![12, 15, 19], 4),
            (vec![19, 12, 15], 4),
            (vec![17], 7),
            (vec![13], 7),
            (vec![5, 9, 20, 25], 10),
        ] {
            assert_eq!(
                longest_silence(moments.clone(), 10, 20),
                Duration::from_nanos(silence),
                "{moments:?}"
            );
        }
        assert_eq!(longest_silence([], 20, 10), Duration::ZERO, "there is no such time");
    }

    #[test]
    fn the_term_of_a_read_is_that_of_the_sample_with_its_number() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let sample = |tag: &str, value: u64| {
            let record = format!(
                r#"{{"device":"hall-1/press-1","tag":"hall-1/press-1/{tag}","value":{value},"term":"5"}}"#
            );
            format!(
                r#"{{"t_ns":1,"process":"historian","kind":"ok","op":"sample","is_new":true,"historical":false,"record":{record}}}"#
            )
        };
        let other = r#"{"t_ns":1,"process":"account","kind":"info","op":"told"}"#.to_owned();
        std::fs::write(file.path(), [sample("reads", 17), sample("word-06", 18), other].join("\n"))
            .expect("room");
        let terms = Story::terms(file.path()).expect("a history");
        assert_eq!(terms, HashMap::from([(("hall-1/press-1".to_owned(), 17), 5)]));
    }
}
