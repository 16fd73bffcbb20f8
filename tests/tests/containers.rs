//! The cluster of `compose.yaml`, in containers: the program as it was built, on a base image made of this machine.
//!
//! Where no container engine answers, nothing is tested, and the test says so.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::machine::{Unable, able};
use holdfast_tests::said;
use tokio::process::Command;

/// An image is made, and three nodes are killed, one after the other.
const LIMIT: Duration = Duration::from_secs(280);

#[tokio::test]
async fn each_node_in_a_container_is_killed_and_the_account_adds_up() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut drive = Command::new(root.join("scripts/compose-test"));
    drive.env("BINARY", said::program()?).env("RUNTIME_IMAGE", "here").kill_on_drop(true);
    let said = said::run_within(drive, LIMIT).await?;
    let last = said.output.lines().find(|line| line.starts_with("PASSED") || line.starts_with("SKIPPED"));
    let unable = last.filter(|line| line.starts_with("SKIPPED")).map(|line| Unable(line.to_owned()));
    if able(unable.map_or(Ok(()), Err)).is_some() {
        ensure!(said.code == 0 && last.is_some(), "{}\n{}", said.output, said.errors);
    }
    Ok(())
}
