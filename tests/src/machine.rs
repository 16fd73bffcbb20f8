//! Hosts for nodes on one machine, and what can be done to them that takes root: networks, disks and their power, clocks, and
//! what the kernel gives a process of processors and memory.
//!
//! - What a machine cannot do is [`Unable`]: said loudly, and never counted as passed.
//! - Everything that is made here is taken away again when its value is dropped, also after a failure, but for the files of
//!   volumes: whoever made them says what becomes of these. What a process left that was killed meanwhile goes with
//!   [`clear`], its networks also when the next one is made.
//! - Done by the system's own programs, one after the other; each has a bound.

pub mod group;
pub mod hosts;
pub mod left;
pub mod network;
pub mod preload;
pub mod volume;
pub mod wire;

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// With this variable a test that the machine is unable to run fails, instead of being skipped.
const PROOF: &str = "HOLDFAST_PROOF";
/// In seconds. A program of the system takes milliseconds.
const LIMIT: &str = "30";

/// Why this machine cannot do what a fault needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unable(pub String);

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this machine is unable: {}", self.0)
    }
}

impl std::error::Error for Unable {}

/// What a test needs of the machine; `None`, and a loud word, where it is unable and nobody demands a proof.
///
/// # Panics
/// Where a proof is demanded (`HOLDFAST_PROOF=1`).
pub fn able<T>(made: Result<T, Unable>) -> Option<T> {
    match made {
        Ok(made) => Some(made),
        Err(Unable(reason)) => {
            assert!(
                std::env::var_os(PROOF).is_none_or(|value| value != "1"),
                "a proof is demanded: {reason}"
            );
            eprintln!("SKIPPED: {reason}");
            None
        }
    }
}

/// Takes away what processes that are gone have left: their control groups and networks with the nodes that run there, nodes
/// and writers that run anywhere else, and what is mounted below this folder.
pub fn clear(folder: &Path) -> io::Result<()> {
    // What is frozen ends only when it is thawed.
    group::sweep();
    left::sweep();
    network::sweep();
    volume::unmount_below(folder)
}

/// Whoever makes networks, mounts and control groups must be root.
fn must_be_root() -> Result<(), Unable> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(Unable("networks, disks and control groups are root's to make".to_owned())),
    }
}

/// Runs a program of the system to its end, with this input; what it wrote. The error has its words.
fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", LIMIT, program]).args(arguments).env("LC_ALL", "C");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let words =
            format!("{program} {}: {} ({})", arguments.join(" "), text(&output.stderr), output.status);
        return Err(io::Error::other(words));
    }
    written?;
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_given_its_input_and_what_it_complains_of_is_told() {
        assert_eq!(run("cat", &[], "a word\n").expect("everybody has cat"), "a word");
        let error = run("ls", &["/nowhere"], "").expect_err("there is no such folder");
        assert!(error.to_string().contains("ls /nowhere: ls: "), "{error}");
    }
}
