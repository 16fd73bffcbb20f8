//! Whole-cluster scenarios: real node processes, real faults, judged from outside. The scenarios are in `tests/`.
//!
//! - [`cluster`]: nodes to start, ask, break and wait for.
//! - [`certificates`]: what such nodes need to speak TLS, and callers who have certificates.
//! - [`scene`]: a cluster at work in a simulated plant, ended with an account that must add up.
//! - [`story`]: what devices, pushers and the receiver saw, to be read afterwards.
//! - [`said`]: the program's command line, and what it said.
//! - [`machine`]: hosts of their own for nodes, and what can be done to them that takes root.
//! - [`prove`]: the proof kit, which is a program of its own: `docs/proof/README.md`.
//!
//! Where each scenario lives (names without `.rs` are of modules of `tests/scenarios`):
//!
//! | what happens | where |
//! |---|---|
//! | every fault in turn, by the demo itself | `drill.rs` |
//! | the demo's keys, on a terminal | `keys.rs` |
//! | founding; all three nodes killed at once | `three_nodes_found_one_cluster_and_come_back_from_darkness` |
//! | each node restarted under load, in order and with `kill -9` | `every_node_is_restarted_under_load` |
//! | the leader paused for longer than its lease | `a_paused_leader_is_ended_by_the_kernel_before_another_reads` |
//! | the same without its dead-man timer | `a_paused_leader_wakes_and_gives_up` |
//! | the leader paused where nftables holds requests back | `egress.rs` |
//! | the leader cut off from its peers | `a_cut_off_leader_acts_no_more_and_acknowledges_nothing` |
//! | planned switchovers | `a_planned_switchover_misses_no_slot` |
//! | a receiver away for two minutes, in which the leader dies twice | `a_receiver_that_was_away_for_minutes_across_two_failovers_gets_everything_in_order` |
//! | configuration changed while the leader dies | `configuration_changed_during_a_failover_is_in_force_on_all_nodes_or_on_none` |
//! | a node wiped and replaced | `a_wiped_node_is_refused_and_replaced_under_load` |
//! | a node whose disk forgot what it had acknowledged | `amnesia.rs` |
//! | a learner from a checkpoint, whose leader dies, and again once it votes; removal, drain, failback | `membership.rs` |
//! | what draining refuses; only drained nodes are left | `draining.rs` |
//! | the disks of all nodes full of a backlog | `full_disks.rs` |
//! | a node that cannot start: its file, its ports, whose directory it is | `starting.rs` |
//! | a node stopped where nobody can take over | `stopping.rs` |
//! | what systemd is told of a node | `service_manager.rs` |
//! | the demo's plant alone, as containers have it | `simulate.rs` |
//! | each container of `compose.yaml` killed | `containers.rs` |
//! | wrong clocks across a failover | `clock.rs` |
//! | commands and pushes handed on over TLS across a failover | `followers_hand_on_over_tls_across_a_change_of_leader` |
//! | all hosts without power at once; the leader's host cut off, one way and both | `hosts.rs` |
//! | who is let in, and who is not | `certificates.rs` |
//! | the node files and the plant of `cluster-config/`, as a user takes them | `cluster_config.rs` |
//! | every verb of the command line at a follower; no majority | `verbs.rs` |
//! | system tags, alarms and events across a failover | `telling.rs` |
//! | hooks at switchovers | `hooks.rs` |

pub mod certificates;
pub mod cluster;
pub mod machine;
pub mod prove;
pub mod said;
pub mod scene;
pub mod story;

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};

/// Nothing that must happen takes longer, even on a machine that does much else.
pub const SOON: Duration = Duration::from_secs(60);
/// From one look to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Waits until `look` finds what it looks for; an error says what was expected and what was seen last.
pub async fn until<T, E: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(seen) if Instant::now() >= deadline => {
                return Err(anyhow!("expected within {SOON:?}: {what}; seen last: {seen:?}"));
            }
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}
