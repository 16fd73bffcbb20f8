//! The drill: every fault once or oftener, without hands.

use std::time::Duration;

use anyhow::Context;
use simulator::trial::HEALING;

use super::stage::Stage;

/// How long the HTTP receiver is away.
const RECEIVER_AWAY: Duration = Duration::from_secs(10);

/// What is done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Kill,
    Pause,
    CutLeader,
    CutFollower,
    SwitchOver,
    ReceiverAway,
}

const STEPS: [Step; 9] = [
    Step::Kill,
    Step::SwitchOver,
    Step::CutLeader,
    Step::Kill,
    Step::ReceiverAway,
    Step::Pause,
    Step::CutFollower,
    Step::Kill,
    Step::SwitchOver,
];

/// Runs the drill. An error is a fault that the cluster did not recover from in time.
pub(super) async fn run(stage: &Stage) -> anyhow::Result<()> {
    let trial = stage.trial();
    for (place, step) in STEPS.into_iter().enumerate() {
        stage.journal.say(format!("-- {} of {}", place + 1, STEPS.len()));
        let done = match step {
            Step::Kill => Box::pin(stage.suffer(trial.kill_leader())).await,
            Step::Pause => Box::pin(stage.suffer(trial.pause_leader())).await,
            Step::CutLeader => Box::pin(stage.suffer(trial.cut_leader())).await,
            Step::CutFollower => Box::pin(stage.suffer(trial.cut_follower())).await,
            Step::SwitchOver => Box::pin(stage.suffer(trial.switch_over())).await,
            Step::ReceiverAway => Box::pin(stage.suffer(trial.stop_receiver(RECEIVER_AWAY))).await,
        };
        done.with_context(|| format!("step {}, {step:?}", place + 1))?;
        trial.reads_go_on(HEALING).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drill_holds_every_fault_as_often_as_it_is_promised() {
        let count = |wanted| STEPS.iter().filter(|step| **step == wanted).count();
        let promised = [
            (Step::Kill, 3),
            (Step::Pause, 1),
            (Step::CutLeader, 1),
            (Step::CutFollower, 1),
            (Step::SwitchOver, 2),
            (Step::ReceiverAway, 1),
        ];
        for (step, times) in promised {
            assert_eq!(count(step), times, "{step:?}");
        }
    }
}
