//! Looks at nodes, their processes and their files, as often as is worth it, and writes down what it sees.

use std::path::PathBuf;
use std::time::Duration;

use simulator::history::{History, Kind};
use simulator::nodes::cluster::View;
use simulator::nodes::layout::NodePlan;
use simulator::nodes::process::Lives;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::filed::{FILED, Filed, Finished};
use super::said::{SAID, Said};
use super::used::{USED, Used};
use crate::prove::campaign::FILES;

/// Less than two looks of whoever watches the nodes.
const SAY_EVERY: Duration = Duration::from_millis(150);
const USE_EVERY: Duration = Duration::from_secs(1);

/// Looks at the nodes.
pub(super) struct Watch {
    pub(super) history: History,
    pub(super) nodes: Vec<(NodePlan, Lives)>,
    pub(super) files: PathBuf,
}

impl Watch {
    /// Looks until nobody watches the nodes any more.
    pub(super) async fn run(self, mut views: watch::Receiver<View>) {
        let (mut said_at, mut used_at) = (None, None);
        let mut finished = Finished::new();
        while views.changed().await.is_ok() {
            let now = Instant::now();
            let is_due = |last: Option<Instant>, every: Duration| last.is_none_or(|last| now - last >= every);
            if is_due(said_at, SAY_EVERY) {
                said_at = Some(now);
                self.note_said(&views.borrow());
            }
            if is_due(used_at, USE_EVERY) {
                used_at = Some(now);
                finished = self.note_used(finished).await;
            }
        }
    }

    fn note_said(&self, view: &View) {
        let answers = view.nodes.iter().zip(&view.lives);
        for ((plan, _), (status, life)) in self.nodes.iter().zip(answers) {
            let said = status.as_ref().and_then(|status| Said::of(status, view.asked_ns, *life));
            if let Some(said) = said {
                self.history.record_at(view.answered_ns, &plan.name, Kind::Ok, SAID, &said);
            }
        }
    }

    /// Looks at processes and files; with the files that are finished.
    async fn note_used(&self, mut finished: Finished) -> Finished {
        let runs =
            |(plan, lives): &(NodePlan, Lives)| Some((plan.name.clone(), plan.data.clone(), lives.now().id?));
        let running: Vec<(String, PathBuf, u32)> = self.nodes.iter().filter_map(runs).collect();
        let files = self.files.clone();
        let looking = spawn_blocking(move || {
            let look = |(name, data, id): (String, PathBuf, u32)| (name, Used::of(id, &data));
            let used: Vec<_> = running.into_iter().map(look).collect();
            let filed = Filed::of(&files, &mut finished);
            (used, filed, finished)
        });
        let (used, filed, finished) = looking.await.expect("who looks at files does not panic");
        // What cannot be looked at is not written down: a check that has seen nothing fails.
        if let Ok(filed) = filed {
            self.history.record(FILES, Kind::Ok, FILED, &filed);
        }
        for (name, used) in used {
            // One that has just ended is no process any more.
            if let Ok(used) = used {
                self.history.record(&name, Kind::Ok, USED, &used);
            }
        }
        finished
    }
}
