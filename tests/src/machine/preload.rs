//! What a node's disk and wall clock are made to do by a library that stands before libc in its process (`tests/preload`):
//! calls fail or dawdle, and the clock is wrong.
//!
//! - Each process has a control page of its own, and is started with its [`Control::variables`]. What is set there is in
//!   force from the next call on, and stays when the process is started again.
//! - Calls fail and dawdle on one file system alone. A call that fails has done nothing.
//! - What is counted there is evidence: nothing is, unless the library is at work in that process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

#[path = "../../preload/src/page.rs"]
mod page;

/// As cargo names it.
const LIBRARY: &str = "libholdfast_preload.so";
const WORD: usize = 8;

/// Calls of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `fsync` and its like.
    Sync,
    /// `write` and its like.
    Write,
    /// `rename` and its like.
    Rename,
}

/// What a disk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// It is broken (`EIO`).
    Broken,
    /// It is full (`ENOSPC`).
    Full,
}

/// Calls that are to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    /// Of which kind.
    pub operation: Operation,
    /// With which error.
    pub complaint: Complaint,
    /// So many calls are let through first.
    pub skip: u64,
    /// So many fail then.
    pub count: u64,
}

/// The first call that failed since calls were told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstFailed {
    /// When, in monotonic nanoseconds.
    pub at_ns: u64,
    /// The inode that it was about.
    pub inode: u64,
}

/// What the library has counted on the file system that is meant, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Syncs.
    pub syncs: u64,
    /// Writes.
    pub writes: u64,
    /// Renames.
    pub renames: u64,
    /// Syncs that have waited.
    pub delayed: u64,
    /// Looks at the wall clock, of everything, that saw a wrong one.
    pub shifted: u64,
    /// Calls that have failed since they were last told to.
    pub failed: u64,
    /// The first of them.
    pub first_failed: Option<FirstFailed>,
    /// How many of them were about another file than the first.
    pub failed_elsewhere: u64,
    /// Calls of the same kind about another file that were let through after the last that was to fail.
    pub passed_elsewhere: u64,
}

/// A control page.
#[derive(Debug)]
pub struct Control {
    page: File,
    path: PathBuf,
    library: PathBuf,
}

impl Complaint {
    /// How the system says it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Broken => "Input/output error",
            Self::Full => "No space left on device",
        }
    }

    fn number(self) -> u64 {
        let error = match self {
            Self::Broken => Errno::IO,
            Self::Full => Errno::NOSPC,
        };
        u64::from(error.raw_os_error().unsigned_abs())
    }
}

impl Operation {
    fn number(self) -> u64 {
        match self {
            Self::Sync => page::SYNC,
            Self::Write => page::WRITE,
            Self::Rename => page::RENAME,
        }
    }
}

impl Control {
    /// Makes a page in a new file. Calls are meant that reach the file system of a folder.
    pub fn make(path: &Path, folder: &Path) -> io::Result<Self> {
        let library = library()?;
        let page = File::options().read(true).write(true).create_new(true).open(path)?;
        page.set_len(page::BYTES as u64)?;
        let control = Self { page, path: std::path::absolute(path)?, library };
        control.set(page::DEVICE, fs::metadata(folder)?.dev())?;
        control.set(page::HEAD, page::LAYOUT)?;
        Ok(control)
    }

    /// Environment of a process that is to obey it.
    pub fn variables(&self) -> [(String, String); 2] {
        let page = page::VARIABLE.to_str().expect("it is plain text");
        let text = |path: &Path| path.display().to_string();
        [("LD_PRELOAD".to_owned(), text(&self.library)), (page.to_owned(), text(&self.path))]
    }

    /// Whether this process obeys it, and was started last of all that do.
    pub fn is_obeyed_by(&self, process: u32) -> io::Result<bool> {
        Ok(self.word(page::PROCESS)? == u64::from(process))
    }

    /// Lets calls fail from now on; whatever was to fail before is not.
    pub fn fail(&self, failing: &Failing) -> io::Result<()> {
        self.fail_no_more()?;
        let elsewhere = [page::FAILED_ELSEWHERE, page::PASSED_ELSEWHERE];
        for counter in
            [page::MET, page::FAILED_AT, page::FAILED_INODE, page::FAILED].into_iter().chain(elsewhere)
        {
            self.set(counter, 0)?;
        }
        self.set(page::SKIP, failing.skip)?;
        self.set(page::FAIL, failing.count)?;
        self.set(page::ERROR, failing.complaint.number())?;
        self.set(page::ARMED, failing.operation.number())
    }

    /// Lets no call fail any more. What has failed stays counted.
    pub fn fail_no_more(&self) -> io::Result<()> {
        self.set(page::ARMED, 0)
    }

    /// Lets each sync wait so long before it begins.
    pub fn delay_syncs(&self, time: Duration) -> io::Result<()> {
        self.set(page::DELAY, u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    /// Puts the wall clock ahead by so many nanoseconds of what it really shows, or behind.
    pub fn set_clock(&self, ahead: i64) -> io::Result<()> {
        // Whoever looks meanwhile sees all of the one or all of the other.
        let other = usize::from(self.word(page::OFFSET)? == 0);
        self.set(page::OFFSETS[other], ahead.cast_unsigned())?;
        self.set(page::OFFSET, other as u64)
    }

    /// What has been counted until now.
    pub fn counted(&self) -> io::Result<Counted> {
        let failed = self.word(page::FAILED)?;
        let first = FirstFailed { at_ns: self.word(page::FAILED_AT)?, inode: self.word(page::FAILED_INODE)? };
        Ok(Counted {
            syncs: self.word(page::SYNCS)?,
            writes: self.word(page::WRITES)?,
            renames: self.word(page::RENAMES)?,
            delayed: self.word(page::DELAYED)?,
            shifted: self.word(page::SHIFTED)?,
            failed,
            first_failed: (failed > 0).then_some(first),
            failed_elsewhere: self.word(page::FAILED_ELSEWHERE)?,
            passed_elsewhere: self.word(page::PASSED_ELSEWHERE)?,
        })
    }

    fn word(&self, place: usize) -> io::Result<u64> {
        let mut word = [0; WORD];
        self.page.read_exact_at(&mut word, (place * WORD) as u64)?;
        Ok(u64::from_ne_bytes(word))
    }

    fn set(&self, place: usize, word: u64) -> io::Result<()> {
        self.page.write_all_at(&word.to_ne_bytes(), (place * WORD) as u64)
    }
}

/// The library, beside this program; a test lies one folder deeper.
pub fn library() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut places = own.ancestors().skip(1).take(2).map(|folder| folder.join(LIBRARY));
    places.find(|place| place.is_file()).ok_or_else(|| {
        let words = format!(
            "{LIBRARY} is not beside {}: `cargo build --workspace --lib` builds it, as `make prove` does",
            own.display()
        );
        io::Error::new(io::ErrorKind::NotFound, words)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Output, Stdio};
    use std::thread::sleep;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use simulator::history::monotonic_ns;
    use tempfile::TempDir;

    use super::*;

    /// In seconds.
    const FAR: i64 = 90_000;
    const SECOND: i64 = 1_000_000_000;
    const ONE_BLOCK: [&str; 2] = ["bs=512", "count=1"];

    fn controlled() -> (TempDir, Control) {
        let folder = tempfile::tempdir().expect("a folder");
        let control = Control::make(&folder.path().join("page"), folder.path()).expect("a library and room");
        (folder, control)
    }

    fn command(control: &Control, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").envs(control.variables());
        command
    }

    /// Writes zeroes to a file, and says how that ended.
    fn dd(control: &Control, file: &Path, further: &[&str]) -> (bool, String) {
        let to = format!("of={}", file.display());
        let output = command(control, "dd").args(["if=/dev/zero", &to]).args(further).output();
        let Output { status, stderr, .. } = output.expect("everybody has dd");
        (status.success(), String::from_utf8_lossy(&stderr).into_owned())
    }

    #[test]
    fn the_call_fails_that_was_told_to_and_no_other() {
        let (folder, control) = controlled();
        let file = folder.path().join("a");
        let sync = || dd(&control, &file, &[&ONE_BLOCK[..], &["conv=fsync"]].concat());
        let once = |operation, complaint| Failing { operation, complaint, skip: 1, count: 1 };
        control.fail(&once(Operation::Sync, Complaint::Broken)).expect("a page");
        let began_ns = monotonic_ns();
        assert!(sync().0);
        let (done, said) = sync();
        assert!(!done && said.contains(Complaint::Broken.words()), "{said}");
        assert!(sync().0, "one alone was to fail");
        let counted = control.counted().expect("a page");
        assert_eq!((counted.failed, counted.syncs), (1, 3), "{counted:?}");
        let failed = counted.first_failed.expect("it was counted");
        assert!((began_ns..=monotonic_ns()).contains(&failed.at_ns), "{failed:?}");
        assert_eq!(failed.inode, fs::metadata(&file).expect("it is there").ino());

        control.fail(&once(Operation::Write, Complaint::Full)).expect("a page");
        let (done, said) = dd(&control, &file, &["bs=512", "count=3"]);
        assert!(!done && said.contains(Complaint::Full.words()), "{said}");
        assert_eq!(fs::metadata(&file).expect("it is there").len(), 512, "the second write did nothing");
        control.fail_no_more().expect("a page");
        assert!(dd(&control, &file, &["bs=512", "count=3"]).0);

        let all = Failing { skip: 0, count: u64::MAX, ..once(Operation::Rename, Complaint::Broken) };
        control.fail(&all).expect("a page");
        let other = folder.path().join("b");
        let moved = command(&control, "mv").args([&file, &other]).output().expect("everybody has mv");
        assert!(!moved.status.success() && file.exists() && !other.exists(), "{moved:?}");
        assert!(control.counted().expect("a page").renames >= 1);
    }

    #[test]
    fn what_happens_to_other_files_than_the_first_is_counted_apart() {
        let (folder, control) = controlled();
        let synced = |name: &str| {
            let further = [&ONE_BLOCK[..], &["conv=fsync"]].concat();
            dd(&control, &folder.path().join(name), &further).0
        };
        let elsewhere = || {
            let counted = control.counted().expect("a page");
            (counted.failed, counted.failed_elsewhere, counted.passed_elsewhere)
        };
        let once = Failing { operation: Operation::Sync, complaint: Complaint::Broken, skip: 0, count: 1 };
        control.fail(&once).expect("a page");
        assert!(!synced("a") && synced("a"));
        assert_eq!(elsewhere(), (1, 0, 0));
        assert!(synced("b"));
        assert_eq!(elsewhere(), (1, 0, 1));
        control.fail(&Failing { count: u64::MAX, ..once }).expect("a page");
        assert!(!synced("a") && !synced("a"));
        assert_eq!(elsewhere(), (2, 0, 0));
        assert!(!synced("b"));
        assert_eq!(elsewhere(), (3, 1, 0));
    }

    #[test]
    fn what_is_on_another_file_system_is_let_alone() {
        let (folder, control) = controlled();
        // Devices are on one of their own.
        control.set(page::DEVICE, fs::metadata("/dev").expect("it is there").dev()).expect("a page");
        for operation in [Operation::Sync, Operation::Write] {
            let failing = Failing { operation, complaint: Complaint::Broken, skip: 0, count: u64::MAX };
            control.fail(&failing).expect("a page");
            let (done, said) = dd(&control, &folder.path().join("a"), &["count=1", "conv=fsync"]);
            assert!(done, "{said}");
        }
        assert_eq!(control.counted().expect("a page").failed, 0);
    }

    #[test]
    fn a_sync_waits_as_long_as_it_is_told_to() {
        let (folder, control) = controlled();
        let time = Duration::from_millis(300);
        control.delay_syncs(time).expect("a page");
        let began = Instant::now();
        assert!(dd(&control, &folder.path().join("a"), &["count=1", "conv=fdatasync"]).0);
        assert!(began.elapsed() >= time);
        assert_eq!(control.counted().expect("a page").delayed, 1);
    }

    #[test]
    fn the_wall_clock_is_wrong_by_what_is_said() {
        let (_folder, control) = controlled();
        for ahead in [FAR, -FAR, 0] {
            control.set_clock(ahead * SECOND).expect("a page");
            let said = command(&control, "date").arg("+%s").output().expect("everybody has date").stdout;
            let said: i64 = String::from_utf8_lossy(&said).trim().parse().expect("a number");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
            let apart = said - ahead - now.cast_signed();
            assert!((-60..=1).contains(&apart), "{ahead} s ahead: {apart} s apart");
        }
        assert!(control.counted().expect("a page").shifted >= 2);
    }

    #[test]
    fn a_clock_that_counts_from_the_boot_is_right() {
        let (folder, control) = controlled();
        let to = format!("of={}", folder.path().join("a").display());
        let mut child = command(&control, "dd")
            .args(["bs=512", &to])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("everybody has dd");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(b"x").expect("it reads");
        let deadline = Instant::now() + Duration::from_secs(10);
        while control.counted().expect("a page").writes == 0 {
            assert!(Instant::now() < deadline, "nothing was written, or the library is not loaded");
            sleep(Duration::from_millis(5));
        }
        assert!(control.is_obeyed_by(child.id()).expect("a page"));
        control.set_clock(FAR * SECOND).expect("a page");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // `1 byte copied, 0.02 s, …`: by the monotonic clock.
        let seconds = said.split("copied, ").nth(1).and_then(|rest| rest.split(' ').next());
        let seconds: f64 = seconds.and_then(|seconds| seconds.parse().ok()).expect("a number of seconds");
        assert!(seconds < 60.0, "{said}");
    }
}
