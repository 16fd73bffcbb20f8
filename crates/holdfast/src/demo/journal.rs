//! What happened in the demo, line by line: kept for the screen, or printed.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Lines that are kept; a screen shows fewer.
const KEPT: usize = 200;

/// Notes what happens. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    began: Instant,
    lines: Arc<Mutex<VecDeque<String>>>,
    prints: bool,
}

impl Journal {
    /// A journal that begins now; it prints each line, or keeps it for a screen.
    pub(super) fn new(prints: bool) -> Self {
        Self { began: Instant::now(), lines: Arc::default(), prints }
    }

    /// Notes something.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        let seconds = self.began.elapsed().as_secs_f64();
        for line in text.as_ref().lines() {
            let line = format!("{seconds:7.1}  {line}");
            if self.prints {
                print(&line);
            }
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == KEPT {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }

    /// The last lines, the oldest first.
    pub(super) fn last(&self, count: usize) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }
}

/// Prints a line. Whoever reads may have gone; that is no reason to stop.
pub(super) fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::debug!(%error, "nobody reads what is printed");
    }
}
