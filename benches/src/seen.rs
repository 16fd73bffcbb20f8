//! What devices and receivers saw, kept in memory while a run goes on: the source of every figure.
//!
//! - Lines come in order of time: devices and receiver share one history.
//! - A line that cannot be understood ends the run: a history with a hole proves nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Timestamp;
use serde::Deserialize;
use simulator::history::{EachLine, History, Kind};

use crate::latency::Times;
use crate::plant::device_number;

/// How the ids of the tags end that say which answer of its device a sample comes from.
pub(crate) const READS: &str = "/reads";

/// A history that is kept. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    story: Arc<Mutex<Story>>,
    history: History,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Answered reads of each device.
    pub(crate) reads: Vec<Vec<Read>>,
    /// Gap records, each once.
    pub(crate) gaps: Vec<Gap>,
    /// From a device's answer to the moment when the receiver had the sample that says which answer it was.
    pub(crate) latencies: Times,
    /// Pairs of requests of two nodes at one device at one time.
    pub(crate) overlaps: u64,
    /// When samples arrived that were not good.
    not_good: Vec<u64>,
    /// When the answer with this number left this device, until its samples arrive.
    answered: HashMap<(usize, u64), u64>,
    /// When the newest answer of each device left whose samples have arrived.
    arrived: HashMap<usize, u64>,
    broken: Option<String>,
}

/// An answered read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Read {
    /// When the last byte of the answer left, in monotonic nanoseconds.
    pub(crate) at_ns: u64,
    /// Who asked.
    pub(crate) node: IpAddr,
}

/// A gap record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Nominal time of its first slot.
    pub(crate) from: Timestamp,
    /// Nominal time of the slot behind its last.
    pub(crate) to: Timestamp,
    /// How many slots.
    pub(crate) slots: u64,
    /// Why.
    pub(crate) cause: String,
}

#[derive(Deserialize)]
struct Line {
    t_ns: u64,
    process: String,
    kind: Kind,
    op: String,
    peer: Option<SocketAddr>,
    ordinal: Option<u64>,
    is_new: Option<bool>,
    record: Option<Record>,
}

#[derive(Deserialize)]
struct Record {
    tag: Option<String>,
    device: Option<String>,
    quality: Option<String>,
    #[serde(default)]
    value: serde_json::Value,
    first_slot: Option<String>,
    last_slot: Option<String>,
    from: Option<String>,
    to: Option<String>,
    cause: Option<String>,
}

impl Seen {
    /// Nothing yet.
    pub(crate) fn start() -> Self {
        let story = Arc::<Mutex<Story>>::default();
        let written = Arc::clone(&story);
        let each = move |line: &[u8]| {
            let mut story = lock(&written);
            if let Err(error) = story.enter(line) {
                story.broken.get_or_insert(format!("{error}: {}", String::from_utf8_lossy(line)));
            }
        };
        Self { story, history: History::to_writer(EachLine::new(std::io::sink(), each)) }
    }

    /// Where simulated parts write.
    pub(crate) fn history(&self) -> History {
        self.history.clone()
    }

    /// Everything until now.
    pub(crate) fn look(&self) -> anyhow::Result<MutexGuard<'_, Story>> {
        self.history.flush()?;
        let story = lock(&self.story);
        match &story.broken {
            Some(broken) => Err(anyhow::anyhow!("a line of the history makes no sense: {broken}")),
            None => Ok(story),
        }
    }
}

/// What lies behind the lock is whole after every statement, so that a panic elsewhere does no harm.
fn lock(story: &Mutex<Story>) -> MutexGuard<'_, Story> {
    story.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Story {
    fn enter(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let line: Line = serde_json::from_slice(line)?;
        match (line.op.as_str(), line.kind) {
            ("read", Kind::Ok) => self.read(&line),
            ("overlap", _) => {
                self.overlaps += 1;
                Ok(())
            }
            ("gap", _) => self.gap(&line),
            ("sample", _) => self.sample(&line),
            _ => Ok(()),
        }
    }

    fn read(&mut self, line: &Line) -> anyhow::Result<()> {
        let (Some(device), Some(peer), Some(ordinal)) =
            (device_number(&line.process), line.peer, line.ordinal)
        else {
            anyhow::bail!("a read without a device, a peer or a number");
        };
        if self.reads.len() <= device {
            self.reads.resize_with(device + 1, Vec::new);
        }
        self.reads[device].push(Read { at_ns: line.t_ns, node: peer.ip() });
        self.answered.insert((device, ordinal), line.t_ns);
        Ok(())
    }

    fn gap(&mut self, line: &Line) -> anyhow::Result<()> {
        let Some(Record {
            first_slot: Some(first),
            last_slot: Some(last),
            from: Some(from),
            to: Some(to),
            cause: Some(cause),
            ..
        }) = &line.record
        else {
            anyhow::bail!("a gap record without its fields");
        };
        if line.is_new == Some(true) {
            let slots = (last.parse::<u64>()? + 1).saturating_sub(first.parse()?);
            self.gaps.push(Gap { from: from.parse()?, to: to.parse()?, slots, cause: cause.clone() });
        }
        Ok(())
    }

    /// The tag `reads` says which answer of its device a sample comes from.
    fn sample(&mut self, line: &Line) -> anyhow::Result<()> {
        let Some(record) = &line.record else { anyhow::bail!("a sample without its record") };
        let (Some(tag), Some(device)) = (&record.tag, &record.device) else {
            anyhow::bail!("a sample without a tag or a device");
        };
        if line.is_new != Some(true) {
            return Ok(());
        }
        if record.quality.as_deref() != Some("good") {
            self.not_good.push(line.t_ns);
            return Ok(());
        }
        if !tag.ends_with(READS) {
            return Ok(());
        }
        let (Some(device), Some(ordinal)) = (device_number(device), record.value.as_u64()) else {
            return Ok(());
        };
        if let Some(answered) = self.answered.remove(&(device, ordinal)) {
            let newest = self.arrived.entry(device).or_default();
            *newest = answered.max(*newest);
            self.latencies.record(Duration::from_nanos(line.t_ns.saturating_sub(answered)));
        }
        Ok(())
    }

    /// Answers that left in a stretch of time and whose samples have not arrived.
    pub(crate) fn on_their_way(&self, from_ns: u64, until_ns: u64) -> u64 {
        self.answered.values().filter(|answered| (from_ns..until_ns).contains(*answered)).count() as u64
    }

    /// Whether of each device an answer has arrived that left since a moment.
    pub(crate) fn has_each_arrived(&self, devices: usize, from_ns: u64) -> bool {
        (0..devices).all(|device| self.arrived.get(&device).is_some_and(|answered| *answered >= from_ns))
    }

    /// Lets what has not arrived count with the time that it has been on its way.
    pub(crate) fn give_up_waiting(&mut self, now_ns: u64) {
        for answered in std::mem::take(&mut self.answered).into_values() {
            self.latencies.record(Duration::from_nanos(now_ns.saturating_sub(answered)));
        }
    }

    /// Samples that were not good, since a moment.
    pub(crate) fn not_good_since(&self, from_ns: u64) -> u64 {
        self.not_good.iter().filter(|arrived| **arrived >= from_ns).count() as u64
    }

    /// The fewest answered reads of a device in a stretch of time.
    pub(crate) fn fewest_reads_between(&self, from_ns: u64, until_ns: u64) -> u64 {
        self.reads.iter().map(|reads| between(reads, from_ns, until_ns)).min().unwrap_or_default()
    }

    /// How many reads each device has answered since a moment, to nodes that satisfy the condition: the fewest.
    pub(crate) fn reads_since(
        &self,
        devices: usize,
        from_ns: u64,
        is_wanted: impl Fn(IpAddr) -> bool,
    ) -> usize {
        let of = |reads: &Vec<Read>| {
            let recent = reads.iter().rev().take_while(|read| read.at_ns >= from_ns);
            recent.filter(|read| is_wanted(read.node)).count()
        };
        if self.reads.len() < devices { 0 } else { self.reads.iter().map(of).min().unwrap_or_default() }
    }

    /// Answered reads of all devices in a stretch of time.
    pub(crate) fn reads_between(&self, from_ns: u64, until_ns: u64) -> u64 {
        self.reads.iter().map(|reads| between(reads, from_ns, until_ns)).sum()
    }

    /// The longest time without a read that any device saw, of those that end after `from_ns` with a read of another
    /// node than `victim`: the gap of a take-over. `None` while a device has not been read by another node.
    pub(crate) fn gap_of_take_over(&self, from_ns: u64, victim: IpAddr) -> Option<Duration> {
        let of = |reads: &Vec<Read>| {
            let first = reads.iter().position(|read| read.at_ns >= from_ns && read.node != victim)?;
            let before = reads[..first].last()?;
            Some(reads[first].at_ns.saturating_sub(before.at_ns))
        };
        let gaps: Option<Vec<u64>> = self.reads.iter().map(of).collect();
        gaps?.into_iter().max().map(Duration::from_nanos)
    }

    /// Slots in gap records that overlap a stretch of time, and their causes.
    pub(crate) fn slots_missed(&self, from: Timestamp, until: Timestamp) -> (u64, Vec<String>) {
        let mut slots = 0;
        let mut causes: Vec<String> = Vec::new();
        for gap in self.gaps.iter().filter(|gap| gap.to > from && gap.from < until) {
            slots += gap.slots;
            if !causes.contains(&gap.cause) {
                causes.push(gap.cause.clone());
            }
        }
        (slots, causes)
    }

    /// How far the times between reads of each device are from `period`.
    pub(crate) fn jitter(&self, period: Duration, from_ns: u64) -> Times {
        let mut times = Times::default();
        for reads in &self.reads {
            for pair in reads.windows(2).filter(|pair| pair[0].at_ns >= from_ns) {
                let between = Duration::from_nanos(pair[1].at_ns.saturating_sub(pair[0].at_ns));
                times.record(between.abs_diff(period));
            }
        }
        times
    }
}

fn between(reads: &[Read], from_ns: u64, until_ns: u64) -> u64 {
    let before = |moment| reads.partition_point(|read| read.at_ns < moment);
    before(until_ns).saturating_sub(before(from_ns)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn node(number: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, number])
    }

    fn read(seen: &Seen, device: usize, ordinal: u64, at_ms: u64, by: u8) {
        let details = serde_json::json!({ "peer": SocketAddr::from((node(by), 4_000)), "ordinal": ordinal });
        let process = crate::plant::device_id(device);
        seen.history().record_at(at_ms * MS, &process, Kind::Ok, "read", &details);
    }

    #[test]
    fn a_take_over_is_measured_between_the_last_read_before_and_the_first_by_another_node() {
        let seen = Seen::start();
        for device in 0..2 {
            for ordinal in 1..=5 {
                read(&seen, device, ordinal, ordinal * 100, 11);
            }
        }
        assert_eq!(seen.look().expect("whole").gap_of_take_over(450 * MS, node(11)), None);
        read(&seen, 0, 6, 1_000, 12);
        assert_eq!(seen.look().expect("whole").gap_of_take_over(450 * MS, node(11)), None);
        read(&seen, 1, 6, 1_100, 12);
        let story = seen.look().expect("whole");
        assert_eq!(story.gap_of_take_over(450 * MS, node(11)), Some(Duration::from_millis(600)));
        assert_eq!(story.reads_since(2, 450 * MS, |by| by == node(12)), 1);
        assert_eq!(story.reads_since(3, 0, |_| true), 0, "a third device has not been read");
        assert_eq!(story.reads_between(200 * MS, 400 * MS), 4);
    }

    #[test]
    fn a_sample_of_the_read_count_says_how_long_it_took() {
        let seen = Seen::start();
        read(&seen, 0, 7, 100, 11);
        let record = serde_json::json!({
            "is_new": true,
            "record": {
                "tag": "bench/machine-000/reads", "device": "bench/machine-000", "value": 7, "quality": "good",
            }
        });
        seen.history().record_at(112 * MS, "receiver", Kind::Ok, "sample", &record);
        seen.history().record_at(190 * MS, "receiver", Kind::Ok, "sample", &record);
        let story = seen.look().expect("whole");
        assert_eq!(story.latencies.count(), 1);
        assert_eq!(story.latencies.longest().as_millis(), 12);
    }

    #[test]
    fn what_has_not_arrived_is_known_and_what_is_not_good_has_not_arrived() {
        let seen = Seen::start();
        for ordinal in 1..=3 {
            read(&seen, 0, ordinal, ordinal * 100, 11);
        }
        let sample = |value: u64, quality: &str| {
            serde_json::json!({ "is_new": true, "record": {
                "tag": "bench/machine-000/reads", "device": "bench/machine-000",
                "value": value, "quality": quality,
            }})
        };
        seen.history().record_at(110 * MS, "receiver", Kind::Ok, "sample", &sample(1, "good"));
        seen.history().record_at(210 * MS, "receiver", Kind::Ok, "sample", &sample(2, "bad"));
        let mut story = seen.look().expect("whole");
        assert_eq!((story.on_their_way(0, 150 * MS), story.on_their_way(0, 250 * MS)), (0, 1));
        assert!(story.has_each_arrived(1, 100 * MS) && !story.has_each_arrived(1, 101 * MS));
        assert_eq!((story.not_good_since(0), story.not_good_since(211 * MS)), (1, 0));
        assert_eq!(story.fewest_reads_between(150 * MS, 400 * MS), 2);
        story.give_up_waiting(700 * MS);
        assert_eq!((story.latencies.count(), story.latencies.longest().as_millis()), (3, 500));
    }

    #[test]
    fn slots_of_new_gaps_are_counted_where_they_lie() {
        let seen = Seen::start();
        let gap = |is_new: bool| {
            serde_json::json!({ "is_new": is_new, "record": {
                "first_slot": "3", "last_slot": "5", "cause": "late",
                "from": "2026-01-01T00:00:10.000000000Z", "to": "2026-01-01T00:00:13.000000000Z",
            }})
        };
        seen.history().record("receiver", Kind::Ok, "gap", &gap(true));
        seen.history().record("receiver", Kind::Ok, "gap", &gap(false));
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let story = seen.look().expect("whole");
        let (slots, causes) =
            story.slots_missed(at("2026-01-01T00:00:12.000000000Z"), at("2026-01-01T00:01:00.000000000Z"));
        assert_eq!((slots, causes), (3, vec!["late".to_owned()]));
        let after =
            story.slots_missed(at("2026-01-01T00:00:13.000000000Z"), at("2026-01-01T00:01:00.000000000Z"));
        assert_eq!(after.0, 0);
    }

    #[test]
    fn a_line_without_sense_spoils_everything() {
        let seen = Seen::start();
        seen.history().record("bench/machine-000", Kind::Ok, "read", &serde_json::json!({}));
        assert!(seen.look().is_err());
    }
}
