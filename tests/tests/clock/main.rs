//! Wrong clocks on real nodes: a leader dies and both that could follow it have clocks that are an hour wrong, one behind
//! and one ahead; then the clock of the new leader is set while it leads. Judged by what the receiver and the device saw.
//!
//! - Reading goes on: a slow clock blinds nobody.
//! - Each slot of each grid is in exactly one record, and no gap is longer than the seconds it really took: a fast clock
//!   invents nothing.

mod cluster;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use simulator::history::{self, History};
use simulator::modbus::{Config, ModbusServer, Proof};
use simulator::receiver::{Mode, Received, Receiver};

use cluster::Cluster;

/// No step takes longer, however busy the machine is.
const SOON: Duration = Duration::from_secs(60);
const HOUR_MILLIS: i64 = 3_600_000;
const PERIOD: Duration = Duration::from_millis(100);

/// Waits until `what` holds.
async fn until<T>(cluster: &Cluster, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(started.elapsed() < SOON, "not within {SOON:?}: {what}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn plant(device: SocketAddr, url: &str) -> String {
    format!(
        "version = 1\n[[device]]\nid = \"press\"\ndriver = \"modbus-tcp\"\naddress = \"{device}\"\n\
         [[device.group]]\nid = \"fast\"\nperiod = \"100ms\"\ntag = [{{ name = \"n\", address = \"holding:0\", type = \"u32\" }}]\n\
         [[destination]]\nid = \"historian\"\nkind = \"http\"\nurl = \"{url}\"\nstart = \"oldest\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_stepped_on_one_node_across_a_failover() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let seen = History::create(&folder.path().join("history.jsonl")).expect("a file");
    let mut receiver =
        Receiver::start(loopback, Mode::Recording(Some((seen.clone(), "historian".to_owned()))))
            .await
            .expect("a free port");
    let device = Config { listen: loopback, ..Config::new("press", Proof { device: 1, registers: 16 }) };
    let device = ModbusServer::start(device).await.expect("a free port");
    let mut cluster = Cluster::start(folder.path());
    let document = folder.path().join("plant.toml");
    std::fs::write(&document, plant(device.address(), &receiver.url())).expect("a file");
    let path = document.to_str().expect("a temporary folder has a plain name");
    let said = until(&cluster, "the plant is applied", || {
        let (done, said) = cluster.command(&["config", "apply", path, "--yes"]);
        done.then_some(said)
    })
    .await;
    assert!(!said.is_empty());
    samples(&cluster, &receiver, 20).await;

    let first = until(&cluster, "somebody leads", || cluster.leader()).await;
    let [behind, ahead]: [usize; 2] =
        (0..3).filter(|place| *place != first).collect::<Vec<_>>().try_into().expect("two others");
    cluster.set_clock(behind, -HOUR_MILLIS);
    cluster.set_clock(ahead, HOUR_MILLIS);
    // Long enough that they have applied slots since, and know by their monotonic clocks when the last one was.
    samples(&cluster, &receiver, 20).await;
    cluster.kill(first);
    let second = until(&cluster, "another leads", || cluster.leader()).await;
    samples(&cluster, &receiver, 30).await;

    // Its clock is put right while it leads: another step of an hour.
    cluster.set_clock(second, 0);
    samples(&cluster, &receiver, 30).await;
    cluster.run(first);
    cluster.set_clock(second, 2 * HOUR_MILLIS);
    samples(&cluster, &receiver, 30).await;

    receiver.go_down().await;
    seen.flush().expect("the history is whole");
    assert_eq!(device.overlaps(), [], "two nodes read the device at once");
    let took = Instant::now();
    let account = Account::read(&folder.path().join("history.jsonl"));
    account.check(&cluster);
    assert!(took.elapsed() < SOON);
}

/// Waits until the receiver has `more` further samples.
async fn samples(cluster: &Cluster, receiver: &Receiver, more: u64) {
    let wanted = receiver.counts().samples + more;
    until(cluster, "samples arrive", || (receiver.counts().samples >= wanted).then_some(())).await;
}

/// What was said of each grid's slots.
struct Account {
    grids: BTreeMap<u64, BTreeMap<u64, u32>>,
    /// First slot, last slot and cause.
    gaps: Vec<(u64, u64, String)>,
    openings: Vec<String>,
}

impl Account {
    fn read(path: &Path) -> Self {
        let mut account = Self { grids: BTreeMap::new(), gaps: Vec::new(), openings: Vec::new() };
        let lines: Vec<history::Entry<Received<Value>>> = history::read(path).expect("it can be read");
        for line in lines.iter().filter(|line| line.details.is_new) {
            let record = &line.details.record;
            let number = |field: &str| match &record[field] {
                Value::String(text) => text.parse().expect("a number"),
                other => other.as_u64().unwrap_or_else(|| panic!("{field} is no number in {record}")),
            };
            let mut say = |slot| {
                *account.grids.entry(number("grid")).or_default().entry(slot).or_default() += 1;
            };
            match line.op.as_str() {
                // Pushed, and what the cluster says of itself: in no slot.
                "sample" if record["grid"].is_null() => {}
                "sample" => say(number("slot")),
                "gap" => {
                    let (first, last) = (number("first_slot"), number("last_slot"));
                    assert!(last - first < 100_000, "an invented gap: {record}");
                    (first..=last).for_each(&mut say);
                    let cause = record["cause"].as_str().expect("a cause").to_owned();
                    account.gaps.push((first, last, cause));
                }
                "opening" => account.openings.push(record["cause"].as_str().expect("a cause").to_owned()),
                other => panic!("an unexpected {other}: {record}"),
            }
        }
        account
    }

    fn check(&self, cluster: &Cluster) {
        for (grid, slots) in &self.grids {
            for (expected, (slot, said)) in (0_u64..).zip(slots) {
                assert_eq!((*slot, *said), (expected, 1), "grid {grid}: slot and how often it was said");
            }
        }
        let clocks = self.openings.iter().filter(|cause| *cause == "clock").count();
        assert!(
            clocks >= 2,
            "each wrong clock opens the grids anew: {:?}\n{}",
            self.openings,
            cluster.logs()
        );
        // Everything that was missed was missed within the seconds that the cluster had no leader.
        let longest = self.gaps.iter().map(|(first, last, _)| last - first + 1).max().unwrap_or(0);
        let bound = u64::try_from(SOON.as_millis() / PERIOD.as_millis()).expect("small");
        assert!(longest < bound, "a gap of {longest} slots: {:?}", self.gaps);
        let explained = ["failover", "clock", "late", "paused", "no-quorum"];
        for gap in &self.gaps {
            assert!(explained.contains(&gap.2.as_str()), "{gap:?}");
        }
    }
}
