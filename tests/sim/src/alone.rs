//! A run in a process of its own, and what became of that: a process that does not end is ended, and counts as failed.
//!
//! - What it says as errors is passed on at once, and the end of it is kept: a run that hangs has no report.
//! - Its end is waited for in real time. Nothing of that reaches the run, in which time is simulated.

use std::io::{self, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process;
use tokio::time::timeout;

use crate::run::Report;

/// Bytes of what was said last that are kept, and that are read at one time.
const TAIL: usize = 16 << 10;
/// The kernel ends a killed process at once.
const KILLED: Duration = Duration::from_secs(10);

/// What was heard of a process.
#[derive(Debug)]
struct Heard {
    /// Absent if it had to be killed.
    status: Option<ExitStatus>,
    output: Vec<u8>,
    /// The end of what it said as errors.
    errors: Vec<u8>,
}

/// Runs a seed by a command that says as JSON what came of it, for no longer than this.
///
/// # Errors
/// It cannot be started, heard or ended.
pub(crate) fn run(seed: u64, command: Command, limit: Duration) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let heard = runtime.block_on(hear(command, limit));
    Ok(report(seed, limit, &heard.with_context(|| format!("the run of seed {seed}"))?))
}

/// What came of a seed; where its process has not said so, it has failed with what it had said.
fn report(seed: u64, limit: Duration, heard: &Heard) -> Report {
    let violation = match heard.status {
        None => format!("it had not ended after {limit:?}, and was killed"),
        Some(status) => match serde_json::from_slice(&heard.output) {
            Ok(report) => return report,
            Err(error) => format!("its process ended with {status} and without a report: {error}"),
        },
    };
    let said = String::from_utf8_lossy(&heard.errors);
    Report { seed, events: said.lines().map(str::to_owned).collect(), verdict: Err(violation) }
}

async fn hear(command: Command, limit: Duration) -> io::Result<Heard> {
    let mut command = process::Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let no_pipe = || io::Error::other("it has no outputs");
    let mut stdout = child.stdout.take().ok_or_else(no_pipe)?;
    let stderr = child.stderr.take().ok_or_else(no_pipe)?;
    let (mut output, mut errors, mut own) = (Vec::new(), Vec::new(), io::stderr());
    let ending = async {
        let passed_on = pass_on(stderr, &mut own, &mut errors);
        tokio::try_join!(stdout.read_to_end(&mut output), passed_on)?;
        child.wait().await
    };
    let ended = timeout(limit, ending).await;
    let status = match ended {
        Ok(ended) => Some(ended?),
        Err(_) => {
            let killed = timeout(KILLED, child.kill()).await;
            killed.map_err(|_| io::Error::other("it was killed, and does not end"))??;
            None
        }
    };
    Ok(Heard { status, output, errors })
}

/// Reads to the end, passes on what is read, and keeps the end of it.
async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    to: &mut impl Write,
    tail: &mut Vec<u8>,
) -> io::Result<()> {
    let mut chunk = vec![0; TAIL];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..count])?;
        tail.extend_from_slice(&chunk[..count]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::run::Figures;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_run_that_hangs_is_ended_and_fails_with_what_it_had_said() {
        // A busy machine may need longer until it says anything.
        for seconds in [1, 10, 60] {
            let hangs = shell("echo $$ >&2; exec sleep 600");
            let report = run(7, hangs, Duration::from_secs(seconds)).expect("everybody has sh");
            let violation = report.verdict.expect_err("it hangs");
            assert!(report.seed == 7 && violation.contains("had not ended after"), "{violation}");
            if let [process] = report.events.as_slice() {
                let left = Path::new("/proc").join(process);
                assert!(!left.exists(), "{} is still there", left.display());
                return;
            }
        }
        panic!("it has said nothing");
    }

    #[test]
    fn a_run_that_ends_has_come_to_what_it_says() {
        let figures = Figures { ticks: 4_000, ..Figures::default() };
        let said = Report { seed: 7, events: vec!["a fault".to_owned()], verdict: Ok(figures) };
        let text = serde_json::to_string(&said).expect("it is plain");
        let report = run(7, shell(&format!("echo '{text}'")), LONG).expect("everybody has sh");
        assert_eq!((report.events, report.verdict), (said.events, Ok(figures)));
    }

    #[test]
    fn a_run_that_ends_without_a_report_has_failed() {
        let report = run(7, shell("echo so bad >&2; exit 3"), LONG).expect("everybody has sh");
        let violation = report.verdict.expect_err("it has no report");
        assert!(violation.contains("exit status: 3"), "{violation}");
        assert_eq!(report.events, ["so bad"]);
    }

    #[tokio::test]
    async fn all_is_passed_on_and_the_end_of_it_is_kept() {
        let all: Vec<u8> = (0..3 * TAIL + 7).map(|number| number as u8).collect();
        let (mut to, mut tail) = (Vec::new(), Vec::new());
        pass_on(&all[..], &mut to, &mut tail).await.expect("it is in memory");
        assert!(to == all && tail == all[all.len() - TAIL..]);
    }
}
