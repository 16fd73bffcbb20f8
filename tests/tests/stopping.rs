//! A node that stops where nobody can take over does not wait for what only a majority could say.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_tests::trio::{Nodes, until};
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
    let mut nodes = Nodes::plan(|_| String::new())?;
    nodes.start_all()?;
    nodes.apply(&document(press.address(), &receiver.url()), 0).await?;
    for is_noticed in [false, true] {
        nodes.start_all()?;
        let leader = nodes.wait_for_leader(&nodes.names()).await?;
        let before = receiver.counts().samples;
        until("reads and deliveries", async || {
            let counts = receiver.counts();
            if counts.samples > before + 5 { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await?;
        for other in nodes.names() {
            if other != leader {
                nodes.kill(&other).await?;
            }
        }
        if is_noticed {
            until("a leader without a majority", async || match nodes.leader_status().await {
                Some(status) => Err(status.verdict),
                None => Ok(()),
            })
            .await?;
        }
        let asked = Instant::now();
        nodes.stop(&leader).await?;
        let took = asked.elapsed();
        ensure!(took < PROMPTLY, "noticed before: {is_noticed}, it took {took:?}\n{}", nodes.logs());
    }
    Ok(())
}
