//! What a simulated part saw, one JSON object a line, for checkers that trust no node's own word.
//!
//! Owns the common fields and the file. What a line says beyond them is the part's own.
//!
//! - `t_ns` is the system's monotonic clock: histories of several processes on one machine can be merged.
//! - `kind` is `invoke` (it began), `ok` (it was done), `fail` (it was not done), or `info` (it may have been done:
//!   a time-out).
//! - Bounded: lines go through one buffer of 64 KiB to the file; nothing is kept in memory, nothing is dropped. A
//!   write error is kept and given by [`History::flush`]: a history with a hole proves nothing.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use model::{Clock, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Looks at two clocks, to find out how far they are apart.
const LOOKS: u32 = 10;

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It began.
    Invoke,
    /// It was done.
    Ok,
    /// It was not done.
    Fail,
    /// It may have been done.
    Info,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry<D> {
    /// Nanoseconds on the machine's monotonic clock.
    pub t_ns: u64,
    /// Which simulated part saw it.
    pub process: String,
    /// How the operation stands.
    pub kind: Kind,
    /// What was done.
    pub op: String,
    /// What the part says beyond that.
    #[serde(flatten)]
    pub details: D,
}

/// A history being written. Cheap to clone.
#[derive(Clone)]
pub struct History(Arc<Mutex<Lines>>);

struct Lines {
    writer: BufWriter<Box<dyn Write + Send>>,
    broken: Option<io::Error>,
}

/// Borrowed form of [`Entry`], so that recording copies nothing but the line.
#[derive(Serialize)]
struct Line<'a, D> {
    t_ns: u64,
    process: &'a str,
    kind: Kind,
    op: &'a str,
    #[serde(flatten)]
    details: &'a D,
}

/// Passes on what is written, and calls a function with each whole line, its end included.
pub struct EachLine<W, F> {
    inner: W,
    each: F,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl<W: Write, F: FnMut(&[u8])> EachLine<W, F> {
    /// Writes to `inner`.
    pub fn new(inner: W, each: F) -> Self {
        Self { inner, each, begun: Vec::new() }
    }
}

impl<W: Write, F: FnMut(&[u8])> Write for EachLine<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(bytes)?;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                (self.each)(&self.begun);
                self.begun.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Nanoseconds on the machine's monotonic clock, the same for all its processes.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Both parts are positive on a clock that begins at boot.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let now = clock_gettime(ClockId::Realtime);
        Timestamp(now.tv_sec * 1_000_000_000 + now.tv_nsec)
    }
}

/// What the machine's wall clock shows more than its monotonic one, in nanoseconds: from the closest of some looks at
/// both, because any of them may be interrupted.
pub fn wall_offset() -> i64 {
    let look = |_| {
        let (before, wall, behind) = (monotonic_ns(), WallClock.now(), monotonic_ns());
        let middle = i64::try_from(before / 2 + behind / 2).unwrap_or(i64::MAX);
        (behind.saturating_sub(before), wall.0.saturating_sub(middle))
    };
    (0..LOOKS).map(look).min().map_or(0, |(_, offset)| offset)
}

impl History {
    /// A new file at `path`; an older one is replaced.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::to_writer(File::create(path)?))
    }

    /// A history that goes wherever `writer` goes.
    pub fn to_writer(writer: impl Write + Send + 'static) -> Self {
        let writer = BufWriter::with_capacity(64 * 1024, Box::new(writer) as Box<dyn Write + Send>);
        Self(Arc::new(Mutex::new(Lines { writer, broken: None })))
    }

    /// Writes a line that bears the time of this call.
    pub fn record(&self, process: &str, kind: Kind, op: &str, details: &impl Serialize) {
        self.record_at(monotonic_ns(), process, kind, op, details);
    }

    /// Writes a line that bears a time noted earlier.
    pub fn record_at(&self, t_ns: u64, process: &str, kind: Kind, op: &str, details: &impl Serialize) {
        let line = Line { t_ns, process, kind, op, details };
        self.with_lines(|lines| {
            if lines.broken.is_none() {
                let written = serde_json::to_writer(&mut lines.writer, &line).map_err(io::Error::from);
                lines.broken = written.and_then(|()| lines.writer.write_all(b"\n")).err();
            }
        });
    }

    /// Hands everything to the operating system. An error, also of an earlier line, makes the history worthless.
    pub fn flush(&self) -> io::Result<()> {
        self.with_lines(|lines| match lines.broken.take() {
            Some(error) => {
                lines.broken = Some(io::Error::new(error.kind(), error.to_string()));
                Err(error)
            }
            None => lines.writer.flush(),
        })
    }

    fn with_lines<T>(&self, write: impl FnOnce(&mut Lines) -> T) -> T {
        write(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads a history; the error says which line is not one. A last line without its end is still being written, and is
/// passed over.
pub fn read<D: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Vec<Entry<D>>> {
    let mut bytes = std::fs::read(path)?;
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let entry = |(number, line)| {
        serde_json::from_str(line).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}:{}: {error}", path.display(), number + 1))
        })
    };
    text.lines().enumerate().map(entry).collect()
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Details {
        unit: u8,
        values: Vec<u16>,
    }

    #[test]
    fn lines_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("device.jsonl");
        let history = History::create(&path).expect("a new file");
        let before = monotonic_ns();
        history.record("press-1", Kind::Invoke, "read", &Details { unit: 1, values: vec![] });
        history.clone().record_at(7, "press-1", Kind::Ok, "read", &Details { unit: 1, values: vec![1, 2] });
        history.flush().expect("there is room");
        let entries: Vec<Entry<Details>> = read(&path).expect("two lines");
        assert!(entries[0].t_ns >= before && entries[0].t_ns <= monotonic_ns());
        let expected = Entry {
            t_ns: 7,
            process: "press-1".into(),
            kind: Kind::Ok,
            op: "read".into(),
            details: Details { unit: 1, values: vec![1, 2] },
        };
        assert_eq!(entries[1..], [expected]);
        // The next line, half written.
        let mut bytes = std::fs::read(&path).expect("it is there");
        bytes.extend_from_within(..20);
        std::fs::write(&path, bytes).expect("room");
        assert_eq!(read::<Details>(&path).expect("two lines and a half").len(), 2);
    }

    #[test]
    fn two_looks_at_the_clocks_agree() {
        let apart = wall_offset().abs_diff(wall_offset());
        assert!(apart < 1_000_000, "{apart} ns");
    }

    #[test]
    fn lines_are_whole_however_they_are_cut() {
        let (mut passed_on, mut lines) = (Vec::new(), Vec::new());
        let mut writer = EachLine::new(&mut passed_on, |line: &[u8]| lines.push(line.to_vec()));
        for piece in ["one\ntw", "o", "\n\nthr"] {
            writer.write_all(piece.as_bytes()).expect("room");
        }
        assert_eq!(lines, [b"one\n".to_vec(), b"two\n".to_vec(), b"\n".to_vec()]);
        assert_eq!(passed_on, b"one\ntwo\n\nthr");
    }

    #[test]
    fn a_write_error_is_not_forgotten() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let history = History::to_writer(Full);
        for _ in 0..2_000 {
            history.record("press-1", Kind::Ok, "read", &Details { unit: 1, values: vec![1; 20] });
        }
        for _ in 0..2 {
            assert_eq!(history.flush().expect_err("the disk is full").kind(), io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn a_broken_line_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("device.jsonl");
        std::fs::write(&path, "{\"t_ns\":1}\n").expect("a new file");
        let error = read::<Details>(&path).expect_err("fields are missing");
        assert!(error.to_string().contains("device.jsonl:1:"), "{error}");
    }
}
