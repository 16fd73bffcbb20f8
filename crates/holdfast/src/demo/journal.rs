//! What happened in the demo, line by line: kept for the screen, and printed while there is none.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Lines that are kept; a screen shows fewer.
const KEPT: usize = 200;

/// Notes what happens. Cheap to clone; all clones are one journal.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    began: Instant,
    lines: Arc<Mutex<VecDeque<String>>>,
    prints: Arc<AtomicBool>,
}

impl Journal {
    /// A journal that begins now, and prints each line.
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), lines: Arc::default(), prints: Arc::new(AtomicBool::new(true)) }
    }

    /// Whether lines are printed from now on: not while a screen shows them.
    pub(super) fn set_printing(&self, prints: bool) {
        self.prints.store(prints, Ordering::Relaxed);
    }

    /// Notes something.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        let seconds = self.began.elapsed().as_secs_f64();
        for line in text.as_ref().lines() {
            let line = format!("{seconds:7.1}  {line}");
            if self.prints.load(Ordering::Relaxed) {
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
pub(crate) fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::debug!(%error, "nobody reads what is printed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_journal_and_the_screen_has_what_they_say() {
        let journal = Journal::new();
        let clone = journal.clone();
        journal.set_printing(false);
        clone.say("kill -9 node-1");
        assert!(!clone.prints.load(Ordering::Relaxed), "it would print over the screen");
        let lines = journal.last(5);
        assert!(lines.len() == 1 && lines[0].ends_with("  kill -9 node-1"), "{lines:?}");
    }
}
