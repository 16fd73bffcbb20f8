//! The demo on a terminal: each key is pressed, what it does is seen on the screen, and `q` ends it with an account that
//! adds up. The terminal is one of `script` (util-linux): what it reads is typed, what it writes is shown.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::SOON;
use holdfast_tests::said::program;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use simulator::nodes::process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

/// What runs on the terminal, which is large enough for everything that the screen has to show. The shell's number becomes
/// the demo's.
const ON_IT: &str =
    "echo $$ > \"$NUMBER\" && stty cols 160 rows 60 && exec \"$PROGRAM\" demo --report \"$REPORT\"";
/// How each screen ends: what is below it is cleared.
const SCREEN_END: &[u8] = b"\x1b[J";
/// The program has left the second page of the terminal.
const GIVEN_BACK: &str = "\x1b[?1049l";
/// On the screen while nothing is being done.
const KEYS: &str = "q quit";
const GONE: &str = "HTTP RECEIVER IS GONE";

/// What is done to the leader: its key, how it is called while it is being done, and afterwards, and how the leader's
/// process is meanwhile.
const FAULTS: [(u8, &str, &str, &str); 3] = [
    (b'k', "kill -9 the leader", "kill -9 NODE", "dead"),
    // Its own timer ends it when it has stood still for as long as its lease.
    (b'p', "pause the leader", "pause NODE", "dead"),
    (b'c', "cut the leader's wire", "cut NODE off", "running"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_key_of_the_demo_does_what_the_screen_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report.json");
    let mut demo = Demo::start(&report, folder.path().join("number"))?;
    let mut leader = demo.until("the keys and a leader", idle_leader).await?;
    for (key, doing, template, state) in FAULTS {
        let name = template.replace("NODE", &leader.0);
        let (doing, row) = (format!("... {doing}"), format!("{:<12}{state}", leader.0));
        demo.press(key).await?;
        demo.until(&format!("{doing:?} and {row:?}"), |screen| {
            (screen.contains(&doing) && screen.contains(&row)).then_some(())
        })
        .await?;
        let gap = format!(" ms ({name})");
        let next = demo
            .until(&format!("a last gap of{gap}"), |screen| {
                idle_leader(screen).filter(|_| screen.contains(&gap))
            })
            .await?;
        let said = format!("{name}, which leads");
        ensure!(next.0 != leader.0 && next.1 > leader.1, "{leader:?}, then {next:?}:\n{}", demo.screen);
        ensure!(demo.screen.contains(&said), "{said:?} is missing in\n{}", demo.screen);
        leader = next;
    }

    demo.press(b's').await?;
    demo.until("the switchover to begin", |screen| screen.contains("... switch over").then_some(())).await?;
    demo.press(b'k').await?;
    let refused = "wait: switch over is not over";
    demo.until(refused, |screen| screen.contains(refused).then_some(())).await?;
    let next = demo
        .until("the end of the switchover", |screen| {
            idle_leader(screen).filter(|(name, _)| screen.contains(&format!(" ms (switchover to {name})")))
        })
        .await?;
    ensure!(next.0 != leader.0, "{} still leads:\n{}", next.0, demo.screen);

    demo.press(b'd').await?;
    demo.until(GONE, |screen| screen.contains(GONE).then_some(())).await?;
    demo.press(b'd').await?;
    demo.until("the receiver to be back", |screen| (!screen.contains(GONE)).then_some(())).await?;

    demo.press(b'q').await?;
    let (status, said) = demo.end().await?;
    ensure!(said.contains(GIVEN_BACK), "the terminal was not given back: {said}");
    ensure!(said.contains("PASS: everything adds up") && status.success(), "{status}: {said}");
    let report: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    let failovers = report["failovers"].as_array().context("failovers")?;
    let seen: Vec<&str> =
        failovers.iter().filter_map(|failover| failover["fault"].as_str()?.split(' ').next()).collect();
    ensure!(seen == ["kill", "pause", "cut"], "{report:#}");
    ensure!(report["switchovers"].as_array().is_some_and(|all| all.len() == 1), "{report:#}");
    Ok(())
}

/// The demo, and the screen it shows. It ends with this value.
struct Demo {
    child: Child,
    /// The file in which its process id stands, which is that of its group: `script` gives it a session of its own.
    number: PathBuf,
    keyboard: ChildStdin,
    output: ChildStdout,
    /// What was written behind the last whole screen.
    begun: Vec<u8>,
    /// The last whole screen, line by line.
    screen: String,
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.child.id().is_none() {
            return;
        }
        let number = std::fs::read_to_string(&self.number).unwrap_or_default();
        let Some(group) = number.trim().parse().ok().and_then(Pid::from_raw) else { return };
        // It must end its nodes, which have groups of their own. Told once, it would drain for long on the usual ports;
        // two signals of one kind could become one.
        for signal in [Signal::TERM, Signal::INT] {
            if let Err(error) = kill_process_group(group, signal) {
                eprintln!("the demo cannot be told to end: {error}");
            }
        }
    }
}

impl Demo {
    fn start(report: &Path, number: PathBuf) -> Result<Self> {
        let mut command = process::command(Path::new("script"));
        command.args(["--quiet", "--return", "--command", ON_IT, "/dev/null"]);
        command.env("SHELL", "/bin/sh").env("PROGRAM", program()?);
        command.env("REPORT", report).env("NUMBER", &number);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("`script` of util-linux does not start")?;
        let (keyboard, output) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            number,
            keyboard: keyboard.context("it has an input")?,
            output: output.context("it has an output")?,
            begun: Vec::new(),
            screen: String::new(),
        })
    }

    async fn press(&mut self, key: u8) -> Result<()> {
        self.keyboard.write_all(&[key]).await?;
        Ok(self.keyboard.flush().await?)
    }

    /// Waits until a screen that has not been looked at shows what is looked for.
    async fn until<T>(&mut self, what: &str, look: impl Fn(&str) -> Option<T>) -> Result<T> {
        let looking = async {
            loop {
                self.next_screen().await?;
                if let Some(found) = look(&self.screen) {
                    return Ok::<T, anyhow::Error>(found);
                }
            }
        };
        let found = timeout(SOON, looking).await;
        match found {
            Ok(found) => found.with_context(|| format!("while waiting for {what}")),
            Err(_) => bail!("expected within {SOON:?}: {what}; seen last:\n{}", self.screen),
        }
    }

    async fn next_screen(&mut self) -> Result<()> {
        loop {
            let end = self.begun.windows(SCREEN_END.len()).position(|window| window == SCREEN_END);
            if let Some(end) = end {
                let screen: Vec<u8> = self.begun.drain(..end + SCREEN_END.len()).collect();
                self.screen = plain(&screen);
                return Ok(());
            }
            if self.output.read_buf(&mut self.begun).await? == 0 {
                bail!("the demo has ended, and said:\n{}", plain(&self.begun));
            }
        }
    }

    /// Waits for its end; how it ended, and what it wrote since the last screen that was looked at, as it was written.
    async fn end(mut self) -> Result<(ExitStatus, String)> {
        // An input that ends would be typed, too: it is kept until then.
        let Self { child, output, begun: said, screen, .. } = &mut self;
        let ending = async {
            output.read_to_end(said).await?;
            child.wait().await
        };
        let status = timeout(SOON, ending).await.with_context(|| format!("it does not end:\n{screen}"))??;
        Ok((status, String::from_utf8_lossy(said).into_owned()))
    }
}

/// Who leads and in which term, if nothing is being done.
fn idle_leader(screen: &str) -> Option<(String, u64)> {
    let said = screen.lines().find_map(|line| line.strip_prefix("leader "))?.trim();
    let (name, term) = said.strip_suffix(')')?.split_once(" (term ")?;
    screen.contains(KEYS).then_some((name.to_owned(), term.parse().ok()?))
}

/// What a terminal would show: a line for each move of the cursor, and no other orders to it.
fn plain(written: &[u8]) -> String {
    let written = String::from_utf8_lossy(written);
    let mut text = String::new();
    let mut pieces = written.split("\x1b[");
    text.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        // An order ends with its first letter.
        let end = piece.find(|letter: char| letter.is_ascii_alphabetic()).map_or(piece.len(), |at| at + 1);
        let (order, shown) = piece.split_at(end);
        if order.ends_with('H') {
            text.push('\n');
        }
        text.push_str(shown);
    }
    text
}

#[test]
fn orders_to_the_terminal_are_not_text() {
    let written = b"before\x1b[?1049h\x1b[?25l\x1b[1;1H\x1b[1;1Hone\x1b[K\x1b[2;1Htwo\x1b[K\x1b[J";
    assert_eq!(plain(written), "before\n\none\ntwo");
}
