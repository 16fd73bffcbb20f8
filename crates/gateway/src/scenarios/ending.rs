//! How reigns end: what is closed before leadership is given up, and what is not waited for.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::*;
use crate::leading::Reign;

/// A Modbus device of one connection that answers every request for two registers with zeros, and counts its answers; the
/// count ends with the connection.
async fn device() -> (std::net::SocketAddr, watch::Receiver<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (answered, answers) = watch::channel(0);
    #[allow(clippy::disallowed_methods, reason = "it ends with its one connection")]
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("it is connected to");
        let mut request = [0; 12];
        while stream.read_exact(&mut request).await.is_ok() {
            let answer = [request[0], request[1], 0, 0, 0, 7, request[6], 3, 4, 0, 0, 0, 0];
            if stream.write_all(&answer).await.is_err() {
                return;
            }
            answered.send_modify(|count| *count += 1);
        }
    });
    (address, answers)
}

#[tokio::test]
async fn the_sockets_of_devices_are_closed_before_what_was_read_is_committed() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let (address, mut answers) = device().await;
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
async fn an_outcome_is_not_waited_for_when_the_reign_is_over() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let leadership = node.leads();
    node.disk.set_latency(SOON * 10, SOON * 10);
    let command = Command::EndSession { session: SessionId::from(7) };
    let proposed = node.replica.propose_in(&leadership, &command, SOON * 10);
    let given_up = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.replica.give_up(&leadership);
    };
    let (outcome, ()) = timeout(SOON, async { tokio::join!(proposed, given_up) }).await.expect("at once");
    assert_eq!(outcome, Err(ProposeError::Unknown));
    assert!(node.replica.leadership().borrow().is_none());
}
