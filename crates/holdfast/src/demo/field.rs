//! The simulated plant at work: devices, pushers, the HTTP receiver, and the account they feed.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use model::Clock;
use runtime::SystemClock;
use simulator::history::monotonic_ns;
use simulator::modbus::{self, ModbusServer};
use simulator::pusher::{Pusher, PusherConfig};
use simulator::receiver::{Mode, Receiver};
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::account::Account;
use super::histories::SharedAccount;
use super::plant::{Addresses, Plant};

/// From one pushed message to the next.
const PUSH_EVERY: Duration = Duration::from_millis(100);
const PUSH_WINDOW: usize = 16;
/// A node that does not answer a pusher for this long is left.
const PUSH_PATIENCE: Duration = Duration::from_secs(1);
/// How long pushers may wait for acknowledgements at the end.
const PUSH_DRAIN: Duration = Duration::from_secs(10);

/// The simulated plant.
pub(super) struct Field {
    /// What it is.
    pub(super) plant: Plant,
    /// What it has seen.
    pub(super) account: SharedAccount,
    /// They end when they are dropped.
    _devices: Vec<ModbusServer>,
    addresses: Addresses,
    receiver: Mutex<Receiver>,
    pushers: Mutex<JoinSet<()>>,
    stop_pushing: CancellationToken,
}

impl Field {
    /// Starts devices and receiver, which write to `history`; pushers begin with [`Field::push_to`].
    pub(super) async fn start(history: &Path) -> io::Result<Self> {
        let plant = Plant::demo();
        let wall_offset = SystemClock.now().0 - i64::try_from(monotonic_ns()).unwrap_or(i64::MAX);
        let account = SharedAccount::start(Account::new(&plant, wall_offset), history)?;
        let mut devices = Vec::new();
        for device in &plant.devices {
            let config = modbus::Config {
                history: Some(account.history()),
                ..modbus::Config::new(device.id.clone(), device.source())
            };
            devices.push(ModbusServer::start(config).await?);
        }
        let mode = Mode::Recording(Some((account.history(), "historian".to_owned())));
        let receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), mode).await?;
        let addresses =
            Addresses { devices: devices.iter().map(ModbusServer::address).collect(), url: receiver.url() };
        Ok(Self {
            plant,
            account,
            _devices: devices,
            addresses,
            receiver: Mutex::new(receiver),
            pushers: Mutex::new(JoinSet::new()),
            stop_pushing: CancellationToken::new(),
        })
    }

    /// The plant document; files go to `csv`.
    pub(super) fn document(&self, csv: &Path) -> String {
        self.plant.document(&self.addresses, csv)
    }

    /// Starts the pushers; each begins at another node.
    pub(super) async fn push_to(&self, endpoints: &[Endpoint]) {
        let mut pushers = self.pushers.lock().await;
        for (place, pusher) in self.plant.pushers.iter().enumerate() {
            let mut endpoints = endpoints.to_vec();
            let nodes = endpoints.len().max(1);
            endpoints.rotate_left(place % nodes);
            let config = PusherConfig {
                name: pusher.id.clone(),
                endpoints,
                content: pusher.content.clone(),
                window: PUSH_WINDOW,
                interval: Some(PUSH_EVERY),
                messages: None,
                patience: PUSH_PATIENCE,
                drain: PUSH_DRAIN,
                clock: Arc::new(SystemClock),
            };
            let running = Pusher::new(config, Some(self.account.history())).run(self.stop_pushing.clone());
            pushers.spawn(async move {
                let report = running.await;
                tracing::debug!(?report, "pusher ends");
            });
        }
    }

    /// Ends the pushers once what they sent is acknowledged, or cannot be.
    pub(super) async fn stop_pushing(&self) {
        self.stop_pushing.cancel();
        // Bounded by their drain.
        let mut pushers = self.pushers.lock().await;
        while pushers.join_next().await.is_some() {}
    }

    /// Takes the HTTP receiver away, or brings it back.
    pub(super) async fn set_receiver(&self, is_up: bool) -> io::Result<()> {
        let mut receiver = self.receiver.lock().await;
        if is_up {
            receiver.come_up().await
        } else {
            receiver.go_down().await;
            Ok(())
        }
    }

    /// Repeated records whose bytes differed.
    pub(super) async fn conflicts(&self) -> u64 {
        self.receiver.lock().await.counts().conflicts
    }

    /// Who has read each device last: device, node's field address, age.
    pub(super) fn readers(&self) -> BTreeMap<String, Option<(std::net::IpAddr, Duration)>> {
        let now = monotonic_ns();
        let account = self.account.lock();
        let age = |at_ns: u64| Duration::from_nanos(now.saturating_sub(at_ns));
        account
            .last_reads()
            .map(|(device, read)| (device.to_owned(), read.map(|(node, at_ns)| (node, age(at_ns)))))
            .collect()
    }
}
