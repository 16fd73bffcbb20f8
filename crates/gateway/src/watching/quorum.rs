//! The majority of the nodes: whether it answers, and since when it does not.
//!
//! - While there is none nothing can be committed: a line in the node's log is all there is.
//! - A loss that a leader survived in its own term is told by that leader when it is over ([`Loss`]); one that ended with
//!   another reign is told by its `Lead`, in the ledger.
//! - Pure but for the log lines.

use std::time::Duration;

use model::command::{Command, Event, Severity};
use model::time::in_words;
use model::{Term, Timestamp};
use store::ledger::LASTING_LOSS;
use tokio::time::Instant;
use tracing::{error, info};

/// How long there may be no majority before it is logged: an election is shorter.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// What is known of the majority.
#[derive(Debug, Default)]
pub(super) struct Quorum {
    lost: Option<Lost>,
    loss: Option<Loss>,
}

/// There is none.
#[derive(Debug)]
struct Lost {
    since: Instant,
    /// The term in which this node led when it noticed.
    led: Option<Term>,
    is_told: bool,
}

/// There was none for long, and this node leads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    term: Term,
    ended: Instant,
    lasted: Duration,
}

impl Quorum {
    /// Notes whether a majority answers at `now`, and in which term this node leads.
    pub(super) fn look(&mut self, now: Instant, is_there: bool, leads: Option<Term>) {
        if !is_there {
            let lost = self.lost.get_or_insert(Lost { since: now, led: leads, is_told: false });
            if !lost.is_told && now.duration_since(lost.since) >= TOLD_AFTER {
                error!(
                    "alarm no-quorum: no majority of the nodes answers: nothing is read, accepted or delivered"
                );
                lost.is_told = true;
            }
            return;
        }
        self.loss = self.loss.filter(|loss| leads == Some(loss.term));
        let Some(lost) = self.lost.take() else { return };
        let lasted = now.duration_since(lost.since);
        if lost.is_told {
            info!(?lasted, "alarm no-quorum is over: a majority of the nodes answers");
        }
        if let Some(term) = lost.led.filter(|led| leads == Some(*led) && lasted >= LASTING_LOSS) {
            self.loss = Some(Loss { term, ended: now, lasted });
        }
    }

    /// What this leader has to tell in `term`, until it is [`told`](Self::told).
    pub(super) fn loss(&self, term: Term) -> Option<Loss> {
        self.loss.filter(|loss| loss.term == term)
    }

    /// It is in the log.
    pub(super) fn told(&mut self) {
        self.loss = None;
    }
}

impl Loss {
    /// The event, for a leader of that name at `now`, which is `wall` on its clock.
    pub(super) fn command(&self, leader: &str, now: Instant, wall: Timestamp) -> Command {
        let to = wall.minus(now.duration_since(self.ended));
        let from = to.minus(self.lasted);
        let (from, to, lasted) = (from.to_utc_seconds(), to.to_utc_seconds(), in_words(self.lasted));
        let text =
            format!("no quorum from {from} to {to} ({lasted}); {leader} leads on in term {}", self.term);
        Command::Event(Event { severity: Severity::Alarm, subject: "cluster".to_owned(), text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Option<Term> = Some(Term(3));

    fn lost_for(seconds: u64, led: Option<Term>, leads: Option<Term>) -> (Quorum, Instant) {
        let (mut quorum, start) = (Quorum::default(), Instant::now());
        quorum.look(start, true, led);
        quorum.look(start, false, led);
        let end = start + Duration::from_secs(seconds);
        quorum.look(end, true, leads);
        (quorum, end)
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_leads_on_tells_of_a_lasting_loss_once() {
        let (mut quorum, end) = lost_for(324, TERM, TERM);
        let loss = quorum.loss(Term(3)).expect("it lasted");
        let later = end + Duration::from_secs(2);
        let Command::Event(event) = loss.command("gateway-a", later, Timestamp::from_millis(400_000)) else {
            panic!("an event")
        };
        assert_eq!(
            event.text,
            "no quorum from 1970-01-01T00:01:14Z to 1970-01-01T00:06:38Z (5 min 24 s); gateway-a leads on in term 3"
        );
        quorum.look(later, true, TERM);
        assert_eq!(quorum.loss(Term(3)), Some(loss), "it was not committed yet");
        quorum.told();
        quorum.look(later, true, TERM);
        assert_eq!(quorum.loss(Term(3)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_reign_has_ended_is_not_told_twice() {
        assert_eq!(lost_for(324, TERM, Some(Term(4))).0.loss(Term(4)), None, "its Lead has told");
        assert_eq!(lost_for(324, TERM, None).0.loss(Term(3)), None, "it follows now");
        assert_eq!(lost_for(324, None, TERM).0.loss(Term(3)), None, "it did not lead when it began");
        let (mut quorum, end) = lost_for(324, TERM, TERM);
        quorum.look(end, true, Some(Term(5)));
        assert_eq!(quorum.loss(Term(3)), None, "the next Lead has told");
    }

    #[tokio::test(start_paused = true)]
    async fn an_election_is_no_loss() {
        assert_eq!(lost_for(3, TERM, TERM).0.loss(Term(3)), None);
    }
}
