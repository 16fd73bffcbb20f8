//! The small messages of `holdfast.log.v1` to model and back; the ledger stores the same ones. And what is wrong with a
//! plant document, as the API and the command line say it.
//!
//! - Model to message never fails (`From`); message to model may (`TryFrom`).
//! - What a newer version may have written ([`ConvertError::Unknown`]) is told from what nobody can have written
//!   ([`ConvertError::Malformed`]).

use std::time::Duration;

use bytes::Bytes;
use model::batch::BatchHeader;
use model::command::{Event, RefusedAgain, Rejection, Request, Severity, Stamp};
use model::plant::document::{self, Diagnostic, Diagnostics, ReadPlant};
use model::slots::GridLine;
use model::{
    AlarmKind, BootId, Cause, Cursor, GroupId, NodeId, Ordinal, Position, Revision, SessionId, Source,
    Timestamp,
};

use crate::proto::{log as proto, v1};

/// Why a message is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// No version of this software wrote it.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// A newer version may have written it.
    #[error("{0} is not known to this version")]
    Unknown(&'static str),
}

/// Sixteen bytes.
pub(crate) fn id_bytes(id: [u8; 16]) -> Bytes {
    Bytes::copy_from_slice(&id)
}

/// Sixteen bytes back.
pub(crate) fn id_from(bytes: &[u8], what: &'static str) -> Result<[u8; 16], ConvertError> {
    bytes.try_into().map_err(|_| ConvertError::Malformed(what))
}

/// A message that must be there.
pub(crate) fn required<T>(message: Option<T>, what: &'static str) -> Result<T, ConvertError> {
    message.ok_or(ConvertError::Malformed(what))
}

/// A duration in whole nanoseconds; 584 years and more are all the same.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl From<Cause> for proto::Cause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Failover => Self::Failover,
            Cause::Switchover => Self::Switchover,
            Cause::NoQuorum => Self::NoQuorum,
            Cause::DeviceDown => Self::DeviceDown,
            Cause::Late => Self::Late,
            Cause::Paused => Self::Paused,
            Cause::Overload => Self::Overload,
            Cause::DiskFull => Self::DiskFull,
            Cause::Disabled => Self::Disabled,
            Cause::Clock => Self::Clock,
            Cause::Configuration => Self::Configuration,
        }
    }
}

impl TryFrom<proto::Cause> for Cause {
    type Error = ConvertError;

    fn try_from(cause: proto::Cause) -> Result<Self, ConvertError> {
        Ok(match cause {
            proto::Cause::Unspecified => return Err(ConvertError::Malformed("a cause")),
            proto::Cause::Failover => Self::Failover,
            proto::Cause::Switchover => Self::Switchover,
            proto::Cause::NoQuorum => Self::NoQuorum,
            proto::Cause::DeviceDown => Self::DeviceDown,
            proto::Cause::Late => Self::Late,
            proto::Cause::Paused => Self::Paused,
            proto::Cause::Overload => Self::Overload,
            proto::Cause::DiskFull => Self::DiskFull,
            proto::Cause::Disabled => Self::Disabled,
            proto::Cause::Clock => Self::Clock,
            proto::Cause::Configuration => Self::Configuration,
        })
    }
}

/// The number of a cause as a message field holds it.
pub fn cause_number(cause: Cause) -> i32 {
    proto::Cause::from(cause).into()
}

/// The cause with this number.
pub fn cause_from(number: i32) -> Result<Cause, ConvertError> {
    proto::Cause::try_from(number).map_err(|_| ConvertError::Unknown("a cause"))?.try_into()
}

impl From<Severity> for proto::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Info,
            Severity::Warning => Self::Warning,
            Severity::Alarm => Self::Alarm,
        }
    }
}

impl TryFrom<proto::Severity> for Severity {
    type Error = ConvertError;

    fn try_from(severity: proto::Severity) -> Result<Self, ConvertError> {
        Ok(match severity {
            proto::Severity::Unspecified => return Err(ConvertError::Malformed("a severity")),
            proto::Severity::Info => Self::Info,
            proto::Severity::Warning => Self::Warning,
            proto::Severity::Alarm => Self::Alarm,
        })
    }
}

/// What was found in a plant document, as the admin API says it.
pub fn diagnostics(found: &Diagnostics) -> Vec<v1::Diagnostic> {
    let one = |diagnostic: &Diagnostic| v1::Diagnostic {
        severity: match diagnostic.severity {
            document::Severity::Error => v1::diagnostic::Severity::Error.into(),
            document::Severity::Warning => v1::diagnostic::Severity::Warning.into(),
        },
        file: diagnostic.file.clone(),
        line: diagnostic.line,
        column: diagnostic.column,
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone().unwrap_or_default(),
    };
    found.list.iter().map(one).collect()
}

/// Whether a plant document could be applied, as the admin API says it.
pub fn validation(found: &Result<ReadPlant, Diagnostics>) -> v1::ValidateConfigResponse {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    match found {
        Ok(ReadPlant { plant, warnings }) => v1::ValidateConfigResponse {
            valid: true,
            diagnostics: diagnostics(warnings),
            more_errors: 0,
            devices: count(plant.devices.len()),
            tags: count(plant.tags().count()),
            destinations: count(plant.destinations.len()),
        },
        Err(errors) => v1::ValidateConfigResponse {
            valid: false,
            diagnostics: diagnostics(errors),
            more_errors: errors.more,
            ..v1::ValidateConfigResponse::default()
        },
    }
}

/// The severity with this number.
pub fn severity_from(number: i32) -> Result<Severity, ConvertError> {
    proto::Severity::try_from(number).map_err(|_| ConvertError::Unknown("a severity"))?.try_into()
}

impl From<AlarmKind> for proto::AlarmKind {
    fn from(kind: AlarmKind) -> Self {
        match kind {
            AlarmKind::NoQuorum => Self::NoQuorum,
            AlarmKind::CannotLoseAnotherNode => Self::CannotLoseAnotherNode,
            AlarmKind::DeviceDown => Self::DeviceDown,
            AlarmKind::LeaderReachesFewDevices => Self::LeaderReachesFewDevices,
            AlarmKind::DestinationStalled => Self::DestinationStalled,
            AlarmKind::DiskFilling => Self::DiskFilling,
            AlarmKind::Clock => Self::Clock,
            AlarmKind::CertificateExpires => Self::CertificateExpires,
            AlarmKind::TwoVotersOnly => Self::TwoVotersOnly,
            AlarmKind::FilesNotOnAShare => Self::FilesNotOnAShare,
            AlarmKind::QuarantineNotEmpty => Self::QuarantineNotEmpty,
            AlarmKind::ProfilesDiffer => Self::ProfilesDiffer,
            AlarmKind::MemberUnreachable => Self::MemberUnreachable,
        }
    }
}

impl TryFrom<proto::AlarmKind> for AlarmKind {
    type Error = ConvertError;

    fn try_from(kind: proto::AlarmKind) -> Result<Self, ConvertError> {
        Ok(match kind {
            proto::AlarmKind::Unspecified => return Err(ConvertError::Malformed("a kind of alarm")),
            proto::AlarmKind::NoQuorum => Self::NoQuorum,
            proto::AlarmKind::CannotLoseAnotherNode => Self::CannotLoseAnotherNode,
            proto::AlarmKind::DeviceDown => Self::DeviceDown,
            proto::AlarmKind::LeaderReachesFewDevices => Self::LeaderReachesFewDevices,
            proto::AlarmKind::DestinationStalled => Self::DestinationStalled,
            proto::AlarmKind::DiskFilling => Self::DiskFilling,
            proto::AlarmKind::Clock => Self::Clock,
            proto::AlarmKind::CertificateExpires => Self::CertificateExpires,
            proto::AlarmKind::TwoVotersOnly => Self::TwoVotersOnly,
            proto::AlarmKind::FilesNotOnAShare => Self::FilesNotOnAShare,
            proto::AlarmKind::QuarantineNotEmpty => Self::QuarantineNotEmpty,
            proto::AlarmKind::ProfilesDiffer => Self::ProfilesDiffer,
            proto::AlarmKind::MemberUnreachable => Self::MemberUnreachable,
        })
    }
}

/// The number of a kind of alarm as a message field holds it.
pub fn alarm_kind_number(kind: AlarmKind) -> i32 {
    proto::AlarmKind::from(kind).into()
}

/// The kind of alarm with this number.
pub fn alarm_kind_from(number: i32) -> Result<AlarmKind, ConvertError> {
    proto::AlarmKind::try_from(number).map_err(|_| ConvertError::Unknown("a kind of alarm"))?.try_into()
}

impl From<&Stamp> for proto::Stamp {
    fn from(stamp: &Stamp) -> Self {
        let Stamp { at, boot } = *stamp;
        Self { at: at.0, boot: id_bytes(boot.0) }
    }
}

impl TryFrom<proto::Stamp> for Stamp {
    type Error = ConvertError;

    fn try_from(stamp: proto::Stamp) -> Result<Self, ConvertError> {
        let proto::Stamp { at, boot } = stamp;
        Ok(Self { at: Timestamp(at), boot: BootId(id_from(&boot, "a boot id")?) })
    }
}

impl From<&Request> for proto::Request {
    fn from(request: &Request) -> Self {
        let Request { principal, reason } = request.clone();
        Self { principal, reason }
    }
}

impl From<proto::Request> for Request {
    fn from(request: proto::Request) -> Self {
        let proto::Request { principal, reason } = request;
        Self { principal, reason }
    }
}

impl From<Cursor> for proto::Cursor {
    fn from(cursor: Cursor) -> Self {
        let Cursor { position, ordinal } = cursor;
        Self { position: position.0, ordinal: ordinal.0 }
    }
}

impl From<proto::Cursor> for Cursor {
    fn from(cursor: proto::Cursor) -> Self {
        let proto::Cursor { position, ordinal } = cursor;
        Self { position: Position(position), ordinal: Ordinal(ordinal) }
    }
}

impl From<GridLine> for proto::GridLine {
    fn from(line: GridLine) -> Self {
        let GridLine { first, period } = line;
        Self { first: first.0, period_nanos: nanos(period) }
    }
}

impl TryFrom<proto::GridLine> for GridLine {
    type Error = ConvertError;

    fn try_from(line: proto::GridLine) -> Result<Self, ConvertError> {
        let proto::GridLine { first, period_nanos } = line;
        if period_nanos == 0 {
            return Err(ConvertError::Malformed("the period of a grid"));
        }
        Ok(Self { first: Timestamp(first), period: Duration::from_nanos(period_nanos) })
    }
}

impl From<&(GroupId, Duration)> for proto::Elapsed {
    fn from((group, elapsed): &(GroupId, Duration)) -> Self {
        Self { group: group.0, nanos: nanos(*elapsed) }
    }
}

impl From<proto::Elapsed> for (GroupId, Duration) {
    fn from(elapsed: proto::Elapsed) -> Self {
        let proto::Elapsed { group, nanos } = elapsed;
        (GroupId(group), Duration::from_nanos(nanos))
    }
}

impl From<&Rejection> for proto::Rejection {
    fn from(rejection: &Rejection) -> Self {
        let Rejection { position, ordinal, reason, record } = rejection;
        Self {
            position: position.0,
            ordinal: ordinal.0,
            reason: reason.clone(),
            record: Bytes::copy_from_slice(record),
        }
    }
}

impl From<proto::Rejection> for Rejection {
    fn from(rejection: proto::Rejection) -> Self {
        let proto::Rejection { position, ordinal, reason, record } = rejection;
        Self { position: Position(position), ordinal: Ordinal(ordinal), reason, record: record.into() }
    }
}

impl From<&RefusedAgain> for proto::RefusedAgain {
    fn from(refused: &RefusedAgain) -> Self {
        let RefusedAgain { position, ordinal, reason } = refused;
        Self { position: position.0, ordinal: ordinal.0, reason: reason.clone() }
    }
}

impl From<proto::RefusedAgain> for RefusedAgain {
    fn from(refused: proto::RefusedAgain) -> Self {
        let proto::RefusedAgain { position, ordinal, reason } = refused;
        Self { position: Position(position), ordinal: Ordinal(ordinal), reason }
    }
}

impl From<&Event> for proto::Event {
    fn from(event: &Event) -> Self {
        let Event { severity, subject, text } = event.clone();
        Self { severity: proto::Severity::from(severity).into(), subject, text }
    }
}

impl TryFrom<proto::Event> for Event {
    type Error = ConvertError;

    fn try_from(event: proto::Event) -> Result<Self, ConvertError> {
        let proto::Event { severity, subject, text } = event;
        Ok(Self { severity: severity_from(severity)?, subject, text })
    }
}

impl From<Source> for proto::batch_header::Source {
    fn from(source: Source) -> Self {
        match source {
            Source::Polled { group, grid, slot, skipped } => Self::Polled(proto::Polled {
                group: group.0,
                grid: grid.0,
                slot,
                skipped: cause_number(skipped),
            }),
            Source::Pushed { session, sequence } => {
                Self::Pushed(proto::Pushed { session: id_bytes(session.0), sequence })
            }
        }
    }
}

impl TryFrom<proto::batch_header::Source> for Source {
    type Error = ConvertError;

    fn try_from(source: proto::batch_header::Source) -> Result<Self, ConvertError> {
        Ok(match source {
            proto::batch_header::Source::Polled(proto::Polled { group, grid, slot, skipped }) => {
                Self::Polled { group: group.into(), grid: grid.into(), slot, skipped: cause_from(skipped)? }
            }
            proto::batch_header::Source::Pushed(proto::Pushed { session, sequence }) => {
                Self::Pushed { session: SessionId(id_from(&session, "a session id")?), sequence }
            }
        })
    }
}

impl From<&BatchHeader> for proto::BatchHeader {
    /// The payload's length stays 0; whoever frames the payload fills it in.
    fn from(header: &BatchHeader) -> Self {
        let BatchHeader { source, node, revision, gateway_time, count, oldest, newest, all_bad } = *header;
        Self {
            source: Some(source.into()),
            node: node.0,
            revision: revision.0,
            gateway_time: gateway_time.0,
            count,
            // Wrapping, so that every pair of times comes back.
            oldest: oldest.0.wrapping_sub(gateway_time.0),
            span: newest.0.wrapping_sub(oldest.0) as u64,
            payload_length: 0,
            all_bad,
        }
    }
}

impl TryFrom<proto::BatchHeader> for BatchHeader {
    type Error = ConvertError;

    fn try_from(header: proto::BatchHeader) -> Result<Self, ConvertError> {
        let proto::BatchHeader {
            source,
            node,
            revision,
            gateway_time,
            count,
            oldest,
            span,
            payload_length: _,
            all_bad,
        } = header;
        let oldest = gateway_time.wrapping_add(oldest);
        let newest = oldest.wrapping_add(span as i64);
        if count == 0 || newest < oldest {
            return Err(ConvertError::Malformed("a batch header"));
        }
        Ok(Self {
            // A source of another kind is a field that this version does not know.
            source: source.ok_or(ConvertError::Unknown("the source of a batch"))?.try_into()?,
            node: NodeId(node),
            revision: Revision(revision),
            gateway_time: Timestamp(gateway_time),
            count,
            oldest: Timestamp(oldest),
            newest: Timestamp(newest),
            all_bad,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::any_batch_header;

    proptest! {
        #[test]
        fn batch_headers_come_back(header in any_batch_header()) {
            prop_assert_eq!(BatchHeader::try_from(proto::BatchHeader::from(&header)), Ok(header));
        }

        #[test]
        fn grid_lines_and_cursors_come_back(first: i64, period in 1..u64::MAX, position: u64, ordinal: u32) {
            let line = GridLine { first: Timestamp(first), period: Duration::from_nanos(period) };
            prop_assert_eq!(GridLine::try_from(proto::GridLine::from(line)), Ok(line));
            let cursor = Cursor { position: Position(position), ordinal: Ordinal(ordinal) };
            prop_assert_eq!(Cursor::from(proto::Cursor::from(cursor)), cursor);
        }
    }

    #[test]
    fn every_cause_and_severity_comes_back() {
        for cause in Cause::ALL {
            assert_eq!(cause_from(cause_number(cause)), Ok(cause));
        }
        for kind in AlarmKind::ALL {
            assert_eq!(alarm_kind_from(alarm_kind_number(kind)), Ok(kind));
        }
        for severity in [Severity::Info, Severity::Warning, Severity::Alarm] {
            assert_eq!(severity_from(proto::Severity::from(severity).into()), Ok(severity));
        }
    }

    #[test]
    fn a_number_that_is_not_in_use_yet_is_newer_and_zero_is_malformed() {
        assert_eq!(cause_from(99), Err(ConvertError::Unknown("a cause")));
        assert_eq!(cause_from(0), Err(ConvertError::Malformed("a cause")));
        assert_eq!(alarm_kind_from(99), Err(ConvertError::Unknown("a kind of alarm")));
        assert_eq!(alarm_kind_from(0), Err(ConvertError::Malformed("a kind of alarm")));
        assert_eq!(severity_from(4), Err(ConvertError::Unknown("a severity")));
        assert_eq!(severity_from(0), Err(ConvertError::Malformed("a severity")));
    }

    #[test]
    fn a_grid_without_a_period_is_malformed() {
        let line = proto::GridLine { first: 5, period_nanos: 0 };
        assert_eq!(GridLine::try_from(line), Err(ConvertError::Malformed("the period of a grid")));
    }
}
