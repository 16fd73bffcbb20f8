//! The simulated device, as a client sees it and as its history tells it.

use std::net::IpAddr;
use std::time::Duration;

use drivers::modbus::{Endpoints, ModbusDevice, Setup, WarmConnections};
use drivers::{Driver, GroupIndex, Scan, ScanError, Silence};
use model::plant::address::{ModbusAddress, WordOrder};
use model::plant::{Encoding, Group, Link, ModbusPoint, ModbusTcp, Standby, Tag};
use model::{Fenced, Permit, Reading, StatusCode, Value, ValueType};
use runtime::{Supervisor, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::*;
use crate::history::{self, Entry};

/// No condition in these tests takes longer than this on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(10);

struct Always;

impl Permit for Always {
    fn check(&self) -> Result<(), Fenced> {
        Ok(())
    }

    fn remaining(&self) -> Duration {
        PATIENCE
    }
}

/// A driver as a node has it; the endpoints live with it.
fn driver(spawner: &Spawner, address: SocketAddr, points: &[(Table, u16, ValueType)]) -> (Endpoints, ModbusDevice) {
    let tag = |(table, offset, value_type): &(Table, u16, ValueType)| Tag {
        name: format!("{offset}"),
        point: Some(ModbusPoint {
            address: ModbusAddress { table: *table, offset: *offset, bit: None },
            encoding: Encoding::Plain(*value_type),
            word_order: WordOrder::default(),
            scaling: None,
        }),
        value_type: *value_type,
        unit: String::new(),
        description: String::new(),
    };
    let device = model::plant::Device {
        id: "press-1".into(),
        link: Link::ModbusTcp(ModbusTcp {
            host: address.ip().to_string(),
            port: address.port(),
            unit_id: 7,
            timeout: Duration::from_millis(300),
            standby: Standby::Cold,
            max_gap: 8,
            max_registers: 125,
        }),
        enabled: true,
        labels: Default::default(),
        description: String::new(),
        groups: vec![Group {
            id: "fast".into(),
            schedule: None,
            enabled: true,
            tags: points.iter().map(tag).collect(),
        }],
    };
    let endpoints = Endpoints::new(Setup {
        permit: Arc::new(Always),
        clock: Arc::new(SystemClock),
        spawner: spawner.clone(),
        bind: None,
        random: runtime::random::generator(Some(1)),
        warm: WarmConnections::default(),
    });
    let device = endpoints.device(&device).expect("a polled device");
    (endpoints, device)
}

async fn scan(device: &ModbusDevice) -> Result<Scan, ScanError> {
    let scan = device.scan(GroupIndex(0), Instant::now() + PATIENCE);
    timeout(PATIENCE, scan).await.expect("a scan is bounded")
}

fn readings(scan: Scan) -> Vec<Reading> {
    scan.readings.into_iter().map(|(_, reading)| reading).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

const PROOF: Proof = Proof { device: 3, registers: 100 };

#[tokio::test]
async fn every_answer_proves_which_request_it_belongs_to() {
    let (_supervisor, spawner) = Supervisor::new();
    let server = ModbusServer::start(&spawner, Config::new("press-1", PROOF)).await.expect("a free port");
    let points = [
        (Table::Holding, 0, ValueType::U32),
        (Table::Holding, 2, ValueType::U16),
        (Table::Holding, 3, ValueType::U16),
        (Table::Holding, 4, ValueType::F32),
        (Table::Holding, 9, ValueType::U16),
    ];
    let (_endpoints, device) = driver(&spawner, server.address(), &points);
    for ordinal in 1_u16..=3 {
        let sine = (f64::from(ordinal) / 50.0).sin() as f32;
        let expected = [
            Value::U32(u32::from(ordinal)),
            Value::U16(3),
            Value::U16(7),
            Value::F32(sine),
            Value::U16(9 + ordinal),
        ];
        assert_eq!(readings(scan(&device).await.expect("it behaves")), expected.map(Reading::Good));
    }
    assert_eq!(Proof::ordinal_of(9, 12), 3);
    assert_eq!(server.counts(), Counts { answered: 3, ..Counts::default() });
}

#[tokio::test]
async fn bits_and_missing_registers_are_answered_as_the_protocol_says() {
    let (_supervisor, spawner) = Supervisor::new();
    let source = |_: &ReadRequest, address: u16| (address < 20).then_some(address % 3);
    let server = ModbusServer::start(&spawner, Config::new("press-1", source)).await.expect("a free port");
    let mut points: Vec<_> = (0..11).map(|offset| (Table::Coil, offset, ValueType::Bool)).collect();
    points.push((Table::Input, 400, ValueType::U16));
    let (_endpoints, device) = driver(&spawner, server.address(), &points);
    let mut expected: Vec<_> = (0..11).map(|offset| Reading::Good(Value::Bool(offset % 3 != 0))).collect();
    expected.push(Reading::Bad(StatusCode::BAD_NODE_ID_UNKNOWN));
    assert_eq!(readings(scan(&device).await.expect("it behaves")), expected);
    assert_eq!(server.counts(), Counts { answered: 1, refused: 1, ..Counts::default() });
}

#[tokio::test]
async fn misbehaviour_can_be_switched_on_and_off() {
    let (_supervisor, spawner) = Supervisor::new();
    let server = ModbusServer::start(&spawner, Config::new("press-1", PROOF)).await.expect("a free port");
    let (_endpoints, device) = driver(&spawner, server.address(), &[(Table::Holding, 9, ValueType::U16)]);
    let behave = |manner| server.behave(Behaviour { manner, delay: Duration::ZERO });
    let recovered = async || {
        behave(Manner::Right);
        let waiting = async { while scan(&device).await.is_err() {} };
        timeout(PATIENCE, waiting).await.expect("the device is read again");
    };

    behave(Manner::Exception(0x06));
    let busy = readings(scan(&device).await.expect("an exception is an answer"));
    assert_eq!(busy, [Reading::Bad(StatusCode::BAD_RESOURCE_UNAVAILABLE)]);
    recovered().await;

    behave(Manner::Short);
    let short = scan(&device).await;
    assert!(matches!(short, Err(ScanError::Silent { reason: Silence::Malformed { .. }, .. })), "{short:?}");
    recovered().await;

    behave(Manner::Paused);
    let paused = scan(&device).await;
    assert!(matches!(paused, Err(ScanError::Silent { reason: Silence::NoAnswer { .. }, .. })), "{paused:?}");
    recovered().await;

    behave(Manner::HangUp);
    let hung_up = scan(&device).await;
    assert!(matches!(hung_up, Err(ScanError::Silent { reason: Silence::Broken { .. }, .. })), "{hung_up:?}");
    recovered().await;

    server.behave(Behaviour { manner: Manner::Right, delay: Duration::from_millis(30) });
    let began = Instant::now();
    assert!(scan(&device).await.is_ok());
    assert!(began.elapsed() >= Duration::from_millis(30));
    server.drop_connections();
    assert!(scan(&device).await.is_ok(), "a connection that was dropped while idle costs no scan");
}

#[tokio::test]
async fn the_history_tells_each_request_with_its_times_and_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("device.jsonl");
    let (_supervisor, spawner) = Supervisor::new();
    let history = History::create(&path).expect("a new file");
    let config = Config { history: Some(history.clone()), log_values: true, ..Config::new("press-1", PROOF) };
    let server = ModbusServer::start(&spawner, config).await.expect("a free port");
    let (_endpoints, device) = driver(&spawner, server.address(), &[(Table::Holding, 9, ValueType::U32)]);
    let before = monotonic_ns();
    assert!(scan(&device).await.is_ok());
    server.behave(Behaviour { manner: Manner::Paused, delay: Duration::ZERO });
    assert!(scan(&device).await.is_err());
    until("the second request has ended", || server.counts().unanswered == 1).await;
    history.flush().expect("there is room");

    let entries: Vec<Entry<ReadSeen>> = history::read(&path).expect("two lines");
    let [answered, unanswered] = &entries[..] else { panic!("expected two lines, found {entries:?}") };
    assert_eq!((answered.kind, answered.op.as_str(), answered.process.as_str()), (Kind::Ok, "read", "press-1"));
    let seen = &answered.details;
    assert_eq!((seen.unit, seen.function, seen.start, seen.count, seen.ordinal), (7, 3, 9, 2, 1));
    assert_eq!((seen.values.as_slice(), seen.hash), (&[10, 11][..], hash(&[10, 11])));
    assert!(before <= seen.first_byte_ns && seen.first_byte_ns < seen.last_byte_ns);
    assert_eq!((unanswered.kind, unanswered.details.ordinal), (Kind::Info, 2));
    assert!(unanswered.details.values.is_empty());
}

/// A client at a loopback address of its own that asks for one register.
async fn ask_from(node: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(node, 0)).expect("a loopback address");
    let mut stream = socket.connect(address).await.expect("the device listens");
    stream.write_all(&[0, 1, 0, 0, 0, 6, 7, 3, 0, 9, 0, 1]).await.expect("it is connected");
    stream
}

async fn take_answer(mut stream: TcpStream) -> [u8; 11] {
    let mut answer = [0; 11];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    answer
}

#[tokio::test]
async fn requests_of_two_nodes_at_one_time_are_an_overlap() {
    let (_supervisor, spawner) = Supervisor::new();
    let server = ModbusServer::start(&spawner, Config::new("press-1", PROOF)).await.expect("a free port");
    let [first, second] = [11, 12].map(|last| IpAddr::from([127, 0, 0, last]));

    for node in [first, second, first] {
        assert_eq!(take_answer(ask_from(node, server.address()).await).await[6..9], [7, 3, 2]);
    }
    assert_eq!(server.counts(), Counts { answered: 3, ..Counts::default() }, "one after the other is none");

    server.behave(Behaviour { manner: Manner::Paused, delay: Duration::ZERO });
    let open = || server.device.with_state(|state| state.watch.open_requests());
    let waiting = [ask_from(first, server.address()).await, ask_from(second, server.address()).await];
    until("both requests are open", || open() == 2).await;
    server.behave(Behaviour::default());
    for stream in waiting {
        take_answer(stream).await;
    }
    until("both requests have ended", || server.counts().answered == 5).await;
    assert_eq!(server.counts().overlaps, 1);
    let [overlap] = server.overlaps()[..] else { panic!("expected one, found {:?}", server.overlaps()) };
    assert_ne!(overlap.ended.node, overlap.other);
    assert!(overlap.other_first_ns < overlap.ended.last_ns);
}

#[tokio::test]
async fn an_unanswered_request_counts_as_open_until_the_cap_and_is_answered_late_all_the_same() {
    let (_supervisor, spawner) = Supervisor::new();
    let config = Config { response_cap: Duration::from_millis(20), ..Config::new("press-1", PROOF) };
    let server = ModbusServer::start(&spawner, config).await.expect("a free port");
    server.behave(Behaviour { manner: Manner::Paused, delay: Duration::ZERO });
    let stream = ask_from(IpAddr::from([127, 0, 0, 11]), server.address()).await;
    until("the request is given up", || server.counts().unanswered == 1).await;
    server.behave(Behaviour::default());
    take_answer(stream).await;
    assert_eq!(server.counts(), Counts { unanswered: 1, ..Counts::default() }, "a request ends once");
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let (_supervisor, spawner) = Supervisor::new();
    let config = Config { max_connections: 1, ..Config::new("press-1", PROOF) };
    let server = ModbusServer::start(&spawner, config).await.expect("a free port");
    let node = IpAddr::from([127, 0, 0, 11]);
    let first = ask_from(node, server.address()).await;
    until("the first is served", || server.counts().answered == 1).await;
    let mut second = TcpStream::connect(server.address()).await.expect("it is accepted, and then closed");
    let end = timeout(PATIENCE, second.read(&mut [0])).await.expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    drop(first);
}

#[tokio::test]
async fn what_is_no_read_is_refused_and_what_is_no_frame_ends_the_connection() {
    let (_supervisor, spawner) = Supervisor::new();
    let server = ModbusServer::start(&spawner, Config::new("press-1", PROOF)).await.expect("a free port");
    let mut stream = TcpStream::connect(server.address()).await.expect("it listens");
    for (pdu, expected) in [
        (&[6, 0, 1, 0, 1][..], [0x86, 0x01]),
        (&[3, 0, 1, 0, 126][..], [0x83, 0x03]),
        (&[3, 0, 1, 0, 0][..], [0x83, 0x03]),
        (&[1, 0, 1][..], [0x81, 0x03]),
    ] {
        let mut frame = vec![0, 9, 0, 0, 0, pdu.len() as u8 + 1, 7];
        frame.extend(pdu);
        stream.write_all(&frame).await.expect("it is connected");
        let mut answer = [0; 9];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
        assert_eq!((answer[1], [answer[7], answer[8]]), (9, expected), "{pdu:?}");
    }
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it is connected");
    let end = timeout(PATIENCE, stream.read(&mut [0])).await.expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert_eq!(server.counts(), Counts::default(), "none of this was a read");
}
