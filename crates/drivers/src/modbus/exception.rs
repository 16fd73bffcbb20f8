//! What a Modbus exception says, and about whom: a tag, a block of tags, or a whole unit.
//!
//! An exception is a valid answer (Modbus Application Protocol 1.1b3, §7): it never costs the connection.

use model::StatusCode;
use tokio_modbus::ExceptionCode;

/// What follows from an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The tags of the request are bad, with this status.
    Bad(StatusCode),
    /// The block asks for something that this device does not have; its tags may be fine when read apart. A tag read
    /// by itself is bad, with this status.
    Split(StatusCode),
    /// A gateway in front of the unit does not reach it.
    UnitDown(u8),
}

/// The meaning of an exception code.
pub(super) fn verdict(exception: ExceptionCode) -> Verdict {
    match u8::from(exception) {
        // Illegal function: this table does not exist.
        0x01 => Verdict::Bad(StatusCode::BAD_NOT_SUPPORTED),
        // Illegal data address: of one register in the block, or of a hole in it.
        0x02 => Verdict::Split(StatusCode::BAD_NODE_ID_UNKNOWN),
        // Illegal data value: the only value in a read is the quantity.
        0x03 => Verdict::Split(StatusCode::BAD_NOT_SUPPORTED),
        // Acknowledge (takes longer) and busy: nothing is wrong, there is only no value now.
        0x05 | 0x06 => Verdict::Bad(StatusCode::BAD_RESOURCE_UNAVAILABLE),
        // Gateway path unavailable; gateway target device failed to respond.
        code @ (0x0A | 0x0B) => Verdict::UnitDown(code),
        // Device failure, memory parity error, and what the specification does not know.
        _ => Verdict::Bad(StatusCode::BAD_DEVICE_FAILURE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exception_has_one_meaning() {
        for (code, expected) in [
            (0x01, Verdict::Bad(StatusCode::BAD_NOT_SUPPORTED)),
            (0x02, Verdict::Split(StatusCode::BAD_NODE_ID_UNKNOWN)),
            (0x03, Verdict::Split(StatusCode::BAD_NOT_SUPPORTED)),
            (0x04, Verdict::Bad(StatusCode::BAD_DEVICE_FAILURE)),
            (0x05, Verdict::Bad(StatusCode::BAD_RESOURCE_UNAVAILABLE)),
            (0x06, Verdict::Bad(StatusCode::BAD_RESOURCE_UNAVAILABLE)),
            (0x07, Verdict::Bad(StatusCode::BAD_DEVICE_FAILURE)),
            (0x08, Verdict::Bad(StatusCode::BAD_DEVICE_FAILURE)),
            (0x0A, Verdict::UnitDown(0x0A)),
            (0x0B, Verdict::UnitDown(0x0B)),
            (0xFF, Verdict::Bad(StatusCode::BAD_DEVICE_FAILURE)),
        ] {
            assert_eq!(verdict(ExceptionCode::new(code)), expected, "exception 0x{code:02X}");
        }
    }
}
