//! Which tags are read by which request.
//!
//! Pure: no socket, no clock. Invariants of a [`Plan`]:
//! - every tag is in exactly one request, or among the unreadable ones;
//! - no request reads more than the device's limit, nor more than the protocol allows
//!   (Modbus Application Protocol 1.1b3, §6.1–6.4: 125 registers, 2000 bits);
//! - no value is split between two requests: its halves could be of two moments.

use model::StatusCode;
use model::plant::address::Table;
use model::plant::{Encoding, ModbusPoint};

/// Registers that one request may read at most, by the protocol.
pub const MAX_REGISTERS: u16 = 125;
/// Bits that one request may read at most, by the protocol.
pub const MAX_BITS: u16 = 2_000;

/// What a device can bear in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Registers (or bits) that may be read although no tag wants them, to join neighbours.
    pub max_gap: u16,
    /// Registers in one request; bits are limited to as many as fit in these.
    pub max_registers: u16,
}

/// One read request and the tags it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// What to ask for.
    pub span: Span,
    /// Indexes of the tags whose values lie inside, in order of address.
    pub tags: Vec<usize>,
}

/// A run of registers or bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The table.
    pub table: Table,
    /// The first register or bit, from zero.
    pub start: u16,
    /// How many; never 0, and `start + count` never exceeds 65536.
    pub count: u16,
}

/// How the tags of a group are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order of table and address.
    pub requests: Vec<ReadRequest>,
    /// Tags that no request can read, and what their reading is.
    pub unreadable: Vec<(usize, StatusCode)>,
}

impl Span {
    /// Where the value of a point lies; `None` where it would reach beyond the table.
    pub fn of(point: &ModbusPoint) -> Option<Self> {
        let address = point.address;
        let count = if is_bit_table(address.table) { 1 } else { registers(point.encoding) };
        let fits = u32::from(address.offset) + u32::from(count) <= 1 << 16;
        fits.then_some(Self { table: address.table, start: address.offset, count })
    }

    fn end(&self) -> u32 {
        u32::from(self.start) + u32::from(self.count)
    }
}

/// Whether a table holds single bits.
pub fn is_bit_table(table: Table) -> bool {
    matches!(table, Table::Coil | Table::Discrete)
}

/// Registers that are read for a value; at least one, also for an empty text.
pub(super) fn registers(encoding: Encoding) -> u16 {
    encoding.registers().max(1)
}

/// Plans the requests for those of `points` whose indexes are in `tags`, merging neighbours.
pub(super) fn plan_some(
    points: &[ModbusPoint],
    tags: impl IntoIterator<Item = usize>,
    limits: Limits,
) -> Plan {
    let mut plan = Plan::default();
    let mut wanted = Vec::new();
    for tag in tags {
        match Span::of(&points[tag]) {
            None => plan.unreadable.push((tag, StatusCode::BAD_NODE_ID_UNKNOWN)),
            // A longer value could only be read in two parts.
            Some(span) if span.count > limits.of(span.table) => {
                plan.unreadable.push((tag, StatusCode::BAD_NOT_SUPPORTED));
            }
            Some(span) => wanted.push((span, tag)),
        }
    }
    wanted.sort_unstable();
    for (span, tag) in wanted {
        match plan.requests.last_mut() {
            Some(request) if limits.allows(&request.span, &span) => {
                let end = request.span.end().max(span.end());
                request.span.count = (end - u32::from(request.span.start)) as u16;
                request.tags.push(tag);
            }
            _ => plan.requests.push(ReadRequest { span, tags: vec![tag] }),
        }
    }
    plan
}

impl Limits {
    fn of(self, table: Table) -> u16 {
        let registers = self.max_registers.clamp(1, MAX_REGISTERS);
        if is_bit_table(table) { (registers * 16).min(MAX_BITS) } else { registers }
    }

    /// Whether `next`, which does not begin before `so_far`, may be read in the same request.
    fn allows(self, so_far: &Span, next: &Span) -> bool {
        let gap = u32::from(next.start).saturating_sub(so_far.end());
        let length = so_far.end().max(next.end()) - u32::from(so_far.start);
        so_far.table == next.table
            && gap <= u32::from(self.max_gap)
            && length <= u32::from(self.of(so_far.table))
    }
}

#[cfg(test)]
mod tests {
    use model::ValueType;
    use model::plant::address::{ModbusAddress, WordOrder};
    use proptest::prelude::*;

    use super::*;

    fn point(table: Table, offset: u16, encoding: Encoding) -> ModbusPoint {
        let address = ModbusAddress { table, offset, bit: None };
        ModbusPoint { address, encoding, word_order: WordOrder::default(), scaling: None }
    }

    fn holding(offset: u16, value_type: ValueType) -> ModbusPoint {
        point(Table::Holding, offset, Encoding::Plain(value_type))
    }

    fn plan_all(points: &[ModbusPoint], limits: Limits) -> Plan {
        plan_some(points, 0..points.len(), limits)
    }

    fn spans(plan: &Plan) -> Vec<(u16, u16)> {
        plan.requests.iter().map(|request| (request.span.start, request.span.count)).collect()
    }

    #[test]
    fn neighbours_are_read_together_up_to_the_gap() {
        let points = [
            holding(100, ValueType::F32),
            holding(104, ValueType::U16),
            holding(110, ValueType::U64),
            holding(102, ValueType::U16),
        ];
        let limits = |max_gap| Limits { max_gap, max_registers: 125 };
        assert_eq!(spans(&plan_all(&points, limits(0))), [(100, 3), (104, 1), (110, 4)]);
        assert_eq!(spans(&plan_all(&points, limits(1))), [(100, 5), (110, 4)]);
        assert_eq!(spans(&plan_all(&points, limits(5))), [(100, 14)]);
        assert_eq!(plan_all(&points, limits(5)).requests[0].tags, [0, 3, 1, 2]);
    }

    #[test]
    fn tags_of_different_tables_are_never_read_together() {
        let points = [point(Table::Input, 1, Encoding::Bcd16), point(Table::Holding, 2, Encoding::Bcd16)];
        assert_eq!(plan_all(&points, Limits { max_gap: 100, max_registers: 125 }).requests.len(), 2);
    }

    #[test]
    fn bits_of_one_register_cost_one_register() {
        let bit = |bit| {
            let mut point = holding(7, ValueType::Bool);
            point.address.bit = Some(bit);
            point
        };
        let plan = plan_all(&[bit(3), bit(15), bit(0)], Limits { max_gap: 0, max_registers: 125 });
        assert_eq!(spans(&plan), [(7, 1)]);
        assert_eq!(plan.requests[0].tags.len(), 3);
    }

    #[test]
    fn a_value_beyond_the_table_or_the_limit_is_unreadable_and_hides_nobody() {
        let points = [
            holding(65_535, ValueType::U32),
            point(Table::Holding, 0, Encoding::Text(30)),
            holding(65_535, ValueType::U16),
        ];
        let plan = plan_all(&points, Limits { max_gap: 8, max_registers: 10 });
        assert_eq!(spans(&plan), [(65_535, 1)]);
        let unreadable = [(0, StatusCode::BAD_NODE_ID_UNKNOWN), (1, StatusCode::BAD_NOT_SUPPORTED)];
        assert_eq!(plan.unreadable, unreadable);
    }

    fn any_point() -> impl Strategy<Value = ModbusPoint> {
        let table = prop_oneof![
            1 => Just(Table::Coil),
            1 => Just(Table::Discrete),
            1 => Just(Table::Input),
            4 => Just(Table::Holding)
        ];
        let encoding = prop_oneof![
            prop::sample::select(&ValueType::ALL[..9]).prop_map(Encoding::Plain),
            Just(Encoding::Bcd16),
            Just(Encoding::Bcd32),
            (0_u16..400).prop_map(Encoding::Text),
            (0_u16..400).prop_map(Encoding::Raw),
        ];
        // Crowded at both ends of the table, where merging and overflow happen.
        let offset = prop_oneof![4 => 0_u16..3_000, 1 => 65_400_u16..=65_535, 1 => any::<u16>()];
        (table, offset, encoding).prop_map(|(table, offset, encoding)| point(table, offset, encoding))
    }

    proptest! {
        #[test]
        fn every_tag_is_covered_once_within_the_limits_and_never_split(
            points in prop::collection::vec(any_point(), 0..200),
            max_gap in 0_u16..300,
            max_registers in 0_u16..300,
        ) {
            let limits = Limits { max_gap, max_registers };
            let plan = plan_all(&points, limits);
            let mut seen = vec![0; points.len()];
            for (tag, _) in &plan.unreadable {
                seen[*tag] += 1;
                let span = Span::of(&points[*tag]);
                prop_assert!(span.is_none_or(|span| span.count > limits.of(span.table)));
            }
            for request in &plan.requests {
                let span = request.span;
                prop_assert!(span.count >= 1 && span.end() <= 65_536);
                let protocol = if is_bit_table(span.table) { MAX_BITS } else { MAX_REGISTERS };
                prop_assert!(span.count <= limits.of(span.table) && span.count <= protocol);
                let mut reached = u32::from(span.start);
                for tag in &request.tags {
                    seen[*tag] += 1;
                    let value = Span::of(&points[*tag]).expect("planned, so inside its table");
                    prop_assert_eq!(value.table, span.table);
                    prop_assert!(value.start >= span.start && value.end() <= span.end(), "value split");
                    prop_assert!(u32::from(value.start) <= reached + u32::from(max_gap), "gap too wide");
                    reached = reached.max(value.end());
                }
                prop_assert_eq!(reached, span.end(), "no register is read behind the last value");
            }
            prop_assert!(seen.iter().all(|count| *count == 1), "{:?}", seen);
        }
    }
}
