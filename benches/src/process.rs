//! What the kernel says of a process and of a folder, and the end of processes that must not outlive a run.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// Unit of processor time in /proc/PID/stat: the kernel's USER_HZ, 100 on every architecture that we build for.
const TICK: Duration = Duration::from_millis(10);
/// The kernel ends a killed process in far less.
const KILLED: Duration = Duration::from_secs(5);

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Processor time, its own and the kernel's on its behalf.
    pub(crate) cpu: Duration,
    /// Resident memory, with the pages of files that are mapped: the program itself.
    pub(crate) resident: u64,
    /// The most that was resident since it was started.
    pub(crate) peak: u64,
    /// Of what is resident now, what is no file.
    pub(crate) anonymous: u64,
    /// Bytes handed to the storage layer (`write_bytes` of /proc/PID/io): pages, as often as they were written.
    pub(crate) written: u64,
}

/// Looks at a process.
pub(crate) fn usage(id: u32) -> anyhow::Result<Usage> {
    let read = |name: &str| {
        let path = format!("/proc/{id}/{name}");
        std::fs::read_to_string(&path).context(path)
    };
    let found = |what: &'static str| format!("no {what} in /proc");
    let status = read("status")?;
    Ok(Usage {
        cpu: cpu_of(&read("stat")?).with_context(|| found("processor time"))?,
        resident: number(&status, "VmRSS:").with_context(|| found("resident memory"))? * 1024,
        peak: number(&status, "VmHWM:").with_context(|| found("peak of resident memory"))? * 1024,
        anonymous: number(&status, "RssAnon:").with_context(|| found("anonymous memory"))? * 1024,
        written: number(&read("io")?, "write_bytes:").with_context(|| found("written bytes"))?,
    })
}

/// The name of a process may hold anything; what follows its last parenthesis does not.
fn cpu_of(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    Some(TICK * ticks)
}

fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes that the files below a folder occupy. Files that vanish meanwhile occupy nothing.
pub(crate) fn disk_usage(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_usage(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Lets this process and its children open as many files as the system allows at all.
pub(crate) fn allow_many_files() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Kills every process that was started with a file below `folder`, which only nodes of this run are, and waits for
/// their end.
pub(crate) fn end_all_below(folder: &Path) {
    let until = Instant::now() + KILLED;
    loop {
        let Started { left, unclear } = started_below(folder);
        if (left.is_empty() && !unclear) || Instant::now() > until {
            return;
        }
        for id in left {
            // One that has just ended by itself is no matter.
            let _ = kill_process(id, Signal::KILL);
        }
        std::thread::sleep(TICK);
    }
}

/// What a look at all processes has found.
#[derive(Default)]
struct Started {
    /// Those of the folder that was looked for.
    left: Vec<Pid>,
    /// Whether a program is just being started, whose arguments are not known yet.
    unclear: bool,
}

fn started_below(folder: &Path) -> Started {
    let mut wanted = folder.as_os_str().as_encoded_bytes().to_vec();
    wanted.push(b'/');
    let own = std::process::id();
    let mut started = Started::default();
    let Ok(entries) = std::fs::read_dir("/proc") else { return started };
    for entry in entries.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(id) = id.filter(|id| *id != own) else { continue };
        let Ok(command) = std::fs::read(entry.path().join("cmdline")) else { continue };
        if command.split(|byte| *byte == 0).any(|argument| argument.starts_with(&wanted)) {
            started.left.extend(i32::try_from(id).ok().and_then(Pid::from_raw));
        }
        // Whoever started it may go on before its arguments stand. Those that never have any, zombies and threads of the
        // kernel, have no program either.
        started.unclear |= command.is_empty() && entry.path().join("exe").read_link().is_ok();
    }
    started
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 123 77 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(2)));
        assert_eq!(number("VmPeak: 9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1_234));
        let own = usage(std::process::id()).expect("this process runs");
        assert!(own.resident > 1_000_000 && own.peak >= own.resident, "{own:?}");
    }

    #[test]
    fn the_size_of_a_folder_is_that_of_everything_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("a")).expect("room");
        std::fs::write(folder.path().join("a/b"), vec![1; 100_000]).expect("room");
        std::fs::write(folder.path().join("c"), vec![1; 50_000]).expect("room");
        assert!((150_000..200_000).contains(&disk_usage(folder.path())), "{}", disk_usage(folder.path()));
    }

    #[test]
    fn processes_of_a_folder_end_and_others_go_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("node-1.toml");
        std::fs::write(&file, "").expect("room");
        let mut ours = Command::new("tail").arg("-f").arg(file).spawn().expect("a process");
        let mut other = Command::new("sleep").arg("600").spawn().expect("a process");
        // A zombie has no command line any more.
        end_all_below(folder.path());
        // Its command line is gone a moment before it can be waited for.
        let until = Instant::now() + KILLED;
        while ours.try_wait().expect("it is ours").is_none() {
            assert!(Instant::now() < until, "it goes on");
            std::thread::yield_now();
        }
        assert!(other.try_wait().expect("it is ours").is_none());
        other.kill().expect("it runs");
        other.wait().expect("it ends");
    }
}
