//! A node that stops where nobody can take over does not wait for what only a majority could say.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_tests::cluster::Cluster;
use simulator::modbus::{Config, ModbusServer, Proof};
use simulator::receiver::{Mode, Receiver};

/// Far more than the two leases (of half a second) and the end of the store that it takes.
const PROMPTLY: Duration = Duration::from_secs(6);

fn document(device: SocketAddr, url: &str) -> String {
    format!(
        "version = 1\n[[device]]\nid = \"press\"\ndriver = \"modbus-tcp\"\naddress = \"{device}\"\nunit-id = 1\n\
         [[device.group]]\nid = \"fast\"\nperiod = \"100ms\"\n\
         tag = [{{ name = \"reads\", address = \"holding:0\", type = \"u32\" }}]\n\
         [[destination]]\nid = \"historian\"\nkind = \"http\"\nurl = \"{url}\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_peers_are_gone_stops_promptly() -> Result<()> {
    let press = ModbusServer::start(Config::new("press", Proof { device: 1, registers: 10 })).await?;
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let receiver = Receiver::start(any_port, Mode::Counting).await?;
    let cluster = Cluster::start().await?;
    cluster.apply(&document(press.address(), &receiver.url()), 0).await?;
    for is_noticed in [false, true] {
        let leader = cluster.agreed().await?;
        let before = receiver.counts().samples;
        cluster
            .until("reads and deliveries", async || {
                let counts = receiver.counts();
                if counts.samples > before + 5 { Ok(()) } else { Err(format!("{counts:?}")) }
            })
            .await?;
        for other in cluster.others(leader) {
            cluster.kill(other).await?;
        }
        if is_noticed {
            cluster
                .until("the leader to notice", async || match cluster.view().leader() {
                    Some(leader) => Err(leader),
                    None => Ok(()),
                })
                .await?;
        }
        let asked = Instant::now();
        cluster.stop_node(leader).await?;
        let took = asked.elapsed();
        ensure!(took < PROMPTLY, "noticed before: {is_noticed}, it took {took:?}\n{}", cluster.logs());
        for node in 0..3 {
            cluster.run(node).await?;
        }
    }
    Ok(())
}
