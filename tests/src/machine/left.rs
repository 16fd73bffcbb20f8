//! Processes that a killed kit has left running: found by a mark in their environment and by the program that they run.
//!
//! - Nodes and writers are started with a [`mark`]: who started them, when that one began, because numbers come again, and
//!   which program they are.
//! - Ended is only what bears a mark whose maker is gone, and runs the very program that the mark names. What such a process
//!   has started itself bears the mark, too, and is another program: it is let alone.
//! - In the middle of its `exec` a process shows no environment, and before it not yet its program: it is looked at again,
//!   for no longer than [`EXEC`].
//! - It is ended through a handle, and looked at once more when that is there: its number cannot have come to mean another.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Bears the mark. Without the prefix of the node file's variables: it is none of them.
const VARIABLE: &str = "MADE_BY_THE_PROOF_KIT";
/// From the fork to the end of the last `exec` it is milliseconds.
const EXEC: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What the kernel writes behind the path of a program that was removed, or built anew, since it was started.
const REMOVED: &[u8] = b" (deleted)";

/// Who started a process, and which program it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    maker: u32,
    /// When the maker began, in ticks since the boot.
    began: u64,
    program: PathBuf,
}

/// What a process is, as far as a look tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// None that is to be ended here.
    Other,
    /// It may be in the middle of becoming one.
    Undecided,
    /// Its maker is gone.
    Left,
}

/// A process, as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    has_ended: bool,
    began: u64,
}

/// Environment of a process of this program that goes with the process that calls this, at the latest with the next
/// [`clear`](super::clear).
pub fn mark(program: &Path) -> io::Result<(String, String)> {
    // The kernel tells programs by the names that are no links.
    let program = fs::canonicalize(program).or_else(|_| std::path::absolute(program))?;
    let maker = std::process::id();
    let own = listed(maker)?.ok_or_else(|| io::Error::other("/proc does not list this process"))?;
    Ok((VARIABLE.to_owned(), Mark { maker, began: own.began, program }.to_string()))
}

/// Ends what processes that are gone have left running.
pub(super) fn sweep() {
    let deadline = Instant::now() + EXEC;
    loop {
        match look_at_all() {
            Ok(0) => return,
            Ok(_) if Instant::now() >= deadline => return,
            Ok(_) => sleep(LOOK_AGAIN),
            Err(error) => return eprintln!("what is left of runs that are gone is not known: {error}"),
        }
    }
}

/// Ends what is left, and counts what is to be looked at again.
fn look_at_all() -> io::Result<usize> {
    let mut undecided = 0;
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match end_if_left(process) {
            Ok(seen) => undecided += usize::from(seen == Seen::Undecided),
            Err(error) => eprintln!("process {process} is left of a run that is gone, or may be: {error}"),
        }
    }
    Ok(undecided)
}

fn end_if_left(process: u32) -> io::Result<Seen> {
    let seen = look(process)?;
    let Some(id) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return Ok(Seen::Other) };
    if seen != Seen::Left {
        return Ok(seen);
    }
    let handle = match pidfd_open(id, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(Seen::Other),
        other => other?,
    };
    let seen = look(process)?;
    if seen == Seen::Left {
        eprintln!("process {process} is left of a run that is gone, and is ended");
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seen)
}

fn look(process: u32) -> io::Result<Seen> {
    let of = |file: &str| Path::new("/proc").join(process.to_string()).join(file);
    // Threads of the kernel and the dead have no program.
    let Some(runs) = readable(fs::read_link(of("exe")))? else { return Ok(Seen::Other) };
    let Some(environment) = readable(fs::read(of("environ")))? else { return Ok(Seen::Other) };
    if environment.is_empty() {
        return Ok(Seen::Undecided);
    }
    let Some(mark) = Mark::in_environment(&environment) else { return Ok(Seen::Other) };
    if !mark.maker_is_gone()? {
        return Ok(Seen::Other);
    }
    let runs = runs.as_os_str().as_bytes();
    let runs = runs.strip_suffix(REMOVED).unwrap_or(runs);
    Ok(if mark.program.as_os_str().as_bytes() == runs { Seen::Left } else { Seen::Undecided })
}

/// What /proc says of a process; `None` if it has ended, or is somebody else's.
fn readable<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Ok(None),
            _ => Err(error),
        },
    }
}

/// How a process is listed, if it is.
fn listed(process: u32) -> io::Result<Option<Listed>> {
    let Some(text) = readable(fs::read_to_string(format!("/proc/{process}/stat")))? else { return Ok(None) };
    let listed = in_stat(&text).ok_or_else(|| io::Error::other(format!("/proc says {text:?}")))?;
    Ok(Some(listed))
}

/// Its third field is the state, its twenty-second when it began (proc_pid_stat(5)). The second may hold anything.
fn in_stat(text: &str) -> Option<Listed> {
    let (_, behind_name) = text.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    Some(Listed { has_ended, began: fields.nth(18)?.parse().ok()? })
}

impl Mark {
    fn in_environment(environment: &[u8]) -> Option<Self> {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|variable| {
            let value = variable.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"=")?;
            Self::parse(value)
        })
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = value.splitn(3, |byte| *byte == b' ');
        let mut number = || str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
        let (maker, began) = (u32::try_from(number()?).ok()?, number()?);
        let program = PathBuf::from(OsStr::from_bytes(parts.next()?));
        program.is_absolute().then_some(Self { maker, began, program })
    }

    /// Another process may have its number by now.
    fn maker_is_gone(&self) -> io::Result<bool> {
        let listed = listed(self.maker)?;
        Ok(listed.is_none_or(|listed| listed.has_ended || listed.began != self.began))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.maker, self.began, self.program.display())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::{Child, Command, Stdio};

    use super::super::volume::patiently;
    use super::*;

    /// A process that does nothing; it ends with this value.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(mark: Option<&Mark>) -> Self {
            let mut command = Command::new(program());
            command.arg0("sleep").arg("600").env_remove(VARIABLE);
            command.envs(mark.map(|mark| (VARIABLE, mark.to_string())));
            Self(command.spawn().expect("everybody has sleep"))
        }

        /// How it ended by a signal, once it has.
        fn signal(&mut self) -> Option<i32> {
            let mut ended = None;
            let wait = || {
                ended = self.0.try_wait()?;
                if ended.is_some() { Ok(()) } else { Err(io::Error::other("it runs")) }
            };
            patiently(wait).expect("it ends");
            ended.and_then(|status| status.signal())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    fn program() -> PathBuf {
        fs::canonicalize("/bin/sleep").expect("everybody has sleep")
    }

    /// The mark of somebody who has been, and is gone.
    fn of_gone() -> Mark {
        let mut maker = Command::new("true").spawn().expect("everybody has true");
        let began = listed(maker.id()).expect("readable").expect("nobody has waited for it").began;
        maker.wait().expect("it ends");
        Mark { maker: maker.id(), began, program: program() }
    }

    fn own() -> Mark {
        let (_, value) = mark(&program()).expect("it is listed");
        Mark::parse(value.as_bytes()).expect("it is one")
    }

    #[test]
    fn what_is_left_is_ended_and_nothing_else() {
        let gone = of_gone();
        // Somebody who has the number of a maker that is gone has not made what it left.
        let number_came_again = Mark { began: own().began + 1, ..own() };
        let mut left = [&gone, &number_came_again].map(|mark| Sleeper::start(Some(mark)));
        let other = Mark { program: PathBuf::from("/nowhere/holdfast"), ..gone.clone() };
        let mut others = [None, Some(&own()), Some(&other)].map(Sleeper::start);
        sweep();
        for sleeper in &mut left {
            assert_eq!(sleeper.signal(), Some(Signal::KILL.as_raw()));
        }
        for sleeper in &mut others {
            assert_ne!(look(sleeper.0.id()).expect("readable"), Seen::Left);
            assert_eq!(sleeper.0.try_wait().expect("it is ours"), None);
        }
    }

    #[test]
    fn a_process_in_the_middle_of_becoming_one_is_looked_at_again() {
        // It runs a shell until it has been read from, as a launcher runs until it becomes the program.
        let mut command = Command::new("sh");
        let script = "read line; exec \"$0\" 600";
        command.args(["-c", script]).arg("sleep").env(VARIABLE, of_gone().to_string());
        let mut sleeper = Sleeper(command.stdin(Stdio::piped()).spawn().expect("everybody has sh"));
        patiently(|| match look(sleeper.0.id())? {
            Seen::Undecided => Ok(()),
            seen => Err(io::Error::other(format!("{seen:?}"))),
        })
        .expect("it is no sleep yet");
        drop(sleeper.0.stdin.take());
        patiently(|| match end_if_left(sleeper.0.id())? {
            Seen::Left => Ok(()),
            // Somebody else may sweep just now.
            _ if sleeper.0.try_wait()?.is_some() => Ok(()),
            seen => Err(io::Error::other(format!("{seen:?}"))),
        })
        .expect("it becomes one");
        assert_eq!(sleeper.signal(), Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is_one() {
        let mark = Mark { maker: 7, began: 12_345, program: PathBuf::from("/a b/holdfast") };
        let environment = format!("PATH=/bin\0{VARIABLE}={mark}\0HOME=/\0");
        assert_eq!(Mark::in_environment(environment.as_bytes()), Some(mark));
        for value in ["", "7", "7 12345", "7 12345 ", "7 12345 holdfast", "-7 1 /holdfast", "x 1 /holdfast"] {
            assert_eq!(Mark::parse(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(Mark::in_environment(format!("X{VARIABLE}=7 1 /holdfast\0").as_bytes()), None);
    }

    #[test]
    fn what_the_kernel_lists_is_read_whatever_the_program_is_called() {
        let stat = |name: &str, state: &str| {
            format!("7 ({name}) {state} 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 10 20\n")
        };
        let runs = Listed { has_ended: false, began: 12_345 };
        for name in ["holdfast", "a) Z 1 (b"] {
            assert_eq!(in_stat(&stat(name, "S")), Some(runs));
            assert_eq!(in_stat(&stat(name, "Z")), Some(Listed { has_ended: true, ..runs }));
        }
        assert_eq!(in_stat("7 (holdfast) S 1"), None);
    }
}
