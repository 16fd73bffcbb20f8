//! What devices and receivers saw, kept in memory while a run goes on: the source of every figure.
//!
//! - Devices and receiver share one history; the lines of each part come in order of time.
//! - A line that cannot be understood ends the run: a history with a hole proves nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Timestamp;
use serde::Deserialize;
use simulator::history::{EachLine, History, Kind};

use crate::fates::{Book, Fates};
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
    /// Pairs of requests of two nodes at one device at one time.
    pub(crate) overlaps: u64,
    /// When samples arrived that were not good.
    not_good: Vec<u64>,
    /// What each device answered, and what of it arrived.
    books: HashMap<usize, Book>,
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
    grid: Option<String>,
    slot: Option<String>,
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
        self.books.entry(device).or_default().answered(ordinal, line.t_ns);
        Ok(())
    }

    fn gap(&mut self, line: &Line) -> anyhow::Result<()> {
        let Some(Record {
            device: Some(device),
            grid: Some(grid),
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
            let first = first.parse::<u64>()?;
            let slots = (last.parse::<u64>()? + 1).saturating_sub(first);
            if let Some(device) = device_number(device) {
                self.books.entry(device).or_default().missed((grid.parse()?, first), slots);
            }
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
        let is_good = record.quality.as_deref() == Some("good");
        if !is_good {
            self.not_good.push(line.t_ns);
        }
        let Some(device) = device_number(device).filter(|_| tag.ends_with(READS)) else { return Ok(()) };
        let (Some(grid), Some(slot)) = (&record.grid, &record.slot) else {
            anyhow::bail!("a polled sample without its slot");
        };
        let place: (u64, u64) = (grid.parse()?, slot.parse()?);
        let book = self.books.entry(device).or_default();
        match record.value.as_u64() {
            Some(number) if is_good => book.good(place, number, line.t_ns),
            _ => book.bad(place),
        }
        Ok(())
    }

    /// What became of all answers that left in a stretch of time, as far as it has arrived.
    pub(crate) fn fates(&self, from_ns: u64, until_ns: u64) -> Fates {
        let mut fates = Fates::default();
        self.books.values().for_each(|book| book.tell(from_ns, until_ns, &mut fates));
        fates
    }

    /// Whether of each device the value of an answer has arrived that left since a moment.
    pub(crate) fn has_each_arrived(&self, devices: usize, from_ns: u64) -> bool {
        let newest = |device: usize| self.books.get(&device)?.newest_arrived();
        (0..devices).all(|device| newest(device).is_some_and(|left| left >= from_ns))
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

    /// A sample of the read count of the first device, in this slot.
    fn sample(slot: u64, value: Option<u64>) -> serde_json::Value {
        serde_json::json!({ "is_new": true, "record": {
            "tag": "bench/machine-000/reads", "device": "bench/machine-000",
            "grid": "1", "slot": slot.to_string(), "value": value,
            "quality": if value.is_some() { "good" } else { "bad" },
        }})
    }

    #[test]
    fn a_sample_of_the_read_count_says_how_long_it_took() {
        let seen = Seen::start();
        // The device may write its line after the receiver has written the sample's.
        seen.history().record_at(112 * MS, "receiver", Kind::Ok, "sample", &sample(0, Some(7)));
        read(&seen, 0, 7, 100, 11);
        let fates = seen.look().expect("whole").fates(0, 200 * MS);
        assert_eq!((fates.arrived.count(), fates.total()), (1, 1));
        assert_eq!(fates.arrived.longest().as_millis(), 12);
    }

    #[test]
    fn an_answer_in_a_bad_slot_is_late_and_one_in_no_record_is_lost() {
        let seen = Seen::start();
        for ordinal in 1..=5 {
            read(&seen, 0, ordinal, ordinal * 100, 11);
        }
        seen.history().record_at(110 * MS, "receiver", Kind::Ok, "sample", &sample(0, Some(1)));
        seen.history().record_at(210 * MS, "receiver", Kind::Ok, "sample", &sample(1, None));
        seen.history().record_at(310 * MS, "receiver", Kind::Ok, "sample", &sample(2, Some(3)));
        let gap = serde_json::json!({ "is_new": true, "record": {
            "device": "bench/machine-000", "grid": "1", "first_slot": "3", "last_slot": "3", "cause": "no-quorum",
            "from": "2026-01-01T00:00:10.000000000Z", "to": "2026-01-01T00:00:11.000000000Z",
        }});
        seen.history().record_at(410 * MS, "receiver", Kind::Ok, "gap", &gap);
        let story = seen.look().expect("whole");
        let fates = story.fates(0, 600 * MS);
        assert_eq!((fates.arrived.count(), fates.late, fates.missed, fates.lost), (2, 1, 1, 1));
        assert!(story.has_each_arrived(1, 300 * MS) && !story.has_each_arrived(1, 301 * MS));
        assert!(!story.has_each_arrived(2, 0), "a second device has answered nothing");
        assert_eq!((story.not_good_since(0), story.not_good_since(211 * MS)), (1, 0));
        assert_eq!(story.fewest_reads_between(150 * MS, 400 * MS), 2);
    }

    #[test]
    fn slots_of_new_gaps_are_counted_where_they_lie() {
        let seen = Seen::start();
        let gap = |is_new: bool| {
            serde_json::json!({ "is_new": is_new, "record": {
                "device": "bench/machine-000", "grid": "1", "first_slot": "3", "last_slot": "5", "cause": "late",
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
