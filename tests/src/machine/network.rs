//! A network of hosts in this machine: a namespace and an address for each, one bridge between them, and this process
//! beside it.
//!
//! - Devices, pushers and receivers listen at [`Network::outside`]; a host reaches them whatever is done to its wires.
//! - Between two hosts there are two directed edges. Each is whole, or packets that would have come over it are dropped,
//!   refused or lost where they come in, and counted there.
//! - The bridge has a namespace of its own: what this machine filters between its bridges does not touch it.
//! - Names have the number of this process: two runs do not meet.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Unable, must_be_root, run};

/// What the names of all networks begin with, and of whatever else is made here.
pub(super) const PREFIX: &str = "hf";
/// Below `10.128.0.0`, of 256 addresses each.
const SUBNETS: u32 = 64 * 256;
/// The last part of the address of the first host.
const FIRST_HOST: u8 = 11;
/// The last part of this process's address.
const OUTSIDE: u8 = 1;

/// Three hosts whose six edges are all whole.
pub const WHOLE: u8 = 0b11_1111;
/// How many graphs of three hosts there are.
pub const GRAPHS: u8 = 64;
/// The directed edges of three hosts, from the lowest bit of a graph to the highest: from, to.
pub const EDGES: [(usize, usize); 6] = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];

/// Networks that this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Hosts and what lies between them. It is taken away when this is dropped, and whatever still runs in it speaks to nobody.
#[derive(Debug)]
pub struct Network {
    /// What the names of its parts begin with; alone, the name of this process's end of the wire.
    name: String,
    subnet: [u8; 3],
    hosts: usize,
    /// By `from * hosts + to`.
    edges: Mutex<Vec<Edge>>,
}

/// What becomes of packets from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Whole,
    /// Nobody hears of them, as with a pulled cable.
    Blocked,
    /// Whoever opens a connection, or says something on one, is told that there is none.
    Reset,
    /// So many of a hundred are lost.
    Lossy(u8),
}

impl Network {
    /// Makes a network of so many hosts.
    pub fn make(hosts: usize) -> Result<Self, Unable> {
        must_be_root()?;
        sweep();
        let unable = |error: io::Error| Unable(format!("hosts of their own cannot be made: {error}"));
        let (process, serial) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let routes = run("ip", &["-4", "route", "show", "table", "all"], "").map_err(unable)?;
        let subnet = free_subnet(&routes, process.wrapping_mul(31).wrapping_add(serial));
        let subnet = subnet.ok_or_else(|| Unable("no network below 10.128.0.0 is free".to_owned()))?;
        let edges = Mutex::new(vec![Edge::Whole; hosts * hosts]);
        let network = Self { name: format!("{PREFIX}{process}-{serial}"), subnet, hosts, edges };
        network.set_up().map_err(unable)?;
        Ok(network)
    }

    fn set_up(&self) -> io::Result<()> {
        let (name, hub) = (&self.name, self.hub());
        run("ip", &["netns", "add", &hub], "")?;
        let mut links = format!("link add out netns {hub} type veth peer name {name}\n");
        let mut ports = "link add hub type bridge\nlink set out master hub\n".to_owned();
        for host in 0..self.hosts {
            let namespace = self.namespace(host);
            run("ip", &["netns", "add", &namespace], "")?;
            let _ =
                writeln!(links, "link add eth0 netns {namespace} type veth peer name port{host} netns {hub}");
            let _ = writeln!(ports, "link set port{host} master hub\nlink set port{host} up");
        }
        let _ = writeln!(links, "addr add {}/24 dev {name}\nlink set {name} up", self.outside());
        ports.push_str("link set out up\nlink set hub up\n");
        run("ip", &["-batch", "-"], &links)?;
        run("ip", &["-netns", &hub, "-batch", "-"], &ports)?;
        for host in 0..self.hosts {
            let address = self.address(host);
            let own = format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
            run("ip", &["-netns", &self.namespace(host), "-batch", "-"], &own)?;
            self.filter(host, &self.table())?;
        }
        Ok(())
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}-{}", self.name, host + 1)
    }

    fn hub(&self) -> String {
        format!("{}-0", self.name)
    }

    /// A name for a device of a host that is not moved there yet: no other device of this machine has it.
    pub(super) fn device(&self, host: usize) -> String {
        format!("{}w{}", self.name, host + 1)
    }

    /// The address of a host.
    pub fn address(&self, host: usize) -> IpAddr {
        let [a, b, c] = self.subnet;
        IpAddr::from([a, b, c, FIRST_HOST + host as u8])
    }

    /// The addresses of all hosts.
    pub fn addresses(&self) -> Vec<IpAddr> {
        (0..self.hosts).map(|host| self.address(host)).collect()
    }

    /// This process's own address in the network.
    pub fn outside(&self) -> IpAddr {
        let [a, b, c] = self.subnet;
        IpAddr::from(Ipv4Addr::new(a, b, c, OUTSIDE))
    }

    /// The command line that runs a program on a host. It becomes the program, and sees all mounts as they are: `ip netns
    /// exec` would give it a mount namespace, which holds what is unmounted elsewhere.
    pub fn launcher(&self, host: usize) -> Vec<String> {
        ["nsenter", &format!("--net=/run/netns/{}", self.namespace(host)), "--"].map(str::to_owned).to_vec()
    }

    /// Drops what `from` says to `to`.
    pub fn block(&self, from: usize, to: usize) -> io::Result<()> {
        self.set(from, to, Edge::Blocked)
    }

    /// Makes the edge whole.
    pub fn unblock(&self, from: usize, to: usize) -> io::Result<()> {
        self.set(from, to, Edge::Whole)
    }

    /// Refuses what `from` says to `to`, with a reset.
    pub fn reset(&self, from: usize, to: usize) -> io::Result<()> {
        self.set(from, to, Edge::Reset)
    }

    /// Loses so many of a hundred packets that `from` sends to `to`.
    pub fn loss(&self, from: usize, to: usize, percent: u8) -> io::Result<()> {
        self.set(from, to, if percent < 100 { Edge::Lossy(percent) } else { Edge::Blocked })
    }

    /// How many packets from `from` to `to` were dropped, refused or lost until now.
    pub fn blocked_packets(&self, from: usize, to: usize) -> io::Result<u64> {
        let said = self.inside(to, &["nft", "list", "counter", "ip", PREFIX, &counter(from)], "")?;
        packets(&said).ok_or_else(|| io::Error::other(format!("a counter without packets: {said}")))
    }

    /// Takes a host's only link down: neither its peers nor this process reach it. It comes back with [`Network::link_up`].
    pub fn link_down(&self, host: usize) -> io::Result<()> {
        run("ip", &["-netns", &self.namespace(host), "link", "set", "eth0", "down"], "").map(drop)
    }

    /// Brings a host's link back.
    pub fn link_up(&self, host: usize) -> io::Result<()> {
        run("ip", &["-netns", &self.namespace(host), "link", "set", "eth0", "up"], "").map(drop)
    }

    /// Makes exactly those edges of three hosts whole whose bits are set, and blocks the others. The bits are those of
    /// [`EDGES`]: 0 is from the first host to the second, 1 first to third, 2 second to first, 3 second to third, 4 third to
    /// first, 5 third to second.
    pub fn set_graph(&self, graph: u8) -> io::Result<()> {
        self.form(graph, Edge::Blocked)
    }

    /// The same, but refuses what comes over the others, with a reset. The reset takes the edge back: it is not heard where
    /// that refuses, too.
    pub fn set_graph_of_resets(&self, graph: u8) -> io::Result<()> {
        self.form(graph, Edge::Reset)
    }

    fn form(&self, graph: u8, missing: Edge) -> io::Result<()> {
        let mut edges = self.edges();
        for (bit, (from, to)) in EDGES.into_iter().enumerate() {
            let is_whole = graph & (1 << bit) != 0;
            edges[from * self.hosts + to] = if is_whole { Edge::Whole } else { missing };
        }
        (0..self.hosts).try_for_each(|host| self.filter(host, &self.rules(&edges, host)))
    }

    /// Says something over each edge that a graph lacks. Gives how many packets were dropped there before that, edge by
    /// edge.
    pub fn try_missing(&self, graph: u8) -> io::Result<Vec<u64>> {
        let dropped = self.dropped(graph)?;
        for (from, to) in missing(graph) {
            let datagram = format!("echo >/dev/udp/{}/9", self.address(to));
            self.inside(from, &["bash", "-c", &datagram], "")?;
        }
        Ok(dropped)
    }

    /// How many packets were dropped on each edge that a graph lacks.
    pub fn dropped(&self, graph: u8) -> io::Result<Vec<u64>> {
        missing(graph).map(|(from, to)| self.blocked_packets(from, to)).collect()
    }

    fn set(&self, from: usize, to: usize, edge: Edge) -> io::Result<()> {
        let mut edges = self.edges();
        edges[from * self.hosts + to] = edge;
        self.filter(to, &self.rules(&edges, to))
    }

    /// What lies behind the lock is whole after every statement, so that a panic elsewhere does no harm.
    fn edges(&self) -> MutexGuard<'_, Vec<Edge>> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a host's filter begins with: it lets everything in, and has a counter for each of the others.
    fn table(&self) -> String {
        let mut script = format!("add table ip {PREFIX}\n");
        let chain = "{ type filter hook input priority 0; policy accept; }";
        let _ = writeln!(script, "add chain ip {PREFIX} input {chain}");
        for from in 0..self.hosts {
            let _ = writeln!(script, "add counter ip {PREFIX} {}", counter(from));
        }
        script
    }

    /// The rules of what comes in at a host. The counters go on.
    fn rules(&self, edges: &[Edge], to: usize) -> String {
        let mut script = format!("flush chain ip {PREFIX} input\n");
        for from in (0..self.hosts).filter(|from| *from != to) {
            let (source, counter) = (self.address(from), counter(from));
            let rule = match edges[from * self.hosts + to] {
                Edge::Whole => continue,
                Edge::Blocked => format!("counter name \"{counter}\" drop"),
                Edge::Reset => {
                    format!("meta l4proto tcp counter name \"{counter}\" reject with tcp reset")
                }
                Edge::Lossy(percent) => {
                    format!("numgen random mod 100 < {percent} counter name \"{counter}\" drop")
                }
            };
            let _ = writeln!(script, "add rule ip {PREFIX} input ip saddr {source} {rule}");
        }
        script
    }

    /// All of a script is in force at once, or none of it.
    fn filter(&self, host: usize, script: &str) -> io::Result<()> {
        self.inside(host, &["nft", "--file", "-"], script).map(drop)
    }

    fn inside(&self, host: usize, command: &[&str], input: &str) -> io::Result<String> {
        let launcher = self.launcher(host);
        let words: Vec<&str> = launcher.iter().map(String::as_str).chain(command.iter().copied()).collect();
        run(words[0], &words[1..], input)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // If it was made in part only, the rest is not there to be removed.
        let _ = run("ip", &["link", "delete", &self.name], "");
        for namespace in (0..self.hosts).map(|host| self.namespace(host)).chain([self.hub()]) {
            let _ = run("ip", &["netns", "delete", &namespace], "");
        }
    }
}

/// Removes the networks of processes that are gone, with what they left running there.
pub(super) fn sweep() {
    let names = run("ip", &["netns", "list"], "").unwrap_or_default();
    for name in names.lines().filter_map(|line| line.split_whitespace().next()) {
        if !is_left(name) {
            continue;
        }
        let left = run("ip", &["netns", "pids", name], "").unwrap_or_default();
        for process in left.split_whitespace() {
            let _ = run("kill", &["-KILL", process], "");
        }
        if let Err(error) = run("ip", &["netns", "delete", name], "") {
            eprintln!("{name} is left of a run that is gone: {error}");
        }
    }
}

/// Whether something of this name was made by a process that is gone.
pub(super) fn is_left(name: &str) -> bool {
    maker(name).is_some_and(|maker| !Path::new("/proc").join(maker).exists())
}

/// The number of the process that made a namespace; `None` if it is none of ours.
fn maker(namespace: &str) -> Option<&str> {
    let (process, _) = namespace.strip_prefix(PREFIX)?.split_once('-')?;
    process.parse::<u32>().is_ok().then_some(process)
}

/// The beginning of a network of 256 addresses that no route leads to; the search begins at `start`.
fn free_subnet(routes: &str, start: u32) -> Option<[u8; 3]> {
    let candidates = (0..SUBNETS).map(|step| start.wrapping_add(step) % SUBNETS);
    let mut subnets = candidates.map(|number| [10, 128 + (number / 256) as u8, (number % 256) as u8]);
    subnets.find(|[a, b, c]| !routes.contains(&format!("{a}.{b}.{c}.")))
}

fn counter(from: usize) -> String {
    format!("from_{}", from + 1)
}

/// `packets N bytes M` in what the filter says of a counter.
fn packets(said: &str) -> Option<u64> {
    let mut words = said.split_whitespace();
    words.find(|word| *word == "packets")?;
    words.next()?.parse().ok()
}

/// The edges that a graph lacks.
fn missing(graph: u8) -> impl Iterator<Item = (usize, usize)> {
    let edges = EDGES.into_iter().enumerate();
    edges.filter(move |(bit, _)| graph & (1 << bit) == 0).map(|(_, edge)| edge)
}

/// Whether two of three hosts hear each other, so that they can agree on something. Over TCP one direction is as good as
/// none.
pub fn is_live(graph: u8) -> bool {
    let missing: BTreeSet<(usize, usize)> = missing(graph).collect();
    let hear_each_other = |(a, b): (usize, usize)| !missing.contains(&(a, b)) && !missing.contains(&(b, a));
    [(0, 1), (0, 2), (1, 2)].into_iter().any(hear_each_other)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::super::able;
    use super::*;

    #[test]
    fn of_64_graphs_37_are_live() {
        assert_eq!((0..GRAPHS).filter(|graph| is_live(*graph)).count(), 37);
        assert!(is_live(WHOLE) && is_live(0b00_0101) && !is_live(0b01_1001) && !is_live(0));
        assert_eq!(missing(0b11_1010).collect::<Vec<_>>(), [(0, 1), (1, 0)]);
    }

    #[test]
    fn a_network_is_taken_that_no_route_leads_to() {
        let routes = "10.128.5.0/24 dev one scope link\n10.128.6.0/24 dev two scope link";
        assert_eq!(free_subnet(routes, 5), Some([10, 128, 7]));
        assert_eq!(free_subnet("", SUBNETS - 1), Some([10, 191, 255]));
    }

    #[test]
    fn only_what_was_made_here_is_swept_away() {
        assert_eq!(maker("hf4711-0-1"), Some("4711"));
        assert_eq!((maker("hf-0-1"), maker("blue"), maker("hfx-1")), (None, None, None));
    }

    #[test]
    fn what_a_counter_says_is_read() {
        assert_eq!(packets("table ip hf {\n\tcounter from_1 {\n\t\tpackets 12 bytes 720\n\t}\n}"), Some(12));
        assert_eq!(packets("nothing"), None);
    }

    /// Whether a connection from a host comes here.
    fn reaches_outside(network: &Network, host: usize, outside: SocketAddr) -> bool {
        let dial = format!("exec 3<>/dev/tcp/{}/{}", outside.ip(), outside.port());
        network.inside(host, &["bash", "-c", &dial], "").is_ok()
    }

    /// Whether a connection from one host to a closed port of another is refused by that one, rather than dropped.
    fn hears(network: &Network, from: usize, to: usize) -> bool {
        let dial = format!("exec 3<>/dev/tcp/{}/9", network.address(to));
        let said = network.inside(from, &["timeout", "1", "bash", "-c", &dial], "");
        said.expect_err("nobody listens").to_string().contains("refused")
    }

    #[test]
    fn an_edge_is_blocked_one_way_counted_and_made_whole_and_everything_is_removed() {
        let Some(network) = able(Network::make(3)) else { return };
        let listener = TcpListener::bind(SocketAddr::new(network.outside(), 0)).expect("a free port");
        let outside = listener.local_addr().expect("bound");
        assert!(reaches_outside(&network, 0, outside) && hears(&network, 0, 1) && hears(&network, 1, 2));

        network.block(0, 1).expect("a rule");
        assert!(!hears(&network, 0, 1), "what the first says is dropped at the second");
        assert!(!hears(&network, 1, 0), "the answer of the first is dropped, too");
        assert!(hears(&network, 1, 2) && hears(&network, 0, 2) && reaches_outside(&network, 1, outside));
        let blocked = network.blocked_packets(0, 1).expect("a counter");
        assert!(blocked >= 2 && network.blocked_packets(1, 0).expect("a counter") == 0, "{blocked}");

        network.reset(0, 1).expect("a rule");
        assert!(hears(&network, 0, 1), "a reset is heard at once");
        let refused = network.blocked_packets(0, 1).expect("a counter");
        network.set_graph_of_resets(WHOLE & !1).expect("rules");
        assert!(hears(&network, 0, 1) && network.blocked_packets(0, 1).expect("a counter") > refused);
        network.set_graph(0).expect("rules");
        network.set_graph(0).expect("the same again");
        let before = network.try_missing(0).expect("six datagrams");
        assert!(!hears(&network, 2, 1), "time for datagrams to arrive, too");
        let after = network.dropped(0).expect("counters");
        assert!(before.iter().zip(&after).all(|(before, after)| before < after), "{before:?}, {after:?}");
        network.set_graph(WHOLE).expect("no rules");
        assert!(hears(&network, 0, 1) && hears(&network, 2, 1));
        network.loss(0, 1, 90).expect("a rule");
        assert!((0..6).any(|_| !hears(&network, 0, 1)), "one in a million runs loses nothing");
        network.unblock(0, 1).expect("no rule");
        network.link_down(0).expect("a link");
        assert!(!reaches_outside(&network, 0, outside));
        network.link_up(0).expect("a link");
        assert!(reaches_outside(&network, 0, outside));

        let (namespace, link) = (network.namespace(0), network.name.clone());
        drop(network);
        let left = run("ip", &["netns", "list"], "").expect("a list");
        assert!(!left.contains(&namespace), "{left}");
        assert!(run("ip", &["link", "show", &link], "").is_err(), "this end of the wire is gone, too");
    }
}
