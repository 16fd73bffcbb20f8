//! The interactive demo: a screen that shows the moment, and keys that do something to the cluster.
//!
//! One thing is done at a time; a key that is pressed meanwhile says so.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use simulator::account::Figures;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::screen::{self, DeviceRow, NodeRow, Picture};
use super::stage::Stage;
use super::terminal::{Key, Terminal};

const DRAW_EVERY: Duration = Duration::from_millis(200);
/// The account is settled every so many screens: it looks at every slot.
const SETTLE_EVERY: u32 = 5;
/// Lines of the journal that a screen may show.
const JOURNAL: usize = 100;

/// Something that is being done.
type Doing<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

/// Shows the demo until somebody quits.
pub(super) async fn run(stage: &Stage, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminal = Terminal::take()?;
    let mut ticks = interval(DRAW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut view =
        LiveView { stage, began: Instant::now(), is_receiver_up: true, figures: Settled::default() };
    let mut doing: Option<(&'static str, Doing<'_>)> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let (width, height) = terminal.size();
                let picture = view.picture(doing.as_ref().map(|(name, _)| *name));
                terminal.draw(&screen::lines(&picture, width, height))?;
            }
            ended = finish(&mut doing) => {
                doing = None;
                if let Err(error) = ended {
                    stage.journal.say(format!("not done: {error:#}"));
                }
            }
            key = terminal.key() => match key {
                None | Some(Key::Interrupt | Key::Letter('q')) => return Ok(()),
                Some(Key::Letter('d')) => {
                    view.is_receiver_up = !view.is_receiver_up;
                    stage.trial().set_receiver(view.is_receiver_up).await?;
                }
                Some(Key::Letter(letter)) => match (what(stage, letter), &doing) {
                    (Some(_), Some((busy, _))) => stage.journal.say(format!("wait: {busy} is not over")),
                    (Some(new), None) => doing = Some(new),
                    (None, _) => {}
                },
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}

fn what(stage: &Stage, letter: char) -> Option<(&'static str, Doing<'_>)> {
    Some(match letter {
        'k' => ("kill -9 the leader", Box::pin(async { stage.suffer(stage.trial().kill_leader()).await })),
        'p' => ("pause the leader", Box::pin(async { stage.suffer(stage.trial().pause_leader()).await })),
        'c' => ("cut the leader's wire", Box::pin(async { stage.suffer(stage.trial().cut_leader()).await })),
        's' => ("switch over", Box::pin(async { stage.suffer(stage.trial().switch_over()).await })),
        _ => return None,
    })
}

/// Resolves when what is being done is over; never, if nothing is.
async fn finish(doing: &mut Option<(&'static str, Doing<'_>)>) -> anyhow::Result<()> {
    match doing {
        Some((_, running)) => running.await,
        None => std::future::pending().await,
    }
}

/// Figures are shown only while they hold: a delivery that is being read may look like a loss for a moment.
#[derive(Debug, Default)]
struct Settled {
    now: Figures,
    before: Figures,
    screens: u32,
}

struct LiveView<'a> {
    stage: &'a Stage,
    began: Instant,
    is_receiver_up: bool,
    figures: Settled,
}

impl LiveView<'_> {
    fn picture(&mut self, busy: Option<&'static str>) -> Picture {
        let stage = self.stage;
        if self.figures.screens.is_multiple_of(SETTLE_EVERY) {
            self.figures.before = self.figures.now;
            self.figures.now = stage.field.account.lock().figures();
        }
        self.figures.screens = self.figures.screens.wrapping_add(1);
        let lost = self.figures.now.lost.min(self.figures.before.lost);
        let view = stage.nodes.view();
        let processes = stage.nodes.process_states();
        let nodes = stage.nodes.layout.nodes.iter().enumerate().map(|(index, node)| NodeRow {
            name: node.name.clone(),
            process: processes[index],
            says: view.says(index),
        });
        let name = |node| {
            stage.nodes.layout.node_at(node).map_or_else(|| "somebody".to_owned(), |node| node.name.clone())
        };
        let devices = stage
            .field
            .readers()
            .into_iter()
            .map(|(id, read)| DeviceRow { id, reader: read.map(|(node, age)| (name(node), age)) });
        Picture {
            since: self.began.elapsed(),
            leader: view.leader().map(|leader| (leader.name, leader.term)),
            last_gap: stage.last_gap(),
            figures: Figures { lost, ..self.figures.now },
            is_receiver_up: self.is_receiver_up,
            busy: busy.map(str::to_owned),
            nodes: nodes.collect(),
            devices: devices.collect(),
            endpoints: stage.nodes.layout.endpoints(),
            journal: stage.journal.last(JOURNAL),
        }
    }
}
