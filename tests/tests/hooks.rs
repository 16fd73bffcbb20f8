//! Hooks, on three real nodes: what follows the active node is ended before another one begins.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use holdfast_tests::trio::{Nodes, until};

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

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_leader_ends_on_one_node_before_it_begins_on_another() -> Result<()> {
    let told = tempfile::NamedTempFile::new()?;
    let file = told.path().display().to_string();
    let mut nodes = Nodes::plan(|_| {
        // Yielding takes a while: a leader that did not wait for it would be found out.
        let say = format!("echo $HOLDFAST_NODE $HOLDFAST_HOOK >> {file}");
        format!(
            "[hooks]\non-lead = [\"/bin/sh\", \"-c\", \"{say}\"]\n\
             on-yield = [\"/bin/sh\", \"-c\", \"sleep 0.4; {say}\"]\ntimeout = \"10s\"\n"
        )
    })?;
    nodes.start_all()?;
    let names = nodes.names();
    let first = nodes.wait_for_leader(&names).await?;
    until("a yield of every node at its start, and one that leads", async || {
        let lines = lines(told.path());
        let yields: BTreeSet<&String> =
            lines.iter().filter(|(_, hook)| hook == "on-yield").map(|(node, _)| node).collect();
        let leads = active(&lines).is_ok_and(|active| active.contains(&first));
        if yields.len() == 3 && leads { Ok(()) } else { Err(lines) }
    })
    .await?;

    let mut before = first;
    for _ in 0..3 {
        let after = nodes.switch_over().await?;
        ensure!(after != before, "{after} led before");
        until("the hook of the node that leads now", async || {
            let lines = lines(told.path());
            let leads = active(&lines).is_ok_and(|active| active.contains(&after));
            if leads { Ok(()) } else { Err(lines) }
        })
        .await?;
        before = after;
    }

    // A node that is stopped hands over, too.
    nodes.stop(&before).await?;
    let rest: Vec<String> = names.into_iter().filter(|name| *name != before).collect();
    let last = nodes.wait_for_leader(&rest).await?;
    until("the hook of the last leader", async || {
        let lines = lines(told.path());
        if active(&lines).is_ok_and(|active| active.contains(&last)) { Ok(()) } else { Err(lines) }
    })
    .await?;
    active(&lines(told.path()))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_hangs_or_fails_holds_up_nothing_and_is_an_event() -> Result<()> {
    let mut nodes = Nodes::plan(|_| {
        "[hooks]\non-lead = [\"/bin/sh\", \"-c\", \"sleep 1000\"]\non-yield = [\"/nowhere/at/all\"]\n\
         timeout = \"1s\"\n"
            .to_owned()
    })?;
    nodes.start_all()?;
    let first = nodes.wait_for_leader(&nodes.names()).await?;
    let second = nodes.switch_over().await?;
    ensure!(first != second, "{second} led before");
    let client = nodes.client(&second)?;
    until("both hooks among the events", async || {
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
    .await?;
    Ok(())
}
