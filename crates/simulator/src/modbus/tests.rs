//! The simulated device, as a client sees it and as its history tells it.

use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_modbus::client::{Client as _, Context, tcp};
use tokio_modbus::{ExceptionCode, Request, Response, Slave};

use super::*;
use crate::history::{self, Entry};

/// No condition in these tests takes longer than this on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of unit 7.
async fn client(server: &ModbusServer) -> Context {
    let stream = TcpStream::connect(server.address()).await.expect("the device listens");
    tcp::attach_slave(stream, Slave(7))
}

async fn call(client: &mut Context, request: Request<'_>) -> tokio_modbus::Result<Response> {
    timeout(PATIENCE, client.call(request)).await.expect("in time")
}

async fn words(client: &mut Context, start: u16, count: u16) -> Vec<u16> {
    match call(client, Request::ReadHoldingRegisters(start, count)).await {
        Ok(Ok(Response::ReadHoldingRegisters(words))) => words,
        other => panic!("expected {count} registers, found {other:?}"),
    }
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
    let server = ModbusServer::start(Config::new("press-1", PROOF)).await.expect("a free port");
    let mut client = client(&server).await;
    for ordinal in 1_u16..=3 {
        let sine = ((f64::from(ordinal) / 50.0).sin() as f32).to_bits();
        let expected = [0, ordinal, 3, 7, (sine >> 16) as u16, sine as u16, 6 + ordinal, 7 + ordinal];
        assert_eq!(words(&mut client, 0, 8).await, expected);
    }
    assert_eq!(server.counts(), Counts { answered: 3, ..Counts::default() });
}

#[tokio::test]
async fn bits_and_missing_registers_are_answered_as_the_protocol_says() {
    let source = |_: &ReadRequest, address: u16| (address < 20).then_some(address % 3);
    let server = ModbusServer::start(Config::new("press-1", source)).await.expect("a free port");
    let mut client = client(&server).await;
    let bits = call(&mut client, Request::ReadCoils(0, 11)).await;
    // Padded to whole bytes with zeros.
    let expected: Vec<_> = (0..16).map(|bit| bit < 11 && bit % 3 != 0).collect();
    assert_eq!(bits.expect("it behaves"), Ok(Response::ReadCoils(expected)));
    let missing = call(&mut client, Request::ReadInputRegisters(19, 2)).await;
    assert_eq!(missing.expect("an exception is an answer"), Err(ExceptionCode::IllegalDataAddress));
    assert_eq!(server.counts(), Counts { answered: 1, refused: 1, ..Counts::default() });
}

#[tokio::test]
async fn misbehaviour_can_be_switched_on_and_off() {
    let server = ModbusServer::start(Config::new("press-1", PROOF)).await.expect("a free port");
    let mut first = client(&server).await;
    let behave = |manner| server.behave(Behaviour { manner, delay: Duration::ZERO });
    let read = || Request::ReadHoldingRegisters(9, 4);

    behave(Manner::Exception(0x06));
    assert_eq!(call(&mut first, read()).await.expect("an answer"), Err(ExceptionCode::ServerDeviceBusy));
    behave(Manner::Short);
    let short = call(&mut first, read()).await;
    assert_eq!(short.expect("an answer"), Ok(Response::ReadHoldingRegisters(vec![11, 12, 13])));
    behave(Manner::Right);
    assert_eq!(words(&mut first, 9, 4).await, [12, 13, 14, 15]);

    server.behave(Behaviour { manner: Manner::Right, delay: Duration::from_millis(30) });
    let began = Instant::now();
    assert_eq!(words(&mut first, 9, 1).await, [13]);
    assert!(began.elapsed() >= Duration::from_millis(30));

    behave(Manner::Paused);
    let resuming = async {
        until("a request is open", || server.device.with_state(|state| state.watch.open_requests()) == 1)
            .await;
        assert_eq!(server.counts().answered, 2, "it answers nothing");
        behave(Manner::Right);
    };
    let (owed, ()) = tokio::join!(call(&mut first, read()), resuming);
    assert!(owed.is_ok(), "it answers what it owes");

    server.drop_connections();
    assert!(call(&mut first, read()).await.is_err());
    let mut second = client(&server).await;
    assert_eq!(words(&mut second, 9, 1).await, [15]);
    behave(Manner::HangUp);
    assert!(call(&mut second, read()).await.is_err());
    let mut third = client(&server).await;
    assert!(call(&mut third, read()).await.is_err(), "a new connection is closed, too");
    assert_eq!(server.counts().unanswered, 1, "the short answer alone");
    assert_eq!(server.counts().answered, 4);
}

#[tokio::test]
async fn the_history_tells_each_request_with_its_times_and_a_hash_of_its_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("device.jsonl");
    let history = History::create(&path).expect("a new file");
    let config = Config { history: Some(history.clone()), ..Config::new("press-1", PROOF) };
    let server = ModbusServer::start(config).await.expect("a free port");
    let mut client = client(&server).await;
    let before = monotonic_ns();
    assert_eq!(words(&mut client, 9, 2).await, [10, 11]);
    server.behave(Behaviour { manner: Manner::Paused, delay: Duration::ZERO });
    let unanswered =
        timeout(Duration::from_millis(20), client.call(Request::ReadHoldingRegisters(9, 2))).await;
    assert!(unanswered.is_err());
    drop(client);
    until("the second request has ended", || server.counts().unanswered == 1).await;
    history.flush().expect("there is room");

    let entries: Vec<Entry<ReadSeen>> = history::read(&path).expect("two lines");
    let [answered, unanswered] = &entries[..] else { panic!("expected two lines, found {entries:?}") };
    assert_eq!(
        (answered.kind, answered.op.as_str(), answered.process.as_str()),
        (Kind::Ok, "read", "press-1")
    );
    let seen = &answered.details;
    assert_eq!((seen.unit, seen.function, seen.start, seen.count, seen.ordinal), (7, 3, 9, 2, 1));
    assert_eq!(seen.hash, hash(&[10, 11]));
    assert!(before <= seen.first_byte_ns && seen.first_byte_ns < seen.last_byte_ns);
    assert_eq!((unanswered.kind, unanswered.details.ordinal), (Kind::Info, 2));
    assert_eq!(unanswered.details.hash, 0);
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
    let server = ModbusServer::start(Config::new("press-1", PROOF)).await.expect("a free port");
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
    let config = Config { response_cap: Duration::from_millis(20), ..Config::new("press-1", PROOF) };
    let server = ModbusServer::start(config).await.expect("a free port");
    server.behave(Behaviour { manner: Manner::Paused, delay: Duration::ZERO });
    let stream = ask_from(IpAddr::from([127, 0, 0, 11]), server.address()).await;
    until("the request is given up", || server.counts().unanswered == 1).await;
    server.behave(Behaviour::default());
    take_answer(stream).await;
    assert_eq!(server.counts(), Counts { unanswered: 1, ..Counts::default() }, "a request ends once");
}

/// Asks for four registers on a connection of its own, and waits so long; what came, and whether the device ended it.
async fn ask_raw(server: &ModbusServer, time: Duration) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(server.address()).await.expect("the device listens");
    stream.write_all(&[0, 7, 0, 0, 0, 6, 7, 3, 0, 9, 0, 4]).await.expect("it is connected");
    let (mut came, until) = (Vec::new(), Instant::now() + time);
    loop {
        match timeout_at(until, stream.read_buf(&mut came)).await {
            Ok(Ok(0) | Err(_)) => return (came, true),
            Ok(Ok(_)) => {}
            Err(_elapsed) => return (came, false),
        }
    }
}

#[tokio::test]
async fn mangled_answers_are_what_they_are_called_and_count_as_unanswered() {
    const WHOLE: usize = 17;
    let config = Config { response_cap: Duration::from_millis(20), ..Config::new("press-1", PROOF) };
    let server = ModbusServer::start(config).await.expect("a free port");
    let moment = Duration::from_millis(300);
    let mut expected = vec![0, 7, 0, 0, 0, 11, 7, 3, 8, 0, 10, 0, 11, 0, 12, 0, 13];
    assert_eq!(ask_raw(&server, moment).await, (expected.clone(), false));
    for (manner, place, value) in [(Manner::OtherTransaction, 1, 6), (Manner::OtherUnit, 6, 6)] {
        // Each read has a number of its own, and the words follow from it.
        (10..17).step_by(2).for_each(|word| expected[word] += 1);
        server.behave(Behaviour { manner, delay: Duration::ZERO });
        let mut mangled = expected.clone();
        mangled[place] = value;
        assert_eq!(ask_raw(&server, moment).await, (mangled, false), "{manner:?}");
    }
    server.behave(Behaviour { manner: Manner::Half, delay: Duration::ZERO });
    let (came, ended) = ask_raw(&server, moment).await;
    assert_eq!((came.len(), ended), (WHOLE / 2, false));
    server.behave(Behaviour { manner: Manner::Serial, delay: Duration::ZERO });
    let (came, _) = ask_raw(&server, moment).await;
    assert_eq!(came[..11], [7, 3, 8, 0, 14, 0, 15, 0, 16, 0, 17]);
    until("all have ended", || server.counts().unanswered == 4).await;
    assert_eq!(server.counts(), Counts { answered: 1, unanswered: 4, ..Counts::default() });
}

/// Whether a new connection is neither refused nor closed at once: it is answered.
async fn is_served(server: &ModbusServer) -> bool {
    let Ok(mut stream) = TcpStream::connect(server.address()).await else { return false };
    let asked = stream.write_all(&[0, 1, 0, 0, 0, 6, 7, 3, 0, 9, 0, 1]).await;
    let answered = timeout(PATIENCE, stream.read_exact(&mut [0; 11])).await.expect("it is answered, or ends");
    asked.is_ok() && answered.is_ok()
}

#[tokio::test]
async fn a_device_that_is_away_listens_again_at_its_address_and_a_full_one_serves_who_is_there() {
    let server = ModbusServer::start(Config::new("press-1", PROOF)).await.expect("a free port");
    let mut first = client(&server).await;
    assert_eq!(words(&mut first, 9, 1).await, [10]);
    server.behave(Behaviour { manner: Manner::Full, delay: Duration::ZERO });
    assert!(!is_served(&server).await, "a new one is closed");
    assert_eq!(words(&mut first, 9, 1).await, [11], "who is there is served");
    server.behave(Behaviour { manner: Manner::Away, delay: Duration::ZERO });
    assert!(call(&mut first, Request::ReadHoldingRegisters(9, 1)).await.is_err());
    assert!(!is_served(&server).await, "nobody listens");
    server.behave(Behaviour::default());
    let coming = async {
        while !is_served(&server).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, coming).await.expect("it listens again");
    let connections = server.connections();
    assert_eq!((connections.turned_away, connections.most), (0, 1));
    assert!(connections.served >= 2, "{connections:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let config = Config { max_connections: 1, ..Config::new("press-1", PROOF) };
    let server = ModbusServer::start(config).await.expect("a free port");
    let node = IpAddr::from([127, 0, 0, 11]);
    let first = ask_from(node, server.address()).await;
    until("the first is served", || server.counts().answered == 1).await;
    let mut second = TcpStream::connect(server.address()).await.expect("it is accepted, and then closed");
    let end = timeout(PATIENCE, second.read(&mut [0])).await.expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert_eq!(server.connections(), Connections { served: 1, turned_away: 1, most: 1 });
    drop(first);
}

#[tokio::test]
async fn what_is_no_read_is_refused_and_what_is_no_frame_ends_the_connection() {
    let server = ModbusServer::start(Config::new("press-1", PROOF)).await.expect("a free port");
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
