//! Notice a follower that no longer holds what it acknowledged.
//!
//! Within one reign a follower's acknowledged log only grows. A conflict at or below it means that synced entries
//! were lost; openraft would panic (debug) or keep the follower as a healthy-looking replica that never gets data
//! (release), and its heartbeat answers would go on renewing the lease. So the report is refused here.
//!
//! - What was acknowledged is known per reign: another leader may rightly have cut the follower's log since.
//! - Once tripped it stays so for this process: the follower must be replaced.

use crate::type_config::{LogId, Vote};

/// What one follower acknowledged to this node.
#[derive(Debug, Default)]
pub(super) struct Tripwire {
    reign: Option<Vote>,
    acknowledged: Option<LogId>,
    tripped: Option<Shortened>,
}

/// The follower's log is shorter than it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its log disagrees at {conflict}, which it had acknowledged up to {acknowledged}; replace this node")]
pub(super) struct Shortened {
    /// Index that it had acknowledged.
    pub(super) acknowledged: u64,
    /// Index at which it disagrees now.
    pub(super) conflict: u64,
}

impl Tripwire {
    /// The loss that was noticed, if one was.
    pub(super) fn check(&self) -> Result<(), Shortened> {
        match self.tripped {
            Some(loss) => Err(loss),
            None => Ok(()),
        }
    }

    /// The follower acknowledged, to the leader with `vote`, its log up to `matching`.
    pub(super) fn acknowledged(&mut self, vote: &Vote, matching: Option<LogId>) {
        if self.reign.as_ref() != Some(vote) {
            self.reign = Some(*vote);
            self.acknowledged = None;
        }
        self.acknowledged = self.acknowledged.max(matching);
    }

    /// The follower reported, to the leader with `vote`, that its log does not hold `conflict`. An error says that
    /// it had acknowledged it; `first` is then true the first time.
    pub(super) fn conflict(&mut self, vote: &Vote, conflict: &LogId) -> Result<(), Tripped> {
        let acknowledged = self.acknowledged.filter(|_| self.reign.as_ref() == Some(vote));
        match acknowledged {
            Some(_) if runtime::mutant("shortened-log-is-overlooked") => Ok(()),
            Some(acknowledged) if conflict.index <= acknowledged.index => {
                let loss = Shortened { acknowledged: acknowledged.index, conflict: conflict.index };
                let first = self.tripped.is_none();
                Err(Tripped { loss: *self.tripped.get_or_insert(loss), first })
            }
            _ => Ok(()),
        }
    }
}

/// A conflict that must not reach openraft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tripped {
    /// What was lost.
    pub(super) loss: Shortened,
    /// Whether this is the first report, which is the one to raise an alarm for.
    pub(super) first: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(term.into(), index)
    }

    fn reign(term: u64) -> Vote {
        Vote::new_committed(term, 1)
    }

    #[test]
    fn a_conflict_at_or_below_what_was_acknowledged_trips_for_good() {
        let mut wire = Tripwire::default();
        wire.acknowledged(&reign(3), Some(log_id(3, 20)));
        let loss = Shortened { acknowledged: 20, conflict: 20 };
        assert_eq!(wire.conflict(&reign(3), &log_id(3, 20)), Err(Tripped { loss, first: true }));
        assert_eq!(wire.conflict(&reign(3), &log_id(3, 9)), Err(Tripped { loss, first: false }));
        assert_eq!(wire.check(), Err(loss));
    }

    #[test]
    fn probing_above_what_was_acknowledged_is_ordinary() {
        let mut wire = Tripwire::default();
        assert_eq!(wire.conflict(&reign(3), &log_id(3, 20)), Ok(()));
        wire.acknowledged(&reign(3), Some(log_id(3, 20)));
        assert_eq!(wire.conflict(&reign(3), &log_id(3, 21)), Ok(()));
        assert_eq!(wire.check(), Ok(()));
    }

    #[test]
    fn what_was_acknowledged_in_an_earlier_reign_may_have_been_cut_since() {
        let mut wire = Tripwire::default();
        wire.acknowledged(&reign(3), Some(log_id(3, 20)));
        assert_eq!(wire.conflict(&reign(5), &log_id(3, 20)), Ok(()));
        wire.acknowledged(&reign(5), Some(log_id(2, 11)));
        assert_eq!(wire.conflict(&reign(5), &log_id(3, 12)), Ok(()));
        assert!(wire.conflict(&reign(5), &log_id(2, 11)).is_err());
    }

    #[test]
    fn an_older_acknowledgement_does_not_lower_the_wire() {
        let mut wire = Tripwire::default();
        wire.acknowledged(&reign(3), Some(log_id(3, 20)));
        wire.acknowledged(&reign(3), Some(log_id(3, 8)));
        assert!(wire.conflict(&reign(3), &log_id(3, 15)).is_err());
    }
}
