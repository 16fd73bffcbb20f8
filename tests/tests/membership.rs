//! Membership, end to end: joining, replacing, removing, draining and failback, with real processes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::SOON;
use holdfast_tests::cluster::{Cluster, code, configuration, refused_with};
use serde_json::Value;
use simulator::history::{self, History};
use simulator::nodes::layout::Layout;
use simulator::receiver::{Mode, Received, Receiver, Reply};
use tokio::time::{Instant, timeout};
use tonic::transport::Endpoint;
use wire::proto::v1 as pb;
use wire::proto::v1::ingest_client::IngestClient;
use wire::proto::v1::push_request::{Content, Declare, DeclaredTag, Samples, Type};
use wire::proto::v1::push_response::Content as Answer;

/// Bytes of one pushed value; pseudo-random, so that compression does not help.
const BLOB: usize = 400 << 10;
/// So many fill more than the distance between two checkpoints.
const DELIVERED: u64 = 200;
const UNDELIVERED: u64 = 40;
/// With those that are pushed while the leader that a learner learned from is dead.
const ALL: u64 = DELIVERED + UNDELIVERED + 10;

fn plant(url: &str) -> String {
    format!(
        "version = 1\n[[device]]\nid = \"press\"\ndriver = \"push\"\ntag = [\n  \
         {{ name = \"count\", type = \"u64\" }},\n  {{ name = \"image\", type = \"bytes\" }},\n]\n\
         [[destination]]\nid = \"historian\"\nkind = \"http\"\nurl = \"{url}\"\n"
    )
}

fn noise(seed: u64) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    };
    std::iter::repeat_with(next).take(BLOB / 8).flatten().collect()
}

fn message(sequence: u64, number: u64) -> pb::PushRequest {
    let samples = Samples {
        sequence,
        base_time: 1_700_000_000_000_000_000 + i64::try_from(number).expect("few messages") * 1_000,
        tags: vec![0, 1],
        unsigned: vec![number],
        blobs: vec![noise(number).into()],
        ..Samples::default()
    };
    pb::PushRequest { content: Some(Content::Samples(samples)) }
}

/// Pushes the messages `from..to` at the leader until all are acknowledged.
async fn push(cluster: &Cluster, from: u64, to: u64) -> Result<()> {
    let mut next = from;
    let deadline = Instant::now() + SOON * 2;
    while next < to {
        ensure!(Instant::now() < deadline, "only the messages before {next} of {to} are acknowledged");
        let leader = cluster.leader().await?;
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.node(leader).admin))?;
        let mut client = IngestClient::new(endpoint.connect_lazy()).max_encoding_message_size(4 << 20);
        let tag = |name: &str, kind: Type| DeclaredTag { name: name.to_owned(), r#type: kind.into() };
        let declare = Declare { tags: vec![tag("press/count", Type::U64), tag("press/image", Type::Bytes)] };
        let declare = pb::PushRequest { content: Some(Content::Declare(declare)) };
        let messages = (1..).zip(next..to).map(|(sequence, number)| message(sequence, number));
        let stream = futures::stream::iter(std::iter::once(declare).chain(messages));
        let Ok(answers) = client.push(stream).await else { continue };
        let (mut answers, first) = (answers.into_inner(), next);
        while let Ok(Ok(Some(answer))) = timeout(SOON, answers.message()).await {
            match answer.content {
                Some(Answer::Acknowledged(done)) => next = first + done.last,
                Some(Answer::Rejected(rejected)) => bail!("{rejected:?}"),
                Some(Answer::Refused(_)) => break,
                _ => {}
            }
            if next >= to {
                break;
            }
        }
    }
    Ok(())
}

fn drained(name: &str) -> pb::DrainMemberRequest {
    pb::DrainMemberRequest { name: name.to_owned(), reason: "scenario".to_owned() }
}

/// Waits until everything pushed is delivered and the log behind a checkpoint is gone from the leader; up to where.
async fn until_purged(cluster: &Cluster, receiver: &Receiver) -> Result<u64> {
    let purged = async || {
        let counts = receiver.counts();
        ensure!(counts.samples >= DELIVERED * 2, "{counts:?}");
        let floor = cluster.buffer(cluster.leader().await?).await?.floor;
        ensure!(floor > 0, "nothing is purged yet");
        Ok(floor)
    };
    cluster.until("everything is delivered, and the log behind a checkpoint purged", purged).await
}

/// Starts a node that is to be added, and waits until it asks for that.
async fn begin_to_join(cluster: &Cluster, index: usize) -> Result<()> {
    cluster.run(index).await?;
    let asks = async || {
        let log = cluster.log(index).await;
        let command = format!("holdfast member add {}=", cluster.name(index));
        ensure!(log.contains(&command), "it does not say what to type:\n{log}");
        let Err(refusal) = cluster.status(index).await else { bail!("it belongs already") };
        let status = refusal.downcast_ref::<tonic::Status>().context("no status")?;
        ensure!(code(status) == "HF-3109", "its API says {status:?}");
        Ok(())
    };
    cluster.until("the new node says what to type, in its log and on its API", asks).await
}

/// Numbers of the messages that a receiver has recorded.
fn numbers(record: &Path) -> Result<BTreeSet<u64>> {
    let lines: Vec<history::Entry<Received<Value>>> = history::read(record)?;
    let counts = lines.iter().filter(|line| line.details.record["tag"] == "press/count");
    Ok(counts.filter_map(|line| line.details.record["value"].as_str()?.parse().ok()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_gets_the_checkpoint_and_the_undelivered_backlog_and_then_its_leader_is_killed()
-> Result<()> {
    let mut fourth = 0;
    let with_a_fourth = |layout: &mut Layout| {
        fourth = layout.add("node-4")?;
        Ok(())
    };
    let cluster = Cluster::start_with(with_a_fourth).await?;
    let record = cluster.folder().join("received.jsonl");
    let history = History::create(&record)?;
    let mode = Mode::Recording(Some((history.clone(), "historian".to_owned())));
    let receiver = Receiver::start("127.0.0.1:0".parse()?, mode).await?;
    cluster.apply(&plant(&receiver.url()), 0).await?;

    // Delivered and gone: what a late node need not get.
    push(&cluster, 0, DELIVERED).await?;
    let floor = until_purged(&cluster, &receiver).await?;
    // Undelivered: what it must get.
    receiver.set_reply(Reply::Refuse { status: 503, retry_after: None });
    let before = cluster.buffer(cluster.leader().await?).await?.applied;
    push(&cluster, DELIVERED, DELIVERED + UNDELIVERED).await?;
    begin_to_join(&cluster, fourth).await?;
    let name = cluster.name(fourth);
    let named = format!("{name}={}", cluster.node(fourth).peers);
    cluster.cli_done(&["member", "add", &named, "--no-wait", "--reason", "scenario"]).await?;
    let has_begun = async || {
        let buffer = cluster.buffer(fourth).await?;
        ensure!(buffer.floor >= floor, "it does not begin with a checkpoint at {floor} or later: {buffer:?}");
        ensure!(buffer.applied > before, "it has nothing of the backlog behind {before}: {buffer:?}");
        Ok(())
    };
    cluster.until("the learner to have a checkpoint and, in part at least, the backlog", has_begun).await?;

    // The leader that it learned from dies; the next one brings it the rest, and what is new.
    let first = cluster.leader().await?;
    cluster.kill(first).await?;
    let second = cluster.agreed().await?;
    ensure!(second != first && second != fourth, "{} leads", cluster.name(second));
    let learner = cluster.members().await?.into_iter().find(|member| member.name == name);
    ensure!(!learner.context("a member")?.voter, "it was promoted by nobody");
    push(&cluster, DELIVERED + UNDELIVERED, ALL).await?;
    let has_everything = async || {
        let (leads, learns) = (cluster.buffer(second).await?, cluster.buffer(fourth).await?);
        ensure!(learns.applied >= leads.applied, "it has {learns:?} of {leads:?}");
        Ok(())
    };
    cluster.until("the learner to have everything, from the next leader", has_everything).await?;

    // Promoted, it counts: of four voters three must agree, and the leader dies again.
    cluster.run(first).await?;
    cluster.agreed().await?;
    cluster.cli_done(&["member", "promote", name, "--wait"]).await?;
    cluster.kill(second).await?;
    cluster.agreed().await?;
    // What it learned is whole: it delivers the backlog from its own disk.
    cluster.cli_done(&["leader", "transfer", "--to", name, "--reason", "scenario"]).await?;
    ensure!(cluster.leader().await? == fourth);
    receiver.set_reply(Reply::Accept);
    let backlog_delivered = async || {
        let counts = receiver.counts();
        ensure!(counts.samples >= ALL * 2, "{counts:?}");
        Ok(())
    };
    cluster.until("the backlog is delivered by the node that learned it", backlog_delivered).await?;
    let counts = receiver.counts();
    ensure!(
        counts.conflicts == 0 && counts.out_of_order == 0,
        "equal keys, equal bytes, in order: {counts:?}"
    );
    history.flush()?;
    let numbers = numbers(&record)?;
    ensure!(numbers == (0..ALL).collect(), "every acknowledged message arrives: {numbers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_leader_hands_over_first() -> Result<()> {
    let cluster = Cluster::start().await?;
    let leader = cluster.leader().await?;
    let (name, address) = (cluster.node(leader).name.clone(), cluster.node(leader).peers);
    let remove = ["member", "remove", name.as_str(), "--reason", "scenario"];
    cluster.cli(&remove).await?.refused(1, "HF-3113");
    ensure!(cluster.leader().await? == leader, "nothing was given up");

    cluster.cli_done(&[&remove[..], &["--force"]].concat()).await?;
    let members = cluster.members().await?;
    ensure!(members.len() == 2 && members.iter().all(|member| member.name != name), "{members:?}");
    let next = cluster.leader().await?;
    let status = cluster.status(next).await?;
    let cause = status.leader.context("a leader")?.cause;
    ensure!(cause == "switchover", "leadership was handed over, not lost: {cause}");
    let told = format!("{name} (#{}) is no member any more", leader + 1);
    let asked = cluster.client(next).list_events(pb::ListEventsRequest::default()).await?.into_inner();
    let times = asked.events.iter().filter(|event| event.text.contains(&told)).count();
    ensure!(times == 1, "expected {told:?} once in {:#?}", asked.events);

    cluster.until("the removed node notices and says so", async || notices(&cluster, leader).await).await?;
    ensure!(cluster.log(leader).await.contains("HF-3110"), "its log says nothing");
    ensure!(cluster.casualty().is_none(), "it stays up, so that it can say why");
    // It founds nothing when it starts again, and it cannot be taken back with its old directory.
    cluster.kill(leader).await?;
    cluster.run(leader).await?;
    cluster
        .until("the removed node still knows after a restart", async || notices(&cluster, leader).await)
        .await?;
    let question = pb::AddMemberRequest {
        name: name.clone(),
        address: address.to_string(),
        ..pb::AddMemberRequest::default()
    };
    let again = cluster.ask(question, async |admin, question| admin.add_member(question).await).await;
    refused_with(again, "HF-3111")?;
    Ok(())
}

/// Whether a node knows that it was removed.
async fn notices(cluster: &Cluster, index: usize) -> Result<()> {
    let Err(refusal) = cluster.status(index).await else { bail!("it takes itself for a member") };
    let status = refusal.downcast_ref::<tonic::Status>().context("no status")?;
    ensure!(code(status) == "HF-3110", "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_votes_and_never_leads() -> Result<()> {
    let cluster = Cluster::start().await?;
    let first = cluster.leader().await?;
    let name = cluster.node(first).name.clone();
    let done =
        cluster.ask(drained(&name), async |admin, question| admin.drain_member(question).await).await?;
    ensure!(!done.leader.is_empty() && done.leader != name, "it hands over first: {done:?}");
    let second = cluster.leader().await?;
    ensure!(second != first);
    let third = 3 - first - second;

    // The leader dies: of the two that are left only one may lead, and it needs the drained one's vote.
    cluster.kill(second).await?;
    ensure!(cluster.leader().await? == third, "the drained node leads");
    let drained_still = cluster.members().await?.into_iter().find(|member| member.name == name);
    ensure!(drained_still.context("a member")?.drained.is_some(), "a failover takes the order back");
    let asked = pb::TransferLeadershipRequest { to: name.clone(), reason: String::new() };
    let to_drained =
        cluster.ask(asked.clone(), async |admin, question| admin.transfer_leadership(question).await).await;
    let said = refused_with(to_drained, "HF-3106")?;
    ensure!(said.contains("drained"), "{said}");
    ensure!(cluster.leader().await? == third, "a refused transfer gives nothing up");

    let resume = pb::ResumeMemberRequest { name: name.clone(), reason: "scenario".to_owned() };
    cluster.ask(resume, async |admin, question| admin.resume_member(question).await).await?;
    let transferred =
        cluster.ask(asked, async |admin, question| admin.transfer_leadership(question).await).await?;
    ensure!(transferred.to == name, "{transferred:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_passes_on_what_it_alone_has() -> Result<()> {
    let cluster = Cluster::start().await?;
    let first = cluster.leader().await?;
    let name = cluster.node(first).name.clone();
    cluster.ask(drained(&name), async |admin, question| admin.drain_member(question).await).await?;
    let second = cluster.leader().await?;
    let third = 3 - first - second;

    // Committed by the leader and the drained node, and by nobody else; then the leader dies.
    cluster.pause(third).await?;
    let gone = cluster.node(third).name.clone();
    let cut_off = async || {
        let members = cluster.members().await?;
        let paused = members.iter().find(|member| member.name == gone).context("a member")?;
        // Otherwise what is applied next would wait for it in a socket.
        ensure!(paused.reach() == pb::member::Reach::Unreachable, "it is {:?}", paused.reach());
        Ok(())
    };
    cluster.until("the leader gives the paused node up", cut_off).await?;
    let apply = configuration("version = 1\n", 0);
    let applied = cluster.client(second).apply_config(apply).await?.into_inner();
    cluster.kill(second).await?;
    cluster.resume(third).await?;

    // The third cannot win against the drained node's longer log, and the drained node never leads.
    let leads = async || {
        let leader = cluster.leader().await?;
        ensure!(leader == third, "{} leads", cluster.node(leader).name);
        let status = cluster.status(third).await?;
        ensure!(status.revision == applied.revision, "what was committed is lost: {status:?}");
        let cause = status.leader.context("a leader")?.cause;
        ensure!(cause == "failover", "the reign before ended without order, and this one says {cause}");
        Ok(())
    };
    cluster.until("the third leads with all that was committed", leads).await?;
    let log = cluster.log(first).await;
    ensure!(log.contains("leading only to hand over"), "it was not needed, so nothing is proven:\n{log}");
    ensure!(log.matches("  INFO leading term=").count() == 1, "the drained node has led again:\n{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failback_waits_for_the_settle_time() -> Result<()> {
    const SETTLE: Duration = Duration::from_secs(3);
    let cluster = Cluster::start().await?;
    let preferred = cluster.leader().await?;
    let name = cluster.node(preferred).name.clone();
    let policy = |failback: &str| format!("version = 1\n[cluster]\npreferred = [\"{name}\"]\n{failback}\n");
    cluster.apply(&policy("failback = \"manual\""), 0).await?;
    cluster.kill(preferred).await?;
    let second = cluster.leader().await?;
    ensure!(second != preferred);
    cluster.run(preferred).await?;

    // By hand: the status says that it is possible, and nothing happens by itself.
    let possible = async || {
        let failback = cluster.status(second).await?.failback.context("nothing is said")?;
        ensure!(failback.to == name && !failback.automatic, "{failback:?}");
        Ok(())
    };
    cluster.until("the status says that leadership could return", possible).await?;
    ensure!(cluster.leader().await? == second, "by hand means by hand");

    // By itself: the node returns, is well for the settle time, and leads.
    cluster.kill(preferred).await?;
    let automatic = format!("failback = \"auto\"\nfailback-settle = \"{}s\"", SETTLE.as_secs());
    cluster.apply(&policy(&automatic), 1).await?;
    let restarted = Instant::now();
    cluster.run(preferred).await?;
    let returned = async || {
        let leader = cluster.leader().await?;
        ensure!(leader == preferred, "{} leads", cluster.node(leader).name);
        Ok(())
    };
    cluster.until("leadership returns", returned).await?;
    let waited = restarted.elapsed();
    ensure!(waited >= SETTLE, "it returned after {waited:?}, before the node had been well for {SETTLE:?}");
    let cause = cluster.status(preferred).await?.leader.context("a leader")?.cause;
    ensure!(cause == "switchover", "leadership was handed over, not lost: {cause}");
    Ok(())
}
