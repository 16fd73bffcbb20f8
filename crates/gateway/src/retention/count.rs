//! What an overrun loses: samples between each cursor and the new horizon, before routing.
//!
//! The ledger's marks know most of it; only what lies between a cursor and the next mark is read, headers alone.

use model::command::Command;
use model::ids::DestinationId;
use model::{Cursor, Position};
use store::Buffered;
use store::Store;
use store::engine::{Engine, EngineError};

/// Bytes of entries read at a time.
const READ_BYTES: usize = 1 << 20;

/// Samples that each destination left behind by a horizon at `horizon` loses.
pub(super) fn lost<E: Engine>(
    store: &Store<E>,
    horizon: Position,
) -> Result<Vec<(DestinationId, u64)>, EngineError> {
    let below = Cursor::at(horizon.next());
    let behind: Vec<(DestinationId, Cursor)> = store.keeper().read(|state| {
        let cursors = state.destinations.iter().map(|(id, destination)| (*id, destination.cursor));
        cursors.filter(|(_, cursor)| *cursor < below).collect()
    });
    behind.into_iter().map(|(id, cursor)| Ok((id, samples(store, cursor, horizon)?))).collect()
}

/// Accepted samples from `from` up to and including the entry at `upto`.
fn samples<E: Engine>(store: &Store<E>, from: Cursor, upto: Position) -> Result<u64, EngineError> {
    let (first, last) =
        store.keeper().read(|state| (state.fill.mark_from(from.position), state.fill.mark_from(upto)));
    let (read_to, marked) = match (first, last) {
        (Some((at, first)), Some((end, last))) if end == upto && at <= upto => {
            (at, last.samples - first.samples)
        }
        _ => (upto, 0),
    };
    let mut counted = marked;
    let mut next = from.position;
    while next <= read_to {
        let (entries, reached) = store.read_buffer(next, READ_BYTES)?;
        if entries.is_empty() && reached <= next {
            break;
        }
        let wanted = entries.iter().filter(|entry| entry.id.index <= read_to);
        counted += wanted.map(|entry| in_entry(entry, from)).sum::<u64>();
        next = reached;
    }
    Ok(counted)
}

fn in_entry(entry: &Buffered, from: Cursor) -> u64 {
    let Some(command) = &entry.command else { return 0 };
    // What cannot be read stops the node where it is applied and delivered; here it counts for nothing.
    let Ok(opened) = wire::entry::open(command.clone()) else { return 0 };
    let Command::Append { batches } = opened.command else { return 0 };
    let first = if entry.id.index == from.position { from.ordinal.0 } else { 0 };
    let mut ordinal = 0;
    let mut counted = 0;
    for (number, header) in batches.iter().enumerate() {
        let end = ordinal + header.count;
        if !entry.effects.refused.contains(&u32::try_from(number).unwrap_or(u32::MAX)) {
            counted += u64::from(end.saturating_sub(first.max(ordinal)));
        }
        ordinal = end;
    }
    counted
}
