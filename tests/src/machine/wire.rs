//! A wire through this process: what one host says to another takes its way through here, and is delayed, lost, overtaken,
//! doubled or held up on it.
//!
//! - It lies beside the bridge of a [`Network`]: on each host, routes to the others lead into a device of their own. This
//!   process, and what listens here, is reached over the bridge as before; the network's filters stay in force.
//! - It carries IP packets as a cable would: the kernel cuts what it sends to their size before they come here.
//! - Each directed edge has a [`Line`], and counts what was done to its packets. What is drawn follows from the seed, packet
//!   by packet.
//! - An edge has room for so many bytes, as a router has ([`Line::room`]). What comes beyond that is dropped.
//! - One thread carries everything. It ends when this is dropped, and its devices with it; the hosts speak over the bridge
//!   again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::network::Network;
use super::{Unable, run};

/// Longer than the packets behind take to come, where anything is said.
pub const HELD_BACK: Duration = Duration::from_millis(30);
/// What an edge holds at most, in bytes.
const MOST_ROOM: u64 = 4 << 20;
/// What it holds at least: some packets.
const LEAST_ROOM: u64 = 6_000;
/// What a narrow edge holds beside what is under way, in time.
const LONGEST_QUEUE: Duration = Duration::from_millis(250);
/// No IPv4 packet is larger.
const LARGEST: usize = 65_535;
/// Packets of one host that are taken before others have their turn, and what is due its moment.
const AT_ONCE: usize = 64;
/// Packets that wait in the kernel for this thread.
const QUEUE: u32 = 4_096;
/// The name of the device on each host.
const DEVICE: &str = "wire";

/// What an edge does to packets; by default nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// How long each is under way at least.
    pub delay: Duration,
    /// How much longer at most. The order stays.
    pub jitter: Duration,
    /// So many of a hundred are lost.
    pub lost: u8,
    /// So many of a hundred are held back, so that others overtake them.
    pub overtaken: u8,
    /// So many of a hundred come twice.
    pub doubled: u8,
    /// Bytes a second, if they are counted.
    pub rate: Option<u64>,
}

/// What was done on an edge, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sent by the one host.
    pub came: u64,
    /// Given to the other; doubled ones twice.
    pub left: u64,
    /// Of these, given no sooner than the line's delay allowed, where it has one.
    pub delayed: u64,
    /// Of these, given behind one that came later.
    pub overtaken: u64,
    /// Lost.
    pub lost: u64,
    /// Doubled.
    pub doubled: u64,
    /// Held up by those before them on a narrow line.
    pub queued: u64,
    /// Dropped, because there was no room, or the host did not take it.
    pub dropped: u64,
}

/// A wire between the hosts of a network, which it must not outlive.
#[derive(Debug)]
pub struct Wire {
    /// By `from * hosts + to`.
    edges: Arc<Mutex<Vec<Edge>>>,
    hosts: usize,
    /// The thread ends when this does.
    end: Option<PipeWriter>,
    carrying: Option<JoinHandle<io::Result<()>>>,
}

/// One directed edge.
#[derive(Debug)]
struct Edge {
    line: Line,
    counts: Counts,
    random: SmallRng,
    /// When the last packet has left a narrow line's sender.
    sent_at: Instant,
    /// When the last packet arrives that keeps its order.
    arrives_at: Instant,
    /// Bytes under way.
    bytes: u64,
    /// The latest packet that arrived, in the order in which they came.
    latest: u64,
}

/// A packet under way.
#[derive(Debug)]
struct Packet {
    edge: usize,
    to: usize,
    came: Instant,
    /// Which of its edge, from 1.
    number: u64,
    /// The delay of the line at that time.
    delay: Duration,
    bytes: Vec<u8>,
}

/// What the thread owns.
#[derive(Debug)]
struct Carrier {
    /// One for each host.
    devices: Vec<File>,
    addresses: Vec<IpAddr>,
    edges: Arc<Mutex<Vec<Edge>>>,
    /// By when they arrive, and by a number that no other has.
    under_way: BTreeMap<(Instant, u64), Packet>,
    serial: u64,
}

impl Line {
    /// How long a packet is under way at most, unless it has to queue.
    pub fn longest(&self) -> Duration {
        let held_back = if self.overtaken > 0 { HELD_BACK } else { Duration::ZERO };
        self.delay + self.jitter + held_back
    }

    /// Bytes that are under way at one time at most.
    pub fn room(&self) -> u64 {
        let time = self.longest() + LONGEST_QUEUE;
        let bytes = |rate: u64| u128::from(rate) * time.as_millis() / 1_000;
        let bytes = self.rate.map(bytes).and_then(|bytes| u64::try_from(bytes).ok());
        bytes.unwrap_or(MOST_ROOM).clamp(LEAST_ROOM, MOST_ROOM)
    }
}

impl Counts {
    /// What was done since these counts were taken.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            came: self.came - before.came,
            left: self.left - before.left,
            delayed: self.delayed - before.delayed,
            overtaken: self.overtaken - before.overtaken,
            lost: self.lost - before.lost,
            doubled: self.doubled - before.doubled,
            queued: self.queued - before.queued,
            dropped: self.dropped - before.dropped,
        }
    }
}

impl Wire {
    /// Lays a wire between all hosts of a network, which does nothing to packets yet.
    pub fn lay(network: &Network, seed: u64) -> Result<Self, Unable> {
        let unable = |error: io::Error| Unable(format!("a wire between hosts cannot be laid: {error}"));
        let addresses = network.addresses();
        let hosts = addresses.len();
        let now = Instant::now();
        let edge = |number: u64| Edge::new(SmallRng::seed_from_u64(seed.wrapping_add(number)), now);
        let edges: Vec<Edge> = (0..(hosts * hosts) as u64).map(edge).collect();
        let edges = Arc::new(Mutex::new(edges));
        let devices = (0..hosts).map(|host| device(network, host)).collect::<io::Result<Vec<File>>>();
        let devices = devices.map_err(unable)?;
        let (ended, end) = io::pipe().map_err(unable)?;
        let carrier =
            Carrier { devices, addresses, edges: Arc::clone(&edges), under_way: BTreeMap::new(), serial: 0 };
        let thread = thread::Builder::new().name(DEVICE.to_owned());
        let carrying = thread.spawn(move || carrier.carry(&ended)).map_err(unable)?;
        let wire = Self { edges, hosts, end: Some(end), carrying: Some(carrying) };
        // Nobody's way leads here before somebody carries.
        (0..hosts).try_for_each(|host| route(network, host)).map_err(unable)?;
        Ok(wire)
    }

    /// What becomes of packets of `from` to `to` from now on.
    pub fn set(&self, from: usize, to: usize, line: Line) {
        lock(&self.edges)[from * self.hosts + to].line = line;
    }

    /// Does nothing to packets any more. What is under way arrives when it would have.
    pub fn mend(&self) {
        lock(&self.edges).iter_mut().for_each(|edge| edge.line = Line::default());
    }

    /// What was done to packets of `from` to `to` until now.
    pub fn counts(&self, from: usize, to: usize) -> Counts {
        lock(&self.edges)[from * self.hosts + to].counts
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end = None;
        let Some(carrying) = self.carrying.take() else { return };
        match carrying.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("the wire between the hosts had broken: {error}"),
            Err(_) => eprintln!("the wire between the hosts had broken: its thread panicked"),
        }
    }
}

/// Makes the device of a host, and moves it there.
fn device(network: &Network, host: usize) -> io::Result<File> {
    let name = network.device(host);
    let device = kernel::tunnel(&name)?;
    let namespace = network.namespace(host);
    run("ip", &["link", "set", &name, "netns", &namespace, "name", DEVICE], "")?;
    Ok(device)
}

/// Leads what a host says to the others into its device.
fn route(network: &Network, host: usize) -> io::Result<()> {
    let own = network.address(host);
    let mut script = format!("link set {DEVICE} txqueuelen {QUEUE} up\n");
    for other in network.addresses().into_iter().filter(|other| *other != own) {
        let _ = writeln!(script, "route add {other}/32 dev {DEVICE} src {own}");
    }
    run("ip", &["-netns", &network.namespace(host), "-batch", "-"], &script).map(drop)
}

/// What lies behind the lock is whole after every statement, so that a panic elsewhere does no harm.
fn lock(edges: &Mutex<Vec<Edge>>) -> MutexGuard<'_, Vec<Edge>> {
    edges.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Carrier {
    /// Carries packets until the other end of the pipe is closed.
    fn carry(mut self, ended: &PipeReader) -> io::Result<()> {
        let mut buffer = vec![0; LARGEST];
        while let Some(speaking) = self.wait(ended)? {
            for host in speaking {
                self.hear(host, &mut buffer)?;
            }
            self.deliver(Instant::now());
        }
        Ok(())
    }

    /// Waits until somebody speaks or a packet is due. Who speaks; `None` at the end.
    fn wait(&self, ended: &PipeReader) -> io::Result<Option<Vec<usize>>> {
        let due = self.under_way.first_key_value().map(|((due, _), _)| *due);
        let time = due.map(|due| due.saturating_duration_since(Instant::now()));
        let time = time.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut polled: Vec<PollFd<'_>> =
            self.devices.iter().map(|device| PollFd::new(device, PollFlags::IN)).collect();
        polled.push(PollFd::new(ended, PollFlags::IN));
        match poll(&mut polled, time.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Some(Vec::new())),
            Err(error) => return Err(error.into()),
        }
        let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        let (end, devices) = polled.split_last().expect("the pipe is the last");
        if is_ready(end) {
            return Ok(None);
        }
        Ok(Some((0..devices.len()).filter(|host| is_ready(&devices[*host])).collect()))
    }

    /// Takes what a host has said.
    fn hear(&mut self, host: usize, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            match self.devices[host].read(buffer) {
                Ok(count) => self.take(host, &buffer[..count], Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes a packet of a host, if it is for another one.
    fn take(&mut self, from: usize, bytes: &[u8], now: Instant) {
        let Some(destination) = destination(bytes) else { return };
        let Some(to) = self.addresses.iter().position(|address| *address == destination) else { return };
        let number = from * self.addresses.len() + to;
        let mut edges = lock(&self.edges);
        let edge = &mut edges[number];
        for due in edge.take(bytes.len() as u64, now) {
            let packet = Packet {
                edge: number,
                to,
                came: now,
                number: edge.counts.came,
                delay: edge.line.delay,
                bytes: bytes.to_vec(),
            };
            self.under_way.insert((due, self.serial), packet);
            self.serial += 1;
        }
    }

    /// Gives hosts what is due.
    fn deliver(&mut self, now: Instant) {
        while let Some(next) = self.under_way.first_entry() {
            if next.key().0 > now {
                break;
            }
            let packet = next.remove();
            let written = self.devices[packet.to].write(&packet.bytes);
            let is_taken = matches!(written, Ok(count) if count == packet.bytes.len());
            lock(&self.edges)[packet.edge].arrived(&packet, is_taken, now);
        }
    }
}

impl Edge {
    fn new(random: SmallRng, now: Instant) -> Self {
        Self {
            line: Line::default(),
            counts: Counts::default(),
            random,
            sent_at: now,
            arrives_at: now,
            bytes: 0,
            latest: 0,
        }
    }

    /// Takes a packet of so many bytes. When it arrives: never, once or twice.
    fn take(&mut self, bytes: u64, now: Instant) -> Vec<Instant> {
        self.counts.came += 1;
        if self.happens(self.line.lost) {
            self.counts.lost += 1;
            return Vec::new();
        }
        let copies = 1 + u64::from(self.happens(self.line.doubled));
        if self.bytes + bytes * copies > self.line.room() {
            self.counts.dropped += 1;
            return Vec::new();
        }
        self.bytes += bytes * copies;
        self.counts.doubled += copies - 1;
        let due = self.due(bytes, now);
        (0..copies).map(|_| due).collect()
    }

    /// When a packet that comes now arrives.
    fn due(&mut self, bytes: u64, now: Instant) -> Instant {
        let mut sent_at = now;
        if let Some(rate) = self.line.rate {
            self.counts.queued += u64::from(self.sent_at > now);
            sent_at = self.sent_at.max(now) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            self.sent_at = sent_at;
        }
        let jitter = self.line.jitter.mul_f64(self.random.random_range(0.0..=1.0));
        let due = (sent_at + self.line.delay + jitter).max(self.arrives_at);
        if self.happens(self.line.overtaken) {
            return due + HELD_BACK;
        }
        self.arrives_at = due;
        due
    }

    /// Counts a packet that was given to its host, or was not taken there.
    fn arrived(&mut self, packet: &Packet, is_taken: bool, now: Instant) {
        self.bytes -= packet.bytes.len() as u64;
        if !is_taken {
            self.counts.dropped += 1;
            return;
        }
        self.counts.left += 1;
        let is_late = !packet.delay.is_zero() && now.duration_since(packet.came) >= packet.delay;
        self.counts.delayed += u64::from(is_late);
        self.counts.overtaken += u64::from(packet.number < self.latest);
        self.latest = self.latest.max(packet.number);
    }

    fn happens(&mut self, percent: u8) -> bool {
        self.random.random_range(0..100) < percent
    }
}

/// Where an IPv4 packet goes (RFC 791, §3.1); `None` for anything else.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (packet[0] >> 4 == 4).then(|| Ipv4Addr::from(address).into())
}

#[cfg(test)]
mod tests {
    use super::super::able;
    use super::*;

    const PACKET: u64 = 1_000;

    fn edge(line: Line) -> (Edge, Instant) {
        let now = Instant::now();
        (Edge { line, ..Edge::new(SmallRng::seed_from_u64(7), now) }, now)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_line_by_itself_does_nothing() {
        let (mut edge, now) = edge(Line::default());
        assert!((0..100).all(|_| edge.take(PACKET, now) == [now]));
        assert_eq!(edge.counts, Counts { came: 100, ..Counts::default() });
    }

    #[test]
    fn jitter_keeps_the_order_and_the_bounds() {
        let (mut edge, now) = edge(Line { delay: millis(20), jitter: millis(10), ..Line::default() });
        let due: Vec<Instant> = (0..100).flat_map(|step| edge.take(PACKET, now + millis(step))).collect();
        assert!(due.is_sorted() && due.windows(2).any(|two| two[1] - two[0] > millis(1)), "{due:?}");
        for (step, due) in (0..).zip(&due) {
            let under_way = *due - (now + millis(step));
            assert!((millis(20)..=millis(30)).contains(&under_way), "{under_way:?}");
        }
    }

    #[test]
    fn so_many_are_lost_doubled_and_held_back_as_were_told() {
        let line = Line { lost: 20, doubled: 10, overtaken: 30, ..Line::default() };
        let (mut edge, now) = edge(line);
        let mut came_as = [0; 3];
        let mut held_back = 0;
        for step in 0..1_000 {
            let now = now + millis(step);
            let due = edge.take(1, now);
            came_as[due.len()] += 1;
            held_back += u64::from(due.first().is_some_and(|due| *due >= now + HELD_BACK));
        }
        assert!((150..250).contains(&came_as[0]) && (50..120).contains(&came_as[2]), "{came_as:?}");
        assert!((180..300).contains(&held_back), "{held_back}");
        assert_eq!((edge.counts.lost, edge.counts.doubled), (came_as[0], came_as[2]));
    }

    #[test]
    fn a_narrow_line_queues_and_drops_what_it_has_no_room_for() {
        let (mut edge, now) = edge(Line { rate: Some(100_000), ..Line::default() });
        let due: Vec<Instant> = (0..100).flat_map(|_| edge.take(PACKET, now)).collect();
        // Ten milliseconds each, as many as a quarter of a second takes.
        assert_eq!(due, (1..=25).map(|number| now + millis(10) * number).collect::<Vec<_>>());
        assert_eq!((edge.counts.queued, edge.counts.dropped), (24, 75));
        assert_eq!((edge.bytes, Line::default().room()), (25 * PACKET, MOST_ROOM));
    }

    #[test]
    fn what_arrives_is_counted_by_what_became_of_it() {
        let (mut edge, came) = edge(Line::default());
        edge.bytes = 4;
        let packet = |number, delay| Packet { edge: 0, to: 1, came, number, delay, bytes: vec![0] };
        edge.arrived(&packet(1, Duration::ZERO), true, came);
        edge.arrived(&packet(3, millis(5)), true, came + millis(5));
        edge.arrived(&packet(2, millis(5)), true, came + millis(4));
        edge.arrived(&packet(4, millis(5)), false, came + millis(9));
        let expected = Counts { left: 3, delayed: 1, overtaken: 1, dropped: 1, ..Counts::default() };
        assert_eq!((edge.counts, edge.bytes), (expected, 0));
        let before = Counts { left: 1, ..Counts::default() };
        assert_eq!(edge.counts.since(&before), Counts { left: 2, ..expected });
    }

    #[test]
    fn only_ipv4_packets_have_a_destination() {
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        packet[16..].copy_from_slice(&[10, 128, 0, 12]);
        assert_eq!(destination(&packet), Some(IpAddr::from([10, 128, 0, 12])));
        packet[0] = 0x60;
        assert_eq!((destination(&packet), destination(&[0x45])), (None, None));
    }

    /// Runs a line of shell on a host.
    fn say(network: &Network, host: usize, script: &str) -> io::Result<String> {
        let launcher = network.launcher(host);
        let words = launcher.iter().map(String::as_str).chain(["timeout", "20", "bash", "-c", script]);
        let words: Vec<&str> = words.collect();
        run(words[0], &words[1..], "")
    }

    /// How long one host takes to be refused a connection by another, where nobody listens.
    fn round_trip(network: &Network, from: usize, to: usize) -> Duration {
        let began = Instant::now();
        let refused = say(network, from, &format!("exec 3<>/dev/tcp/{}/9", network.address(to)));
        let refused = refused.expect_err("nobody listens").to_string();
        assert!(refused.contains("refused"), "{refused}");
        began.elapsed()
    }

    /// Sends so many datagrams of a thousand bytes, and waits until the wire has taken them.
    fn send(network: &Network, wire: &Wire, count: u32) -> Counts {
        let before = wire.counts(0, 1);
        let datagram = format!("printf %01000d 0 >/dev/udp/{}/9", network.address(1));
        say(network, 0, &format!("for i in {{1..{count}}}; do {datagram}; done")).expect("it is sent");
        // Its answer comes behind everything that was said before.
        wire.mend();
        round_trip(network, 0, 1);
        wire.counts(0, 1).since(&before)
    }

    #[test]
    fn what_hosts_say_to_each_other_is_delayed_lost_and_dropped_and_the_wire_is_removed() {
        let Some(network) = able(Network::make(2)) else { return };
        let Some(wire) = able(Wire::lay(&network, 7)) else { return };
        let fast = (0..3).map(|_| round_trip(&network, 0, 1)).min().expect("three of them");
        assert!(wire.counts(0, 1).came >= 3 && wire.counts(1, 0).left >= 3, "{wire:?}");

        let delay = 10 * fast.max(millis(20));
        wire.set(0, 1, Line { delay, jitter: delay / 10, ..Line::default() });
        let slow = round_trip(&network, 0, 1);
        assert!(slow >= delay && slow > 5 * fast, "{slow:?} after {fast:?}");
        assert!(wire.counts(0, 1).delayed > 0 && wire.counts(1, 0).delayed == 0, "{wire:?}");
        wire.mend();

        wire.set(0, 1, Line { lost: 50, ..Line::default() });
        let counts = send(&network, &wire, 200);
        assert!((50..150).contains(&counts.lost), "{counts:?}");
        assert!(counts.came >= 200 && counts.left + counts.lost == counts.came, "{counts:?}");

        wire.set(0, 1, Line { rate: Some(10_000), doubled: 100, ..Line::default() });
        let counts = send(&network, &wire, 100);
        assert!(counts.queued > 0 && counts.doubled > 0 && counts.dropped > 50, "{counts:?}");

        drop(wire);
        let left = say(&network, 0, &format!("ip link show {DEVICE}"));
        assert!(left.is_err(), "{left:?}");
        round_trip(&network, 0, 1);
    }
}
