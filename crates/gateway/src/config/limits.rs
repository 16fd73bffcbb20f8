//! `[limits]`: what the node may take of its box.

use model::plant::document::Fields;
use model::plant::units::format_bytes;

use crate::memory::Memory;

/// The least that a data directory can work in: logs, flushes and the reserve.
const LEAST_DISK: u64 = 512 << 20;

/// Reads the table: bytes that the data directory may hold, and memory.
pub(super) fn read(mut fields: Fields<'_>) -> (Option<u64>, Memory) {
    let disk = fields.bytes("disk");
    if let Some(small) = disk.filter(|disk| disk.value < LEAST_DISK) {
        let (least, found) = (format_bytes(LEAST_DISK), format_bytes(small.value));
        fields.error(small.place, format!("expected at least {least}, found {found}"));
    }
    let limit = fields.bytes("memory");
    let memory = limit.and_then(|limit| Memory::limited_to(limit.value));
    if let Some(small) = limit.filter(|_| memory.is_none()) {
        let (least, found) = (format_bytes(Memory::LEAST), format_bytes(small.value));
        let usual = format_bytes(Memory::default().limit());
        let message = format!("expected at least {least} ({usual} is the default), found {found}");
        fields.error(small.place, message);
    }
    fields.finish();
    (disk.map(|disk| disk.value), memory.unwrap_or_default())
}
