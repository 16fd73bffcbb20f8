//! Every verb of the command line, end to end: three real nodes, a device, a receiver, and the built program asked for
//! JSON at the endpoint of a *follower*.
//!
//! One cluster and one walk, because founding is the slow part. Judged by exit codes and by what the program prints.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use simulator::modbus::{Config, ModbusServer, ReadRequest};
use simulator::receiver::{Mode, Receiver, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// No step waits longer for what must happen.
const SOON: Duration = Duration::from_secs(40);
/// Tags of the long register list.
const LONG: usize = 10_000;
/// Tags that one group may have.
const IN_GROUP: usize = 2_000;
const NODES: usize = 3;

/// The program, built beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("a test runs from a file");
    let folder = tests.parent().and_then(Path::parent).expect("tests lie in a folder below the programs");
    let program = folder.join(format!("holdfast{}", std::env::consts::EXE_SUFFIX));
    assert!(program.is_file(), "{} is missing: build the workspace's programs first", program.display());
    program
}

/// A command without what the surroundings say of nodes and profiles.
fn command() -> Command {
    let mut command = Command::new(program());
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("HOLDFAST_")) {
            command.env_remove(key);
        }
    }
    command.env("XDG_CONFIG_HOME", "/nowhere").stdin(Stdio::null()).kill_on_drop(true);
    command
}

struct Node {
    name: String,
    admin: SocketAddr,
    health: SocketAddr,
    child: Child,
}

struct Cluster {
    nodes: Vec<Node>,
    folder: tempfile::TempDir,
}

impl Drop for Cluster {
    /// Whoever reads of a failure wants to know what the nodes said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = std::fs::read_to_string(self.folder.path().join(format!("{}.log", node.name)));
                eprintln!("--- {}\n{}", node.name, log.unwrap_or_default());
            }
        }
    }
}

/// What a command said and how it ended.
struct Said {
    code: i32,
    output: String,
    errors: String,
}

impl Said {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}{}", self.output, self.errors);
        self.parsed()
    }

    #[track_caller]
    fn parsed(&self) -> Value {
        serde_json::from_str(&self.output)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}{}", self.output, self.errors))
    }

    /// JSON documents, one a line.
    #[track_caller]
    fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{}{}", self.output, self.errors);
        self.output.lines().map(|line| serde_json::from_str(line).expect("a JSON document a line")).collect()
    }

    #[track_caller]
    fn refused(&self, exit: i32, code: &str) {
        let said = format!("exit {}: {}{}", self.code, self.output, self.errors);
        assert!(self.code == exit && self.errors.contains(code), "expected exit {exit} with {code}; {said}");
    }
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut held = Vec::new();
        for _ in 0..NODES * 3 {
            held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port"));
        }
        let ports: Vec<SocketAddr> = held.iter().map(|held| held.local_addr().expect("bound")).collect();
        drop(held);
        let peers = &ports[..NODES];
        let members: Vec<String> =
            (1..).zip(peers).map(|(number, address)| format!("\"node-{number}={address}\"")).collect();
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let name = format!("node-{}", number + 1);
            let (admin, health) = (ports[NODES + number], ports[2 * NODES + number]);
            let text = format!(
                "name = \"{name}\"\ndata-dir = \"{0}/{name}\"\ninsecure = true\nprofile = \"wan\"\n[cluster]\nname = \"verbs\"\n\
                 members = [{1}]\n[listen]\npeers = \"{2}\"\nadmin = \"{admin}\"\nhealth = \"{health}\"\n",
                folder.path().display(),
                members.join(", "),
                peers[number]
            );
            let file = folder.path().join(format!("{name}.toml"));
            std::fs::write(&file, text).expect("written");
            let log = std::fs::File::create(folder.path().join(format!("{name}.log"))).expect("created");
            let mut command = command();
            command.arg("node").arg("--config").arg(&file).stdout(Stdio::null()).stderr(log);
            nodes.push(Node { name, admin, health, child: command.spawn().expect("the program starts") });
        }
        Self { nodes, folder }
    }

    fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// The name of the leader, once all nodes agree, and the API of a node that does not lead.
    async fn settled(&self) -> (String, SocketAddr) {
        let until = Instant::now() + SOON;
        loop {
            let status = ask(self.nodes[0].admin, &["status"]).await;
            if status.code == 0
                && let status = status.parsed()
                && let Some(leader) = status["leader"]["name"].as_str()
                && status["verdict"] == "VERDICT_OK"
            {
                let follower = self.nodes.iter().find(|node| node.name != leader).expect("two follow");
                return (leader.to_owned(), follower.admin);
            }
            self.must_not_be_late(
                until,
                &format!("all nodes to be well: {}{}", status.output, status.errors),
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn must_not_be_late(&self, until: Instant, what: &str) {
        if Instant::now() < until {
            return;
        }
        let mut logs = String::new();
        for node in &self.nodes {
            let log = self.folder.path().join(format!("{}.log", node.name));
            logs.push_str(&std::fs::read_to_string(log).unwrap_or_default());
        }
        panic!("waited too long for {what}\n{logs}");
    }

    /// Asks until `right` holds of what is printed.
    async fn until(&self, at: SocketAddr, args: &[&str], right: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + SOON;
        loop {
            let said = ask(at, args).await;
            if said.code == 0 {
                let value = said.parsed();
                if right(&value) {
                    return value;
                }
            }
            self.must_not_be_late(until, &format!("{args:?}: {}{}", said.output, said.errors));
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn run(mut command: Command) -> Said {
    let ended = tokio::time::timeout(SOON, command.output()).await.expect("in time").expect("it starts");
    Said {
        code: ended.status.code().expect("it was not killed"),
        output: String::from_utf8(ended.stdout).expect("text"),
        errors: String::from_utf8(ended.stderr).expect("text"),
    }
}

async fn ask(at: SocketAddr, args: &[&str]) -> Said {
    let mut command = command();
    command.args(args).args(["-o", "json", "--endpoints", &at.to_string()]);
    run(command).await
}

/// Status and body of a GET.
async fn get(at: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("answered");
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, text.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_owned())
}

/// 42.5 at 100 and 101 as a float, its number in every other register up to 20,000.
async fn device() -> ModbusServer {
    let source = |_: &ReadRequest, register: u16| match register {
        100 => Some(0x422A),
        101 => Some(0),
        other => (other < 20_000).then_some(other),
    };
    ModbusServer::start(Config::new("press", source)).await.expect("a free port")
}

/// A plant with a long register list, too large for one entry of the log.
fn write_plant(folder: &Path, device: SocketAddr, receiver: &str) {
    std::fs::create_dir_all(folder).expect("created");
    let slow = |group: usize| format!("[[device.group]]\nid = \"slow-{group}\"\nperiod = \"60s\"\n");
    let groups: String = (0..LONG / IN_GROUP).map(slow).collect();
    let document = format!(
        "# The plant of the test.\nversion = 1\ntags = \"lists/long.csv\"\n[[device]]\nid = \"press\"\ndriver = \"modbus-tcp\"\naddress = \"{device}\"\n\
         [[device.group]]\nid = \"fast\"\nperiod = \"200ms\"\n\
         tag = [\n  {{ name = \"level\", address = \"40101\", type = \"f32\", unit = \"m\" }},\n  \
         {{ name = \"count\", address = \"holding:7\", type = \"u16\" }},\n]\n\
         {groups}\
         [[destination]]\nid = \"historian\"\nkind = \"http\"\nurl = \"{receiver}\"\ntags = [\"press/level\", \"press/count\"]\n"
    );
    std::fs::write(folder.join("plant.toml"), document).expect("written");
    let mut list = String::from("device,group,name,address,type,description\r\n");
    let mut noise = 7_u64;
    for number in 0..LONG {
        // Texts that do not compress, so that the documents are as large as a real plant's many revisions.
        let text: String = (0..6)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                format!("{:011x}", noise >> 20)
            })
            .collect();
        let group = number / IN_GROUP;
        list.push_str(&format!("press,slow-{group},word-{number},holding:{},u16,{text}\r\n", 200 + number));
    }
    std::fs::create_dir_all(folder.join("lists")).expect("created");
    std::fs::write(folder.join("lists/long.csv"), list).expect("written");
}

fn number(value: &Value) -> u64 {
    // proto3 JSON: 64 bits are strings, and what is 0 is left out.
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_works_at_a_follower() {
    let cluster = Cluster::start().await;
    let device = device().await;
    let receiver = Receiver::start(([127, 0, 0, 1], 0).into(), Mode::Recording(None)).await.expect("a port");
    receiver.set_reply(Reply::RejectTag("press/count".into()));
    let plant = cluster.folder.path().join("plant");
    write_plant(&plant, device.address(), &receiver.url());
    let (leader, follower) = cluster.settled().await;

    configuration(&cluster, follower, &plant).await;
    devices_and_tags(&cluster, follower, &leader).await;
    destinations(&cluster, follower, &receiver).await;
    what_happened(&cluster, follower).await;
    let (leader, follower) = leadership(&cluster, follower, &leader).await;
    losing_what_is_undelivered(&cluster, follower, &plant, receiver).await;
    without_a_majority(cluster, &leader).await;
}

async fn configuration(cluster: &Cluster, follower: SocketAddr, plant: &Path) {
    let document = plant.join("plant.toml");
    let valid = ask(follower, &["config", "validate", path(&document)]).await.json();
    assert_eq!((&valid["valid"], number(&valid["tags"])), (&Value::Bool(true), LONG as u64 + 2), "{valid}");
    let plan = ask(follower, &["config", "plan", path(&document)]).await.json();
    assert!(!plan["changes"].as_array().expect("a list").is_empty(), "{plan}");
    let applied = ask(follower, &["config", "apply", path(&document), "-m", "the first"]).await.json();
    assert_eq!((number(&applied["revision"]), &applied["changed"]), (1, &Value::Bool(true)), "{applied}");
    let again = ask(follower, &["config", "apply", path(&document)]).await.json();
    assert_eq!((number(&again["revision"]), &again["changed"]), (1, &Value::Null), "no new one: {again}");

    // Every file comes back byte for byte, from every node.
    for node in &cluster.nodes {
        let copy = cluster.folder.path().join(format!("copy-{}", node.name));
        cluster.until(node.admin, &["config", "history"], |list| !list["revisions"][0].is_null()).await;
        ask(node.admin, &["config", "get", "--save", path(&copy)]).await.json();
        for file in ["plant.toml", "lists/long.csv"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).expect("a file");
            assert!(read(&copy) == read(plant), "{file} of {} is another", node.name);
        }
    }

    // Mistakes come back all at once, each with its place, and nothing changes.
    let wrong = cluster.folder.path().join("wrong.toml");
    std::fs::write(&wrong, "version = 1\ncolour = 3\n[[device]]\nid = \"a b\"\ndriver = \"modbus-tcp\"\n")
        .expect("written");
    let refused = ask(follower, &["config", "apply", path(&wrong)]).await;
    let diagnostics = refused.parsed()["diagnostics"].clone();
    let places: Vec<_> =
        diagnostics.as_array().expect("a list").iter().map(|found| number(&found["line"])).collect();
    assert!(refused.code == 1 && places.contains(&2) && places.contains(&4), "{}", refused.output);

    // Compare-and-set, history, diff, rollback.
    let further = plant.join("further.toml");
    let text = std::fs::read_to_string(&document).expect("a file").replace("200ms", "250ms");
    std::fs::write(&further, text).expect("written");
    let stale = ask(follower, &["config", "apply", path(&further), "--base", "0"]).await;
    stale.refused(1, "HF-2003");
    ask(follower, &["config", "apply", path(&further), "-y"]).await.json();
    let diff = ask(follower, &["config", "diff", "1"]).await.json();
    assert_eq!(diff["changes"][0]["id"], "press/fast", "{diff}");
    let back = ask(follower, &["config", "rollback", "1", "-y", "-m", "too slow"]).await.json();
    assert_eq!(number(&back["revision"]), 3, "{back}");
    let history = ask(follower, &["config", "history"]).await.json();
    let comments: Vec<_> =
        history["revisions"].as_array().expect("a list").iter().map(|one| one["comment"].clone()).collect();
    assert_eq!((comments.len(), &comments[0], &comments[2]), (3, &"too slow".into(), &"the first".into()));
    ask(follower, &["config", "get", "--revision", "9"]).await.refused(1, "HF-2005");
}

async fn devices_and_tags(cluster: &Cluster, follower: SocketAddr, leader: &str) {
    let answering = |list: &Value| list["devices"][0]["state"] == "STATE_ANSWERING";
    cluster.until(follower, &["device", "list"], answering).await;
    let shown = ask(follower, &["device", "show", "press"]).await.json();
    assert_eq!(number(&shown["tags"]), LONG as u64 + 2, "{shown}");
    assert_eq!((&shown["timeout"], &shown["responseCap"]), (&"1s".into(), &"0.150s".into()), "{shown}");
    assert_eq!(shown["cappedBy"], "the lease of profile lan", "{shown}");
    assert!(shown["since"].as_str().is_some_and(|since| since.ends_with('Z')), "times are UTC: {shown}");
    let probed = ask(follower, &["device", "probe", "press"]).await.json();
    assert_eq!((&probed["node"], &probed["answers"]), (&leader.into(), &Value::Bool(true)), "{probed}");
    assert_eq!(probed["probes"].as_array().map(Vec::len), Some(20), "{probed}");

    let args = ["device", "probe", "press", "--address", "40101", "--type", "f32", "--word-order", "cdab"];
    let probe = ask(follower, &args).await.json()["probes"][0].clone();
    assert_eq!(probe["address"], "holding:100 = 40101", "{probe}");
    assert_eq!(probe["words"], serde_json::json!([0x422A, 0]), "{probe}");
    let orders = probe["orders"].as_array().expect("every order");
    assert_eq!((&orders[0]["wordOrder"], &orders[0]["reading"]["value"]), (&"abcd".into(), &42.5.into()));
    assert_eq!(orders.iter().filter(|order| order["configured"] == true).count(), 1, "{probe}");
    let refused = ask(follower, &["device", "probe", "press", "--address", "holding:20001"]).await.json();
    assert!(refused["probes"][0]["error"].as_str().is_some_and(|text| text.contains("refuses")), "{refused}");
    ask(follower, &["device", "probe", "nobody"]).await.refused(1, "HF-5101");
    ask(follower, &["device", "probe", "press", "--address", "49x"]).await.refused(1, "HF-8101");

    let read = ask(follower, &["tag", "read", "press/word-3", "press/level", "--raw"]).await.json();
    assert_eq!(read["probes"][0]["reading"]["value"], 203.0, "{read}");
    assert_eq!(read["probes"][1]["reading"]["value"], 42.5, "{read}");
    ask(follower, &["tag", "read", "press/nothing"]).await.refused(1, "HF-5103");
    let listed = ask(follower, &["tag", "list", "press/level"]).await.json();
    assert_eq!(listed["tags"][0]["destinations"], serde_json::json!(["historian"]), "{listed}");
    let watched =
        ask(follower, &["tag", "watch", "press/level", "--every", "200ms", "--for", "3s"]).await.lines();
    let seen = watched.first().map(|answer| answer["readings"][0].clone()).expect("something is recorded");
    assert_eq!((&seen["tag"], &seen["reading"]["value"]), (&"press/level".into(), &42.5.into()));

    ask(follower, &["device", "disable", "press", "--reason", "tool change"]).await.json();
    ask(follower, &["device", "probe", "press"]).await.refused(1, "HF-5102");
    let disabled = ask(follower, &["device", "list"]).await.json();
    assert_eq!(disabled["devices"][0]["disabled"]["reason"], "tool change", "{disabled}");
    ask(follower, &["device", "enable", "press"]).await.json();
    cluster.until(follower, &["device", "list"], answering).await;
}

async fn destinations(cluster: &Cluster, follower: SocketAddr, receiver: &Receiver) {
    let held = cluster.until(follower, &["quarantine", "list"], |list| number(&list["total"]) > 0).await;
    let key = held["records"][0]["key"].as_str().expect("a key").to_owned();
    let check = ask(follower, &["status", "--check"]).await;
    assert_eq!(check.code, 1, "a quarantine that is not empty is an alarm: {}", check.output);
    let alarms = ask(follower, &["alarm", "list"]).await.json();
    assert_eq!(alarms["alarms"][0]["kind"], "KIND_QUARANTINE_NOT_EMPTY", "{alarms}");
    receiver.set_reply(Reply::Accept);
    let retried = ask(follower, &["quarantine", "retry", "historian", &key]).await.json();
    assert_eq!(number(&retried["records"]), 1, "{retried}");
    let shown = ask(follower, &["quarantine", "show", "historian", &key]).await.json();
    assert!(shown["record"].as_str().is_some_and(|record| record.contains("press/count")), "{shown}");
    ask(follower, &["quarantine", "retry", "historian", "--all"]).await.json();
    ask(follower, &["quarantine", "show", "historian", "zzzzzzzz/1/1"]).await.refused(1, "HF-7102");

    ask(follower, &["destination", "pause", "historian", "--reason", "upgrade"]).await.json();
    let paused = ask(follower, &["destination", "show", "historian"]).await.json();
    assert_eq!((&paused["state"], &paused["paused"]["reason"]), (&"STATE_PAUSED".into(), &"upgrade".into()));
    ask(follower, &["destination", "resume", "historian"]).await.json();
    let is_current = |list: &Value| list["destinations"][0]["state"] == "STATE_CURRENT";
    cluster.until(follower, &["destination", "list"], is_current).await;
    ask(follower, &["destination", "show", "nobody"]).await.refused(1, "HF-7101");
}

async fn what_happened(cluster: &Cluster, follower: SocketAddr) {
    let stats = ask(follower, &["buffer", "stats"]).await.json();
    assert!(number(&stats["applied"]) > 0 && number(&stats["diskBytes"]) > 0, "{stats}");
    let is_append = |entry: &Value| entry["kind"] == "append" && number(&entry["samples"]) > 0;
    let peeked = cluster
        .until(follower, &["buffer", "peek", "--limit", "50"], |peeked| {
            peeked["entries"].as_array().is_some_and(|entries| entries.iter().any(is_append))
        })
        .await;
    assert!(number(&peeked["applied"]) >= number(&peeked["horizon"]), "{peeked}");
    let gaps = ask(follower, &["gap", "list"]).await.json();
    // Whether a slot was missed when the groups changed is a matter of milliseconds.
    for gap in gaps["gaps"].as_array().into_iter().flatten() {
        assert!(number(&gap["slots"]) > 0 && gap["cause"].is_string() && gap["device"] == "press", "{gap}");
    }
    ask(follower, &["event", "list"]).await.json();
    ask(follower, &["event", "tail", "--for", "1s"]).await.lines();
}

async fn leadership(cluster: &Cluster, follower: SocketAddr, leader: &str) -> (String, SocketAddr) {
    let members = ask(follower, &["member", "list"]).await.json();
    let members = members["members"].as_array().expect("a list").clone();
    let reached =
        |member: &Value| matches!(member["reach"].as_str(), Some("REACH_ITSELF" | "REACH_REACHABLE"));
    assert!(members.len() == NODES && members.iter().all(reached), "the leader answers: {members:?}");
    let shown = ask(follower, &["leader", "show"]).await.json();
    assert_eq!(shown["name"], leader, "{shown}");
    assert!(shown["lease"].is_string(), "only the leader knows its lease: {shown}");
    for node in &cluster.nodes {
        let (status, name) = get(node.health, "/leader").await;
        let expected = if node.name == leader { 200 } else { 503 };
        assert_eq!((status, name.as_str()), (expected, leader), "at {}", node.name);
        assert_eq!(get(node.health, "/readyz").await.0, 200, "at {}", node.name);
    }

    let next = &cluster
        .nodes
        .iter()
        .find(|node| node.name != leader && node.admin != follower)
        .expect("a third")
        .name;
    ask(follower, &["member", "drain", next, "--reason", "new disk"]).await.json();
    ask(follower, &["leader", "transfer", "--to", next]).await.refused(1, "HF-3106");
    ask(follower, &["member", "resume", next]).await.json();
    let moved = ask(follower, &["leader", "transfer", "--to", next]).await.json();
    assert_eq!((&moved["from"], &moved["to"]), (&leader.into(), &next.as_str().into()), "{moved}");
    cluster.until(follower, &["leader", "show"], |shown| shown["name"] == *next).await;
    ask(follower, &["member", "drain", "nobody"]).await.refused(1, "HF-3105");
    (next.clone(), follower)
}

async fn losing_what_is_undelivered(
    cluster: &Cluster,
    follower: SocketAddr,
    plant: &Path,
    mut receiver: Receiver,
) {
    receiver.go_down().await;
    let has_backlog = |list: &Value| number(&list["destinations"][0]["backlog"]["entries"]) > 0;
    cluster.until(follower, &["destination", "list"], has_backlog).await;
    let without = plant.join("without.toml");
    let text = std::fs::read_to_string(plant.join("plant.toml")).expect("a file");
    let text = text.split("[[destination]]").next().expect("a beginning").to_owned();
    std::fs::write(&without, text).expect("written");
    let plan = ask(follower, &["config", "plan", path(&without)]).await.json();
    assert_eq!(plan["discards"], serde_json::json!(["historian"]), "{plan}");
    ask(follower, &["config", "apply", path(&without), "-y"]).await.refused(1, "HF-2004");
    let agreed = ["config", "apply", path(&without), "-y", "--discard-backlog", "historian"];
    assert_eq!(number(&ask(follower, &agreed).await.json()["revision"]), 4);
    let none = ask(follower, &["destination", "list"]).await.json();
    assert!(none["destinations"].is_null(), "what is empty is left out: {none}");
}

async fn without_a_majority(mut cluster: Cluster, leader: &str) {
    let follower = cluster.nodes.iter().position(|node| node.name != leader).expect("two follow");
    let alone = cluster.nodes.swap_remove(follower);
    for node in &mut cluster.nodes {
        node.child.kill().await.expect("killed");
    }
    let until = Instant::now() + SOON;
    loop {
        let status = ask(alone.admin, &["status"]).await.json();
        if status["verdict"] == "VERDICT_DOWN" {
            break;
        }
        cluster.must_not_be_late(until, &format!("the verdict to be down: {status}"));
        sleep(Duration::from_millis(100)).await;
    }
    let refused = ask(alone.admin, &["leader", "transfer"]).await;
    refused.refused(3, "HF-3102");
    assert!(refused.errors.contains("no leader since 20"), "{}", refused.errors);
    ask(alone.admin, &["device", "list"]).await.refused(3, "HF-3102");
    ask(alone.admin, &["destination", "pause", "historian"]).await.refused(3, "HF-3102");
    assert_eq!(ask(alone.admin, &["leader", "show"]).await.code, 3);
    let (status, text) = get(alone.health, "/leader").await;
    assert_eq!((status, text.as_str()), (503, "no leader is known"));

    let gone = cluster.node(leader).admin;
    ask(gone, &["status"]).await.refused(4, "HF-8001");
    assert_eq!(ask(alone.admin, &["status", "--colour"]).await.code, 2, "wrong usage");
    // A node that is gone is passed over.
    let mut both = command();
    both.args(["buffer", "stats", "-o", "json", "--endpoints", &format!("{gone},{}", alone.admin)]);
    run(both).await.json();
}

#[tokio::test]
async fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let mut completions = command();
        completions.args(["completions", shell]);
        let said = run(completions).await;
        assert!(said.code == 0 && said.output.contains("quarantine"), "{shell}: {}", said.errors);
    }
}

#[tokio::test]
async fn completions_that_nobody_reads_to_the_end_are_no_failure() {
    let mut completions = command();
    completions.args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = completions.spawn().expect("it starts");
    // They are longer than a pipe holds.
    let mut first = [0];
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut first).await.expect("they begin");
    drop(stdout);
    let ended = child.wait_with_output().await.expect("it ends");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn a_document_is_checked_without_a_cluster_and_called_by_its_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hall-2.toml");
    let document = "version = 1\n[defaults]\ntimeout = \"1s\"\n[[device]]\nid = \"p\"\ndriver = \"modbus-tcp\"\n\
        address = \"h:502\"\nperiod = \"1s\"\ntags = \"p.csv\"\n[[destination]]\nid = \"h\"\nkind = \"http\"\n\
        url = \"http://h\"\n";
    std::fs::write(&file, document).expect("written");
    std::fs::write(folder.path().join("p.csv"), "name,address,type\na,40101,u16\nb,40102,u61\n")
        .expect("written");
    let validate = async || {
        let mut validate = command();
        validate.args(["config", "validate"]).arg(&file);
        // Whatever would keep it from talking to a cluster.
        validate.env("HOLDFAST_CLIENT_PROFILE", "/nowhere").env("HOLDFAST_ENDPOINTS", "nonsense");
        run(validate).await
    };
    let wrong = validate().await;
    assert_eq!(wrong.code, 1, "{}", wrong.output);
    let place = format!("{}:3:9: error:", folder.path().join("p.csv").display());
    assert!(wrong.output.contains(&place), "{place} in {}", wrong.output);

    std::fs::write(folder.path().join("p.csv"), "name,address,type\na,40101,u16\n").expect("written");
    let valid = validate().await;
    let warning = format!("{}:3:11: warning: a device has 150ms of this timeout of 1s", file.display());
    assert!(valid.code == 0 && valid.output.starts_with(&warning), "{warning} in {}", valid.output);
}

#[tokio::test]
async fn the_profile_file_names_the_nodes_to_ask() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let profile = folder.path().join("profile.toml");
    std::fs::write(&profile, "endpoints = [\"127.0.0.1:1\"]\n").expect("written");
    let mut status = command();
    status.arg("status").env("HOLDFAST_CLIENT_PROFILE", &profile);
    let said = run(status).await;
    said.refused(4, "127.0.0.1:1:");
}
