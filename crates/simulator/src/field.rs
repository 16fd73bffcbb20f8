//! The simulated plant at work: devices, pushers, the HTTP receiver, and the account they feed.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::account::{Account, SharedAccount};
use crate::history::{WallClock, monotonic_ns, wall_offset};
use crate::modbus::{self, ModbusServer};
use crate::plant::{Addresses, Plant, Shape};
use crate::pusher::{Pusher, PusherConfig};
use crate::receiver::{Mode, Receiver};

/// From one pushed message to the next.
const PUSH_EVERY: Duration = Duration::from_millis(100);
const PUSH_WINDOW: usize = 16;
/// A node that does not answer a pusher for this long is left.
const PUSH_PATIENCE: Duration = Duration::from_secs(1);
/// How long pushers may wait for acknowledgements at the end.
const PUSH_DRAIN: Duration = Duration::from_secs(10);
/// Below the folder of a run.
const FILES: &str = "csv";
const HISTORY: &str = "history.jsonl";

/// The simulated plant.
#[derive(Debug)]
pub struct Field {
    /// What it is.
    pub plant: Plant,
    /// What it has seen.
    pub account: SharedAccount,
    /// The HTTP receiver.
    pub receiver: Mutex<Receiver>,
    /// The polled devices, in the plant's order; they end when they are dropped.
    pub devices: Vec<ModbusServer>,
    receives_at: SocketAddr,
    folder: PathBuf,
    pushers: Mutex<JoinSet<()>>,
    stop_pushing: CancellationToken,
}

impl Field {
    /// Starts devices and receiver on this machine's loopback, which write to a history in `folder`; pushers begin with
    /// [`Field::push`].
    pub async fn start(folder: &Path) -> io::Result<Self> {
        Self::start_at(folder, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// The same elsewhere: the first device at `first`, the others and then the receiver at the ports after it; at any free
    /// ones if that of `first` is 0.
    pub async fn start_at(folder: &Path, first: SocketAddr) -> io::Result<Self> {
        let place = |offset: usize| match first.port() {
            0 => first,
            port => SocketAddr::new(first.ip(), port.saturating_add(offset as u16)),
        };
        let plant = Plant::demo();
        std::fs::create_dir_all(folder.join(FILES))?;
        let account = SharedAccount::start(Account::new(&plant, wall_offset()), &folder.join(HISTORY))?;
        let mut devices = Vec::new();
        for (offset, device) in plant.devices.iter().enumerate() {
            let config = modbus::Config {
                listen: place(offset),
                history: Some(account.history()),
                ..modbus::Config::new(device.id.clone(), device.source())
            };
            devices.push(ModbusServer::start(config).await?);
        }
        let mode = Mode::Recording(Some((account.history(), "historian".to_owned())));
        let receiver = Receiver::start(place(plant.devices.len()), mode).await?;
        Ok(Self {
            plant,
            account,
            receives_at: receiver.address(),
            receiver: Mutex::new(receiver),
            devices,
            folder: folder.to_owned(),
            pushers: Mutex::new(JoinSet::new()),
            stop_pushing: CancellationToken::new(),
        })
    }

    /// The plant document.
    pub fn document(&self, shape: Shape) -> String {
        self.plant.document(&self.addresses(|address| address.to_string()), &self.files(), shape)
    }

    /// The plant document for nodes that reach all of it under the name of one host.
    pub fn document_at(&self, host: &str, shape: Shape) -> String {
        let addresses = self.addresses(|address| format!("{host}:{}", address.port()));
        self.plant.document(&addresses, &self.files(), shape)
    }

    fn addresses(&self, seen_as: impl Fn(SocketAddr) -> String) -> Addresses {
        Addresses {
            devices: self.devices.iter().map(|device| seen_as(device.address())).collect(),
            url: format!("http://{}/ingest", seen_as(self.receives_at)),
        }
    }

    /// Where the CSV destination writes.
    pub fn files(&self) -> PathBuf {
        self.folder.join(FILES)
    }

    /// Where everything that devices, pushers and the receiver saw is written.
    pub fn history(&self) -> PathBuf {
        self.folder.join(HISTORY)
    }

    /// Starts all pushers; each begins at another node.
    pub async fn push_to(&self, endpoints: &[Endpoint]) {
        for place in 0..self.plant.pushers.len() {
            let mut endpoints = endpoints.to_vec();
            let nodes = endpoints.len().max(1);
            endpoints.rotate_left(place % nodes);
            self.push(place, endpoints).await;
        }
    }

    /// Starts a pusher, which tries these nodes in turn.
    pub async fn push(&self, place: usize, endpoints: Vec<Endpoint>) {
        let pusher = &self.plant.pushers[place];
        let config = PusherConfig {
            name: pusher.id.clone(),
            endpoints,
            content: pusher.content.clone(),
            window: PUSH_WINDOW,
            interval: Some(PUSH_EVERY),
            messages: None,
            patience: PUSH_PATIENCE,
            drain: PUSH_DRAIN,
            clock: Arc::new(WallClock),
        };
        let running = Pusher::new(config, Some(self.account.history())).run(self.stop_pushing.clone());
        self.pushers.lock().await.spawn(async move {
            let report = running.await;
            tracing::debug!(?report, "pusher ends");
        });
    }

    /// Ends the pushers once what they sent is acknowledged, or cannot be.
    pub async fn stop_pushing(&self) {
        self.stop_pushing.cancel();
        // Bounded by their drain.
        let mut pushers = self.pushers.lock().await;
        while pushers.join_next().await.is_some() {}
    }

    /// Takes the HTTP receiver away, or brings it back.
    pub async fn set_receiver(&self, is_up: bool) -> io::Result<()> {
        let mut receiver = self.receiver.lock().await;
        if is_up {
            receiver.come_up().await
        } else {
            receiver.go_down().await;
            Ok(())
        }
    }

    /// Repeated records whose bytes differed.
    pub async fn conflicts(&self) -> u64 {
        self.receiver.lock().await.counts().conflicts
    }

    /// Who has read each device last: device, node's field address, age.
    pub fn readers(&self) -> BTreeMap<String, Option<(IpAddr, Duration)>> {
        let now = monotonic_ns();
        let account = self.account.lock();
        let age = |at_ns: u64| Duration::from_nanos(now.saturating_sub(at_ns));
        account
            .last_reads()
            .map(|(device, read)| (device.to_owned(), read.map(|(node, at_ns)| (node, age(at_ns)))))
            .collect()
    }
}
