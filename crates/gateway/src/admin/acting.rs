//! Who acts for the cluster now, as this node sees it: the one source of `/leader`, of gRPC health and of what callers
//! are told where nobody does.
//!
//! - This node acts only with a live lease. Of another it is believed while it is heard.
//! - Watched every [`LOOK_EVERY`], because a lease runs out without an event. Health of the gRPC services follows:
//!   the empty name and `holdfast.v1.Admin` while this node runs, `holdfast.v1.Ingest` while somebody acts, and
//!   [`LEADER_SERVICE`] on the node that acts and nowhere else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{Permit as _, Timestamp};
use runtime::Spawner;
use store::engine::Engine;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::AdminService;
use super::failure::Failure;

/// Health name of the node that acts.
pub const LEADER_SERVICE: &str = "holdfast.leader";

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acting {
    /// This node: it has a live lease.
    Here,
    /// Another one, by name.
    Elsewhere(String),
    /// Nobody is known to.
    Nobody,
}

/// Since when nobody acts, if nobody does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Absence(Arc<Mutex<Option<Timestamp>>>);

impl Absence {
    /// Notes who acts at `now`.
    fn note(&self, acting: &Acting, now: Timestamp) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = match acting {
            Acting::Nobody => Some(since.unwrap_or(now)),
            Acting::Here | Acting::Elsewhere(_) => None,
        };
    }

    fn since(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Engine> AdminService<E> {
    /// Who acts now.
    pub(crate) fn acting(&self) -> Acting {
        let own = self.replica().leadership().borrow().clone();
        if own.is_some_and(|leadership| leadership.check().is_ok()) {
            return Acting::Here;
        }
        let status = self.replica().status();
        match status.leader {
            Some(leader) if leader != status.node && self.has_quorum(&status) => {
                Acting::Elsewhere(self.name_of(leader))
            }
            _ => Acting::Nobody,
        }
    }

    /// What a caller is told who needs the leader while there is none.
    pub(super) fn no_leader(&self) -> Failure {
        Failure::NoLeader(self.absence.since())
    }

    /// Starts the task that watches who acts and tells gRPC health.
    pub fn reporting_health(self, mut health: HealthReporter, spawner: &Spawner) -> Self {
        let (watched, stop) = (self.clone(), spawner.token().clone());
        spawner.spawn("who acts", async move {
            let mut look = tokio::time::interval(LOOK_EVERY);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut told = None;
            while stop.run_until_cancelled(look.tick()).await.is_some() {
                let acting = watched.acting();
                watched.absence.note(&acting, watched.now());
                if told.as_ref() != Some(&acting) {
                    for (service, status) in statuses(&acting) {
                        health.set_service_status(service, status).await;
                    }
                    told = Some(acting);
                }
            }
            for (service, _) in statuses(&Acting::Nobody) {
                health.set_service_status(service, ServingStatus::NotServing).await;
                // Ends the streams of those who watch, or stopping would wait for them.
                health.clear_service_status(service).await;
            }
            Ok::<(), std::convert::Infallible>(())
        });
        self
    }
}

/// What each service's health is while `acting` acts.
fn statuses(acting: &Acting) -> [(&'static str, ServingStatus); 4] {
    let serving = |is| if is { ServingStatus::Serving } else { ServingStatus::NotServing };
    [
        ("", serving(true)),
        ("holdfast.v1.Admin", serving(true)),
        ("holdfast.v1.Ingest", serving(*acting != Acting::Nobody)),
        (LEADER_SERVICE, serving(*acting == Acting::Here)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_that_acts_serves_as_leader_and_pushes_need_somebody_who_does() {
        let health = |acting: &Acting| statuses(acting).map(|(_, status)| status == ServingStatus::Serving);
        assert_eq!(health(&Acting::Here), [true, true, true, true]);
        assert_eq!(health(&Acting::Elsewhere("gateway-b".into())), [true, true, true, false]);
        assert_eq!(health(&Acting::Nobody), [true, true, false, false]);
    }

    #[test]
    fn absence_begins_when_nobody_acts_and_ends_when_somebody_does() {
        let absence = Absence::default();
        absence.note(&Acting::Nobody, Timestamp(5));
        absence.note(&Acting::Nobody, Timestamp(9));
        assert_eq!(absence.since(), Some(Timestamp(5)));
        absence.note(&Acting::Here, Timestamp(10));
        assert_eq!(absence.since(), None);
    }
}
