//! Everything that a device can do wrong, and what a scan makes of it. One group of tests for each thing that the
//! protocol library leaves to its user. What is particular to serial lines (RTU: gaps between frames, direction of the
//! line) is missing: there is no driver for them yet.

#![allow(clippy::disallowed_methods, reason = "a test ends with its runtime, and so do its tasks")]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_drivers::modbus::{Origin, WarmConnections, WarmStandby};
use holdfast_drivers::{Driver, GroupIndex, ScanError, Silence};
use model::plant::address::Table;
use model::{Reading, StatusCode, Value, ValueType};
use support::{
    Act, Bench, CAP, Misbehaving, PATIENCE, good, plant_device, point, readings, registers, scan, scan_by,
    scan_until_good, wall_clock,
};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};

fn silence(outcome: Result<holdfast_drivers::Scan, ScanError>) -> Silence {
    match outcome {
        Err(ScanError::Silent { status, reason }) => {
            assert_eq!(status, reason.status());
            reason
        }
        other => panic!("expected a silent device, found {other:?}"),
    }
}

/// A device that does `act` to its first request and behaves afterwards.
async fn wrong_once(act: impl Fn(support::Asked) -> Act + Send + Sync + 'static) -> Misbehaving {
    let requests = AtomicUsize::new(0);
    Misbehaving::start(move |asked| {
        if asked.is_accept() {
            return Act::Nothing;
        }
        match requests.fetch_add(1, Ordering::SeqCst) {
            0 => act(asked),
            _ => Act::Send(asked.right()),
        }
    })
    .await
}

/// The first scan fails with what is returned, its connection is reset, and the next good scan has the right values.
async fn fails_once(act: impl Fn(support::Asked) -> Act + Send + Sync + 'static) -> Silence {
    let server = wrong_once(act).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10, 11]));
    let reason = silence(scan(&device).await);
    assert_eq!(readings(scan_until_good(&device).await), [good(10), good(11)]);
    assert_eq!(server.connections(), 2, "the connection is not used after {reason}");
    reason
}

// What is well.

#[tokio::test]
async fn a_scan_gives_each_tag_its_reading_in_order_with_times() {
    let server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let bench = Bench::new();
    let tags = vec![
        point(Table::Holding, 300, ValueType::U16),
        point(Table::Coil, 7, ValueType::Bool),
        point(Table::Input, 2, ValueType::U32),
        point(Table::Discrete, 4, ValueType::Bool),
        point(Table::Holding, 299, ValueType::U16),
    ];
    let device = bench.device(server.address, tags);
    let (began, clock) = (Instant::now(), wall_clock());
    let scan = scan(&device).await.expect("the device behaves");
    assert!(began <= scan.started && scan.started < scan.finished && scan.finished <= Instant::now());
    assert!(scan.readings.iter().all(|(at, _)| clock <= *at && *at <= wall_clock()));
    assert_eq!(scan.readings[0].0, scan.readings[4].0, "tags of one answer share its time");
    let expected =
        [Value::U16(300), Value::Bool(true), Value::U32(0x0002_0003), Value::Bool(false), Value::U16(299)];
    assert_eq!(readings(scan), expected.map(Reading::Good));
    assert_eq!((server.connections(), server.asked().len()), (1, 4));
}

// 1. No time-outs in the library.

#[tokio::test]
async fn a_device_that_never_answers_is_silent_after_its_cap() {
    let began = Instant::now();
    let reason = fails_once(|_| Act::Nothing).await;
    assert_eq!(reason, Silence::NoAnswer { after: CAP, of: None });
    assert_eq!(reason.status(), StatusCode::BAD_TIMEOUT);
    assert!(began.elapsed() >= CAP);
}

#[tokio::test]
async fn half_an_answer_and_then_silence_is_no_answer() {
    let reason = fails_once(|asked| Act::Send(asked.right()[..9].to_vec())).await;
    assert_eq!(reason, Silence::NoAnswer { after: CAP, of: None });
}

#[tokio::test]
async fn an_answer_byte_by_byte_counts_if_it_is_complete_within_the_cap() {
    let server = wrong_once(|asked| Act::Drip(Duration::from_millis(2), asked.right())).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10, 11]));
    assert_eq!(readings(scan(&device).await.expect("slow, and in time")), [good(10), good(11)]);
    let reason = fails_once(|asked| Act::Drip(CAP / 4, asked.right())).await;
    assert_eq!(reason, Silence::NoAnswer { after: CAP, of: None });
}

#[tokio::test]
async fn a_host_that_neither_accepts_nor_refuses_is_silent_after_its_cap() {
    // A listener with a full queue lets connection requests fall.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("it listens");
    let address = listener.local_addr().expect("it is bound");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(CAP, tokio::net::TcpStream::connect(address)).await {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue never fills");
    }
    let bench = Bench::new();
    let device = bench.device(address, registers([1]));
    let began = Instant::now();
    let early = silence(scan_by(&device, CAP / 3).await);
    assert_eq!(early, Silence::Connecting, "a slot shorter than the cap is not held up");
    assert!(began.elapsed() < CAP);
    let reason = silence(scan(&device).await);
    assert_eq!(reason, Silence::ConnectTimeout { after: CAP });
    assert!(began.elapsed() >= CAP);
}

// 2. A connection is never used again after a failure.

#[tokio::test]
async fn a_late_answer_is_never_matched_with_the_next_request() {
    let late = CAP + Duration::from_millis(30);
    // The late answer has a value of its own, so that a mix-up would show.
    let reason = fails_once(move |asked| {
        let wrong = support::Asked { start: 5_000, ..asked };
        Act::SendAfter(late, wrong.right())
    })
    .await;
    assert_eq!(reason, Silence::NoAnswer { after: CAP, of: None });
}

#[tokio::test]
async fn an_answer_sent_twice_is_thrown_away() {
    let server = wrong_once(|asked| Act::Send([asked.right(), asked.right()].concat())).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10]));
    for _ in 0..3 {
        assert_eq!(readings(scan_until_good(&device).await), [good(10)]);
    }
}

#[tokio::test]
async fn words_that_nobody_asked_for_cost_the_connection_and_no_slot() {
    let server = wrong_once(|asked| {
        let stray = support::Asked { transaction: asked.transaction + 1, start: 5_000, ..asked };
        Act::Drip(Duration::ZERO, [asked.right(), stray.right()].concat())
    })
    .await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10]));
    assert_eq!(readings(scan(&device).await.expect("the first answer is right")), [good(10)]);
    // The stray answer bears the next transaction id: only throwing it away keeps its value out.
    server.until("the device to be through with it", |seen| seen.asked.len() == 1 && seen.is_idle()).await;
    assert_eq!(readings(scan(&device).await.expect("on a new connection")), [good(10)]);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_wrong_transaction_unit_or_function_is_malformed() {
    let with = |change: fn(&mut Vec<u8>)| {
        move |asked: support::Asked| {
            let mut frame = asked.right();
            change(&mut frame);
            Act::Send(frame)
        }
    };
    let changes: [fn(&mut Vec<u8>); 4] =
        [|frame| frame[1] ^= 0x55, |frame| frame[6] += 1, |frame| frame[7] = 4, |frame| frame[3] = 1];
    for change in changes {
        let reason = fails_once(with(change)).await;
        assert!(matches!(reason, Silence::Malformed { .. }), "{reason}");
        assert_eq!(reason.status(), StatusCode::BAD_DECODING_ERROR);
    }
}

#[tokio::test]
async fn garbage_is_malformed_or_no_answer_and_never_a_value() {
    for garbage in [vec![0; 12], vec![0xFF; 400], b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), vec![0x03]] {
        let reason = fails_once(move |_| Act::Send(garbage.clone())).await;
        assert!(matches!(reason, Silence::Malformed { .. } | Silence::NoAnswer { .. }), "{reason}");
    }
}

// 3. The library does not check lengths, and panics on some in debug builds.

#[tokio::test]
async fn an_answer_of_the_wrong_length_is_no_value() {
    for count in [0, 1, 3, 120] {
        let reason = fails_once(move |asked| Act::Send(asked.with_count(count))).await;
        assert!(matches!(reason, Silence::Malformed { .. }), "{count} registers: {reason}");
    }
    // The length byte promises more than there is, or an odd number.
    for length in [3, 6, 255] {
        let reason = fails_once(move |asked| {
            let mut frame = asked.right();
            frame[8] = length;
            Act::Send(frame)
        })
        .await;
        assert!(matches!(reason, Silence::Malformed { .. }), "length {length}: {reason}");
    }
}

#[tokio::test]
async fn bits_of_the_wrong_length_are_no_values() {
    for count in [8, 24] {
        let server = wrong_once(move |asked| Act::Send(asked.with_count(count))).await;
        let bench = Bench::new();
        let tags = (0..9).map(|offset| point(Table::Coil, offset, ValueType::Bool)).collect();
        let device = bench.device(server.address, tags);
        let reason = silence(scan(&device).await);
        assert!(matches!(reason, Silence::Malformed { .. }), "{count} bits: {reason}");
        let expected: Vec<_> = (0..9).map(|place| Reading::Good(Value::Bool(place & 1 == 1))).collect();
        assert_eq!(readings(scan_until_good(&device).await), expected);
    }
}

// 4. At the end of the stream the library reports whatever `errno` holds.

#[tokio::test]
async fn an_end_of_stream_is_a_lost_connection_whatever_errno_says() {
    for length in [0, 1, 9] {
        let reason = fails_once(move |asked| Act::SendAndClose(asked.right()[..length].to_vec())).await;
        assert_eq!(reason, Silence::Broken { reason: "closed by the device".into() }, "after {length} bytes");
        assert_eq!(reason.status(), StatusCode::BAD_COMMUNICATION_ERROR);
    }
}

#[tokio::test]
async fn a_device_that_accepts_and_closes_is_left_alone_more_and_more() {
    let server = Misbehaving::start(|_| Act::CloseAtOnce).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([1]));
    let end = Instant::now() + Duration::from_secs(1);
    let mut scans = 0;
    while Instant::now() < end {
        let reason = silence(scan(&device).await);
        assert!(matches!(reason, Silence::Broken { .. }), "{reason}");
        scans += 1;
        tokio::task::yield_now().await;
    }
    // Pauses of at least 50, 100, 200, 400 ms fit at most five attempts in a second.
    assert!(
        scans > 20 && server.connections() <= 6,
        "{scans} scans made {} connections",
        server.connections()
    );
}

#[tokio::test]
async fn a_refused_connection_fails_fast() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let bench = Bench::new();
    let device = bench.device(address, registers([1]));
    let began = Instant::now();
    for _ in 0..50 {
        let reason = silence(scan(&device).await);
        assert!(matches!(reason, Silence::Unreachable { .. }), "{reason}");
        assert_eq!(reason.status(), StatusCode::BAD_NO_COMMUNICATION);
    }
    assert!(began.elapsed() < CAP * 3, "fifty scans took {:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_that_the_device_closed_while_idle_costs_no_slot() {
    let server = wrong_once(|asked| Act::SendAndClose(asked.right())).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10]));
    assert_eq!(readings(scan(&device).await.expect("the answer came before the end")), [good(10)]);
    assert_eq!(readings(scan(&device).await.expect("a new connection is made")), [good(10)]);
    assert_eq!(server.connections(), 2);
}

// 5. A cancelled call may have left half a request.

#[tokio::test]
async fn a_dropped_scan_resets_the_connection() {
    let server = wrong_once(|_| Act::Nothing).await;
    let bench = Bench::new();
    let device = Arc::new(bench.device(server.address, registers([10])));
    let scanning = tokio::spawn({
        let device = Arc::clone(&device);
        async move { device.scan(GroupIndex(0), Instant::now() + PATIENCE).await }
    });
    server.until("a request", |seen| seen.asked.len() == 1).await;
    let began = Instant::now();
    scanning.abort();
    server.until("a reset", |seen| seen.resets == 1).await;
    assert!(began.elapsed() < CAP, "not the time-out closed it, took {:?}", began.elapsed());
    assert_eq!(readings(scan(&device).await.expect("the next scan is not harmed")), [good(10)]);
}

// 6. Unit ids, and one connection for all units behind one host and port.

#[tokio::test]
async fn units_share_one_connection_one_request_at_a_time() {
    let server = Misbehaving::start(|asked| Act::SendAfter(Duration::from_millis(3), asked.right())).await;
    let bench = Bench::new();
    let units: Vec<_> = (0..10_u8)
        .map(|unit| Arc::new(bench.unit(server.address, unit, registers([u16::from(unit)]))))
        .collect();
    let scans = units.iter().map(|device| {
        let device = Arc::clone(device);
        tokio::spawn(async move { device.scan(GroupIndex(0), Instant::now() + PATIENCE).await })
    });
    for (unit, scanning) in scans.collect::<Vec<_>>().into_iter().enumerate() {
        let scan = scanning.await.expect("no panic").expect("the device behaves");
        assert_eq!(readings(scan), [good(unit as u16)]);
    }
    let seen = server.seen.borrow().clone();
    assert_eq!((seen.accepted.len(), seen.most_at_once), (1, 1));
    let mut units: Vec<_> = seen.asked.iter().map(|asked| (asked.unit, asked.start)).collect();
    units.sort_unstable();
    assert_eq!(units, (0..10_u8).map(|unit| (unit, u16::from(unit))).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_scan_that_cannot_begin_in_time_is_late_and_sends_nothing() {
    let server = Misbehaving::start(|asked| match asked.unit {
        1 => Act::SendAfter(CAP / 2, asked.right()),
        _ => Act::Send(asked.right()),
    })
    .await;
    let bench = Bench::new();
    let slow = Arc::new(bench.unit(server.address, 1, registers([1])));
    let other = bench.unit(server.address, 2, registers([2]));
    let slow_scan = tokio::spawn({
        let slow = Arc::clone(&slow);
        async move { scan(&slow).await }
    });
    server.until("the slow request", |seen| seen.asked.len() == 1).await;
    assert_eq!(scan_by(&other, CAP / 10).await, Err(ScanError::Late));
    assert!(slow_scan.await.expect("no panic").is_ok());
    assert!(scan(&other).await.is_ok());
    let units: Vec<_> = server.asked().iter().map(|asked| asked.unit).collect();
    assert_eq!(units, [1, 2], "nothing was sent for the late scan");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_silent_unit_is_left_alone_and_the_others_are_read() {
    let server = Misbehaving::start(|asked| match asked.unit {
        1 => Act::Nothing,
        _ => Act::Send(asked.right()),
    })
    .await;
    let bench = Bench::new();
    let dead = bench.unit(server.address, 1, registers([1]));
    let alive = bench.unit(server.address, 2, registers([2]));
    assert_eq!(silence(scan(&dead).await), Silence::NoAnswer { after: CAP, of: None });
    let began = Instant::now();
    assert_eq!(
        silence(scan(&dead).await),
        Silence::NoAnswer { after: CAP, of: None },
        "with the reason of the last attempt"
    );
    assert!(began.elapsed() < CAP, "and at once, not after {:?}", began.elapsed());
    assert_eq!(readings(scan(&alive).await.expect("it behaves")), [good(2)]);
}

// 7. Exceptions are valid answers.

#[tokio::test]
async fn an_exception_is_a_reading_and_keeps_the_connection() {
    for (code, status) in [
        (0x01, StatusCode::BAD_NOT_SUPPORTED),
        (0x02, StatusCode::BAD_NODE_ID_UNKNOWN),
        (0x03, StatusCode::BAD_NOT_SUPPORTED),
        (0x04, StatusCode::BAD_DEVICE_FAILURE),
        (0x05, StatusCode::BAD_RESOURCE_UNAVAILABLE),
        (0x06, StatusCode::BAD_RESOURCE_UNAVAILABLE),
        (0x07, StatusCode::BAD_DEVICE_FAILURE),
        (0x08, StatusCode::BAD_DEVICE_FAILURE),
    ] {
        let server = wrong_once(move |asked| Act::Send(asked.exception(code))).await;
        let bench = Bench::new();
        let device = bench.device(server.address, registers([10]));
        let first = readings(scan(&device).await.expect("an exception is an answer"));
        assert_eq!(first, [Reading::Bad(status)], "exception 0x{code:02X}");
        assert_eq!(readings(scan(&device).await.expect("the device is not left alone")), [good(10)]);
        assert_eq!(server.connections(), 1, "exception 0x{code:02X}");
    }
}

#[tokio::test]
async fn a_unit_that_its_gateway_does_not_reach_is_silent_and_the_others_are_read() {
    for code in [0x0A, 0x0B] {
        let server = Misbehaving::start(move |asked| match asked.unit {
            1 => Act::Send(asked.exception(code)),
            _ => Act::Send(asked.right()),
        })
        .await;
        let bench = Bench::new();
        let dead = bench.unit(server.address, 1, registers([1]));
        let alive = bench.unit(server.address, 2, registers([2]));
        assert_eq!(silence(scan(&dead).await), Silence::UnitDown { unit: 1, code });
        assert_eq!(silence(scan(&dead).await), Silence::UnitDown { unit: 1, code });
        assert_eq!(readings(scan(&alive).await.expect("it behaves")), [good(2)]);
        assert_eq!(server.connections(), 1);
        assert_eq!(server.asked().len(), 2, "the dead unit is left alone for a while");
    }
}

#[tokio::test]
async fn an_exception_for_another_function_is_malformed() {
    let reason = fails_once(|asked| Act::Send(asked.frame(&[0x84, 0x02]))).await;
    assert!(matches!(reason, Silence::Malformed { .. }), "{reason}");
}

// 8. Limits.

#[tokio::test]
async fn no_request_exceeds_what_the_protocol_allows() {
    let server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let bench = Bench::new();
    let words = (0..400).map(|place| point(Table::Holding, place, ValueType::U16));
    let bits = (0..4_500).map(|place| point(Table::Coil, place, ValueType::Bool));
    let device = bench.device(server.address, words.chain(bits).collect());
    let scan = scan(&device).await.expect("the device behaves");
    assert!(scan.readings.iter().all(|(_, reading)| matches!(reading, Reading::Good(_))));
    let mut counts: Vec<_> = server.asked().iter().map(|asked| (asked.function, asked.count)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [(1, 500), (1, 2_000), (1, 2_000), (3, 25), (3, 125), (3, 125), (3, 125)]);
}

// 9. A refused block.

#[tokio::test]
async fn a_refused_block_is_read_tag_by_tag_and_that_is_remembered() {
    // Registers 12 and 13 do not exist; tags are at 10, 11, 13 and 15.
    let server = Misbehaving::start(|asked| {
        let wanted = asked.start..asked.start + asked.count;
        let refused = wanted.contains(&12) || wanted.contains(&13);
        Act::Send(if refused { asked.exception(0x02) } else { asked.right() })
    })
    .await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10, 11, 13, 15]));
    let expected = [good(10), good(11), Reading::Bad(StatusCode::BAD_NODE_ID_UNKNOWN), good(15)];
    assert_eq!(readings(scan(&device).await.expect("an answer")), expected);
    let first: Vec<_> = server.asked().iter().map(|asked| (asked.start, asked.count)).collect();
    assert_eq!(first, [(10, 6), (10, 1), (11, 1), (13, 1), (15, 1)]);

    assert_eq!(readings(scan(&device).await.expect("an answer")), expected);
    let second: Vec<_> = server.asked()[5..].iter().map(|asked| (asked.start, asked.count)).collect();
    assert_eq!(
        second,
        [(10, 2), (15, 1), (13, 1)],
        "neighbours stay together, the hole is not asked for again"
    );
    assert_eq!(server.connections(), 1);
}

// 10. Word orders: see `modbus::decode`. What commissioning sees of them:

#[tokio::test]
async fn a_probe_shows_the_words_in_every_order() {
    let server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([1]));
    let number = point(Table::Holding, 0x0102, ValueType::U32);
    let view =
        device.probe(&number, Instant::now() + PATIENCE).await.expect("an answer").expect("no exception");
    assert_eq!(view.words, [0x0102, 0x0103]);
    let numbers: Vec<_> = view.readings.into_iter().map(|(_, reading)| reading).collect();
    let expected = [0x0102_0103, 0x0201_0301, 0x0103_0102, 0x0301_0201];
    assert_eq!(numbers, expected.map(|number| Reading::Good(Value::U32(number))));
}

// Fencing: what only a cluster needs.

#[tokio::test]
async fn without_a_permit_not_one_byte_reaches_the_device() {
    let server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10]));
    assert!(scan(&device).await.is_ok());
    bench.permit.end();
    for _ in 0..3 {
        assert_eq!(scan(&device).await, Err(ScanError::Fenced));
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_request_in_flight_ends_with_the_lease_and_its_connection_is_reset() {
    let server = Misbehaving::start(|_| Act::Nothing).await;
    let bench = Bench::new();
    let device = bench.slow_unit(server.address, 1, registers([10]));
    // Usual operations would end in time.
    bench.permit.usually_takes(CAP / 6);
    bench.permit.end_after(CAP / 3);
    let began = Instant::now();
    assert_eq!(scan(&device).await, Err(ScanError::Fenced));
    assert!(began.elapsed() < CAP, "ended by the lease, not by the cap");
    server.until("a reset", |seen| seen.resets == 1).await;
}

#[tokio::test]
async fn a_request_is_not_sent_when_its_answer_could_outlive_the_lease() {
    let server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10]));
    assert!(scan(&device).await.is_ok());
    bench.permit.end_after(CAP * 9 / 10);
    assert_eq!(scan(&device).await, Err(ScanError::Fenced));
    bench.permit.end_after(CAP * 100);
    assert!(scan(&device).await.is_ok(), "the lease was renewed");
    assert_eq!(server.asked().len(), 2);
    assert_eq!(server.connections(), 1, "a request that is not sent costs no connection");
}

#[tokio::test]
async fn a_device_that_is_not_slow_has_no_more_time_than_an_operation_may_usually_take() {
    let server = Misbehaving::start(|_| Act::Nothing).await;
    let bench = Bench::new();
    bench.permit.usually_takes(CAP / 3);
    let device = bench.device(server.address, registers([10]));
    let reason = silence(scan(&device).await);
    assert_eq!(reason, Silence::NoAnswer { after: CAP / 3, of: Some(CAP) });
    let text = reason.to_string();
    assert!(text.starts_with("HF-5104: ") && text.contains("slow = true"), "what to do: {text}");
}

#[tokio::test]
async fn a_slow_devices_first_read_waits_for_the_predecessors_last() {
    let server = Misbehaving::start(|asked| match asked.unit {
        1 => Act::SendAfter(CAP / 2, asked.right()),
        _ => Act::Send(asked.right()),
    })
    .await;
    let bench = Bench::new();
    let slow = bench.slow_unit(server.address, 1, registers([1]));
    let other = bench.unit(server.address, 2, registers([2]));
    let began = Instant::now();
    bench.permit.usually_takes(CAP / 3);
    bench.permit.begins_now();
    assert_eq!(
        scan_by(&slow, CAP / 3).await,
        Err(ScanError::Late),
        "not before its predecessor's last has ended"
    );
    let (slow_scan, other_scan) = tokio::join!(scan(&slow), scan(&other));
    let (slow_scan, other_scan) =
        (slow_scan.expect("it has its whole timeout"), other_scan.expect("it answers"));
    assert!(slow_scan.started >= began + CAP * 2 / 3, "{:?} after the beginning", slow_scan.started - began);
    assert!(other_scan.finished < slow_scan.started, "others on the same socket do not wait");
    // Later scans do not wait.
    let asked = Instant::now();
    assert!(scan(&slow).await.expect("it answers").started < asked + CAP / 3);
}

#[tokio::test]
async fn closing_resets_connections_and_stops_scans() {
    let server = Misbehaving::start(|asked| match asked.unit {
        1 => Act::Nothing,
        _ => Act::Send(asked.right()),
    })
    .await;
    let idle_server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let bench = Bench::new();
    let busy = Arc::new(bench.unit(server.address, 1, registers([1])));
    let idle = bench.unit(idle_server.address, 2, registers([2]));
    assert!(scan(&idle).await.is_ok());
    let scanning = tokio::spawn({
        let busy = Arc::clone(&busy);
        async move { scan(&busy).await }
    });
    server.until("a request", |seen| seen.asked.len() == 1).await;
    bench.endpoints.close().await;
    assert_eq!(scanning.await.expect("no panic"), Err(ScanError::Stopped));
    assert_eq!(scan(&idle).await, Err(ScanError::Stopped));
    server.until("a reset", |seen| seen.resets == 1).await;
    idle_server.until("a reset", |seen| seen.resets == 1).await;
}

#[tokio::test]
async fn dropping_the_last_device_of_an_endpoint_resets_its_connection() {
    let server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let bench = Bench::new();
    let device = bench.device(server.address, registers([10]));
    assert!(scan(&device).await.is_ok());
    drop(device);
    server.until("a reset", |seen| seen.resets == 1).await;
    let again = bench.device(server.address, registers([10]));
    assert!(scan(&again).await.is_ok());
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn connections_leave_from_the_address_they_are_bound_to() {
    let server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let local = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 12));
    let bench = Bench::with(Some(local), WarmConnections::default());
    let device = bench.device(server.address, registers([10]));
    assert!(scan(&device).await.is_ok());
    assert_eq!(server.seen.borrow().accepted[0].ip(), local);
}

#[tokio::test]
async fn a_warm_standby_sends_nothing_and_its_connection_serves_the_first_scan() {
    let server = Misbehaving::start(|asked| Act::Send(asked.right())).await;
    let bench = Bench::new();
    let mut standby = WarmStandby::new(
        bench.spawner.clone(),
        Arc::new(Origin::default()),
        runtime::random::generator(Some(2)),
    );
    standby.hold(&plant_device(server.address, 1, registers([10])));
    server.until("an idle connection", |seen| seen.accepted.len() == 1).await;
    let warm = standby.release().await;
    assert_eq!(warm.len(), 1);
    assert!(server.asked().is_empty());

    let bench = Bench::with(None, warm);
    let device = bench.device(server.address, registers([10]));
    assert_eq!(readings(scan(&device).await.expect("the device behaves")), [good(10)]);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_standby_connects_again_when_the_device_hangs_up_and_lets_go_when_it_is_dropped() {
    let connections = AtomicUsize::new(0);
    let server = Misbehaving::start(move |_| match connections.fetch_add(1, Ordering::SeqCst) {
        0 => Act::CloseAtOnce,
        _ => Act::Nothing,
    })
    .await;
    let bench = Bench::new();
    let mut standby = WarmStandby::new(
        bench.spawner.clone(),
        Arc::new(Origin::default()),
        runtime::random::generator(Some(3)),
    );
    standby.hold(&plant_device(server.address, 1, registers([10])));
    server.until("a second connection", |seen| seen.accepted.len() == 2).await;
    drop(standby);
    server.until("a reset", |seen| seen.resets == 1).await;
}
