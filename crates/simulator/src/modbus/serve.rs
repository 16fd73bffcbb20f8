//! Connections of one device: frames in, frames out, one request at a time.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::plant::address::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::overlap::Ticket;
use super::source::{ReadRequest, RegisterSource};
use super::{Device, End, Manner, Orders};
use crate::history::monotonic_ns;

/// Transaction id, protocol id, length, unit id.
const HEADER: usize = 7;
/// Longest protocol data unit there is.
const MAX_PDU: usize = 253;
/// An accept error (too many open files) passes by itself, and so does an address that somebody else has just left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// No client looks at the checksum of a frame that it cannot have been sent.
const CHECKSUM: [u8; 2] = [0xC0, 0xDE];

const ILLEGAL_FUNCTION: u8 = 0x01;
const ILLEGAL_ADDRESS: u8 = 0x02;
const ILLEGAL_VALUE: u8 = 0x03;

/// One connection.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    device: Arc<Device>,
    orders: watch::Receiver<Orders>,
    /// Bytes that came and are not yet understood; one frame, and what a hasty client sent after it.
    received: Vec<u8>,
    first_byte_ns: u64,
}

/// A request that has begun; it ends exactly once, at the latest when this is dropped.
struct Open<'a> {
    device: &'a Device,
    request: ReadRequest,
    first_byte_ns: u64,
    ticket: Option<Ticket>,
}

/// A whole frame.
struct Frame {
    transaction: [u8; 2],
    unit: u8,
    pdu: Vec<u8>,
}

/// Accepts for as long as the task lives; the tasks of its connections end with it.
pub(super) async fn accept(mut listener: TcpListener, address: SocketAddr, device: Arc<Device>) {
    let mut orders = device.behaviour.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            // Ended ones give up their seat; what went wrong with them has been said.
            Some(_) = connections.join_next() => continue,
            () = told(&mut orders, |manner| manner == Manner::Away) => {
                drop(listener);
                connections.shutdown().await;
                told(&mut orders, |manner| manner != Manner::Away).await;
                listener = listen(address, &device).await;
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if device.has_a_seat(connections.len()) {
                    connections.spawn(Connection::new(stream, peer, Arc::clone(&device)).run());
                }
            }
            Err(error) => {
                debug!(device = device.config.name, %error, "connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits until the device is told to behave in such a manner.
async fn told(orders: &mut watch::Receiver<Orders>, is_it: impl Fn(Manner) -> bool) {
    // An error means that the device is gone, and its tasks with it.
    drop(orders.wait_for(|orders| is_it(orders.behaviour.manner)).await);
}

/// Listens again where the device listened before.
async fn listen(address: SocketAddr, device: &Device) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => debug!(device = device.config.name, %error, "nobody listens yet"),
        }
        sleep(ACCEPT_PAUSE).await;
    }
}

impl Device {
    /// Whether a new connection is served beside so many others.
    fn has_a_seat(&self, others: usize) -> bool {
        if matches!(self.behaviour.borrow().behaviour.manner, Manner::HangUp | Manner::Full) {
            return false;
        }
        let has_room = others < self.config.max_connections;
        self.with_state(|state| {
            let connections = &mut state.connections;
            if has_room {
                connections.served += 1;
                connections.most = connections.most.max(others + 1);
            } else {
                connections.turned_away += 1;
            }
        });
        has_room
    }
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr, device: Arc<Device>) -> Self {
        let orders = device.behaviour.subscribe();
        Self { stream, peer, device, orders, received: Vec::new(), first_byte_ns: 0 }
    }

    /// Serves until either side ends the connection.
    async fn run(mut self) {
        let peer = self.peer;
        if let Err(error) = self.serve_until_told().await {
            debug!(%peer, %error, "connection ended");
        }
    }

    async fn serve_until_told(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let accepted_under = self.orders.borrow_and_update().hang_ups;
        let mut orders = self.orders.clone();
        let told_to_end = async move {
            let ended = |orders: &Orders| {
                orders.hang_ups != accepted_under || orders.behaviour.manner == Manner::HangUp
            };
            // An error means that the device is gone, which ends the connection just as well.
            drop(orders.wait_for(ended).await);
        };
        tokio::select! {
            biased;
            () = told_to_end => Ok(()),
            outcome = self.serve() => outcome,
        }
    }

    async fn serve(&mut self) -> io::Result<()> {
        while let Some(frame) = self.next_frame().await? {
            self.answer(frame).await?;
        }
        Ok(())
    }

    async fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            let was_empty = self.received.is_empty();
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Ok(None);
            }
            if was_empty {
                self.first_byte_ns = monotonic_ns();
            }
        }
    }

    fn take_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(header) = self.received.first_chunk::<HEADER>().copied() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[2..4] != [0, 0] || !(2..=MAX_PDU + 1).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a Modbus TCP header"));
        }
        let end = HEADER - 1 + length;
        if self.received.len() < end {
            return Ok(None);
        }
        let pdu = self.received[HEADER..end].to_vec();
        self.received.drain(..end);
        Ok(Some(Frame { transaction: [header[0], header[1]], unit: header[6], pdu }))
    }

    async fn answer(&mut self, frame: Frame) -> io::Result<()> {
        let first_byte_ns = self.first_byte_ns;
        // What a hasty client has sent already counts as begun now.
        self.first_byte_ns = monotonic_ns();
        let function = frame.pdu[0];
        let Some((table, start, count)) = read_of(&frame.pdu) else {
            let code = if (1..=4).contains(&function) { ILLEGAL_VALUE } else { ILLEGAL_FUNCTION };
            return self.send(&frame, &[function | 0x80, code], Manner::Right).await;
        };
        let device = Arc::clone(&self.device);
        let (ordinal, ticket) = device.begin(self.peer, frame.unit, first_byte_ns);
        let request = ReadRequest { peer: self.peer, unit: frame.unit, table, start, count, ordinal };
        let mut open = Open { device: &device, request, first_byte_ns, ticket: Some(ticket) };

        self.wait_to_answer(&mut open).await?;
        let manner = self.orders.borrow().behaviour.manner;
        let (pdu, end) = compose(function, &request, manner, device.config.source.as_ref());
        self.send(&frame, &pdu, manner).await?;
        if manner == Manner::Half {
            return self.wait(&mut open, pending()).await;
        }
        open.end(end);
        Ok(())
    }

    /// Waits out the delay and any pause. An error if the client hangs up meanwhile.
    async fn wait_to_answer(&mut self, open: &mut Open<'_>) -> io::Result<()> {
        let delay = self.orders.borrow_and_update().behaviour.delay;
        let answers_at = Instant::now() + delay;
        if delay.is_zero() && self.orders.borrow().behaviour.manner != Manner::Paused {
            return Ok(());
        }
        let mut orders = self.orders.clone();
        let ready = async move {
            tokio::time::sleep_until(answers_at).await;
            told(&mut orders, |manner| manner != Manner::Paused).await;
        };
        self.wait(open, ready).await
    }

    /// Waits until it is `ready`; the request counts as unanswered if that takes too long. An error if the client
    /// hangs up meanwhile.
    async fn wait(&mut self, open: &mut Open<'_>, ready: impl Future<Output = ()>) -> io::Result<()> {
        let gives_up = Instant::now() + self.device.config.response_cap;
        tokio::pin!(ready);
        loop {
            tokio::select! {
                biased;
                () = &mut ready => return Ok(()),
                () = tokio::time::sleep_until(gives_up), if open.is_open() => open.end(End::Unanswered),
                read = self.stream.read_buf(&mut self.received) => {
                    if read? == 0 {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "client left unanswered"));
                    }
                    if self.received.len() > 16 * (HEADER + MAX_PDU) {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "client does not wait for answers"));
                    }
                }
            }
        }
    }

    async fn send(&mut self, frame: &Frame, pdu: &[u8], manner: Manner) -> io::Result<()> {
        self.stream.write_all(&framed(frame, pdu, manner)).await
    }
}

/// What goes out for a protocol data unit.
fn framed(frame: &Frame, pdu: &[u8], manner: Manner) -> Vec<u8> {
    if manner == Manner::Serial {
        return [&[frame.unit][..], pdu, &CHECKSUM].concat();
    }
    let transaction = match manner {
        Manner::OtherTransaction => u16::from_be_bytes(frame.transaction).wrapping_sub(1).to_be_bytes(),
        _ => frame.transaction,
    };
    let mut bytes = Vec::with_capacity(HEADER + pdu.len());
    bytes.extend(transaction);
    bytes.extend([0, 0]);
    bytes.extend((pdu.len() as u16 + 1).to_be_bytes());
    bytes.push(if manner == Manner::OtherUnit { frame.unit ^ 1 } else { frame.unit });
    bytes.extend(pdu);
    if manner == Manner::Half {
        bytes.truncate(bytes.len() / 2);
    }
    bytes
}

impl Open<'_> {
    fn is_open(&self) -> bool {
        self.ticket.is_some()
    }

    fn end(&mut self, end: End) {
        if let Some(ticket) = self.ticket.take() {
            self.device.end(&self.request, self.first_byte_ns, ticket, end);
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.end(End::Unanswered);
    }
}

/// Table, start and count of a read request; `None` if it is none, or asks for too much or nothing.
fn read_of(pdu: &[u8]) -> Option<(Table, u16, u16)> {
    let &[function, start_high, start_low, count_high, count_low] = pdu else { return None };
    let (table, most) = match function {
        1 => (Table::Coil, 2_000),
        2 => (Table::Discrete, 2_000),
        3 => (Table::Holding, 125),
        4 => (Table::Input, 125),
        _ => return None,
    };
    let start = u16::from_be_bytes([start_high, start_low]);
    let count = u16::from_be_bytes([count_high, count_low]);
    (1..=most).contains(&count).then_some((table, start, count))
}

/// The answer to a read, and how the request ends with it.
fn compose(
    function: u8,
    request: &ReadRequest,
    manner: Manner,
    source: &dyn RegisterSource,
) -> (Vec<u8>, End) {
    let refuse = |code| (vec![function | 0x80, code], End::Refused(code));
    if let Manner::Exception(code) = manner {
        return refuse(code);
    }
    let word = |place| source.word(request, request.start.checked_add(place)?);
    let Some(mut words) = (0..request.count).map(word).collect::<Option<Vec<u16>>>() else {
        return refuse(ILLEGAL_ADDRESS);
    };
    let is_bits = matches!(request.table, Table::Coil | Table::Discrete);
    if manner == Manner::Short {
        words.truncate(words.len().saturating_sub(if is_bits { 8 } else { 1 }));
    }
    let data: Vec<u8> = if is_bits {
        words.iter_mut().for_each(|word| *word = u16::from(*word != 0));
        let octet = |eight: &[u16]| eight.iter().rev().fold(0, |octet, bit| octet << 1 | *bit as u8);
        words.chunks(8).map(octet).collect()
    } else {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    };
    let mut pdu = vec![function, data.len() as u8];
    pdu.extend(data);
    let end = match manner {
        Manner::Short | Manner::OtherTransaction | Manner::OtherUnit | Manner::Serial | Manner::Half => {
            End::Unanswered
        }
        // Whoever is served while a device falls silent is served as ever.
        _ => End::Answered(words),
    };
    (pdu, end)
}
