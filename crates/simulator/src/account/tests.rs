//! Each figure of the account, made other than zero by the thing it is there for.

use model::{Lineage, Ordinal, Position};

use super::*;

const MS: u64 = 1_000_000;
const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 12));
const PRESS: &str = "hall-1/press-1";
const ROBOT: &str = "hall-2/robot-1";

/// A run in which reads are numbered like their slots, from 1 and 0, a tenth of a second apart.
struct Run {
    account: Account,
    position: u64,
}

impl Run {
    /// One device, one pusher, and a message that is sent, acknowledged and delivered.
    fn new() -> Self {
        let mut plant = Plant::demo();
        plant.devices.truncate(1);
        plant.pushers.truncate(1);
        let mut run = Self { account: Account::new(&plant, 0), position: 1 };
        run.account.sent(ROBOT, 0, 1_000);
        run.account.acknowledged(ROBOT, 0);
        run.push(0, 1_000);
        run
    }

    fn key(&mut self) -> SampleKey {
        self.position += 1;
        SampleKey { lineage: Lineage::from_random(1), position: Position(self.position), ordinal: Ordinal(0) }
    }

    /// Message `number` is delivered.
    fn push(&mut self, number: u64, base_time: i64) {
        self.push_in(1, number, base_time, Timestamp(0));
    }

    /// Message `number`, which a node took at a moment and which was committed in a term, is delivered.
    fn push_in(&mut self, term: u64, number: u64, base_time: i64, gateway_time: Timestamp) {
        let content = Plant::demo().pushers[0].content.clone();
        for index in 0..content.samples {
            let (tag, value) = content.sample(number, index);
            let value = match value {
                model::Value::U64(count) => Number::Whole(count),
                model::Value::F64(real) => Number::Real(real),
                other => panic!("no sample is {other:?}"),
            };
            let sample = SampleSeen {
                key: self.key(),
                tag: tag.to_owned(),
                device: ROBOT.to_owned(),
                value: Some(value),
                slot: None,
                source_time: Timestamp(base_time + index as i64),
                gateway_time,
                term,
                node: "node-1".to_owned(),
            };
            self.account.received(&sample, true);
        }
    }

    fn read(&mut self, slot: u64) {
        self.account.answered(PRESS, slot + 1, A, slot * 100 * MS);
    }

    /// The samples of a slot, which came from read `slot + 1`.
    fn samples(&mut self, slot: u64, term: u64) -> Vec<SampleSeen> {
        let press = Plant::demo().devices[0].clone();
        let ordinal = slot as u32 + 1;
        let value = |tag: usize| match tag {
            0 => Number::Whole(u64::from(ordinal)),
            1 | 2 => Number::Whole(1),
            3 => Number::Real(f64::from((f64::from(ordinal) / 50.0).sin() as f32)),
            word => Number::Whole(u64::from(word as u32 + 2 + ordinal)),
        };
        let sample = |(tag, id): (usize, &String)| SampleSeen {
            key: self.key(),
            tag: id.clone(),
            device: PRESS.to_owned(),
            value: Some(value(tag)),
            slot: Some((1, slot)),
            source_time: Timestamp((slot * 100 * MS) as i64),
            gateway_time: Timestamp((slot * 100 * MS) as i64),
            term,
            node: format!("node-{term}"),
        };
        press.tags.iter().enumerate().map(sample).collect()
    }

    fn deliver(&mut self, samples: &[SampleSeen]) {
        for sample in samples {
            self.account.received(sample, true);
        }
    }

    /// Reads and delivers slots.
    fn slots(&mut self, slots: std::ops::RangeInclusive<u64>, term: u64) {
        for slot in slots {
            self.read(slot);
            let samples = self.samples(slot, term);
            self.deliver(&samples);
        }
    }

    fn gap(&mut self, first: u64, last: u64) {
        self.gap_by("failover", first, last);
    }

    fn gap_by(&mut self, cause: &str, first: u64, last: u64) {
        let gap = GapSeen {
            key: self.key(),
            device: PRESS.to_owned(),
            grid: 1,
            first,
            last,
            from: Timestamp((first * 100 * MS) as i64),
            to: Timestamp(((last + 1) * 100 * MS) as i64),
            cause: cause.to_owned(),
        };
        self.account.received_gap(&gap, true);
    }

    fn fault(&mut self, effect: Effect, began: u64, ended: u64) {
        let (began_ns, ended_ns) = (began * MS, ended * MS);
        let name = "kill -9 node-1".to_owned();
        self.account.suffered(Fault { name, effect, began_ns, taken_over_ns: ended_ns, ended_ns });
    }
}

/// The opening of a grid of 100 ms whose slot 0 is at so many milliseconds.
fn opening(grid: u64, first: i64, replaces: Option<u64>) -> OpeningSeen {
    OpeningSeen {
        device: PRESS.to_owned(),
        grid,
        first: Timestamp(first * MS as i64),
        period_ns: 100 * MS as i64,
        replaces,
        cause: "configuration".to_owned(),
    }
}

#[test]
fn a_run_in_which_everything_arrives_passes() {
    let mut run = Run::new();
    run.slots(0..=9, 1);
    let report = run.account.settle();
    let expected = Report {
        verdict: Verdict::Pass,
        reads_answered: 10,
        pushed_acked: 6,
        delivered: 206,
        slots_expected: 10,
        slots_sampled: 10,
        calm: Calm { slots: 10, missed: BTreeMap::new() },
        ..Report::default()
    };
    assert_eq!(report, expected);
}

#[test]
fn a_run_without_reads_or_with_a_doubt_is_unknown() {
    assert_eq!(Run::new().account.settle().verdict, Verdict::Unknown);
    let mut run = Run::new();
    run.slots(0..=1, 1);
    run.account.doubt("the kill did not bite");
    let report = run.account.settle();
    assert_eq!(
        (report.verdict, report.problems),
        (Verdict::Unknown, vec!["the kill did not bite".to_owned()])
    );
}

#[test]
fn a_read_that_is_neither_delivered_nor_inside_a_gap_is_lost() {
    let mut run = Run::new();
    run.slots(0..=3, 1);
    run.read(4);
    assert_eq!(run.account.figures().pending, 20);
    run.slots(5..=6, 1);
    let report = run.account.settle();
    assert_eq!((report.lost, report.slots_unaccounted, report.verdict), (20, 1, Verdict::Fail));
    run.gap_by("configuration", 4, 4);
    let report = run.account.settle();
    assert_eq!((report.lost, report.slots_in_gaps, report.verdict), (0, 1, Verdict::Pass));
}

#[test]
fn one_slot_of_a_gap_excuses_one_read() {
    let mut run = Run::new();
    run.slots(0..=3, 1);
    run.read(4);
    run.account.answered(PRESS, 6, B, 450 * MS);
    run.read(6);
    let last = run.samples(6, 2);
    run.deliver(&last);
    run.gap(4, 5);
    assert_eq!(run.account.settle().lost, 0);
    run.account.answered(PRESS, 8, A, 700 * MS);
    run.account.answered(PRESS, 9, A, 750 * MS);
    run.gap(7, 7);
    assert_eq!(run.account.settle().lost, 20, "two reads, one slot");
    run.slots(9..=9, 2);
    assert_eq!(run.account.settle().lost, 20, "nor before a later sample");
}

#[test]
fn a_slot_that_the_next_leader_reads_again_excuses_the_read_of_the_one_before() {
    let lost = |before: IpAddr, old: IpAddr, new: IpAddr, after_ms: u64| {
        let mut run = Run::new();
        run.account.received_opening(opening(1, 0, None), true);
        run.slots(0..=3, 1);
        run.account.asked(PRESS, 4, before, 300 * MS);
        for (ordinal, node, at_ms) in [(5, old, 400), (6, new, 400 + after_ms)] {
            run.account.answered(PRESS, ordinal, node, at_ms * MS);
            run.account.asked(PRESS, ordinal, node, at_ms * MS);
        }
        let mut again = run.samples(5, 2);
        again.iter_mut().for_each(|sample| sample.slot = Some((1, 4)));
        run.deliver(&again);
        run.account.settle().lost
    };
    assert_eq!(lost(A, A, B, 90), 0);
    assert_eq!(lost(A, A, A, 90), 20, "by the same node");
    assert_eq!(lost(A, A, B, 100), 20, "in the time of another slot");
    assert_eq!(lost(B, A, B, 90), 20, "by a node that reads on behind its end");
}

#[test]
fn an_acknowledged_message_that_does_not_arrive_is_lost() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    run.account.sent(ROBOT, 1, 2_000);
    assert_eq!(run.account.settle().lost, 0, "nobody was promised anything");
    run.account.acknowledged(ROBOT, 1);
    assert_eq!((run.account.figures().pending, run.account.figures().lost), (6, 0));
    run.account.sent(ROBOT, 2, 3_000);
    run.account.acknowledged(ROBOT, 2);
    run.push(2, 3_000);
    assert_eq!(run.account.figures().lost, 6, "a later one has arrived");
    let report = run.account.settle();
    assert_eq!((report.pushed_acked, report.lost, report.verdict), (18, 6, Verdict::Fail));
}

#[test]
fn what_comes_again_is_a_duplicate_and_what_comes_unsent_again_is_wrong() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    let again = run.samples(1, 1);
    run.account.received(&again[0], false);
    assert_eq!((run.account.settle().duplicates, run.account.settle().verdict), (1, Verdict::Pass));
    // Sent twice, committed twice: named, and no fault of the gateway.
    run.account.sent(ROBOT, 0, 1_000);
    run.push(0, 1_000);
    assert_eq!((run.account.settle().duplicates, run.account.settle().verdict), (7, Verdict::Pass));
    run.push(0, 1_000);
    assert_eq!(run.account.settle().verdict, Verdict::Fail);
}

#[test]
fn a_later_sample_first_is_out_of_order() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    run.read(2);
    run.read(3);
    let (earlier, later) = (run.samples(2, 1), run.samples(3, 1));
    run.deliver(&later);
    run.deliver(&earlier);
    let report = run.account.settle();
    assert_eq!((report.out_of_order, report.verdict), (20, Verdict::Fail));
}

#[test]
fn what_was_refused_may_come_later_and_must_come() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    run.read(2);
    let mut samples = run.samples(2, 1);
    // The number of the read and another tag are refused, and come when the next slot has.
    let refused = [samples.remove(7), samples.remove(0)];
    run.deliver(&samples);
    refused.iter().for_each(|sample| run.account.refused(sample.key, 1));
    run.slots(3..=3, 1);
    let report = run.account.settle();
    assert_eq!((report.lost, report.slots_unaccounted, report.verdict), (20, 1, Verdict::Fail));
    run.deliver(&refused);
    let report = run.account.settle();
    assert_eq!((report.lost, report.out_of_order, report.verdict), (0, 0, Verdict::Pass));
    run.read(4);
    let mut changed = run.samples(4, 1);
    changed[7].value = Some(Number::Whole(1));
    let number = changed.remove(0);
    run.deliver(&changed);
    run.deliver(&[number]);
    assert_eq!(run.account.settle().wrong, 1, "judged when the number of its read is known");
}

#[test]
fn a_device_that_is_read_in_parts_answers_a_value_in_one_of_them() {
    let parts = |run: &mut Run, slot: u64, first: u64, apart: u64| {
        // As the gateway does: twenty tags, one read each.
        let registers: Vec<u16> = [0, 2, 3, 4].into_iter().chain(6..22).collect();
        let mut samples = run.samples(slot, 1);
        for (place, register) in registers.into_iter().enumerate() {
            let ordinal = first + place as u64 * apart;
            run.account.answered_span(PRESS, (register, 1), ordinal, A, (slot * 100 + place as u64) * MS);
            samples[place].value = Some(match place {
                0 => Number::Whole(ordinal),
                1 | 2 => Number::Whole(1),
                3 => Number::Real(f64::from((ordinal as f64 / 50.0).sin() as f32)),
                _ => Number::Whole(u64::from(register) + ordinal),
            });
        }
        samples
    };
    let mut run = Run::new();
    run.slots(0..=1, 1);
    for (slot, first, apart) in [(2, 10, 1), (3, 40, 2)] {
        let samples = parts(&mut run, slot, first, apart);
        run.deliver(&samples);
    }
    let report = run.account.settle();
    assert_eq!((report.reads_answered, report.slots_sampled, report.wrong), (4, 4, 0));
    assert_eq!((report.lost, report.verdict), (0, Verdict::Pass));

    let mut samples = parts(&mut run, 4, 90, 1);
    samples[7].value = Some(Number::Whole(9 + 40 + 14));
    run.deliver(&samples);
    assert_eq!(run.account.settle().wrong, 1, "the value of the slot before");
    let mut unread = run.samples(5, 1);
    unread.iter_mut().for_each(|sample| sample.value = None);
    unread[6].value = Some(Number::Whole(8 + 111));
    run.deliver(&unread);
    assert_eq!(run.account.settle().wrong, 2, "nobody read that");
}

#[test]
fn a_device_to_which_something_was_done_may_be_silent_or_late_for_as_long() {
    for cause in ["device-down", "late"] {
        let mut run = around(cause, 5);
        assert_eq!(run.account.settle().verdict, Verdict::Fail, "{cause}: 5 slots of 15");
        run.account.device_failed("hall-1/press-2", 430 * MS, 700 * MS);
        assert_eq!(run.account.settle().verdict, Verdict::Fail, "{cause}: that is another device");
        run.account.device_failed(PRESS, 1_001 * MS, 2_000 * MS);
        assert_eq!(run.account.settle().verdict, Verdict::Fail, "{cause}: that was later");
        run.account.device_failed(PRESS, 430 * MS, 700 * MS);
        let report = run.account.settle();
        assert_eq!((report.verdict, report.notes), (Verdict::Pass, Vec::new()), "{cause}");
    }
    let mut run = around("failover", 5);
    run.account.device_failed(PRESS, 430 * MS, 700 * MS);
    assert_eq!(run.account.settle().verdict, Verdict::Fail, "no device changes who leads");
}

#[test]
fn a_slot_with_a_bad_sample_is_bad_and_excuses_its_read() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    run.read(2);
    let mut bad = run.samples(2, 1);
    bad.iter_mut().for_each(|sample| sample.value = None);
    run.deliver(&bad);
    run.slots(3..=3, 1);
    let report = run.account.settle();
    assert_eq!((report.slots_bad, report.slots_sampled, report.lost), (1, 3, 0));
    assert_eq!(report.verdict, Verdict::Pass);
}

#[test]
fn a_slot_in_two_things_or_in_part_is_unaccounted() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.gap(3, 3);
    assert_eq!(run.account.settle().slots_unaccounted, 1, "sampled and in a gap");
    let again: Vec<_> = run.samples(4, 1);
    run.deliver(&again);
    assert_eq!(run.account.settle().slots_unaccounted, 2, "sampled twice");
    run.read(5);
    let some = run.samples(5, 1);
    run.deliver(&some[..19]);
    let report = run.account.settle();
    assert_eq!((report.slots_unaccounted, report.lost), (3, 1), "one tag is missing");
    run.gap(8, 8);
    run.gap(8, 8);
    let report = run.account.settle();
    assert_eq!(report.slots_unaccounted, 6, "6 and 7 are in nothing, 8 in two gaps");
    let parts = report.slots_sampled + report.slots_bad + report.slots_in_gaps + report.slots_unaccounted;
    assert_eq!(parts, report.slots_expected);
    assert_eq!(report.verdict, Verdict::Fail);
}

#[test]
fn a_grid_ends_where_its_successor_begins() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.account.received_opening(opening(1, 0, None), true);
    run.account.received_opening(opening(2, 600, Some(1)), true);
    assert_eq!(run.account.settle().slots_unaccounted, 0, "to one period");
    run.account.received_opening(opening(2, 900, Some(1)), true);
    let report = run.account.settle();
    assert_eq!((report.slots_unaccounted, report.slots_expected), (4, 9), "500 to 800 are in nothing");
    assert_eq!(report.verdict, Verdict::Fail);
    let slower = OpeningSeen { period_ns: 1_000 * MS as i64, ..opening(2, 1_500, Some(1)) };
    run.account.received_opening(slower, true);
    assert_eq!(run.account.settle().slots_unaccounted, 0, "it was opened at 500 or later");
    let on_another_clock = OpeningSeen { cause: "clock".to_owned(), ..opening(2, 900, Some(1)) };
    run.account.received_opening(on_another_clock, true);
    assert_eq!(run.account.settle().slots_unaccounted, 0, "the two times are of two clocks");
}

#[test]
fn a_grid_that_has_later_tags_has_them_in_every_slot() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    let more = |run: &mut Run, slot: u64| {
        run.read(slot);
        let mut samples = run.samples(slot, 1);
        let press = Plant::demo().devices[0].clone();
        let base = samples[0].clone();
        samples.extend((0_u32..).zip(&press.later).map(|(place, tag)| SampleSeen {
            key: run.key(),
            tag: tag.clone(),
            value: Some(Number::Whole(u64::from(22 + place + slot as u32 + 1))),
            ..base.clone()
        }));
        samples.iter_mut().for_each(|sample| sample.slot = Some((2, slot)));
        samples
    };
    for slot in 0..=1 {
        run.account.answered(PRESS, 10 + slot, A, (2 + slot) * 100 * MS);
    }
    for slot in 2..=3 {
        let samples = more(&mut run, slot);
        run.deliver(&samples);
    }
    let report = run.account.settle();
    assert_eq!(
        (report.slots_unaccounted, report.slots_sampled),
        (2, 4),
        "slots 0 and 1 of grid 2 are in nothing"
    );
    let samples = more(&mut run, 4);
    run.deliver(&samples[..samples.len() - 1]);
    let report = run.account.settle();
    assert_eq!((report.slots_unaccounted, report.slots_sampled), (3, 4), "slot 4 lacks a later tag");
}

#[test]
fn a_reign_that_writes_behind_a_later_one_or_through_two_nodes_is_stale() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    run.slots(2..=3, 2);
    assert_eq!(run.account.settle().stale_reigns, 0);
    let mut late = run.samples(3, 1)[0].clone();
    late.tag = "hall-1/press-1/device-number".to_owned();
    run.account.received(&late, true);
    let report = run.account.settle();
    assert_eq!((report.stale_reigns, report.verdict), (1, Verdict::Fail), "term 1 behind term 2");
    let mut run = Run::new();
    run.slots(0..=1, 2);
    let mut other = run.samples(2, 2);
    other.iter_mut().for_each(|sample| sample.node = "node-3".to_owned());
    run.read(2);
    run.deliver(&other);
    assert_eq!(run.account.settle().stale_reigns, 1, "two nodes in one term");
}

#[test]
fn a_record_that_comes_again_with_other_bytes_fails_the_run() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    run.account.conflicted(1);
    let report = run.account.settle();
    assert_eq!((report.conflicts, report.verdict), (1, Verdict::Fail));
}

#[test]
fn a_changed_value_and_a_read_that_never_was_are_wrong() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    let samples = run.samples(2, 1);
    run.deliver(&samples);
    assert_eq!(run.account.settle().verdict, Verdict::Fail, "nobody read that");
    run.read(2);
    assert_eq!(run.account.settle().verdict, Verdict::Pass);
    run.read(3);
    let mut changed = run.samples(3, 1);
    changed[7].value = Some(Number::Whole(1));
    run.deliver(&changed);
    assert_eq!(run.account.settle().verdict, Verdict::Fail);
}

#[test]
fn a_device_that_saw_two_nodes_at_once_fails_the_run() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    run.account.overlapped();
    let report = run.account.settle();
    assert_eq!((report.device_overlaps, report.verdict), (1, Verdict::Fail));
}

/// Slots 0 to 2 are read by A in term 1, slots 3 to 5 by B in term 2: each request comes at the time of its slot.
fn in_turn() -> Run {
    let mut run = Run::new();
    for slot in 0..=5 {
        let (node, term) = if slot < 3 { (A, 1) } else { (B, 2) };
        run.account.asked(PRESS, slot + 1, node, slot * 100 * MS);
        run.slots(slot..=slot, term);
    }
    run
}

#[test]
fn a_request_in_the_midst_of_another_nodes_turn_fails_the_run() {
    let report = in_turn().account.settle();
    assert_eq!((report.requests_astray, report.verdict), (0, Verdict::Pass));
    for (node, millis, astray) in
        [(A, 350, 1), (B, 150, 1), (A, 250, 0), (B, 250, 0), (A, 600, 0), (A, 150, 0), (B, 450, 0)]
    {
        let mut run = in_turn();
        run.account.asked_in_vain(PRESS, node, millis * MS);
        let report = run.account.settle();
        let expected = (astray, astray == 0);
        assert_eq!((report.requests_astray, report.verdict == Verdict::Pass), expected, "{node} at {millis}");
    }
}

#[test]
fn a_request_that_was_answered_is_astray_at_any_device_and_one_that_was_not_unless_that_had_failed() {
    let mut run = in_turn();
    run.account.device_failed(PRESS, 340 * MS, 360 * MS);
    run.account.asked_in_vain(PRESS, A, 350 * MS);
    assert_eq!(run.account.settle().requests_astray, 0, "when it heard of it is not when it was asked");
    run.account.asked_in_vain(PRESS, A, 370 * MS);
    assert_eq!(run.account.settle().requests_astray, 1, "it was well again");
    let mut run = in_turn();
    run.account.device_failed(PRESS, 340 * MS, 360 * MS);
    run.account.asked(PRESS, 90, A, 350 * MS);
    assert_eq!(run.account.settle().requests_astray, 1, "it was answered");
}

#[test]
fn who_leads_again_may_ask_again() {
    let mut run = in_turn();
    for slot in 6..=8 {
        run.account.asked(PRESS, slot + 1, A, slot * 100 * MS);
        run.slots(slot..=slot, 3);
    }
    assert_eq!(run.account.settle().requests_astray, 0);
    run.account.asked_in_vain(PRESS, B, 750 * MS);
    assert_eq!(run.account.settle().requests_astray, 1);
}

#[test]
fn a_failover_is_measured_between_two_reads_and_explains_one_reign() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.gap(5, 9);
    run.slots(10..=12, 2);
    assert_eq!(run.account.settle().spurious_elections, 1, "nothing explains term 2");
    run.fault(Effect::Failover, 430, 1_250);
    let report = run.account.settle();
    assert_eq!(report.failovers, [FailoverSeen { fault: "kill -9 node-1".into(), gap_ms: 600 }]);
    assert_eq!(report.spurious_elections, 0);
    run.slots(13..=14, 3);
    run.fault(Effect::None, 1_250, 2_000);
    assert_eq!(run.account.settle().spurious_elections, 1, "cutting a follower explains no reign");
}

#[test]
fn an_election_that_nobody_caused_is_a_note_and_no_failure() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    assert!(run.account.settle().notes.is_empty());
    run.slots(5..=6, 2);
    let report = run.account.settle();
    let note = "an election that nobody caused: node-2 led in term 2 from 1970-01-01T00:00:00.500000000Z";
    assert_eq!((report.verdict, report.notes), (Verdict::Pass, vec![note.to_owned()]));
}

#[test]
fn a_fault_that_is_not_over_explains_one_reign() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.account.begins_to_suffer(Effect::Failover, 430 * MS);
    run.slots(5..=6, 2);
    assert_eq!(run.account.settle().spurious_elections, 0);
    run.slots(7..=8, 3);
    assert_eq!(run.account.settle().spurious_elections, 1, "it explains one");
    run.fault(Effect::Failover, 430, 650);
    assert_eq!(run.account.settle().spurious_elections, 1, "over, it is the same one");
}

#[test]
fn a_fault_causes_every_reign_that_begins_in_it_or_while_it_settles_and_no_other() {
    let mut run = in_turn();
    let began_ns = 300 * MS;
    let second = Uncaused { term: 2, node: "node-2".to_owned(), began_ns };
    assert_eq!(run.account.settle().uncaused, std::slice::from_ref(&second));
    // A device knows better than a node's clock.
    run.account.wall_offset = 3_600_000 * MS as i64;
    assert_eq!(run.account.settle().uncaused, [second]);
    run.account.wall_offset = 0;
    for slot in 6..=8 {
        run.account.asked(PRESS, slot + 1, A, slot * 100 * MS);
        run.slots(slot..=slot, 3);
    }
    assert_eq!(run.account.settle().uncaused.len(), 2);
    run.fault(Effect::None, 250, 650);
    assert_eq!(run.account.settle().uncaused, [], "both began in it");
    for (slot, uncaused) in [(26, 0), (27, 1)] {
        let mut run = in_turn();
        run.fault(Effect::Failover, 250, 650);
        run.account.asked(PRESS, slot + 1, A, slot * 100 * MS);
        run.slots(slot..=slot, 3);
        let seen = run.account.settle().uncaused.len();
        assert_eq!(seen, uncaused, "two seconds behind it, at {slot} times 100 ms");
    }
}

#[test]
fn a_reign_that_polled_nothing_begins_when_its_first_sample_was_taken() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.account.sent(ROBOT, 1, 2_000);
    run.push_in(2, 1, 2_000, Timestamp(420 * MS as i64));
    let expected = Uncaused { term: 2, node: String::new(), began_ns: 420 * MS };
    assert_eq!(run.account.settle().uncaused, [expected]);
}

#[test]
fn a_reign_does_not_begin_with_what_a_follower_took_before_it() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.account.sent(ROBOT, 1, 2_000);
    run.account.acknowledged(ROBOT, 1);
    // Taken a moment before the leader was killed, handed on to the next one.
    run.push_in(2, 1, 2_000, Timestamp(420 * MS as i64));
    run.slots(6..=7, 2);
    run.gap(5, 5);
    run.fault(Effect::Failover, 430, 1_250);
    let report = run.account.settle();
    assert_eq!((report.spurious_elections, report.verdict), (0, Verdict::Pass));
}

/// A run of five slots, a gap of five, and so many slots behind it, all by one leader.
fn around(cause: &str, behind: u64) -> Run {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.gap_by(cause, 5, 9);
    run.slots(10..=9 + behind, 1);
    run
}

#[test]
fn a_gap_that_blames_a_fault_must_meet_one() {
    for cause in ["failover", "switchover", "overload", "disk-full", "clock", "a word"] {
        let report = around(cause, 40).account.settle();
        let problem = format!("5 slots are in gaps `{cause}` that nothing explains: {PRESS} from slot 5 on");
        assert_eq!((report.verdict, report.problems), (Verdict::Fail, vec![problem]));
        let mut run = around(cause, 40);
        run.account.allow(&[cause]);
        assert_eq!(run.account.settle().verdict, Verdict::Pass, "{cause} is allowed");
    }
    // Reads around the gap were answered at 400 and 1 000 ms.
    for (cause, from, until, verdict) in [
        ("disk-full", 100, 399, Verdict::Fail),
        ("disk-full", 430, 700, Verdict::Pass),
        ("disk-full", 1_001, 2_000, Verdict::Fail),
        ("overload", 430, 700, Verdict::Fail),
    ] {
        let mut run = around("disk-full", 40);
        run.account.allow_within(&[cause], from * MS, until * MS);
        assert_eq!(run.account.settle().verdict, verdict, "{cause} is allowed from {from} to {until} ms");
    }
    for (began, ended, verdict) in
        [(100, 399, Verdict::Fail), (430, 700, Verdict::Pass), (1_001, 2_000, Verdict::Fail)]
    {
        let mut run = around("failover", 40);
        run.fault(Effect::Failover, began, ended);
        assert_eq!(run.account.settle().verdict, verdict, "a fault from {began} to {ended} ms");
    }
    let mut run = around("overload", 40);
    run.fault(Effect::Failover, 430, 700);
    assert_eq!(run.account.settle().verdict, Verdict::Fail, "a kill overloads nobody");
}

#[test]
fn what_is_done_to_the_cluster_explains_gaps_until_reading_goes_on() {
    let mut run = around("failover", 40);
    run.account.disturbed(0, 10 * MS);
    assert_eq!(run.account.settle().verdict, Verdict::Pass, "ten reads take longer");
    run.gap(50, 51);
    run.slots(52..=60, 1);
    assert_eq!(run.account.settle().verdict, Verdict::Fail, "long after it");
    run.account.begins_to_suffer(Effect::Failover, 5_050 * MS);
    assert_eq!(run.account.settle().verdict, Verdict::Pass, "it was not over when the run was");
}

#[test]
fn a_change_of_leader_explains_its_gap_and_is_told_of_where_nobody_caused_it() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.gap(5, 9);
    run.slots(10..=12, 2);
    let report = run.account.settle();
    assert_eq!((report.verdict, report.spurious_elections), (Verdict::Pass, 1));
    assert!(report.notes[0].contains("an election that nobody caused"), "{:?}", report.notes);
    run.account.disturbed(430 * MS, 440 * MS);
    assert_eq!(run.account.settle().spurious_elections, 0);
}

#[test]
fn a_busy_machine_explains_some_gaps_and_not_a_quarter_of_all_slots() {
    for cause in ["late", "paused", "no-quorum", "device-down"] {
        let report = around(cause, 10).account.settle();
        assert_eq!((report.verdict, report.slots_expected), (Verdict::Pass, 20), "{cause}");
        assert_eq!(report.notes.len(), usize::from(cause != "late"), "{cause}: {:?}", report.notes);
        assert_eq!(around(cause, 9).account.settle().verdict, Verdict::Fail, "{cause}: 5 slots of 19");
    }
}

#[test]
fn what_a_busy_machine_takes_while_nothing_is_done_is_counted_by_itself() {
    for cause in ["late", "paused", "no-quorum", "device-down"] {
        let calm = |run: &Run| run.account.settle().calm;
        let missed = |slots: u64| BTreeMap::from([(cause.to_owned(), slots)]);
        let run = around(cause, 40);
        assert_eq!(calm(&run), Calm { slots: 50, missed: missed(5) }, "{cause}");
        // Reads around the gap were answered at 400 and 1 000 ms. A fault settles two seconds later.
        for (began, ended, counted) in
            [(430, 700, BTreeMap::new()), (0, 390, BTreeMap::new()), (1_001, 1_010, missed(5))]
        {
            // What is done to the cluster explains some of these causes altogether.
            let mut run = around(cause, 40);
            run.fault(Effect::None, began, ended);
            assert_eq!(calm(&run).missed, counted, "{cause}, {began} to {ended}");
        }
        let mut run = around(cause, 40);
        run.account.device_failed("hall-1/press-2", 430 * MS, 700 * MS);
        assert_eq!(calm(&run).missed, BTreeMap::new(), "{cause}: something was done to another device");
    }
    let mut run = around("late", 40);
    // Read from 0 to 400 ms, and from 1 000 ms on to 4 900; nothing counts from 430 to 2 700 ms.
    run.fault(Effect::None, 430, 700);
    assert_eq!(run.account.settle().calm.slots, 5 + 22);
}

#[test]
fn an_answered_read_in_a_late_slot_fails_the_run() {
    let mut run = Run::new();
    run.slots(0..=3, 1);
    run.read(4);
    run.gap_by("late", 4, 4);
    run.slots(5..=9, 1);
    let report = run.account.settle();
    assert_eq!((report.lost, report.verdict), (0, Verdict::Fail));
    assert_eq!(report.problems, ["1 reads were answered, and stand in gaps in which nothing is read"]);
}

#[test]
fn what_was_read_on_where_nothing_is_read_any_more_fails_the_run() {
    // A hundred slots in gaps, so many of them read.
    let gapped = |cause: &str, record: u64, reads: u64| {
        let mut run = Run::new();
        run.account.allow(&[cause]);
        run.slots(0..=99, 1);
        (100..100 + reads).for_each(|slot| run.read(slot));
        (100..200).step_by(record as usize).for_each(|first| run.gap_by(cause, first, first + record - 1));
        run.slots(200..=299, 1);
        run.account.settle()
    };
    for cause in ["paused", "disabled", "configuration"] {
        for record in [100, 1] {
            let in_flight = gapped(cause, record, 51);
            assert_eq!((in_flight.lost, in_flight.verdict), (0, Verdict::Pass), "{cause}, {record} a record");
            let read_on = gapped(cause, record, 100);
            assert_eq!((read_on.lost, read_on.verdict), (0, Verdict::Fail), "{cause}, {record} a record");
            let problem = "49 reads were answered, and stand in gaps in which nothing is read";
            assert_eq!(read_on.problems, [problem], "{cause}, {record} a record");
        }
    }
    for cause in ["no-quorum", "device-down", "failover"] {
        assert_eq!(gapped(cause, 100, 100).verdict, Verdict::Pass, "{cause} hides reads that were honest");
    }
}

#[test]
fn a_device_is_taken_over_by_the_first_read_of_another_node() {
    let mut run = Run::new();
    run.slots(0..=2, 1);
    assert_eq!(run.account.taken_over_ns(50 * MS, A), None);
    run.account.answered(PRESS, 4, B, 480 * MS);
    run.account.answered(PRESS, 5, B, 580 * MS);
    assert_eq!(run.account.taken_over_ns(50 * MS, A), Some(480 * MS));
    assert_eq!(run.account.reads_since(500 * MS, |node| node == B), 1);
    assert_eq!(run.account.last_reads().next(), Some((PRESS, Some((B, 580 * MS)))));
}

#[test]
fn a_switchover_tells_the_slots_it_missed() {
    let mut run = Run::new();
    run.slots(0..=4, 1);
    run.gap(5, 6);
    run.slots(7..=9, 2);
    run.fault(Effect::Switchover, 480, 900);
    run.fault(Effect::Switchover, 910, 950);
    let report = run.account.settle();
    assert_eq!(report.switchovers.iter().map(|seen| seen.slots_missed).collect::<Vec<_>>(), [2, 0]);
    // Named like a kill here, and with a gap record like one.
    assert_eq!(report.notes, ["slots missed at the kill -9 node-1: failover 2"]);
    assert_eq!(report.verdict, Verdict::Pass);
}

#[test]
fn what_only_one_destination_has_is_lost() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    for sample in [run.samples(0, 1), run.samples(1, 1)].concat() {
        run.account.filed(PRESS, &sample.tag, sample.slot, sample.source_time);
    }
    assert_eq!(run.account.settle().lost, 6, "the pushed message stands in no file");
    let content = Plant::demo().pushers[0].content.clone();
    for index in 0..6 {
        run.account.filed(ROBOT, content.sample(0, index).0, None, Timestamp(1_000 + index as i64));
    }
    assert_eq!(run.account.settle().verdict, Verdict::Pass);
    run.account.filed(PRESS, &format!("{PRESS}/sine"), Some((1, 7)), Timestamp(0));
    assert_eq!(run.account.settle().verdict, Verdict::Fail, "a file holds what was never delivered");
}

#[test]
fn a_sample_that_stands_in_files_more_often_than_it_was_committed_fails_the_run() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    let polled = [run.samples(0, 1), run.samples(1, 1)].concat();
    let file = |run: &mut Run, sample: &SampleSeen| {
        run.account.filed(PRESS, &sample.tag, sample.slot, sample.source_time);
    };
    let content = Plant::demo().pushers[0].content.clone();
    let file_pushed = |run: &mut Run, index: usize| {
        run.account.filed(ROBOT, content.sample(0, index).0, None, Timestamp(1_000 + index as i64));
    };
    polled.iter().for_each(|sample| file(&mut run, sample));
    (0..6).for_each(|index| file_pushed(&mut run, index));
    // Sent twice and committed twice: each copy has a row.
    run.account.sent(ROBOT, 0, 1_000);
    run.push(0, 1_000);
    (0..6).for_each(|index| file_pushed(&mut run, index));
    let report = run.account.settle();
    assert_eq!((report.filed_twice, report.duplicates, report.verdict), (0, 6, Verdict::Pass));
    file(&mut run, &polled[0]);
    let report = run.account.settle();
    assert_eq!((report.filed_twice, report.duplicates, report.verdict), (1, 6, Verdict::Fail));
    file_pushed(&mut run, 5);
    assert_eq!(run.account.settle().filed_twice, 2);
}

/// A run of three reads, 100 ms apart from 0 on, whose requests came 10 ms earlier each.
fn timed() -> Run {
    let mut run = Run::new();
    for slot in 0..=2 {
        run.account.asked(PRESS, slot + 1, A, (slot * 100 * MS).saturating_sub(10 * MS));
    }
    run.slots(0..=0, 1);
    run
}

/// Slot 1 arrives with its times moved by so many milliseconds, and slot 2 as it is.
fn with_times_moved(mut run: Run, millis: i64) -> Run {
    run.read(1);
    let mut moved = run.samples(1, 1);
    for sample in &mut moved {
        sample.source_time = sample.source_time.plus_nanos(millis * MS as i64);
        sample.gateway_time = sample.source_time;
    }
    run.deliver(&moved);
    run.slots(2..=2, 1);
    run
}

#[test]
fn a_time_from_before_its_read_or_behind_the_next_one_fails_the_run() {
    for (millis, astray) in [(0, 0), (-9, 0), (89, 0), (-12, 1), (92, 1), (-3_600_000, 1)] {
        let report = with_times_moved(timed(), millis).account.settle();
        assert_eq!((report.times_astray, report.verdict == Verdict::Fail), (astray, astray > 0), "{millis}");
    }
    let mut run = timed();
    run.read(1);
    let mut late = run.samples(1, 1);
    late[4].gateway_time = late[4].gateway_time.plus_nanos(95 * MS as i64);
    run.deliver(&late);
    run.slots(2..=2, 1);
    assert_eq!(run.account.settle().times_astray, 1, "one of twenty, and taken later than its source says");
    // Read 3 was given up and comes late; the next one that is delivered is read 4.
    let mut run = timed();
    run.account.asked(PRESS, 3, A, 95 * MS);
    run.account.asked(PRESS, 4, A, 290 * MS);
    run.read(1);
    let mut late = run.samples(1, 1);
    late.iter_mut().for_each(|sample| sample.gateway_time = Timestamp(160 * MS as i64));
    run.deliver(&late);
    run.read(2);
    run.gap_by("device-down", 2, 2);
    run.slots(3..=3, 1);
    assert_eq!(run.account.settle().times_astray, 0);
}

#[test]
fn a_time_by_a_clock_that_was_set_is_not_compared() {
    let opening = |grid, replaces, cause: &str| OpeningSeen {
        device: PRESS.to_owned(),
        grid,
        first: Timestamp(0),
        period_ns: 100 * MS as i64,
        replaces,
        cause: cause.to_owned(),
    };
    let astray = |openings: &[OpeningSeen]| {
        let mut run = with_times_moved(timed(), -500);
        openings.iter().for_each(|opening| run.account.received_opening(opening.clone(), true));
        run.account.settle().times_astray
    };
    assert_eq!(astray(&[opening(1, None, "configuration")]), 1);
    assert_eq!(astray(&[opening(1, None, "clock")]), 0, "its grid lies on that clock");
    let (first, second) = (opening(1, None, "configuration"), opening(2, Some(1), "clock"));
    assert_eq!(astray(&[first.clone(), second]), 0, "it was not noticed at once");
    assert_eq!(astray(&[first, opening(2, Some(1), "configuration")]), 1);

    let told = |node: Option<IpAddr>, began, ended| {
        let mut run = with_times_moved(timed(), -500);
        run.account.clock_was_set(ClockSet { node, began_ns: began * MS, ended_ns: ended * MS });
        run.account.settle().times_astray
    };
    assert_eq!((told(Some(A), 50, 150), told(None, 50, 150)), (0, 0));
    assert_eq!((told(Some(B), 50, 150), told(Some(A), 0, 50), told(Some(A), 250, 300)), (1, 1, 1));
}

#[test]
fn the_machines_own_clock_may_be_set_and_is_told_of() {
    let mut run = with_times_moved(timed(), -500);
    run.account.wall_clock_ends(-500 * MS as i64);
    let report = run.account.settle();
    assert_eq!((report.times_astray, report.notes.len()), (0, 1), "{report:?}");
}

#[test]
fn a_polled_sample_under_a_second_key_is_astray() {
    let mut run = Run::new();
    run.slots(0..=1, 1);
    assert_eq!(run.account.settle().keys_astray, 0);
    let again = run.samples(1, 1);
    run.deliver(&again[..1]);
    assert_eq!(run.account.settle().keys_astray, 1);
}

#[test]
fn the_report_has_the_promised_fields() {
    let report = serde_json::to_value(Report::default()).expect("numbers and texts");
    let wanted = [
        "verdict",
        "reads_answered",
        "pushed_acked",
        "delivered",
        "lost",
        "duplicates",
        "filed_twice",
        "records_unfiled",
        "records_filed_twice",
        "out_of_order",
        "slots_expected",
        "slots_sampled",
        "slots_bad",
        "slots_in_gaps",
        "slots_unaccounted",
        "calm",
        "device_overlaps",
        "requests_astray",
        "failovers",
        "switchovers",
        "spurious_elections",
        "stale_reigns",
        "conflicts",
        "keys_astray",
        "times_astray",
        "notes",
    ];
    for field in wanted {
        assert!(report.get(field).is_some(), "{field} is missing");
    }
    assert_eq!(report["verdict"], "unknown");
}
