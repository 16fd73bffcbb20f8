//! One polled device: reads that it answered against slots that arrived.
//!
//! - Slots are ordered by (grid, slot); grids are numbered in the order in which they were opened.
//! - The first tag of the device holds the number of the read; it comes before the others of its slot, unless it was
//!   refused.
//! - A device that has refused its block is read in parts, some tags at a time. The part with the first tag numbers the
//!   slot; another tag's value comes from a part between that number's neighbours, and from a later one than the value
//!   before it.
//! - A grid in which any of the device's later tags arrives has all of them in every slot; any other has none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use model::Timestamp;

use super::causes::{Reads, in_flight, reads_in};
use super::turns::Request;
use super::{ClockSet, Filed, GapSeen, Number, OpeningSeen, Polled, SampleSeen};

/// Slots of one grid that are looked at; more would be 11 days at 100 ms, and can only be nonsense.
const MOST_SLOTS: u64 = 10_000_000;
/// Why a grid is opened anew by a leader whose clock does not agree.
const CLOCK: &str = "clock";
/// A leader has noticed that its clock was set, and has opened its grids anew, after so long.
const NOTICED_NS: i64 = 5_000_000_000;

/// What is known of one device.
#[derive(Debug)]
pub(super) struct DeviceBook {
    device: Polled,
    /// Those that read the first tag, in order of time.
    reads: Vec<Read>,
    /// Numbers of these, ascending.
    ordinals: Vec<u32>,
    /// Reads of some tags alone by their numbers: the first register, and how many.
    parts: BTreeMap<u32, (u16, u16)>,
    /// From which of these the last value of a tag came.
    taken: BTreeMap<usize, u32>,
    /// Values that came before the number of their read.
    early: BTreeMap<(u64, u64), Vec<(usize, Number)>>,
    /// Who asked, and when the first byte of the request came, by the number of the read.
    asked: BTreeMap<u32, (IpAddr, u64)>,
    /// All requests, answered or not.
    requests: Vec<Request>,
    /// The term in which each read was committed that arrived, by its number.
    terms: HashMap<u32, u64>,
    slots: BTreeMap<(u64, u64), Slot>,
    gaps: Vec<GapSeen>,
    openings: BTreeMap<u64, OpeningSeen>,
    /// Grids with the tags of a later revision.
    later: BTreeSet<u64>,
    /// Values that cannot be what the device answered.
    wrong: u64,
    /// Samples that came under a second key.
    rekeyed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    at_ns: u64,
    node: IpAddr,
}

/// Samples of one slot; a bit for each tag.
#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// Which read it came from; 0 while that is not known.
    ordinal: u32,
    good: u32,
    bad: u32,
    filed: u32,
    /// Some tag has two samples.
    is_twice: bool,
    /// The earliest and the latest time that its good samples bear.
    times: Option<(Timestamp, Timestamp)>,
}

/// What is known of wall clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks<'a> {
    /// The machine's minus its monotonic one, at least and at most.
    pub(super) least: i64,
    pub(super) most: i64,
    /// Those of nodes that were set.
    pub(super) set: &'a [ClockSet],
}

/// What is said of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Sampled(u32),
    Bad,
    /// Nothing can have been read in a dry slot.
    InGap {
        is_dry: bool,
    },
    /// Nothing, or too much. With the read, if one is known.
    Unaccounted(Option<u32>),
}

/// The device's part of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PolledTally {
    /// Reads answered.
    pub(super) reads: u64,
    /// Samples that were answered, and something later has arrived.
    pub(super) lost: u64,
    /// Samples that were answered and may be on their way.
    pub(super) pending: u64,
    pub(super) expected: u64,
    pub(super) sampled: u64,
    pub(super) bad: u64,
    pub(super) in_gaps: u64,
    pub(super) unaccounted: u64,
    /// Values that the device never answered.
    pub(super) wrong: u64,
    /// Reads that were answered, and that slots alone excuse in which nothing is read.
    pub(super) hidden: u64,
    /// Samples that came under a second key.
    pub(super) rekeyed: u64,
}

impl DeviceBook {
    pub(super) fn new(device: Polled) -> Self {
        Self {
            device,
            reads: Vec::new(),
            ordinals: Vec::new(),
            parts: BTreeMap::new(),
            taken: BTreeMap::new(),
            early: BTreeMap::new(),
            asked: BTreeMap::new(),
            requests: Vec::new(),
            terms: HashMap::new(),
            slots: BTreeMap::new(),
            gaps: Vec::new(),
            openings: BTreeMap::new(),
            later: BTreeSet::new(),
            wrong: 0,
            rekeyed: 0,
        }
    }

    pub(super) fn asked(&mut self, ordinal: u64, node: IpAddr, began_ns: u64) {
        let ordinal = ordinal as u32;
        self.asked.insert(ordinal, (node, began_ns));
        self.requests.push(Request { at_ns: began_ns, node, ordinal: Some(ordinal) });
    }

    pub(super) fn asked_in_vain(&mut self, node: IpAddr, began_ns: u64) {
        self.requests.push(Request { at_ns: began_ns, node, ordinal: None });
    }

    /// All requests, and in which term what was read came to be committed, where that is known.
    pub(super) fn requests(&self) -> impl Iterator<Item = (&Request, Option<u64>)> {
        let term = |request: &Request| self.terms.get(&request.ordinal?).copied();
        self.requests.iter().map(move |request| (request, term(request)))
    }

    pub(super) fn answered(&mut self, ordinal: u64, node: IpAddr, at_ns: u64) {
        let at = self.reads.partition_point(|read| read.at_ns <= at_ns);
        self.reads.insert(at, Read { at_ns, node });
        let ordinal = ordinal as u32;
        let at = self.ordinals.partition_point(|known| *known < ordinal);
        self.ordinals.insert(at, ordinal);
    }

    pub(super) fn answered_span(&mut self, span: (u16, u16), ordinal: u64, node: IpAddr, at_ns: u64) {
        if !self.device.reads_all(span) {
            self.parts.insert(ordinal as u32, span);
        }
        if self.device.reads(span, 0) {
            self.answered(ordinal, node, at_ns);
        }
    }

    /// Takes a sample. `false` if the device has no such tag.
    pub(super) fn received(&mut self, sample: &SampleSeen) -> bool {
        let (Some(tag), Some(place)) = (self.device.tag(&sample.tag), sample.slot) else { return false };
        if self.device.is_later(tag) {
            self.later.insert(place.0);
        }
        let slot = self.slots.entry(place).or_default();
        let bit = 1 << tag;
        let is_again = (slot.good | slot.bad) & bit != 0;
        slot.is_twice |= is_again;
        self.rekeyed += u64::from(is_again);
        match sample.value {
            None => slot.bad |= bit,
            Some(value) => {
                slot.good |= bit;
                let (source, gateway) = (sample.source_time, sample.gateway_time);
                let (from, until) = slot.times.unwrap_or((source, gateway));
                slot.times = Some((from.min(source).min(gateway), until.max(source).max(gateway)));
                if tag == 0 {
                    slot.ordinal = match value {
                        Number::Whole(number) => number as u32,
                        Number::Real(number) => number as u32,
                    };
                    self.terms.entry(slot.ordinal).or_insert(sample.term);
                }
                self.early.entry(place).or_default().push((tag, value));
            }
        }
        let (ordinal, is_numbered) = (slot.ordinal, (slot.good | slot.bad) & 1 != 0);
        if is_numbered {
            for (tag, value) in self.early.remove(&place).unwrap_or_default() {
                self.wrong += u64::from(!self.has_answered(tag, ordinal, value));
            }
        }
        true
    }

    /// Whether the device has answered with this value in read number `ordinal`, or in a part around it; 0 where the
    /// first tag was bad.
    fn has_answered(&mut self, tag: usize, ordinal: u32, value: Number) -> bool {
        if ordinal > 0 && !self.parts.contains_key(&ordinal) {
            return self.device.could_answer(tag, ordinal, value);
        }
        let before = self.ordinals.partition_point(|known| *known < ordinal).checked_sub(1);
        let before = before.map_or(0, |at| self.ordinals[at]);
        let taken = self.taken.get(&tag).copied().unwrap_or_default();
        let from = taken.max(if ordinal > 0 { before } else { 0 });
        let behind = self.ordinals.partition_point(|known| *known <= ordinal);
        let until = self.ordinals.get(behind).filter(|_| ordinal > 0).copied().unwrap_or(u32::MAX);
        let could = |(number, span): &(&u32, &(u16, u16))| {
            self.device.reads(**span, tag) && self.device.could_answer(tag, **number, value)
        };
        let from = from.saturating_add(1);
        let mut parts = self.parts.range(from..until.max(from));
        let Some(number) = parts.find(could).map(|(number, _)| *number) else { return false };
        self.taken.insert(tag, number);
        true
    }

    pub(super) fn received_gap(&mut self, gap: GapSeen) {
        self.gaps.push(gap);
    }

    pub(super) fn received_opening(&mut self, opening: OpeningSeen) {
        self.openings.insert(opening.grid, opening);
    }

    pub(super) fn filed(&mut self, tag: &str, place: (u64, u64)) -> Filed {
        let (Some(tag), Some(slot)) = (self.device.tag(tag), self.slots.get_mut(&place)) else {
            return Filed::Unknown;
        };
        let bit = 1 << tag;
        if (slot.good | slot.bad) & bit == 0 {
            return Filed::Unknown;
        }
        let is_filed = slot.filed & bit != 0;
        slot.filed |= bit;
        // One that was delivered under two keys is told of by its slot.
        if is_filed && !slot.is_twice { Filed::Twice } else { Filed::Expected }
    }

    pub(super) fn unfiled(&self) -> u64 {
        self.slots.values().map(|slot| u64::from(((slot.good | slot.bad) & !slot.filed).count_ones())).sum()
    }

    pub(super) fn gaps(&self) -> impl Iterator<Item = &GapSeen> {
        self.gaps.iter()
    }

    pub(super) fn openings(&self) -> impl Iterator<Item = &OpeningSeen> {
        self.openings.values()
    }

    pub(super) fn last_read(&self) -> Option<(IpAddr, u64)> {
        self.reads.last().map(|read| (read.node, read.at_ns))
    }

    pub(super) fn reads_since(&self, from_ns: u64, is_wanted: &impl Fn(IpAddr) -> bool) -> usize {
        let first = self.reads.partition_point(|read| read.at_ns < from_ns);
        self.reads[first..].iter().filter(|read| is_wanted(read.node)).count()
    }

    pub(super) fn reads_between(&self, from_ns: u64, until_ns: u64) -> (usize, Option<u64>) {
        let first = self.reads.partition_point(|read| read.at_ns < from_ns);
        let behind = self.reads.partition_point(|read| read.at_ns < until_ns).max(first);
        (behind - first, self.reads[first..behind].first().map(|read| read.at_ns))
    }

    pub(super) fn first_read(&self, from_ns: u64, is_wanted: &impl Fn(IpAddr) -> bool) -> Option<u64> {
        let first = self.reads.partition_point(|read| read.at_ns < from_ns);
        self.reads[first..].iter().find(|read| is_wanted(read.node)).map(|read| read.at_ns)
    }

    /// When the device answered each read.
    pub(super) fn moments_of_reads(&self) -> impl Iterator<Item = u64> {
        self.reads.iter().map(|read| read.at_ns)
    }

    /// When the device answered the next read behind `count` of them since a moment.
    pub(super) fn read_behind(&self, since_ns: u64, count: usize) -> Option<u64> {
        let first = self.reads.partition_point(|read| read.at_ns < since_ns);
        self.reads.get(first + count).map(|read| read.at_ns)
    }

    /// When the last delivered read before a gap was answered, and the first behind it.
    pub(super) fn reads_around(&self, gap: &GapSeen) -> (u64, u64) {
        // The device numbers its reads in order of time.
        let moment = |(_, slot): (&(u64, u64), &Slot)| {
            let at = self.ordinals.binary_search(&slot.ordinal).ok()?;
            self.reads.get(at).map(|read| read.at_ns)
        };
        let before = self.slots.range(..(gap.grid, gap.first)).rev().find_map(moment);
        let behind = self.slots.range((gap.grid, gap.last)..).find_map(moment);
        (before.unwrap_or_default(), behind.unwrap_or(u64::MAX))
    }

    pub(super) fn longest_silence(&self, from_ns: u64, until_ns: u64) -> u64 {
        let first = self.reads.partition_point(|read| read.at_ns < from_ns);
        let behind = self.reads.partition_point(|read| read.at_ns <= until_ns);
        let before = first.checked_sub(1).map_or(from_ns, |at| self.reads[at].at_ns);
        let moments = self.reads[first..behind.max(first)].iter().map(|read| read.at_ns);
        let (mut longest, mut last) = (0, before);
        for at_ns in moments.chain([until_ns]) {
            longest = longest.max(at_ns.saturating_sub(last));
            last = at_ns;
        }
        longest
    }

    pub(super) fn settle(&self) -> PolledTally {
        let mut tally = PolledTally {
            reads: self.ordinals.len() as u64,
            wrong: self.wrong,
            rekeyed: self.rekeyed,
            ..PolledTally::default()
        };
        tally.wrong += self.early.values().map(|values| values.len() as u64).sum::<u64>();
        let tags = self.device.tags.len() as u64;
        // Reads up to here are settled; slots since then that excuse one read each.
        // Nothing is read in dry ones: they come last.
        let (mut settled, mut excuses, mut dry) = (0_u32, 0_u64, 0_u64);
        self.each_slot(|said| {
            tally.expected += 1;
            let ordinal = match said {
                Said::Sampled(ordinal) => {
                    tally.sampled += 1;
                    Some(ordinal)
                }
                Said::Bad => {
                    tally.bad += 1;
                    excuses += 1;
                    None
                }
                Said::InGap { is_dry } => {
                    tally.in_gaps += 1;
                    *(if is_dry { &mut dry } else { &mut excuses }) += 1;
                    None
                }
                Said::Unaccounted(ordinal) => {
                    tally.unaccounted += 1;
                    ordinal
                }
            };
            let Some(ordinal) = ordinal else { return };
            tally.wrong += u64::from(self.ordinals.binary_search(&ordinal).is_err() || ordinal <= settled);
            if ordinal > settled {
                let excused = excuses + u64::from(self.has_read_it_again(settled, ordinal));
                let missing = self.between(settled, ordinal).saturating_sub(excused);
                tally.hidden += missing.min(dry);
                tally.lost += missing.saturating_sub(dry) * tags;
                (settled, excuses, dry) = (ordinal, 0, 0);
            }
        });
        let known = self.slots.iter().rev().filter(|(_, slot)| slot.ordinal > 0);
        let mut partial = known.map(|((grid, _), slot)| self.missing(*grid, slot));
        tally.pending = partial.next().unwrap_or_default();
        tally.lost += partial.sum::<u64>();
        let missing = self.between(settled, u32::MAX).saturating_sub(excuses);
        tally.hidden += missing.min(dry);
        tally.pending += missing.saturating_sub(dry) * tags;
        tally
    }

    /// Whether the last read of a leader and the first one of the next, number `ordinal`, came in the time of one slot: the
    /// first may have gone without being able to commit what it had read. `settled` is the last read of it that was
    /// delivered: who reads on while another's reads are delivered is excused by nothing.
    fn has_read_it_again(&self, settled: u32, ordinal: u32) -> bool {
        let period = self.openings.values().map(|opening| opening.period_ns).max().unwrap_or_default();
        let (last, before) = (self.asked.get(&settled), self.asked.range(..ordinal).next_back());
        let (Some((first, _)), Some((_, (old, earlier_ns)))) = (last, before) else { return false };
        let Some((new, began_ns)) = self.asked.get(&ordinal) else { return false };
        first == old && old != new && began_ns.saturating_sub(*earlier_ns) < period.unsigned_abs()
    }

    /// Slots with a time before the request of their read came, or behind that of the next one of the same node. What was
    /// not delivered is passed over: what a node has given up may come late. So is what was read in parts, each at its time.
    pub(super) fn times_astray(&self, clocks: &Clocks<'_>) -> u64 {
        let wall = |moment_ns: u64, offset: i64| {
            Timestamp(i64::try_from(moment_ns).unwrap_or(i64::MAX)).plus_nanos(offset)
        };
        let delivered: HashSet<u32> = self.slots.values().map(|slot| slot.ordinal).collect();
        let is_astray = |(place, slot): &(&(u64, u64), &Slot)| {
            let Some((from, until)) = slot.times.filter(|_| !self.parts.contains_key(&slot.ordinal)) else {
                return false;
            };
            let Some(&(node, began_ns)) = self.asked.get(&slot.ordinal) else { return false };
            let mut later = self.asked.range(slot.ordinal.saturating_add(1)..);
            let next = later.find(|(ordinal, (other, _))| *other == node && delivered.contains(ordinal));
            let next_ns = next.map(|(_, (_, next_ns))| *next_ns);
            let is_early = from < wall(began_ns, clocks.least);
            let is_late = next_ns.is_some_and(|next_ns| until > wall(next_ns, clocks.most));
            let was_set = |clock: &ClockSet| {
                let ends_behind = next_ns.is_none_or(|next_ns| clock.began_ns <= next_ns);
                clock.node.is_none_or(|set| set == node) && ends_behind && clock.ended_ns >= began_ns
            };
            (is_early || is_late) && !clocks.set.iter().any(was_set) && !self.is_on_set_clock(**place)
        };
        self.slots.iter().filter(is_astray).count() as u64
    }

    /// Whether the clock by which a slot was read may have been set: its grid was opened because of that, or replaced soon
    /// after.
    fn is_on_set_clock(&self, (grid, slot): (u64, u64)) -> bool {
        let Some(opening) = self.openings.get(&grid) else { return false };
        let is_replaced = |later: &OpeningSeen| later.replaces == Some(grid) && later.cause == CLOCK;
        let last = || self.slots.range(..=(grid, u64::MAX)).next_back().map_or(slot, |((_, last), _)| *last);
        let unnoticed = || (NOTICED_NS / opening.period_ns.max(1)).unsigned_abs();
        opening.cause == CLOCK
            || (self.openings.values().any(is_replaced) && last().saturating_sub(slot) <= unnoticed())
    }

    /// Answered reads with `after < number < before`.
    fn between(&self, after: u32, before: u32) -> u64 {
        let first = self.ordinals.partition_point(|ordinal| *ordinal <= after);
        let behind = self.ordinals.partition_point(|ordinal| *ordinal < before);
        behind.saturating_sub(first) as u64
    }

    /// Tags of a read that did not arrive although others did.
    fn missing(&self, grid: u64, slot: &Slot) -> u64 {
        let later = if self.later.contains(&grid) { self.device.later.len() } else { 0 };
        let tags = (self.device.tags.len() + later) as u64;
        tags.saturating_sub(u64::from((slot.good | slot.bad).count_ones()))
    }

    /// Calls `each` for every slot from 0 to the highest known of each grid, in order.
    fn each_slot(&self, mut each: impl FnMut(Said)) {
        let mut grids: BTreeMap<u64, u64> = BTreeMap::new();
        let samples = self.slots.keys().copied();
        for (grid, last) in samples.chain(self.gaps.iter().map(|gap| (gap.grid, gap.last))) {
            let highest = grids.entry(grid).or_default();
            *highest = last.min(MOST_SLOTS).max(*highest);
        }
        for (grid, highest) in grids {
            let missing = self.missing_behind(grid, highest);
            // How many gap records cover each slot, and how much may be read in it.
            let mut covers = vec![(0_u8, Reads::Any); highest as usize + 1];
            let mut most = 0;
            for gap in self.gaps.iter().filter(|gap| gap.grid == grid) {
                most = in_flight(gap);
                let reads = reads_in(&gap.cause);
                for (cover, least) in
                    &mut covers[(gap.first.min(highest)) as usize..=(gap.last.min(highest)) as usize]
                {
                    *cover = cover.saturating_add(1);
                    *least = reads.max(*least);
                }
            }
            // In a row, however many records say it: a closed grid's gap grows slot by slot.
            let mut in_row = 0;
            for (slot, (cover, reads)) in covers.into_iter().enumerate() {
                in_row = if reads == Reads::InFlight { in_row + 1 } else { 0 };
                let is_dry = reads == Reads::None || in_row > most;
                each(self.said(grid, self.slots.get(&(grid, slot as u64)), cover, is_dry));
            }
            for _ in 0..missing {
                each(Said::Unaccounted(None));
            }
        }
    }

    /// Slots between the last one known of a grid and the change that replaced it; where clocks agree, that is less than
    /// one. A grid begins within its own period after the change that opens it.
    fn missing_behind(&self, grid: u64, highest: u64) -> u64 {
        let Some(opening) = self.openings.get(&grid) else { return 0 };
        let replaces = |later: &&OpeningSeen| later.replaces == Some(grid) && later.cause != CLOCK;
        let Some(successor) = self.openings.values().find(replaces) else { return 0 };
        let end = opening.first.plus_nanos((highest as i64 + 1).saturating_mul(opening.period_ns));
        let changed_at = successor.first.plus_nanos(-successor.period_ns);
        let hole = changed_at.nanos_since(end) / opening.period_ns;
        if hole > 0 { (hole as u64 + 1).min(MOST_SLOTS) } else { 0 }
    }

    fn said(&self, grid: u64, slot: Option<&Slot>, gaps: u8, is_dry: bool) -> Said {
        let Some(slot) = slot else {
            return if gaps == 1 { Said::InGap { is_dry } } else { Said::Unaccounted(None) };
        };
        let ordinal = (slot.ordinal > 0).then_some(slot.ordinal);
        if gaps > 0 || slot.is_twice || self.missing(grid, slot) > 0 {
            return Said::Unaccounted(ordinal);
        }
        match ordinal {
            Some(ordinal) if slot.bad == 0 => Said::Sampled(ordinal),
            _ => Said::Bad,
        }
    }
}
