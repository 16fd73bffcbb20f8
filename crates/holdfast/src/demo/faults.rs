//! What can be done to the cluster while it works. Each is done to a whole cluster, and is over when it is whole again.

use std::net::IpAddr;
use std::time::Duration;

use simulator::history::monotonic_ns;
use simulator::nodes::cluster::Leader;
use simulator::nodes::layout::NODES;

use super::account::{Effect, Fault};
use super::stage::{HEALING, STEADY_READS, Stage};

/// Until another node reads every device.
const TAKE_OVER: Duration = Duration::from_secs(20);
/// Until the leader notices that a follower is silent.
const NOTICING: Duration = Duration::from_secs(15);

/// The leader of a whole cluster, and when its fault begins.
struct Victim {
    leader: Leader,
    index: usize,
    field: IpAddr,
    began_ns: u64,
}

impl Stage {
    /// Kills the leader (`kill -9`), and starts it again when another node reads.
    pub(super) async fn kill_leader(&self) -> anyhow::Result<()> {
        let victim = self.victim().await?;
        let name = format!("kill -9 {}", victim.leader.name);
        self.journal.say(format!("{name}, which leads"));
        self.nodes.process(victim.index).await.kill().await?;
        let taken_over_ns = self.taken_over(&name, &victim).await?;
        self.nodes.process(victim.index).await.start()?;
        self.recovered(name, Effect::Failover, &victim, taken_over_ns).await
    }

    /// Lets the leader stand still until another node reads, and then go on.
    pub(super) async fn pause_leader(&self) -> anyhow::Result<()> {
        let victim = self.victim().await?;
        let name = format!("pause {}", victim.leader.name);
        self.journal.say(format!("{name}, which leads, for longer than its lease"));
        self.nodes.process(victim.index).await.pause(true)?;
        let taken_over = self.taken_over(&name, &victim).await;
        self.nodes.process(victim.index).await.pause(false)?;
        let taken_over_ns = taken_over?;
        self.journal.say(format!("{} goes on", victim.leader.name));
        self.recovered(name, Effect::Failover, &victim, taken_over_ns).await
    }

    /// Cuts the leader from both peers; it still sees the devices.
    pub(super) async fn cut_leader(&self) -> anyhow::Result<()> {
        let victim = self.victim().await?;
        let name = format!("cut {} off", victim.leader.name);
        self.journal.say(format!("{name}, which leads, from its peers; it still sees the devices"));
        self.nodes.relay.set_all_of(victim.index, false);
        let taken_over = self.taken_over(&name, &victim).await;
        self.nodes.relay.set_all_of(victim.index, true);
        let taken_over_ns = taken_over?;
        let read_on = self.field.account.lock().reads_since(victim.began_ns, |node| node == victim.field);
        self.journal.say(format!(
            "{} read every device {read_on} times more, and stopped; its wire is mended",
            victim.leader.name
        ));
        if read_on == 0 {
            self.field
                .account
                .lock()
                .doubt(format!("{name}: it did not read any more, so nothing could overlap"));
        }
        self.recovered(name, Effect::Failover, &victim, taken_over_ns).await
    }

    /// Cuts a follower from both peers until the leader has noticed.
    pub(super) async fn cut_follower(&self) -> anyhow::Result<()> {
        let victim = self.victim().await?;
        let index = (victim.index + 1) % NODES;
        let follower = self.nodes.layout.nodes[index].name.clone();
        let name = format!("cut {follower} off");
        self.journal.say(format!("{name}, a follower"));
        self.nodes.relay.set_all_of(index, false);
        let noticed = self
            .nodes
            .until("the leader to miss the follower", NOTICING, || {
                self.nodes.view().misses(&follower).then_some(())
            })
            .await;
        self.nodes.relay.set_all_of(index, true);
        noticed?;
        self.journal
            .say(format!("{} misses it, and nothing else changes; its wire is mended", victim.leader.name));
        self.recovered(name, Effect::None, &victim, victim.began_ns).await
    }

    /// Hands leadership over as planned.
    pub(super) async fn switch_over(&self) -> anyhow::Result<()> {
        let victim = self.victim().await?;
        self.journal.say(format!("switching over from {}", victim.leader.name));
        let answer = self.nodes.cluster.transfer(victim.index).await?;
        let name = format!("switchover to {}", answer.to);
        let taken_over_ns = self.taken_over(&name, &victim).await?;
        self.recovered(name, Effect::Switchover, &victim, taken_over_ns).await
    }

    /// Takes the HTTP receiver away for `time`, and waits until it has caught up.
    pub(super) async fn stop_receiver(&self, time: Duration) -> anyhow::Result<()> {
        let before = self.field.account.lock().figures().delivered;
        self.set_destination(false).await?;
        // How long it is away is the fault itself.
        tokio::time::sleep(time).await;
        let away = self.field.account.lock().figures();
        self.journal.say(format!("{} samples wait for the HTTP receiver", away.pending));
        if away.pending == 0 || away.delivered < before {
            self.field.account.lock().doubt("nothing waited for the HTTP receiver while it was away");
        }
        self.set_destination(true).await?;
        let missing = away.pending;
        self.nodes
            .until("the HTTP receiver to catch up", HEALING, || {
                let figures = self.field.account.lock().figures();
                (figures.delivered >= away.delivered + missing && figures.pending < missing).then_some(())
            })
            .await?;
        self.journal.say("the HTTP receiver has caught up");
        Ok(())
    }

    /// Takes the HTTP receiver away, or brings it back.
    pub(super) async fn set_destination(&self, is_up: bool) -> anyhow::Result<()> {
        self.field.set_receiver(is_up).await?;
        self.journal.say(if is_up { "the HTTP receiver is back" } else { "the HTTP receiver is gone" });
        Ok(())
    }

    async fn victim(&self) -> anyhow::Result<Victim> {
        let leader = self.nodes.agreed(HEALING).await?;
        let index = self
            .nodes
            .layout
            .index_of(&leader.name)
            .ok_or_else(|| anyhow::anyhow!("{} leads, and is none of ours", leader.name))?;
        Ok(Victim { leader, index, field: self.nodes.layout.nodes[index].field, began_ns: monotonic_ns() })
    }

    /// Waits until another node reads every device, and says how long nobody did. Resolves with the moment of its first
    /// read of the last device.
    async fn taken_over(&self, fault: &str, victim: &Victim) -> anyhow::Result<u64> {
        let others = |node| node != victim.field;
        let reads = || self.field.account.lock().reads_since(victim.began_ns, others);
        self.nodes
            .until("another node to read every device", TAKE_OVER, || (reads() >= STEADY_READS).then_some(()))
            .await?;
        let account = self.field.account.lock();
        let at_ns = account.taken_over_ns(victim.began_ns, victim.field).unwrap_or_else(monotonic_ns);
        let gap = Duration::from_nanos(account.longest_silence(victim.began_ns, at_ns));
        drop(account);
        self.note_gap(fault, gap);
        let reader = self.field.readers().into_values().flatten().next();
        let reader = reader
            .and_then(|(node, _)| self.nodes.layout.node_at(node))
            .map_or("somebody", |node| &node.name);
        self.journal.say(format!("{reader} reads; {} ms between two reads", gap.as_millis()));
        Ok(at_ns)
    }

    /// Waits until the cluster is whole, and enters the fault into the account.
    async fn recovered(
        &self,
        name: String,
        effect: Effect,
        victim: &Victim,
        taken_over_ns: u64,
    ) -> anyhow::Result<()> {
        let leader = self.nodes.agreed(HEALING).await?;
        self.reads_go_on(HEALING).await?;
        self.journal.say(format!("all nodes are well; {} leads (term {})", leader.name, leader.term));
        let mut account = self.field.account.lock();
        if effect != Effect::None && leader.term == victim.leader.term {
            account.doubt(format!("{name}: it did not bite, {} went on leading", leader.name));
        }
        account.suffered(Fault {
            name,
            effect,
            began_ns: victim.began_ns,
            taken_over_ns,
            ended_ns: monotonic_ns(),
        });
        Ok(())
    }
}
