//! Hooks, on three real nodes: what follows the active node is ended before another one begins.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use holdfast_tests::cluster::Cluster;
use simulator::nodes::layout::Layout;

/// Lines of `NODE HOOK` that hooks have written, in order.
fn lines(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let words = text.lines().filter_map(|line| line.split_once(' '));
    words.map(|(node, hook)| (node.to_owned(), hook.to_owned())).collect()
}

/// Nodes whose `on-lead` has run and whose `on-yield` has not ended since; more than one at a time is an error.
fn active(lines: &[(String, String)]) -> Result<BTreeSet<String>> {
    let mut active = BTreeSet::new();
    for (node, hook) in lines {
        match hook.as_str() {
            "on-lead" => active.insert(node.clone()),
            _ => active.remove(node),
        };
        ensure!(active.len() <= 1, "{active:?} are active at one time in {lines:?}");
    }
    Ok(active)
}

/// Gives every node these hooks.
fn with_hooks(hooks: &str) -> impl FnOnce(&mut Layout) -> Result<()> {
    let tables = format!("[hooks]\n{hooks}");
    move |layout| {
        layout.nodes.iter_mut().for_each(|node| node.tables.clone_from(&tables));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_leader_ends_on_one_node_before_it_begins_on_another() -> Result<()> {
    let told = tempfile::NamedTempFile::new()?;
    let file = told.path().display().to_string();
    // Yielding takes a while: a leader that did not wait for it would be found out.
    let say = format!("echo $HOLDFAST_NODE $HOLDFAST_HOOK >> {file}");
    let cluster = Cluster::start_with(with_hooks(&format!(
        "on-lead = [\"/bin/sh\", \"-c\", \"{say}\"]\n\
         on-yield = [\"/bin/sh\", \"-c\", \"sleep 0.4; {say}\"]\ntimeout = \"10s\"\n"
    )))
    .await?;
    let leads = |lines: &[(String, String)], index: usize| {
        active(lines).is_ok_and(|active| active.contains(cluster.name(index)))
    };
    let first = cluster.agreed().await?;
    cluster
        .until("a yield of every node at its start, and one that leads", async || {
            let lines = lines(told.path());
            let yields: BTreeSet<&String> =
                lines.iter().filter(|(_, hook)| hook == "on-yield").map(|(node, _)| node).collect();
            if yields.len() == 3 && leads(&lines, first) { Ok(()) } else { Err(lines) }
        })
        .await?;

    let mut before = first;
    for _ in 0..3 {
        let after = cluster.switch_over().await?;
        ensure!(after != before, "{after} led before");
        cluster
            .until("the hook of the node that leads now", async || {
                let lines = lines(told.path());
                if leads(&lines, after) { Ok(()) } else { Err(lines) }
            })
            .await?;
        before = after;
    }

    // A node that is stopped hands over, too.
    cluster.stop_node(before).await?;
    let last = cluster.agreed().await?;
    ensure!(last != before, "{last} is stopped");
    cluster
        .until("the hook of the last leader", async || {
            let lines = lines(told.path());
            if leads(&lines, last) { Ok(()) } else { Err(lines) }
        })
        .await?;
    active(&lines(told.path()))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_hangs_or_fails_holds_up_nothing_and_is_an_event() -> Result<()> {
    let cluster = Cluster::start_with(with_hooks(
        "on-lead = [\"/bin/sh\", \"-c\", \"sleep 1000\"]\non-yield = [\"/nowhere/at/all\"]\ntimeout = \"1s\"\n",
    ))
    .await?;
    let first = cluster.agreed().await?;
    let second = cluster.switch_over().await?;
    ensure!(first != second, "{second} led before");
    let client = cluster.client(second);
    cluster
        .until("both hooks among the events", async || {
            let list = client.clone().list_events(wire::proto::v1::ListEventsRequest::default()).await;
            let events = list.map_err(|status| vec![status.to_string()])?.into_inner().events;
            let texts: Vec<String> = events
                .into_iter()
                .filter(|event| event.subject.starts_with("node/"))
                .map(|event| event.text)
                .collect();
            let has = |text: &str| texts.iter().any(|known| known.starts_with(text));
            let both = has("hook on-yield has failed: it cannot be started")
                && has("hook on-lead has failed: it was ended after 1s");
            if both { Ok(()) } else { Err(texts) }
        })
        .await
}
