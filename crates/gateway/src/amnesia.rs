//! A node whose data directory lost what the node had acknowledged stays up and says what to do about it.
//!
//! - It runs no Raft, reads no device and takes nothing: what it forgot, a majority may have been counted with.
//! - It does not end: a supervisor that starts it again for ever would hide what is wrong, and nobody else knows it.
//! - Peers learn of it in the handshake, callers of the API by an error, monitoring by `/readyz`.

use std::io;
use std::sync::Arc;

use model::Clock;
use replication::{AmnesicParts, answer_amnesic};
use runtime::Spawner;
use tokio::net::TcpListener;
use tracing::error;

use crate::config::NodeConfig;
use crate::notice::{self, Boards, Notice};
use crate::security::Security;

/// The code of the one answer there is.
const LOST_MEMORY: &str = "HF-4104";

/// Says on all ports that this node must be replaced, until the spawner's tasks end.
pub(crate) fn stand_by(
    config: &NodeConfig,
    reason: &str,
    (peers, boards): (TcpListener, Boards<'_>),
    security: &Security,
    clock: Arc<dyn Clock>,
    spawner: &Spawner,
) -> io::Result<()> {
    let notice = notice(config, reason);
    error!("{}", notice.text());
    answer_amnesic(AmnesicParts {
        cluster_name: config.cluster.clone(),
        name: config.name.clone(),
        times: config.times,
        clock,
        acceptor: security.acceptor(),
        listener: peers,
        spawner: spawner.clone(),
    });
    notice::serve(notice, boards, security, spawner).map(drop)
}

fn notice(config: &NodeConfig, reason: &str) -> Notice {
    let (name, address) = (&config.name, &config.address);
    let text = format!(
        "{name} has lost data that it had acknowledged ({reason}) and takes no part any more: stop it, empty {}, start it \
         again, then type: holdfast member replace {name} {name}={address}",
        config.data_dir.display()
    );
    Notice::new(LOST_MEMORY, move || text.clone())
}
