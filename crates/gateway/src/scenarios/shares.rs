//! Files that lie on a share, or do not.

use std::path::Path;

use model::AlarmKind;
use model::plant::{Csv, DestinationKind};
use store::ledger::AlarmKey;

use super::*;
use crate::watching::shares::Shares;

/// The plant with a file destination in a directory that each node names itself.
fn writing_files() -> Plant {
    let mut plant = plant(64 * MIB, WhenFull::Refuse);
    let csv = Csv { directory: "${var.files}".into(), every: SOON, max_rows: 1_000 };
    let destination = &mut plant.destinations[0];
    (destination.id, destination.kind) = ("files".to_owned(), DestinationKind::Csv(csv));
    plant
}

fn alarm() -> AlarmKey {
    (AlarmKind::FilesNotOnAShare, "files".to_owned())
}

impl Node {
    /// What it knows when its files lie there.
    fn with_files_in(&self, directory: &Path) -> NodeFacts {
        let vars = [("files".to_owned(), directory.display().to_string())].into();
        NodeFacts { vars, ..self.facts() }
    }

    /// What stands, as it knows.
    fn complaint(&self) -> Option<String> {
        self.read(|state| state.alarms.get(&alarm()).map(|standing| standing.text.clone()))
    }

    /// Looks once whether the files in `directory` are those of the leader, when that has had time to write there.
    async fn look_for_files(&self, directory: &Path) {
        let mut shares = Shares::new(self.with_files_in(directory), Duration::ZERO);
        for _ in 0..2 {
            shares.look(&self.replica, &self.replica.status()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_does_not_see_the_leaders_files_says_so_and_takes_it_back_itself() {
    let nodes = cluster(3).await;
    let leading = leader(&nodes).await;
    let [leader, follower, other] = [0, 1, 2].map(|next| &nodes[(leading + next) % 3]);
    let directory = || tempfile::tempdir().expect("a temporary folder");
    let (share, own) = (directory(), directory());
    leader.configure(writing_files()).await;
    leader.forward(leader.with_files_in(share.path()));
    let ready = async {
        let hears = |node: &Node| node.replica.status().leader == Some(leader.replica.node());
        while !share.path().join("files.leader.json").exists() || !hears(follower) || !hears(other) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, ready).await.expect("the leader writes, and the others hear it");
    let has_plant = |state: &State| state.revision() > Revision(0);
    follower.until("it knows the plant", has_plant).await;

    let mut early = Shares::new(follower.with_files_in(own.path()), SOON);
    for _ in 0..2 {
        early.look(&follower.replica, &follower.replica.status()).await;
    }
    assert_eq!(leader.complaint(), None, "a new leader has time to write");

    // On a busy machine a proposal may have to be made again.
    let complain = async {
        while follower.complaint().is_none() {
            follower.look_for_files(own.path()).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, complain).await.expect("it complains");
    let said = format!(
        "{} does not see the files of {}: they will lie on several machines",
        follower.replica.name(),
        leader.replica.name()
    );
    assert_eq!(follower.complaint(), Some(said.clone()));

    other.until("it knows the alarm", |state| state.alarms.contains_key(&alarm())).await;
    other.look_for_files(share.path()).await;
    assert_eq!(leader.complaint(), Some(said), "it is not for another to take back");

    let take_back = async {
        while follower.complaint().is_some() {
            follower.look_for_files(share.path()).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, take_back).await.expect("the share is mounted, and it says so");
    leader.until("nothing is wrong", |state| !state.alarms.contains_key(&alarm())).await;
}
