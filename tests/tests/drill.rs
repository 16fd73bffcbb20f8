//! The main job, end to end: three node processes, a Modbus plant, pushers and receivers, every fault of the drill, and
//! an account that adds up. Judged by the drill's report, which is computed from what devices, pushers and receivers saw.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// The program, built beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("a test runs from a file");
    let folder =
        tests.parent().and_then(|deps| deps.parent()).expect("tests lie in a folder below the programs");
    let program = folder.join(format!("holdfast{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{} is missing: build the workspace's programs first (make test does)",
        program.display()
    );
    program
}

#[test]
fn the_drill_adds_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = folder.path().join("report.json");
    let drill = Command::new(program())
        .args(["demo", "--drill", "--report"])
        .arg(&report)
        .output()
        .expect("the program starts");
    let said = format!(
        "--- output\n{}\n--- errors\n{}",
        String::from_utf8_lossy(&drill.stdout),
        String::from_utf8_lossy(&drill.stderr)
    );
    let report = std::fs::read(&report).unwrap_or_else(|error| panic!("no report: {error}\n{said}"));
    let report: Value = serde_json::from_slice(&report).expect("the report is JSON");
    let number =
        |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field} is no number in {report}"));
    assert_eq!(report["verdict"], "pass", "{report:#}\n{said}");
    for nothing in ["lost", "out_of_order", "slots_unaccounted", "device_overlaps"] {
        assert_eq!(number(nothing), 0, "{nothing} in {report:#}\n{said}");
    }
    for something in ["reads_answered", "pushed_acked", "delivered", "slots_sampled"] {
        assert!(number(something) > 0, "{something} in {report:#}\n{said}");
    }
    assert!(drill.status.success(), "the exit code follows the account: {said}");
}
