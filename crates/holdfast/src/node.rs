//! `holdfast node`: run one node until it is told to stop.
//!
//! - SIGTERM and SIGINT stop in order: leadership is handed over first. A second one ends at once.
//! - A panic anywhere ends the process: a node that is half dead would go on holding its lease.

mod bent_clock;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use gateway::{NodeConfig, RunningNode};
use model::Clock;
use runtime::SystemClock;
use runtime::random::generator;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Run one node.
#[derive(Debug, clap::Args)]
#[command(long_about = "Run one node of the cluster until it is told to stop (SIGTERM or Ctrl-C).\n\n\
    A leader hands leadership over before it goes. Logs go to standard error; RUST_LOG sets what is logged, for \
    example RUST_LOG=info,replication=debug.\n\nExample:\n  holdfast node --config /etc/holdfast/node.toml")]
pub(crate) struct NodeArgs {
    /// The node file.
    #[arg(long, short, value_name = "FILE", env = "HOLDFAST_CONFIG")]
    config: PathBuf,
    /// Log as JSON, a line each.
    #[arg(long)]
    log_json: bool,
}

/// Runs the node.
pub(crate) async fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    start_logging(args.log_json, stop.clone());
    end_on_panic();
    let config = NodeConfig::read(&args.config)?;
    stop_on_signals(stop.clone())?;
    let random = generator(None);
    let node = RunningNode::start(config, clock(), random, stop.clone()).await;
    let node = node.context("the node does not start")?;
    node.run(stop).await.context("the node has ended")?;
    Ok(ExitCode::SUCCESS)
}

fn clock() -> Arc<dyn Clock> {
    match std::env::var_os(bent_clock::VARIABLE) {
        Some(file) => {
            warn!(?file, "the wall clock of this node is bent by {}: for tests alone", bent_clock::VARIABLE);
            Arc::new(bent_clock::BentClock::follow(file.into()))
        }
        None => Arc::new(SystemClock),
    }
}

/// From `stop` on, the Raft library is not heard: it reports each call that its own orderly end refuses as an error.
fn start_logging(json: bool, stop: CancellationToken) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    let is_heard = dynamic_filter_fn(move |event, _| {
        !(event.target().starts_with("openraft") && event.is_event() && stop.is_cancelled())
    });
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if json { lines.json().boxed() } else { lines.with_ansi(false).with_target(false).boxed() };
    tracing_subscriber::registry().with(lines.with_filter(is_heard)).with(filter).init();
}

/// A task that panics would leave the others running, the Raft core among them saying that it leads.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

#[allow(clippy::disallowed_methods, reason = "the signal task lives as long as the process")]
fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::spawn(async move {
        let mut asked = 0;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asked += 1;
            if asked > 1 {
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    /// Set in the process that is going to end.
    const CHILD: &str = "HOLDFAST_TEST_CHILD";

    #[test]
    fn a_panic_in_any_task_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            return panic_in_a_task();
        }
        let this = std::env::current_exe().expect("this program");
        let ended = Command::new(this)
            .args(["--exact", "node::tests::a_panic_in_any_task_ends_the_process", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("it can be started again");
        assert_eq!(ended.signal(), Some(rustix::process::Signal::ABORT.as_raw()), "{ended}");
    }

    #[allow(clippy::disallowed_methods, reason = "the process ends before the task does")]
    fn panic_in_a_task() {
        end_on_panic();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            tokio::spawn(async { panic!("expected in this test") });
            tokio::time::sleep(Duration::from_secs(10)).await;
        });
    }
}
