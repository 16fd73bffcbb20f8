//! `holdfast demo`: three real node processes, a simulated plant, local receivers, and an account that must add up.
//!
//! - On a terminal: a live screen with keys. Otherwise, or with `--drill`: every fault in turn, plain lines, an exit
//!   code by the account.
//! - `simulator::account` judges from what the simulated parts saw; nothing in it comes from a node.
//! - Every way out ends the nodes and removes the folder, unless it is to be kept or the verdict is not PASS.

mod drill;
mod journal;
mod live;
mod screen;
mod stage;
mod terminal;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use simulator::account::{Report, Verdict};
use simulator::field::Field;
use simulator::nodes::folder::Folder;
use simulator::nodes::layout::Layout;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use journal::Journal;
pub(crate) use journal::print;
use stage::Stage;

/// A drill that is not over then, counted from before the start of the nodes, is broken off. The start is not broken off,
/// and the account is settled afterwards: both have bounds of their own.
const DRILL_LIMIT: Duration = Duration::from_secs(180);

/// Try it: three nodes on this machine, a simulated plant, and keys to break things.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Run three real nodes on this machine, with a simulated plant and local receivers.\n\n\
    On a terminal, keys kill, pause and cut the leader (one that stands still for longer than its lease is ended by the \
    kernel); in the end the account is shown: what devices answered and \
    pushers were promised, against what arrived. Without a terminal, or with --drill, every fault is done in turn; \
    three minutes after the start what is left of them is broken off, and settling the account comes on top. The exit \
    code is 0 only if the account adds up; otherwise the folder is left, with --keep or without.\n\n\
    Examples:\n  holdfast demo\n  holdfast demo --drill --report account.json"
)]
pub(crate) struct DemoArgs {
    /// Do every fault in turn, without keys.
    #[arg(long)]
    drill: bool,
    /// Leave the folder with node files, logs, data and histories even if the account adds up.
    #[arg(long)]
    keep: bool,
    /// Write the account to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Work in this folder, which must be empty or absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the demo to its exit code.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let usual = || std::env::temp_dir().join(format!("holdfast-demo-{}", std::process::id()));
    let path = args.dir.clone().unwrap_or_else(usual);
    let mut folder = Folder::make(&path).context("there is no folder to work in")?;
    if args.keep {
        folder.keep();
    }
    let is_live = !args.drill && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let stop = CancellationToken::new();
    let ended = tokio::select! {
        ended = Box::pin(perform(&folder, is_live, &stop)) => ended,
        // Told to stop before there was anything to account for.
        () = told_twice(&stop) => Err(anyhow::anyhow!("ended at once")),
    };
    let ended = ended.and_then(|report| {
        if let Some(path) = &args.report {
            let text = serde_json::to_string_pretty(&report)?;
            std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
        }
        Ok(report.verdict)
    });
    if !matches!(ended, Ok(Verdict::Pass)) {
        folder.keep();
    }
    if args.keep || !matches!(ended, Ok(Verdict::Pass)) {
        print(&format!("kept for inspection: {}", folder.path().display()));
    }
    folder.remove()?;
    Ok(if ended? == Verdict::Pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the stage, runs the demo or the drill, and settles the account.
async fn perform(folder: &Folder, is_live: bool, stop: &CancellationToken) -> anyhow::Result<Report> {
    let layout = Layout::plan(folder.path(), "demo")?;
    if !layout.has_usual_ports {
        print("the usual ports are taken; to ask these nodes from another terminal:");
        print(&format!("  export HOLDFAST_ENDPOINTS={}", layout.endpoints()));
    }
    let journal = Journal::new();
    let drill_ends = tokio::time::Instant::now() + DRILL_LIMIT;
    let stage = tokio::select! {
        built = Box::pin(Stage::build(layout, journal.clone())) => built?,
        () = stop.cancelled() => anyhow::bail!("told to stop before the cluster was ready"),
    };
    let doubt = if is_live {
        journal.set_printing(false);
        let shown = Box::pin(live::run(&stage, stop)).await;
        journal.set_printing(true);
        shown.err().map(|error| format!("the live screen failed: {error:#}"))
    } else {
        tokio::select! {
            drilled = Box::pin(drill::run(&stage)) => drilled.err().map(|error| format!("{error:#}")),
            () = tokio::time::sleep_until(drill_ends) => Some("the drill took longer than three minutes".to_owned()),
            () = stop.cancelled() => Some("told to stop before the drill was over".to_owned()),
        }
    };
    if let Some(doubt) = doubt {
        stage.journal.say(&doubt);
        stage.field.account.lock().doubt(doubt);
    }
    let (report, field) = Box::pin(stage.close()).await;
    show(&report, &field);
    Ok(report)
}

/// Cancels `stop` when told to stop for the first time (Ctrl-C, SIGTERM, SIGHUP); resolves at the second time.
pub(crate) async fn told_twice(stop: &CancellationToken) {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let signals: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(%error, "signals cannot be caught; they end the demo without an account");
            return std::future::pending().await;
        }
    };
    for _ in 0..2 {
        let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(any).await;
        stop.cancel();
    }
}

/// Prints the account.
pub(crate) fn show(report: &Report, field: &Field) {
    let verdict = match report.verdict {
        Verdict::Pass if report.notes.is_empty() => "PASS: everything adds up",
        Verdict::Pass => "PASS: everything adds up, and there is something to look at",
        Verdict::Fail => "FAIL",
        Verdict::Unknown => "UNKNOWN: nothing is wrong, and this run proves nothing",
    };
    let causes: Vec<String> = field
        .account
        .lock()
        .gap_causes()
        .into_iter()
        .map(|(cause, slots)| format!("{cause} {slots}"))
        .collect();
    let gaps: Vec<String> = report
        .failovers
        .iter()
        .map(|failover| format!("{} {} ms", failover.fault, failover.gap_ms))
        .collect();
    let missed: Vec<String> = report.switchovers.iter().map(|seen| seen.slots_missed.to_string()).collect();
    let or_none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    print("");
    for line in [
        format!("reads answered   {:>8}   (devices)", report.reads_answered),
        format!("samples promised {:>8}   (pushers)", report.pushed_acked),
        format!("delivered        {:>8}   lost {}", report.delivered, report.lost),
        format!("duplicates       {:>8}   out of order {}", report.duplicates, report.out_of_order),
        format!(
            "slots            {:>8}   = sampled {} + bad {} + in gaps {} + unaccounted {}",
            report.slots_expected,
            report.slots_sampled,
            report.slots_bad,
            report.slots_in_gaps,
            report.slots_unaccounted
        ),
        format!("gaps by cause    {}", or_none(causes)),
        format!(
            "device overlaps  {:>8}   unexplained elections {}",
            report.device_overlaps, report.spurious_elections
        ),
        format!("failovers        {}", or_none(gaps)),
        format!("switchovers      slots missed: {}", or_none(missed)),
    ] {
        print(&line);
    }
    print("");
    print(verdict);
    for problem in &report.problems {
        print(&format!("  {problem}"));
    }
    for note in &report.notes {
        print(&format!("  note: {note}"));
    }
}
