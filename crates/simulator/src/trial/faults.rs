//! What can be done to the cluster while it works. Each is done to a whole cluster, and is over when it is whole again.

use std::net::IpAddr;
use std::time::Duration;

use super::{HEALING, STEADY_READS, Trial, TrialError};
use crate::account::{Effect, Fault};
use crate::history::monotonic_ns;
use crate::nodes::cluster::Leader;
use crate::nodes::layout::NODES;

/// Until another node reads every device.
const TAKE_OVER: Duration = Duration::from_secs(20);
/// Until the leader notices that a follower is silent.
const NOTICING: Duration = Duration::from_secs(15);

/// The leader of a whole cluster, and when its fault begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// Who leads.
    pub leader: Leader,
    /// Its index.
    pub index: usize,
    /// Where devices see it come from.
    pub field: IpAddr,
    /// When its fault begins, in monotonic nanoseconds.
    pub began_ns: u64,
}

/// Another node reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenOver {
    /// When it had read the last device for the first time, in monotonic nanoseconds.
    pub at_ns: u64,
    /// The longest time without an answered read.
    pub gap: Duration,
}

/// What a fault has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was done, in words.
    pub name: String,
    /// The longest time without an answered read, where another node took over.
    pub gap: Option<Duration>,
}

impl Trial<'_> {
    /// Kills the leader (`kill -9`), and starts it again when another node reads.
    pub async fn kill_leader(&self) -> Result<Outcome, TrialError> {
        let victim = self.victim_of(Effect::Failover).await?;
        let name = format!("kill -9 {}", victim.leader.name);
        self.nodes.say(&format!("{name}, which leads"));
        self.nodes.kill(victim.index).await?;
        let taken_over = self.taken_over(&victim).await?;
        self.nodes.run(victim.index).await?;
        self.recovered(name, Effect::Failover, &victim, Some(taken_over)).await
    }

    /// Lets the leader stand still until another node reads, and then go on; or starts it again, if its own timer has ended
    /// it by then.
    pub async fn pause_leader(&self) -> Result<Outcome, TrialError> {
        let victim = self.victim_of(Effect::Failover).await?;
        let name = format!("pause {}", victim.leader.name);
        self.nodes.say(&format!("{name}, which leads, for longer than its lease"));
        self.nodes.pause(victim.index).await?;
        let taken_over = self.taken_over(&victim).await;
        let went_on = self.nodes.resume(victim.index).await?;
        let taken_over = taken_over?;
        self.nodes.say(&match went_on {
            true => format!("{} goes on", victim.leader.name),
            false => format!(
                "{} stood still for longer than its lease and was ended by its own timer; it is started again",
                victim.leader.name
            ),
        });
        self.recovered(name, Effect::Failover, &victim, Some(taken_over)).await
    }

    /// Cuts the leader from both peers; it still sees the devices.
    pub async fn cut_leader(&self) -> Result<Outcome, TrialError> {
        let victim = self.victim_of(Effect::Failover).await?;
        let name = format!("cut {} off", victim.leader.name);
        self.nodes.say(&format!("{name}, which leads, from its peers; it still sees the devices"));
        self.nodes.cut(victim.index);
        let taken_over = self.taken_over(&victim).await;
        self.nodes.mend(victim.index);
        let taken_over = taken_over?;
        self.must_have_read_on(&name, &victim);
        self.recovered(name, Effect::Failover, &victim, Some(taken_over)).await
    }

    /// Cuts a follower from both peers until the leader has noticed.
    pub async fn cut_follower(&self) -> Result<Outcome, TrialError> {
        let victim = self.victim_of(Effect::None).await?;
        let index = (victim.index + 1) % NODES;
        let follower = self.nodes.layout.nodes[index].name.clone();
        let name = format!("cut {follower} off");
        self.nodes.say(&format!("{name}, a follower"));
        self.nodes.cut(index);
        let noticed = self
            .nodes
            .until_seen("the leader to miss the follower", NOTICING, |view| {
                view.misses(&follower).then_some(())
            })
            .await;
        self.nodes.mend(index);
        noticed?;
        let leader = &victim.leader.name;
        self.nodes.say(&format!("{leader} misses it, and nothing else changes; its wire is mended"));
        self.recovered(name, Effect::None, &victim, None).await
    }

    /// Hands leadership over as planned.
    pub async fn switch_over(&self) -> Result<Outcome, TrialError> {
        let victim = self.victim_of(Effect::Switchover).await?;
        self.nodes.say(&format!("switching over from {}", victim.leader.name));
        let answer = self.nodes.cluster.transfer(victim.index).await?;
        let name = format!("switchover to {}", answer.to);
        let taken_over = self.taken_over(&victim).await?;
        self.recovered(name, Effect::Switchover, &victim, Some(taken_over)).await
    }

    /// Takes the HTTP receiver away for `time`, and waits until it has caught up.
    pub async fn stop_receiver(&self, time: Duration) -> Result<Outcome, TrialError> {
        let before = self.field.account.lock().figures().delivered;
        self.set_receiver(false).await?;
        // How long it is away is the fault itself.
        tokio::time::sleep(time).await;
        let away = self.field.account.lock().figures();
        self.nodes.say(&format!("{} samples wait for the HTTP receiver", away.pending));
        if away.pending == 0 || away.delivered < before {
            self.field.account.lock().doubt("nothing waited for the HTTP receiver while it was away");
        }
        self.set_receiver(true).await?;
        let missing = away.pending;
        self.nodes
            .until("the HTTP receiver to catch up", HEALING, || {
                let figures = self.field.account.lock().figures();
                (figures.delivered >= away.delivered + missing && figures.pending < missing).then_some(())
            })
            .await?;
        self.nodes.say("the HTTP receiver has caught up");
        Ok(Outcome { name: "the HTTP receiver away".to_owned(), gap: None })
    }

    /// Takes the HTTP receiver away, or brings it back.
    pub async fn set_receiver(&self, is_up: bool) -> Result<(), TrialError> {
        self.field.set_receiver(is_up).await?;
        self.nodes.say(if is_up { "the HTTP receiver is back" } else { "the HTTP receiver is gone" });
        Ok(())
    }

    /// The leader of a whole cluster: what is done to it begins now.
    pub async fn victim(&self) -> Result<Victim, TrialError> {
        let leader = self.nodes.agreed(HEALING).await?;
        let index = self.nodes.layout.index_of(&leader.name);
        let index = index.ok_or_else(|| TrialError::Stranger(leader.name.clone()))?;
        Ok(Victim { leader, index, field: self.nodes.layout.nodes[index].field, began_ns: monotonic_ns() })
    }

    /// The leader, to whom something is done that has this effect. The account hears of it now: whoever quits in the middle
    /// of a fault has still caused the election.
    async fn victim_of(&self, effect: Effect) -> Result<Victim, TrialError> {
        let victim = self.victim().await?;
        self.field.account.lock().begins_to_suffer(effect, victim.began_ns);
        Ok(victim)
    }

    /// Waits until another node reads every device, and says how long nobody did.
    pub async fn taken_over(&self, victim: &Victim) -> Result<TakenOver, TrialError> {
        let others = |node| node != victim.field;
        let reads = || self.field.account.lock().reads_since(victim.began_ns, others);
        self.nodes
            .until("another node to read every device", TAKE_OVER, || (reads() >= STEADY_READS).then_some(()))
            .await?;
        let account = self.field.account.lock();
        let at_ns = account.taken_over_ns(victim.began_ns, victim.field).unwrap_or_else(monotonic_ns);
        let gap = Duration::from_nanos(account.longest_silence(victim.began_ns, at_ns));
        drop(account);
        let reader = self.field.readers().into_values().flatten().next();
        let reader = reader
            .and_then(|(node, _)| self.nodes.layout.node_at(node))
            .map_or("somebody", |node| &node.name);
        self.nodes.say(&format!("{reader} reads; {} ms between two reads", gap.as_millis()));
        Ok(TakenOver { at_ns, gap })
    }

    /// Says how long a node that was cut off read on. If it did not, nothing could have overlapped: a doubt.
    pub fn must_have_read_on(&self, name: &str, victim: &Victim) {
        let mut account = self.field.account.lock();
        let read_on = account.reads_since(victim.began_ns, |node| node == victim.field);
        let node = &victim.leader.name;
        self.nodes.say(&format!("{node} read every device {read_on} times more, and stopped"));
        if read_on == 0 {
            account.doubt(format!("{name}: it did not read any more, so nothing could overlap"));
        }
    }

    /// Waits until the cluster is whole, and enters the fault into the account.
    pub async fn recovered(
        &self,
        name: String,
        effect: Effect,
        victim: &Victim,
        taken_over: Option<TakenOver>,
    ) -> Result<Outcome, TrialError> {
        let leader = self.nodes.agreed(HEALING).await?;
        self.reads_go_on(HEALING).await?;
        self.nodes.say(&format!("all nodes are well; {} leads (term {})", leader.name, leader.term));
        let mut account = self.field.account.lock();
        if effect != Effect::None && leader.term == victim.leader.term {
            account.doubt(format!("{name}: it did not bite, {} went on leading", leader.name));
        }
        account.suffered(Fault {
            name: name.clone(),
            effect,
            began_ns: victim.began_ns,
            taken_over_ns: taken_over.map_or(victim.began_ns, |taken_over| taken_over.at_ns),
            ended_ns: monotonic_ns(),
        });
        Ok(Outcome { name, gap: taken_over.map(|taken_over| taken_over.gap) })
    }
}
