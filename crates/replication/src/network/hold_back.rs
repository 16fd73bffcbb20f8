//! Hold an acknowledgement back while it would vouch for a later request that is still unanswered.
//!
//! openraft takes an acknowledgement of log id X as the answer to *every* request in flight that ends at or below
//! X, and counts the newest of their sending times for the lease. An entry-less request (it carries a commit)
//! sent after a data request ends at the same X: if the link towards the follower breaks between the two, the
//! answer to the first would prove contact at a time when there was none.
//!
//! Invariant: whenever an answer is released, every request sent so far that ends at or below what the answer
//! acknowledges has itself been answered.

use std::collections::VecDeque;

/// The order of requests and answers on one append stream. `L` is a log id (`None` = the empty log), `T` whatever
/// the caller wants back with an answer.
#[derive(Debug)]
pub(super) struct HoldBack<L, T> {
    /// Last log ids of the unanswered requests, oldest first; never decreasing.
    unanswered: VecDeque<L>,
    /// Answers that may not be given yet, oldest first.
    held: VecDeque<(L, T)>,
}

impl<L: PartialOrd, T> HoldBack<L, T> {
    /// A stream on which nothing was sent.
    pub(super) fn new() -> Self {
        Self { unanswered: VecDeque::new(), held: VecDeque::new() }
    }

    /// A request that ends at `last` was taken from openraft, which has noted the time; whether it is sent now, or a later
    /// one in its place.
    pub(super) fn sent(&mut self, last: L) {
        self.unanswered.push_back(last);
    }

    /// The oldest `count` unanswered requests were acknowledged up to `matching`, by the answer to the last of them.
    ///
    /// # Panics
    /// If fewer requests are unanswered: the caller matches answers to requests.
    pub(super) fn acknowledged(&mut self, count: usize, matching: L, answer: T) {
        self.unanswered.drain(..count);
        self.held.push_back((matching, answer));
    }

    /// The next answer that may be given, in the order of the requests.
    pub(super) fn release(&mut self) -> Option<T> {
        let (matching, _) = self.held.front()?;
        let vouches = self.unanswered.iter().any(|last| last <= matching);
        if vouches && !runtime::mutant("answer-is-not-held-back") {
            return None;
        }
        self.held.pop_front().map(|(_, answer)| answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What openraft does with the requests in flight (`InflightAppendQueue::drain_acked`, 0.10.0-alpha.37).
    #[derive(Default)]
    struct InflightModel(VecDeque<(u64, u64)>);

    impl InflightModel {
        fn push(&mut self, last: u64, sent_at: u64) {
            self.0.push_back((last, sent_at));
        }

        /// The sending time that the lease is extended from.
        fn drain_acked(&mut self, matching: u64) -> Option<u64> {
            let mut newest = None;
            while let Some((_, sent_at)) = self.0.front().filter(|(last, _)| *last <= matching) {
                newest = Some(*sent_at);
                self.0.pop_front();
            }
            newest
        }
    }

    #[test]
    fn an_acknowledgement_counts_from_the_send_of_its_own_request() {
        // Every interleaving of five requests (data or commit-only) with their answers, where each commit-only one is sent at
        // once or waits for the next.
        for kinds in 0..32_u32 {
            for waits in (0..32_u32).filter(|waits| waits & kinds == 0) {
                for schedule in 0..1_024_u32 {
                    run(kinds, waits, schedule);
                }
            }
        }
    }

    fn run(kinds: u32, waits: u32, schedule: u32) {
        let mut inflight = InflightModel::default();
        let mut hold_back = HoldBack::new();
        // Requests that openraft has given; those of them that wait; those that are answered.
        let (mut last, mut given, mut waiting, mut answered) = (10, 0_u64, 0, 0);
        // What is on the wire: for how many requests each message stands, and where it ends.
        let mut wire = VecDeque::new();
        for step in 0..10 {
            if schedule >> step & 1 == 0 && given < 5 {
                last += u64::from(kinds >> given & 1);
                inflight.push(last, given);
                hold_back.sent(last);
                waiting += 1;
                if waits >> given & 1 == 0 {
                    wire.push_back((std::mem::take(&mut waiting), last));
                }
                given += 1;
            } else if let Some((stands_for, matching)) = wire.pop_front() {
                hold_back.acknowledged(stands_for, matching, matching);
                answered += stands_for as u64;
                while let Some(matching) = hold_back.release() {
                    let claimed = inflight.drain_acked(matching);
                    assert!(
                        claimed.is_none_or(|at| at < answered),
                        "kinds {kinds:05b}, waits {waits:05b}, schedule {schedule:010b}: the answer to request {} claims \
                         contact at the time of request {claimed:?}",
                        answered - 1,
                    );
                }
            } else if waiting > 0 {
                wire.push_back((std::mem::take(&mut waiting), last));
            }
        }
    }

    #[test]
    fn an_answer_is_given_once_the_later_request_with_the_same_end_is_answered() {
        let mut hold_back = HoldBack::new();
        hold_back.sent(7);
        hold_back.sent(7);
        hold_back.acknowledged(1, 7, "data");
        assert_eq!(hold_back.release(), None);
        hold_back.acknowledged(1, 7, "commit");
        assert_eq!(hold_back.release(), Some("data"));
        assert_eq!(hold_back.release(), Some("commit"));
        assert_eq!(hold_back.release(), None);
    }

    #[test]
    fn answers_to_growing_requests_are_not_delayed() {
        let mut hold_back = HoldBack::new();
        for last in [1, 2, 3] {
            hold_back.sent(last);
        }
        hold_back.acknowledged(1, 1, 1);
        assert_eq!(hold_back.release(), Some(1));
        hold_back.acknowledged(1, 2, 2);
        assert_eq!(hold_back.release(), Some(2));
    }
}
