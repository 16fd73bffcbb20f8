//! Who shares which connection, and the end of all of them.
//!
//! - Devices with the same host and port share one endpoint, whatever their unit ids.
//! - An endpoint lives while a [`ModbusDevice`] uses it.
//! - [`Endpoints`] live for one leadership. Closing or dropping them cancels every endpoint: sockets are reset, scans
//!   end with [`ScanError::Stopped`](crate::ScanError::Stopped).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use model::plant::{Device, Link};
use model::{Clock, Permit};
use runtime::Spawner;
use runtime::random::{Random, branch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connection::Connection;
use super::device::ModbusDevice;
use super::dial::{Dialler, HostPort};
use super::endpoint::{Endpoint, EndpointHandle, Surroundings, WeakEndpointHandle};
use super::standby::WarmConnections;

/// What connections to the field need from their node.
pub struct Setup {
    /// Asked whenever bytes leave.
    pub permit: Arc<dyn Permit>,
    /// Gives source times.
    pub clock: Arc<dyn Clock>,
    /// Runs the owner tasks.
    pub spawner: Spawner,
    /// Makes the connections.
    pub dialler: Arc<dyn Dialler>,
    /// For the jitter of pauses.
    pub random: Random,
    /// What a standby of this node held open.
    pub warm: WarmConnections,
}

/// The connections of one leadership.
pub struct Endpoints {
    setup: Mutex<Setup>,
    running: Mutex<HashMap<HostPort, WeakEndpointHandle>>,
    tasks: TaskTracker,
    token: CancellationToken,
    _cancel_on_drop: DropGuard,
}

/// A device that no driver can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPolled {
    /// It pushes.
    #[error("device pushes and is not polled")]
    Pushes,
    /// The plant says that it is polled, but not where a tag is. A valid plant does not.
    #[error("tag {tag} has no address")]
    WithoutAddress {
        /// Its full id.
        tag: String,
    },
}

impl Endpoints {
    /// No connections yet.
    pub fn new(setup: Setup) -> Self {
        let token = setup.spawner.token().child_token();
        let guard = token.clone().drop_guard();
        let running = Mutex::default();
        Self { setup: Mutex::new(setup), running, tasks: TaskTracker::new(), token, _cancel_on_drop: guard }
    }

    /// A driver for a device. Connects when it is first scanned.
    pub fn device(&self, device: &Device) -> Result<ModbusDevice, NotPolled> {
        let Link::ModbusTcp(link) = &device.link else { return Err(NotPolled::Pushes) };
        let remote = HostPort { host: link.host.clone(), port: link.port };
        let endpoint = self.endpoint(remote);
        let setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        ModbusDevice::new(device, Arc::clone(&setup.permit), endpoint)
    }

    /// Resets all connections, and returns when that is done.
    pub async fn close(self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn endpoint(&self, remote: HostPort) -> EndpointHandle {
        // Neither lock can be poisoned half way: what they guard is consistent after each statement.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = running.get(&remote).and_then(WeakEndpointHandle::upgrade) {
            return handle;
        }
        running.retain(|_, endpoint| endpoint.upgrade().is_some());
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let warm = setup.warm.take(&remote);
        let connection = warm.map(|stream| Connection::new(stream, Arc::clone(&setup.permit)));
        let surroundings = Surroundings {
            permit: Arc::clone(&setup.permit),
            clock: Arc::clone(&setup.clock),
            dialler: Arc::clone(&setup.dialler),
            random: branch(&mut setup.random),
            token: self.token.clone(),
        };
        let name = format!("modbus {remote}");
        let (endpoint, handle) = Endpoint::new(remote.clone(), connection, surroundings);
        setup.spawner.spawn(name, self.tasks.track_future(endpoint.run()));
        running.insert(remote, handle.downgrade());
        handle
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("running", &self.tasks.len()).finish_non_exhaustive()
    }
}
