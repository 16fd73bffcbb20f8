//! Control groups (cgroups(7)): what the kernel gives the processes of one group less of, or takes away for a while.
//!
//! - A group has one controller: [`Freezer`], [`CpuQuota`] or [`MemoryLimit`]. It is of version 1 where this machine has
//!   that controller mounted so, else of version 2, and lies at the top: limits that this process has above do not hold in
//!   it. Controllers that the top does not hand on are not switched on here.
//! - Of version 2 a process is in one group alone: whoever moves it into a second one has taken it out of the first.
//! - That a group did something is the kernel's word: it counts how often each was held back.
//! - Names have the number of this process. When a group is dropped, whoever is in it gets everything back and stands at the
//!   top again. What a killed process has left is ended with the next [`clear`](super::clear).

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::network::{PREFIX, is_left};
use super::volume::patiently;
use super::{Unable, must_be_root};

const MOUNTS: &str = "/proc/self/mounts";
const PROCESSES: &str = "cgroup.procs";
/// What a thread may run before it waits for its group's next share, in microseconds: the least that the kernel takes.
const QUOTA_US: u64 = 1_000;
/// Becomes the program behind it, in the group whose list of processes is named first.
const ENTER: &str = "echo $$ >\"$0\" && exec \"$@\"";

/// Groups that this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// What a group is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Freezer,
    Cpu,
    Memory,
}

/// Whose files a group has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group and who is in it.
#[derive(Debug)]
pub struct Group {
    version: Version,
    top: PathBuf,
    path: PathBuf,
}

/// A group that can stand still.
#[derive(Debug)]
pub struct Freezer(Group);

/// A group that is given less than it asks for of the processors.
#[derive(Debug)]
pub struct CpuQuota(Group);

/// A group that may hold no more than so much memory. What it needs beyond that is taken from it, and if that does not do,
/// the kernel kills who is in it.
#[derive(Debug)]
pub struct MemoryLimit(Group);

impl Controller {
    const ALL: [Self; 3] = [Self::Freezer, Self::Cpu, Self::Memory];

    fn name(self) -> &'static str {
        match self {
            Self::Freezer => "freezer",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    /// Where its groups lie on a machine that has this mounted (proc_mounts(5)).
    fn top(self, mounts: &str) -> Option<(Version, PathBuf)> {
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<&str>>());
        let mut second = None;
        for mount in fields {
            let [_, point, kind, options, ..] = mount.as_slice() else { continue };
            match *kind {
                "cgroup" if options.split(',').any(|option| option == self.name()) => {
                    return Some((Version::One, PathBuf::from(point)));
                }
                "cgroup2" => second = Some((Version::Two, PathBuf::from(point))),
                _ => {}
            }
        }
        second
    }
}

impl Group {
    fn make(controller: Controller) -> Result<Self, Unable> {
        must_be_root()?;
        let name = controller.name();
        let unable = |error: io::Error| Unable(format!("a control group for {name} cannot be made: {error}"));
        let mounts = fs::read_to_string(MOUNTS).map_err(unable)?;
        let top = controller.top(&mounts);
        let (version, top) = top.ok_or_else(|| Unable("no control groups are mounted".to_owned()))?;
        // Every group of version 2 can be frozen; the others are there only where they are handed on.
        if version == Version::Two && controller != Controller::Freezer {
            let list = top.join("cgroup.subtree_control");
            let handed_on = fs::read_to_string(&list).map_err(unable)?;
            if !handed_on.split_whitespace().any(|handed_on| handed_on == name) {
                let list = list.display();
                return Err(Unable(format!("groups have no {name} (`echo +{name} > {list}` hands it on)")));
            }
        }
        let serial = MADE.fetch_add(1, Ordering::Relaxed);
        let path = top.join(format!("{PREFIX}{}-{serial}", std::process::id()));
        fs::create_dir(&path).map_err(unable)?;
        Ok(Self { version, top, path })
    }

    /// Moves a process in, with all its threads.
    pub fn take_in(&self, process: u32) -> io::Result<()> {
        self.write(PROCESSES, &process.to_string())
    }

    /// Moves everybody out, to the top.
    pub fn let_go(&self) -> io::Result<()> {
        let top = self.top.join(PROCESSES);
        for process in self.processes()? {
            match fs::write(&top, process.to_string()) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
                Err(error) => return Err(named(&top, &error)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn processes(&self) -> io::Result<Vec<i32>> {
        let listed = self.read(PROCESSES)?;
        Ok(listed.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text).map_err(|error| named(&path, &error))
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let path = self.path.join(file);
        fs::read_to_string(&path).map_err(|error| named(&path, &error))
    }

    /// A number in a file of one number.
    fn number(&self, file: &str) -> io::Result<u64> {
        let text = self.read(file)?;
        text.trim().parse().map_err(|_| io::Error::other(format!("{file} says {text:?}")))
    }

    /// A number in a file of lines, each a word and a number.
    fn count(&self, file: &str, word: &str) -> io::Result<u64> {
        let text = self.read(file)?;
        count_in(&text, word).ok_or_else(|| io::Error::other(format!("{file} has no {word}: {text:?}")))
    }

    /// Lets whoever stands still in it go on.
    fn thaw(&self) -> io::Result<()> {
        match self.version {
            Version::One => self.write("freezer.state", "THAWED"),
            Version::Two => self.write("cgroup.freeze", "0"),
        }
    }

    /// Kills who is in it.
    fn end_all(&self) -> io::Result<()> {
        for process in self.processes()?.into_iter().filter_map(Pid::from_raw) {
            match kill_process(process, Signal::KILL) {
                Err(Errno::SRCH) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel lets go of who has just ended within milliseconds.
        let removed = patiently(|| {
            self.let_go()?;
            fs::remove_dir(&self.path)
        });
        if let Err(error) = removed {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}

impl Freezer {
    /// Makes one.
    pub fn make() -> Result<Self, Unable> {
        Group::make(Controller::Freezer).map(Self)
    }

    /// Begins to stop everybody in it; [`Freezer::is_frozen`] says when they stand.
    pub fn freeze(&self) -> io::Result<()> {
        match self.0.version {
            Version::One => self.0.write("freezer.state", "FROZEN"),
            Version::Two => self.0.write("cgroup.freeze", "1"),
        }
    }

    /// Lets everybody go on. Who was killed meanwhile ends before it runs a line: of version 1 a frozen process ends only
    /// now, of version 2 it has ended already.
    pub fn thaw(&self) -> io::Result<()> {
        self.0.thaw()
    }

    /// Whether all of it stands still.
    pub fn is_frozen(&self) -> io::Result<bool> {
        match self.0.version {
            Version::One => Ok(self.0.read("freezer.state")?.trim() == "FROZEN"),
            Version::Two => Ok(self.0.count("cgroup.events", "frozen")? == 1),
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        if let Err(error) = self.thaw() {
            eprintln!("it stays frozen: {error}");
        }
    }
}

impl CpuQuota {
    /// Makes one that takes nothing away yet.
    pub fn make() -> Result<Self, Unable> {
        Group::make(Controller::Cpu).map(Self)
    }

    /// Gives all threads in it together so many hundredths of one processor, a millisecond at a time.
    pub fn set(&self, percent: u32) -> io::Result<()> {
        let period = QUOTA_US * 100 / u64::from(percent.clamp(1, 100));
        match self.0.version {
            Version::One => {
                self.0.write("cpu.cfs_period_us", &period.to_string())?;
                self.0.write("cpu.cfs_quota_us", &QUOTA_US.to_string())
            }
            Version::Two => self.0.write("cpu.max", &format!("{QUOTA_US} {period}")),
        }
    }

    /// Takes nothing away any more.
    pub fn lift(&self) -> io::Result<()> {
        match self.0.version {
            Version::One => self.0.write("cpu.cfs_quota_us", "-1"),
            Version::Two => self.0.write("cpu.max", "max"),
        }
    }

    /// How often it had to wait until now.
    pub fn throttled(&self) -> io::Result<u64> {
        self.0.count("cpu.stat", "nr_throttled")
    }
}

impl MemoryLimit {
    /// Makes one without a limit yet.
    pub fn make() -> Result<Self, Unable> {
        Group::make(Controller::Memory).map(Self)
    }

    /// The command line that runs a program in it from its beginning, and becomes it: what a process that is moved in had
    /// before is not counted here.
    pub fn launcher(&self) -> Vec<String> {
        let list = self.0.path.join(PROCESSES).display().to_string();
        ["sh", "-c", ENTER, &list].map(str::to_owned).to_vec()
    }

    /// Lets it hold so many bytes. It is an error, and nothing has changed, if it cannot give back what is above that; of
    /// version 2 the kernel kills somebody instead.
    pub fn set(&self, bytes: u64) -> io::Result<()> {
        self.0.write(self.limit_file(), &bytes.to_string())
    }

    /// Lets it hold as much as it wants.
    pub fn lift(&self) -> io::Result<()> {
        let most = if self.0.version == Version::One { "-1" } else { "max" };
        self.0.write(self.limit_file(), most)
    }

    fn limit_file(&self) -> &'static str {
        match self.0.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        }
    }

    /// Bytes that it holds, with what the kernel keeps of files for it.
    pub fn held(&self) -> io::Result<u64> {
        self.0.number(match self.0.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        })
    }

    /// Bytes of these that its processes have made themselves, and that it cannot give back.
    pub fn own(&self) -> io::Result<u64> {
        let word = if self.0.version == Version::One { "rss" } else { "anon" };
        self.0.count("memory.stat", word)
    }

    /// How often it wanted more than it may hold until now.
    pub fn hits(&self) -> io::Result<u64> {
        match self.0.version {
            Version::One => self.0.number("memory.failcnt"),
            Version::Two => self.0.count("memory.events", "max"),
        }
    }

    /// How many processes the kernel has killed until now because of it.
    pub fn kills(&self) -> io::Result<u64> {
        let file = if self.0.version == Version::One { "memory.oom_control" } else { "memory.events" };
        self.0.count(file, "oom_kill")
    }
}

impl Deref for Freezer {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.0
    }
}

impl Deref for CpuQuota {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.0
    }
}

impl Deref for MemoryLimit {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.0
    }
}

/// Removes the groups of processes that are gone, and ends who was left there.
pub(super) fn sweep() {
    let Ok(mounts) = fs::read_to_string(MOUNTS) else { return };
    for controller in Controller::ALL {
        let Some((version, top)) = controller.top(&mounts) else { continue };
        let Ok(entries) = fs::read_dir(&top) else { continue };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str());
            if !path.is_dir() || !name.is_some_and(is_left) {
                continue;
            }
            let left = Group { version, top: top.clone(), path };
            // Who is killed while it is frozen may end only when it is thawed.
            let can_freeze = version == Version::Two || controller == Controller::Freezer;
            let ended = left.end_all().and_then(|()| if can_freeze { left.thaw() } else { Ok(()) });
            if let Err(error) = ended {
                eprintln!("{} is left of a run that is gone: {error}", left.path.display());
            }
        }
    }
}

/// `word N` in a text of such lines.
fn count_in(text: &str, word: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(first, _)| *first == word)?.1.trim().parse().ok()
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::super::able;
    use super::*;

    const FIRST: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n";

    #[test]
    fn a_controller_of_version_one_goes_before_version_two() {
        let top = |controller: Controller, mounts: &str| controller.top(mounts);
        let one = Some((Version::One, PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")));
        let two = Some((Version::Two, PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!((top(Controller::Cpu, FIRST), top(Controller::Memory, FIRST)), (one, two));
        assert_eq!(top(Controller::Freezer, "proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn what_the_kernel_counts_is_read() {
        let text = "nr_periods 11\nnr_throttled 10\nthrottled_time 909028523\n";
        assert_eq!((count_in(text, "nr_throttled"), count_in(text, "throttled")), (Some(10), None));
    }

    /// A process that wants all it can have; it ends with this value.
    struct Greedy(Child);

    impl Greedy {
        fn run(launcher: &[String], script: &str) -> Self {
            let words =
                launcher.iter().map(String::as_str).chain(["sh", "-c", script]).collect::<Vec<&str>>();
            Self(Command::new(words[0]).args(&words[1..]).spawn().expect("there is a shell"))
        }
    }

    impl Drop for Greedy {
        fn drop(&mut self) {
            self.0.kill().and_then(|()| self.0.wait()).expect("it is ours");
        }
    }

    #[test]
    fn who_is_frozen_stands_until_it_is_thawed_and_the_group_goes() {
        let Some(freezer) = able(Freezer::make()) else { return };
        let sleeper = Greedy::run(&[], "exec sleep 60");
        freezer.take_in(sleeper.0.id()).expect("it is there");
        freezer.freeze().expect("a file");
        patiently(|| match freezer.is_frozen()? {
            true => Ok(()),
            false => Err(io::Error::other("it is not frozen")),
        })
        .expect("it stands");
        freezer.thaw().expect("a file");
        assert!(!freezer.is_frozen().expect("a file"));
        let path = freezer.path.clone();
        drop(freezer);
        assert!(!path.exists(), "it is removed although somebody was in it");
    }

    #[test]
    fn who_has_no_share_left_waits_and_that_is_counted() {
        let Some(quota) = able(CpuQuota::make()) else { return };
        let spinner = Greedy::run(&[], "while :; do :; done");
        quota.take_in(spinner.0.id()).expect("it is there");
        quota.set(5).expect("a file");
        let has_waited = || match quota.throttled()? {
            0 => Err(io::Error::other("it has not waited")),
            _ => Ok(()),
        };
        patiently(has_waited).expect("it waits");
        quota.lift().expect("a file");
    }

    #[test]
    fn who_takes_more_memory_than_it_may_is_killed_and_that_is_counted() {
        let Some(limit) = able(MemoryLimit::make()) else { return };
        limit.set(16 << 20).expect("nobody is in it");
        // A variable that doubles until there is no room.
        let script = "x=0123456789abcdef; while :; do x=$x$x; done";
        let mut greedy = Greedy::run(&limit.launcher(), script);
        greedy.0.wait().expect("it ends");
        let counted = (limit.kills().expect("a file"), limit.hits().expect("a file"));
        assert!(counted.0 >= 1 && counted.1 >= 1, "killed {}, held back {}", counted.0, counted.1);
        limit.lift().expect("a file");
    }
}
