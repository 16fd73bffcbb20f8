//! What a cluster of three real nodes tells of itself across a failover: system tags at a receiver, alarms, events,
//! and a device that comes back by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::cluster::Cluster;
use model::SampleKey;
use serde_json::Value;
use simulator::history::{self, History};
use simulator::modbus::{Behaviour, Config, Manner, ModbusServer, Proof};
use simulator::receiver::{Mode, Received, Receiver};
use tokio::time::Instant;
use wire::proto::v1 as pb;

/// What has arrived of the system tags, in order of their keys.
#[derive(Debug, Default)]
struct Arrived {
    /// Tag and value by key.
    samples: BTreeMap<SampleKey, (String, Value)>,
    /// Who wrote in each term.
    writers: BTreeMap<String, BTreeSet<String>>,
}

impl Arrived {
    fn read(file: &Path, history: &History) -> Result<Self> {
        history.flush()?;
        let mut arrived = Self::default();
        for entry in history::read::<Received<Value>>(file)? {
            let record = entry.details.record;
            let (Some(key), Some(tag)) = (record["key"].as_str(), record["tag"].as_str()) else { continue };
            arrived.samples.insert(key.parse()?, (tag.to_owned(), record["value"].clone()));
            let node = record["node"].as_str().unwrap_or_default().to_owned();
            arrived.writers.entry(record["term"].to_string()).or_default().insert(node);
        }
        Ok(arrived)
    }

    /// The last value of a tag.
    fn last(&self, tag: &str) -> Option<&Value> {
        self.samples.values().rev().find(|(known, _)| known == tag).map(|(_, value)| value)
    }

    /// The heartbeats in order; proto3 JSON writes 64 bits as text.
    fn heartbeats(&self) -> Vec<u64> {
        let beats = self.samples.values().filter(|(tag, _)| tag == "$cluster/heartbeat");
        beats.filter_map(|(_, value)| value.as_str()?.parse().ok()).collect()
    }
}

fn document(device: SocketAddr, url: &str) -> String {
    format!(
        "version = 1\n[[device]]\nid = \"press\"\ndriver = \"modbus-tcp\"\naddress = \"{device}\"\nunit-id = 1\n\
         timeout = \"300ms\"\n[[device.group]]\nid = \"fast\"\nperiod = \"100ms\"\n\
         tag = [{{ name = \"reads\", address = \"holding:0\", type = \"u32\" }}]\n\
         [[destination]]\nid = \"historian\"\nkind = \"http\"\nurl = \"{url}\"\nroute = [{{ tags = [\"$*/**\"] }}]\n"
    )
}

fn is(value: Option<&Value>, wanted: &Value) -> bool {
    value == Some(wanted)
}

/// The alarms that the leader tells of.
async fn alarms(cluster: &Cluster) -> Result<Vec<pb::Alarm>> {
    let leader = cluster.leader().await?;
    Ok(cluster.status(leader).await?.alarms)
}

fn of_device(alarms: &[pb::Alarm]) -> Option<&pb::Alarm> {
    alarms.iter().find(|alarm| alarm.kind() == pb::alarm::Kind::DeviceDown)
}

async fn event_texts(cluster: &Cluster, node: usize) -> Result<Vec<String>> {
    let list = cluster.client(node).list_events(pb::ListEventsRequest::default()).await?;
    Ok(list
        .into_inner()
        .events
        .into_iter()
        .map(|event| format!("{}: {}", event.subject, event.text))
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_far_side_and_the_operator_are_told_across_a_failover() -> Result<()> {
    let press = ModbusServer::start(Config::new("press", Proof { device: 1, registers: 10 })).await?;
    let seen = tempfile::NamedTempFile::new()?;
    let history = History::create(seen.path())?;
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let receiver =
        Receiver::start(any_port, Mode::Recording(Some((history.clone(), "historian".to_owned())))).await?;
    let cluster = Cluster::start().await?;
    cluster.apply(&document(press.address(), &receiver.url()), 0).await?;
    let first = cluster.agreed().await?;
    let arrived = async |what: &str, is_so: &dyn Fn(&Arrived) -> bool| {
        cluster
            .until(what, async || {
                let arrived = Arrived::read(seen.path(), &history).map_err(|error| error.to_string())?;
                if is_so(&arrived) { Ok(arrived) } else { Err(format!("{arrived:#?}")) }
            })
            .await
    };
    let names: Vec<&str> = (0..3).map(|index| cluster.name(index)).collect();

    arrived("a well cluster", &|arrived| {
        is(arrived.last("$cluster/leader"), &Value::from(names[first]))
            && is(arrived.last("$cluster/redundant"), &Value::from(true))
            && is(arrived.last("$device/press/state"), &Value::from("answering"))
            && arrived.last("$device/press/last-good").is_some()
            && names.iter().all(|name| is(arrived.last(&format!("$node/{name}/up")), &Value::from(true)))
    })
    .await?;

    press.behave(Behaviour { manner: Manner::HangUp, delay: Duration::ZERO });
    arrived("a device that is down", &|arrived| {
        is(arrived.last("$device/press/state"), &Value::from("down"))
    })
    .await?;
    let alarm = async |what: &str| {
        cluster
            .until(what, async || {
                let alarms = alarms(&cluster).await.map_err(|error| error.to_string())?;
                of_device(&alarms).cloned().ok_or(format!("{alarms:?}"))
            })
            .await
    };
    let raised = alarm("the alarm with its time").await?;
    cluster
        .until("the alarm among the events", async || {
            let texts = event_texts(&cluster, first).await.map_err(|error| vec![error.to_string()])?;
            let told =
                texts.iter().any(|text| text.starts_with("device/press: alarm device-down: does not answer"));
            if told { Ok(()) } else { Err(texts) }
        })
        .await?;

    cluster.kill(first).await?;
    let second = cluster.agreed().await?;
    let gone = format!("$node/{}/up", names[first]);
    arrived("the new leader, and the node that is gone", &|arrived| {
        is(arrived.last("$cluster/leader"), &Value::from(names[second]))
            && is(arrived.last(&gone), &Value::from(false))
            && is(arrived.last("$cluster/redundant"), &Value::from(false))
            && is(arrived.last("$device/press/state"), &Value::from("down"))
    })
    .await?;
    let still = alarm("the same alarm under the new leader").await?;
    let at = |alarm: &pb::Alarm| alarm.since.as_ref().map(wire::times::timestamp_from_proto);
    ensure!(
        at(&still) <= at(&raised).map(|at| at.plus(Duration::from_secs(1))),
        "{still:?} after {raised:?}"
    );

    press.behave(Behaviour::default());
    cluster.run(first).await?;
    let end = arrived("everything well again", &|arrived| {
        is(arrived.last(&gone), &Value::from(true))
            && is(arrived.last("$cluster/redundant"), &Value::from(true))
            && is(arrived.last("$device/press/state"), &Value::from("answering"))
    })
    .await?;
    let beats = end.heartbeats();
    let expected: Vec<u64> = (1..=beats.len() as u64).collect();
    ensure!(beats == expected, "every batch once and in order: {beats:?}");
    ensure!(end.samples.values().all(|(tag, _)| tag.starts_with('$')), "the route takes system tags alone");
    ensure!(
        end.writers.len() >= 2 && end.writers.values().all(|nodes| nodes.len() == 1),
        "in each term its leader writes, and nobody else: {:?}",
        end.writers
    );

    let texts = cluster
        .until("the end of the alarm, told once like its beginning", async || {
            let texts = event_texts(&cluster, second).await.map_err(|error| vec![error.to_string()])?;
            let over = texts
                .iter()
                .any(|text| text.starts_with("device/press: alarm device-down is over: it lasted"));
            if over { Ok(texts) } else { Err(texts) }
        })
        .await?;
    let raised = texts.iter().filter(|text| text.starts_with("device/press: alarm device-down: ")).count();
    ensure!(raised == 1, "raised {raised} times in {texts:#?}");
    let leads = texts.iter().filter(|text| text.contains(" leads in term ")).count();
    ensure!(leads >= 2, "{leads} leaders in {texts:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_taken_out_for_a_while_comes_back_under_another_leader() -> Result<()> {
    let press = ModbusServer::start(Config::new("press", Proof { device: 1, registers: 10 })).await?;
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let receiver = Receiver::start(any_port, Mode::Counting).await?;
    let cluster = Cluster::start().await?;
    cluster.apply(&document(press.address(), &receiver.url()), 0).await?;
    let first = cluster.agreed().await?;
    let off = pb::SetDeviceEnabledRequest {
        id: "press".to_owned(),
        enabled: false,
        reason: "tool change".to_owned(),
        duration: Some(wire::times::duration_to_proto(Duration::from_secs(6))),
    };
    cluster.client(first).set_device_enabled(off).await?;
    cluster.kill(first).await?;
    let second = cluster.agreed().await?;
    let client = cluster.client(second);
    let device = async || {
        let question = pb::ListDevicesRequest { this_node: true, ..pb::ListDevicesRequest::default() };
        let answer = client.clone().list_devices(question).await.map_err(|status| status.to_string())?;
        answer.into_inner().devices.into_iter().next().ok_or_else(|| "no device".to_owned())
    };
    let out = device().await.map_err(anyhow::Error::msg)?;
    ensure!(out.disabled.as_ref().is_some_and(|standing| standing.until.is_some()), "{out:?}");
    cluster
        .until("the device, back in service and answering", async || {
            let device = device().await?;
            let is_back = device.disabled.is_none() && device.state() == pb::device::State::Answering;
            if is_back { Ok(()) } else { Err(format!("{device:?}")) }
        })
        .await?;
    let texts = event_texts(&cluster, second).await?;
    for expected in [
        "device/press: taken out of service until ",
        "device/press: put back into service by the cluster: its time was over",
    ] {
        ensure!(texts.iter().any(|text| text.starts_with(expected)), "{expected} in {texts:#?}");
    }
    Ok(())
}

/// A loss of quorum that is told: the ledger's own measure, and a second for looking.
const LASTING: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn a_lasting_loss_of_quorum_is_an_event_when_it_is_over() -> Result<()> {
    let press = ModbusServer::start(Config::new("press", Proof { device: 1, registers: 10 })).await?;
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let receiver = Receiver::start(any_port, Mode::Counting).await?;
    let cluster = Cluster::start().await?;
    cluster.apply(&document(press.address(), &receiver.url()), 0).await?;
    let leader = cluster.agreed().await?;
    for other in cluster.others(leader) {
        cluster.kill(other).await?;
    }
    let lost = Instant::now();
    cluster
        .until("a survivor that has been without a majority for long", async || {
            let verdict = cluster.status(leader).await.map_err(|error| error.to_string())?.verdict();
            let is_down = verdict == pb::cluster_status::Verdict::Down;
            if is_down && lost.elapsed() >= LASTING { Ok(()) } else { Err(format!("{verdict:?}")) }
        })
        .await?;
    for other in cluster.others(leader) {
        cluster.run(other).await?;
    }
    let next = cluster.agreed().await?;
    let told = cluster
        .until("the loss among the events", async || {
            let texts = event_texts(&cluster, next).await.map_err(|error| vec![error.to_string()])?;
            let told: Vec<String> = texts.iter().filter(|text| text.contains("no quorum")).cloned().collect();
            if told.is_empty() { Err(texts) } else { Ok(told) }
        })
        .await?;
    let [told] = told.as_slice() else { anyhow::bail!("it is told {} times: {told:#?}", told.len()) };
    // Whoever leads: the old leader in its own term, one that has just started, or one that knows how long.
    let is_honest = told.contains("no quorum from ") || told.contains("nothing was committed since ");
    ensure!(is_honest && told.starts_with("cluster: "), "{told}");
    Ok(())
}
