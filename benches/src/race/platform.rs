//! What stands in for ThingsBoard: it takes the telemetry of a gateway over MQTT, and goes away when told to.
//!
//! - Protocol: MQTT 3.1.1 and 5.0 with QoS 0 and 1, as far as that gateway uses it, which is told at once that nothing
//!   limits its rates. Anything else is kept as an error: a measurement with a hole proves nothing.
//! - A message is counted before it is acknowledged: what the gateway may forget has arrived.
//! - Answers of devices are told apart by the low word of their number (`simulator::modbus::Proof`), and written into
//!   the history as those are that our receiver sees.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Deserialize;
use simulator::history::{History, Kind};
use simulator::nodes::relay::carry_each;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::polling::Delivered;
use crate::plant::device_number;
use crate::seen::READS;

/// What a register is called, before its number.
pub(super) const WORD: &str = "word_";
/// The register that numbers the answers of a device.
const NUMBERED: &str = "word_1";
const TELEMETRY: &[u8] = b"v1/gateway/telemetry";
/// Answers go to the topic of the same number.
const ASKED: [(&str, &str, &str); 2] = [
    ("v1/devices/me/rpc/request/", "v1/devices/me/rpc/response/", NO_LIMITS),
    ("v1/devices/me/attributes/request/", "v1/devices/me/attributes/response/", "{}"),
];
/// What a gateway waits for before it sends anything (`getSessionLimits`).
const NO_LIMITS: &str = concat!(
    r#"{"maxPayloadSize":65536,"maxInflightMessages":100,"#,
    r#""rateLimits":{"messages":"0:0,","telemetryMessages":"0:0,","telemetryDataPoints":"0:0,"},"#,
    r#""gatewayRateLimits":{"messages":"0:0,","telemetryMessages":"0:0,","telemetryDataPoints":"0:0,"}}"#,
);
/// Larger packets are none.
const LARGEST: usize = 16 << 20;

/// A platform that is up, or can be brought up again at the same address.
pub(super) struct Platform {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The task that accepts, which owns those of its connections; `None` while it is away.
    serving: Option<JoinSet<()>>,
}

struct Shared {
    history: History,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    delivered: Delivered,
    /// Device, and number of its answer.
    answers: HashSet<(usize, u64)>,
    broken: Option<String>,
}

impl Platform {
    /// Up, at a free port; what arrives is written to `history`.
    pub(super) async fn start(history: History) -> io::Result<Self> {
        let shared = Arc::new(Shared { history, state: Mutex::default() });
        let mut platform = Self { address: (Ipv4Addr::LOCALHOST, 0).into(), shared, serving: None };
        platform.come_back().await?;
        Ok(platform)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and every connection.
    pub(super) async fn leave(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            serving.shutdown().await;
        }
    }

    /// Listens again, at the address it had.
    pub(super) async fn come_back(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        let shared = Arc::clone(&self.shared);
        serving.spawn(carry_each(listener, move |stream| serve(stream, Arc::clone(&shared))));
        self.serving = Some(serving);
        Ok(())
    }

    /// What it has counted so far; an error once something came that makes no sense.
    pub(super) fn delivered(&self) -> anyhow::Result<Delivered> {
        let state = self.shared.state();
        match &state.broken {
            Some(broken) => Err(anyhow::anyhow!("what the gateway sent makes no sense: {broken}")),
            None => Ok(state.delivered),
        }
    }
}

/// However it ends: a gateway that was killed ends it without a word.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut incoming, mut outgoing) = (BytesMut::new(), BytesMut::new());
    let mut session = Session::default();
    loop {
        let goes_on = session.answer_all(&mut incoming, &shared, &mut outgoing);
        stream.write_all_buf(&mut outgoing).await?;
        match goes_on {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                shared.state().broken.get_or_insert(format!("{error:#}"));
                return Ok(());
            }
        }
        if stream.read_buf(&mut incoming).await? == 0 {
            return Ok(());
        }
    }
}

/// One connection's view of the protocol.
#[derive(Debug, Default)]
struct Session {
    /// Whether packets have properties, as those of MQTT 5.0 have.
    has_properties: bool,
}

impl Session {
    /// Answers what has arrived whole. `false` once the gateway has taken its leave.
    fn answer_all(
        &mut self,
        incoming: &mut BytesMut,
        shared: &Shared,
        outgoing: &mut BytesMut,
    ) -> anyhow::Result<bool> {
        while let Some((head, body)) = take(incoming)? {
            if !self.answer(head, body, shared, outgoing)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn answer(
        &mut self,
        head: u8,
        mut body: Bytes,
        shared: &Shared,
        outgoing: &mut BytesMut,
    ) -> anyhow::Result<bool> {
        match head >> 4 {
            // CONNECT: accepted, without a session that was there before.
            1 => {
                text(&mut body)?;
                self.has_properties = body.try_get_u8()? >= 5;
                let none: &[u8] = if self.has_properties { &[0, 0, 0] } else { &[0, 0] };
                put(outgoing, 0x20, none);
            }
            3 => self.publish(head, body, shared, outgoing)?,
            // SUBSCRIBE: granted with QoS 1 at most, though only QoS 0 is made use of.
            8 => {
                let mut granted = body.try_get_u16()?.to_be_bytes().to_vec();
                if self.has_properties {
                    skip_properties(&mut body)?;
                    granted.push(0);
                }
                while body.has_remaining() {
                    text(&mut body)?;
                    granted.push((body.try_get_u8()? & 3).min(1));
                }
                put(outgoing, 0x90, &granted);
            }
            // PINGREQ.
            12 => put(outgoing, 0xD0, &[]),
            // DISCONNECT.
            14 => return Ok(false),
            kind => bail!("a packet of kind {kind}"),
        }
        Ok(true)
    }

    fn publish(
        &self,
        head: u8,
        mut body: Bytes,
        shared: &Shared,
        outgoing: &mut BytesMut,
    ) -> anyhow::Result<()> {
        let topic = text(&mut body)?;
        let packet = match (head >> 1) & 3 {
            0 => None,
            1 => Some(body.try_get_u16()?),
            quality => bail!("a message with QoS {quality}"),
        };
        if self.has_properties {
            skip_properties(&mut body)?;
        }
        if topic == TELEMETRY {
            shared.take(&body)?;
        }
        if let Some(packet) = packet {
            put(outgoing, 0x40, &packet.to_be_bytes());
        }
        let topic = std::str::from_utf8(&topic).context("a topic is no text")?;
        for (asked, answered, answer) in ASKED {
            let Some(number) = topic.strip_prefix(asked) else { continue };
            let to = format!("{answered}{number}");
            let mut message = BytesMut::new();
            message.put_u16(u16::try_from(to.len()).context("a topic of too many bytes")?);
            message.put_slice(to.as_bytes());
            if self.has_properties {
                message.put_u8(0);
            }
            message.put_slice(answer.as_bytes());
            put(outgoing, 0x30, &message);
        }
        Ok(())
    }
}

/// What a gateway sends of a device: the values of one answer.
#[derive(Deserialize)]
struct Row {
    values: HashMap<String, serde_json::Value>,
}

impl Shared {
    /// What lies behind the lock is whole after every statement, so that a panic elsewhere does no harm.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, body: &[u8]) -> anyhow::Result<()> {
        let devices: HashMap<String, Vec<Row>> = serde_json::from_slice(body).context("no telemetry")?;
        for (id, rows) in devices {
            let device = device_number(&id).with_context(|| format!("no device is called {id}"))?;
            for Row { values } in rows {
                let number = values.get(NUMBERED).and_then(serde_json::Value::as_u64);
                let number = number.with_context(|| format!("no {NUMBERED} of {id}"))?;
                self.enter(device, &id, number, values.len() as u64);
            }
        }
        Ok(())
    }

    fn enter(&self, device: usize, id: &str, number: u64, samples: u64) {
        let mut state = self.state();
        let is_new = state.answers.insert((device, number));
        match is_new {
            true => state.delivered.samples += samples,
            false => state.delivered.again += samples,
        }
        drop(state);
        let record = serde_json::json!({
            "tag": format!("{id}{READS}"), "device": id, "grid": "0", "slot": number.to_string(),
            "quality": "good", "value": number,
        });
        let details = serde_json::json!({ "is_new": is_new, "record": record });
        self.history.record("platform", Kind::Ok, "sample", &details);
    }
}

/// Takes the first packet out of what has arrived, if it is whole: its first byte, and what follows its length.
fn take(incoming: &mut BytesMut) -> anyhow::Result<Option<(u8, Bytes)>> {
    let Some((&head, rest)) = incoming.split_first() else { return Ok(None) };
    let Some((length, digits)) = variable(rest)? else { return Ok(None) };
    ensure!(length <= LARGEST, "a packet of {length} bytes");
    let from = 1 + digits;
    if incoming.len() < from + length {
        return Ok(None);
    }
    incoming.advance(from);
    Ok(Some((head, incoming.split_to(length).freeze())))
}

/// A number of one to four bytes, and how many there are of them; nothing while it is not whole.
fn variable(bytes: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let mut number = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        number |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((number, place + 1)));
        }
    }
    ensure!(bytes.len() < 4, "a number of more than four bytes");
    Ok(None)
}

/// A text with its length before it.
fn text(body: &mut Bytes) -> anyhow::Result<Bytes> {
    let length = usize::from(body.try_get_u16()?);
    ensure!(length <= body.len(), "a text is cut short");
    Ok(body.split_to(length))
}

fn skip_properties(body: &mut Bytes) -> anyhow::Result<()> {
    let (length, digits) = variable(body)?.context("properties are cut short")?;
    ensure!(digits + length <= body.len(), "properties are cut short");
    body.advance(digits + length);
    Ok(())
}

fn put(outgoing: &mut BytesMut, head: u8, body: &[u8]) {
    outgoing.put_u8(head);
    let mut length = body.len();
    while length >= 0x80 {
        outgoing.put_u8((length & 0x7F) as u8 | 0x80);
        length >>= 7;
    }
    outgoing.put_u8(length as u8);
    outgoing.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::Seen;

    /// The beginning of a text: its length.
    fn with_length(text: &str) -> Vec<u8> {
        let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn connect(version: u8) -> Vec<u8> {
        let mut body = with_length("MQTT");
        // Flags, keep-alive, and what follows of properties and name is of no interest.
        body.extend_from_slice(&[version, 2, 0, 60, 0, 0, 0]);
        body
    }

    fn telemetry(packet: u16, version: u8, number: u64) -> Vec<u8> {
        let rows = serde_json::json!([{ "ts": 1, "values": { "word_0": 0, NUMBERED: number } }]);
        let mut body = with_length("v1/gateway/telemetry");
        body.extend_from_slice(&packet.to_be_bytes());
        if version == 5 {
            body.extend_from_slice(&[2, 1, 1]);
        }
        body.extend_from_slice(serde_json::json!({ "bench/machine-003": rows }).to_string().as_bytes());
        body
    }

    fn shared() -> (Seen, Shared) {
        let seen = Seen::start();
        let history = seen.history();
        (seen, Shared { history, state: Mutex::default() })
    }

    #[test]
    fn telemetry_is_counted_and_acknowledged_however_it_is_cut() {
        for version in [4, 5] {
            let (seen, shared) = shared();
            let mut stream = BytesMut::new();
            put(&mut stream, 0x10, &connect(version));
            put(&mut stream, 0x32, &telemetry(7, version, 300));
            put(&mut stream, 0x3A, &telemetry(8, version, 300));
            put(&mut stream, 0xC0, &[]);
            let (mut incoming, mut outgoing) = (BytesMut::new(), BytesMut::new());
            let mut session = Session::default();
            for byte in stream {
                incoming.put_u8(byte);
                assert!(session.answer_all(&mut incoming, &shared, &mut outgoing).expect("it makes sense"));
            }
            let welcome: &[u8] = if version == 5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
            let rest: &[u8] = &[0x40, 2, 0, 7, 0x40, 2, 0, 8, 0xD0, 0];
            assert_eq!(&outgoing[..], [welcome, rest].concat(), "version {version}");
            assert_eq!(shared.state().delivered, Delivered { samples: 2, again: 2 });
            let details = serde_json::json!({ "peer": "127.0.0.1:4000", "ordinal": 300 });
            seen.history().record("bench/machine-003", Kind::Ok, "read", &details);
            assert_eq!(seen.look().expect("whole").fates(0, u64::MAX).arrived.count(), 1);
        }
    }

    #[test]
    fn a_gateway_that_asks_for_its_limits_is_told_that_there_are_none() {
        let (_seen, shared) = shared();
        let mut body = with_length("v1/devices/me/rpc/request/12");
        body.extend_from_slice(&[0, 1]);
        body.extend_from_slice(br#"{"method":"getSessionLimits"}"#);
        let mut outgoing = BytesMut::new();
        let mut session = Session::default();
        assert!(session.answer(0x32, body.into(), &shared, &mut outgoing).expect("it makes sense"));
        assert_eq!(&outgoing.split_to(4)[..], [0x40, 2, 0, 1]);
        let (head, mut answer) = take(&mut outgoing).expect("it is a packet").expect("it is whole");
        assert_eq!(
            (head, &text(&mut answer).expect("a topic")[..]),
            (0x30, &b"v1/devices/me/rpc/response/12"[..])
        );
        assert!(serde_json::from_slice::<serde_json::Value>(&answer).expect("it is JSON").is_object());
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let (_seen, shared) = shared();
        let mut session = Session::default();
        let mut publish = |body: Vec<u8>| session.answer(0x30, body.into(), &shared, &mut BytesMut::new());
        let mut stranger = with_length("v1/gateway/telemetry");
        stranger.extend_from_slice(br#"{"stranger": [{"ts": 1, "values": {"word_1": 1}}]}"#);
        assert!(publish(stranger).is_err());
        assert!(publish(vec![0, 9, 1]).is_err(), "a topic that is cut short");
        assert!(variable(&[0xFF; 4]).is_err());
    }
}
