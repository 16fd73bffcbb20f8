//! One life of the process that writes, as whoever cuts its power has it: started, heard, and ended in any case.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep_until, timeout};

use super::PATIENCE;
use super::expected::{OPENS, Wrong};
use super::said::{self, Found, Said};
use crate::machine::left;

/// How a writer is started; the data directory and its seed are the last arguments.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(&'static str, &'static str)>,
}

/// What a writer said last that should not have ended, or not yet.
pub(super) fn early_end(said: Option<Said>) -> Wrong {
    let text = match said {
        Some(Said::Failed(reason)) => reason,
        Some(said) => format!("the writer ended early or spoke out of turn: {said:?}"),
        None => "the writer fell silent, or ended and said nothing".to_owned(),
    };
    Wrong::new(OPENS, text)
}

/// One process that writes. It dies with this.
pub(super) struct Life {
    child: Child,
    tells_to_go_on: ChildStdin,
    lines: BufReader<ChildStdout>,
    /// A line that is not whole yet.
    line: Vec<u8>,
}

impl Life {
    pub(super) fn start(writer: &Writer, directory: &Path, seed: u64) -> Result<Self> {
        let mark = left::mark(&writer.program).context("writers are not told apart")?;
        let mut child = Command::new(&writer.program)
            .args(&writer.arguments)
            .arg(directory)
            .arg(seed.to_string())
            .envs(writer.environment.iter().copied())
            .envs([mark])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", writer.program.display()))?;
        let tells_to_go_on = child.stdin.take().context("its input was asked for")?;
        let lines = child.stdout.take().context("its output was asked for")?;
        let lines = BufReader::new(lines);
        Ok(Self { child, tells_to_go_on, lines, line: Vec::new() })
    }

    /// What it says next before `moment`; nothing once that has come, or when it has ended.
    pub(super) async fn until(&mut self, moment: Instant) -> Result<Option<Said>> {
        tokio::select! {
            biased;
            () = sleep_until(moment) => Ok(None),
            said = self.next() => said,
        }
    }

    /// What a dead one still said.
    pub(super) async fn hear(&mut self) -> Result<Option<Said>> {
        timeout(PATIENCE, self.next()).await.context("somebody else holds the writer's output")?
    }

    /// The last that a dead one said.
    pub(super) async fn last(&mut self) -> Result<Option<Said>> {
        let mut last = None;
        while let Some(said) = self.hear().await? {
            last = Some(said);
        }
        Ok(last)
    }

    /// May be dropped in between: a part of a line waits for the rest.
    async fn next(&mut self) -> Result<Option<Said>> {
        while self.lines.read_until(b'\n', &mut self.line).await? > 0 {
            let line = std::mem::take(&mut self.line);
            if let Some(said) = said::read(&line) {
                let said = said.with_context(|| format!("reading {:?}", String::from_utf8_lossy(&line)))?;
                return Ok(Some(said));
            }
        }
        Ok(None)
    }

    /// What the store holds, or why it cannot be opened.
    pub(super) async fn found(&mut self) -> Result<Result<Found, Wrong>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.until(deadline).await? {
                Some(Said::Opens {}) => {}
                Some(Said::Found(found)) => return Ok(Ok(found)),
                other => return Ok(Err(early_end(other))),
            }
        }
    }

    pub(super) async fn go_on(&mut self) -> Result<()> {
        self.tells_to_go_on.write_all(b"\n").await?;
        Ok(self.tells_to_go_on.flush().await?)
    }

    pub(super) fn is_alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    pub(super) async fn kill(&mut self) -> Result<()> {
        match timeout(PATIENCE, self.child.kill()).await {
            Ok(killed) => Ok(killed?),
            Err(_) => bail!("a killed writer does not end"),
        }
    }
}
