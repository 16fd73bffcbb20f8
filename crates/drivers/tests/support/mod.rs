//! A Modbus device written by hand, so that it can do everything that a device must not do.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_drivers::modbus::{Endpoints, ModbusDevice, Origin, Setup, WarmConnections};
use holdfast_drivers::{Driver, GroupIndex, Scan, ScanError};
use model::plant::address::{ModbusAddress, Table, WordOrder};
use model::plant::{Device, Encoding, Group, Link, ModbusPoint, ModbusTcp, Schedule, Standby, Tag};
use model::{Clock, Fenced, Permit, Reading, Timestamp, ValueType};
use runtime::{Spawner, Supervisor, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// No condition in these tests takes longer than this on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The response cap of the devices under test.
pub(crate) const CAP: Duration = Duration::from_millis(300);

/// What a device is asked, and on which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) connection: usize,
    pub(crate) transaction: u16,
    pub(crate) unit: u8,
    pub(crate) function: u8,
    pub(crate) start: u16,
    pub(crate) count: u16,
}

/// What it does then.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes after a while.
    SendAfter(Duration, Vec<u8>),
    /// Sends these bytes one at a time, with this pause after each.
    Drip(Duration, Vec<u8>),
    /// Sends these bytes and closes.
    SendAndClose(Vec<u8>),
    /// Says nothing.
    Nothing,
    /// Closes when it accepts, before any request.
    CloseAtOnce,
}

/// What the device saw, as it sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) accepted: Vec<SocketAddr>,
    pub(crate) asked: Vec<Asked>,
    /// Connections that the client reset.
    pub(crate) resets: usize,
    /// Connections that the client closed politely.
    pub(crate) closes: usize,
    /// Most requests that were open at one moment, over all connections.
    pub(crate) most_at_once: usize,
    open: usize,
}

/// A running device.
pub(crate) struct Misbehaving {
    pub(crate) address: SocketAddr,
    pub(crate) seen: watch::Receiver<Seen>,
}

impl Seen {
    /// Whether the device has done all that it was going to do for the requests it has seen.
    pub(crate) fn is_idle(&self) -> bool {
        self.open == 0
    }
}

type Script = dyn Fn(Asked) -> Act + Send + Sync;

impl Misbehaving {
    pub(crate) async fn start(script: impl Fn(Asked) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (seen, watcher) = watch::channel(Seen::default());
        let script: Arc<Script> = Arc::new(script);
        tokio::spawn(async move {
            let seen = Arc::new(seen);
            while let Ok((stream, peer)) = listener.accept().await {
                seen.send_modify(|seen| seen.accepted.push(peer));
                let connection = seen.borrow().accepted.len() - 1;
                tokio::spawn(serve(stream, connection, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { address, seen: watcher }
    }

    /// Waits until the device has seen what `condition` says.
    pub(crate) async fn until(&self, what: &str, condition: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.clone();
        let found =
            timeout(PATIENCE, seen.wait_for(condition)).await.map(|found| found.map(|seen| seen.clone()));
        match found {
            Ok(Ok(seen)) => seen,
            _ => panic!("expected {what}, the device saw {:?}", self.seen.borrow()),
        }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.seen.borrow().asked.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.borrow().accepted.len()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    script: Arc<Script>,
    seen: Arc<watch::Sender<Seen>>,
) {
    let probe = Asked { connection, transaction: 0, unit: 0, function: 0, start: 0, count: 0 };
    if matches!(script(probe), Act::CloseAtOnce) {
        return;
    }
    loop {
        let mut frame = [0; 12];
        if let Err(error) = stream.read_exact(&mut frame).await {
            seen.send_modify(|seen| match error.kind() {
                std::io::ErrorKind::ConnectionReset => seen.resets += 1,
                _ => seen.closes += 1,
            });
            return;
        }
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let asked = Asked {
            connection,
            transaction: word(0),
            unit: frame[6],
            function: frame[7],
            start: word(8),
            count: word(10),
        };
        seen.send_modify(|seen| {
            seen.asked.push(asked);
            seen.open += 1;
            seen.most_at_once = seen.most_at_once.max(seen.open);
        });
        let act = script(asked);
        let goes_on = perform(&mut stream, act).await;
        seen.send_modify(|seen| seen.open -= 1);
        if !goes_on {
            return;
        }
    }
}

/// `false` if the connection is to be closed, or is.
async fn perform(stream: &mut TcpStream, act: Act) -> bool {
    match act {
        Act::Send(bytes) => stream.write_all(&bytes).await.is_ok(),
        Act::SendAfter(pause, bytes) => {
            sleep(pause).await;
            stream.write_all(&bytes).await.is_ok()
        }
        Act::Drip(pause, bytes) => {
            for byte in bytes {
                if stream.write_all(&[byte]).await.is_err() {
                    return false;
                }
                sleep(pause).await;
            }
            true
        }
        Act::SendAndClose(bytes) => {
            // An error would mean that the client has closed first, which comes to the same.
            drop(stream.write_all(&bytes).await);
            false
        }
        Act::Nothing => true,
        Act::CloseAtOnce => false,
    }
}

impl Asked {
    /// A frame with the right header around `pdu`.
    pub(crate) fn frame(&self, pdu: &[u8]) -> Vec<u8> {
        let mut frame = self.transaction.to_be_bytes().to_vec();
        frame.extend([0, 0]);
        frame.extend((pdu.len() as u16 + 1).to_be_bytes());
        frame.push(self.unit);
        frame.extend(pdu);
        frame
    }

    /// The right answer: each register holds its own address, each bit is its address's lowest.
    pub(crate) fn right(&self) -> Vec<u8> {
        self.with_count(self.count)
    }

    /// An answer as if `count` had been asked for.
    pub(crate) fn with_count(&self, count: u16) -> Vec<u8> {
        let addresses = (0..count).map(|place| self.start.wrapping_add(place));
        let data: Vec<u8> = if self.function <= 2 {
            let bits: Vec<u16> = addresses.collect();
            bits.chunks(8)
                .map(|eight| eight.iter().enumerate().map(|(place, bit)| ((bit & 1) as u8) << place).sum())
                .collect()
        } else {
            addresses.flat_map(u16::to_be_bytes).collect()
        };
        let mut pdu = vec![self.function, data.len() as u8];
        pdu.extend(data);
        self.frame(&pdu)
    }

    pub(crate) fn exception(&self, code: u8) -> Vec<u8> {
        self.frame(&[self.function | 0x80, code])
    }

    /// Whether the script is asked before any request, when a connection is accepted.
    pub(crate) fn is_accept(&self) -> bool {
        self.function == 0
    }
}

/// A permit that a test can end.
pub(crate) struct TestPermit {
    ended: AtomicBool,
    lease_end: Mutex<Option<Instant>>,
    usual_operation: Mutex<Duration>,
    began: Mutex<Option<Instant>>,
}

impl TestPermit {
    pub(crate) fn lasting() -> Arc<Self> {
        Arc::new(Self {
            ended: AtomicBool::new(false),
            lease_end: Mutex::new(None),
            usual_operation: Mutex::new(PATIENCE),
            began: Mutex::new(None),
        })
    }

    /// Another node had this right until now.
    pub(crate) fn begins_now(&self) {
        *self.began.lock().expect("no test panics while it holds this") = Some(Instant::now());
    }

    pub(crate) fn usually_takes(&self, operation: Duration) {
        *self.usual_operation.lock().expect("no test panics while it holds this") = operation;
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    pub(crate) fn end_after(&self, lease: Duration) {
        *self.lease_end.lock().expect("no test panics while it holds this") = Some(Instant::now() + lease);
    }
}

impl Permit for TestPermit {
    fn check(&self) -> Result<(), Fenced> {
        if self.remaining().is_zero() { Err(Fenced) } else { Ok(()) }
    }

    fn remaining(&self) -> Duration {
        if self.ended.load(Ordering::SeqCst) {
            return Duration::ZERO;
        }
        let lease_end = *self.lease_end.lock().expect("no test panics while it holds this");
        lease_end.map_or(Duration::from_secs(60), |end| end.saturating_duration_since(Instant::now()))
    }

    fn usual_operation(&self) -> Duration {
        *self.usual_operation.lock().expect("no test panics while it holds this")
    }

    fn held_for(&self) -> Duration {
        let began = *self.began.lock().expect("no test panics while it holds this");
        began.map_or(Duration::MAX, |began| began.elapsed())
    }
}

/// A node's side of the field.
pub(crate) struct Bench {
    pub(crate) endpoints: Endpoints,
    pub(crate) permit: Arc<TestPermit>,
    pub(crate) spawner: Spawner,
    _supervisor: Supervisor,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(None, WarmConnections::default())
    }

    pub(crate) fn with(bind: Option<IpAddr>, warm: WarmConnections) -> Self {
        let (supervisor, spawner) = Supervisor::new();
        let permit = TestPermit::lasting();
        let endpoints = Endpoints::new(Setup {
            permit: permit.clone(),
            clock: Arc::new(SystemClock),
            spawner: spawner.clone(),
            dialler: Arc::new(Origin { bind, mark: None }),
            random: runtime::random::generator(Some(1)),
            warm,
        });
        Self { endpoints, permit, spawner, _supervisor: supervisor }
    }

    /// A driver for unit 1 at `address` with these tags in one group.
    pub(crate) fn device(&self, address: SocketAddr, tags: Vec<ModbusPoint>) -> ModbusDevice {
        self.unit(address, 1, tags)
    }

    pub(crate) fn unit(&self, address: SocketAddr, unit: u8, tags: Vec<ModbusPoint>) -> ModbusDevice {
        self.endpoints.device(&plant_device(address, unit, tags)).expect("a polled device")
    }

    pub(crate) fn slow_unit(&self, address: SocketAddr, unit: u8, tags: Vec<ModbusPoint>) -> ModbusDevice {
        let mut device = plant_device(address, unit, tags);
        if let Link::ModbusTcp(link) = &mut device.link {
            link.slow = true;
        }
        self.endpoints.device(&device).expect("a polled device")
    }
}

pub(crate) fn plant_device(address: SocketAddr, unit_id: u8, points: Vec<ModbusPoint>) -> Device {
    let tag = |(place, point): (usize, ModbusPoint)| Tag {
        name: format!("tag-{place}"),
        point: Some(point),
        value_type: ValueType::U16,
        unit: String::new(),
        description: String::new(),
    };
    Device {
        id: format!("unit-{unit_id}"),
        link: Link::ModbusTcp(ModbusTcp {
            host: address.ip().to_string(),
            port: address.port(),
            unit_id,
            timeout: CAP,
            slow: false,
            standby: Standby::Warm,
            max_gap: 8,
            max_registers: 125,
        }),
        enabled: true,
        labels: Default::default(),
        description: String::new(),
        groups: vec![Group {
            id: "fast".into(),
            schedule: Some(Schedule { period: Duration::from_secs(1), offset: Duration::ZERO }),
            enabled: true,
            tags: points.into_iter().enumerate().map(tag).collect(),
        }],
    }
}

pub(crate) fn point(table: Table, offset: u16, value_type: ValueType) -> ModbusPoint {
    ModbusPoint {
        address: ModbusAddress { table, offset, bit: None },
        encoding: Encoding::Plain(value_type),
        word_order: WordOrder::default(),
        scaling: None,
    }
}

/// 16-bit holding registers at these addresses.
pub(crate) fn registers<const N: usize>(offsets: [u16; N]) -> Vec<ModbusPoint> {
    offsets.map(|offset| point(Table::Holding, offset, ValueType::U16)).to_vec()
}

/// One scan with a second to begin.
pub(crate) async fn scan(device: &ModbusDevice) -> Result<Scan, ScanError> {
    scan_by(device, Duration::from_secs(1)).await
}

pub(crate) async fn scan_by(device: &ModbusDevice, patience: Duration) -> Result<Scan, ScanError> {
    let scan = device.scan(GroupIndex(0), Instant::now() + patience);
    timeout(PATIENCE, scan).await.expect("a scan is bounded")
}

/// Scans until one succeeds; a device is left alone for a moment after each failure.
pub(crate) async fn scan_until_good(device: &ModbusDevice) -> Scan {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match scan(device).await {
            Ok(scan) => return scan,
            Err(error) if Instant::now() > give_up => panic!("no scan succeeds: {error}"),
            // Failing fast is what is tested; let the pause pass.
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

pub(crate) fn readings(scan: Scan) -> Vec<Reading> {
    scan.readings.into_iter().map(|(_, reading)| reading).collect()
}

pub(crate) fn good(number: u16) -> Reading {
    Reading::Good(model::Value::U16(number))
}

/// Now, as the device drivers see it.
pub(crate) fn wall_clock() -> Timestamp {
    SystemClock.now()
}
