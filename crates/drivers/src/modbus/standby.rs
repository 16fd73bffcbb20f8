//! Idle connections that a follower holds, so that its first read as a leader need not connect.
//!
//! - Nothing is ever sent on them: there is no permit here, and no code that writes.
//! - A connection that the device ends, or on which it speaks unasked, is thrown away and made again, with pauses.
//! - Only devices with `standby = "warm"` are connected to: many bear few connections.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use model::plant::{Device, Link, Standby};
use runtime::Spawner;
use runtime::random::{Random, branch};
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::dial::{DeviceStream, Dialler, HostPort};
use crate::backoff::backoff;

/// A connection that lasted so long was no failure; many devices end idle ones after a minute or more.
const STEADY: Duration = Duration::from_secs(30);

/// Holds idle connections until they are released or dropped.
#[derive(Debug)]
pub struct WarmStandby {
    spawner: Spawner,
    dialler: Arc<dyn Dialler>,
    random: Random,
    token: CancellationToken,
    held: BTreeMap<HostPort, oneshot::Receiver<Option<Box<dyn DeviceStream>>>>,
    _cancel_on_drop: DropGuard,
}

/// Open connections on their way from a [`WarmStandby`] to the [`Endpoints`](super::Endpoints) of a new leadership.
#[derive(Debug, Default)]
pub struct WarmConnections(BTreeMap<HostPort, Box<dyn DeviceStream>>);

/// Owns one idle connection.
struct Holder {
    remote: HostPort,
    dialler: Arc<dyn Dialler>,
    cap: Duration,
    random: Random,
    token: CancellationToken,
}

impl WarmStandby {
    /// Holds nothing yet.
    pub fn new(spawner: Spawner, dialler: Arc<dyn Dialler>, random: Random) -> Self {
        let token = spawner.token().child_token();
        let guard = token.clone().drop_guard();
        Self { spawner, dialler, random, token, held: BTreeMap::new(), _cancel_on_drop: guard }
    }

    /// Connects to the device and stays connected, if it is enabled and its standby is warm.
    pub fn hold(&mut self, device: &Device) {
        let Link::ModbusTcp(link) = &device.link else { return };
        let remote = HostPort { host: link.host.clone(), port: link.port };
        if !device.enabled || link.standby != Standby::Warm || self.held.contains_key(&remote) {
            return;
        }
        let holder = Holder {
            remote: remote.clone(),
            dialler: Arc::clone(&self.dialler),
            cap: link.timeout,
            random: branch(&mut self.random),
            token: self.token.clone(),
        };
        let (hand_over, connection) = oneshot::channel();
        self.held.insert(remote, connection);
        self.spawner.spawn(format!("standby {}", holder.remote), async move {
            let stream = holder.run().await;
            if hand_over.send(stream).is_err() {
                debug!("idle connection dropped with its standby");
            }
            Ok::<(), Infallible>(())
        });
    }

    /// Ends the standby and hands over what is open. Never waits for the network.
    pub async fn release(self) -> WarmConnections {
        self.token.cancel();
        let mut open = BTreeMap::new();
        for (remote, connection) in self.held {
            if let Ok(Some(stream)) = connection.await {
                open.insert(remote, stream);
            }
        }
        WarmConnections(open)
    }
}

impl WarmConnections {
    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, remote: &HostPort) -> Option<Box<dyn DeviceStream>> {
        self.0.remove(remote)
    }
}

impl Holder {
    /// Stays connected until cancelled; then gives the connection, if there is one.
    async fn run(mut self) -> Option<Box<dyn DeviceStream>> {
        let token = self.token.clone();
        let mut failures = 0;
        loop {
            let HostPort { host, port } = &self.remote;
            let stream = token.run_until_cancelled(self.dialler.dial(host, *port, self.cap)).await?;
            match stream {
                Ok(mut stream) => {
                    let connected = Instant::now();
                    // Whatever comes is its end, or words that nobody asked for.
                    if token.run_until_cancelled(stream.read_u8()).await.is_none() {
                        return Some(stream);
                    }
                    debug!(endpoint = %self.remote, "idle connection lost");
                    if connected.elapsed() > STEADY {
                        failures = 0;
                    }
                }
                Err(reason) => debug!(endpoint = %self.remote, %reason, "idle connection not made"),
            }
            // Also after a success: a device that accepts and closes must not be connected to in a circle.
            let pause = backoff(failures, &mut self.random);
            failures += 1;
            token.run_until_cancelled(tokio::time::sleep(pause)).await?;
        }
    }
}
