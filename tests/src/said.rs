//! What the built program says: its command line, run and read, and its health listener.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use simulator::nodes::process;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::SOON;

/// Longer than the program itself waits for the longest change.
const GIVES_UP: Duration = Duration::from_secs(150);

/// The program that was named, if one was.
static NAMED: OnceLock<PathBuf> = OnceLock::new();

/// From now on this is the program, for nodes and commands alike: another one than was built with whatever runs this.
///
/// # Errors
/// It is no file, or one was named before.
pub fn name_program(path: &Path) -> Result<()> {
    // A link may lead elsewhere later.
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    ensure!(path.is_file(), "{} is no program", path.display());
    NAMED.set(path).ok().context("a program was named before")
}

/// The program: the one that was named, or the one built with whatever runs this, beside it or beside the folder in which
/// tests lie.
pub fn program() -> Result<PathBuf> {
    if let Some(named) = NAMED.get() {
        return Ok(named.clone());
    }
    let own = std::env::current_exe()?;
    let name = format!("holdfast{}", std::env::consts::EXE_SUFFIX);
    let mut candidates = own.ancestors().skip(1).take(2).map(|folder| folder.join(&name));
    let program = candidates.find(|path| path.is_file());
    program.with_context(|| {
        format!("{} has no {name} beside it: build the workspace's programs first", own.display())
    })
}

/// A command of the program, without what the surroundings say of nodes and profiles.
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = process::command(&program()?);
    command.args(arguments);
    Ok(command)
}

/// What the program says of itself, in one line: its version, and which kind of build it is.
///
/// # Errors
/// It cannot be run, or is another program.
pub async fn version() -> Result<String> {
    let said = run_within(command(&["--version"])?, SOON).await?.done()?;
    ensure!(said.starts_with("holdfast "), "{} is another program: {said}", program()?.display());
    Ok(in_one_line(&said))
}

fn in_one_line(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        // As programs of before this was asked do.
        [version] => format!("{version}, a build that does not say of which kind it is"),
        lines => lines.join(", "),
    }
}

/// Runs a command to its end. One that does not end is killed; if it was killed, the error says what it had written.
pub async fn run(command: Command) -> Result<Said> {
    run_within(command, GIVES_UP).await
}

/// The same, with a limit of its own.
pub async fn run_within(mut command: Command, limit: Duration) -> Result<Said> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().context("it has an output")?;
    let mut stderr = child.stderr.take().context("it has one for errors")?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let ending = async {
        tokio::try_join!(read(&mut stdout, &mut output), read(&mut stderr, &mut errors))?;
        child.wait().await
    };
    let ended = timeout(limit, ending).await;
    let (code, how) = match ended {
        Ok(status) => (status?.code(), "was killed by a signal"),
        Err(_) => {
            child.kill().await?;
            (None, "does not end")
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let Some(code) = code else {
        bail!("{command:?} {how}; it has written\n{}\nand as errors\n{}", text(&output), text(&errors));
    };
    Ok(Said { code, output: String::from_utf8(output)?, errors: String::from_utf8(errors)? })
}

/// Reads to the end. If it is broken off, `text` has what was read by then.
async fn read(from: &mut (impl AsyncRead + Unpin), text: &mut Vec<u8>) -> io::Result<()> {
    while from.read_buf(text).await? > 0 {}
    Ok(())
}

/// Asks one node, for JSON.
///
/// # Panics
/// If the program cannot be run.
pub async fn ask(at: SocketAddr, arguments: &[&str]) -> Said {
    let mut command = command(arguments).expect("the program was built");
    command.args(["-o", "json", "--endpoints", &at.to_string()]);
    run(command).await.expect("the program ends")
}

/// Status and body of an answer of a health listener.
pub async fn get(listener: SocketAddr, path: &str) -> Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(listener).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(SOON, asked).await.with_context(|| format!("{listener} does not answer"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).context("an answer has a status")?;
    Ok((status.parse()?, body.trim().to_owned()))
}

/// What a command said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl Said {
    /// What it wrote; an error unless it succeeded.
    pub fn done(self) -> Result<String> {
        ensure!(self.code == 0, "{self:?}");
        Ok(self.output)
    }

    /// The JSON that it wrote.
    ///
    /// # Panics
    /// Unless it succeeded with JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}{}", self.output, self.errors);
        self.parsed()
    }

    /// The JSON that it wrote, however it ended.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn parsed(&self) -> Value {
        serde_json::from_str(&self.output)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}{}", self.output, self.errors))
    }

    /// JSON documents, one a line.
    ///
    /// # Panics
    /// Unless it succeeded with such lines.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{}{}", self.output, self.errors);
        self.output.lines().map(|line| serde_json::from_str(line).expect("a JSON document a line")).collect()
    }

    /// Checks that it was refused.
    ///
    /// # Panics
    /// Unless it ended with this exit code and named this error code.
    #[track_caller]
    pub fn refused(&self, exit: i32, code: &str) {
        let said = format!("exit {}: {}{}", self.code, self.output, self.errors);
        assert!(self.code == exit && self.errors.contains(code), "expected exit {exit} with {code}; {said}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_of_itself_stands_in_one_line() {
        let said = "holdfast 0.1.0\nwithout debug assertions\nends at a panic\n";
        assert_eq!(in_one_line(said), "holdfast 0.1.0, without debug assertions, ends at a panic");
        assert!(in_one_line("holdfast 0.1.0\n").ends_with("does not say of which kind it is"));
    }

    #[tokio::test]
    async fn the_program_says_which_kind_of_build_it_is() {
        let said = version().await.expect("it was built");
        // This was built with it.
        let with =
            if cfg!(debug_assertions) { ", with debug assertions" } else { ", without debug assertions" };
        assert!(said.contains(with), "{said}");
    }

    #[test]
    fn what_is_no_file_is_no_program() {
        for path in ["/nowhere/holdfast", "/"] {
            assert!(name_program(Path::new(path)).is_err(), "{path}");
        }
    }

    async fn of_killed(script: &str, within: Duration) -> String {
        let mut command = process::command(Path::new("sh"));
        command.args(["-c", script]);
        run_within(command, within).await.expect_err("it is killed").to_string()
    }

    #[tokio::test]
    async fn what_a_killed_command_wrote_is_told() {
        // Of one that does not end: a busy machine may need longer until it writes anything.
        let mut said = String::new();
        for seconds in [1, 10, 60] {
            said =
                of_killed("echo so far; echo so bad >&2; exec sleep 600", Duration::from_secs(seconds)).await;
            if said.contains("written\nso far\n") {
                break;
            }
        }
        let by_a_signal = of_killed("echo so far; echo so bad >&2; kill -ABRT $$", GIVES_UP).await;
        for said in [said, by_a_signal] {
            assert!(said.contains("written\nso far\n") && said.contains("errors\nso bad\n"), "{said}");
        }
    }
}
