//! One device's scans: plan, ask, fall back, remember, decode.
//!
//! Owns the plan of each group and what was learnt about it. Owns no socket: all units behind one host and port
//! share an endpoint.
//!
//! Many devices refuse a block that has one hole in it. So when a block of several tags is refused, its tags are
//! read one by one in the same scan, and that is remembered:
//! - tags that were refused alone stay alone, and are bad in each slot until the device knows them;
//! - the others are joined again, but only with immediate neighbours; if that is refused too, they stay alone.
//!
//! A device has for each answer what an operation may usually take, so that a new leader need not wait for it. One that is
//! declared slow has its whole timeout; its first request under a new leader waits for what is more than usual, because a
//! last one of the leader before may still be under way.
//!
//! After [`FORGET_AFTER`] the merged plan is tried again: devices are extended while gateways run.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::plant::{Device, Link, ModbusPoint};
use model::{Permit, Reading, StatusCode, Timestamp};
use tokio::time::{Instant, sleep_until};

use super::connection::{Answer, Data};
use super::decode::{Raw, RawView, decode, view};
use super::endpoint::{Ask, EndpointHandle};
use super::exception::{Verdict, verdict};
use super::plan::{Limits, Plan, ReadRequest, Span, plan_some};
use super::registry::NotPolled;
use crate::driver::{Driver, GroupIndex, Scan, ScanError, Silence};

/// How long a refused merge is not tried again.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A Modbus device and the connection it shares.
pub struct ModbusDevice {
    unit: u8,
    timeout: Duration,
    is_slow: bool,
    limits: Limits,
    groups: Vec<Group>,
    permit: Arc<dyn Permit>,
    endpoint: EndpointHandle,
}

#[derive(Debug)]
struct Group {
    points: Vec<ModbusPoint>,
    /// Locked to read or replace the plan, never while waiting.
    learnt: Mutex<Learnt>,
}

/// How the tags of a group are read, and what taught us so.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Learnt {
    merging: Vec<Merging>,
    forget_at: Option<Instant>,
    plan: Plan,
}

/// With whom a tag may share a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merging {
    /// With neighbours up to the device's gap.
    Wide,
    /// With immediate neighbours.
    Tight,
    /// With nobody.
    Alone,
}

/// A scan in progress.
struct Progress<'a> {
    device: &'a ModbusDevice,
    group: &'a Group,
    /// Bounds the first request.
    start_by: Option<Instant>,
    readings: Vec<Option<(Timestamp, Reading)>>,
    times: Option<(Instant, Instant)>,
    /// The wall clock of the latest answer, for tags that need none.
    at: Timestamp,
}

impl ModbusDevice {
    /// A driver for `device` over `endpoint`.
    pub(super) fn new(
        device: &Device,
        permit: Arc<dyn Permit>,
        endpoint: EndpointHandle,
    ) -> Result<Self, NotPolled> {
        let Link::ModbusTcp(link) = &device.link else { return Err(NotPolled::Pushes) };
        let limits = Limits { max_gap: link.max_gap, max_registers: link.max_registers };
        let groups = device.groups.iter().map(|group| {
            let point = |tag: &model::plant::Tag| {
                tag.point.ok_or_else(|| NotPolled::WithoutAddress { tag: device.tag_id(tag) })
            };
            Ok(Group::new(group.tags.iter().map(point).collect::<Result<_, _>>()?, limits))
        });
        let groups = groups.collect::<Result<_, _>>()?;
        let (unit, timeout, is_slow) = (link.unit_id, link.timeout, link.slow);
        Ok(Self { unit, timeout, is_slow, limits, groups, permit, endpoint })
    }

    /// Reads one point by itself and shows its words in every order: `Err` holds the reading where the device
    /// refuses the address.
    pub async fn probe(
        &self,
        point: &ModbusPoint,
        start_by: Instant,
    ) -> Result<Result<RawView, Reading>, ScanError> {
        let Some(span) = Span::of(point) else {
            return Ok(Err(Reading::Bad(StatusCode::BAD_NODE_ID_UNKNOWN)));
        };
        if plan_some(&[*point], [0], self.limits).requests.is_empty() {
            return Ok(Err(Reading::Bad(StatusCode::BAD_NOT_SUPPORTED)));
        }
        let answer = self.ask(span, Some(start_by)).await?;
        match &answer.data {
            Ok(data) => Ok(Ok(view(point, part(data, span, span)))),
            Err(exception) => match verdict(*exception) {
                Verdict::Bad(status) | Verdict::Split(status) => Ok(Err(Reading::Bad(status))),
                Verdict::UnitDown(code) => Err(Silence::UnitDown { unit: self.unit, code }.into()),
            },
        }
    }

    async fn ask(&self, span: Span, start_by: Option<Instant>) -> Result<Answer, ScanError> {
        let usual = self.permit.usual_operation();
        let cap = response_cap(self.timeout, self.is_slow, usual);
        let ask = Ask { unit: self.unit, span, cap, operation: cap.min(usual), connect: self.timeout };
        match start_by {
            Some(start_by) => {
                self.outwait_predecessor(cap.saturating_sub(usual), start_by).await?;
                self.endpoint.begin(ask, start_by).await
            }
            None => self.endpoint.go_on(ask).await,
        }
    }

    /// Waits until nothing that another node asked this device can still be under way, `grace` after this one has begun
    /// to lead. Here, so that others behind the same socket do not wait.
    async fn outwait_predecessor(&self, grace: Duration, start_by: Instant) -> Result<(), ScanError> {
        let over = Instant::now() + grace.saturating_sub(self.permit.held_for());
        if over > start_by {
            return Err(ScanError::Late);
        }
        sleep_until(over).await;
        Ok(())
    }
}

impl fmt::Debug for ModbusDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModbusDevice").field("unit", &self.unit).finish_non_exhaustive()
    }
}

/// How long a device may take to answer, if an operation usually takes no longer than `usual`.
fn response_cap(timeout: Duration, is_slow: bool, usual: Duration) -> Duration {
    if is_slow { timeout } else { timeout.min(usual) }
}

impl Driver for ModbusDevice {
    async fn scan(&self, group: GroupIndex, start_by: Instant) -> Result<Scan, ScanError> {
        let group = &self.groups[group.0];
        let plan = group.current_plan(Instant::now(), self.limits);
        let mut progress = Progress::new(self, group, start_by);
        for request in &plan.requests {
            progress.read(request).await?;
        }
        Ok(progress.finish(&plan))
    }
}

impl Group {
    fn new(points: Vec<ModbusPoint>, limits: Limits) -> Self {
        let learnt = Learnt::nothing(&points, limits);
        Self { points, learnt: Mutex::new(learnt) }
    }

    fn current_plan(&self, now: Instant, limits: Limits) -> Plan {
        self.with_learnt(|learnt| {
            if learnt.forget_at.is_some_and(|at| at <= now) {
                *learnt = Learnt::nothing(&self.points, limits);
            }
            learnt.plan.clone()
        })
    }

    fn with_learnt<T>(&self, change: impl FnOnce(&mut Learnt) -> T) -> T {
        // A panic while it was held would have ended the node.
        change(&mut self.learnt.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Learnt {
    fn nothing(points: &[ModbusPoint], limits: Limits) -> Self {
        let merging = vec![Merging::Wide; points.len()];
        let plan = make_plan(points, &merging, limits);
        Self { merging, forget_at: None, plan }
    }

    /// A block was refused; of its tags, those in `refused` were refused by themselves, too.
    fn split(
        &mut self,
        block: &[usize],
        refused: &[usize],
        points: &[ModbusPoint],
        limits: Limits,
        now: Instant,
    ) {
        for tag in block {
            let tightened = self.merging[*tag] == Merging::Wide && !refused.contains(tag);
            self.merging[*tag] = if tightened { Merging::Tight } else { Merging::Alone };
        }
        self.forget_at.get_or_insert(now + FORGET_AFTER);
        self.plan = make_plan(points, &self.merging, limits);
    }
}

fn make_plan(points: &[ModbusPoint], merging: &[Merging], limits: Limits) -> Plan {
    let those = |wanted| {
        merging.iter().enumerate().filter(move |(_, merging)| **merging == wanted).map(|(tag, _)| tag)
    };
    let mut plan = plan_some(points, those(Merging::Wide), limits);
    let mut add = |part: Plan| {
        plan.requests.extend(part.requests);
        plan.unreadable.extend(part.unreadable);
    };
    add(plan_some(points, those(Merging::Tight), Limits { max_gap: 0, ..limits }));
    for tag in those(Merging::Alone) {
        add(plan_some(points, [tag], limits));
    }
    plan
}

impl<'a> Progress<'a> {
    fn new(device: &'a ModbusDevice, group: &'a Group, start_by: Instant) -> Self {
        let readings = vec![None; group.points.len()];
        Self { device, group, start_by: Some(start_by), readings, times: None, at: Timestamp::default() }
    }

    /// Sends one request of the plan; where its block is refused, one for each of its tags.
    async fn read(&mut self, request: &ReadRequest) -> Result<(), ScanError> {
        let Some(refusal) = self.ask(request.span, &request.tags).await? else { return Ok(()) };
        if let [tag] = request.tags[..] {
            self.give(tag, Reading::Bad(refusal));
            return Ok(());
        }
        let mut refused = Vec::new();
        for tag in &request.tags {
            let alone = Span::of(&self.group.points[*tag]).expect("planned, so inside its table");
            if let Some(status) = self.ask(alone, &[*tag]).await? {
                self.give(*tag, Reading::Bad(status));
                refused.push(*tag);
            }
        }
        let (points, limits) = (&self.group.points, self.device.limits);
        self.group
            .with_learnt(|learnt| learnt.split(&request.tags, &refused, points, limits, Instant::now()));
        Ok(())
    }

    /// Sends one request and notes the readings of `tags`, unless the device refuses the span as such.
    async fn ask(&mut self, span: Span, tags: &[usize]) -> Result<Option<StatusCode>, ScanError> {
        let answer = self.device.ask(span, self.start_by.take()).await?;
        self.at = answer.at;
        self.times = Some((self.times.map_or(answer.sent, |(started, _)| started), answer.arrived));
        match answer.data {
            Ok(data) => {
                for tag in tags {
                    let point = &self.group.points[*tag];
                    let value = Span::of(point).expect("planned, so inside its table");
                    self.give(*tag, decode(point, part(&data, span, value)));
                }
            }
            Err(exception) => match verdict(exception) {
                Verdict::Split(status) => return Ok(Some(status)),
                Verdict::Bad(status) => {
                    tags.iter().for_each(|tag| self.give(*tag, Reading::Bad(status)));
                }
                Verdict::UnitDown(code) => {
                    return Err(Silence::UnitDown { unit: self.device.unit, code }.into());
                }
            },
        }
        Ok(None)
    }

    fn give(&mut self, tag: usize, reading: Reading) {
        self.readings[tag] = Some((self.at, reading));
    }

    fn finish(mut self, plan: &Plan) -> Scan {
        for (tag, status) in &plan.unreadable {
            self.give(*tag, Reading::Bad(*status));
        }
        let readings = self.readings.into_iter().map(|reading| reading.expect("a plan covers every tag"));
        let now = Instant::now();
        let (started, finished) = self.times.unwrap_or((now, now));
        Scan { readings: readings.collect(), started, finished }
    }
}

/// The part of `data`, which begins at `whole`, where a value lies.
fn part(data: &Data, whole: Span, value: Span) -> Raw<'_> {
    let first = usize::from(value.start - whole.start);
    match data {
        Data::Words(words) => Raw::Words(&words[first..first + usize::from(value.count)]),
        Data::Bits(bits) => Raw::Bit(bits[first]),
    }
}

#[cfg(test)]
mod tests {
    use model::ValueType;
    use model::plant::Encoding;
    use model::plant::address::{ModbusAddress, Table, WordOrder};

    use super::*;

    const LIMITS: Limits = Limits { max_gap: 8, max_registers: 125 };

    /// Tags at 0, 1 and 5: one block with a hole.
    fn group() -> Group {
        let point = |offset| ModbusPoint {
            address: ModbusAddress { table: Table::Holding, offset, bit: None },
            encoding: Encoding::Plain(ValueType::U16),
            word_order: WordOrder::default(),
            scaling: None,
        };
        Group::new([0, 1, 5].map(point).to_vec(), LIMITS)
    }

    fn blocks(group: &Group, now: Instant) -> Vec<Vec<usize>> {
        group.current_plan(now, LIMITS).requests.into_iter().map(|request| request.tags).collect()
    }

    fn split(group: &Group, block: &[usize], refused: &[usize], now: Instant) {
        group.with_learnt(|learnt| learnt.split(block, refused, &group.points, LIMITS, now));
    }

    #[test]
    fn only_a_slow_device_has_more_time_than_usual() {
        let ms = Duration::from_millis;
        assert_eq!(response_cap(ms(1_000), false, ms(150)), ms(150));
        assert_eq!(response_cap(ms(1_000), true, ms(150)), ms(1_000));
        assert_eq!(response_cap(ms(50), false, ms(150)), ms(50));
    }

    #[test]
    fn a_refused_hole_is_not_asked_for_again_and_neighbours_stay_together() {
        let (group, now) = (group(), Instant::now());
        assert_eq!(blocks(&group, now), [[0, 1, 2]]);
        split(&group, &[0, 1, 2], &[], now);
        assert_eq!(blocks(&group, now), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn a_tag_that_the_device_does_not_know_is_asked_for_alone() {
        let (group, now) = (group(), Instant::now());
        split(&group, &[0, 1, 2], &[1], now);
        assert_eq!(blocks(&group, now), [[0], [2], [1]]);
    }

    #[test]
    fn a_block_refused_even_without_holes_is_read_tag_by_tag() {
        let (group, now) = (group(), Instant::now());
        split(&group, &[0, 1, 2], &[], now);
        split(&group, &[0, 1], &[], now);
        assert_eq!(blocks(&group, now), [[2], [0], [1]]);
    }

    #[test]
    fn the_merged_plan_is_tried_again_after_ten_minutes() {
        let (group, now) = (group(), Instant::now());
        split(&group, &[0, 1, 2], &[], now);
        let almost = now + FORGET_AFTER - Duration::from_millis(1);
        assert_eq!(blocks(&group, almost).len(), 2);
        assert_eq!(blocks(&group, now + FORGET_AFTER), [[0, 1, 2]]);
    }
}
