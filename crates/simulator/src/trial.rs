//! A cluster and a simulated plant together: opened, broken, and closed with an account of everything that was seen.
//!
//! What nodes say steers a run; what the plant saw judges it.

mod faults;

use std::io;
use std::time::Duration;

use crate::account::{Report, count_other_rows, count_rows, enter_files};
use crate::field::Field;
use crate::history::{monotonic_ns, wall_offset};
use crate::nodes::cluster::Refused;
use crate::nodes::{Nodes, WaitError};
use crate::plant::Shape;

pub use faults::{Outcome, TakenOver, Victim};

/// Three nodes that find each other, on a slow machine.
const FOUNDING: Duration = Duration::from_secs(60);
/// Until the cluster is whole again after a fault.
pub const HEALING: Duration = Duration::from_secs(30);
/// Until everything is delivered at the end.
const DRAINING: Duration = Duration::from_secs(30);
/// Reads of each device that show that reading goes on.
pub const STEADY_READS: usize = 10;

/// A cluster at work in a simulated plant.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// The cluster.
    pub nodes: &'a Nodes,
    /// The plant.
    pub field: &'a Field,
}

/// Why a step of a trial did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// What was waited for did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// No node did what it was asked to do.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A process or a port is not to be had.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A node leads that is none of ours.
    #[error("{0} leads, and is none of ours")]
    Stranger(String),
}

impl Trial<'_> {
    /// Waits for a leader, applies the plant document, and waits until every device is read.
    pub async fn open(&self) -> Result<(), TrialError> {
        self.nodes.say("three nodes are starting");
        let leader = self.nodes.agreed(FOUNDING).await?;
        self.nodes.say(&format!("they agree: {} leads (term {})", leader.name, leader.term));
        self.nodes.cluster.apply(&self.field.document(Shape::default())).await?;
        self.reads_go_on(HEALING).await?;
        self.nodes.say("3 devices, 60 tags, each read every 100 ms");
        Ok(())
    }

    /// Waits until a pusher has been acknowledged.
    pub async fn is_acknowledged(&self) -> Result<(), TrialError> {
        let acknowledged = || self.field.account.lock().pushed_acked() > 0;
        let waiting =
            self.nodes.until("a pusher to be acknowledged", HEALING, || acknowledged().then_some(()));
        Ok(waiting.await?)
    }

    /// Waits until every device has answered some reads from now on.
    pub async fn reads_go_on(&self, limit: Duration) -> Result<(), WaitError> {
        let from_ns = monotonic_ns();
        self.nodes
            .until("every device to be read", limit, || {
                (self.field.account.lock().reads_since(from_ns, |_| true) >= STEADY_READS).then_some(())
            })
            .await
    }

    /// Makes everything whole, ends what is pushed and read, and waits until all of it is delivered.
    async fn drain(&self) -> Result<(), TrialError> {
        self.nodes.say("draining: pushers end");
        for node in 0..self.nodes.layout.nodes.len() {
            self.nodes.mend(node);
            let stood_still = {
                let process = self.nodes.process(node).await;
                process.is_paused() || process.ended_by_timer()
            };
            if stood_still {
                self.nodes.resume(node).await?;
            }
        }
        self.field.set_receiver(true).await?;
        self.field.stop_pushing().await;
        self.nodes.say("draining: devices are taken out of service");
        for device in &self.field.plant.devices {
            self.nodes.cluster.disable(&device.id).await?;
        }
        self.nodes
            .until("everything to be delivered", DRAINING, || {
                let figures = self.field.account.lock().figures();
                (figures.pending == 0 && figures.lost == 0).then_some(())
            })
            .await?;
        let delivered = self.field.account.lock().figures().delivered;
        let files = self.field.files();
        let filed = || {
            // What comes later may be in a file that is not finished any more.
            let until_ns = monotonic_ns();
            let others = self.field.account.lock().gaps_and_openings();
            let is_there = count_rows(&files).unwrap_or_default() >= delivered
                && count_other_rows(&files).unwrap_or_default() >= others;
            is_there.then_some(until_ns)
        };
        let until_ns = self.nodes.until("everything to stand in files", DRAINING, filed).await?;
        self.field.account.lock().rows_are_due(until_ns);
        self.nodes.say("drained");
        Ok(())
    }
}

/// How nodes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// They are asked to, and the last one waits a while for peers that are gone.
    InOrder,
    /// They are killed.
    AtOnce,
}

/// Stops the sources, waits until everything is delivered, ends the nodes, and settles the account. What keeps it from
/// that is a doubt in the account.
pub async fn close(mut nodes: Nodes, field: &Field, end: End) -> Report {
    if let Err(error) = (Trial { nodes: &nodes, field }).drain().await {
        field.account.lock().doubt(format!("the end was not in order: {error}"));
    }
    match end {
        End::InOrder => nodes.stop().await,
        End::AtOnce => {
            for node in 0..nodes.layout.nodes.len() {
                if let Err(error) = nodes.kill(node).await {
                    field.account.lock().doubt(format!("a node does not end: {error}"));
                }
            }
        }
    }
    if let Some(casualty) = nodes.casualty() {
        field.account.lock().doubt(casualty);
    }
    let conflicts = field.conflicts().await;
    let mut account = field.account.lock();
    account.conflicted(conflicts);
    account.wall_clock_ends(wall_offset());
    if let Err(error) = enter_files(&field.files(), &mut account) {
        account.doubt(format!("the CSV files cannot be read: {error}"));
    }
    drop(account);
    field.account.conclude();
    field.account.lock().settle()
}
