//! The main job, end to end: three node processes, a Modbus plant, pushers and receivers, every fault of the drill, and
//! an account that adds up. Judged by the drill's report, which is computed from what devices, pushers and receivers saw.

use anyhow::Result;
use holdfast_tests::said::program;
use serde_json::Value;
use simulator::nodes::process;

#[tokio::test]
async fn the_drill_adds_up() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report.json");
    let mut drill = process::command(&program()?);
    drill.args(["demo", "--drill", "--report"]).arg(&report);
    let drill = drill.output().await?;
    let said = format!(
        "--- output\n{}\n--- errors\n{}",
        String::from_utf8_lossy(&drill.stdout),
        String::from_utf8_lossy(&drill.stderr)
    );
    let report = std::fs::read(&report).unwrap_or_else(|error| panic!("no report: {error}\n{said}"));
    let report: Value = serde_json::from_slice(&report)?;
    let number =
        |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field} is no number in {report}"));
    assert_eq!(report["verdict"], "pass", "{report:#}\n{said}");
    for nothing in [
        "lost",
        "filed_twice",
        "records_unfiled",
        "records_filed_twice",
        "out_of_order",
        "slots_unaccounted",
        "device_overlaps",
        "requests_astray",
        "stale_reigns",
        "conflicts",
        "keys_astray",
        "times_astray",
    ] {
        assert_eq!(number(nothing), 0, "{nothing} in {report:#}\n{said}");
    }
    for something in ["reads_answered", "pushed_acked", "delivered", "slots_sampled"] {
        assert!(number(something) > 0, "{something} in {report:#}\n{said}");
    }
    // They fail nothing: a machine that is busy with other things can cause them.
    eprintln!("notes: {}", report["notes"]);
    assert!(drill.status.success(), "the exit code follows the account: {said}");
    Ok(())
}
