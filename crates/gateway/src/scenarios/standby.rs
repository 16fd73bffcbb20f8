//! What a follower holds open for the time when it leads.

use std::net::SocketAddr;

use drivers::modbus::Origin;
use model::plant::{Link, Standby as Wanted};
use tokio::net::TcpStream;

use super::*;
use crate::standby::Standby;

/// The plant with its device at `address`, to which followers hold a connection or none.
fn warm_plant(address: SocketAddr, standby: Wanted) -> Plant {
    let mut plant = plant(64 * MIB, WhenFull::Refuse);
    let Link::ModbusTcp(link) = &mut plant.devices[0].link else { panic!("it is polled") };
    (link.host, link.port, link.standby) = (address.ip().to_string(), address.port(), standby);
    plant
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_holds_a_silent_connection_to_a_warm_device_and_takes_it_along_when_it_leads() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let device = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = device.local_addr().expect("bound");
    node.configure(warm_plant(address, Wanted::Warm)).await;
    let random = generator(Some(7));
    let mut standby =
        Standby::new(node.replica.clone(), Arc::new(Origin::default()), random, node.spawner.clone());
    let accepted = async |standby: &mut Standby<SimEngine>| {
        tokio::select! {
            () = standby.follow() => panic!("it follows until it is dropped"),
            accepted = timeout(SOON, device.accept()) => accepted.expect("in time").expect("accepted").0,
        }
    };
    let held = accepted(&mut standby).await;
    let disable = |enabled| Command::SetDeviceEnabled {
        device: "press".to_owned(),
        enabled,
        until: None,
        elapsed: Vec::new(),
        request: Request::default(),
    };
    let closed = async |standby: &mut Standby<SimEngine>, connection: &TcpStream| {
        let ended = async {
            loop {
                connection.readable().await.expect("it can be waited for");
                match connection.try_read(&mut [0]) {
                    // It only seemed to be readable.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    end => return end,
                }
            }
        };
        tokio::select! {
            () = standby.follow() => panic!("it follows until it is dropped"),
            ended = timeout(SOON, ended) => ended.expect("in time"),
        }
    };
    node.propose(disable(false)).await;
    let end = closed(&mut standby, &held).await;
    assert!(matches!(end, Ok(0) | Err(_)), "nothing was sent, and it is closed: {end:?}");

    node.propose(disable(true)).await;
    let open = async {
        loop {
            let held = accepted(&mut standby).await;
            // It was accepted a moment before this side knows.
            let warm = standby.release().await;
            if !warm.is_empty() {
                return (held, warm);
            }
        }
    };
    let (held, warm) = timeout(SOON, open).await.expect("in time");
    assert_eq!(warm.len(), 1);
    assert_eq!(standby.release().await.len(), 0, "it is handed over once");
    let mut byte = [0];
    let unsent = held.try_read(&mut byte).map_err(|error| error.kind());
    assert!(!matches!(unsent, Ok(1..)), "a follower says nothing: {unsent:?}");
}
