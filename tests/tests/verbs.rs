//! Every verb of the command line, end to end: three real nodes, a device, a receiver, and the built program asked for
//! JSON at the endpoint of a *follower*.
//!
//! One cluster and one walk, because founding is the slow part. Judged by exit codes and by what the program prints.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use holdfast_tests::SOON;
use holdfast_tests::cluster::Cluster;
use holdfast_tests::said::{ask, command, get, run};
use holdfast_tests::story::number;
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use simulator::modbus::{Config, ModbusServer, ReadRequest};
use simulator::nodes::layout::Layout;
use simulator::receiver::{Mode, Receiver, Reply};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

/// Tags of the long register list.
const LONG: usize = 10_000;
/// Tags that one group may have.
const IN_GROUP: usize = 2_000;

/// Asks a node until `right` holds of what is printed.
async fn until(cluster: &Cluster, at: SocketAddr, args: &[&str], right: impl Fn(&Value) -> bool) -> Value {
    let look = async || {
        let said = ask(at, args).await;
        match said.code == 0 && right(&said.parsed()) {
            true => Ok(said.parsed()),
            false => Err(said),
        }
    };
    cluster
        .until(&format!("{args:?} to say what is right"), look)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
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

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_works_at_a_follower() {
    let slowly = |layout: &mut Layout| {
        layout.nodes.iter_mut().for_each(|node| node.head.push_str("profile = \"wan\"\n"));
        Ok(())
    };
    let cluster = Cluster::start_with(slowly).await.expect("three nodes");
    let device = device().await;
    let receiver = Receiver::start(([127, 0, 0, 1], 0).into(), Mode::Recording(None)).await.expect("a port");
    receiver.set_reply(Reply::RejectTag("press/count".into()));
    let plant = cluster.folder().join("plant");
    write_plant(&plant, device.address(), &receiver.url());
    let status =
        until(&cluster, cluster.node(0).admin, &["status"], |status| status["verdict"] == "VERDICT_OK").await;
    let leader = status["leader"]["name"].as_str().expect("a leader").to_owned();
    let nodes = &cluster.layout.nodes;
    let follower = nodes.iter().find(|node| node.name != leader).expect("two follow").admin;

    configuration(&cluster, follower, &plant).await;
    two_engineers(follower, &plant).await;
    devices_and_tags(&cluster, follower, &leader).await;
    destinations(&cluster, follower, &receiver).await;
    what_happened(&cluster, follower).await;
    let (leader, follower) = leadership(&cluster, follower, &leader).await;
    losing_what_is_undelivered(&cluster, follower, &plant, receiver).await;
    without_a_majority(&cluster, &leader).await;
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
    for node in &cluster.layout.nodes {
        let copy = cluster.folder().join(format!("copy-{}", node.name));
        until(cluster, node.admin, &["config", "history"], |list| !list["revisions"][0].is_null()).await;
        ask(node.admin, &["config", "get", "--save", path(&copy)]).await.json();
        for file in ["plant.toml", "lists/long.csv"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).expect("a file");
            assert!(read(&copy) == read(plant), "{file} of {} is another", node.name);
        }
    }

    // Mistakes come back all at once, each with its place, and nothing changes.
    let wrong = cluster.folder().join("wrong.toml");
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

/// A terminal: where somebody types, and where a program reads it.
fn terminal() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let typing = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&typing)?;
    unlockpt(&typing)?;
    let name = ptsname(&typing, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let reading = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
    Ok((typing, reading))
}

/// What was applied between somebody's plan and their agreement to it is not overwritten.
async fn two_engineers(follower: SocketAddr, plant: &Path) {
    let (typing, reading) = terminal().expect("a terminal");
    let (mine, at) = (plant.join("further.toml"), follower.to_string());
    let mut mine = command(&["config", "apply", path(&mine), "--endpoints", &at]).expect("the program");
    mine.stdin(reading).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut mine = mine.spawn().expect("started");
    let (mut errors, mut said) = (mine.stderr.take().expect("piped"), Vec::<u8>::new());
    while !String::from_utf8_lossy(&said).contains("Apply? [y/N]") {
        let read =
            timeout(SOON, errors.read_buf(&mut said)).await.expect("it asks in time").expect("readable");
        assert!(read > 0, "it ends and does not ask: {}", String::from_utf8_lossy(&said));
    }

    let theirs = plant.join("theirs.toml");
    let text = std::fs::read_to_string(plant.join("plant.toml")).expect("a file") + "# Theirs.\n";
    std::fs::write(&theirs, text).expect("written");
    let theirs = ask(follower, &["config", "apply", path(&theirs), "-m", "theirs"]).await.json();
    assert_eq!(number(&theirs["revision"]), 4, "{theirs}");

    std::fs::File::from(typing).write_all(b"y\n").expect("typed");
    timeout(SOON, errors.read_to_end(&mut said)).await.expect("it ends in time").expect("readable");
    let (status, said) = (mine.wait().await.expect("it ended"), String::from_utf8_lossy(&said).into_owned());
    assert!(status.code() == Some(1) && said.contains("HF-2003"), "expected a refusal, saw {status}: {said}");
    let history = ask(follower, &["config", "history", "--limit", "1"]).await.json();
    assert_eq!(history["revisions"][0]["comment"], "theirs", "{history}");
}

async fn devices_and_tags(cluster: &Cluster, follower: SocketAddr, leader: &str) {
    let answering = |list: &Value| list["devices"][0]["state"] == "STATE_ANSWERING";
    until(cluster, follower, &["device", "list"], answering).await;
    let shown = ask(follower, &["device", "show", "press"]).await.json();
    assert_eq!(number(&shown["tags"]), LONG as u64 + 2, "{shown}");
    assert_eq!((&shown["timeout"], &shown["responseCap"]), (&"1s".into(), &"0.900s".into()), "{shown}");
    assert_eq!(shown["cappedBy"], "the lease of profile wan", "{shown}");
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
    until(cluster, follower, &["device", "list"], answering).await;
}

async fn destinations(cluster: &Cluster, follower: SocketAddr, receiver: &Receiver) {
    let held = until(cluster, follower, &["quarantine", "list"], |list| number(&list["total"]) > 0).await;
    let key = held["records"][0]["key"].as_str().expect("a key").to_owned();
    let check = ask(follower, &["status", "--check"]).await;
    assert_eq!(check.code, 1, "a quarantine that is not empty is an alarm: {}", check.output);
    let alarms = ask(follower, &["alarm", "list"]).await.json();
    assert_eq!(alarms["alarms"][0]["kind"], "KIND_QUARANTINE_NOT_EMPTY", "{alarms}");
    let shown = ask(follower, &["quarantine", "show", "historian", &key]).await.json();
    assert!(shown["record"].as_str().is_some_and(|record| record.contains("press/count")), "{shown}");
    // The receiver still does not want it.
    let again = ask(follower, &["quarantine", "retry", "historian", &key]).await;
    assert_eq!((again.code, number(&again.parsed()["records"])), (1, 1), "{}", again.output);
    let refused_again = |list: &Value| number(&list["destinations"][0]["refusedAgain"]) == 1;
    until(cluster, follower, &["destination", "list"], refused_again).await;
    let shown = ask(follower, &["quarantine", "show", "historian", &key]).await.json();
    assert_ne!(shown["retrying"], true, "it waits for another order: {shown}");
    receiver.set_reply(Reply::Accept);
    let retried = ask(follower, &["quarantine", "retry", "historian", "--all"]).await.parsed();
    assert!(number(&retried["records"]) > 0, "{retried}");
    until(cluster, follower, &["quarantine", "list"], |list| number(&list["total"]) == 0).await;
    let accepted_again = |list: &Value| number(&list["destinations"][0]["acceptedAgain"]) > 0;
    until(cluster, follower, &["destination", "list"], accepted_again).await;
    ask(follower, &["quarantine", "show", "historian", &key]).await.refused(1, "HF-7102");

    ask(follower, &["destination", "pause", "historian", "--reason", "upgrade"]).await.json();
    let paused = ask(follower, &["destination", "show", "historian"]).await.json();
    assert_eq!((&paused["state"], &paused["paused"]["reason"]), (&"STATE_PAUSED".into(), &"upgrade".into()));
    ask(follower, &["destination", "resume", "historian"]).await.json();
    let is_current = |list: &Value| list["destinations"][0]["state"] == "STATE_CURRENT";
    until(cluster, follower, &["destination", "list"], is_current).await;
    ask(follower, &["destination", "show", "nobody"]).await.refused(1, "HF-7101");
}

async fn what_happened(cluster: &Cluster, follower: SocketAddr) {
    let stats = ask(follower, &["buffer", "stats"]).await.json();
    assert!(number(&stats["applied"]) > 0 && number(&stats["diskBytes"]) > 0, "{stats}");
    let is_append = |entry: &Value| entry["kind"] == "append" && number(&entry["samples"]) > 0;
    let has_append =
        |peeked: &Value| peeked["entries"].as_array().is_some_and(|entries| entries.iter().any(is_append));
    let peeked = until(cluster, follower, &["buffer", "peek", "--limit", "50"], has_append).await;
    assert!(number(&peeked["applied"]) >= number(&peeked["horizon"]), "{peeked}");
    let gaps = ask(follower, &["gap", "list"]).await.json();
    // Whether a slot was missed when the groups changed is a matter of milliseconds.
    for gap in gaps["gaps"].as_array().into_iter().flatten() {
        assert!(number(&gap["slots"]) > 0 && gap["cause"].is_string() && gap["device"] == "press", "{gap}");
    }
    let at = follower.to_string();
    let mut watching = command(&["status", "--watch", "--endpoints", &at]).expect("the program");
    let mut watching = watching.stdout(Stdio::piped()).spawn().expect("started");
    ask(follower, &["event", "list"]).await.json();
    ask(follower, &["event", "tail", "--for", "1s"]).await.lines();
    // It looks again and again, until somebody ends it.
    let (mut pictures, mut seen) = (watching.stdout.take().expect("piped"), Vec::<u8>::new());
    while String::from_utf8_lossy(&seen).matches("reads run on").count() < 2 {
        let read =
            timeout(SOON, pictures.read_buf(&mut seen)).await.expect("it looks in time").expect("readable");
        assert!(read > 0, "it ends by itself: {}", String::from_utf8_lossy(&seen));
    }
    watching.kill().await.expect("ended");
}

async fn leadership(cluster: &Cluster, follower: SocketAddr, leader: &str) -> (String, SocketAddr) {
    let members = ask(follower, &["member", "list"]).await.json();
    let members = members["members"].as_array().expect("a list").clone();
    let reached =
        |member: &Value| matches!(member["reach"].as_str(), Some("REACH_ITSELF" | "REACH_REACHABLE"));
    assert!(
        members.len() == cluster.layout.nodes.len() && members.iter().all(reached),
        "the leader answers: {members:?}"
    );
    let shown = ask(follower, &["leader", "show"]).await.json();
    assert_eq!(shown["name"], leader, "{shown}");
    assert!(shown["lease"].is_string(), "only the leader knows its lease: {shown}");
    for node in &cluster.layout.nodes {
        let (status, name) = get(node.health, "/leader").await.expect("an answer");
        let expected = if node.name == leader { 200 } else { 503 };
        assert_eq!((status, name.as_str()), (expected, leader), "at {}", node.name);
        assert_eq!(get(node.health, "/readyz").await.expect("an answer").0, 200, "at {}", node.name);
    }

    let next = &cluster
        .layout
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
    until(cluster, follower, &["leader", "show"], |shown| shown["name"] == *next).await;
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
    until(cluster, follower, &["destination", "list"], has_backlog).await;
    let without = plant.join("without.toml");
    let text = std::fs::read_to_string(plant.join("plant.toml")).expect("a file");
    let text = text.split("[[destination]]").next().expect("a beginning").to_owned();
    std::fs::write(&without, text).expect("written");
    let plan = ask(follower, &["config", "plan", path(&without)]).await.json();
    assert_eq!(plan["discards"], serde_json::json!(["historian"]), "{plan}");
    ask(follower, &["config", "apply", path(&without), "-y"]).await.refused(1, "HF-2004");
    let agreed = ["config", "apply", path(&without), "-y", "--discard-backlog", "historian"];
    assert_eq!(number(&ask(follower, &agreed).await.json()["revision"]), 5);
    let none = ask(follower, &["destination", "list"]).await.json();
    assert!(none["destinations"].is_null(), "what is empty is left out: {none}");
}

async fn without_a_majority(cluster: &Cluster, leader: &str) {
    let follower = cluster.layout.nodes.iter().position(|node| node.name != leader).expect("two follow");
    let alone = cluster.node(follower);
    for other in cluster.others(follower) {
        cluster.kill(other).await.expect("killed");
    }
    until(cluster, alone.admin, &["status"], |status| status["verdict"] == "VERDICT_DOWN").await;
    let refused = ask(alone.admin, &["leader", "transfer"]).await;
    refused.refused(3, "HF-3102");
    assert!(refused.errors.contains("no leader since 20"), "{}", refused.errors);
    ask(alone.admin, &["device", "list"]).await.refused(3, "HF-3102");
    ask(alone.admin, &["destination", "pause", "historian"]).await.refused(3, "HF-3102");
    assert_eq!(ask(alone.admin, &["leader", "show"]).await.code, 3);
    let (status, text) = get(alone.health, "/leader").await.expect("an answer");
    assert_eq!((status, text.as_str()), (503, "no leader is known"));

    let leader = cluster.layout.index_of(leader).expect("a node");
    let gone = cluster.node(leader).admin;
    ask(gone, &["status"]).await.refused(4, "HF-8001");
    assert_eq!(ask(alone.admin, &["status", "--colour"]).await.code, 2, "wrong usage");
    // A node that is gone is passed over.
    let both = format!("{gone},{}", alone.admin);
    let both = command(&["buffer", "stats", "-o", "json", "--endpoints", &both]).expect("the program");
    run(both).await.expect("it ends").json();
}

#[tokio::test]
async fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let completions = command(&["completions", shell]).expect("the program");
        let said = run(completions).await.expect("it ends");
        assert!(said.code == 0 && said.output.contains("quarantine"), "{shell}: {}", said.errors);
    }
}

#[tokio::test]
async fn completions_that_nobody_reads_to_the_end_are_no_failure() {
    let mut completions = command(&["completions", "bash"]).expect("the program");
    completions.stdout(Stdio::piped()).stderr(Stdio::piped());
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
        let mut validate = command(&["config", "validate"]).expect("the program");
        validate.arg(&file);
        // Whatever would keep it from talking to a cluster.
        validate.env("HOLDFAST_CLIENT_PROFILE", "/nowhere").env("HOLDFAST_ENDPOINTS", "nonsense");
        run(validate).await.expect("it ends")
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
    let mut status = command(&["status"]).expect("the program");
    status.env("HOLDFAST_CLIENT_PROFILE", &profile);
    let said = run(status).await.expect("it ends");
    said.refused(4, "127.0.0.1:1:");
}
