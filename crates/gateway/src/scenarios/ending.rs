//! How reigns end: what is closed before leadership is given up, and what is not waited for.

use std::path::{Path, PathBuf};

use model::command::{Event, Severity};
use replication::MembershipError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::*;
use crate::leading::Reign;

/// More entries than a node may lack that leadership goes to.
const TOO_MANY: usize = 1_100;
/// What a CSV destination writes when a reign begins.
const MARKER: &str = "historian.leader.json";
/// For how long it is watched that nothing happens which would happen at once.
const WATCHED: Duration = Duration::from_millis(500);

fn event() -> Command {
    let (subject, text) = ("cluster".to_owned(), "a test is running".to_owned());
    Command::Event(Event { severity: Severity::Info, subject, text })
}

/// The plant with a device at `address`, and a CSV destination that rotates its files only when it must.
fn csv_plant(folder: &Path, address: &str) -> Plant {
    let csv = format!("kind = \"csv\"\ndirectory = \"{}\"\nevery = \"1h\"\n", folder.display());
    let document = PLANT
        .replace("kind = \"http\"\nurl = \"http://127.0.0.1:18080/ingest\"\n", &csv)
        .replace("127.0.0.1:9\"", &format!("{address}\""));
    read_bundle(&Bundle::of_document(&*document)).expect("it is valid").plant
}

/// Resolves when there is a file whose name begins and ends so.
async fn appears(folder: &Path, begins: &str, ends: &str) -> PathBuf {
    let is_it = |name: &str| name.starts_with(begins) && name.ends_with(ends);
    loop {
        let files = std::fs::read_dir(folder).expect("the folder is there");
        let mut files = files.map(|file| file.expect("it can be listed"));
        if let Some(found) = files.find(|file| is_it(&file.file_name().to_string_lossy())) {
            return found.path();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A Modbus device of so many connections, one after the other, that answers every request for two registers with zeros, and
/// counts its answers; the count ends with the last connection.
pub(super) async fn device(connections: usize) -> (std::net::SocketAddr, watch::Receiver<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (answered, answers) = watch::channel(0);
    #[allow(clippy::disallowed_methods, reason = "it ends with its connections")]
    tokio::spawn(async move {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().await.expect("it is connected to");
            let mut request = [0; 12];
            while stream.read_exact(&mut request).await.is_ok() {
                let answer = [request[0], request[1], 0, 0, 0, 7, request[6], 3, 4, 0, 0, 0, 0];
                if stream.write_all(&answer).await.is_err() {
                    break;
                }
                answered.send_modify(|count| *count += 1);
            }
        }
    });
    (address, answers)
}

#[tokio::test]
async fn the_sockets_of_devices_are_closed_before_what_was_read_is_committed() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let (address, mut answers) = device(1).await;
    let document = PLANT.replace("127.0.0.1:9", &address.to_string());
    node.configure(read_bundle(&Bundle::of_document(&*document)).expect("it is valid").plant).await;
    let (group, _) = node.grid();
    let stop = node.acquire();
    node.until("it is read", |state| state.grids[&group].next > 1).await;

    // What is read from now on cannot be committed.
    node.disk.set_latency(SOON, SOON);
    let seen = *answers.borrow_and_update();
    timeout(SOON, answers.wait_for(|count| *count > seen + 1)).await.expect("read").expect("connected");
    stop.cancel();
    let stopped = std::time::Instant::now();
    let closed = async { while answers.changed().await.is_ok() {} };
    timeout(SOON, closed).await.expect("the connection ends");
    let took = stopped.elapsed();
    assert!(took < acquisition::ENDS_WITHIN / 2, "closed {took:?} later: proposals were waited for first");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_close_the_sockets_of_its_devices_gives_nothing_up() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let reign = Reign::without_parts(node.leads());
    let hung = reign.acquisition().track_future(std::future::pending::<()>());
    let ended = timeout(SOON, reign.end_in_order()).await.expect("it does not wait for ever");
    let failure = ended.expect_err("devices may still be asked");
    assert_eq!(failure.task, "acquisition", "{failure}");
    assert!(node.leads().is_live(), "its right has not gone to anybody");
    drop(hung);
    assert_eq!(timeout(SOON, reign.end_in_order()).await, Ok(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn devices_are_read_while_a_delivery_in_progress_is_waited_for() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let reign = Reign::without_parts(node.leads());
    let delivery = reign.forwarding().track_future(std::future::pending::<()>());
    let mut ending = Box::pin(reign.end_in_order());
    let early = timeout(Duration::from_secs(1), &mut ending).await;
    assert!(early.is_err(), "its answer is waited for");
    assert!(reign.reads(), "no slot is missed meanwhile");
    drop(delivery);
    assert_eq!(timeout(SOON, ending).await, Ok(Ok(())));
    assert!(!reign.reads());
}

#[tokio::test(start_paused = true)]
async fn the_limits_hold_until_the_last_reads_are_in() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let reign = Reign::without_parts(node.leads());
    reign.retain(node.replica.clone(), &node.spawner);
    let reading = reign.acquisition().track_future(std::future::pending::<()>());
    let mut ending = Box::pin(reign.end_in_order());
    assert!(timeout(Duration::from_secs(1), &mut ending).await.is_err(), "what is read last is waited for");
    assert!(!reign.reads(), "deliveries have ended");
    assert!(!node.replica.is_closed_to_samples(), "there is room");
    node.free.store(space::ROOM_FOR_SAMPLES - 1, Ordering::Relaxed);
    node.until_closed(true).await;
    drop(reading);
    assert_eq!(timeout(SOON, ending).await, Ok(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_not_waited_for_when_the_reign_is_over() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let leadership = node.leads();
    node.disk.set_latency(SOON * 10, SOON * 10);
    let command = event();
    let proposed = node.replica.propose_in(&leadership, &command, SOON * 10);
    let given_up = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.replica.give_up(&leadership);
    };
    let (outcome, ()) = timeout(SOON, async { tokio::join!(proposed, given_up) }).await.expect("at once");
    assert_eq!(outcome, Err(ProposeError::Unknown));
    assert!(node.replica.leadership().borrow().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_hand_over_that_is_broken_off_nothing_is_delivered_before_what_was_is_decided() {
    let nodes = cluster(3).await;
    let leading = leader(&nodes).await;
    let node = &nodes[leading];
    let others = [&nodes[(leading + 1) % 3], &nodes[(leading + 2) % 3]];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let (address, mut answers) = device(usize::MAX).await;
    node.configure(csv_plant(folder, &address.to_string())).await;
    node.push(1).await.expect("there is room");
    let term = node.leads().term();
    let switchover = node.lead();
    let held = appears(folder, ".historian.samples.", ".part");
    timeout(SOON, held).await.expect("the samples are held in an unfinished file");
    timeout(SOON, answers.wait_for(|count| *count > 0)).await.expect("read").expect("it answers");
    let cursor = || node.read(|state| state.destinations[&HISTORIAN].cursor);
    let before = cursor();

    // From now on nobody else takes an entry; but both are heard.
    others.iter().for_each(|other| other.free.store(0, Ordering::Relaxed));
    let are_full = async {
        let is_full = |other: &&Node| {
            node.replica.peers().get(other.replica.node()).is_some_and(|peer| peer.free_bytes == Some(0))
        };
        while !others.iter().all(is_full) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, are_full).await.expect("they say so");

    // Forwarding ends with a file, and its acknowledgement is in the log of this node alone. The one that was to lead lacks
    // too much when it would have to take over: this node goes on in the same term.
    let meanwhile = async {
        let published = appears(folder, "historian.samples.", ".csv");
        let published = timeout(SOON, published).await.expect("what was held is published");
        std::fs::remove_file(folder.join(MARKER)).expect("the reign had begun");
        let command = event();
        let proposed = (0..TOO_MANY).map(|_| node.replica.propose(&command, PATIENCE));
        drop(futures::future::join_all(proposed).await);
        published
    };
    let request = timeout(SOON, switchover.request(Some(others[0].replica.node())));
    let (outcome, published) = tokio::join!(request, meanwhile);
    let outcome = outcome.expect("it is answered");
    assert!(matches!(outcome, Err(MembershipError::NoSuccessor(_))), "{outcome:?}");
    let seen = *answers.borrow_and_update();
    let read = timeout(SOON, answers.wait_for(|count| *count > seen)).await;
    read.expect("the device is read again, whatever is undecided").expect("it answers");
    let begun = timeout(WATCHED, appears(folder, MARKER, "")).await;
    assert!(begun.is_err(), "it began again at {}, and an acknowledgement is undecided", cursor());
    assert!(published.exists(), "what may yet be acknowledged was removed");

    others.iter().for_each(|other| other.free.store(1 << 40, Ordering::Relaxed));
    timeout(SOON, appears(folder, MARKER, "")).await.expect("it begins again");
    assert!(cursor() > before, "it began again at {}, before the acknowledgement", cursor());
    assert!(published.exists(), "what is acknowledged was removed");
    assert_eq!(node.leads().term(), term, "nobody else has led");
}
