//! `holdfast demo`: three real node processes, a simulated plant and local receivers.

use std::process::ExitCode;

/// Run three nodes with a simulated plant on this machine.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct DemoArgs {}

/// Runs the demo.
pub(crate) async fn run(_args: DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this program was built without the demo")
}
