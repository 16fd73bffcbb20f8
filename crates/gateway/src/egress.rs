//! The egress lease: nftables lets requests to devices leave this box only while the lease lasts.
//!
//! - Owns one table of nftables, a chain in it, and the grant: one element that the kernel forgets by itself. What the
//!   sockets of devices send bears a mark; a packet with the mark and with data is dropped where there is no grant. So a
//!   request that a node which stands still has left in a socket stays there, and so does what TCP would send again.
//! - Table and mark are called after the node's admin port, which it has for itself on its machine: what an earlier process
//!   left, whatever its node was called, is exchanged and holds nothing back for good.
//! - Packets without data pass: connections are made by followers (`standby = "warm"`) and closed by whoever has lost its
//!   lease, or a device would hold on to a dead one.
//! - A grant is never longer than the lease of operations, plus the guard that is between them and the next leader: one that
//!   took longer to be given is taken back at once.
//! - Without renewals the kernel drops. That nft fails ends the node.
//! - The policy is a pure function, [`plan`]; so are the texts for nft.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use replication::Leadership;
use runtime::{Lapse, Spawner};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::node::NodeError;

/// How long one run of nft may take; some milliseconds are usual.
const PATIENCE: Duration = Duration::from_secs(2);
/// Moments that are closer together than this are one.
const SAME: Duration = Duration::from_millis(1);
/// How late the kernel may forget a grant: it counts in ticks, of which the longest are so long.
const TICK: Duration = Duration::from_millis(10);
/// Marks of ours begin with it (`HF`).
const MARK: u32 = 0x4846_0000;

/// The mark of this node's connections to devices: another one for each node of a machine.
pub(crate) fn mark(admin_port: u16) -> u32 {
    MARK | u32::from(admin_port)
}

/// Whether requests may leave by now; by default nothing holds them back. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gate(Option<watch::Receiver<Option<Instant>>>);

impl Gate {
    /// Waits until a grant lasts, or nobody wants one any more. Where there is no egress lease, it is open.
    pub(crate) async fn opened(mut self, leadership: &Leadership, stop: &CancellationToken) {
        let Some(granted) = &mut self.0 else { return };
        let lasts = |until: &Option<Instant>| until.is_some_and(|until| Instant::now() < until);
        tokio::select! {
            // An error means that the egress lease has ended, and with it the node.
            () = async { drop(granted.wait_for(lasts).await) } => {}
            () = leadership.over() => {}
            () = stop.cancelled() => {}
        }
    }
}

/// The egress lease of a node, from outside.
pub(crate) struct Egress {
    /// Is told what operations rely on.
    pub(crate) told: watch::Sender<Option<Lapse>>,
    pub(crate) gate: Gate,
}

/// Makes the table, which lets nothing pass yet, and keeps it until `spawner` ends.
pub(crate) async fn start(admin_port: u16, spawner: &Spawner) -> io::Result<Egress> {
    let table = table(admin_port);
    nft(made(&table, mark(admin_port))).await?;
    let (told, telling) = watch::channel(None);
    let (granting, granted) = watch::channel(None);
    let keeping = keep(table, telling, granting, spawner.token().clone());
    spawner
        .spawn("egress", async move { keeping.await.map_err(|error| NodeError::Egress(error).to_string()) });
    Ok(Egress { told, gate: Gate(Some(granted)) })
}

/// What is to be done about the grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Grant(Lapse),
    Revoke,
}

/// What is to be done while operations rely on `told` and something is granted until `granted`. A renewal is worth a run of
/// nft when it adds a quarter of what is left.
fn plan(told: Option<Lapse>, granted: Option<Instant>, now: Instant) -> Option<Move> {
    let granted = granted.filter(|until| now < *until);
    match (told.filter(|lapse| now < lapse.at), granted) {
        (Some(lapse), None) => Some(Move::Grant(lapse)),
        (Some(lapse), Some(until)) => {
            let gained = lapse.at.saturating_duration_since(until);
            (gained >= (lapse.at - now) / 4 || lapse.at + SAME < until).then_some(Move::Grant(lapse))
        }
        (None, Some(_)) => Some(Move::Revoke),
        (None, None) => None,
    }
}

async fn keep(
    table: String,
    mut told: watch::Receiver<Option<Lapse>>,
    granting: watch::Sender<Option<Instant>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut granted = None;
    while !stop.is_cancelled() {
        let relied_on = *told.borrow_and_update();
        match plan(relied_on, granted, Instant::now()) {
            Some(Move::Grant(lapse)) => {
                let began = Instant::now();
                nft(grant(&table, lapse.at.saturating_duration_since(began))).await?;
                // The kernel counts from when it was told.
                let is_in_time = began.elapsed() + TICK <= lapse.deadly - lapse.at;
                if !is_in_time {
                    warn!(took = ?began.elapsed(), "nft was slow: what it granted is taken back");
                    nft(revoked(&table)).await?;
                }
                granted = is_in_time.then_some(lapse.at);
                granting.send_replace(granted);
            }
            Some(Move::Revoke) => {
                nft(revoked(&table)).await?;
                granted = None;
                granting.send_replace(granted);
            }
            None => {}
        }
        tokio::select! {
            changed = told.changed() => if changed.is_err() { break },
            () = stop.cancelled() => {}
        }
    }
    nft(removed(&table)).await
}

/// The name of a node's table.
fn table(admin_port: u16) -> String {
    format!("holdfast_fence_{admin_port}")
}

/// What makes the table, whatever an earlier process has left of it.
fn made(table: &str, mark: u32) -> String {
    format!(
        "add table inet {table}\n\
         delete table inet {table}\n\
         table inet {table} {{\n\
         set lease {{\ntype inet_proto\nflags timeout\n}}\n\
         chain out {{\ntype filter hook output priority 0\npolicy accept\n\
         meta mark {mark:#x} tcp flags & psh == psh meta l4proto != @lease drop\n}}\n\
         }}\n"
    )
}

fn grant(table: &str, left: Duration) -> String {
    // Nothing would mean for ever.
    let millis = left.as_millis().max(1);
    format!("{}add element inet {table} lease {{ tcp timeout {millis}ms }}\n", revoked(table))
}

fn revoked(table: &str) -> String {
    format!("flush set inet {table} lease\n")
}

fn removed(table: &str) -> String {
    format!("delete table inet {table}\n")
}

/// Lets nft do all of `script` or nothing.
async fn nft(script: String) -> io::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("nft: {error}")))?;
    let input = child.stdin.take();
    let run = async move {
        if let Some(mut input) = input {
            input.write_all(script.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let slow = |_| io::Error::new(io::ErrorKind::TimedOut, format!("nft did not end within {PATIENCE:?}"));
    let output = timeout(PATIENCE, run).await.map_err(slow)??;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("nft: {}", said.lines().next().unwrap_or("it failed without a word"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: Duration = Duration::from_millis(400);
    const GUARD: Duration = Duration::from_millis(50);

    fn lapse(at: Instant) -> Lapse {
        Lapse { at, deadly: at + GUARD }
    }

    #[test]
    fn a_lease_that_begins_is_granted_and_one_that_was_given_up_is_revoked() {
        let now = Instant::now();
        let relied_on = lapse(now + L);
        assert_eq!(plan(Some(relied_on), None, now), Some(Move::Grant(relied_on)));
        assert_eq!(plan(None, Some(now + L), now), Some(Move::Revoke));
        assert_eq!(plan(None, None, now), None);
        assert_eq!(
            plan(Some(relied_on), Some(relied_on.at), relied_on.at),
            None,
            "the kernel has forgotten it"
        );
    }

    #[test]
    fn a_renewal_is_granted_when_it_is_worth_a_run_of_nft() {
        let now = Instant::now();
        let granted = Some(now + L);
        assert_eq!(plan(Some(lapse(now + L)), granted, now), None);
        assert_eq!(plan(Some(lapse(now + L + L / 5)), granted, now), None);
        let renewed = lapse(now + L * 3 / 2);
        assert_eq!(plan(Some(renewed), granted, now), Some(Move::Grant(renewed)));
        let shorter = lapse(now + L / 2);
        assert_eq!(plan(Some(shorter), granted, now), Some(Move::Grant(shorter)));
    }

    #[test]
    fn whoever_has_the_mark_of_an_earlier_process_has_its_table() {
        let script = made(&table(7611), mark(7611));
        assert!(
            script.starts_with("add table inet holdfast_fence_7611\ndelete table inet holdfast_fence_7611\n")
        );
        assert!(script.contains("meta mark 0x48461dbb "), "{script}");
        assert!(table(7621) != table(7611) && mark(7621) != mark(7611), "another node of the machine");
    }

    #[test]
    fn a_grant_replaces_the_one_before_and_is_never_for_ever() {
        let expected = "flush set inet t lease\nadd element inet t lease { tcp timeout 250ms }\n";
        assert_eq!(grant("t", Duration::from_millis(250)), expected);
        assert!(grant("t", Duration::ZERO).contains("timeout 1ms"));
    }
}
